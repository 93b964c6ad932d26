package replica

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/mutant"
)

// verification is what is known of a signature.
type verification uint8

const (
	unverified verification = iota // not looked at, or the signer's grant is unknown
	genuine
	forged
)

// pool verifies signatures beside the engine, so that its backlog never delays
// a local write. Deliveries of one peer are handed on in their order.
type pool struct {
	e    *Engine
	work chan job
}

type job struct {
	in   *incoming
	left *atomic.Int32
	d    *delivery
}

func newPool(e *Engine) *pool { return &pool{e: e, work: make(chan job, 256)} }

func (p *pool) run(ctx context.Context, wg *sync.WaitGroup) {
	for range p.e.cfg.Verifiers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case j := <-p.work:
					p.verify(j.in)
					if j.left.Add(-1) == 0 {
						p.e.inbox.deliver(j.d)
					}
				}
			}
		})
	}
}

func (p *pool) verify(in *incoming) {
	if in.poison != "" {
		return
	}
	if f := guard(func() { p.look(in) }); f != nil {
		in.poison = p.e.spoke("verified", in.c, f)
	}
}

func (p *pool) look(in *incoming) {
	p.e.plant("verify", in.c.Raw())
	key, ok := p.e.cfg.Gate.Key(in.c)
	switch {
	case !ok:
		in.verified = unverified
	case p.e.cfg.Verify(in.c, ed25519.PublicKey(key)):
		in.verified = genuine
	default:
		in.verified = forged
	}
}

// submit queues a delivery; it waits while the pool is full.
func (p *pool) submit(ctx context.Context, d *delivery) error {
	left := new(atomic.Int32)
	left.Store(int32(len(d.changes)))
	if len(d.changes) == 0 {
		p.e.inbox.deliver(d)
		return nil
	}
	for _, in := range d.changes {
		select {
		case p.work <- job{in, left, d}:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.e.stopped:
			return ErrStopped
		}
	}
	return nil
}

// delivery judges the changes of one delivery and puts them into the turn. It
// says no if the delivery does not fit any more, or has to be judged after what
// the turn already holds.
func (t *turn) delivery(d *delivery) bool {
	if t.trust {
		return false // grants first: they change what is accepted
	}
	size := 0
	for _, in := range d.changes {
		size += len(in.c.Raw()) + 2*48
	}
	if t.batch.Len() > 0 && t.batch.Bytes()+size > turnBytes {
		return false
	}
	var refused error
	for _, in := range d.changes {
		in.verdict = t.judge(d, in)
		if in.verdict.Outcome == Refuse && refused == nil {
			refused = fmt.Errorf("change %s of node %x: %s", in.c.ID(), in.c.Node, in.verdict.Reason)
		}
	}
	if d.cursor != nil && refused == nil {
		key := cursorKey{d.peer, d.scope}
		next := *t.e.x.cursor(d.peer, d.scope)
		next.Taken = *d.cursor
		t.batch.Put(keyPeer(d.peer, d.scope), encode(next))
		t.after = append(t.after, func() {
			t.e.x.cursor(key.peer, key.scope).Taken = *d.cursor
			t.e.x.setTaken(key, d.cursor.N)
		})
	}
	t.answers = append(t.answers, func(err error) {
		for _, in := range d.changes {
			if v, bad := t.bad[in.c.ID()]; bad {
				in.verdict = v
				if refused == nil {
					refused = fmt.Errorf("change %s of node %x: %s", in.c.ID(), in.c.Node, v.Reason)
				}
			}
			if in.done != nil {
				in.done <- judged{in.verdict, err}
			}
		}
		if d.then != nil {
			d.then(err, refused)
		}
	})
	return true
}

// judge decides about one change and stages it.
func (t *turn) judge(d *delivery, in *incoming) (v Verdict) {
	e, c := t.e, in.c
	if in.poison != "" {
		return t.holdPoison(d, in, in.poison)
	}
	if p := e.poisons[c.ID()]; p != nil && !in.retry {
		return t.hold(d, in, p.why)
	}
	if f := guard(func() {
		e.plant("judge", c.Raw())
		v = t.consider(d, in)
	}); f != nil {
		v = t.holdPoison(d, in, e.spoke("judged", c, f))
	} else if in.retry && v.Outcome == Accept {
		e.mu.Lock()
		delete(e.poisons, c.ID())
		e.mu.Unlock()
	}
	return v
}

// holdPoison holds a change on which the program failed.
func (t *turn) holdPoison(d *delivery, in *incoming, what string) Verdict {
	e, why := t.e, whyPoison+what
	e.mu.Lock()
	e.poison(in.c, d.peer, why)
	e.poisons[in.c.ID()].change = nil // the turn writes it
	e.mu.Unlock()
	return t.hold(d, in, why)
}

// hold keeps a change that is not merged.
func (t *turn) hold(d *delivery, in *incoming, why string) Verdict {
	e, c := t.e, in.c
	id := c.ID()
	_, in.again = e.held[id]
	switch {
	case t.ids[id]:
		return Verdict{Accept, "it is here already"}
	case in.again:
		if h := e.held[id]; h.why != why {
			e.mu.Lock() // Held reads it
			h.why = why
			e.mu.Unlock()
			t.batch.Put(keyHeld(id), encode(e.heldRecord(c, h.peer, why, h.at, h.ask)))
		}
	case e.dropped[id] != nil:
		return Verdict{Accept, "a person dropped it here"}
	case t.heldFull(c.Node):
		if relayed(d.peer, c.Node) {
			// Whoever brought it has it, and is not to blame.
			e.leftOut(c.Node)
			return Verdict{Accept, "too many changes are held already: it stays where it is"}
		}
		return Verdict{Refuse, "too many changes are held already"}
	default:
		t.stage(staged{c: c, peer: d.peer, keep: true, why: why})
	}
	return Verdict{Hold, why}
}

func (t *turn) consider(d *delivery, in *incoming) Verdict {
	e, c := t.e, in.c
	id := c.ID()
	switch {
	case in.verified == forged:
		return Verdict{Refuse, "its signature is wrong"}
	case mutant.Is(mutant.PruneByClock) && c.Stamp.Millis() < e.clock.now(t.wall, t.synced).Millis()-time.Hour.Milliseconds():
		return Verdict{Accept, "it is old"}
	case mutant.Is(mutant.Deaf) && len(d.changes) > 1 && in != d.changes[0]:
		return Verdict{Accept, "there was another one"}
	case t.ids[id] || view{e}.has(c):
		_, in.again = e.held[id]
		if in.again && !t.ids[id] {
			t.unhold(id)
		}
		return Verdict{Accept, "it is here already"}
	case view{e}.Set(c.Scope).Void(c):
		if _, in.again = e.held[id]; in.again {
			t.unhold(id)
		}
		return Verdict{Accept, "its author took it back"}
	}
	_, in.again = e.held[id]
	hold := func(why string) Verdict { return t.hold(d, in, why) }
	if in.verified == unverified {
		return hold(whyUnknown)
	}
	if e.clock.ahead(c.Stamp, t.wall, t.synced) {
		if c.Node == d.peer && !slices.Contains(t.early, d.peer) {
			t.early = append(t.early, d.peer)
			t.after = append(t.after, func() { e.x.tellAhead(d.peer) })
		}
		return hold(whyAhead)
	}
	v := e.cfg.Gate.Admit(c, view{e})
	switch v.Outcome {
	case Refuse:
		if in.again {
			t.unhold(id)
		}
		return v
	case Hold:
		return hold(v.Reason)
	}
	if why := t.quota(d.peer, c); why != "" {
		return hold(whyQuota + why)
	}
	if !e.cfg.Topo.Holds(c.Scope) {
		if _, waiting := e.outbox[id]; waiting {
			return v
		}
		t.stage(staged{c: c, peer: d.peer, out: true, free: in.again})
		return v
	}
	from := d.peer
	if in.again {
		// Who brought a change that was held may have lost it since, with its disk,
		// and nobody noticed: what is held is in no fingerprint. It is told again.
		from = Peer{}
	}
	t.stage(staged{c: c, peer: from, free: in.again})
	return v
}

// unhold drops a held change that turned out to be here, or to be nothing.
func (t *turn) unhold(id crdt.ID) {
	e := t.e
	t.batch.Delete(keyHeld(id))
	t.after = append(t.after, func() {
		e.mu.Lock()
		delete(e.held, id)
		e.mu.Unlock()
	})
}
