package replica

import (
	"errors"
	"fmt"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/mutant"
)

// local puts a local write into the turn. It says no, and changes nothing, if
// the write has to see an earlier one of this turn merged first.
func (t *turn) local(l *local) bool {
	if l.do != nil {
		l.do(t)
		t.answers = append(t.answers, func(err error) { l.done <- answer{err: err} })
		return true
	}
	e, m := t.e, &l.m
	if m.Precondition != nil && len(t.staged) > 0 {
		return false
	}
	for i := range m.Writes {
		w := &m.Writes[i]
		if t.cells[crdt.Cell{Scope: m.Scope, Table: w.Table, Record: w.Record, Field: w.Field}] ||
			t.cells[crdt.Cell{Scope: m.Scope, Table: w.Table, Record: w.Record}] || w.Flags&crdt.Final != 0 && len(t.staged) > 0 {
			return false
		}
	}
	var c *crdt.Change
	var err error
	if f := guard(func() { c, err = t.make(m) }); f != nil {
		e.log.Error("A write made this program fail, it is refused", "panic", f.what, "stack", f.stack)
		err = fmt.Errorf("%w: %s", ErrProgram, f.what)
	}
	if err != nil {
		l.done <- answer{err: err}
		return true
	}
	t.stage(staged{c: c, out: !e.cfg.Topo.Holds(m.Scope), l: l})
	t.answers = append(t.answers, func(err error) {
		if err != nil {
			l.done <- answer{err: err}
			return
		}
		if v, bad := t.bad[c.ID()]; bad {
			l.done <- answer{err: fmt.Errorf("%w: %s", ErrProgram, v.Reason)}
			return
		}
		l.done <- answer{receipt: Receipt{c.ID(), c.Stamp}}
	})
	return true
}

// UseGrant makes this node write under another grant of its from now on: one
// with more rights, or that another issuer gave.
func (e *Engine) UseGrant(g crdt.Ref) { e.renewed.Store(&g) }

func (e *Engine) grant() crdt.Ref {
	if g := e.renewed.Load(); g != nil {
		return *g
	}
	return e.cfg.Auth
}

// make turns a mutation into a signed change, by the law of the actor.
func (t *turn) make(m *Mutation) (*crdt.Change, error) {
	e := t.e
	if len(m.Writes) == 0 {
		return nil, errors.New("a mutation without writes")
	}
	if !m.Scope.Valid() {
		return nil, fmt.Errorf("write to scope %q: there is no such scope", string(m.Scope))
	}
	if m.Precondition != nil {
		if err := m.Precondition(view{e}); err != nil {
			return nil, err
		}
	}
	c := &crdt.Change{Scope: m.Scope, Node: e.cfg.Node, Actor: e.actor, Auth: e.grant(), By: m.By, Ext: m.Ext,
		Writes: append([]crdt.Write(nil), m.Writes...)}
	if m.Auth != (crdt.Ref{}) {
		c.Auth = m.Auth
	}
	set := view{e}.Set(m.Scope)
	fresh := !e.cfg.Topo.Holds(m.Scope)
	var seen crdt.Stamp
	for i := range c.Writes {
		w := &c.Writes[i]
		if _, final := set.Final(w.Table, w.Record); final && w.Flags&crdt.Final == 0 {
			return nil, fmt.Errorf("write to record %x of table %d: %w", w.Record, w.Table, ErrPurged)
		}
		cell := c.Cell(i)
		var token crdt.Context
		if m.Token != nil {
			if token = m.Token[cell]; token == nil {
				token = crdt.Context{}
			}
		}
		ctx, behind := crdt.Plan(set.Known(cell), token, e.self)
		w.Ctx = ctx
		if mutant.Is(mutant.NoContext) {
			w.Ctx = nil
		}
		fresh = fresh || behind && !mutant.Is(mutant.StaleToken)
		seen = max(seen, ctx.Max())
	}
	if fresh {
		a, err := e.fresh()
		if err != nil {
			return nil, err
		}
		c.Actor = a
	}
	// The clock moves even if the change is never stored: stamps are cheap.
	t.last = max(t.last, seen)
	k := e.clock
	k.last = t.last
	c.Stamp = k.next(t.wall, t.synced, seen)
	if err := crdt.Seal(c, e.cfg.Fleet, e.cfg.Sign); err != nil {
		return nil, fmt.Errorf("make a change of %d writes: %w", len(c.Writes), err)
	}
	if v := e.cfg.Gate.Admit(c, view{e}); v.Outcome == Refuse {
		return nil, fmt.Errorf("%w: %s", ErrForbidden, v.Reason)
	}
	t.last = k.last
	return c, nil
}

// enqueue puts work of the engine's own into its next turn.
func (e *Engine) enqueue(do func(*turn)) <-chan answer {
	l := &local{do: do, done: make(chan answer, 1)}
	if err := e.inbox.local(l); err != nil {
		l.done <- answer{err: err}
	}
	return l.done
}
