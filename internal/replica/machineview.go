package replica

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
	"carrierclass.net/ccnode/crdt/mutant"
	"carrierclass.net/ccnode/crdt/riblt"
	"carrierclass.net/ccnode/internal/disk"
)

// machineView lets the machine look at the engine, from Run's goroutine.
type machineView struct{ e *Engine }

func (v machineView) Head(s crdt.Scope) uint64 {
	if sc := v.e.scopes[s]; sc != nil {
		return sc.arrivals.head
	}
	return 0
}

func (v machineView) After(s crdt.Scope, n uint64, limit int) (out []antientropy.Arrival) {
	sc := v.e.scopes[s]
	if sc == nil {
		return nil
	}
	size := 0
	sc.arrivals.after(n, func(a arrival) bool {
		out = append(out, antientropy.Arrival{N: a.n, ID: a.id, From: a.peer, Size: int(a.size)})
		size += int(a.size)
		return size < limit
	})
	return out
}

func (v machineView) Bytes(id crdt.ID) (raw []byte, err error) {
	if o := v.e.outbox[id]; o != nil {
		return o.change.Raw(), nil
	}
	err = v.e.cfg.Disk.View(func(r disk.Reader) (err error) {
		raw, err = r.Get(keyChange(id))
		return err
	})
	if err != nil {
		v.e.log.Error("A change cannot be read to be sent", "change", id, "err", err)
	}
	if errors.Is(err, disk.ErrDamaged) || errors.Is(err, disk.ErrNotFound) {
		return nil, nil // it will not get better: the next start asks others for it
	}
	return raw, err
}

func (v machineView) Fingerprint(s crdt.Scope) crdt.Fingerprint {
	return view{v.e}.Set(s).Fingerprint()
}

func (v machineView) EachID(s crdt.Scope, fn func(crdt.ID)) { view{v.e}.Set(s).EachID(fn) }

func (v machineView) Sketch(s crdt.Scope, key riblt.Key) *riblt.Sketch {
	if sc := v.e.scopes[s]; sc != nil {
		return sc.set.Sketch(key)
	}
	return nil
}

func (v machineView) First(p Peer, s crdt.Scope) []crdt.ID {
	if v.e.cfg.First == nil {
		return nil
	}
	return v.e.cfg.First(view{v.e}, p, s)
}

func (v machineView) SketchKey() riblt.Key { return v.e.x.sketchKey }

func (v machineView) Epoch() uint32 { return v.e.x.epoch }

// Believes implements antientropy.View. A cursor from a start this disk does
// not know of, or beyond what that start gave out, is evidence that the disk
// was rolled back: what this actor wrote since is known elsewhere and not here.
func (v machineView) Believes(s crdt.Scope, c antientropy.Cursor) bool {
	if c.N == 0 || mutant.Is(mutant.Believing) {
		return true
	}
	sc := v.e.scopes[s]
	if sc == nil {
		v.e.rolledBack(fmt.Sprintf("a neighbour has taken %d changes of scope %s, of which this disk has none", c.N, s))
		return false
	}
	for i, ep := range sc.epochs {
		if ep.ID != c.Epoch {
			continue
		}
		last := sc.arrivals.head
		if i+1 < len(sc.epochs) {
			last = sc.epochs[i+1].First - 1
		}
		if c.N > last {
			v.e.rolledBack(fmt.Sprintf("a neighbour has taken change %d of scope %s, this disk knows %d", c.N, s, last))
		}
		return c.N <= last
	}
	if len(sc.epochs) < maxEpochs {
		v.e.rolledBack(fmt.Sprintf("a neighbour knows a start of this node that the disk does not (scope %s)", s))
	}
	return false
}

func (v machineView) Taken(p Peer, s crdt.Scope) antientropy.Cursor { return v.e.x.cursor(p, s).Taken }
func (v machineView) Acked(p Peer, s crdt.Scope) uint64             { return v.e.x.cursor(p, s).Acked }
func (v machineView) Clock() crdt.Stamp                             { return v.e.clock.now(v.e.wall(), v.e.cfg.Synced()) }

func (v machineView) Outbox() []antientropy.Out {
	if len(v.e.outbox) == 0 {
		return nil
	}
	if v.e.x.out != nil {
		return v.e.x.out
	}
	out := make([]antientropy.Out, 0, len(v.e.outbox))
	for id, o := range v.e.outbox {
		out = append(out, antientropy.Out{ID: id, Scope: o.change.Scope})
	}
	slices.SortFunc(out, func(a, b antientropy.Out) int {
		if d := v.e.outbox[a.ID].at.Compare(v.e.outbox[b.ID].at); d != 0 {
			return d
		}
		return bytes.Compare(a.ID[:], b.ID[:])
	})
	v.e.x.out = out
	return out
}

// rolledBack draws a new actor, once per start.
func (e *Engine) rolledBack(why string) {
	if e.x.rolled || mutant.Is(mutant.Rollback) {
		return
	}
	e.x.rolled = true
	actor, err := e.fresh()
	if err != nil {
		e.log.Error("No new actor could be drawn", "err", err)
		return
	}
	e.mu.Lock()
	e.adopt(actor)
	e.report("a new actor was drawn: " + why)
	e.mu.Unlock()
	// The next transaction, before or with the first change of the new actor,
	// carries it.
	if e.start == nil {
		e.start = new(disk.Batch)
	}
	e.start.Put(keyActor, encode(identity{actor, e.cfg.Node[:], e.cfg.Machine}))
	e.start.Put(keyDoubt, []byte{1})
	e.x.doubt, e.x.ask = true, true
	e.enqueue(func(*turn) {})
}
