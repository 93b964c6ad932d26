package blf_test

import (
	"context"
	"encoding/xml"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/blf"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/phonetest"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/subscribe"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// A shop with ana and bob, a group and, elsewhere, eve.
type shop struct{ route.View }

var here, there = site.ID{1}, site.ID{2}

func (shop) Domain() string    { return "shops.example" }
func (shop) Own() route.Site   { return route.Site{ID: here, Code: "0001", Codes: route.MidCall} }
func (shop) Local(string) bool { return false }
func (shop) CodeBegins(p string) bool {
	return strings.HasPrefix("0001", p) || strings.HasPrefix("0002", p)
}
func (s shop) SiteByCode(c string) (route.Site, bool) {
	if c == "0002" {
		return route.Site{ID: there, Code: c}, true
	}
	return s.Own(), c == "0001"
}
func (s shop) Lookup(n string) []route.Entry {
	switch n {
	case "0001201", "0001202", "0001250":
		return []route.Entry{{User: site.RecordID{n[6]}, AOR: site.AOR{User: n, Domain: s.Domain()}, Name: "Who has " + n[4:], Home: here}}
	case "0002201":
		return []route.Entry{{User: site.RecordID{99}, AOR: site.AOR{User: n, Domain: s.Domain()}, Home: there}}
	case "0001209":
		return []route.Entry{{User: site.RecordID{98}, AOR: site.AOR{User: n, Domain: s.Domain()}, Home: here, Disabled: true}}
	}
	return nil
}
func (s shop) Credentials(name, realm string) []sipcore.Credential {
	if name != "0001201" {
		return nil
	}
	return []sipcore.Credential{{Device: site.RecordID{9}, HA1MD5: digest.HA1(digest.MD5, name, realm, "pw"), Lines: []sipcore.Line{{AOR: ana, User: site.RecordID{1}}}}}
}

// A node serves SUBSCRIBE only.
type node struct {
	addr  netip.AddrPort
	subs  *subscribe.Server
	lamps *blf.Table
	stop  func()
}

func serve(t *testing.T, tr site.Transport, id site.NodeID) *node {
	t.Helper()
	s := shop{}
	e, err := edge.New(edge.Config{Listen: []edge.Listen{{Transport: tr, Addr: netip.MustParseAddrPort("127.0.0.1:0")}}})
	ok(t, err)
	ok(t, e.Listen())
	dg, err := digest.NewServer(digest.Config{Key: [32]byte{id[0]}, Store: s})
	ok(t, err)
	n := &node{addr: e.Addrs()[0].Addr, lamps: blf.NewTable(id)}
	view := func() route.View { return s }
	n.subs, err = subscribe.New(subscribe.Config{Edge: e, View: view, Digest: dg, Packages: []subscribe.Package{blf.New(n.lamps, view)}})
	ok(t, err)
	n.lamps.OnChange(func(a site.AOR) { n.subs.ChangedAOR(blf.Name, a) })
	l := transaction.New(transaction.Config{Edge: e, OnRequest: func(tx *transaction.ServerTx) {
		if !n.subs.Serve(tx) {
			tx.Respond(tx.Response(405, ""))
		}
	}})
	n.subs.Use(l)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); e.Serve(ctx, l) }()
	n.stop = sync.OnceFunc(func() { n.subs.Close(); cancel(); <-over; l.Wait() })
	t.Cleanup(n.stop)
	return n
}

func phone(t *testing.T, tr site.Transport, servers ...netip.AddrPort) *phonetest.Phone {
	t.Helper()
	p, err := phonetest.New(phonetest.Config{User: "0001201", Password: "pw", Domain: "s0001.shops.example", Servers: servers, Transport: tr, Patience: 200 * time.Millisecond})
	ok(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheLampOfAColleague(t *testing.T) {
	for _, tr := range []site.Transport{site.UDP, site.TCP} {
		t.Run(string(tr), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			n := serve(t, tr, self)
			p := phone(t, tr, n.addr)
			w, err := p.Watch(ctx, "202")
			ok(t, err)
			s, err := w.WaitState(ctx, "")
			ok(t, err)
			if s.Version != 0 || !s.Full || s.Entity != "sip:0001202@shops.example" || len(s.Calls) != 1 || s.Calls[0].State != "terminated" {
				t.Errorf("at rest: %+v", s)
			}
			caller := site.Party{AOR: ana, Display: `Ana "<&`, Site: here}
			n.lamps.Set("chain-1", []sipcore.DialogState{{AOR: ana}, {AOR: bob, Recipient: true, Remote: caller}})
			s, err = w.WaitState(ctx, "early")
			ok(t, err)
			want := phonetest.Lit{ID: "chain-1", CallID: "chain-1", LocalTag: "0001202", RemoteTag: "c", Direction: "recipient", State: "early",
				Remote: "sip:201@shops.example", Display: `Ana "<&`}
			if len(s.Calls) != 1 || s.Calls[0] != want || s.Version != 1 {
				t.Errorf("it rings: %+v", s)
			}
			n.lamps.Learn(other, "chain-2", []sipcore.DialogState{{AOR: bob, Confirmed: true, Remote: site.Party{AOR: site.AOR{User: "+33472001201"}}}})
			s, err = w.Wait(ctx, func(s phonetest.Shown) bool { return len(s.Calls) == 2 })
			ok(t, err)
			if c := s.Calls[1]; c.State != "confirmed" || c.Direction != "initiator" || c.Remote != "sip:+33472001201@shops.example" {
				t.Errorf("at the other node: %+v", c)
			}
			n.lamps.Set("chain-1", nil)
			n.lamps.Keep(other, nil)
			s, err = w.WaitState(ctx, "")
			ok(t, err)
			if len(s.Calls) != 1 || s.Calls[0].ID != "chain-2" || s.Calls[0].State != "terminated" {
				t.Errorf("over: %+v", s)
			}
			_, told := w.Shown()
			ok(t, w.Renew(ctx))
			_, err = w.Wait(ctx, func(phonetest.Shown) bool { _, n := w.Shown(); return n > told })
			ok(t, err)
			if n.subs.Count() != 1 {
				t.Errorf("%d subscriptions after a refresh", n.subs.Count())
			}
			ok(t, w.End(ctx))
			_, err = w.Wait(ctx, func(phonetest.Shown) bool { _, n := w.Shown(); return n > told+1 })
			ok(t, err)
			if n.subs.Count() != 0 {
				t.Error("still subscribed")
			}
		})
	}
}

func TestWhoseLampsThereAre(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	n := serve(t, site.UDP, self)
	p := phone(t, site.UDP, n.addr)
	for whom, want := range map[string]int{"201": 0, "202": 0, "250": 0, "*71": 0, "0001202": 0, "sip:202@shops.example": 0,
		"*70": 404, "*7": 404, "*712": 404, "*97": 404, "299": 404, "209": 404, "80002201": 403, "0002201": 403} {
		_, err := p.Watch(ctx, whom)
		var r *phonetest.Refusal
		switch {
		case want == 0 && err != nil, want != 0 && (!errors.As(err, &r) || r.Status != want):
			t.Errorf("%s: %v, want %d", whom, err, want)
		}
	}
	w, err := p.Watch(ctx, "*71")
	ok(t, err)
	n.lamps.Set("one", []sipcore.DialogState{{AOR: orbit, Recipient: true, Parked: true, Confirmed: true, Remote: site.Party{AOR: bob, Site: here}}})
	s, err := w.WaitState(ctx, "confirmed")
	ok(t, err)
	if c := s.Calls[0]; c.LocalTag != "*71" || s.Entity != "sip:*71@shops.example" || c.Remote != "sip:202@shops.example" {
		t.Errorf("an orbit: %+v", s)
	}
}

// A thousand changes in a moment are a few documents, the last of which is right.
func TestAStormOfChanges(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	n := serve(t, site.UDP, self)
	w, err := phone(t, site.UDP, n.addr).Watch(ctx, "202")
	ok(t, err)
	for i := range 1000 {
		n.lamps.Set("one", []sipcore.DialogState{{AOR: bob, Recipient: true, Confirmed: i%2 == 1}})
	}
	n.lamps.Set("last", []sipcore.DialogState{{AOR: bob, Recipient: true}})
	_, err = w.Wait(ctx, func(s phonetest.Shown) bool { return len(s.Calls) == 2 && s.Calls[0].State == "confirmed" })
	ok(t, err)
	if _, told := w.Shown(); told > 10 {
		t.Errorf("%d NOTIFYs", told)
	}
}

func FuzzState(f *testing.F) {
	f.Add("chain", "0001202", "Ana", "201")
	f.Add("\"<&>'", "a\x00b\xff", "]]>", "+331")
	f.Fuzz(func(t *testing.T, chain, user, name, number string) {
		table := blf.NewTable(self)
		line := sipcore.Line{AOR: site.AOR{User: user, Domain: "shops.example"}, Name: name}
		p := blf.New(table, func() route.View { return shop{} })
		table.Set(chain, []sipcore.DialogState{{AOR: line.AOR, Remote: site.Party{AOR: site.AOR{User: number}, Display: name}}})
		for range 2 {
			var doc struct {
				Version uint32     `xml:"version,attr"`
				Dialogs []struct{} `xml:"dialog"`
			}
			if err := xml.Unmarshal(p.Number(p.State(line), 7), &doc); err != nil || doc.Version != 7 || len(doc.Dialogs) != 1 {
				t.Fatalf("%+v, %v: %s", doc, err, p.State(line))
			}
			table.Set(chain, nil)
		}
	})
}
