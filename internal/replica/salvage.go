package replica

import (
	"context"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/crdt"
)

// Salvageable are the prefixes under which a store keeps changes: live ones,
// those owed to other sites, and held ones.
func Salvageable() []string { return []string{"c/", "o/", "held/"} }

// Salvage returns the change in a value of a store, whoever's that was; false if
// there is none, or another one than the key says.
func Salvage(key, value []byte) (*crdt.Change, bool) {
	prefix, id, ok := strings.Cut(string(key), "/")
	if !ok {
		return nil, false
	}
	raw := value
	switch prefix {
	case "c":
	case "o":
		var o outboxRecord
		if cbor.Unmarshal(value, &o) != nil {
			return nil, false
		}
		raw = o.Raw
	case "held":
		var h heldRecord
		if cbor.Unmarshal(value, &h) != nil {
			return nil, false
		}
		raw = h.Raw
	default:
		return nil, false
	}
	var c *crdt.Change
	var err error
	if f := guard(func() { c, err = crdt.Decode(raw) }); f != nil || err != nil {
		return nil, false
	}
	have := c.ID()
	return c, string(have[:]) == id
}

// Novelty is what Import found about a change.
type Novelty uint8

const (
	Novel   Novelty = iota // nothing here has it or has seen it
	Known                  // it is live here, or on its way to its site
	Covered                // something here was written by somebody who had seen it
	Waits                  // it is among the held ones already
	Forged                 // its signature is wrong, or it is of another fleet
)

func (n Novelty) String() string {
	return [...]string{"new", "known", "covered", "held", "forged"}[n]
}

// Imported is what became of one change of a salvaged disk.
type Imported struct {
	ID      crdt.ID
	Novelty Novelty
	// Here says that its scope is held here, so that Novelty is sure; if not,
	// the site that it belongs to may have it.
	Here bool
}

// importTurn is how many changes of a salvaged disk one turn takes.
const importTurn = 24

// Import takes changes of a salvaged disk. What is new here is held until a
// person approves it: nothing of it enters by itself, whoever wrote it. With
// dry nothing is stored. The answers are in the order of changes.
func (e *Engine) Import(ctx context.Context, changes []*crdt.Change, why string, dry bool) ([]Imported, error) {
	out := make([]Imported, len(changes))
	for from := 0; from < len(changes); from += importTurn {
		to := min(from+importTurn, len(changes))
		ins := make([]*incoming, to-from)
		for i := range ins {
			ins[i] = &incoming{c: changes[from+i]}
			e.verifiers.verify(ins[i]) // here, so that links are not delayed
		}
		full := false
		err := e.wait(ctx, e.enqueue(func(t *turn) {
			for i, in := range ins {
				out[from+i] = t.imports(in)
				if out[from+i].Novelty != Novel || dry {
					continue
				}
				if len(e.held)+len(t.staged) >= e.cfg.MaxHeld {
					full = true
					return
				}
				t.stage(staged{c: in.c, keep: true, ask: true, why: why})
			}
		}))
		if err == nil && full {
			err = ErrTooManyHeld
		}
		if err != nil {
			return out[:from], err
		}
	}
	return out, nil
}

// imports says what is known here of a change of a salvaged disk.
func (t *turn) imports(in *incoming) (out Imported) {
	e, c := t.e, in.c
	out.ID, out.Here = c.ID(), e.cfg.Topo.Holds(c.Scope)
	_, sent := e.outbox[out.ID]
	_, held := e.held[out.ID]
	switch sc := e.scopes[c.Scope]; {
	case in.verified == forged:
		out.Novelty = Forged
	case sent || t.ids[out.ID] || sc != nil && sc.set.Has(out.ID):
		out.Novelty = Known
	case held:
		out.Novelty = Waits
	case sc != nil && sc.set.Seen(c):
		out.Novelty = Covered
	}
	return out
}

// Approve lets a held change of a salvaged disk in, because a person decided so:
// it is judged as any change is, and may still wait for trust or time.
func (e *Engine) Approve(ctx context.Context, id crdt.ID) (Verdict, error) {
	var h *heldChange
	done := e.enqueue(func(t *turn) {
		if h = e.held[id]; h == nil || !h.ask {
			return
		}
		t.batch.Put(keyHeld(id), encode(e.heldRecord(h.change, h.peer, h.why, h.at, false)))
		t.after = append(t.after, func() {
			e.mu.Lock() // Held reads it
			h.ask = false
			e.mu.Unlock()
		})
	})
	if err := e.wait(ctx, done); err != nil {
		return Verdict{}, err
	}
	if h == nil {
		return Verdict{}, ErrUnknownChange
	}
	_, v, err := e.Submit(ctx, h.change.Raw())
	return v, err
}
