package lab

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"carrierclass.net/ccnode/test/lab/labkit"
)

// A site that is owed a change cannot be reached: what the attempts cost, and
// that there are none where nothing is owed. Attempts have growing pauses, up to
// a quarter of an hour; each is seen as packets with two seconds of silence after
// them.
func TestRedial(t *testing.T) {
	const each, hour = 300, 1500
	l := labkit.New(t, "a", "b")
	a1 := found(l, "a", "a1")
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	l.AwaitSettled(30*time.Second, a1, b1)
	quiet(l, 45*time.Second)
	for _, n := range []*labkit.Node{a1, b1} { // no connection stands
		if err := n.Stop(15 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	l.Cut("b")
	a1.Up()
	b1.Up()
	before := l.Wan()
	time.Sleep(5 * time.Second)
	if d := l.Wan().Since(before).Sum().All(); d.Packets != 0 {
		t.Errorf("nothing is owed, and %+v was sent", d)
	}
	a1.Must("site", "set", "--name", "Lyon")
	window := watched(t, 130*time.Second, 3600*time.Second)
	start, last, seen := time.Now(), time.Time{}, int64(0)
	var attempts []int64
	for time.Since(start) < window {
		time.Sleep(100 * time.Millisecond)
		sent := l.Wan().Since(before).Sum().All().Bytes
		if sent == seen {
			continue
		}
		if now := time.Now(); last.IsZero() || now.Sub(last) > 2500*time.Millisecond {
			attempts = append(attempts, 0)
		}
		attempts[len(attempts)-1] += sent - seen
		seen, last = sent, time.Now()
	}
	t.Logf("in %v %d octets of IP, in groups of %v", window, seen, attempts)
	if len(attempts) < 3 {
		t.Fatal("no attempts: the test says nothing")
	}
	if a := attempts[len(attempts)-1]; a > each {
		t.Errorf("an attempt costs %d octets, want at most %d", a, each)
	}
	// In the first hour there are eight, in each later one four at most: see
	// TestAnHourOfAttempts in internal/replica. Four of them come in its first two minutes.
	if most := 4 + int(window/(15*time.Minute)); len(attempts) > most {
		t.Errorf("%d attempts in %v, want at most %d", len(attempts), window, most)
	}
	first := 8 * slices.Max(attempts)
	fmt.Printf("an attempt %d octets, eight in the first hour %d, four in each later one %d\n", slices.Max(attempts), first, first/2)
	if max(first, seen) > hour {
		t.Errorf("%d octets in %v, and %d in the first hour, want %d", seen, window, first, hour)
	}
}
