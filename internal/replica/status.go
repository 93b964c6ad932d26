package replica

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
)

func mapKeys[K comparable, V any](m map[K]V) iter.Seq[K] { return maps.Keys(m) }

// Status is what a person may want to know of the replicated state here.
type Status struct {
	Node     crdt.NodeID
	Actor    uint32
	Clock    crdt.Stamp
	Scopes   []ScopeStatus // in the order of crdt.Scope.Compare
	Peers    []PeerStatus  // neighbours, and others with a link
	Held     int           // changes that wait for a person, for trust or for time
	Outbox   int           // changes of scopes not held here that no holder has yet
	ReadOnly error         // why no changes are taken; nil if they are
	Damage   []string      // what was found damaged since the start
	Settled  bool          // nothing is owed to anybody, nothing held, nothing in the outbox
	Only     Only          // what would be lost with this box
	Ahead    Ahead         // our own changes wait at others for their time
	Slow     time.Duration // what is taken off the wall clock, since others said that it is ahead

	// Left counts, by author, changes that others passed on since the start and
	// that were not kept here, because too many of that author are held already.
	Left map[crdt.NodeID]int
}

// ScopeStatus is one scope here.
type ScopeStatus struct {
	Scope       crdt.Scope
	Changes     int // live
	Fingerprint crdt.Fingerprint
	Head        uint64 // arrivals so far
	Holds       bool   // as the topology says
	Filling     Filling
}

// PeerStatus is one neighbour. Silence is not staleness: Failing is only set
// after an attempt failed.
type PeerStatus struct {
	Peer      Peer
	Linked    bool
	Heard     time.Time // last message from it, zero if none since the start
	Attempt   time.Time // last dial for a debt
	Err       error     // of the last attempt, nil if it worked
	Failing   time.Time // since when it could not be reached; zero if it can, or nobody tried
	Next      time.Time // next attempt, zero if none is due
	Owed      int       // changes it has not acknowledged
	OwedBytes int64
	Equal     []crdt.Scope  // found equal at the last comparison
	Differ    []crdt.Scope  // found different although everything was exchanged: held changes, or damage
	Ahead     time.Duration // its clock before ours, at its last hello; beyond 5 min one of the two is wrong
	Refused   error         // why we dropped its link, nil if we did not
}

// Only is what no other node has acknowledged.
type Only struct {
	Changes int
	Bytes   int64
}

// Scopes lists of what there is something here, in the order of
// crdt.Scope.Compare.
func (e *Engine) Scopes() (out []crdt.Scope) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for name, sc := range e.scopes {
		if sc.set.Len() > 0 {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, crdt.Scope.Compare)
	return out
}

// Status looks at everything at one moment.
func (e *Engine) Status() Status {
	e.mu.RLock()
	defer e.mu.RUnlock()
	st := Status{Node: e.cfg.Node, Actor: e.actor, Clock: e.clock.now(e.wall(), e.cfg.Synced()), Held: len(e.held),
		Outbox: len(e.outbox), ReadOnly: e.readOnly, Damage: slices.Clone(e.reports), Left: maps.Clone(e.left)}
	if sp, err := e.cfg.Disk.Space(); err == nil && sp.Low() && st.ReadOnly == nil {
		st.ReadOnly = &disk.SpaceError{Dir: "the data folder", Space: sp}
	}
	ns := e.cfg.Topo.Neighbours()
	e.x.mu.Lock()
	defer e.x.mu.Unlock()
	for name, sc := range e.scopes {
		st.Scopes = append(st.Scopes, ScopeStatus{name, sc.set.Len(), sc.set.Fingerprint(), sc.arrivals.head, e.cfg.Topo.Holds(name), e.x.filling(name)})
	}
	slices.SortFunc(st.Scopes, func(a, b ScopeStatus) int { return a.Scope.Compare(b.Scope) })
	acked := map[crdt.Scope]uint64{} // how far the best neighbour has taken each scope
	owed := 0
	for _, n := range ns {
		p := PeerStatus{Peer: n.Peer}
		for _, s := range n.Shared {
			c, ok := e.x.acked[cursorKey{n.Peer, s}]
			if ok {
				acked[s] = max(acked[s], c)
			}
			if sc := e.scopes[s]; sc != nil {
				sc.arrivals.after(c, func(a arrival) bool {
					if a.peer != n.Peer {
						p.Owed++
						p.OwedBytes += int64(a.size)
					}
					return true
				})
			}
		}
		for _, o := range e.outbox {
			if slices.Contains(n.Holds, o.change.Scope) {
				p.Owed++
				p.OwedBytes += int64(len(o.change.Raw()))
			}
		}
		if c := e.x.peers[n.Peer]; c != nil {
			c.fill(&p)
		}
		owed += p.Owed
		st.Peers = append(st.Peers, p)
	}
	slices.SortFunc(st.Peers, func(a, b PeerStatus) int { return slices.Compare(a.Peer[:], b.Peer[:]) })
	for name, sc := range e.scopes {
		if !e.cfg.Topo.Holds(name) {
			continue
		}
		shares := map[Peer]bool{} // who gave it to us and keeps it, too
		for _, n := range ns {
			shares[n.Peer] = slices.Contains(n.Shared, name)
		}
		sc.arrivals.after(acked[name], func(a arrival) bool {
			if !shares[a.peer] {
				st.Only.Changes++
				st.Only.Bytes += int64(a.size)
			}
			return true
		})
	}
	for _, o := range e.outbox {
		st.Only.Changes++
		st.Only.Bytes += int64(len(o.change.Raw()))
	}
	st.Ahead = e.x.ahead(e.cfg.Now())
	if !e.cfg.Synced() {
		st.Slow = -time.Duration(e.clock.by) * time.Millisecond
	}
	st.Settled = owed == 0 && st.Held == 0 && st.Outbox == 0
	return st
}

// Outgoing are the changes of a scope not held here that no holder has yet, the
// oldest first; of every such scope, if it is empty.
func (e *Engine) Outgoing(scope crdt.Scope) (out []*crdt.Change) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, o := range e.outbox {
		if scope == "" || o.change.Scope == scope {
			out = append(out, o.change)
		}
	}
	slices.SortFunc(out, func(a, b *crdt.Change) int { return cmp.Compare(a.Stamp, b.Stamp) })
	return out
}

func (c *contact) fill(p *PeerStatus) {
	p.Linked, p.Heard, p.Attempt, p.Err, p.Failing, p.Refused = c.linked, c.heard, c.attempt, c.err, c.failing, c.refused
	if !c.linked {
		p.Next = c.next
	}
	for s := range c.equal {
		p.Equal = append(p.Equal, s)
	}
	for s := range c.differ {
		p.Differ = append(p.Differ, s)
	}
	p.Ahead = c.ahead
	slices.SortFunc(p.Equal, crdt.Scope.Compare)
	slices.SortFunc(p.Differ, crdt.Scope.Compare)
}

// Nudge tries to reach p at once if it is owed something: a call, a look-up or
// an inbound link gave reason to believe that it works now.
func (e *Engine) Nudge(p Peer) {
	e.enqueue(func(t *turn) { t.after = append(t.after, func() { e.x.nudge(p) }) })
}

// NetworkChanged tries to reach every peer that is owed something at once: an
// interface or an address came or went.
func (e *Engine) NetworkChanged() {
	e.enqueue(func(t *turn) {
		t.after = append(t.after, func() {
			for _, n := range e.cfg.Topo.Neighbours() {
				if !n.Pause { // nobody knows where it is: it comes to us
					e.x.nudge(n.Peer)
				}
			}
		})
	})
}

func (x *exchange) nudge(p Peer) {
	x.mu.Lock()
	c := x.contact(p)
	linked := c.linked
	c.pause, c.next = 0, time.Time{}
	x.mu.Unlock()
	if !linked && x.machine.Owed(p, 1) > 0 {
		x.dial(p)
	}
	x.arm()
}

// TopologyChanged asks the topology again. It returns once the exchange goes by
// it.
func (e *Engine) TopologyChanged(ctx context.Context) error {
	return e.wait(ctx, e.enqueue(e.reconfigure))
}

func (e *Engine) reconfigure(t *turn) {
	e.rescope(t)
	t.answers = append(t.answers, func(error) { // a disk that refuses does not keep us from going another way
		e.spare()
		e.x.machine.Configure(e.cfg.Topo.Neighbours())
	})
}
