package trust

import (
	"math/rand/v2"
	"testing"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// What a box of a site needs first is accepted in that order by one that knows
// nothing, and little of a large fleet: revocations take effect, and the key of
// every author of what comes next is known. The rest may come in any order.
func TestWhatIsNeededFirstIsEnough(t *testing.T) {
	f := newFleet(t, 3)
	set := crdt.NewSet(crdt.Trust)
	byID := map[crdt.ID]*crdt.Change{}
	put := func(c *crdt.Change) {
		set.Add(c)
		byID[c.ID()] = c
	}
	put(f.change(f.founder, f.fgrant, crdt.Trust, FoundingWrite(f.found), GrantWrite(f.fgrant)))
	box := func(by *Identity, own *Grant, s site.ID, r Rights) (*Identity, *Grant) {
		i, g := f.admit(by, own, s, r)
		put(f.change(by, own, crdt.Trust, GrantWrite(g)))
		return i, g
	}
	second, sg := box(f.founder, f.fgrant, siteA, AdmitFleet|AdmitSite)
	stranger := func(n byte) site.ID { return site.ID{200, n} }
	var author *Identity
	for n := range byte(100) {
		i, g := box(second, sg, stranger(n), AdmitSite)
		if n == 40 { // the first box of a site admits the second one, which writes
			author, _ = box(i, g, stranger(n), 0)
		}
	}
	b1, bg := box(second, sg, siteB, AdmitSite)
	thief, _ := box(b1, bg, siteB, 0)
	own, _ := box(b1, bg, siteB, AdmitSite)
	w, err := (&Revocation{Node: thief.Node(), Reason: "stolen"}).Write()
	if err != nil {
		t.Fatal(err)
	}
	put(f.change(b1, bg, crdt.Trust, w))
	f.book.Sync(set)

	first := f.book.NeededFirst(set, siteB, []site.NodeID{author.Node()})
	if len(first) > 10 {
		t.Errorf("%d of %d changes come first", len(first), set.Len())
	}
	fresh, have := NewBook(f.found), crdt.NewSet(crdt.Trust)
	take := func(id crdt.ID) {
		t.Helper()
		c := byID[id]
		key, ok := fresh.Key(c)
		if !ok || !c.Verify(f.found.ID(), key) {
			t.Fatalf("change %s by %s comes before its author's grant", id, site.NodeID(c.Node))
		}
		if v, err := fresh.Admit(c); v != Accept {
			t.Fatalf("change %s: %v", id, err)
		}
		fresh.Moved(have, have.Add(c).Cells)
		delete(byID, id)
	}
	for _, id := range first {
		take(id)
	}
	if fresh.Revocation(thief.Node()) == nil {
		t.Error("a revoked box is a member")
	}
	for _, n := range []site.NodeID{author.Node(), own.Node(), b1.Node(), f.founder.Node(), second.Node()} {
		if _, err := fresh.Member(n); err != nil {
			t.Error(err)
		}
	}
	if n := len(fresh.Members(site.ID{})); n > 8 {
		t.Errorf("%d members came first", n)
	}
	for _, id := range set.IDs() {
		if byID[id] != nil {
			take(id)
		}
	}
	if got, want := len(fresh.Members(site.ID{})), len(f.book.Members(site.ID{})); got != want {
		t.Errorf("%d members, want %d", got, want)
	}
}

// The cells of merges, in whatever order these come, tell the book what the whole
// scope tells it.
func TestTheBookMovesWithTheCells(t *testing.T) {
	for seed := range uint64(20) {
		f := newFleet(t, byte(seed))
		cs := []*crdt.Change{f.change(f.founder, f.fgrant, crdt.Trust, GrantWrite(f.fgrant))}
		by, own := f.founder, f.fgrant
		for range 4 { // a chain: each rests on the one before
			i, g := f.admit(by, own, siteA, AdmitSite)
			cs = append(cs, f.change(by, own, crdt.Trust, GrantWrite(g)))
			by, own = i, g
		}
		w, err := (&Revocation{Node: by.Node(), Reason: "stolen"}).Write()
		if err != nil {
			t.Fatal(err)
		}
		cs = append(cs, f.change(f.founder, f.fgrant, crdt.Trust, w))
		r := rand.New(rand.NewPCG(seed, 1))
		r.Shuffle(len(cs), func(i, j int) { cs[i], cs[j] = cs[j], cs[i] })
		moved, whole, set := NewBook(f.found), NewBook(f.found), crdt.NewSet(crdt.Trust)
		for i, c := range cs {
			moved.Moved(set, set.Add(c).Cells)
			whole.Sync(set)
			a, b := moved.Standings(), whole.Standings()
			if len(a) != len(b) {
				t.Fatalf("seed %d, %d changes: %d members by the cells, %d by all", seed, i+1, len(a), len(b))
			}
			for k := range a {
				if a[k].Grant.ID() != b[k].Grant.ID() || (a[k].Void == nil) != (b[k].Void == nil) || (a[k].Revoked == nil) != (b[k].Revoked == nil) {
					t.Fatalf("seed %d, %d changes: %+v by the cells, %+v by all", seed, i+1, a[k], b[k])
				}
			}
		}
		if n := len(moved.Standings()); n != 5 {
			t.Fatalf("%d members", n)
		}
	}
}
