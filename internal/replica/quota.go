package replica

import (
	"fmt"

	"carrierclass.net/ccnode/crdt"
)

// shareKey is an author in a scope.
type shareKey struct {
	scope  crdt.Scope
	author crdt.NodeID
}

// relayed says that a change came neither from its author nor from a person at
// this node: somebody had room for it.
func relayed(peer Peer, author crdt.NodeID) bool { return peer != Peer(author) }

func (e *Engine) scopeShare(c *crdt.Change) crdt.Share {
	if sc := e.scopes[c.Scope]; sc != nil {
		return sc.arrivals.share(c.Node)
	}
	return crdt.Share{}
}

// over says in words why there is no room for a change of an author that has
// s of its scope; "" if there is.
func (e *Engine) over(peer Peer, c *crdt.Change, s crdt.Share) string {
	if c.Node == e.cfg.Node {
		return "" // ours, from before this disk was lost
	}
	q, bytes, times := e.cfg.Quota, len(c.Raw()), 1
	direct := !relayed(peer, c.Node)
	if !direct {
		times = crdt.Relayed
	}
	now := e.cfg.Now().UnixMilli()
	b := e.buckets[c.Node]
	late := direct && b != nil && !b.Has(q, now, bytes)
	if !late && !q.Over(s, bytes, times) {
		return ""
	}
	if e.cfg.Removal(c, view{e}) && !q.Over(s, bytes, 2*times) {
		return ""
	}
	if late {
		return fmt.Sprintf("it brought %d MB lately, of which %d MB are given back in an hour", q.Burst>>20, q.Hourly>>20)
	}
	return fmt.Sprintf("it has %d changes with %d kB there", s.Changes, s.Bytes>>10)
}

// quota judges what is about to become part of the state and counts it; "" lets
// it in.
func (t *turn) quota(peer Peer, c *crdt.Change) string {
	e := t.e
	k, s := shareKey{c.Scope, c.Node}, e.scopeShare(c)
	add := t.shares[k] // not merged yet
	s.Changes, s.Bytes = s.Changes+add.Changes, s.Bytes+add.Bytes
	if why := e.over(peer, c, s); why != "" {
		return why
	}
	if t.shares == nil {
		t.shares = map[shareKey]crdt.Share{}
	}
	add.Add(len(c.Raw()))
	t.shares[k] = add
	if c.Node != e.cfg.Node && !relayed(peer, c.Node) {
		b := e.buckets[c.Node]
		if b == nil {
			b = &crdt.Bucket{}
			e.buckets[c.Node] = b
		}
		b.Take(e.cfg.Quota, e.cfg.Now().UnixMilli(), len(c.Raw()))
	}
	return ""
}

// heldFull says that no more changes are held, of this author or at all: nobody
// fills with its own what others need. If not, it counts one more.
func (t *turn) heldFull(author crdt.NodeID) bool {
	if t.heldOf == nil { // once a turn: a member that sends much must not cost much
		t.heldOf = map[crdt.NodeID]int{}
		for _, h := range t.e.held {
			t.heldOf[h.change.Node]++
		}
		t.heldAll = len(t.e.held)
	}
	if t.heldAll >= t.e.cfg.MaxHeld || t.heldOf[author] >= max(t.e.cfg.MaxHeld/8, 1) {
		return true
	}
	t.heldAll++
	t.heldOf[author]++
	return false
}

func (e *Engine) leftOut(author crdt.NodeID) {
	e.mu.Lock() // Status reads it
	e.left[author]++
	e.mu.Unlock()
}
