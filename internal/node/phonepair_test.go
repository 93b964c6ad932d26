package node

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/provision"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/sipcore/phonetest"
)

// What a person does at one box of a site counts at the other, at once, and
// after a restart.
func TestWindowIsOpenAtBothBoxes(t *testing.T) {
	a, b := newBox(t, "a").up(""), newBox(t, "b")
	b.up(a.invite(""))
	is := func(x *box, open bool) func() bool {
		return func() bool {
			w, err := provisioning{x.n}.Window(t.Context())
			return err == nil && w.Open == open
		}
	}
	until(t, "b gives settings", is(b, false))
	until(t, "both know that they are a pair", func() bool { return a.paired() && b.paired() })
	const mac = "00:15:65:aa:bb:cc"
	if _, err := (provisioning{a.n}).Open(t.Context(), time.Minute, []string{mac}); err != nil {
		t.Fatal(err)
	}
	until(t, "the window is open at b", is(b, true))
	until(t, "a knows that b has it", func() bool { w, err := provisioning{a.n}.Window(t.Context()); return err == nil && w.Shared })
	if w, err := (provisioning{b.n}).Window(t.Context()); err != nil || !slices.Equal(w.MACs, []string{mac}) || time.Until(*w.Until) > time.Minute || !w.Shared {
		t.Errorf("at b: %+v, %v", w, err)
	}
	b.down()
	b.up("")
	until(t, "b asks what is open", is(b, true))
	if err := (provisioning{b.n}).Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "the window is closed at a", is(a, false))
}

// paired says whether the box knows the other one of its site.
func (b *box) paired() bool {
	b.n.pairMu.Lock()
	defer b.n.pairMu.Unlock()
	return !b.n.pairNode.IsZero()
}

func TestResyncAsksARegisteredPhone(t *testing.T) {
	a := newBox(t, "a").up("")
	ana, ben := a.user("201", "Ana"), a.user("202", "Ben")
	for _, x := range []struct{ name, mac, vendor, line string }{
		{"till", "00:15:65:aa:bb:01", "yealink", ana.Devices[0].ID.String()}, {"adapter", "00:0b:82:aa:bb:02", "ht8xx", ben.Devices[0].ID.String()}} {
		_, err := state.Create(t.Context(), a.n.state, "test", site.Phone{Head: site.Head{Name: x.name}, MAC: x.mac, Vendor: x.vendor, Lines: []string{x.line}})
		if err != nil {
			t.Fatal(err)
		}
	}
	p, err := phonetest.New(phonetest.Config{Servers: []netip.AddrPort{netip.AddrPortFrom(a.cfg.Listen[0], uint16(a.cfg.SIPPort))},
		Domain: "shops.example", User: ana.Number, AuthUser: ana.Devices[0].SIPUser, Password: passwordOf("Ana")})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if err := p.Register(ctx); err != nil {
		t.Fatal(err)
	}
	x := provisioning{a.n}
	for _, who := range []string{"001565AABB01", "till"} {
		r, err := x.Resync(ctx, who)
		if err != nil || len(r) != 1 || !r[0].Asked {
			t.Errorf("%s: %+v, %v", who, r, err)
		}
	}
	if got := p.Syncs(); len(got) != 2 || got[0] != "check-sync;reboot=false" {
		t.Errorf("the phone got %q", got)
	}
	r, err := x.Resync(ctx, "all")
	if err != nil || len(r) != 2 || r[0].Asked || !contains(r[0].Reason, "not registered") || !r[1].Asked {
		t.Errorf("all: %+v, %v", r, err)
	}
	if _, err := x.Resync(ctx, "nobody"); err == nil {
		t.Error("a phone that nobody has was asked")
	}
}

func TestKeysOfAPhone(t *testing.T) {
	a := newBox(t, "a").up("")
	ana := a.user("201", "Ana")
	rec := site.Phone{Head: site.Head{Name: "till"}, MAC: "00:15:65:aa:bb:01", Vendor: "yealink", Lines: []string{ana.Devices[0].ID.String()},
		Keys: []site.Key{{Type: "blf", Value: "202", Label: "Ben"}, {Type: "park", Value: "1"}, {Type: "night"}, {Type: "voicemail"}, {Type: "speed", Value: "203"}}}
	if err := checkPhone(&rec); err != nil {
		t.Fatal(err)
	}
	if _, err := state.Create(t.Context(), a.n.state, "test", rec); err != nil {
		t.Fatal(err)
	}
	m, err := provision.ParseMAC(rec.MAC)
	if err != nil {
		t.Fatal(err)
	}
	p := a.n.phones
	ph, err := p.phone(t.Context(), m, p.lans[0])
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, k := range ph.Keys {
		got += string(k.Type) + "=" + k.Value + " "
	}
	if want := "blf=202 park=*71 night=*80 speed=*97 speed=203 "; got != want || ph.Pickup != "**" || ph.Voicemail != "*97" || len(ph.AdminPassword) != 26 {
		t.Errorf("keys %q, want %q; pick up %q, mailbox %q, a password of %d", got, want, ph.Pickup, ph.Voicemail, len(ph.AdminPassword))
	}
	if _, err := provision.Render(ph, a.n.now(), "https://192.0.2.1:8446/d/x/"); err != nil {
		t.Error(err)
	}
	for _, k := range []site.Key{{Type: "blf"}, {Type: "lamp", Value: "1"}} {
		rec.Keys = []site.Key{k}
		if checkPhone(&rec) == nil {
			t.Errorf("a key %+v was taken", k)
		}
	}
}
