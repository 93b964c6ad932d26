// Package lab tells the product's stories on real sockets: nodes in network
// namespaces, a WAN in the middle that is cut, and telephones and load
// generators that nobody here wrote. Each story has a file of its own. They
// need root; CCNODE_LONG=1 tells the long versions.
package lab

import (
	"os"
	"strconv"
	"testing"
	"time"

	"carrierclass.net/ccnode/test/lab/labkit"
)

// long picks the short or the long version of a figure.
func long[T any](short, long T) T {
	if os.Getenv("CCNODE_LONG") != "" {
		return long
	}
	return short
}

// watched is for how long silence is watched: as CCNODE_WINDOW says (1h), else
// like long.
func watched(t *testing.T, short, long_ time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("CCNODE_WINDOW")
	if text == "" {
		return long(short, long_)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("CCNODE_WINDOW=%s: %v", text, err)
	}
	return d
}

// found starts a node that founds the fleet shops.example with site 0001.
func found(l *labkit.Lab, site, name string) *labkit.Node {
	l.T.Helper()
	n := l.Host(site, name).Box()
	n.Up("--new-fleet", "shops", "--domain", "shops.example", "--site", "0001")
	return n
}

// join starts a node with a token from another.
func join(l *labkit.Lab, site, name string, from *labkit.Node, invite ...string) *labkit.Node {
	l.T.Helper()
	n := l.Host(site, name).Box()
	n.Up("--join", from.Invite(invite...).Token)
	return n
}

// registered is a telephone that its node has accepted.
func registered(t *testing.T, h *labkit.Host, a labkit.Account, hz int) *labkit.Baresip {
	t.Helper()
	p := h.Telephone(a, hz)
	p.Await(0, "REGISTER_OK", 10*time.Second)
	return p
}

// talk lets a connected call go on until both have heard each other for a
// while, and fails the test if that does not happen.
func talk(t *testing.T, a, b *labkit.Baresip) {
	t.Helper()
	const enough = 1.5 // seconds
	end := time.Now().Add(8 * time.Second)
	for {
		ah, bh := a.LastHeard(), b.LastHeard()
		if ah.Heard(b.Hz) >= enough && bh.Heard(a.Hz) >= enough {
			if x := ah.Heard(a.Hz); x > 0.2 {
				t.Errorf("%s heard himself for %.1f s", a.Account.User, x)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s heard %s for %.1f s of %.1f, %s heard %s for %.1f s of %.1f; want %.1f both ways", a.Account.User, b.Account.User, ah.Heard(b.Hz), ah.Seconds(),
				b.Account.User, a.Account.User, bh.Heard(a.Hz), bh.Seconds(), enough)
		}
		time.Sleep(200 * time.Millisecond) // of speech
	}
}

// call makes one telephone call another and waits until both talk.
func call(t *testing.T, from, to *labkit.Baresip, number string) {
	t.Helper()
	fm, tm := from.Mark(), to.Mark()
	from.Dial(number)
	to.Await(tm, "CALL_INCOMING", 5*time.Second)
	to.Accept()
	from.Await(fm, "CALL_ESTABLISHED", 5*time.Second)
	talk(t, from, to)
}

// hangUp ends the call of two telephones and waits until both know.
func hangUp(t *testing.T, by, other *labkit.Baresip) {
	t.Helper()
	bm, om := by.Mark(), other.Mark()
	by.Hangup()
	by.Await(bm, "CALL_CLOSED", 5*time.Second)
	other.Await(om, "CALL_CLOSED", 5*time.Second)
}

// ext writes an extension.
func ext(n int) string { return strconv.Itoa(n) }
