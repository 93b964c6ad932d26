package disk_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/disk/disktest"
)

type rig struct {
	opts disk.Options
	free atomic.Int64
}

func newRig(t *testing.T) *rig {
	r := &rig{opts: disk.Options{Dir: t.TempDir(), Reserve: 1 << 20, Ballast: 1 << 20, Log: slog.New(slog.DiscardHandler)}}
	r.free.Store(-1)
	r.opts.Free = func(dir string) (int64, int64, error) {
		if n := r.free.Load(); n >= 0 {
			return n, 1 << 40, nil
		}
		return 1 << 39, 1 << 40, nil
	}
	return r
}

func (r *rig) Open() (disk.Store, error) { return disk.OpenBadger(r.opts) }
func (r *rig) Corrupt(s disk.Store, key []byte) error {
	return disk.Corrupt(s, key, []byte("flipped!"))
}
func (r *rig) Fill(free int64) { r.free.Store(free) }

func TestBadger(t *testing.T) {
	disktest.Suite(t, func(t *testing.T) disktest.Rig { return newRig(t) })
}

func commit(t *testing.T, s disk.Store, key string, value []byte) {
	t.Helper()
	var b disk.Batch
	b.Put([]byte(key), value)
	if err := s.Commit(&b); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, s disk.Store) (n int) {
	t.Helper()
	err := s.View(func(r disk.Reader) error {
		return r.Scan(nil, func(_, _ []byte) error { n++; return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFailedStoreRefusesUntilReopen(t *testing.T) {
	s, err := newRig(t).Open()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	commit(t, s, "a", []byte("1"))
	disk.Fail(s, errors.New("fsync: input/output error"))
	var b disk.Batch
	b.Put([]byte("b"), []byte("2"))
	if err := s.Commit(&b); !errors.Is(err, disk.ErrFailed) {
		t.Fatalf("got %v", err)
	}
	if err := s.Reopen(); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(&b); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s); n != 2 {
		t.Fatalf("%d values", n)
	}
}

func TestSecondProcessIsToldWhoHoldsTheFolder(t *testing.T) {
	if dir := os.Getenv("CCNODE_TEST_LOCK"); dir != "" {
		_, err := disk.LockFolder(dir)
		fmt.Println(err)
		return
	}
	dir := t.TempDir()
	l, err := disk.LockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestSecondProcessIsToldWhoHoldsTheFolder$")
	cmd.Env = append(os.Environ(), "CCNODE_TEST_LOCK="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{dir, fmt.Sprintf("process %d", os.Getpid()), "stop it first"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q does not say %q", out, want)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = disk.LockFolder(dir); err != nil {
		t.Fatalf("free folder: %v", err)
	}
	l.Close()
}

func TestStartsWithNoByteFree(t *testing.T) {
	r := newRig(t)
	s, err := r.Open()
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, "a", []byte("1"))
	s.Close()
	ballast := filepath.Join(r.opts.Dir, "ballast")
	if st, err := os.Stat(ballast); err != nil || st.Size() != 1<<20 {
		t.Fatalf("no ballast: %v", err)
	}
	r.Fill(0)
	if s, err = r.Open(); err != nil {
		t.Fatalf("start on a full disk: %v", err)
	}
	if st, err := os.Stat(ballast); err != nil || st.Size() != 0 {
		t.Fatalf("ballast was not given up: %v", err)
	}
	var b disk.Batch
	b.Put([]byte("b"), []byte("2"))
	if err := s.Commit(&b); !errors.Is(err, disk.ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
	if n := count(t, s); n != 1 {
		t.Fatalf("%d values", n)
	}
	s.Close()
	r.Fill(-1)
	if s, err = r.Open(); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if st, _ := os.Stat(ballast); st.Size() != 1<<20 {
		t.Fatal("ballast was not made again")
	}
}

// TestNoSilentDamage flips, zeroes and truncates the files of a store and wants
// every difference reported.
func TestNoSilentDamage(t *testing.T) {
	tries := 25
	if os.Getenv("CCNODE_LONG") != "" {
		tries = 1000
	}
	for _, kind := range []string{"log only", "tables"} {
		t.Run(kind, func(t *testing.T) {
			base := newRig(t)
			values := 300
			s, err := base.Open()
			if err != nil {
				t.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(5, 5))
			fill := func() {
				for i := range values {
					v := make([]byte, 250)
					for j := range v {
						v[j] = byte(rng.Uint32())
					}
					commit(t, s, fmt.Sprintf("k/%05d", i), v)
				}
			}
			fill()
			if kind == "tables" {
				s.Close() // flushes the memtable to a table
				if s, err = base.Open(); err != nil {
					t.Fatal(err)
				}
			}
			// Copied while open, as kill -9 leaves it.
			image := t.TempDir()
			if err := os.CopyFS(image, os.DirFS(base.opts.Dir)); err != nil {
				t.Fatal(err)
			}
			s.Close()
			served, reported, refused := 0, 0, 0
			for try := range tries {
				r := newRig(t)
				r.opts.SetAside = try%2 == 0
				if err := os.CopyFS(r.opts.Dir, os.DirFS(image)); err != nil {
					t.Fatal(err)
				}
				what := hurt(t, rng, filepath.Join(r.opts.Dir, "badger"))
				s, err := r.Open()
				if err != nil {
					if !errors.Is(err, disk.ErrDamaged) || r.opts.SetAside {
						t.Fatalf("%s: %v", what, err)
					}
					refused++
					continue
				}
				n := count(t, s)
				switch {
				case len(s.Damage()) > 0:
					reported++
				case n == values:
					served++
				default:
					t.Errorf("%s: %d of %d values and not a word", what, n, values)
				}
				s.Close()
				os.RemoveAll(r.opts.Dir)
			}
			t.Logf("%d served right, %d reported, %d refused", served, reported, refused)
		})
	}
}

// hurt damages one file in dir within the bytes in use.
func hurt(t *testing.T, rng *rand.Rand, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for {
		name := entries[rng.IntN(len(entries))].Name()
		full := filepath.Join(dir, name)
		data, err := os.ReadFile(full)
		if err != nil {
			t.Fatal(err)
		}
		used := len(bytes.TrimRight(data, "\x00"))
		if used == 0 {
			continue
		}
		at := rng.IntN(used)
		kind := rng.IntN(3)
		switch kind {
		case 0:
			data[at] ^= 1 << rng.IntN(8)
		case 1:
			clear(data[at:min(at+512, len(data))])
		case 2:
			data = data[:at]
		}
		if err := os.WriteFile(full, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s of %s at %d of %d", [...]string{"flip", "zeroes", "cut"}[kind], name, at, used)
	}
}

func TestGroupOfWritersSharesFsyncs(t *testing.T) {
	s, err := newRig(t).Open()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const writers = 64
	started := time.Now()
	done := make(chan error, writers)
	for w := range writers {
		go func() {
			var b disk.Batch
			b.Put(fmt.Appendf(nil, "w%d", w), []byte("x"))
			done <- s.Commit(&b)
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if n := disk.Commits(s); n >= writers {
		t.Errorf("%d transactions for %d writers that waited together", n, writers)
	} else {
		t.Logf("%d transactions for %d writers in %v", n, writers, time.Since(started))
	}
}

func TestCrashLoopIsTakenForDamage(t *testing.T) {
	r := newRig(t)
	s, err := r.Open()
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, "a", []byte("1"))
	s.Close()
	if err := os.WriteFile(filepath.Join(r.opts.Dir, "opening"), []byte("..."), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(); !errors.Is(err, disk.ErrDamaged) {
		t.Fatalf("got %v", err)
	}
	r.opts.SetAside = true
	if s, err = r.Open(); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n := count(t, s); n != 1 || len(s.Damage()) != 1 {
		t.Fatalf("%d values, damage %v", n, s.Damage())
	}
}

// TestStartsWithALogThatWasNotBegun: the process ended, or the power went, between
// the making of a log's file and its first byte. Badger refuses that file.
func TestStartsWithALogThatWasNotBegun(t *testing.T) {
	for _, name := range []string{"00077.mem", "000077.vlog"} {
		r := newRig(t)
		s, err := r.Open()
		if err != nil {
			t.Fatal(err)
		}
		commit(t, s, "a", []byte("1"))
		s.Close()
		logs, err := filepath.Glob(filepath.Join(r.opts.Dir, "*", "*.vlog"))
		if err != nil || len(logs) == 0 {
			t.Fatalf("where the logs are is not known: %v, %v", logs, err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(logs[0]), name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err = r.Open(); err != nil {
			t.Errorf("with an empty %s: %v", name, err)
			continue
		}
		if n := count(t, s); n != 1 {
			t.Errorf("with an empty %s: %d values", name, n)
		}
		s.Close()
	}
}
