package antientropy

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/riblt"
)

// box is a node of the model: a set, an arrival index, cursors, and a machine.
type box struct {
	first   []crdt.ID
	id      Peer
	m       *Machine
	set     *crdt.Set
	bytes   map[crdt.ID][]byte
	arrived []Arrival
	head    uint64
	epoch   uint32
	epochs  map[uint32]uint64
	taken   map[Scoped]Cursor
	ack     map[Scoped]uint64
	out     []Out
	stamp   crdt.Stamp
	holds   []crdt.Scope
	keep    func(*crdt.Change) bool // changes that are held, not applied
	blind   bool                    // the store cannot be read
	looked  int                     // arrivals that After gave out
}

func (b *box) Head(s crdt.Scope) uint64 { return b.head }
func (b *box) After(s crdt.Scope, n uint64, limit int) (out []Arrival) {
	first, _ := slices.BinarySearchFunc(b.arrived, n+1, func(a Arrival, n uint64) int { return cmp.Compare(a.N, n) })
	for _, a := range b.arrived[first:] {
		if b.set.Has(a.ID) {
			out = append(out, a)
			b.looked++
			if limit -= a.Size; limit <= 0 {
				break
			}
		}
	}
	return out
}
func (b *box) Bytes(id crdt.ID) ([]byte, error) {
	if b.blind {
		return nil, errors.New("the store cannot be read")
	}
	return b.bytes[id], nil
}
func (b *box) Fingerprint(crdt.Scope) crdt.Fingerprint { return b.set.Fingerprint() }
func (b *box) Epoch() uint32                           { return b.epoch }
func (b *box) Believes(_ crdt.Scope, c Cursor) bool {
	first, ok := b.epochs[c.Epoch]
	return ok && c.N >= first && c.N <= b.head
}
func (b *box) Taken(p Peer, s crdt.Scope) Cursor { return b.taken[Scoped{p, s}] }
func (b *box) Acked(p Peer, s crdt.Scope) uint64 { return b.ack[Scoped{p, s}] }
func (b *box) Outbox() []Out                     { return b.out }
func (b *box) Clock() crdt.Stamp                 { return b.stamp }

func (b *box) EachID(_ crdt.Scope, fn func(crdt.ID))          { b.set.EachID(fn) }
func (b *box) Sketch(_ crdt.Scope, k riblt.Key) *riblt.Sketch { return b.set.Sketch(k) }
func (b *box) First(Peer, crdt.Scope) []crdt.ID               { return b.first }
func (b *box) SketchKey() riblt.Key                           { return riblt.Key{1, b.id[0], byte(b.epoch)} }

func (b *box) restart() {
	b.epoch++
	b.epochs[b.epoch] = b.head
	ns := []Neighbour{}
	for _, p := range b.m.peers {
		ns = append(ns, p.Neighbour)
	}
	b.m = New(b)
	b.m.Configure(ns)
}

func (b *box) take(raw []byte, from Peer) {
	c, err := crdt.Decode(raw)
	if err != nil {
		panic(err)
	}
	if b.keep != nil && b.keep(c) {
		return
	}
	b.stamp = max(b.stamp, c.Stamp)
	if fx := b.set.Add(c); fx.Live && !fx.Known {
		b.head++
		b.bytes[c.ID()] = raw
		b.arrived = append(b.arrived, Arrival{b.head, c.ID(), from, len(raw)})
	}
}

func (b *box) write(rec, val string) {
	cell := crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: rec, Field: "f"}
	ctx := b.set.Known(cell)
	b.stamp = max(b.stamp+1, ctx.Max()+1)
	c := &crdt.Change{Scope: crdt.Fleet, Node: b.id, Actor: 1, Stamp: b.stamp, Writes: []crdt.Write{{Table: 1, Record: rec, Field: "f", Value: []byte(val), Ctx: ctx}}}
	if err := crdt.Seal(c, crdt.FleetID{}, func([]byte) []byte { return make([]byte, 64) }); err != nil {
		panic(err)
	}
	b.take(c.Raw(), Peer{})
	b.m.Changed(crdt.Fleet)
}

type packet struct {
	from, to Peer
	body     []byte
}

// world carries messages in order on each link; links can be cut.
type world struct {
	t      *testing.T
	boxes  []*box
	wire   []packet
	up     map[[2]int]bool
	sent   int
	bytes  int
	copies int
}

func newWorld(t *testing.T, n int) *world {
	w := &world{t: t, up: map[[2]int]bool{}}
	for i := range n {
		b := &box{id: Peer{byte(i + 1)}, set: crdt.NewSet(crdt.Fleet), bytes: map[crdt.ID][]byte{}, epoch: 1, epochs: map[uint32]uint64{1: 0},
			taken: map[Scoped]Cursor{}, ack: map[Scoped]uint64{}}
		b.m = New(b)
		w.boxes = append(w.boxes, b)
	}
	for i, b := range w.boxes {
		var ns []Neighbour
		for j, o := range w.boxes {
			if i != j {
				ns = append(ns, Neighbour{Peer: o.id, Shared: []crdt.Scope{crdt.Fleet}})
			}
		}
		b.m.Configure(ns)
	}
	return w
}

func (w *world) link(i, j int, up bool) {
	k := [2]int{min(i, j), max(i, j)}
	if w.up[k] == up {
		return
	}
	w.up[k] = up
	a, b := w.boxes[i], w.boxes[j]
	w.wire = slices.DeleteFunc(w.wire, func(p packet) bool {
		return p.from == a.id && p.to == b.id || p.from == b.id && p.to == a.id
	})
	for _, x := range [][2]*box{{a, b}, {b, a}} {
		if up {
			x[0].m.LinkUp(x[1].id)
		} else {
			x[0].m.LinkDown(x[1].id)
		}
	}
	w.collect(i)
	w.collect(j)
}

func (w *world) collect(i int) {
	b := w.boxes[i]
	for {
		r := b.m.Ready()
		if len(r.Incoming)+len(r.Messages)+len(r.Acked)+len(r.Drop)+len(r.Delivered) == 0 {
			return
		}
		for _, d := range r.Drop {
			w.t.Fatalf("box %d drops: %v", i, d.Why)
		}
		for _, a := range r.Acked {
			b.ack[Scoped{a.Peer, a.Scope}] = a.N
		}
		for _, in := range r.Incoming {
			for _, raw := range in.Changes {
				w.copies++
				b.take(raw, in.Peer)
			}
			if in.Cursor != (Cursor{}) {
				b.taken[Scoped{in.Peer, in.Scope}] = in.Cursor
			}
			b.m.Stored(in)
			b.m.Changed(in.Scope)
		}
		for _, id := range r.Delivered {
			b.out = slices.DeleteFunc(b.out, func(o Out) bool { return o.ID == id })
		}
		for _, msg := range r.Messages {
			j := slices.IndexFunc(w.boxes, func(o *box) bool { return o.id == msg.Peer })
			if w.up[[2]int{min(i, j), max(i, j)}] {
				w.wire = append(w.wire, packet{b.id, msg.Peer, msg.Body})
				w.sent++
				w.bytes += len(msg.Body)
			}
		}
	}
}

// settle delivers everything; it fails if the boxes never fall silent.
func (w *world) settle() {
	w.t.Helper()
	for i := range w.boxes {
		w.collect(i)
	}
	for n := 0; len(w.wire) > 0; n++ {
		if n > 200_000 {
			w.t.Fatal("they never stop talking")
		}
		p := w.wire[0]
		w.wire = w.wire[1:]
		i := slices.IndexFunc(w.boxes, func(o *box) bool { return o.id == p.to })
		w.boxes[i].m.Receive(p.from, p.body)
		w.collect(i)
	}
}

func (w *world) equal() error {
	for i, b := range w.boxes {
		if b.set.Fingerprint() != w.boxes[0].set.Fingerprint() {
			return fmt.Errorf("box %d holds %d changes, box 0 %d", i, b.set.Len(), w.boxes[0].set.Len())
		}
	}
	return nil
}

func TestOneEditTravelsOnceAndThenSilence(t *testing.T) {
	w := newWorld(t, 2)
	w.link(0, 1, true)
	w.settle()
	w.sent, w.bytes, w.copies = 0, 0, 0
	w.boxes[0].write("r", "v")
	w.collect(0)
	w.settle()
	if err := w.equal(); err != nil {
		t.Fatal(err)
	}
	if w.sent != 2 || w.copies != 1 {
		t.Errorf("one edit took %d messages and %d copies, want a batch and its ack", w.sent, w.copies)
	}
	t.Logf("one edit: %d bytes of messages, both ways", w.bytes)
	w.sent = 0
	w.settle()
	if w.sent != 0 || !w.boxes[0].m.Drained(w.boxes[1].id) {
		t.Errorf("%d messages with nothing owed", w.sent)
	}
}

func TestACutHealsFromCursors(t *testing.T) {
	w := newWorld(t, 2)
	w.link(0, 1, true)
	for i := range 300 {
		w.boxes[i%2].write(fmt.Sprint("r", i), "before")
		w.collect(i % 2)
	}
	w.settle()
	w.link(0, 1, false)
	for i := range 10 {
		w.boxes[0].write(fmt.Sprint("a", i), "A")
		w.boxes[1].write(fmt.Sprint("b", i), "B")
		w.boxes[i%2].write("r1", fmt.Sprint(i))
	}
	w.collect(0)
	w.collect(1)
	if w.boxes[0].m.Owed(w.boxes[1].id, 100) == 0 {
		t.Error("nothing is owed after a cut with writes")
	}
	w.copies = 0
	w.link(0, 1, true)
	w.settle()
	if err := w.equal(); err != nil {
		t.Fatal(err)
	}
	if w.copies > 24 {
		t.Errorf("%d changes travelled for 22 new ones", w.copies)
	}
	w.sent, w.copies = 0, 0
	w.link(0, 1, false)
	w.link(0, 1, true)
	w.settle()
	if w.sent != 2 || w.copies != 0 {
		t.Errorf("equal boxes said %d messages and %d changes to each other, want two hellos", w.sent, w.copies)
	}
}

func TestAnEmptyBoxIsFilledFromCursorZero(t *testing.T) {
	w := newWorld(t, 2)
	for i := range 2000 {
		w.boxes[0].write(fmt.Sprint("r", i), "v")
	}
	w.link(0, 1, true)
	for range 40 { // resumable: the link breaks again and again
		for range 3 {
			if len(w.wire) > 0 {
				p := w.wire[0]
				w.wire = w.wire[1:]
				i := slices.IndexFunc(w.boxes, func(o *box) bool { return o.id == p.to })
				w.boxes[i].m.Receive(p.from, p.body)
				w.collect(i)
			}
		}
		w.link(0, 1, false)
		w.link(0, 1, true)
	}
	w.settle()
	if err := w.equal(); err != nil {
		t.Fatal(err)
	}
	if w.copies > 2000*3/2 {
		t.Errorf("%d copies of 2000 changes over broken links", w.copies)
	}
}

// TestContentDecides: a box that silently lost data gets it back although
// cursors say that it has everything.
func TestContentDecides(t *testing.T) {
	w := newWorld(t, 2)
	w.link(0, 1, true)
	for i := range 50 {
		w.boxes[0].write(fmt.Sprint("r", i), "v")
	}
	w.collect(0)
	w.settle()
	w.link(0, 1, false)
	b := w.boxes[1]
	old := b.arrived
	b.set, b.arrived, b.bytes = crdt.NewSet(crdt.Fleet), nil, map[crdt.ID][]byte{}
	for _, a := range old[:30] {
		b.take(w.boxes[0].bytes[a.ID], a.From)
	}
	b.restart()
	w.link(0, 1, true)
	w.settle()
	if err := w.equal(); err != nil {
		t.Fatal(err)
	}
}

func TestTheOutboxReachesAHolder(t *testing.T) {
	w := newWorld(t, 2)
	a, b := w.boxes[0], w.boxes[1]
	other := crdt.SiteScope([10]byte{7})
	a.m.Configure([]Neighbour{{Peer: b.id, Shared: []crdt.Scope{crdt.Fleet}, Holds: []crdt.Scope{other}}})
	c := &crdt.Change{Scope: crdt.Fleet, Node: a.id, Actor: 9, Stamp: 5, Writes: []crdt.Write{{Record: "m", Field: "x"}}}
	if err := crdt.Seal(c, crdt.FleetID{}, func([]byte) []byte { return make([]byte, 64) }); err != nil {
		t.Fatal(err)
	}
	a.bytes[c.ID()], a.out = c.Raw(), []Out{{c.ID(), other}}
	a.m.Changed(other)
	r := a.m.Ready()
	if !slices.Contains(r.Dial, b.id) {
		t.Error("a holder that is owed is not dialled")
	}
	w.link(0, 1, true)
	w.settle()
	if len(a.out) != 0 || !b.set.Has(c.ID()) {
		t.Error("the outbox was not delivered")
	}
}

func TestRandomWorldsConverge(t *testing.T) {
	for seed := range uint64(150) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(t, 4)
		for range 200 {
			i, j := rnd.IntN(4), rnd.IntN(4)
			switch rnd.IntN(8) {
			case 0, 1, 2:
				w.boxes[i].write(fmt.Sprint("r", rnd.IntN(12)), fmt.Sprint(rnd.IntN(9)))
				w.collect(i)
			case 3:
				if i != j {
					w.link(i, j, rnd.IntN(2) == 0)
				}
			case 4:
				if rnd.IntN(6) == 0 {
					for j := range w.boxes {
						if i != j {
							w.link(i, j, false)
						}
					}
					w.boxes[i].restart()
				}
			default:
				for range rnd.IntN(6) {
					if len(w.wire) > 0 {
						p := w.wire[0]
						w.wire = w.wire[1:]
						k := slices.IndexFunc(w.boxes, func(o *box) bool { return o.id == p.to })
						w.boxes[k].m.Receive(p.from, p.body)
						w.collect(k)
					}
				}
			}
		}
		for i := range 4 {
			for j := range i {
				w.link(i, j, true)
			}
		}
		w.settle()
		if err := w.equal(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for i := range 4 {
			for j := range 4 {
				if i != j && w.boxes[i].m.Owed(w.boxes[j].id, 10) != 0 {
					t.Fatalf("seed %d: box %d still owes box %d", seed, i, j)
				}
			}
		}
	}
}

func FuzzReceive(f *testing.F) {
	w := newWorld(&testing.T{}, 2)
	w.boxes[0].write("r", "v")
	w.link(0, 1, true)
	for _, p := range w.wire {
		f.Add(p.body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		w := newWorld(t, 2)
		w.link(0, 1, true)
		m := w.boxes[0].m
		m.Receive(w.boxes[1].id, body)
		m.Receive(w.boxes[1].id, body)
		for _, in := range m.Ready().Incoming {
			m.Stored(in)
		}
	})
}
