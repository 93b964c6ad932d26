package lab

import (
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// pairStory: Bob's UDP telephone is registered at a1 only. a1 goes; Ana, at
// a2, calls Bob, and he rings at once. Then a1 is back and all is as before.
func pairStory(t *testing.T, gone, back func(a1 *labkit.Node)) {
	l := labkit.New(t, "a")
	a1 := found(l, "a", "a1")
	a2 := join(l, "a", "a2", a1)
	phones := l.Host("a", "phones")
	ub, ua := a1.User("202"), a1.User("201")
	l.AwaitSettled(15*time.Second, a1, a2)
	bob := registered(t, phones, a1.Account(ub, 120), 1000)
	start := time.Now()
	l.Within(2*time.Second, "a2 knows Bob's telephone", func() bool {
		var w api.Location
		return a2.Get("/users/0001202/where", &w) == nil && len(w.Contacts) == 1
	})
	if took := time.Since(start); took > 200*time.Millisecond {
		t.Errorf("the binding was at the other node %v after 200 OK, want 200 ms", took)
	}
	ana := registered(t, phones, a2.Account(ua, 120), 440)
	call(t, ana, bob, "202")
	hangUp(t, ana, bob)

	gone(a1)
	mark := bob.Mark()
	start = time.Now()
	ana.Dial("202")
	bob.Await(mark, "CALL_INCOMING", 5*time.Second)
	if took := time.Since(start); took > time.Second {
		t.Errorf("Bob rang after %v, want at once", took)
	} else {
		t.Logf("Bob rang after %v", took)
	}
	established := ana.Mark()
	bob.Accept()
	ana.Await(established, "CALL_ESTABLISHED", 5*time.Second)
	talk(t, ana, bob)
	hangUp(t, bob, ana)
	if _, err := a2.CLI("user", "set", "202", "--name", "Bob, changed while a1 was away"); err != nil {
		t.Error(err)
	}

	back(a1)
	l.AwaitSettled(45*time.Second, a1, a2)
	var u api.User
	if err := a1.Get("/users/0001202", &u); err != nil || u.Name != "Bob, changed while a1 was away" {
		t.Errorf("a1 says Bob is %q, %v", u.Name, err)
	}
	call(t, ana, bob, "202")
	hangUp(t, ana, bob)
}

func TestPairKill9(t *testing.T) {
	pairStory(t, func(a1 *labkit.Node) { a1.Kill() }, func(a1 *labkit.Node) { a1.Up() })
}

// The cable is pulled at the switch: no RST, no ICMP, nobody is told.
func TestPairDark(t *testing.T) {
	pairStory(t, func(a1 *labkit.Node) { a1.Host.Unplug() }, func(a1 *labkit.Node) { a1.Host.Plug() })
}
