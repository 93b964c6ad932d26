package crdt

import (
	"math/rand/v2"
	"testing"
)

// TestIDMap: it has what a plain map has, also of ids that begin alike.
func TestIDMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var m idMap
	plain := map[ID]*entry{}
	for range 20_000 {
		var id ID
		id[0], id[20] = byte(r.IntN(4)), byte(r.IntN(8)) // four beginnings
		switch r.IntN(3) {
		case 0, 1:
			e := &entry{id: id}
			m.put(e)
			plain[id] = e
		default:
			m.drop(id)
			delete(plain, id)
		}
		if m.get(id) != plain[id] {
			t.Fatalf("%v: %p, want %p", id, m.get(id), plain[id])
		}
		n := 0
		m.each(func(e *entry) {
			n++
			if plain[e.id] != e {
				t.Fatalf("it has %v", e.id)
			}
		})
		if n != len(plain) {
			t.Fatalf("%d, want %d", n, len(plain))
		}
	}
}
