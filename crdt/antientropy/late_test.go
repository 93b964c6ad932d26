package antientropy

import (
	"fmt"
	"slices"
	"testing"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/riblt"
)

// many is a node of several scopes: a box of the model for each.
type many struct {
	*box  // the machine's; what has no scope
	of    map[crdt.Scope]*box
	first map[crdt.Scope][]crdt.ID
}

var manyScopes = []crdt.Scope{crdt.Trust, crdt.SiteScope([10]byte{1}), crdt.Fleet}

func newMany(id byte) *many {
	m := &many{of: map[crdt.Scope]*box{}, first: map[crdt.Scope][]crdt.ID{}}
	for _, s := range manyScopes {
		m.of[s] = &box{id: Peer{id}, set: crdt.NewSet(s), bytes: map[crdt.ID][]byte{}, epoch: 1, epochs: map[uint32]uint64{1: 0}, taken: map[Scoped]Cursor{}, ack: map[Scoped]uint64{}}
	}
	m.box = m.of[crdt.Fleet]
	m.m = New(m)
	m.m.Configure([]Neighbour{{Peer: Peer{3 - id}, Shared: manyScopes}})
	return m
}

func (m *many) Head(s crdt.Scope) uint64                          { return m.of[s].head }
func (m *many) After(s crdt.Scope, n uint64, limit int) []Arrival { return m.of[s].After(s, n, limit) }
func (m *many) Fingerprint(s crdt.Scope) crdt.Fingerprint         { return m.of[s].set.Fingerprint() }
func (m *many) Believes(s crdt.Scope, c Cursor) bool              { return m.of[s].Believes(s, c) }
func (m *many) Taken(p Peer, s crdt.Scope) Cursor                 { return m.of[s].Taken(p, s) }
func (m *many) Acked(p Peer, s crdt.Scope) uint64                 { return m.of[s].Acked(p, s) }
func (m *many) EachID(s crdt.Scope, fn func(crdt.ID))             { m.of[s].set.EachID(fn) }
func (m *many) Sketch(s crdt.Scope, k riblt.Key) *riblt.Sketch    { return m.of[s].set.Sketch(k) }
func (m *many) First(_ Peer, s crdt.Scope) []crdt.ID              { return slices.Clone(m.first[s]) }
func (m *many) Bytes(id crdt.ID) (raw []byte, err error) {
	for _, b := range m.of {
		if raw = b.bytes[id]; raw != nil {
			return raw, nil
		}
	}
	return nil, nil
}

func (m *many) put(s crdt.Scope, rec string) crdt.ID {
	m.stamp++
	c := &crdt.Change{Scope: s, Node: m.id, Actor: 1, Stamp: m.stamp, Writes: []crdt.Write{{Table: 1, Record: rec, Field: "f", Value: []byte("value")}}}
	if err := crdt.Seal(c, crdt.FleetID{}, func([]byte) []byte { return make([]byte, 64) }); err != nil {
		panic(err)
	}
	m.of[s].take(c.Raw(), Peer{})
	return c.ID()
}

// pair carries messages between two of them.
type pair struct {
	ends   [2]*many
	wire   [2][][]byte // to each
	copies int
}

func (p *pair) collect(i int) {
	b := p.ends[i]
	for {
		r := b.m.Ready()
		if len(r.Incoming)+len(r.Messages)+len(r.Acked)+len(r.Drop) == 0 {
			return
		}
		if len(r.Drop) > 0 {
			panic(r.Drop[0].Why)
		}
		for _, a := range r.Acked {
			b.of[a.Scope].ack[Scoped{a.Peer, a.Scope}] = a.N
		}
		for _, in := range r.Incoming {
			for _, raw := range in.Changes {
				p.copies++
				b.of[in.Scope].take(raw, in.Peer)
			}
			b.of[in.Scope].taken[Scoped{in.Peer, in.Scope}] = in.Cursor
			b.m.Stored(in)
			b.m.Changed(in.Scope)
		}
		for _, o := range r.Messages {
			p.wire[1-i] = append(p.wire[1-i], o.Body)
		}
	}
}

func (p *pair) step() (some bool) {
	for i, b := range p.ends {
		if len(p.wire[i]) > 0 {
			body := p.wire[i][0]
			p.wire[i] = p.wire[i][1:]
			b.m.Receive(p.ends[1-i].id, body)
			p.collect(i)
			some = true
		}
	}
	return some
}

func (p *pair) link() {
	p.wire = [2][][]byte{}
	for i, b := range p.ends {
		b.m.LinkDown(p.ends[1-i].id)
		p.ends[i].m.Ready()
	}
	for i, b := range p.ends {
		b.m.LinkUp(p.ends[1-i].id)
		b.m.Pace(p.ends[1-i].id, 8<<10)
	}
	p.collect(0)
	p.collect(1)
}

// A new box is sent of a long trust scope what it needs first, then all of its
// site and what it needs first of the fleet, then the rest of trust, and then the
// rest of the fleet. What is written meanwhile goes ahead. A cut does not make it
// wait for all grants, and what it has taken is not sent again.
func TestALongTrustScopeDoesNotHoldUpASite(t *testing.T) {
	p := &pair{ends: [2]*many{newMany(1), newMany(2)}}
	a, b := p.ends[0], p.ends[1]
	own := manyScopes[1]
	const grants, users, entries = 3000, 100, 1500
	for i := range grants {
		if id := a.put(crdt.Trust, fmt.Sprint("grant ", i)); i%400 == 399 {
			a.first[crdt.Trust] = append(a.first[crdt.Trust], id)
		}
	}
	for i := range users {
		a.put(own, fmt.Sprint("user ", i))
	}
	for i := range entries {
		if id := a.put(crdt.Fleet, fmt.Sprint("entry ", i)); i%500 == 499 {
			a.first[crdt.Fleet] = append(a.first[crdt.Fleet], id)
		}
	}
	has := func(s crdt.Scope, ids []crdt.ID) (n int) {
		for _, id := range ids {
			if b.of[s].set.Has(id) {
				n++
			}
		}
		return n
	}
	count := func(s crdt.Scope) int { return b.of[s].set.Len() }
	cuts, edits := 0, 0
	var edit crdt.ID
	where, age := crdt.Trust, 0
	p.link()
	for steps := 0; p.step() || len(p.wire[0])+len(p.wire[1]) > 0; steps++ {
		if steps > 100_000 {
			t.Fatal("they never stop talking")
		}
		trust, fleet := len(a.first[crdt.Trust]), len(a.first[crdt.Fleet])
		switch {
		case count(own) > 0 && has(crdt.Trust, a.first[crdt.Trust]) < trust:
			t.Fatal("a change of the site came before the grants that are needed first")
		case count(own) < users && cuts == 0 && count(crdt.Trust) > trust+64:
			t.Fatalf("%d grants went before the site, of which %d are there", count(crdt.Trust), count(own))
		case has(crdt.Fleet, a.first[crdt.Fleet]) < fleet && cuts == 0 && count(crdt.Trust) > trust+64:
			t.Fatalf("%d grants went before what is needed first of the fleet", count(crdt.Trust))
		case count(crdt.Trust) < grants && count(crdt.Fleet) > fleet+8+edits:
			t.Fatalf("%d of the fleet went before the grants, of which %d are there", count(crdt.Fleet), count(crdt.Trust))
		}
		if edit != (crdt.ID{}) && b.of[where].set.Has(edit) {
			edit = crdt.ID{}
		} else if edit != (crdt.ID{}) {
			if age++; age > 8 {
				t.Fatalf("what was written in %s waits behind %d grants", where, grants-count(crdt.Trust))
			}
		}
		if n := count(crdt.Trust); edit == (crdt.ID{}) && n > 200 && n < grants-300 && steps%40 == 0 {
			where = manyScopes[2*(edits%2)]
			edits++
			edit, age = a.put(where, fmt.Sprint("edit ", edits)), 0
			a.m.Changed(where)
			p.collect(0)
		}
		if n := count(crdt.Trust); cuts == 0 && count(own) > users/2 || cuts == 1 && n > grants/2 {
			cuts++
			edit = crdt.ID{}
			p.link()
		}
	}
	for _, s := range manyScopes {
		if a.of[s].set.Fingerprint() != b.of[s].set.Fingerprint() {
			t.Errorf("%s: %d of %d changes", s, count(s), a.of[s].set.Len())
		}
	}
	if cuts != 2 || edits < 5 {
		t.Errorf("%d cuts and %d edits: it says nothing", cuts, edits)
	}
	if all := grants + users + entries + edits; p.copies > all+300 {
		t.Errorf("%d copies of %d changes", p.copies, all)
	}
	if n := a.m.Owed(b.id, 10); n != 0 {
		t.Errorf("%d are owed", n)
	}
}

// The same when nothing of the fleet waits but what is written now.
func TestAnEditPassesALongTrustScope(t *testing.T) {
	p := &pair{ends: [2]*many{newMany(1), newMany(2)}}
	a, b := p.ends[0], p.ends[1]
	a.put(crdt.Trust, "grant")
	a.put(crdt.Fleet, "entry")
	p.link()
	for p.step() {
	}
	const grants = 1500
	for i := range grants {
		a.first[crdt.Trust] = []crdt.ID{a.put(crdt.Trust, fmt.Sprint("grant ", i))}
	}
	p.link()
	for b.of[crdt.Trust].set.Len() < grants/5 && p.step() {
	}
	for _, rec := range []string{"one", "two", "three"} {
		id := a.put(crdt.Fleet, rec)
		a.m.Changed(crdt.Fleet)
		p.collect(0)
		for n := 0; !b.of[crdt.Fleet].set.Has(id); n++ {
			if n > 8 || !p.step() {
				t.Fatalf("edit %s waits behind %d grants", rec, grants-b.of[crdt.Trust].set.Len())
			}
		}
	}
	if b.of[crdt.Trust].set.Len() > grants/2 {
		t.Fatal("most grants had arrived: it says nothing")
	}
	for p.step() {
	}
	for _, s := range manyScopes {
		if a.of[s].set.Fingerprint() != b.of[s].set.Fingerprint() {
			t.Errorf("%s: %d of %d changes", s, b.of[s].set.Len(), a.of[s].set.Len())
		}
	}
}
