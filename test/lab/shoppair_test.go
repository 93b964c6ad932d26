package lab

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/sipcore/phonetest"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// unanswered is how long a telephone with our settings sends an INVITE that
// nobody answers before it tries the other box: two repetitions, at 0.5 and
// 1.5 s, and the pause after the second (invite_retry_counts = 2).
const unanswered = 3500 * time.Millisecond

// shopPair: a shop with two boxes has an account at a provider that sends calls
// to both; one box goes. A telephone that was registered there calls, and is
// called from outside.
func shopPair(t *testing.T, gone func(a1 *labkit.Node)) {
	l := labkit.New(t, "a", "b")
	a1 := found(l, "a", "a1")
	a2 := join(l, "a", "a2", a1)
	provider := l.Host("b", "p1").Box()
	provider.Up("--new-fleet", "provider", "--domain", "prov.example", "--site", "0100")
	account := provider.User("201", "--name", "The shop", "--password", "trunk secret")
	far := registered(t, l.Host("b", "far"), provider.Account(provider.User("202", "--name", "Far"), 60), 1500)

	ua, ub := a1.User("201", "--name", "Ana"), a1.User("202", "--name", "Bob")
	a1.Must("trunk", "create", "prov", "--kind", "register", "--via", "wan", "--server", provider.Host.Addr.String(), "--domain", "prov.example",
		"--user", account.Devices[0].SIPUser, "--password", "trunk secret", "--number", "+33472001200")
	a1.Must("number", "create", "+33472001200", "--to", "202")
	l.AwaitSettled(15*time.Second, a1, a2)
	phones := l.Host("a", "phones")
	bob := registered(t, phones, a1.Account(ub, 60), 1000)
	ana, err := phonetest.New(phonetest.Config{User: ua.Number, AuthUser: ua.Devices[0].SIPUser, Password: ua.Devices[0].Password, Domain: "shops.example", Name: "Ana",
		Servers: []netip.AddrPort{netip.AddrPortFrom(a1.Host.Addr, 5060), netip.AddrPortFrom(a2.Host.Addr, 5060)}, Patience: unanswered,
		Local: phones.Addr, Tone: 440, Listen: on(phones)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ana.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := ana.Register(ctx); err != nil {
		t.Fatal(err)
	}
	l.Within(20*time.Second, "both boxes are registered at the provider", func() bool {
		var w api.Location
		return provider.Get("/users/0100201/where", &w) == nil && len(w.Contacts) == 2
	})

	l.Within(5*time.Second, "the box that has just joined knows Bob's telephone", func() bool {
		var w api.Location
		return a2.Get("/users/202/where", &w) == nil && len(w.Contacts) == 1
	})

	// The provider sends it to both boxes; Bob's telephone rings once.
	fromOutside := func(within time.Duration) time.Duration {
		mark, begun := bob.Mark(), time.Now()
		far.Dial("201")
		bob.Await(mark, "CALL_INCOMING", within)
		took := time.Since(begun)
		if again, ok := bob.Await2(bob.Mark(), "CALL_INCOMING", 1500*time.Millisecond); ok {
			t.Errorf("Bob's telephone rings twice: %+v", again)
		}
		fm := far.Mark()
		bob.Accept()
		far.Await(fm, "CALL_ESTABLISHED", 5*time.Second)
		talk(t, far, bob)
		hangUp(t, far, bob)
		return took
	}
	t.Logf("a call that reaches both boxes rings after %v", fromOutside(5*time.Second).Round(time.Millisecond))

	gone(a1)
	toBob := func(within time.Duration) time.Duration {
		mark, begun := bob.Mark(), time.Now()
		c, err := ana.DialStart(ctx, "202")
		if err != nil {
			t.Fatal(err)
		}
		bob.Await(mark, "CALL_INCOMING", within)
		took := time.Since(begun)
		bob.Accept()
		if err := c.WaitAnswered(ctx); err != nil {
			t.Fatal(err)
		}
		if err := c.Hears(ctx, 1000); err != nil {
			t.Error(err)
		}
		closed := bob.Mark()
		if err := c.Hangup(ctx); err != nil {
			t.Error(err)
		}
		bob.Await(closed, "CALL_CLOSED", 5*time.Second)
		return took
	}
	first := toBob(6 * time.Second)
	later := toBob(time.Second)
	t.Logf("with the box gone the first call of a telephone rings after %v, the next after %v", first.Round(time.Millisecond), later.Round(time.Millisecond))
	t.Logf("a call from outside rings after %v", fromOutside(120*time.Second).Round(time.Millisecond))
	if out := a2.Must("status"); !strings.Contains(out, "prov") {
		t.Errorf("status of the box that is left:\n%s", out)
	}
}

func TestShopPairKilled(t *testing.T) { shopPair(t, func(a1 *labkit.Node) { a1.Kill() }) }

// The cable is pulled: no RST, no ICMP.
func TestShopPairDark(t *testing.T) { shopPair(t, func(a1 *labkit.Node) { a1.Host.Unplug() }) }
