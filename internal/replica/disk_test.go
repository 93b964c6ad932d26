package replica

import (
	"bytes"
	"fmt"
	"io/fs"
	"path/filepath"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
)

// BenchmarkDisk edits each of 1,000 values of 100 bytes twelve times, closes the
// store, opens it again, and compares what lies in its folder with the live
// changes. The goal is 3 times; the history that is kept on purpose, and logs that
// are filled before they are emptied, are in it.
func BenchmarkDisk(b *testing.B) {
	const keys, edits = 1000, 12
	dir := filepath.Join(b.TempDir(), "state")
	n := onBadger(b, dir)
	for range b.N {
		value := bytes.Repeat([]byte("x"), 90)
		for e := range edits {
			for k := range keys {
				if _, err := n.put(crdt.Fleet, fmt.Sprint("u", k), "name", fmt.Sprintf("%s %d %d", value, e, k)); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	time.Sleep(2 * choreDelay)
	live := 0
	n.e.View(func(View) {
		n.e.scopes[crdt.Fleet].arrivals.after(0, func(a arrival) bool {
			live += int(a.size)
			return true
		})
	})
	n.stop()
	s := badgerAt(b, dir)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	var used int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			i, err := d.Info()
			if err != nil {
				return err
			}
			used += i.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(used)/1e6, "MB")
	b.ReportMetric(float64(live)/1e6, "live-MB")
	b.ReportMetric(float64(used)/float64(live), "times")
}
