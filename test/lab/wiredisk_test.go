package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// The disk of one site's box fills up while its phones talk. Calls and
// refreshes go on, a write is refused with what to do, and what the other site
// writes meanwhile is not lost: with room again the box has it, without being
// asked. It was killed in between. Nothing acknowledged is missing.
func TestWireDiskFull(t *testing.T) {
	labkit.Need(t, "baresip")
	l := labkit.New(t, "a", "b")
	a1 := l.Host("a", "a1").Box()
	dir := smallDisk(t, a1, 420<<20)
	a1.Up("--new-fleet", "shops", "--domain", "shops.example", "--site", "0001")
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	p, q := l.Host("a", "phone-p"), l.Host("a", "phone-q")
	ana := registered(t, p, a1.Account(a1.User("201"), 60), 440)
	bea := registered(t, q, a1.Account(a1.User("202"), 60), 1000)
	load(t, b1, 400, 20)
	l.AwaitSettled(30*time.Second, a1, b1)

	taken := map[string]string{} // what a1 acknowledged before it was full
	for number, name := range map[string]string{"201": "Ana", "202": "Bea"} {
		a1.Must("user", "set", number, "--name", name)
		taken[number] = name
	}
	var file string
	var names map[string]string
	for i, left := range []int64{200 << 20, 0} { // below the box's reserve; not a byte
		file = fill(t, dir, left)
		what := fmt.Sprintf("%d MB free", left>>20)
		err := a1.Ask(http.MethodPost, "/users", api.NewUser{Number: ext(250 + i)}, &api.User{})
		if err == nil || !strings.Contains(err.Error(), "free some") || !strings.Contains(err.Error(), "calls go on") {
			t.Errorf("%s: a write is answered with %v", what, err)
		}
		if st := a1.Status(); st.ReadOnly == "" {
			t.Errorf("%s: status does not say that the box is read-only", what)
		}
		names = rename(t, b1, 400, 20, "Shop "+ext(i))
		call(t, ana, bea, "202")
		hangUp(t, ana, bea)
		if i == 1 {
			a1.Kill()
			fill(t, dir, 0)
			a1.Up()
			call(t, ana, bea, "202")
			hangUp(t, ana, bea)
		}
	}
	if ok, why := labkit.Settled(a1, b1); ok {
		t.Error("a full disk took what the other site wrote")
	} else {
		t.Logf("full: %s", why)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	l.Within(20*time.Second, "a1 takes writes again", func() bool {
		err := a1.Ask(http.MethodPost, "/users", api.NewUser{Number: "260", Name: "Cem"}, &api.User{})
		return err == nil
	})
	took := time.Since(start)
	settled := l.AwaitSettled(60*time.Second, a1, b1)
	t.Logf("with room again it writes after %v, has all of the other site after %v", took.Round(time.Millisecond), (took + settled).Round(time.Millisecond))
	taken["260"] = "Cem"
	for _, n := range []*labkit.Node{a1, b1} {
		lacks(t, n, "0001", taken)
		lacks(t, n, "0002", names)
	}
	a1.Kill()
	a1.Up()
	lacks(t, a1, "0001", taken)
	lacks(t, a1, "0002", names)
}

// Bits flip in the store of a site's only box, while it is off. It starts, or
// ends with words about what to do; what it lost comes back over the WAN from
// the site that keeps its state, and what it says about its disk is on record.
func TestWireFlippedBits(t *testing.T) {
	seed := uint64(20261123)
	if long(false, true) {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	l := labkit.New(t, "a", "b")
	a1 := found(l, "a", "a1")
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	load(t, a1, 300, 20)
	load(t, b1, 400, 20)
	l.AwaitSettled(30*time.Second, a1, b1)
	told := 0
	for round := range long(5, 60) {
		an := rename(t, a1, 300, 20, "Ana "+ext(round))
		bn := rename(t, b1, 400, 20, "Bea "+ext(round))
		l.AwaitSettled(30*time.Second, a1, b1)
		if round%2 == 0 {
			a1.Kill()
		} else if err := a1.Stop(15 * time.Second); err != nil { // with the tables written out
			t.Fatal(err)
		}
		how := flip(t, a1, r, 1+round%4)
		before := l.Wan()
		a1.Up()
		took := l.AwaitSettled(45*time.Second, a1, b1)
		d := l.Wan().Since(before).Sum().All()
		st := a1.Status()
		said := strings.Join(st.Warnings, "\n")
		if strings.Contains(said, "store") || strings.Contains(said, "commits") {
			told++
		}
		t.Logf("round %d: %v: whole again after %v for %d octets; it says %q", round, how, took.Round(100*time.Millisecond), d.Bytes, said)
		for _, n := range []*labkit.Node{a1, b1} {
			if m := lacks(t, n, "0001", an) + lacks(t, n, "0002", bn); m > 0 {
				t.Fatalf("after %v %s lacks %d edits", how, n.Host.Name, m)
			}
		}
		name := "after " + ext(round)
		if err := a1.Ask(http.MethodPatch, "/users/300", api.UserPatch{Name: &name}, &api.User{}); err != nil {
			t.Fatal(errors.Join(fmt.Errorf("after %v it does not write", how), err))
		}
	}
	if told == 0 {
		t.Error("no damage was ever reported: this proves nothing")
	}
}
