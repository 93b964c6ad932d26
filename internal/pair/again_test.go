package pair

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// line is one direction of a pair: a feed's streams, which can be cut and
// pointed elsewhere.
type line struct {
	mu   sync.Mutex
	from site.NodeID
	to   *Table // nil: unreachable
	live []net.Conn
}

func (l *line) dial(context.Context) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.to == nil {
		return nil, errors.New("unreachable")
	}
	x, y := net.Pipe()
	l.live = append(l.live, x, y)
	go l.to.Hear(l.from, y)
	return x, nil
}

func (l *line) lead(to *Table) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to = to
	for _, c := range l.live {
		c.Close()
	}
	l.live = nil
}

func pairOf(t *testing.T) (a, b *Table, ab, ba *line, diskB *mem) {
	diskB = newMem()
	a, b = open(t, 1, newMem()), open(t, 2, diskB)
	ab, ba = &line{from: a.cfg.Self, to: b}, &line{from: b.cfg.Self, to: a}
	a.Share(ab.dial)
	b.Share(ba.dial)
	synctest.Wait()
	return a, b, ab, ba, diskB
}

// refresh keeps a phone registered at a node for d.
func refresh(t *testing.T, at *Table, contact string, d time.Duration) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(30 * time.Second) {
		if err := at.Bind(context.Background(), phone(contact)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestARestartedNodeIsToldEverythingAgain: what it read from its disk it keeps
// for one expiry only.
func TestARestartedNodeIsToldEverythingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, ab, ba, diskB := pairOf(t)
		refresh(t, a, "sip:ana@192.0.2.7", time.Minute)
		ba.lead(nil)
		b.Close()
		ab.lead(nil) // b dies: its streams end
		time.Sleep(3 * time.Second)
		b2 := open(t, 2, diskB)
		ba.lead(a)
		b2.Share(ba.dial)
		ab.lead(b2)
		refresh(t, a, "sip:ana@192.0.2.7", 5*time.Minute)
		if got := b2.Bindings(ana); len(got) != 1 || got[0].Node != a.cfg.Self {
			t.Errorf("five minutes after its restart the other node knows %v of a phone that never left", got)
		}
		a.Close()
		b2.Close()
	})
}

// TestOneBrokenStreamForgetsNobody: only what a tells b was interrupted; b lives
// and has nothing new to say.
func TestOneBrokenStreamForgetsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, ab, _, _ := pairOf(t)
		refresh(t, b, "sip:ana@192.0.2.7", time.Minute)
		ab.lead(nil)
		time.Sleep(20 * time.Second)
		ab.lead(b)
		refresh(t, b, "sip:ana@192.0.2.7", 10*time.Minute)
		if got := a.Bindings(ana); len(got) != 1 {
			t.Errorf("a forgot a phone of b's: %v", got)
		}
		a.Close()
		b.Close()
	})
}

// TestADeadNodesPhonesGoThoughNothingIsOwed: the end of an idle stream is
// evidence.
func TestADeadNodesPhonesGoThoughNothingIsOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, ab, _, _ := pairOf(t)
		refresh(t, b, "sip:ana@192.0.2.7", time.Minute)
		b.Close()
		ab.lead(nil)
		time.Sleep(a.cfg.MaxExpiry - time.Second)
		if got := a.Bindings(ana); len(got) != 1 {
			t.Errorf("within one expiry a has %v, want the dead node's phone", got)
		}
		time.Sleep(5 * time.Second)
		if got := a.Bindings(ana); len(got) != 0 {
			t.Errorf("after one expiry a still has %v", got)
		}
		a.Close()
	})
}

// TestARevokedNodesPhonesGo: the pair ends.
func TestARevokedNodesPhonesGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, ab, _, _ := pairOf(t)
		refresh(t, b, "sip:ana@192.0.2.7", time.Minute)
		a.Share(nil)
		ab.mu.Lock()
		streams := len(ab.live)
		ab.mu.Unlock()
		time.Sleep(a.cfg.MaxExpiry + time.Second)
		if got := a.Bindings(ana); len(got) != 0 {
			t.Errorf("a still has %v", got)
		}
		ab.mu.Lock()
		if len(ab.live) != streams {
			t.Error("a goes on telling a node that left the pair")
		}
		ab.mu.Unlock()
		a.Close()
		b.Close()
	})
}

// TestAPhoneIsReasonEnoughToTryAgain: the other node came back during a long
// pause, and a phone registers.
func TestAPhoneIsReasonEnoughToTryAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, ab, ba, _ := pairOf(t)
		ba.lead(nil) // b cannot reach a: a hears nothing
		ab.lead(nil)
		time.Sleep(10 * time.Minute)
		ab.lead(b)
		if err := a.Bind(context.Background(), phone("sip:ana@192.0.2.7")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if got := b.Bindings(ana); len(got) != 1 {
			t.Errorf("200 ms after a phone registered the other node knows %v", got)
		}
		a.Close()
		b.Close()
	})
}
