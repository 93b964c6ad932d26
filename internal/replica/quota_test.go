package replica

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk/disktest"
)

// sealed is a change of a member that is no engine: what a rogue would send.
func (m *member) sealed(t *testing.T, scope crdt.Scope, at time.Time, n int, ws ...crdt.Write) *crdt.Change {
	t.Helper()
	c := &crdt.Change{Scope: scope, Node: m.id, Actor: 1, Stamp: crdt.MakeStamp(at.UnixMilli(), uint16(n)), Auth: m.auth, Writes: ws}
	if err := crdt.Seal(c, testFleet, m.sign); err != nil {
		t.Fatal(err)
	}
	return c
}

// bring has an engine judge changes as if they came over a link from peer.
func (n *node) bring(t *testing.T, peer Peer, cs ...*crdt.Change) (out []Verdict) {
	t.Helper()
	for _, c := range cs {
		in := &incoming{c: c, done: make(chan judged, 1)}
		if err := n.e.verifiers.submit(t.Context(), &delivery{peer: peer, changes: []*incoming{in}}); err != nil {
			t.Fatal(err)
		}
		j := <-in.done
		if j.err != nil {
			t.Fatal(j.err)
		}
		out = append(out, j.verdict)
	}
	return out
}

// TestQuotaHoldsWhatIsTooMuch: a rogue brings more than its share. What is too
// much is held, over a restart, and shown; nobody else feels it; what takes away
// goes through; and the rest comes in when there is room.
func TestQuotaHoldsWhatIsTooMuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		me, rogue, good := newMember("me"), newMember("rogue"), newMember("good")
		n := me.node(t, newGate(me, rogue, good), holding(crdt.Trust, crdt.Fleet))
		n.cfg.Quota = crdt.Quota{Changes: 10, Bytes: 1 << 20, Burst: 1 << 20, Hourly: 1 << 20}
		n.cfg.Removal = func(c *crdt.Change, v View) bool {
			w := &c.Writes[0]
			return w.Flags&crdt.Final != 0 && len(v.Set(c.Scope).Fields(w.Table, w.Record)) > 0
		}
		m := disktest.NewMedium(1)
		n.mustStart(m)
		defer func() { n.stop() }()
		start := time.Now()
		count := 0
		one := func(who *member, record string) *crdt.Change {
			count++
			return who.sealed(t, crdt.Fleet, start, count, write(1, record, "f", "v"))
		}
		for i := range 15 {
			v := n.bring(t, Peer(rogue.id), one(rogue, fmt.Sprint("r", i)))[0]
			if want := i >= 10; (v.Outcome == Hold) != want || v.Outcome == Refuse {
				t.Fatalf("change %d: %v", i, v)
			}
		}
		for i := range 10 {
			if v := n.bring(t, Peer(good.id), one(good, fmt.Sprint("g", i)))[0]; v.Outcome != Accept {
				t.Fatalf("another author pays for it: %v", v)
			}
		}
		for i := range 50 {
			n.mustPut(crdt.Fleet, fmt.Sprint("own", i), "f", "v") // one's own is not counted
		}
		check := func(held int) {
			t.Helper()
			h := n.e.Held()
			if len(h) != held || held > 0 && (h[0].Wait() != ForQuota || !strings.Contains(h[0].Why, "10 changes")) {
				t.Fatalf("%d are held, want %d: %+v", len(h), held, h)
			}
		}
		check(5)
		n.stop()
		n.mustStart(m)
		check(5)
		time.Sleep(3 * time.Hour) // no time makes room
		check(5)
		if v, err := n.e.RetryHeld(t.Context(), n.e.Held()[0].ID); err != nil || v.Outcome != Hold {
			t.Fatal(v, err)
		}

		// What takes away is not held, and makes room: the final replaces r0's
		// write, then two records are written over by somebody else.
		final := crdt.Write{Table: 1, Record: "r0", Flags: crdt.Final, Value: []byte("gone")}
		count++
		if v := n.bring(t, Peer(rogue.id), rogue.sealed(t, crdt.Fleet, start, count, final))[0]; v.Outcome != Accept {
			t.Fatalf("a removal is held: %v", v)
		}
		none := crdt.Write{Table: 1, Record: "never", Flags: crdt.Final, Value: []byte("gone")}
		count++
		if v := n.bring(t, Peer(rogue.id), rogue.sealed(t, crdt.Fleet, start, count, none))[0]; v.Outcome != Hold {
			t.Fatalf("a removal of nothing is free: %v", v)
		}
		for i := 1; i <= 6; i++ {
			n.mustPut(crdt.Fleet, fmt.Sprint("r", i), "f", "mine")
		}
		time.Sleep(2 * time.Minute)
		check(0)
		for i := range 15 {
			if want := []string{"v"}; i > 6 {
				n.want(crdt.Fleet, fmt.Sprint("r", i), "f", want...)
			}
		}
	})
}

// TestQuotaThroughOthers: what others had room for is taken up to four times the
// share, so that honest nodes stay equal.
func TestQuotaThroughOthers(t *testing.T) {
	me, rogue, relay := newMember("me"), newMember("rogue"), newMember("relay")
	n := me.node(t, newGate(me, rogue, relay), holding(crdt.Trust, crdt.Fleet))
	n.cfg.Quota = crdt.Quota{Changes: 10, Bytes: 1 << 20, Burst: 1 << 20, Hourly: 1}
	n.cfg.MaxHeld = 40
	n.mustStart(disktest.NewMedium(1))
	defer n.stop()
	at := time.Now()
	accepted, held, left := 0, 0, 0
	for i := range 60 {
		v := n.bring(t, Peer(relay.id), rogue.sealed(t, crdt.Fleet, at, i, write(1, fmt.Sprint("r", i), "f", "v")))[0]
		switch {
		case v.Outcome == Refuse:
			t.Fatalf("whoever passed it on is to blame: %v", v)
		case v.Outcome == Hold:
			held++
		case strings.Contains(v.Reason, "stays where it is"):
			left++
		default:
			accepted++
		}
	}
	if accepted != 10*crdt.Relayed || held != 40/8 || left != 60-40-5 || n.e.Status().Left[rogue.id] != left {
		t.Errorf("%d accepted, %d held, %d left out, status %v", accepted, held, left, n.e.Status().Left)
	}
	// The author itself is refused: its own link is the one that ends.
	if v := n.bring(t, Peer(rogue.id), rogue.sealed(t, crdt.Fleet, at, 100, write(1, "more", "f", "v")))[0]; v.Outcome != Refuse {
		t.Errorf("the author goes on: %v", v)
	}
	if v := n.bring(t, Peer(relay.id), relay.sealed(t, crdt.Fleet, at, 1, write(1, "relay", "f", "v")))[0]; v.Outcome != Accept {
		t.Errorf("the relay pays for it: %v", v)
	}
}

// TestQuotaByTheHour: what comes too fast waits for its hour.
func TestQuotaByTheHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		me, rogue := newMember("me"), newMember("rogue")
		n := me.node(t, newGate(me, rogue), holding(crdt.Trust, crdt.Fleet))
		n.cfg.Quota = crdt.Quota{Changes: 1000, Bytes: 1 << 20, Burst: 5000, Hourly: 2500}
		n.mustStart(disktest.NewMedium(1))
		defer n.stop()
		at := time.Now()
		held := 0
		for i := range 10 {
			c := rogue.sealed(t, crdt.Fleet, at, i, write(1, fmt.Sprint("r", i), "f", strings.Repeat("x", 900)))
			if v := n.bring(t, Peer(rogue.id), c)[0]; v.Outcome == Hold {
				held++
			}
		}
		if held < 5 || held > 6 {
			t.Fatalf("%d of 10 are held", held)
		}
		time.Sleep(time.Hour + 2*time.Minute)
		if now := len(n.e.Held()); now < held-3 || now > held-2 {
			t.Fatalf("after an hour %d of %d are held", now, held)
		}
		time.Sleep(3 * time.Hour)
		if now := len(n.e.Held()); now != 0 {
			t.Fatalf("after four hours %d are held", now)
		}
	})
}
