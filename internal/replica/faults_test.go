package replica

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
)

// TestHistoryOfLargeValuesFitsItsTransactions: one final displaces more bytes
// than a transaction takes (of trust: elsewhere a final erases).
func TestHistoryOfLargeValuesFitsItsTransactions(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	defer n.stop()
	const fields = 200
	for i := range fields {
		n.mustPut(crdt.Trust, "r", fmt.Sprint("f", i), strings.Repeat("x", 3500))
	}
	w := write(1, "r", "", "")
	w.Flags = crdt.Final
	if _, err := n.e.Commit(t.Context(), Mutation{Scope: crdt.Trust, Writes: []crdt.Write{w}}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 { // the history travels with these
		n.mustPut(siteA, fmt.Sprint("other", i), "f", "v")
	}
	past := 0
	if err := n.e.History(crdt.Cell{}, func(Past) error { past++; return nil }); err != nil || past != fields {
		t.Errorf("%d versions are in the history, want %d (%v)", past, fields, err)
	}
	if err := n.e.Status().ReadOnly; err != nil {
		t.Error(err)
	}
}

// TestWhatAFullDiskRefusedIsNotAcknowledgedByWhatFollows: a batch could not be
// stored, the next one could.
func TestWhatAFullDiskRefusedIsNotAcknowledgedByWhatFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteA)
		defer f.stop()
		a, b := f.nodes[0], f.nodes[1]
		a.mustPut(siteA, "zero", "v", "0")
		f.settled(time.Minute)
		time.Sleep(1500 * time.Millisecond) // no chores are left
		f.media[1].SetFree(0)
		a.mustPut(siteA, "first", "v", "1")
		time.Sleep(200 * time.Millisecond)
		f.media[1].SetFree(1 << 30)
		a.mustPut(siteA, "second", "v", "2")
		for range 20 {
			time.Sleep(20 * time.Millisecond)
			synctest.Wait()
			owed := a.e.Status().Peers[0].Owed
			if has := len(b.values(siteA, "first", "v")); owed == 0 && has == 0 {
				t.Fatal("nothing is owed, and the first change is not there")
			}
		}
		f.settled(time.Minute)
		b.want(siteA, "first", "v", "1")
		b.want(siteA, "second", "v", "2")
		f.equal(siteA, 0, 1)
	})
}

// blindStore cannot be read while blind is set.
type blindStore struct {
	disk.Store
	blind atomic.Bool
}

func (s *blindStore) View(fn func(disk.Reader) error) error {
	if s.blind.Load() {
		return errors.New("input/output error")
	}
	return s.Store.View(fn)
}

// TestADiskThatCannotBeReadAnyMoreTakesNothingAway: what was read at the start
// is served on.
func TestADiskThatCannotBeReadAnyMoreTakesNothingAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, m := alone(t)
		inner, err := m.Open()
		if err != nil {
			t.Fatal(err)
		}
		s := &blindStore{Store: inner}
		if err := n.start(s); err != nil {
			t.Fatal(err)
		}
		defer n.stop()
		n.mustPut(siteA, "u1", "name", "Ann")
		s.blind.Store(true)
		m.FailAt(1, errors.New("input/output error"))
		if _, err := n.put(siteA, "u1", "name", "lost"); !errors.Is(err, ErrReadOnly) {
			t.Fatalf("got %v", err)
		}
		synctest.Wait()
		n.want(siteA, "u1", "name", "Ann")
		time.Sleep(3 * time.Minute)
		n.want(siteA, "u1", "name", "Ann")
		s.blind.Store(false)
		time.Sleep(3 * time.Minute)
		n.mustPut(siteA, "u1", "name", "Anna")
		n.want(siteA, "u1", "name", "Anna")
	})
}

// TestWorkWithoutAPauseDoesNotPutOffWhatTimeBrings: a held change is taken when
// its time has come, though the box writes all the time.
func TestWorkWithoutAPauseDoesNotPutOffWhatTimeBrings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, m := alone(t)
		n.mustStart(m)
		defer n.stop()
		bob := newMember("bob")
		n.gate.learn(bob)
		c := &crdt.Change{Scope: siteA, Node: bob.id, Actor: 1, Stamp: crdt.MakeStamp(time.Now().Add(6*time.Minute).UnixMilli(), 0), Auth: bob.auth,
			Writes: []crdt.Write{write(1, "u1", "name", "Bob")}}
		if err := crdt.Seal(c, testFleet, bob.sign); err != nil {
			t.Fatal(err)
		}
		if _, v, err := n.e.Submit(t.Context(), c.Raw()); err != nil || v.Outcome != Hold {
			t.Fatalf("got %v, %v", v, err)
		}
		for i := range 150 {
			n.mustPut(siteA, "busy", "v", fmt.Sprint(i))
			time.Sleep(500 * time.Millisecond)
		}
		n.want(siteA, "u1", "name", "Bob")
	})
}

// TestARefusedChangeMakesNoScope: names of scopes cost nothing here.
func TestARefusedChangeMakesNoScope(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	defer n.stop()
	bob := newMember("bob")
	n.gate.learn(bob)
	n.gate.admit = func(*crdt.Change, View) Verdict { return Verdict{Refuse, "no"} }
	for i := range 10 {
		c := &crdt.Change{Scope: crdt.SiteScope([10]byte{9, byte(i)}), Node: bob.id, Actor: 1, Stamp: crdt.MakeStamp(time.Now().UnixMilli(), 0), Auth: bob.auth,
			Writes: []crdt.Write{write(1, "u1", "name", "Bob")}}
		if err := crdt.Seal(c, testFleet, bob.sign); err != nil {
			t.Fatal(err)
		}
		if _, v, err := n.e.Submit(t.Context(), c.Raw()); err != nil || v.Outcome != Refuse {
			t.Fatalf("got %v, %v", v, err)
		}
	}
	if st := n.e.Status(); len(st.Scopes) != 0 {
		t.Errorf("%d scopes are kept", len(st.Scopes))
	}
}

// TestHistoryIsForgottenWithoutARestart: a box that is never switched off does
// not keep it for ever.
func TestHistoryIsForgottenWithoutARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, m := alone(t)
		n.cfg.HistoryKeep = time.Hour
		n.mustStart(m)
		defer n.stop()
		n.mustPut(siteA, "u1", "name", "a")
		n.mustPut(siteA, "u1", "name", "b")
		time.Sleep(25 * time.Hour)
		n.mustPut(siteA, "u1", "name", "c")
		time.Sleep(5 * time.Second)
		var got []string
		if err := n.e.History(crdt.Cell{}, func(p Past) error { got = append(got, string(p.Version.Value)); return nil }); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got) != "[b]" {
			t.Errorf("history is %v, want what was displaced last", got)
		}
	})
}

// TestACheatDoesNotFillMemoryWithReports: pairs of changes under one name.
func TestACheatDoesNotFillMemoryWithReports(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	defer n.stop()
	eve := newMember("eve")
	n.gate.learn(eve)
	for i := range maxReports + 50 {
		c := &crdt.Change{Scope: siteA, Node: eve.id, Actor: 1, Stamp: crdt.MakeStamp(time.Now().Add(-time.Hour).UnixMilli(), 0) &^ 0xffffffffff, Auth: eve.auth,
			Writes: []crdt.Write{write(1, fmt.Sprint("r", i), "f", "v")}}
		if err := crdt.Seal(c, testFleet, eve.sign); err != nil {
			t.Fatal(err)
		}
		if _, v, err := n.e.Submit(t.Context(), c.Raw()); err != nil || v.Outcome != Accept {
			t.Fatalf("got %v, %v", v, err)
		}
	}
	if got := len(n.e.Status().Damage); got == 0 || got > maxReports {
		t.Errorf("%d reports are kept", got)
	}
}

// TestWhatIsHeldCanBeReadWhileItIsJudged is for the race detector.
func TestWhatIsHeldCanBeReadWhileItIsJudged(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	defer n.stop()
	bob := newMember("bob")
	n.gate.learn(bob)
	var k atomic.Int64
	n.gate.admit = func(c *crdt.Change, _ View) Verdict {
		if c.Node == bob.id {
			return Verdict{Hold, fmt.Sprint("reason ", k.Add(1))}
		}
		return Verdict{}
	}
	c := &crdt.Change{Scope: siteA, Node: bob.id, Actor: 1, Stamp: crdt.MakeStamp(time.Now().UnixMilli(), 0), Auth: bob.auth,
		Writes: []crdt.Write{write(1, "u1", "name", "Bob")}}
	if err := crdt.Seal(c, testFleet, bob.sign); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				n.e.Held()
			}
		}
	}()
	for range 50 {
		if _, v, err := n.e.Submit(t.Context(), c.Raw()); err != nil || v.Outcome != Hold {
			t.Fatalf("got %v, %v", v, err)
		}
	}
	close(stop)
	<-done
}
