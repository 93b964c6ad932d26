package disk

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"
)

// TestAQuietStoreIsTidied: a minute (here: a moment) after the last write the
// tables hold about what is alive, and nothing is lost; a store that was tidied is
// left alone.
func TestAQuietStoreIsTidied(t *testing.T) {
	const keys, size, stay, more = 15_000, 1000, 2_000, 6_000
	st, err := OpenBadger(Options{Dir: t.TempDir(), Reserve: 1 << 20, Ballast: -1, Quiet: 300 * time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	s := st.(*badgerStore)
	rng := rand.New(rand.NewPCG(1, 2))
	key := func(k int) []byte { return fmt.Appendf(nil, "k/%d", k) }
	fill := func(from, to int) {
		for k := from; k < to; k += 100 {
			var b Batch
			for i := range 100 {
				value := make([]byte, size)
				for j := range value { // does not compress
					value[j] = byte(rng.Uint32())
				}
				b.Put(key(k+i), value)
			}
			if err := s.Commit(&b); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(0, keys)
	for k := stay; k < keys; k += 100 {
		var b Batch
		for i := range 100 {
			b.Delete(key(k + i))
		}
		if err := s.Commit(&b); err != nil {
			t.Fatal(err)
		}
	}
	fill(keys, keys+more) // what is deleted leaves the log of the newest writes
	const live = (stay + more) * size
	var all, largest int64
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if all, largest = s.tables(); all == largest && all <= live*3/2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the tables take %d bytes, %d of them in one level, %d are alive", all, largest, live)
		}
	}
	n := 0
	err = s.View(func(r Reader) error {
		return r.Scan([]byte("k/"), func(_, _ []byte) error {
			n++
			return nil
		})
	})
	if err != nil || n != stay+more {
		t.Fatalf("%d keys, %v", n, err)
	}
	before := s.db.Tables()
	s.tidy()
	if after := s.db.Tables(); len(after) != len(before) || after[0].ID != before[0].ID {
		t.Error("a store that nobody wrote to was written again")
	}
}
