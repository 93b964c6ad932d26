package lab

import (
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// A telephone of one shop is carried to another and registers there; its home
// site vouches for it, once. Calls follow it, also while both shops are cut off
// from the third. Its refreshes cost the WAN nothing.
func TestRoaming(t *testing.T) {
	l := labkit.New(t, "a", "b", "c")
	a1 := found(l, "a", "a1")
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	c1 := join(l, "c", "c1", a1, "--site", "0003")
	pa, pb, pc := l.Host("a", "phones-a"), l.Host("b", "phones-b"), l.Host("c", "phones-c")
	ana := registered(t, pa, a1.Account(a1.User("201", "--name", "Ana"), 60), 440)
	cat := registered(t, pc, c1.Account(c1.User("201", "--name", "Cat"), 60), 1000)
	traveller := a1.Account(a1.User("202", "--name", "Ben"), 60)
	l.AwaitSettled(30*time.Second, a1, b1, c1)

	traveller.Server = b1.Host.Addr.String()
	begun := time.Now()
	ben := registered(t, pb, traveller, 700)
	t.Logf("registered at the visited site %v after the telephone was started", time.Since(begun).Round(time.Millisecond))
	l.AwaitSettled(10*time.Second, a1, b1, c1)

	call(t, ana, ben, "202")
	hangUp(t, ben, ana)
	call(t, ben, ana, "80001201")
	hangUp(t, ana, ben)
	call(t, cat, ben, "80001202")
	hangUp(t, ben, cat)

	l.Cut("c")
	call(t, ana, ben, "202")
	hangUp(t, ben, ana)
	call(t, ben, ana, "80001201")
	hangUp(t, ana, ben)
	l.Heal()

	// The visited shop does not hold the secret on its disk.
	if file := b1.Holds(traveller.Password); file != "" {
		t.Errorf("the visited box holds the telephone's password in %s", file)
	}
	var where api.Location
	if err := b1.Get("/users/0001202/where", &where); err != nil || len(where.Contacts) != 1 {
		t.Errorf("the visited site knows %+v, %v", where, err)
	}
}
