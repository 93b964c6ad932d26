package lab

import (
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/test/lab/labkit"
)

// TestOneShopCut cuts the Internet off a shop: 112 leaves by the gateway on the
// LAN; without one the caller is told, and so is everybody who looks.
func TestOneShopCut(t *testing.T) {
	s := openShop(t, "120")
	n, p := s.node, s.prov
	gate := s.Host("shop", "gateway")
	fxo := gate.StartSipp(labkit.Load{Scenario: "provider-answer", Port: 5060, Calls: 1, Within: 3 * time.Minute, Patience: time.Minute,
		Files: map[string][]byte{"said.pcap": labkit.Say(labkit.Said{Hz: providerHz, For: 40 * time.Second})}})
	p.listening(fxo, 5060)
	n.Must("trunk", "create", "fxo", "--kind", "peer", "--via", "lan", "--server", gate.Addr.String(), "--order", "9")
	if out := n.Must("status"); strings.Contains(out, "no emergency calls when the Internet is cut") {
		t.Errorf("status warns although there is a gateway:\n%s", out)
	}

	s.Cut("shop")
	mark := s.ana.Mark()
	begun := time.Now()
	s.ana.Dial("112")
	s.ana.Await(mark, "CALL_ESTABLISHED", 2*time.Second)
	t.Logf("with the Internet cut 112 was answered through the gateway after %v", time.Since(begun).Round(time.Millisecond))
	s.Within(6*time.Second, "Ana hears the emergency centre", func() bool { return s.ana.LastHeard().Heard(providerHz) >= 1.5 })
	// Inside, all is as before.
	mark = s.ana.Mark()
	s.ana.Hangup()
	s.ana.Await(mark, "CALL_CLOSED", 5*time.Second)
	p.good(fxo)
	call(t, s.ana, s.bob, "202")
	hangUp(t, s.bob, s.ana)

	n.Must("trunk", "delete", "fxo")
	mark = s.ana.Mark()
	begun = time.Now()
	s.ana.Dial("112")
	s.ana.Await(mark, "CALL_PROGRESS", 10*time.Second) // words, before the refusal
	spoken := time.Since(begun)
	s.ana.Await(mark, "CALL_CLOSED", 20*time.Second)
	t.Logf("without a gateway the words come after %v, the refusal after %v", spoken.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond))
	if heard := s.ana.LastHeard(); heard.Seconds() < 1 {
		t.Errorf("Ana heard %.1f s", heard.Seconds())
	}
	for _, want := range []string{"no emergency calls when the Internet is cut", "112 called by Ana"} {
		if out := n.Must("status"); !strings.Contains(out, want) {
			t.Errorf("status does not say %q:\n%s", want, out)
		}
	}
	s.Heal()
	t.Logf("the trunk is registered again %v after the Internet is back", p.usable(n, 3*time.Minute).Round(time.Millisecond))
	centre := p.far("provider-challenge", 1, "prov.example")
	mark = s.bob.Mark()
	s.bob.Dial("112")
	s.bob.Await(mark, "CALL_ESTABLISHED", 5*time.Second)
	p.talks(s.bob)
	mark = s.bob.Mark()
	s.bob.Hangup()
	s.bob.Await(mark, "CALL_CLOSED", 5*time.Second)
	p.good(centre)
}

// TestBadProvider is a provider that never answers, that answers twice, and
// callers who hang up at every step of a menu and a mailbox.
func TestBadProvider(t *testing.T) {
	s := openShop(t, "120")
	n, p := s.node, s.prov
	n.Must("user", "set", "202", "--ring", "5")
	start := time.Now()
	calls := 0

	p.far("provider-mute", 1, "prov.example")
	mark := s.ana.Mark()
	begun := time.Now()
	s.ana.Dial("00472009999")
	s.ana.Await(mark, "CALL_CLOSED", 20*time.Second)
	calls++
	t.Logf("a provider that says nothing is given up after %v", time.Since(begun).Round(time.Millisecond))

	twice := p.far("provider-twice", 1, "prov.example")
	mark = s.ana.Mark()
	s.ana.Dial("00472009999")
	s.ana.Await(mark, "CALL_ESTABLISHED", 5*time.Second)
	calls++
	s.Within(6*time.Second, "Ana hears the far end", func() bool { return s.ana.LastHeard().Heard(providerHz) >= 1 })
	mark = s.ana.Mark()
	s.ana.Hangup()
	s.ana.Await(mark, "CALL_CLOSED", 5*time.Second)
	p.good(twice)

	rings := p.far("provider-rings", 1, "prov.example")
	mark = s.ana.Mark()
	s.ana.Dial("00472009999")
	s.ana.Await(mark, "CALL_RINGING", 5*time.Second)
	s.ana.Hangup()
	s.ana.Await(mark, "CALL_CLOSED", 5*time.Second)
	calls++
	p.good(rings)

	// Callers hang up: in the greeting, after the key while it rings, in the
	// greeting of the mailbox, while they speak.
	for _, pause := range []time.Duration{50 * time.Millisecond, time.Second, 4 * time.Second, 8 * time.Second, 11 * time.Second} {
		said := []labkit.Said{{For: 2 * time.Second}, {Key: '2'}, {Hz: providerHz, For: 20 * time.Second}}
		if pause == 4*time.Second {
			said[1].Key = '1' // Ana's telephone rings
		}
		p.good(p.calls("provider-hangup", pause, said...))
		calls++
	}
	n.Must("number", "set", "+"+account, "--to", "202")
	p.good(p.calls("provider-cancel", 600*time.Millisecond))
	calls++

	records := idle(t, s.Lab, n, start)
	for _, c := range records {
		t.Logf("record: %s to %s, %s", c.From, c.To, c.Cause)
		if c.Cause == "" {
			t.Errorf("a record without a cause: %+v", c)
		}
	}
	if len(records) != calls {
		t.Errorf("%d records of %d calls", len(records), calls)
	}
}

// TestWrongRealm is a provider that asks for the password in another's name: it
// does not get it, and status says why.
func TestWrongRealm(t *testing.T) {
	l := labkit.New(t, "shop", "outside")
	l.Masquerade("shop")
	p := newProvider(t, l, "outside", "somebody.example", "120")
	n := l.Host("shop", "box").Box()
	n.Up("--new-fleet", "shops", "--domain", "shops.example", "--site", "0001")
	p.trunk(n)
	p.usable(n, 15*time.Second) // whoever asks gets it, if nobody said who may
	n.Must("trunk", "set", "prov", "--profile-realm", "prov.example")
	l.Within(15*time.Second, "status speaks of the realm", func() bool {
		st := n.Status()
		return len(st.Trunks) == 1 && !st.Trunks[0].Usable && strings.Contains(st.Trunks[0].State, "realm")
	})
	t.Log(n.Status().Trunks[0].State)
}
