package replica

import (
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
)

// What this node holds can change: it becomes the stand-in of another site, and
// ceases to be it. Then what waits in the outbox for that site's nodes becomes
// part of what is held here, and later the whole scope is forgotten.

// forgetAfter is how long a scope that need not be held any more stays: the
// fleet may change its mind, and sending it again costs more than keeping it.
const forgetAfter = time.Hour

// Have says whether there are changes of a scope here, whatever the topology
// says of it.
func (e *Engine) Have(scope crdt.Scope) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.have(scope)
}

func (e *Engine) have(scope crdt.Scope) bool {
	sc := e.scopes[scope]
	return sc != nil && sc.set.Len() > 0
}

// Caught says whether a peer has acknowledged all that is in a scope here.
func (e *Engine) Caught(peer Peer, scope crdt.Scope) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	sc := e.scopes[scope]
	if sc == nil || sc.set.Len() == 0 {
		return false
	}
	e.x.mu.Lock()
	acked, ok := e.x.acked[cursorKey{peer, scope}]
	e.x.mu.Unlock()
	if !ok {
		return false
	}
	all := true
	sc.arrivals.after(acked, func(a arrival) bool {
		all = a.peer == peer
		return all
	})
	return all
}

// Took says whether a peer has acknowledged a change that is live here.
func (e *Engine) Took(peer Peer, scope crdt.Scope, id crdt.ID) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	sc := e.scopes[scope]
	if sc == nil {
		return false
	}
	e.x.mu.Lock()
	acked := e.x.acked[cursorKey{peer, scope}]
	e.x.mu.Unlock()
	n, ok := sc.arrivals.number(id)
	return ok && n <= acked
}

// Raw returns a live change as it was signed, nil if it is not here any more.
func (e *Engine) Raw(id crdt.ID) ([]byte, error) { return machineView{e}.Bytes(id) }

// rescope makes part of the state what waits in the outbox for holders of a
// scope that is held here by now. What does not fit this turn comes with the next.
func (e *Engine) rescope(t *turn) {
	for id, o := range e.outbox {
		if !e.cfg.Topo.Holds(o.change.Scope) {
			continue
		}
		if t.full() {
			e.enqueue(e.rescope)
			return
		}
		if !t.ids[id] && !(view{e}).has(o.change) {
			t.stage(staged{c: o.change})
		}
		t.batch.Delete(keyOutbox(id))
		t.after = append(t.after, func() {
			e.mu.Lock()
			delete(e.outbox, id)
			e.x.out = nil
			e.mu.Unlock()
		})
	}
}

// spare notes which scopes need not be held, and since when.
func (e *Engine) spare() {
	now := e.cfg.Now()
	for name, sc := range e.scopes {
		if _, site := name.Site(); !site || sc.set.Len() == 0 || e.cfg.Topo.Holds(name) {
			delete(e.spared, name)
			continue
		}
		if since, ok := e.spared[name]; !ok || now.Before(since) {
			if e.spared == nil {
				e.spared = map[crdt.Scope]time.Time{}
			}
			e.spared[name] = now
		}
	}
	if e.sparedBy != nil {
		e.sparedBy.Stop()
		e.sparedBy = nil
	}
	if len(e.spared) > 0 && e.x.timer != nil { // of our own memory: the mesh is not touched
		e.sparedBy = time.AfterFunc(forgetAfter+time.Second, func() {
			e.enqueue(func(t *turn) { t.after = append(t.after, e.forgetScopes) })
		})
	}
}

// forgetScopes removes what has not been needed for forgetAfter. What nobody
// else is known to have goes to the outbox first, in the same transaction.
func (e *Engine) forgetScopes() {
	defer e.spare()
	for name, since := range e.spared {
		if e.readOnly != nil || e.cfg.Topo.Holds(name) || e.cfg.Now().Sub(since) < forgetAfter {
			continue
		}
		if err := e.forget(name); err != nil {
			e.log.Warn("What is not needed here any more was not removed", "scope", name, "err", err)
		}
	}
}

func (e *Engine) forget(name crdt.Scope) error {
	sc := e.scopes[name]
	t := e.newTurn()
	holders := e.holders(name)
	var only []crdt.ID
	sc.arrivals.after(e.bestAck(name, holders), func(a arrival) bool {
		if !holders[a.peer] {
			only = append(only, a.id)
		}
		return len(only) <= turnOps/4
	})
	if len(only) > turnOps/4 {
		return errTooMuchOwed // its holders have to take some first
	}
	for _, id := range only {
		raw, err := machineView{e}.Bytes(id)
		if err != nil {
			return err
		}
		if raw == nil {
			continue
		}
		c, err := e.decode(raw)
		if err != nil {
			return err
		}
		t.stage(staged{c: c, out: true})
	}
	ids := sc.set.IDs()
	gone, err := e.pastOf(name)
	if err != nil {
		return err
	}
	t.after = append(t.after, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, id := range ids {
			e.prune(sc, id)
		}
		sc.set = crdt.NewSet(name)
		e.chores.dead = append(e.chores.dead, gone...)
		for k, c := range e.x.cursors {
			if k.scope == name { // were it held again, all would have to come anew
				*c = cursors{Acked: c.Acked}
				e.x.note(k)
			}
		}
		delete(e.spared, name)
	})
	t.batch.Put(keyClock, encode(e.clock.last))
	t.commit()
	if e.readOnly != nil {
		return e.readOnly
	}
	e.log.Info("The state of a site that is held elsewhere now was removed here", "scope", name, "changes", len(ids))
	return nil
}

// holders are the peers that hold a scope, as the topology says.
func (e *Engine) holders(name crdt.Scope) map[Peer]bool {
	out := map[Peer]bool{}
	for _, n := range e.cfg.Topo.Neighbours() {
		if slices.Contains(n.Holds, name) || slices.Contains(n.Shared, name) {
			out[n.Peer] = true
		}
	}
	return out
}

// bestAck is how far the best of some peers has taken a scope.
func (e *Engine) bestAck(name crdt.Scope, of map[Peer]bool) (n uint64) {
	e.x.mu.Lock()
	defer e.x.mu.Unlock()
	for k, acked := range e.x.acked {
		if k.scope == name && of[k.peer] {
			n = max(n, acked)
		}
	}
	return n
}

// pastOf lists the keys of a scope's displaced versions.
func (e *Engine) pastOf(name crdt.Scope) (keys [][]byte, err error) {
	prefix := append([]byte("h/"), byte(len(name)))
	prefix = append(prefix, name...)
	err = e.cfg.Disk.View(func(r disk.Reader) error {
		return r.Scan(prefix, func(key, _ []byte) error {
			keys = append(keys, slices.Clone(key))
			return nil
		})
	})
	return keys, err
}
