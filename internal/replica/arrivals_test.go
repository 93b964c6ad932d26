package replica

import (
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"carrierclass.net/ccnode/crdt"
)

// TestArrivalsAgainstAList compares the index, which at some moment goes on over
// what it was, with a plain list.
func TestArrivalsAgainstAList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a arrivals
		var plain []arrival
		for range rapid.IntRange(1, 400).Draw(t, "steps") {
			if a.count() != len(plain) {
				t.Fatalf("it counts %d, want %d", a.count(), len(plain))
			}
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 4:
				if a.base == nil {
					was := a
					a = was.over()
				}
			case 0, 1:
				n := a.head + 1
				var id crdt.ID
				binary.BigEndian.PutUint64(id[:], n)
				a.add(n, id, Peer{}, crdt.NodeID{}, 1)
				plain = append(plain, arrival{n: n, id: id})
			case 2:
				if len(plain) == 0 {
					continue
				}
				i := rapid.IntRange(0, len(plain)-1).Draw(t, "which")
				if n := a.remove(plain[i].id); n != plain[i].n {
					t.Fatalf("removed %d, want %d", n, plain[i].n)
				}
				plain = append(plain[:i:i], plain[i+1:]...)
			case 3:
				from := rapid.Uint64Range(0, a.head+2).Draw(t, "from")
				var got, want []uint64
				a.after(from, func(x arrival) bool { got = append(got, x.n); return true })
				for _, x := range plain {
					if x.n > from {
						want = append(want, x.n)
					}
				}
				if len(got) != len(want) {
					t.Fatalf("after %d: %v, want %v", from, got, want)
				}
				for i := range got {
					if got[i] != want[i] {
						t.Fatalf("after %d: %v, want %v", from, got, want)
					}
				}
			}
		}
	})
}
