package antientropy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/riblt"
)

// Reconciliation by content, when bookkeeping has said its last word and the
// fingerprints still differ, or a cursor is not believed. Of the two, the one
// with the lesser fingerprint sends cells of its sketch; the other asks for more
// until it knows the differences, asks for what it lacks by symbol, and sends
// what the first one lacks. Both then compare once more. Who gives up says so,
// and both ask for everything: the last rung of the ladder (state.md §6).

const (
	firstCells = 16   // enough for ten differences
	mostCells  = 1024 // in one message: 14 kB
	// maxCells is where asking for everything is cheaper: some 40,000
	// differences.
	maxCells = 64 << 10
	// maxSketches bounds the reconciliations of a scope on one link: each costs
	// a walk over the whole set.
	maxSketches = 4
	maxSymbols  = 1024 // in one message
)

type cellsMsg struct {
	Scope []byte `cbor:"1,keyasint"`
	Key   []byte `cbor:"2,keyasint,omitempty"` // with the first cells
	Size  uint64 `cbor:"3,keyasint"`           // of the sender's set
	First uint64 `cbor:"4,keyasint,omitempty"`
	Cells []byte `cbor:"5,keyasint"`
}

type moreMsg struct {
	Scope []byte `cbor:"1,keyasint"`
	First uint64 `cbor:"2,keyasint,omitempty"`
	Cells uint64 `cbor:"3,keyasint,omitempty"`
	Fails bool   `cbor:"4,keyasint,omitempty"` // ask for everything, I do too
}

type needMsg struct {
	Scope   []byte `cbor:"1,keyasint"`
	Symbols []byte `cbor:"2,keyasint"` // of what only the receiver has, 8 bytes each
}

// sketching is one reconciliation: a set as it was when it began, in cells.
type sketching struct {
	key    riblt.Key
	sketch *riblt.Sketch
	ours   int            // size of our set
	dec    *riblt.Decoder // of the one who reads; nil for the one who sends
	size   uint64         // of the sender's set
	needed int            // symbols the peer has asked for
}

func (m *Machine) sketching(s crdt.Scope, key riblt.Key) *sketching {
	k := &sketching{key: key}
	if kept := m.view.Sketch(s, key); kept != nil {
		k.sketch = kept.Clone() // the set goes on, and cells of two moments fit nobody's
	} else {
		k.sketch = m.sketch(s, key, crdt.SketchCells)
	}
	k.ours = k.sketch.Size()
	k.size = uint64(k.ours)
	return k
}

// sketch goes through the whole set.
func (m *Machine) sketch(s crdt.Scope, key riblt.Key, cells int) *riblt.Sketch {
	k := riblt.NewSketch(key, cells)
	m.view.EachID(s, func(id crdt.ID) { k.Add(key.Symbol(id[:])) })
	return k
}

// cellsOf are those from first on; false if there are not so many of the set as it
// was. The sketch grows once. What the set has changed by since is what its cells
// now and its cells then differ in, which is found as any difference is.
func (m *Machine) cellsOf(s crdt.Scope, k *sketching, first, n int) ([]riblt.Cell, bool) {
	if then := k.sketch.Cells(); len(then) < first+n {
		now := m.sketch(s, k.key, maxCells)
		d := riblt.NewDecoder(k.key)
		if d.Add(then, now.Cells()[:len(then)]) != nil || !d.Done() {
			return nil, false
		}
		for _, x := range d.Theirs() {
			now.Add(x)
		}
		for _, x := range d.Ours() {
			now.Remove(x)
		}
		k.sketch = now
	}
	return k.sketch.Cells()[first : first+n], true
}

// reconcile begins, on the side whose fingerprint is the lesser. The other one
// waits for its cells. What it waited for may have been said before the peer took
// more, and the peer goes by what it has now: then it is this side's turn after
// all, so waiting counts for nothing.
func (m *Machine) reconcile(p *peer, s crdt.Scope, x *exchange, ours, theirs string) {
	if ours > theirs {
		return
	}
	x.repaired = true
	x.sketch = m.sketching(s, m.view.SketchKey())
	x.sketches++
	m.sendCells(p, s, x, 0, firstCells)
}

func (m *Machine) sendCells(p *peer, s crdt.Scope, x *exchange, first, n int) {
	k := x.sketch
	cells, ok := m.cellsOf(s, k, first, n)
	if !ok {
		m.giveUp(p, s, x)
		return
	}
	msg := cellsMsg{Scope: []byte(s), Size: k.size, First: uint64(first), Cells: riblt.AppendCells(nil, k.size, first, cells)}
	if first == 0 {
		msg.Key = k.key[:]
	}
	m.send(p, kindCells, msg)
}

// cells takes some of the peer's.
func (m *Machine) cells(p *peer, s crdt.Scope, x *exchange, msg cellsMsg) error {
	if msg.First == 0 {
		if len(msg.Key) != len(riblt.Key{}) {
			return fmt.Errorf("cells under a key of %d bytes", len(msg.Key))
		}
		if x.sketches++; x.sketches > maxSketches {
			return fmt.Errorf("scope %s was sketched %d times on one link", s, x.sketches)
		}
		x.sketch = m.sketching(s, riblt.Key(msg.Key))
		x.sketch.dec, x.sketch.size = riblt.NewDecoder(x.sketch.key), msg.Size
		x.repaired, x.differs = true, true
	}
	k := x.sketch
	if k == nil || k.dec == nil {
		return nil // of before another hello
	}
	if uint64(k.dec.Len()) != msg.First || msg.Size != k.size {
		return errors.New("cells that nobody asked for")
	}
	theirs, err := riblt.ReadCells(msg.Cells, msg.Size, int(msg.First), min(mostCells, maxCells-int(msg.First)))
	if err != nil {
		return err
	}
	if len(theirs) == 0 {
		return errors.New("a message without cells")
	}
	ours, ok := m.cellsOf(s, k, int(msg.First), len(theirs))
	if !ok {
		m.giveUp(p, s, x)
		return nil
	}
	if err := k.dec.Add(theirs, ours); err != nil {
		return err
	}
	switch have := k.dec.Len(); {
	case k.dec.Done():
		m.settleDifferences(p, s, x)
	case have+firstCells > maxCells || uint64(have) > 3*(k.size+uint64(k.ours))+64:
		m.giveUp(p, s, x)
	default:
		m.send(p, kindMore, moreMsg{Scope: []byte(s), First: uint64(have), Cells: uint64(min(max(have, firstCells), mostCells, maxCells-have))})
	}
	return nil
}

// giveUp asks for everything, and the peer does, too.
func (m *Machine) giveUp(p *peer, s crdt.Scope, x *exchange) {
	x.sketch, x.differs = nil, true
	m.send(p, kindMore, moreMsg{Scope: []byte(s), Fails: true})
	m.wantAll(p, s)
}

// settleDifferences asks for what we lack and sends what the peer lacks.
func (m *Machine) settleDifferences(p *peer, s crdt.Scope, x *exchange) {
	k := x.sketch
	x.sketch = nil
	for part := range slices.Chunk(k.dec.Theirs(), maxSymbols) {
		msg := needMsg{Scope: []byte(s)}
		for _, y := range part {
			msg.Symbols = binary.BigEndian.AppendUint64(msg.Symbols, y)
		}
		m.send(p, kindNeed, msg)
	}
	m.give(s, x, k.key, k.dec.Ours())
}

// give puts changes on the list of what the peer is sent although bookkeeping
// says that it has them.
func (m *Machine) give(s crdt.Scope, x *exchange, key riblt.Key, symbols []uint64) {
	if len(symbols) == 0 {
		return
	}
	wanted := make(map[uint64]bool, len(symbols))
	for _, y := range symbols {
		wanted[y] = true
	}
	from := len(x.give)
	m.view.EachID(s, func(id crdt.ID) {
		if wanted[key.Symbol(id[:])] {
			x.give = append(x.give, id)
		}
	})
	slices.SortFunc(x.give[from:], func(a, b crdt.ID) int { return slices.Compare(a[:], b[:]) })
	x.differs = true
}

func (m *Machine) more(p *peer, s crdt.Scope, x *exchange, msg moreMsg) error {
	k := x.sketch
	switch {
	case k == nil:
		return nil // of before another hello
	case msg.Fails:
		x.sketch, x.differs = nil, true
		m.wantAll(p, s)
		return nil
	case k.dec != nil:
		return nil
	case msg.Cells == 0 || msg.Cells > mostCells || msg.First+msg.Cells > maxCells:
		return fmt.Errorf("%d cells from %d on are asked for", msg.Cells, msg.First)
	}
	m.sendCells(p, s, x, int(msg.First), int(msg.Cells))
	return nil
}

func (m *Machine) need(s crdt.Scope, x *exchange, msg needMsg) error {
	k := x.sketch
	if k == nil || k.dec != nil {
		return nil // of before another hello
	}
	if len(msg.Symbols)%8 != 0 || len(msg.Symbols) > 8*maxSymbols {
		return fmt.Errorf("%d bytes of symbols are asked for", len(msg.Symbols))
	}
	if k.needed += len(msg.Symbols) / 8; k.needed > maxCells {
		return fmt.Errorf("%d changes of one sketch are asked for", k.needed)
	}
	symbols := make([]uint64, 0, len(msg.Symbols)/8)
	for b := msg.Symbols; len(b) > 0; b = b[8:] {
		symbols = append(symbols, binary.BigEndian.Uint64(b))
	}
	m.give(s, x, k.key, symbols)
	return nil
}

// wantAll asks for everything the peer has.
func (m *Machine) wantAll(p *peer, s crdt.Scope) { m.send(p, kindWant, wantMsg{Scope: []byte(s)}) }

// given sends a batch of what is on the list, and says whether there may be
// more. Its number is that of the last arrival sent, so that the peer's cursor
// stays where it is.
func (m *Machine) given(p *peer, s crdt.Scope, x *exchange) bool {
	msg := batchMsg{Scope: []byte(s), N: x.sent}
	size := 0
	for len(x.give) > 0 && size < p.batch() {
		b, err := m.view.Bytes(x.give[0])
		if err != nil {
			break // later
		}
		x.give = x.give[1:]
		if b != nil {
			msg.Changes = append(msg.Changes, b)
			size += len(b)
		}
	}
	if len(msg.Changes) == 0 {
		return false
	}
	m.sendBatch(p, s, x, msg, bound{n: x.sent, size: size})
	x.given = x.batches
	return true
}
