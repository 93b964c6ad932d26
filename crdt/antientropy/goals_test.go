package antientropy

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"carrierclass.net/ccnode/crdt"
)

// fill writes n users of a directory at box 0, so many to a change, with names
// like people's and signatures that nothing compresses, and returns the bytes of
// the changes.
func (w *world) fill(from, n, each int) (raw []byte) {
	b := w.boxes[0]
	r := rand.New(rand.NewPCG(1, uint64(from)))
	syllables := []string{"an", "be", "ro", "mi", "tal", "ver", "son", "ki", "du", "lo", "mar", "est"}
	word := func() (s string) {
		for range 2 + r.IntN(2) {
			s += syllables[r.IntN(len(syllables))]
		}
		return s
	}
	for i := from; i < from+n; i += each {
		b.stamp += 1 << 16
		c := &crdt.Change{Scope: crdt.Fleet, Node: b.id, Actor: 1, Stamp: b.stamp}
		for k := i; k < min(i+each, from+n); k++ {
			id := make([]byte, 10)
			for j := range id {
				id[j] = byte(r.Uint32())
			}
			c.Writes = append(c.Writes, crdt.Write{Table: 1, Record: string(id), Field: "d", Value: fmt.Appendf(nil, "%04d%03d %s %s", k/1000, k%1000, word(), word())})
		}
		if err := crdt.Seal(c, crdt.FleetID{}, func([]byte) []byte {
			sig := make([]byte, 64)
			for j := range sig {
				sig[j] = byte(r.Uint32())
			}
			return sig
		}); err != nil {
			w.t.Fatal(err)
		}
		b.take(c.Raw(), Peer{})
		raw = append(raw, c.Raw()...)
	}
	b.m.Changed(crdt.Fleet)
	return raw
}

// Two neighbours of a fleet that has many changes were cut while 1,000 were made:
// what the heal costs beside the changes themselves, compressed at once.
func TestHealOfAThousand(t *testing.T) {
	w := newWorld(t, 2)
	w.fill(0, 3000, 1)
	w.link(0, 1, true)
	w.settle()
	w.link(0, 1, false)
	raw := w.fill(10_000, 1000, 1)
	best := len(packer.EncodeAll(raw, nil))
	w.sent, w.bytes, w.copies = 0, 0, 0
	w.link(0, 1, true)
	w.settle()
	if err := w.equal(); err != nil {
		t.Fatal(err)
	}
	t.Logf("d = 1,000: %d bytes in %d messages, %.2f of the changes compressed (%d)", w.bytes, w.sent, float64(w.bytes)/float64(best), best)
	if w.copies != 1000 || w.bytes > best*11/10+200 {
		t.Errorf("%d changes, %d bytes, want 1000 and at most %d", w.copies, w.bytes, best*11/10+200)
	}
}

// A new box is sent a directory: figures for 300,000 users with -bench, by one
// change for each and by as many users a change as it holds.
func BenchmarkBootstrap(b *testing.B) {
	for _, each := range []int{1, crdt.MaxWrites} {
		b.Run(fmt.Sprintf("a change for %d", each), func(b *testing.B) {
			for range b.N {
				w := newWorld(&testing.T{}, 2)
				w.fill(0, 300_000, each)
				for _, x := range w.boxes {
					for _, o := range w.boxes {
						if x != o {
							x.m.Pace(o.id, 64<<10)
						}
					}
				}
				w.link(0, 1, true)
				w.settle()
				if err := w.equal(); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(w.bytes)/1e6, "MB")
			}
		})
	}
}
