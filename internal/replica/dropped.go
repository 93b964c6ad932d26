package replica

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
)

// maxDropped bounds the record of what was dropped; the oldest go first. A
// change that fell out of it is held anew should it ever come again.
const maxDropped = 10_000

// A Dropped change was held, and a person decided that this node forgets it. It
// is not held again when somebody sends it again. Were it ever to be judged
// good, it is taken all the same: else two nodes would differ for good.
type Dropped struct {
	ID     crdt.ID
	Node   crdt.NodeID // who wrote it
	Scope  crdt.Scope
	Why    string    // why it was held
	By     string    // who dropped it, in words
	At     time.Time // when that was
	Writes []string  // what it said, in words
}

type droppedRecord struct {
	Node   []byte   `cbor:"1,keyasint"`
	Scope  []byte   `cbor:"2,keyasint"`
	Why    string   `cbor:"3,keyasint"`
	By     string   `cbor:"4,keyasint"`
	At     int64    `cbor:"5,keyasint"` // ms
	Writes []string `cbor:"6,keyasint,omitempty"`
}

func keyDropped(id crdt.ID) []byte { return append([]byte("drop/"), id[:]...) }

// DropHeld forgets a held change, because a person decided so, and keeps on
// record who that was. Of d, By and Writes are taken.
func (e *Engine) DropHeld(ctx context.Context, id crdt.ID, d Dropped) error {
	found := false
	done := e.enqueue(func(t *turn) {
		h := e.held[id]
		if found = h != nil; !found {
			return
		}
		d.ID, d.Node, d.Scope, d.Why, d.At = id, h.change.Node, h.change.Scope, h.why, t.wall
		t.unhold(id)
		t.batch.Put(keyDropped(id), encode(droppedRecord{Node: d.Node[:], Scope: []byte(d.Scope), Why: d.Why, By: d.By, At: d.At.UnixMilli(), Writes: d.Writes}))
		var out crdt.ID
		full := len(e.dropped) >= maxDropped
		if full {
			out = e.oldestDropped()
			t.batch.Delete(keyDropped(out))
		}
		t.after = append(t.after, func() {
			e.mu.Lock() // DroppedChanges reads it
			if full {
				delete(e.dropped, out)
			}
			e.dropped[id] = &d
			e.mu.Unlock()
		})
	})
	if err := e.wait(ctx, done); err != nil {
		return err
	}
	if !found {
		return ErrUnknownChange
	}
	return nil
}

func (e *Engine) oldestDropped() (id crdt.ID) {
	var first *Dropped
	for _, d := range e.dropped {
		if first == nil || cmp.Or(d.At.Compare(first.At), bytes.Compare(d.ID[:], first.ID[:])) < 0 {
			first = d
		}
	}
	return first.ID
}

// DroppedChanges lists what persons dropped, the latest first.
func (e *Engine) DroppedChanges() []Dropped {
	e.mu.RLock()
	defer e.mu.RUnlock()
	out := make([]Dropped, 0, len(e.dropped))
	for _, d := range e.dropped {
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b Dropped) int {
		return cmp.Or(b.At.Compare(a.At), bytes.Compare(a.ID[:], b.ID[:]))
	})
	return out
}

// RetryHeld judges a held change again, now. A change of a salvaged disk waits
// for Approve: of it, the verdict says so.
func (e *Engine) RetryHeld(ctx context.Context, id crdt.ID) (Verdict, error) {
	e.mu.RLock()
	h := e.held[id]
	var ask bool
	var why string
	if h != nil {
		ask, why = h.ask, h.why
	}
	e.mu.RUnlock()
	switch {
	case h == nil:
		return Verdict{}, ErrUnknownChange
	case ask:
		return Verdict{Hold, why}, nil
	}
	in := &incoming{c: h.change, retry: true, done: make(chan judged, 1)}
	c, err := e.decode(h.change.Raw())
	if p := (*errPoison)(nil); errors.As(err, &p) {
		in.poison = p.what
	} else if err == nil {
		in.c = c
	}
	return e.judged(ctx, h.peer, in)
}
