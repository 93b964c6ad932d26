package blob

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// A life is a node's recordings, the entries that name them, and what a law-abiding
// collector may do.
type life struct {
	t       testing.TB
	rng     *rand.Rand
	dir     string
	s       *Store
	c       *Collector
	mono    time.Duration // of this process
	named   map[site.BlobRef]bool
	strange map[site.BlobRef]bool // named by entries of a kind not known here
	owed    map[site.BlobRef]bool
	under   map[site.BlobRef]*Recording    // committed, and not done
	since   map[site.BlobRef]time.Duration // running time while nothing named it, as seen from outside
	removed int
	jumps   int
	starts  int
}

func (l *life) start() {
	l.s = storeIn(l.t, l.dir)
	l.starts++
	l.s.opts.Random = rand.NewChaCha8([32]byte{byte(l.starts), byte(l.starts >> 8)})
	l.mono = 0
	l.c = NewCollector(CollectConfig{Store: l.s, Elapsed: func() time.Duration { return l.mono },
		Named: func(ref site.BlobRef) bool { return l.named[ref] },
		Mentions: func(fn func(func(site.BlobRef) bool)) {
			fn(func(ref site.BlobRef) bool { return l.named[ref] || l.strange[ref] })
		},
		Owed:    func(ref site.BlobRef) bool { return l.owed[ref] },
		Removed: func(refs []site.BlobRef) { l.removed += len(refs) }})
}

func (l *life) needed(ref site.BlobRef) bool {
	return l.named[ref] || l.strange[ref] || l.owed[ref] || l.under[ref] != nil
}

// pass lets the process run for d; jump is what a bad clock adds to that.
func (l *life) pass(d, jump time.Duration) {
	l.mono += d + jump
	for ref := range l.since {
		l.since[ref] += d
	}
}

func (l *life) sweep() {
	before := l.s.List()
	if _, err := l.c.Sweep(); err != nil {
		l.t.Fatal(err)
	}
	for _, ref := range before {
		if l.needed(ref) {
			if !l.strange[ref] || l.named[ref] || l.owed[ref] || l.under[ref] != nil {
				delete(l.since, ref) // what is not known here only keeps it in the end
			}
			if !l.s.Has(ref) {
				l.t.Fatal("a recording that is needed was removed")
			}
			if _, ok := l.since[ref]; !ok && l.strange[ref] && !l.named[ref] && !l.owed[ref] && l.under[ref] == nil {
				l.since[ref] = 0 // and its time is counted meanwhile
			}
		} else if l.s.Has(ref) {
			if _, ok := l.since[ref]; !ok {
				l.since[ref] = 0
			}
		} else if was, ok := l.since[ref]; !ok || was < Grace-time.Duration(l.jumps)*2*SweepEvery {
			l.t.Fatalf("a recording was removed %v after the last use of it", was)
		}
	}
	maps.DeleteFunc(l.since, func(ref site.BlobRef, _ time.Duration) bool { return !l.s.Has(ref) })
}

func (l *life) any() (site.BlobRef, bool) {
	all := l.s.List()
	if len(all) == 0 {
		return site.BlobRef{}, false
	}
	slices.SortFunc(all, func(a, b site.BlobRef) int { return bytes.Compare(a[:], b[:]) })
	return all[l.rng.IntN(len(all))], true
}

func (l *life) step() {
	flip := func(in map[site.BlobRef]bool) {
		if ref, ok := l.any(); ok {
			if in[ref] = !in[ref]; !in[ref] {
				delete(in, ref)
			}
		}
	}
	switch l.rng.IntN(12) {
	case 0, 1:
		r, err := l.s.Create([]byte("note"))
		if err != nil {
			l.t.Fatal(err)
		}
		_, _ = r.Write([]byte{byte(l.rng.IntN(40))}) // some are the same as one before
		ref, _, err := r.Commit()
		if err != nil {
			l.t.Fatal(err)
		}
		if l.rng.IntN(3) == 0 && l.under[ref] == nil {
			l.under[ref] = r
			return
		}
		l.named[ref] = true
		if err := r.Done(); err != nil {
			l.t.Fatal(err)
		}
	case 2: // the entry of one under way is written
		order := func(a, b site.BlobRef) int { return bytes.Compare(a[:], b[:]) }
		for _, ref := range slices.SortedFunc(maps.Keys(l.under), order) {
			l.named[ref] = true
			if err := l.under[ref].Done(); err != nil {
				l.t.Fatal(err)
			}
			delete(l.under, ref)
			return
		}
	case 3, 4:
		flip(l.named)
	case 5:
		flip(l.strange)
	case 6:
		flip(l.owed)
	case 7: // the process ends, or the power; the account may suffer
		name := l.c.file()
		if b, err := os.ReadFile(name); err == nil {
			switch l.rng.IntN(4) {
			case 0:
				b = b[:l.rng.IntN(len(b))]
			case 1:
				b[l.rng.IntN(len(b))] ^= 1 << l.rng.IntN(8)
			}
			if err := os.WriteFile(name, b, 0o600); err != nil {
				l.t.Fatal(err)
			}
		}
		l.start()
	case 8: // clocks are set
		l.pass(0, time.Duration(l.rng.Int64N(int64(3*Grace)))-Grace)
		l.jumps++
	default:
		for range l.rng.IntN(500) {
			l.pass(SweepEvery, 0)
			l.sweep()
		}
	}
}

func TestNothingThatIsNamedIsCollected(t *testing.T) {
	seeds := uint64(5)
	if os.Getenv("CCNODE_LONG") != "" {
		seeds = 500
	}
	removed := 0
	for seed := range seeds {
		l := &life{t: t, rng: rand.New(rand.NewPCG(seed, 9)), dir: t.TempDir(), named: map[site.BlobRef]bool{}, strange: map[site.BlobRef]bool{},
			owed: map[site.BlobRef]bool{}, under: map[site.BlobRef]*Recording{}, since: map[site.BlobRef]time.Duration{}}
		l.start()
		for range 60 {
			l.step()
		}
		// In the end all that nobody needs goes.
		for range Grace/SweepEvery + 2 {
			l.pass(SweepEvery, 0)
			l.sweep()
		}
		for _, ref := range l.s.List() {
			if !l.needed(ref) {
				t.Fatalf("seed %d: a recording of no use is still here", seed)
			}
		}
		removed += l.removed
	}
	if removed < int(seeds) {
		t.Fatalf("only %d were removed: the test tests nothing", removed)
	}
}

// A machine that slept for a year, or whose clock went wrong, has not looked for
// a year.
func TestASleepIsNotAGrace(t *testing.T) {
	l := &life{t: t, rng: rand.New(rand.NewPCG(1, 1)), dir: t.TempDir(), since: map[site.BlobRef]time.Duration{}}
	l.start()
	ref := record(t, l.s, []byte("x"))
	for _, r := range must(os.ReadDir(l.s.tmp())) {
		_ = os.Remove(l.s.tmp() + "/" + r.Name())
	}
	for range 10 {
		l.mono += 365 * 24 * time.Hour
		if n, err := l.c.Sweep(); n != 0 || err != nil {
			t.Fatal(n, err)
		}
		l.mono -= 400 * 24 * time.Hour
		if n, err := l.c.Sweep(); n != 0 || err != nil {
			t.Fatal(n, err)
		}
	}
	if !l.s.Has(ref) || l.c.Unnamed() != 1 {
		t.Fatal("it was removed")
	}
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}

// FuzzAccount: whatever the file holds, no time over the grace comes of it.
func FuzzAccount(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0})
	f.Add(make([]byte, accountLine+4))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readAccount(b)
		for _, d := range m {
			if d < 0 || d > Grace {
				t.Fatal(d)
			}
		}
		if err != nil && m != nil {
			t.Fatal("an account with an error")
		}
	})
}
