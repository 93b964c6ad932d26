package replica

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
)

// heldChange is a change that was acknowledged and not applied (state.md §5).
type heldChange struct {
	change *crdt.Change
	peer   Peer
	why    string
	at     time.Time
	ask    bool // it came from a salvaged disk: a person decides before it is judged
	busy   bool // it is being judged again
	// owned by Run: against which state of trust it was last judged
	verified  bool
	judgedAt  uint64
	unknownAt uint64 // 1 + the state of trust in which its grant was unknown
}

type heldRecord struct {
	Raw  []byte `cbor:"1,keyasint"`
	Peer []byte `cbor:"2,keyasint"`
	Why  string `cbor:"3,keyasint"`
	At   int64  `cbor:"4,keyasint"` // ms
	Ask  bool   `cbor:"5,keyasint,omitempty"`
	// Program is which program failed on it; "" if that is not why it is held.
	Program string `cbor:"6,keyasint,omitempty"`
}

type outgoing struct {
	change *crdt.Change
	at     time.Time
}

type outboxRecord struct {
	Raw []byte `cbor:"1,keyasint"`
	At  int64  `cbor:"2,keyasint"` // ms
}

// retryHeld judges the held changes again: trust or time may have moved. It
// runs in the engine's goroutine; verification happens in the pool.
func (e *Engine) retryHeld() {
	if e.readOnly != nil {
		return
	}
	ids := make([]crdt.ID, 0, len(e.held))
	now, synced := e.wall(), e.cfg.Synced()
	if len(e.held) > 0 { // nothing else may look at the clock for long
		e.mu.Lock()
		e.clock.tick(now, e.cfg.Now(), synced)
		e.mu.Unlock()
	}
	for id, h := range e.held {
		if h.busy || h.ask || e.poisons[id] != nil {
			continue
		}
		if h.unknownAt == e.trustMoves+1 || e.clock.ahead(h.change.Stamp, now, synced) {
			continue // nothing that matters to it has moved
		}
		if _, known := e.cfg.Gate.Key(h.change); !known {
			h.unknownAt = e.trustMoves + 1
			continue
		}
		if strings.HasPrefix(h.why, whyQuota) {
			if e.over(h.peer, h.change, e.scopeShare(h.change)) != "" {
				continue // no room yet
			}
		} else if h.judgedAt == e.trustMoves && h.verified {
			continue
		}
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b crdt.ID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range ids[:min(len(ids), 128)] {
		h := e.held[id]
		h.busy, h.verified, h.judgedAt = true, true, e.trustMoves
		in := &incoming{c: h.change}
		e.verifiers.verify(in) // few, and the key is known
		d := &delivery{peer: h.peer, changes: []*incoming{in}}
		d.then = func(err, _ error) {
			h.busy = false
			if err != nil {
				h.verified = false // it was not stored: once more
			}
		}
		if in.verified == forged {
			d.changes = nil
			e.enqueue(func(t *turn) { t.unhold(id) })
			continue
		}
		e.inbox.deliver(d)
	}
	if len(ids) > 128 {
		e.judgeHeld = true
		e.inbox.wake()
	}
}

// Wait says what a held change waits for.
type Wait string

const (
	ForPerson  Wait = "person"  // it is of a salvaged disk: Approve or DropHeld
	ForAuthor  Wait = "author"  // the grant it was written under is unknown
	ForTime    Wait = "time"    // its stamp is ahead of this node's clock
	ForQuota   Wait = "quota"   // its author wrote more than its share
	ForProgram Wait = "program" // this program fails on it: another version of it is needed
	ForTrust   Wait = "trust"   // the gate lacks a grant or a rule
)

// Reasons that the engine itself has to hold a change.
const (
	whyUnknown = "its grant is not known here"
	whyAhead   = "its time is more than 5 minutes ahead of this node's"
	whyQuota   = "its author has written more than its share: "
)

// Wait says what h waits for.
func (h *Held) Wait() Wait {
	switch {
	case h.Ask:
		return ForPerson
	case h.Why == whyUnknown:
		return ForAuthor
	case h.Why == whyAhead:
		return ForTime
	case strings.HasPrefix(h.Why, whyQuota):
		return ForQuota
	case strings.HasPrefix(h.Why, whyPoison):
		return ForProgram
	}
	return ForTrust
}

// A Held change waits for a person, for trust or for time.
type Held struct {
	ID     crdt.ID
	Change *crdt.Change // must not be altered
	Peer   Peer         // who sent it; zero if it was submitted here
	Why    string
	At     time.Time
	Ask    bool // it came from a salvaged disk and waits for Approve
}

// Held lists the held changes, oldest first.
func (e *Engine) Held() []Held {
	e.mu.RLock()
	defer e.mu.RUnlock()
	out := make([]Held, 0, len(e.held))
	for id, h := range e.held {
		out = append(out, Held{id, h.change, h.peer, h.why, h.at, h.ask})
	}
	slices.SortFunc(out, func(a, b Held) int {
		if d := a.At.Compare(b.At); d != 0 {
			return d
		}
		return bytes.Compare(a.ID[:], b.ID[:])
	})
	return out
}

// wait returns the error of work that was enqueued.
func (e *Engine) wait(ctx context.Context, done <-chan answer) error {
	select {
	case a := <-done:
		return a.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-e.stopped:
		select {
		case a := <-done:
			return a.err
		default:
			return ErrStopped
		}
	}
}

// TrustChanged judges the held changes again, after the gate learnt something
// another way than by a merge.
func (e *Engine) TrustChanged() {
	e.enqueue(func(t *turn) {
		t.after = append(t.after, func() {
			e.trustMoves++
			e.judgeHeld = true
		})
	})
}

// judged has a change judged and waits for the verdict; from says who brought it.
func (e *Engine) judged(ctx context.Context, from Peer, in *incoming) (Verdict, error) {
	if err := e.verifiers.submit(ctx, &delivery{peer: from, changes: []*incoming{in}}); err != nil {
		return Verdict{}, err
	}
	select {
	case j := <-in.done:
		return j.verdict, j.err
	case <-ctx.Done():
		return Verdict{}, context.Cause(ctx)
	case <-e.stopped:
		return Verdict{}, ErrStopped
	}
}
