package peers

import (
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
)

// long picks the short or the long version of a time.
func long(short, long time.Duration) time.Duration {
	if os.Getenv("CCNODE_LONG") != "" {
		return long
	}
	return short
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// store is what both kinds of replica can do.
type store interface {
	put(key string, value []byte) error
	has(key string) bool
	again() // the line works again: connect
}

// value is 100 bytes that nothing compresses, another for each key.
func value(i int) []byte {
	b := make([]byte, 100)
	rand.NewChaCha8([32]byte{byte(i), byte(i >> 8), byte(i >> 16)}).Read(b)
	return b
}

// fill writes keys from one number to another, some at a time.
func fill(t testing.TB, s store, from, to int) {
	t.Helper()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := from + w; i < to; i += 8 {
				if err := s.put(fmt.Sprintf("key%06d", i), value(i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// await waits until a replica has all keys from one number to another; false
// after the limit.
func await(s store, from, to int, limit time.Duration) (took time.Duration, all bool) {
	start := time.Now()
	for i := from; i < to; {
		if s.has(fmt.Sprintf("key%06d", i)) {
			i++
			continue
		}
		if time.Since(start) > limit {
			return time.Since(start), false
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(start), true
}

// figures of one kind of replica. Bytes are above TCP, both ways.
type figures struct {
	change   float64 // bytes of one change, alone
	idle     float64 // bytes a minute, connected, with nothing to say
	heal     float64 // bytes to heal 1,000 differing keys
	healTime time.Duration
	join     float64 // bytes for a fresh joiner, 10,000 keys
	joinTime time.Duration
	joined   int // keys the joiner has by then
}

const (
	differ = 1_000
	whole  = 10_000
	single = 10 // changes measured one by one
)

// measure runs the story: two meet, change by change, idle, a cut during which
// each writes half of what differs, the heal; then somebody new.
func measure(t *testing.T, a, b store, x *line, join func() (store, *line)) (f figures) {
	t.Helper()
	need := func(what string, s store, from, to int, limit time.Duration) time.Duration {
		t.Helper()
		took, ok := await(s, from, to, limit)
		if !ok {
			t.Fatalf("%s: keys %d to %d are not there after %v", what, from, to, took)
		}
		return took
	}
	fill(t, a, 0, 1)
	need("first key", b, 0, 1, 3*time.Minute)
	x.quiet()
	next := 1
	before := x.bytes.Load()
	for range single {
		fill(t, a, next, next+1)
		need("a change", b, next, next+1, 3*time.Minute)
		time.Sleep(300 * time.Millisecond) // what belongs to it comes, too
		next++
	}
	f.change = float64(x.bytes.Load()-before) / single
	x.quiet()

	t.Logf("a change: %.0f bytes", f.change)
	window := long(time.Minute, 10*time.Minute)
	before = x.bytes.Load()
	time.Sleep(window)
	f.idle = float64(x.bytes.Load()-before) / window.Minutes()

	t.Logf("idle: %.0f bytes a minute", f.idle)
	x.set(true)
	fill(t, a, next, next+differ/2)
	fill(t, b, next+differ/2, next+differ)
	time.Sleep(time.Second)
	before = x.bytes.Load()
	start := time.Now()
	x.set(false)
	a.again()
	need("heal", a, next, next+differ, 5*time.Minute)
	need("heal", b, next, next+differ, 5*time.Minute)
	f.healTime = time.Since(start)
	if f.heal = float64(x.quiet() - before); f.heal == 0 {
		t.Fatal("the heal went past the line")
	}
	next += differ
	t.Logf("heal: %.0f bytes, %v", f.heal, f.healTime)

	fill(t, a, next, whole)
	need("all keys", b, next, whole, 10*time.Minute)
	start = time.Now()
	c, y := join()
	await(c, 0, whole, long(2*time.Minute, 20*time.Minute))
	f.joinTime = time.Since(start)
	for i := range whole {
		if c.has(fmt.Sprintf("key%06d", i)) {
			f.joined++
		}
	}
	f.join = float64(y.bytes.Load())
	t.Logf("joined: %d keys, %.0f bytes, %v", f.joined, f.join, f.joinTime)
	return f
}

// TestStores prints what the engine and go-ds-crdt take for the same, the
// ratio last.
func TestStores(t *testing.T) {
	var ours, theirs figures
	t.Run("both", func(t *testing.T) {
		t.Run("ccnode", func(t *testing.T) {
			t.Parallel()
			all := &members{keys: map[crdt.NodeID]ed25519.PublicKey{}, ns: map[crdt.NodeID][]antientropy.Neighbour{}}
			a, b := newOwn(t, all, "a"), newOwn(t, all, "b")
			x := newLine(t, b.addr())
			a.meet(b, x)
			ours = measure(t, a, b, x, func() (store, *line) {
				c := newOwn(t, all, "c")
				y := newLine(t, b.addr())
				c.meet(b, y)
				return c, y
			})
		})
		t.Run("go-ds-crdt", func(t *testing.T) {
			t.Parallel()
			a, b := newOther(t), newOther(t)
			x := newLine(t, b.addr())
			a.meet(b, x)
			theirs = measure(t, a, b, x, func() (store, *line) {
				c := newOther(t)
				y := newLine(t, b.addr())
				c.meet(b, y)
				return c, y
			})
		})
	})
	if t.Failed() || ours.join == 0 || theirs.join == 0 {
		return // one of them alone was asked for, or failed
	}
	var out strings.Builder
	row := func(what, unit string, theirs, ours float64) {
		ratio := "–"
		if theirs > 0 {
			ratio = strconv.FormatFloat(ours/theirs, 'f', 3, 64)
		}
		fmt.Fprintf(&out, "| %s | %.6g %s | %.6g %s | %s |\n", what, theirs, unit, ours, unit, ratio)
	}
	out.WriteString("\n| What | go-ds-crdt 0.6.8 | ccnode | ratio |\n|---|---|---|---|\n")
	row("one change of 100 bytes, alone", "B", theirs.change, ours.change)
	row("idle, a minute", "B", theirs.idle, ours.idle)
	row(fmt.Sprintf("heal of %d differing keys, 100 bytes each", differ), "B", theirs.heal, ours.heal)
	row("the same, time", "s", theirs.healTime.Seconds(), ours.healTime.Seconds())
	row(fmt.Sprintf("a fresh joiner, %d keys", whole), "B", theirs.join, ours.join)
	row("the same, time", "s", theirs.joinTime.Seconds(), ours.joinTime.Seconds())
	row("the same, keys there by then", "", float64(theirs.joined), float64(ours.joined))
	t.Log(out.String())
	if ours.joined != whole {
		t.Errorf("a fresh joiner of ours has %d of %d keys", ours.joined, whole)
	}
	if ours.idle != 0 {
		t.Errorf("idle, ours says %.0f bytes a minute", ours.idle)
	}
	for what, pair := range map[string][2]float64{"a heal": {ours.heal, theirs.heal}, "joining, a key,": {ours.join / float64(max(1, ours.joined)), theirs.join / float64(max(1, theirs.joined))}, "a change": {ours.change, theirs.change}} {
		if pair[0] > pair[1] {
			t.Errorf("%s costs ours %.0f bytes, theirs %.0f", what, pair[0], pair[1])
		}
	}
}
