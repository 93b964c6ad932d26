package node

import (
	"encoding/binary"
	"testing"

	"carrierclass.net/ccnode/mesh/overlay"
)

// A box whose line is cut finds its neighbours unreachable one after the other. It
// does not go on to dial a fleet of 3,000: as long as no other site is linked, a
// few failures mean that it is cut off itself. With one that is, it goes round
// whoever is gone.
func TestABoxThatIsCutOffDoesNotDialTheFleet(t *testing.T) {
	var members []overlay.Member
	for i := range 3000 {
		m := overlay.Member{Nonce: binary.BigEndian.AppendUint64(nil, uint64(i)), Class: overlay.Plain}
		binary.BigEndian.PutUint64(m.Node[:], uint64(i)+1)
		binary.BigEndian.PutUint64(m.Site[:], uint64(i)+1)
		members = append(members, m)
	}
	p := overlay.New(members)
	walk := func(outside bool) (dialled int) {
		var n Node
		for {
			before := dialled
			for _, id := range p.Neighbours(members[0].Node, n.away(outside)) {
				if id != members[0].Node && n.lost.note(id, true) {
					dialled++
				}
			}
			if dialled == before {
				return dialled
			}
		}
	}
	if n := walk(false); n < overlay.FanOut || n > 10*triedAlone {
		t.Errorf("a box that is cut off dials %d others", n)
	}
	if n := walk(true); n < len(members)/4 {
		t.Errorf("a box goes round %d others and no further", n)
	}
}
