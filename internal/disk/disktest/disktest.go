// Package disktest holds the promises every disk.Store keeps, and a simulated
// disk that breaks in the ways disks break: torn and lost unsynced writes, a
// failing nth call, no space, flipped bits.
package disktest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"carrierclass.net/ccnode/internal/disk"
)

// A Rig is one medium under test.
type Rig interface {
	// Open opens the store on the rig's medium; the test closes it.
	Open() (disk.Store, error)
	// Corrupt changes the stored bytes of key, in the open store.
	Corrupt(s disk.Store, key []byte) error
	// Fill makes the medium report only free bytes.
	Fill(free int64)
}

// Suite runs every promise of disk.Store on rigs made by fresh.
func Suite(t *testing.T, fresh func(t *testing.T) Rig) {
	for name, test := range map[string]func(*testing.T, Rig){
		"CommittedSurvivesReopen":      survives,
		"BatchIsAllOrNothingInOrder":   order,
		"ScanSeesOnlyThePrefixSorted":  scan,
		"ViewIsASnapshot":              snapshot,
		"CorruptValueIsReported":       corrupt,
		"ScrubSetsDamageAside":         scrub,
		"LowSpaceRefusesAndSaysSo":     lowSpace,
		"TooBigIsRefusedAlone":         tooBig,
		"ManyWritersAtOnce":            writers,
		"ClosedStoreSaysSo":            closed,
		"BucketsDoNotMeet":             buckets,
		"LargestBatchIsTaken":          largest,
		"ReopenKeepsWhatWasCommitted":  reopen,
		"MissingKeyMatchesErrNotFound": missing,
	} {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

func open(t *testing.T, r Rig) disk.Store {
	t.Helper()
	s, err := r.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t *testing.T, s disk.Store, kv ...string) {
	t.Helper()
	var b disk.Batch
	for i := 0; i < len(kv); i += 2 {
		b.Put([]byte(kv[i]), []byte(kv[i+1]))
	}
	if err := s.Commit(&b); err != nil {
		t.Fatal(err)
	}
}

func get(s disk.Store, key string) (value string, err error) {
	err = s.View(func(r disk.Reader) error {
		v, err := r.Get([]byte(key))
		value = string(v)
		return err
	})
	return value, err
}

func want(t *testing.T, s disk.Store, key, value string) {
	t.Helper()
	got, err := get(s, key)
	if err != nil || got != value {
		t.Fatalf("got %q, %v for %q, want %q", got, err, key, value)
	}
}

func all(t *testing.T, s disk.Store, prefix string) (out []string) {
	t.Helper()
	err := s.View(func(r disk.Reader) error {
		return r.Scan([]byte(prefix), func(k, v []byte) error {
			out = append(out, string(k)+"="+string(v))
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func survives(t *testing.T, r Rig) {
	s := open(t, r)
	put(t, s, "a", "1", "b", "2")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, r)
	want(t, s, "a", "1")
	want(t, s, "b", "2")
	if d := s.Damage(); len(d) != 0 {
		t.Fatalf("damage reported on a healthy store: %v", d)
	}
}

func reopen(t *testing.T, r Rig) {
	s := open(t, r)
	put(t, s, "a", "1")
	if err := s.Reopen(); err != nil {
		t.Fatal(err)
	}
	want(t, s, "a", "1")
	put(t, s, "a", "2")
	want(t, s, "a", "2")
}

func order(t *testing.T, r Rig) {
	s := open(t, r)
	put(t, s, "gone", "x")
	var b, c disk.Batch
	b.Put([]byte("k"), []byte("first"))
	c.Delete([]byte("gone"))
	c.Put([]byte("k"), []byte("second"))
	b.Append(&c)
	if err := s.Commit(&b); err != nil {
		t.Fatal(err)
	}
	want(t, s, "k", "second")
	if _, err := get(s, "gone"); !errors.Is(err, disk.ErrNotFound) {
		t.Fatalf("deleted key: %v", err)
	}
}

func scan(t *testing.T, r Rig) {
	s := open(t, r)
	put(t, s, "p/c", "3", "p/a", "1", "q", "x", "p/b", "2", "o", "x", "p", "x")
	got := fmt.Sprint(all(t, s, "p/"))
	if got != "[p/a=1 p/b=2 p/c=3]" {
		t.Fatalf("got %s", got)
	}
	stop := errors.New("enough")
	n := 0
	err := s.View(func(r disk.Reader) error {
		return r.Scan([]byte("p/"), func(_, _ []byte) error { n++; return stop })
	})
	if !errors.Is(err, stop) || n != 1 {
		t.Fatalf("scan went on after an error: %d, %v", n, err)
	}
}

func snapshot(t *testing.T, r Rig) {
	s := open(t, r)
	put(t, s, "k", "old")
	err := s.View(func(r disk.Reader) error {
		done := make(chan error, 1)
		go func() {
			var b disk.Batch
			b.Put([]byte("k"), []byte("new"))
			done <- s.Commit(&b)
		}()
		if err := <-done; err != nil {
			return err
		}
		v, err := r.Get([]byte("k"))
		if string(v) != "old" {
			t.Errorf("view sees %q, %v", v, err)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want(t, s, "k", "new")
}

func corrupt(t *testing.T, r Rig) {
	s := open(t, r)
	put(t, s, "good", "1", "hurt", "2", "zgood", "3")
	if err := r.Corrupt(s, []byte("hurt")); err != nil {
		t.Fatal(err)
	}
	if v, err := get(s, "hurt"); !errors.Is(err, disk.ErrDamaged) {
		t.Fatalf("corrupt value returned as %q, %v", v, err)
	}
	if got := fmt.Sprint(all(t, s, "")); got != "[good=1 zgood=3]" {
		t.Fatalf("scan gives %s", got)
	}
	d := s.Damage()
	if len(d) != 1 || string(d[0].Key) != "hurt" {
		t.Fatalf("damage is %v", d)
	}
}

func scrub(t *testing.T, r Rig) {
	s := open(t, r)
	put(t, s, "good", "1", "hurt", "2")
	if err := r.Corrupt(s, []byte("hurt")); err != nil {
		t.Fatal(err)
	}
	found, err := disk.Scrub(s)
	if err != nil || len(found) != 1 {
		t.Fatalf("found %v, %v", found, err)
	}
	if _, err := get(s, "hurt"); !errors.Is(err, disk.ErrNotFound) {
		t.Fatalf("damaged value still in place: %v", err)
	}
	if _, err := get(s, disk.Quarantine+"hurt"); err != nil {
		t.Fatalf("damaged value was not kept: %v", err)
	}
	put(t, s, "hurt", "again")
	want(t, s, "hurt", "again")
}

func lowSpace(t *testing.T, r Rig) {
	s := open(t, r)
	put(t, s, "a", "1")
	sp, err := s.Space()
	if err != nil || sp.Low() {
		t.Fatalf("space is %+v, %v", sp, err)
	}
	r.Fill(sp.Reserve - 1)
	var b disk.Batch
	b.Put([]byte("b"), []byte("2"))
	err = s.Commit(&b)
	var low *disk.SpaceError
	if !errors.Is(err, disk.ErrNoSpace) || !errors.As(err, &low) {
		t.Fatalf("write on a full disk: %v", err)
	}
	var del disk.Batch
	del.Delete([]byte("a"))
	if err := s.Commit(&del); err != nil {
		t.Fatalf("deleting frees space and must go on: %v", err)
	}
	r.Fill(0)
	if err := s.Commit(&del); !errors.Is(err, disk.ErrNoSpace) {
		t.Fatalf("deleting with 0 bytes free: %v", err)
	}
	r.Fill(-1)
	if err := s.Commit(&b); err != nil {
		t.Fatalf("space came back but writing did not: %v", err)
	}
	want(t, s, "b", "2")
}

func tooBig(t *testing.T, r Rig) {
	s := open(t, r)
	var b disk.Batch
	b.Put([]byte("big"), make([]byte, disk.MaxBatchBytes+1))
	if err := s.Commit(&b); !errors.Is(err, disk.ErrTooBig) {
		t.Fatalf("oversized batch: %v", err)
	}
	put(t, s, "k", "v")
	want(t, s, "k", "v")
}

func largest(t *testing.T, r Rig) {
	s := open(t, r)
	var b disk.Batch
	value := make([]byte, disk.MaxBatchBytes/disk.MaxBatchOps-8)
	for i := range disk.MaxBatchOps {
		b.Put(fmt.Appendf(nil, "%08d", i), value)
	}
	if err := s.Commit(&b); err != nil {
		t.Fatal(err)
	}
	if n := len(all(t, s, "")); n != disk.MaxBatchOps {
		t.Fatalf("%d values", n)
	}
}

func writers(t *testing.T, r Rig) {
	s := open(t, r)
	const n, each = 16, 25
	var wg sync.WaitGroup
	for w := range n {
		wg.Go(func() {
			for i := range each {
				var b disk.Batch
				b.Put(fmt.Appendf(nil, "w/%02d/%02d", w, i), bytes.Repeat([]byte{byte(i)}, 100))
				if err := s.Commit(&b); err != nil {
					t.Errorf("writer %d: %v", w, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := len(all(t, s, "w/")); got != n*each {
		t.Fatalf("%d values, want %d", got, n*each)
	}
}

func closed(t *testing.T, r Rig) {
	s := open(t, r)
	s.Close()
	var b disk.Batch
	b.Put([]byte("a"), nil)
	if err := s.Commit(&b); !errors.Is(err, disk.ErrClosed) {
		t.Fatalf("commit: %v", err)
	}
	if err := s.View(func(disk.Reader) error { return nil }); !errors.Is(err, disk.ErrClosed) {
		t.Fatalf("view: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
}

func buckets(t *testing.T, r Rig) {
	s := open(t, r)
	one, two := disk.NewBucket(s, "one"), disk.NewBucket(s, "two")
	if err := one.Put(t.Context(), "k", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Get("k"); !errors.Is(err, disk.ErrNotFound) {
		t.Fatalf("buckets meet: %v", err)
	}
	n := 0
	err := one.Scan(func(key string, value []byte) error {
		n++
		if key != "k" || string(value) != "1" {
			t.Errorf("got %q %q", key, value)
		}
		return nil
	})
	if err != nil || n != 1 {
		t.Fatalf("%d values, %v", n, err)
	}
	if err := one.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Get("k"); !errors.Is(err, disk.ErrNotFound) {
		t.Fatalf("deleted: %v", err)
	}
}

func missing(t *testing.T, r Rig) {
	s := open(t, r)
	if _, err := get(s, "nothing"); !errors.Is(err, disk.ErrNotFound) {
		t.Fatalf("got %v", err)
	}
}
