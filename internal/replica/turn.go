package replica

import (
	"errors"
	"fmt"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/mutant"
	"carrierclass.net/ccnode/internal/disk"
)

// Limits of one turn, well within one transaction of the disk.
const (
	turnBytes = disk.MaxBatchBytes * 3 / 4
	turnOps   = disk.MaxBatchOps * 3 / 4
)

// turn is one transaction: everything that waited during the previous fsync.
type turn struct {
	e      *Engine
	now    time.Time
	wall   time.Time
	synced bool
	batch  disk.Batch

	staged  []staged
	shares  map[shareKey]crdt.Share // what staged adds to what authors have
	heldOf  map[crdt.NodeID]int     // held changes by author; nil: not counted yet
	heldAll int
	ids     map[crdt.ID]bool
	cells   map[crdt.Cell]bool
	heads   map[crdt.Scope]uint64 // arrival numbers given in this turn
	hashes  map[crdt.Scope]*crdt.LtHash
	trust   bool   // changes of the trust scope are among staged
	early   []Peer // whose own changes are held for their time, now
	last    crdt.Stamp
	did     chores

	bad     map[crdt.ID]Verdict // durable, and then not merged
	answers []func(err error)
	after   []func() // after the merge, no lock held
}

// staged is a change that becomes part of the state when the turn is durable.
type staged struct {
	c    *crdt.Change
	peer Peer // where it came from; zero for our own
	n    uint64
	out  bool // it goes to the outbox: the scope is not held here
	keep bool // it goes to the held ones
	ask  bool // a person decides about it
	why  string
	free bool // it leaves the held ones
	l    *local
}

func (e *Engine) newTurn() *turn {
	t := &turn{e: e, now: e.cfg.Now(), wall: e.wall(), synced: e.cfg.Synced(), ids: map[crdt.ID]bool{}, cells: map[crdt.Cell]bool{},
		heads: map[crdt.Scope]uint64{}, hashes: map[crdt.Scope]*crdt.LtHash{}, last: e.clock.last}
	e.mu.Lock()
	e.clock.tick(t.wall, t.now, t.synced)
	e.mu.Unlock()
	t.takeChores()
	return t
}

func (t *turn) full() bool { return t.batch.Bytes() > turnBytes || t.batch.Len() > turnOps }

// turn does one transaction of what waits. It says whether more is waiting.
func (e *Engine) turn() (more bool) {
	e.mend()
	locals, remote := e.inbox.take()
	if len(locals) == 0 && len(remote) == 0 {
		return false
	}
	if e.readOnly != nil {
		e.recoverDisk()
	}
	t := e.newTurn()
	nl := 0
	for nl < len(locals) && !t.full() && t.local(locals[nl]) {
		nl++
	}
	nr := 0
	for nr < len(remote) && nl == len(locals) && !t.full() && t.delivery(remote[nr]) {
		nr++
	}
	more = nl < len(locals) || nr < len(remote)
	if more {
		e.inbox.putBack(locals[nl:], remote[nr:])
	}
	t.commit()
	if e.judgeHeld {
		e.judgeHeld = false
		e.retryHeld()
	}
	e.x.drain()
	return true
}

// takeChores puts deletions and history into the transaction.
func (t *turn) takeChores() {
	e := t.e
	if e.start != nil {
		t.batch.Append(e.start)
		t.after = append(t.after, func() { e.start = nil })
	}
	if n := min(len(e.unnumbered), turnOps/4); n > 0 {
		for _, u := range e.unnumbered[:n] {
			t.batch.Put(keyArrival(u.scope, u.n), append(u.id[:], make([]byte, 16)...))
		}
		t.after = append(t.after, func() { e.unnumbered = e.unnumbered[n:] })
	}
	// What was overwritten is in the history before its change is deleted: a
	// power cut between two transactions loses neither.
	for len(e.chores.history) > 0 && t.batch.Len() < turnOps/3 && t.batch.Bytes() < turnBytes/2 {
		h := e.chores.history[0]
		e.chores.history = e.chores.history[1:]
		t.did.history = append(t.did.history, h)
		key, value := h.key(), encode(h)
		t.batch.Put(key, value)
		e.history.bytes += len(key) + len(value)
	}
	if e.chores.since {
		t.batch.Put(keyMemory, encode(e.history.begin().UnixMilli()))
		t.after = append(t.after, func() { e.chores.since = false })
	}
	for len(e.chores.history) == 0 && len(e.chores.prune) > 0 && t.batch.Len() < turnOps/2 {
		p := e.chores.prune[0]
		e.chores.prune = e.chores.prune[1:]
		t.did.prune = append(t.did.prune, p)
		t.batch.Delete(keyChange(p.id))
		if p.n != 0 {
			t.batch.Delete(keyArrival(p.scope, p.n))
		}
		t.hash(p.scope).Remove(p.id)
	}
	for len(e.chores.dead) > 0 && t.batch.Len() < turnOps/2 {
		t.batch.Delete(e.chores.dead[0])
		t.did.dead = append(t.did.dead, e.chores.dead[0])
		e.chores.dead = e.chores.dead[1:]
	}
	for _, id := range e.chores.delivered {
		t.batch.Delete(keyOutbox(id))
	}
	t.did.delivered, e.chores.delivered = e.chores.delivered, nil
	for k := range e.chores.cursors {
		t.batch.Put(keyPeer(k.peer, k.scope), encode(*e.x.cursor(k.peer, k.scope)))
	}
	t.did.cursors, e.chores.cursors = e.chores.cursors, nil
}

// hash is the scope's hash of stored ids as this turn will leave it.
func (t *turn) hash(name crdt.Scope) *crdt.LtHash {
	h := t.hashes[name]
	if h == nil {
		h = new(crdt.LtHash)
		*h = t.e.need(name).stored
		t.hashes[name] = h
	}
	return h
}

// stage puts a change into the transaction.
func (t *turn) stage(s staged) {
	e, c := t.e, s.c
	id := c.ID()
	t.ids[id] = true
	if s.free {
		t.batch.Delete(keyHeld(id))
	}
	switch {
	case s.keep:
		t.batch.Put(keyHeld(id), encode(e.heldRecord(c, s.peer, s.why, t.now, s.ask)))
	case s.out && mutant.Is(mutant.OutboxVolatile):
	case s.out:
		t.batch.Put(keyOutbox(id), encode(outboxRecord{Raw: c.Raw(), At: t.now.UnixMilli()}))
	default:
		sc := e.need(c.Scope)
		head, ok := t.heads[c.Scope]
		if !ok {
			head = sc.arrivals.head
			if !sc.noted {
				t.batch.Put(keyEpoch(c.Scope), encode(append(sc.epochs[:len(sc.epochs):len(sc.epochs)], epoch{ID: e.x.epoch, First: head + 1})))
			}
		}
		s.n = head + 1
		t.heads[c.Scope] = s.n
		t.batch.Put(keyChange(id), c.Raw())
		t.batch.Put(keyArrival(c.Scope, s.n), append(id[:], s.peer[:]...))
		t.hash(c.Scope).Add(id)
		for i := range c.Writes {
			t.cells[c.Cell(i)] = true
		}
		if c.Scope == crdt.Trust {
			t.trust = true
		}
		t.last = max(t.last, c.Stamp)
	}
	t.staged = append(t.staged, s)
}

// commit makes the turn durable, then merges, then sends, then answers.
func (t *turn) commit() {
	e := t.e
	if t.batch.Len() == 0 {
		t.finish(nil)
		return
	}
	for name, h := range t.hashes {
		head, ok := t.heads[name]
		if !ok {
			head = e.need(name).arrivals.head
		}
		t.batch.Put(keyHash(name), summary(h, head))
	}
	if t.last > e.clock.last || len(t.staged) > 0 {
		t.batch.Put(keyClock, encode(max(t.last, e.clock.last)))
	}
	err := e.readOnly
	if err == nil || errors.Is(err, disk.ErrNoSpace) {
		if mutant.Is(mutant.SkipDisk) {
			t.batch = disk.Batch{}
		}
		err = e.cfg.Disk.Commit(&t.batch)
	}
	if err != nil {
		e.chores.prune = append(t.did.prune, e.chores.prune...)
		e.chores.history = append(t.did.history, e.chores.history...)
		e.chores.dead = append(t.did.dead, e.chores.dead...)
		e.chores.delivered = append(t.did.delivered, e.chores.delivered...)
		for k := range t.did.cursors {
			e.x.note(k)
		}
		e.fail(err)
		t.finish(fmt.Errorf("%w: %w", ErrReadOnly, err))
		if !errors.Is(err, disk.ErrNoSpace) {
			e.recoverDisk()
		}
		return
	}
	e.merge(t)
	t.finish(nil)
}

func (t *turn) finish(err error) {
	if err == nil {
		for _, fn := range t.after {
			fn()
		}
	}
	if len(t.bad) > 0 {
		t.e.expel(t)
	}
	for _, answer := range t.answers {
		answer(err)
	}
}

// merge brings what is durable into the state.
func (e *Engine) merge(t *turn) {
	type news struct {
		scope crdt.Scope
		cells []crdt.Cell
	}
	var told []news
	var trust []crdt.Cell
	var twins []twin
	e.mu.Lock()
	e.readOnly = nil
	for name, h := range t.hashes {
		e.scope(name).stored = *h
	}
	one := func(s *staged) {
		id := s.c.ID()
		if s.free {
			delete(e.held, id)
		}
		if s.keep {
			e.held[id] = &heldChange{change: s.c, peer: s.peer, why: s.why, at: t.now, ask: s.ask}
			return
		}
		if s.out {
			e.outbox[id] = &outgoing{change: s.c, at: t.now}
			e.x.out = nil
			return
		}
		sc := e.scope(s.c.Scope)
		if !sc.noted {
			sc.epochs = append(sc.epochs, epoch{ID: e.x.epoch, First: s.n})
			sc.noted = true
		}
		fx := sc.set.Add(s.c)
		e.plant("merge", s.c.Raw())
		sc.arrivals.add(s.n, id, s.peer, s.c.Node, len(s.c.Raw()))
		e.clock.witness(s.c.Stamp)
		e.unholdVoid(s.c, sc.set)
		if erases(s.c) {
			fx.Displaced = nil
			err := e.cfg.Disk.View(func(r disk.Reader) error { return e.eraseHistory(r, s.c.Cell(0)) })
			if err != nil { // a start tries again
				e.log.Warn("The history of an erased record was not removed", "err", err)
			}
		}
		e.settle(sc, fx, t.now)
		if !fx.Live && !fx.Known {
			e.prune(sc, id)
		}
		if len(fx.Equivocal) > 0 {
			e.report(fmt.Sprintf("node %x wrote two changes under one name, %s and %s: it was copied, or cheats", s.c.Node, id, fx.Equivocal[0]))
			twins = append(twins, twin{s.c, fx.Equivocal[0]})
		}
		if len(fx.Cells) > 0 {
			if len(told) > 0 && told[len(told)-1].scope == sc.name {
				told[len(told)-1].cells = append(told[len(told)-1].cells, fx.Cells...)
			} else {
				told = append(told, news{sc.name, fx.Cells})
			}
			if sc.name == crdt.Trust {
				trust = append(trust, fx.Cells...)
			}
		}
	}
	for i := range t.staged {
		s := &t.staged[i]
		if f := guard(func() { one(s) }); f != nil {
			t.broken(s.c, s.peer, whyPoison+e.spoke("merged", s.c, f))
			break
		}
	}
	e.mu.Unlock()
	if len(t.bad) > 0 {
		return // expel goes on
	}
	if len(trust) > 0 && e.cfg.TrustMoved != nil {
		if f := guard(func() { e.cfg.TrustMoved(view{e}, trust) }); f != nil {
			t.untrusted(f)
			return
		}
	}
	for _, w := range twins {
		e.equivocal(w)
	}
	for _, n := range told {
		e.watchers.tell(n.scope, n.cells)
	}
	e.x.merged(t)
	if len(trust) > 0 && !mutant.Is(mutant.HeldStays) {
		e.judgeHeld = true
		e.trustMoves++
	}
}

// twin is a change and another one under the same dot.
type twin struct {
	c     *crdt.Change
	other crdt.ID
}

// equivocal hands on the proof that a node signed two changes under one dot.
func (e *Engine) equivocal(w twin) {
	if e.cfg.Equivocal == nil {
		return
	}
	raw, err := machineView{e}.Bytes(w.other)
	if err != nil || raw == nil {
		return // read only: the pair is found again at the next start elsewhere
	}
	if o, err := crdt.Decode(raw); err == nil {
		e.cfg.Equivocal(o, w.c)
	}
}

// settle notes what a merge displaced.
func (e *Engine) settle(sc *scope, fx crdt.Effect, now time.Time) {
	for _, id := range fx.Pruned {
		e.prune(sc, id)
	}
	for _, d := range fx.Displaced {
		bare := e.cfg.Remember != nil && !e.cfg.Remember(d.Cell)
		if bare {
			if d.Version.Node != e.cfg.Node {
				continue
			}
			d.Version.Value, d.Version.Ctx = nil, nil
		}
		e.chores.history = append(e.chores.history, past{Bare: bare,
			Scope: []byte(d.Cell.Scope), Table: d.Cell.Table, Record: []byte(d.Cell.Record), Field: []byte(d.Cell.Field),
			Actor: uint64(d.Version.Actor), Stamp: uint64(d.Version.Stamp), ID: d.Version.ID[:], Node: d.Version.Node[:], Author: d.Version.By[:],
			Value: d.Version.Value, Flags: uint8(d.Version.Flags), By: d.By[:], At: now.UnixMilli(), Saw: newest(d.Version.Ctx),
		})
	}
}

func (e *Engine) prune(sc *scope, id crdt.ID) {
	n := sc.arrivals.remove(id)
	e.chores.prune = append(e.chores.prune, pruned{sc.name, id, n})
}
