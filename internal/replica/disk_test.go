package replica

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
)

// BenchmarkDisk edits each of 1,000 values of 100 bytes twelve times (CCNODE_KEYS:
// of so many), waits until the store was tidied, as it is after a quiet time, and
// compares the blocks that its folder takes with the live changes: of the running
// store, and closed. The goal is 3 times. The history that is kept on purpose, and
// logs that are filled before they are emptied, are in it; what is history is said
// besides.
func BenchmarkDisk(b *testing.B) {
	keys, edits := 1000, 12
	if n, err := strconv.Atoi(os.Getenv("CCNODE_KEYS")); err == nil {
		keys = n
	}
	dir := filepath.Join(b.TempDir(), "state")
	n := onBadger(b, dir)
	rng := rand.New(rand.NewPCG(1, 2))
	for range b.N {
		for range edits {
			var wg sync.WaitGroup
			next := make(chan string)
			for range 64 {
				wg.Go(func() {
					for v := range next {
						if _, err := n.put(crdt.Fleet, "u"+v[:7], "name", v); err != nil {
							b.Error(err)
						}
					}
				})
			}
			for k := range keys {
				v := fmt.Appendf(nil, "%07d", k)
				for len(v) < 100 { // letters compress about as names do
					v = append(v, "abcdefghijklmnopqrstuvwxyz      "[rng.IntN(32)])
				}
				next <- string(v)
			}
			close(next)
			wg.Wait()
		}
	}
	time.Sleep(2 * choreDelay)
	for tooMuch := true; tooMuch; time.Sleep(choreDelay) {
		<-n.e.enqueue(func(*turn) { tooMuch = n.e.history.bytes > n.e.cfg.HistoryBytes || !n.e.chores.empty() })
	}
	time.Sleep(5 * time.Second) // the store is tidied
	live := 0
	n.e.View(func(View) {
		n.e.scopes[crdt.Fleet].arrivals.after(0, func(a arrival) bool {
			live += int(a.size)
			return true
		})
	})
	history := 0
	err := n.store.View(func(r disk.Reader) error {
		return r.Scan([]byte("h/"), func(k, v []byte) error {
			history += len(k) + len(v)
			return nil
		})
	})
	if err != nil {
		b.Fatal(err)
	}
	running := blocks(b, dir)
	n.stop()
	closed := blocks(b, dir)
	b.ReportMetric(float64(live)/1e6, "live-MB")
	b.ReportMetric(float64(history)/1e6, "history-MB")
	b.ReportMetric(float64(running)/1e6, "running-MB")
	b.ReportMetric(float64(closed)/1e6, "closed-MB")
	b.ReportMetric(float64(running)/float64(live), "times")
	b.ReportMetric(float64(closed)/float64(live), "times-closed")
}

// blocks is what the files of a folder take on the medium.
func blocks(t testing.TB, dir string) (n int64) {
	var said bytes.Buffer
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			i, err := d.Info()
			if err != nil {
				return err
			}
			size := i.Sys().(*syscall.Stat_t).Blocks * 512
			n += size
			fmt.Fprintf(&said, " %s %d", d.Name(), size)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(said.String())
	return n
}
