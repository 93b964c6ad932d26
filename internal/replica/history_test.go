package replica

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
)

// pasts reads a history, oldest stamp first.
func pasts(t *testing.T, e *Engine, c crdt.Cell) (out []Past) {
	t.Helper()
	if err := e.History(c, func(p Past) error { out = append(out, p); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestAStartLeavesTheHistoryAsItIs: a change of which one write was overwritten
// stays on the disk for the other; at a start that is found again. It is not
// news: neither does it become younger, nor does it come back once forgotten.
func TestAStartLeavesTheHistoryAsItIs(t *testing.T) {
	n, m := alone(t)
	began := time.Now().Truncate(time.Millisecond)
	now := began
	var mu sync.Mutex
	n.cfg.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	later := func(d time.Duration) { mu.Lock(); now = now.Add(d); mu.Unlock() }
	n.mustStart(m)
	cell := crdt.Cell{Scope: siteA, Table: 1, Record: "u1", Field: "name"}
	if _, err := n.e.Commit(t.Context(), Mutation{Scope: siteA, Writes: []crdt.Write{write(1, "u1", "name", "Ana"), write(1, "u1", "number", "201")}}); err != nil {
		t.Fatal(err)
	}
	later(time.Hour)
	n.mustPut(siteA, "u1", "name", "Anna")
	n.mustPut(siteA, "u1", "name", "Anne")
	check := func(when string) {
		t.Helper()
		got := pasts(t, n.e, cell)
		if len(got) != 2 || string(got[0].Version.Value) != "Ana" || string(got[1].Version.Value) != "Anna" {
			t.Fatalf("%s: %+v", when, got)
		}
		for _, p := range got {
			if !p.At.Equal(began.Add(time.Hour)) || p.Vague {
				t.Errorf("%s: %s was overwritten at %s, want %s", when, p.Version.Value, p.At, began.Add(time.Hour))
			}
		}
		if len(got[0].Version.Ctx) != 0 || len(got[1].Version.Ctx) != 1 || got[1].Version.Ctx[0] != got[0].Version.Dot || got[0].By != got[1].Version.ID {
			t.Errorf("%s: Anna was written upon %v by %s, want %v by %s", when, got[1].Version.Ctx, got[0].By, got[0].Version.Dot, got[1].Version.ID)
		}
		if since := n.e.HistorySince(); !since.Equal(began) {
			t.Errorf("%s: the history begins at %s, want %s", when, since, began)
		}
	}
	check("before")
	for range 2 {
		n.stop()
		later(24 * time.Hour)
		n.mustStart(m)
		check("after a start")
	}
	n.stop()
	later(90 * 24 * time.Hour)
	n.mustStart(m)
	if got := pasts(t, n.e, cell); len(got) != 0 {
		t.Errorf("after 90 days: %+v", got)
	}
	n.stop()
	n.mustStart(m)
	defer n.stop()
	if got := pasts(t, n.e, cell); len(got) != 0 {
		t.Errorf("what was forgotten came back at a start: %+v", got)
	}
	if since, want := n.e.HistorySince(), began.Add(49*time.Hour); !since.Equal(want) {
		t.Errorf("the history begins at %s, want %s", since, want)
	}
}

// TestAPowerCutLeavesTheHistory: what was overwritten just before the power went is
// in the history after, in whatever order a start reads the two.
func TestAPowerCutLeavesTheHistory(t *testing.T) {
	n, m := alone(t)
	n.mustStart(m)
	time.Sleep(5 * time.Millisecond) // the history begins before
	for i := range 40 {
		n.mustPut(siteA, fmt.Sprint("u", i), "name", "Ana")
		n.mustPut(siteA, fmt.Sprint("u", i), "name", "Anna")
		m.Crash()
		n.stop()
		m.CrashAt(1 << 30)
		n.mustStart(m)
		got := pasts(t, n.e, crdt.Cell{Scope: siteA, Table: 1, Record: fmt.Sprint("u", i), Field: "name"})
		if len(got) != 1 || string(got[0].Version.Value) != "Ana" {
			t.Fatalf("after power cut %d: %+v", i, got)
		}
	}
	n.stop()
}

// TestHistoryIsBoundedInBytes: the oldest goes first, wherever it is, and the
// node says since when it remembers everything.
func TestHistoryIsBoundedInBytes(t *testing.T) {
	n, m := alone(t)
	began := time.Now().Truncate(time.Millisecond)
	now := began
	var mu sync.Mutex
	n.cfg.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	n.cfg.HistoryBytes = 50_000
	n.mustStart(m)
	const writes = 200 // of 1,000 bytes each, over two records
	for i := range writes {
		mu.Lock()
		now = now.Add(time.Second)
		mu.Unlock()
		n.mustPut(siteA, fmt.Sprint("u", i%2), "f", fmt.Sprintf("%03d", i)+strings.Repeat("x", 1000))
	}
	var got []Past
	bytes := 0
	for limit := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		got, bytes = pasts(t, n.e, crdt.Cell{}), 0
		for _, p := range got {
			bytes += len(p.Version.Value)
		}
		if bytes <= n.cfg.HistoryBytes || time.Now().After(limit) {
			break
		}
	}
	if bytes > n.cfg.HistoryBytes || bytes < n.cfg.HistoryBytes/3 {
		t.Fatalf("%d values of %d bytes are kept, of %d allowed", len(got), bytes, n.cfg.HistoryBytes)
	}
	oldest := got[0].At
	for _, p := range got {
		if p.At.Before(oldest) {
			oldest = p.At
		}
	}
	// What was overwritten last is there without a gap.
	if want := int(now.Sub(oldest)/time.Second) + 1; len(got) != want {
		t.Errorf("%d values since %s, want %d", len(got), oldest, want)
	}
	since := n.e.HistorySince()
	if !since.Before(oldest) || oldest.Sub(since) > time.Second {
		t.Errorf("it says since %s, and has it since %s", since, oldest)
	}
	n.stop()
	n.mustStart(m)
	defer n.stop()
	if again := n.e.HistorySince(); !again.Equal(since) {
		t.Errorf("after a start it says since %s, not %s", again, since)
	}
}

// TestOnlyWhatIsWorthItIsRemembered: a cell that is computed from others is not.
func TestOnlyWhatIsWorthItIsRemembered(t *testing.T) {
	n, m := alone(t)
	n.cfg.Remember = func(c crdt.Cell) bool { return c.Field != "derived" }
	n.mustStart(m)
	defer n.stop()
	for _, v := range []string{"a", "b", "c"} {
		n.mustPut(siteA, "u1", "name", v)
		n.mustPut(siteA, "u1", "derived", v)
	}
	got := pasts(t, n.e, crdt.Cell{})
	if len(got) != 2 || got[0].Cell.Field != "name" || got[1].Cell.Field != "name" {
		t.Errorf("%+v", got)
	}
	if got := pasts(t, n.e, crdt.Cell{Scope: siteA, Record: "u1"}); len(got) != 2 {
		t.Errorf("of the record: %+v", got)
	}
	if got := pasts(t, n.e, crdt.Cell{Scope: siteA, Record: "u"}); len(got) != 0 {
		t.Errorf("of a record whose id begins the same: %+v", got)
	}
}

// TestAnErasedRecordLeavesTheHistory: what an erased record said is on the disk no
// more, neither as a change nor in the history; another record of that id stays,
// and a power cut between erasing and tidying loses nothing of it.
func TestAnErasedRecordLeavesTheHistory(t *testing.T) {
	for _, cut := range []bool{false, true} {
		t.Run(fmt.Sprint("cut ", cut), func(t *testing.T) {
			n, m := alone(t)
			n.mustStart(m)
			for _, name := range []string{"SECRET1", "SECRET2", "SECRET3"} {
				n.mustPut(siteA, "u1", "name", name)
			}
			for _, name := range []string{"other1", "other2"} {
				if _, err := n.e.Commit(t.Context(), Mutation{Scope: siteA, Writes: []crdt.Write{write(2, "u1", "name", name)}}); err != nil {
					t.Fatal(err)
				}
			}
			if got := pasts(t, n.e, crdt.Cell{Scope: siteA, Record: "u1"}); len(got) != 3 {
				t.Fatalf("before: %d", len(got))
			}
			final := crdt.Write{Table: 1, Record: "u1", Value: []byte{}, Flags: crdt.Final}
			if _, err := n.e.Commit(t.Context(), Mutation{Scope: siteA, Writes: []crdt.Write{final}}); err != nil {
				t.Fatal(err)
			}
			if cut {
				m.Crash()
				n.cancel()
				<-n.done
				n.cancel = nil
				m.Heal()
				n.mustStart(m)
			}
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				got, secret := pasts(t, n.e, crdt.Cell{Scope: siteA, Record: "u1"}), 0
				err := n.store.View(func(r disk.Reader) error {
					return r.Scan(nil, func(_, v []byte) error {
						secret += strings.Count(string(v), "SECRET")
						return nil
					})
				})
				if err != nil {
					t.Fatal(err)
				}
				if secret == 0 && len(got) == 1 && string(got[0].Version.Value) == "other1" {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the disk still says %d of it; history %+v", secret, got)
				}
			}
			n.stop()
		})
	}
}
