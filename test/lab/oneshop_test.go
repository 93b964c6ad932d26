package lab

import (
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// oneShop is the shop of docs/install.md behind its router, with a provider
// on the other side.
type oneShop struct {
	*labkit.Lab
	node     *labkit.Node
	prov     *provider
	phones   *labkit.Host
	ana, bob *labkit.Baresip
}

func openShop(t *testing.T, expires string) *oneShop {
	t.Helper()
	l := labkit.New(t, "shop", "outside")
	l.Masquerade("shop")
	s := &oneShop{Lab: l, prov: newProvider(t, l, "outside", "prov.example", expires)}
	s.node = l.Host("shop", "box").Box()
	s.node.Up("--new-fleet", "shops", "--domain", "shops.example", "--site", "0001", "--site-name", "Lyon")
	n := s.node
	n.Must("site", "set", "--country", "33", "--national", "0", "--abroad", "00", "--outside", "0", "--emergency", "112,15,17,18")
	n.Must("shop", "create", "Lyon", "--zone", "Europe/Paris", "--address", "1 rue de la Paix", "--call-back", "+33472001200", "--desk", "201")
	ana, bob := n.User("201", "--name", "Ana"), n.User("202", "--name", "Bob", "--pin", "4829")
	n.Must("menu", "create", "Main", "--number", "310", "--open-keys", "1=201,2=voicemail 202")
	s.prov.trunk(n)
	n.Must("number", "create", "+"+account, "--to", "310")
	s.phones = l.Host("shop", "phones")
	s.ana = registered(t, s.phones, n.Account(ana, 60), 440)
	bobs := n.Account(bob, 60)
	bobs.MWI = true
	s.bob = registered(t, s.phones, bobs, 1000)
	t.Logf("the trunk is registered %v after the last step", s.prov.usable(n, 15*time.Second).Round(time.Millisecond))
	return s
}

// TestOneShop is a shop's first day: an empty disk, a line to the outside
// through an ordinary router, a call in, a menu, a message, an emergency call.
func TestOneShop(t *testing.T) {
	begun := time.Now()
	s := openShop(t, "120")
	n, p := s.node, s.prov
	if b := p.border.Bindings(); len(b) != 1 || b[0].From.Addr().String() != "10.77.2.254" {
		t.Errorf("the provider has %v; want the router's address", b)
	}

	// A call in, the menu, key 1, Ana.
	start := time.Now()
	mark := s.ana.Mark()
	in := p.calls("provider-call", 0, labkit.Said{For: 3 * time.Second}, labkit.Said{Key: '1'}, labkit.Said{Hz: providerHz, For: 60 * time.Second})
	s.ana.Await(mark, "CALL_INCOMING", 10*time.Second)
	s.ana.Accept()
	p.talks(s.ana)

	// Ana parks him, Bob takes him out again.
	mark = s.ana.Mark()
	if _, err := s.ana.Command("transfer", "*71"); err != nil {
		t.Fatal(err)
	}
	s.ana.Await(mark, "CALL_CLOSED", 5*time.Second)
	s.Within(2*time.Second, "the call is parked", func() bool {
		var all []api.Call
		return n.Get("/calls", &all) == nil && len(all) == 1 && all[0].State == "parked"
	})
	mark = s.bob.Mark()
	s.bob.Dial("*71")
	s.bob.Await(mark, "CALL_ESTABLISHED", 5*time.Second)
	p.talks(s.bob)
	mark = s.bob.Mark()
	s.bob.Hangup()
	s.bob.Await(mark, "CALL_CLOSED", 5*time.Second)
	p.good(in)
	t.Logf("from the empty disk to a call from outside through menu, telephone and orbit, and its end: %v", time.Since(begun).Round(time.Millisecond))

	// A message for Bob, left through the menu; his lamp; he listens.
	mark = s.bob.Mark()
	left := p.calls("provider-hangup", 12*time.Second, labkit.Said{For: 2 * time.Second}, labkit.Said{Key: '2'}, labkit.Said{For: 2 * time.Second},
		labkit.Said{Key: '1'}, labkit.Said{Hz: providerHz, For: 20 * time.Second})
	p.good(left)
	if _, ok := s.bob.AwaitParam(mark, "Messages-Waiting: yes", 5*time.Second); !ok {
		t.Fatal("Bob's lamp is dark")
	}
	mark = s.bob.Mark()
	s.bob.Dial("*97")
	s.bob.Await(mark, "CALL_ESTABLISHED", 5*time.Second)
	s.Within(25*time.Second, "Bob hears three seconds of the message", func() bool { return s.bob.LastHeard().Heard(providerHz) >= 3 })
	dark := s.bob.Mark()
	s.bob.Press("3")
	if _, ok := s.bob.AwaitParam(dark, "Messages-Waiting: no", 5*time.Second); !ok {
		t.Error("Bob's lamp still shines")
	}
	s.bob.Hangup()
	s.bob.Await(dark, "CALL_CLOSED", 5*time.Second)

	// 112 by the provider, that wants the password.
	centre := p.far("provider-challenge", 1, "prov.example")
	mark = s.bob.Mark()
	dialled := time.Now()
	s.bob.Dial("112")
	s.bob.Await(mark, "CALL_ESTABLISHED", 5*time.Second)
	t.Logf("112 was answered after %v", time.Since(dialled).Round(time.Millisecond))
	p.talks(s.bob)
	s.bob.Hangup()
	s.bob.Await(mark, "CALL_CLOSED", 5*time.Second)
	p.good(centre)
	if out := n.Must("status"); !strings.Contains(out, "112 called by Bob") {
		t.Errorf("status does not tell of the call:\n%s", out)
	}

	ended := idle(t, s.Lab, n, start)
	for _, c := range ended {
		t.Logf("record: %s to %s, %s, both heard each other: %s", c.From, c.To, c.Cause, heardBoth(c.BothHeard))
		if c.Cause == "" {
			t.Errorf("a record without a cause: %+v", c)
		}
		if c.Cause == "normal" && (c.BothHeard == nil || !*c.BothHeard) {
			t.Errorf("both heard each other, the record says otherwise: %+v", c)
		}
	}
	if len(ended) != 5 {
		t.Errorf("%d records, want 5", len(ended))
	}
	var msgs []api.Message
	if err := n.Get("/users/0001202/messages", &msgs); err != nil || len(msgs) > 1 {
		t.Errorf("messages %+v, %v", msgs, err)
	}
}

func heardBoth(b *bool) string {
	switch {
	case b == nil:
		return "not measured"
	case *b:
		return "yes"
	}
	return "no"
}
