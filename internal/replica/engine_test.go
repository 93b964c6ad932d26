package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/disk/disktest"
)

// alone is one node without a mesh.
func alone(t testing.TB) (*node, *disktest.Medium) {
	ann := newMember("ann")
	return ann.node(t, newGate(ann), holding(crdt.Trust, crdt.Fleet, siteA)), disktest.NewMedium(1)
}

func TestAcknowledgedWritesAreThereAfterARestart(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	first := n.mustPut(siteA, "u1", "name", "Ann")
	second := n.mustPut(siteA, "u1", "name", "Anna")
	if second.Stamp <= first.Stamp {
		t.Fatalf("stamps %d, %d", first.Stamp, second.Stamp)
	}
	n.want(siteA, "u1", "name", "Anna")
	before, actor := n.fingerprint(siteA), n.e.Status().Actor
	n.stop()
	n.mustStart(m)
	defer n.stop()
	n.want(siteA, "u1", "name", "Anna")
	st := n.e.Status()
	if n.fingerprint(siteA) != before || st.Actor != actor || len(st.Damage) != 0 {
		t.Fatalf("after the restart: %+v", st)
	}
	if r := n.mustPut(siteA, "u1", "name", "A."); r.Stamp <= second.Stamp {
		t.Fatalf("stamp %d was not after %d", r.Stamp, second.Stamp)
	}
	n.want(siteA, "u1", "name", "A.")
}

// A wall clock that is clearly wrong and jumps again, and one that jumps while
// nothing happens: time goes on from what it was.
func TestTheClockGoesOnWhateverTheWallSays(t *testing.T) {
	mono := time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	k := &clock{last: crdt.MakeStamp(mono.UnixMilli(), 0)}
	at := func(skew time.Duration) int64 {
		wall := mono.Add(skew)
		k.tick(wall, mono, false)
		return k.wall(wall, false) - mono.UnixMilli()
	}
	const year = 365 * 24 * time.Hour
	for i, skew := range []time.Duration{0, -10 * year, -46 * year, -10 * year, 0, 10 * year, -46 * year} {
		if off := at(skew); off != 0 {
			t.Errorf("%d: %v wrong, the clock is %d ms off", i, skew, off)
		}
		mono = mono.Add(10 * time.Minute)
	}
	k = &clock{last: crdt.MakeStamp(mono.UnixMilli(), 0)}
	mono = mono.Add(time.Hour) // it was off for an hour, and wakes in 1970
	if off := at(-46 * year); off != -time.Hour.Milliseconds() {
		t.Errorf("after an hour without power the clock is %d ms off", off)
	}
	if !k.borrow(crdt.MakeStamp(mono.UnixMilli(), 0), mono.Add(-46*year), false) {
		t.Error("a member's time is not taken")
	}
	mono = mono.Add(time.Second)
	if off := at(-46 * year); off != 0 {
		t.Errorf("after a member told the time the clock is %d ms off", off)
	}
}

func TestStampsStayUniqueWhenTheClockStepsBack(t *testing.T) {
	n, m := alone(t)
	now := time.Now()
	n.cfg.Now = func() time.Time { return now }
	n.mustStart(m)
	first := n.mustPut(siteA, "u1", "name", "Ann")
	n.stop()
	now = now.Add(-10 * 365 * 24 * time.Hour)
	n.mustStart(m)
	defer n.stop()
	if r := n.mustPut(siteA, "u1", "name", "A."); r.Stamp <= first.Stamp {
		t.Fatalf("stamp %d was not after %d", r.Stamp, first.Stamp)
	}
	n.want(siteA, "u1", "name", "A.")
}

func TestStaleTokenMakesAVisibleConflict(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	defer n.stop()
	cell := crdt.Cell{Scope: siteA, Table: 1, Record: "u1", Field: "forward"}
	n.mustPut(siteA, "u1", "forward", "200")
	var seen crdt.Context
	n.e.View(func(v View) { seen = v.Set(siteA).Known(cell) })
	n.mustPut(siteA, "u1", "forward", "201")
	_, err := n.e.Commit(t.Context(), Mutation{Scope: siteA, Writes: []crdt.Write{write(1, "u1", "forward", "202")},
		Token: map[crdt.Cell]crdt.Context{cell: seen}})
	if err != nil {
		t.Fatal(err)
	}
	n.want(siteA, "u1", "forward", "201", "202")
	n.mustPut(siteA, "u1", "forward", "203") // sees both
	n.want(siteA, "u1", "forward", "203")
}

func TestPreconditionSeesEarlierWrites(t *testing.T) {
	n, m := alone(t)
	m.SyncDelay = time.Millisecond
	n.mustStart(m)
	defer n.stop()
	const tries = 20
	var wg sync.WaitGroup
	errs := make([]error, tries)
	for i := range tries {
		wg.Go(func() {
			_, errs[i] = n.e.Commit(context.Background(), Mutation{
				Scope:  siteA,
				Writes: []crdt.Write{write(1, fmt.Sprintf("u%d", i), "number", "301")},
				Precondition: func(v View) error {
					for _, r := range v.Set(siteA).Records(1) {
						for _, x := range v.Set(siteA).Versions(crdt.Cell{Scope: siteA, Table: 1, Record: r, Field: "number"}) {
							if string(x.Value) == "301" {
								return errTaken
							}
						}
					}
					return nil
				}})
		})
	}
	wg.Wait()
	taken := 0
	for _, err := range errs {
		if errors.Is(err, errTaken) {
			taken++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if taken != tries-1 {
		t.Fatalf("%d of %d were told that the number is taken", taken, tries)
	}
}

func TestWritesThatWaitShareOneFsync(t *testing.T) {
	n, m := alone(t)
	m.SyncDelay = 5 * time.Millisecond
	n.mustStart(m)
	defer n.stop()
	before := m.Syncs
	const writes = 100
	var wg sync.WaitGroup
	for i := range writes {
		wg.Go(func() {
			if _, err := n.put(siteA, fmt.Sprintf("u%d", i), "name", "x"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := m.Syncs - before; got > 10 {
		t.Fatalf("%d fsyncs for %d writes that waited together", got, writes)
	}
}

func TestPurgedRecordTakesNoWrite(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	defer n.stop()
	n.mustPut(siteA, "u1", "name", "Ann")
	if _, err := n.e.Commit(t.Context(), Mutation{Scope: siteA, Writes: []crdt.Write{{Table: 1, Record: "u1", Flags: crdt.Final}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.put(siteA, "u1", "name", "Ann"); !errors.Is(err, ErrPurged) {
		t.Fatalf("got %v", err)
	}
	n.want(siteA, "u1", "name")
}

func TestDisplacedVersionsAreKeptForAWhile(t *testing.T) {
	n, m := alone(t)
	now := time.Now()
	var mu sync.Mutex
	n.cfg.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	n.mustStart(m)
	for _, v := range []string{"a", "b", "c"} {
		n.mustPut(siteA, "u1", "name", v)
	}
	n.mustPut(siteA, "u2", "name", "other")
	history := func() (out []string) {
		err := n.e.History(crdt.Cell{Scope: siteA, Table: 1, Record: "u1", Field: "name"}, func(p Past) error {
			out = append(out, string(p.Version.Value))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := history(); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("history is %v", got)
	}
	n.stop()
	mu.Lock()
	now = now.Add(91 * 24 * time.Hour)
	mu.Unlock()
	n.mustStart(m)
	defer n.stop()
	if got := history(); len(got) != 0 {
		t.Fatalf("history after 91 days is %v", got)
	}
	n.want(siteA, "u1", "name", "c")
}

func TestWatchersHearOfEveryMergeInOrder(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	defer n.stop()
	heard := make(chan string, 100)
	cancel := n.e.Watch(func(s crdt.Scope, cells []crdt.Cell) {
		for _, c := range cells {
			heard <- c.Record
			n.e.View(func(View) {}) // a watcher may call the engine
		}
	})
	for i := range 20 {
		n.mustPut(siteA, fmt.Sprintf("u%02d", i), "name", "x")
	}
	for i := range 20 {
		if got, want := <-heard, fmt.Sprintf("u%02d", i); got != want {
			t.Fatalf("heard of %s, want %s", got, want)
		}
	}
	cancel()
	n.mustPut(siteA, "late", "name", "x")
	if len(heard) != 0 {
		t.Fatal("heard after cancel")
	}
}

func TestFullDiskRefusesWritesAndGoesOnByItself(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	defer n.stop()
	n.mustPut(siteA, "u1", "name", "Ann")
	m.SetFree(0)
	_, err := n.put(siteA, "u1", "name", "lost")
	if !errors.Is(err, ErrReadOnly) || !errors.Is(err, disk.ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
	if n.e.Status().ReadOnly == nil {
		t.Fatal("status does not say that writes are refused")
	}
	n.want(siteA, "u1", "name", "Ann")
	m.SetFree(1 << 30)
	n.mustPut(siteA, "u1", "name", "Anna")
	if err := n.e.Status().ReadOnly; err != nil {
		t.Fatalf("still read-only: %v", err)
	}
}

func TestStartsOnAFullDisk(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	n.mustPut(siteA, "u1", "name", "Ann")
	n.stop()
	m.SetFree(0)
	n.mustStart(m)
	defer n.stop()
	n.want(siteA, "u1", "name", "Ann")
	m.SetFree(1 << 30)
	n.mustPut(siteA, "u1", "name", "Anna")
}

func TestFailedFsyncIsNotRetriedOnTheSameHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, m := alone(t)
		n.mustStart(m)
		defer n.stop()
		first := n.mustPut(siteA, "u1", "name", "Ann")
		m.FailAt(2, disktest.ErrIO)
		if _, err := n.put(siteA, "u2", "name", "unknown"); !errors.Is(err, ErrReadOnly) {
			t.Fatalf("got %v", err)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if err := n.e.Status().ReadOnly; err != nil {
			t.Fatalf("still read-only: %v", err)
		}
		n.want(siteA, "u1", "name", "Ann")
		if r := n.mustPut(siteA, "u1", "name", "Anna"); r.Stamp <= first.Stamp+1 {
			t.Fatalf("the stamp of the failed write was used again: %d after %d", r.Stamp, first.Stamp)
		}
	})
}
