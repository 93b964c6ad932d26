package replica

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/mutant"
	"carrierclass.net/ccnode/internal/disk"
)

// mending is what has to outlive a restart in the middle of it.
type mending struct {
	Cut  uint64    `cbor:"1,keyasint"` // what is later is written again
	Mine []ownLate `cbor:"2,keyasint"`
}

// ownLate is what an actor of this node wrote in a scope later than the cut.
type ownLate struct {
	_      struct{} `cbor:",toarray"`
	Scope  []byte
	Actor  uint64
	Stamps []uint64
	IDs    [][]byte // in the order of Stamps
}

// ownStamps are this node's late changes.
type ownStamps map[ownKey]map[crdt.Stamp][]crdt.ID // more than one, if the disk was set back

func (m *mending) known() ownStamps {
	out := ownStamps{}
	for _, l := range m.Mine {
		stamps := map[crdt.Stamp][]crdt.ID{}
		for i, s := range l.Stamps {
			if i < len(l.IDs) && len(l.IDs[i]) == len(crdt.ID{}) {
				stamps[crdt.Stamp(s)] = append(stamps[crdt.Stamp(s)], crdt.ID(l.IDs[i]))
			}
		}
		out[ownKey{crdt.Scope(l.Scope), crdt.ActorID(l.Actor)}] = stamps
	}
	return out
}

// late is a change of our own whose time has not come.
type late struct {
	c   *crdt.Change
	out bool // it waits in the outbox
}

// stored reads a change that is here.
func (e *Engine) stored(id crdt.ID) (*crdt.Change, error) {
	raw, err := machineView{e}.Bytes(id)
	if err != nil || raw == nil {
		return nil, errors.Join(err, fmt.Errorf("change %s cannot be read", id))
	}
	return e.decode(raw)
}

// writeAgain writes what is later than cut anew, and takes the former back.
func (e *Engine) writeAgain(cut crdt.Stamp, known ownStamps) (n int, err error) {
	done := map[crdt.ID]bool{}      // before a restart: what was written again, and what as
	sent := map[crdt.ActorID]bool{} // of whom something for another site was
	err = e.cfg.Disk.View(func(r disk.Reader) error {
		return r.Scan([]byte(prefixAgain), func(key, value []byte) error {
			if len(key) != len(prefixAgain)+32 || len(value) != 32+8 {
				return nil
			}
			done[crdt.ID(key[len(prefixAgain):])], done[crdt.ID(value[:32])] = true, true
			sent[crdt.ActorID(binary.BigEndian.Uint64(value[32:]))] = true
			return nil
		})
	})
	if err != nil {
		return 0, err
	}
	todo, err := e.lateOnes(cut, done)
	if err != nil {
		return 0, err
	}
	stays := func(c *crdt.Change) {
		k := ownKey{c.Scope, c.Dot().Actor}
		if known[k] != nil {
			known[k][c.Stamp] = slices.DeleteFunc(known[k][c.Stamp], func(id crdt.ID) bool { return id == c.ID() })
		}
	}
	t := e.newTurn()
	for _, l := range todo {
		m, ok := e.again(l, cut, known)
		if !ok {
			e.log.Warn("What was written while the clock was ahead comes to others in its time: it cannot be said again", "scope", l.c.Scope, "change", l.c.ID())
			stays(l.c)
			continue
		}
		if len(m.Writes) == 0 {
			continue
		}
		if t.full() || t.writes(m) {
			if t.commit(); e.readOnly != nil {
				return n, e.readOnly
			}
			t = e.newTurn()
		}
		var c *crdt.Change
		if f := guard(func() { c, err = t.make(m) }); f != nil {
			err = errors.New(f.what)
		}
		if errors.Is(err, crdt.ErrShape) { // too long by what it says of its former
			m.Ext = l.c.Ext
			c, err = t.make(m)
		}
		if err != nil {
			e.log.Warn("What was written while the clock was ahead comes to others in its time", "change", l.c.ID(), "why", err)
			stays(l.c)
			continue
		}
		id, former, actor := c.ID(), l.c.ID(), l.c.Dot().Actor
		t.stage(staged{c: c, out: l.out})
		t.batch.Put(append([]byte(prefixAgain), former[:]...), binary.BigEndian.AppendUint64(id[:], uint64(actor)))
		done[former], sent[actor] = true, true
		if l.out {
			t.batch.Delete(keyOutbox(former))
			t.after = append(t.after, func() {
				e.mu.Lock()
				delete(e.outbox, former)
				e.x.out = nil
				e.mu.Unlock()
			})
		}
		n++
	}
	if t.commit(); e.readOnly != nil {
		return n, e.readOnly
	}
	if err := e.takeBack(known, sent); err != nil {
		return n, err
	}
	t = e.newTurn()
	t.batch.Delete(keyMending)
	for id := range done {
		t.batch.Delete(append([]byte(prefixAgain), id[:]...))
		if t.full() {
			if t.commit(); e.readOnly != nil {
				return n, e.readOnly
			}
			t = e.newTurn()
		}
	}
	if t.commit(); e.readOnly != nil {
		return n, e.readOnly
	}
	e.mends.under = nil
	return n, nil
}

// writes says whether the turn writes a cell of m already.
func (t *turn) writes(m *Mutation) bool {
	for i := range m.Writes {
		w := &m.Writes[i]
		if t.cells[crdt.Cell{Scope: m.Scope, Table: w.Table, Record: w.Record, Field: w.Field}] {
			return true
		}
	}
	return false
}

type ownKey struct {
	scope crdt.Scope
	actor crdt.ActorID
}

// ownAfter is what this node's actors wrote later than cut: what is here or on its
// way, and what was overwritten here.
func (e *Engine) ownAfter(cut crdt.Stamp) (*mending, error) {
	out := ownStamps{}
	note := func(s crdt.Scope, d crdt.Dot, id crdt.ID) {
		if d.Stamp > cut {
			k := ownKey{s, d.Actor}
			if out[k] == nil {
				out[k] = map[crdt.Stamp][]crdt.ID{}
			}
			if !slices.Contains(out[k][d.Stamp], id) {
				out[k][d.Stamp] = append(out[k][d.Stamp], id)
			}
		}
	}
	for name, sc := range e.scopes {
		for _, id := range sc.set.After(cut) {
			if sc.set.Author(id) != e.cfg.Node {
				continue
			}
			c, err := e.stored(id)
			if err != nil {
				return nil, err
			}
			note(name, c.Dot(), id)
		}
	}
	for _, o := range e.outbox {
		if o.change.Node == e.cfg.Node {
			note(o.change.Scope, o.change.Dot(), o.change.ID())
		}
	}
	of := func(p *past) {
		if bytes.Equal(p.Node, e.cfg.Node[:]) && len(p.ID) == len(crdt.ID{}) && e.cfg.Topo.Holds(crdt.Scope(p.Scope)) {
			note(crdt.Scope(p.Scope), crdt.Dot{Actor: crdt.ActorID(p.Actor), Stamp: crdt.Stamp(p.Stamp)}, crdt.ID(p.ID))
		}
	}
	for i := range e.chores.history {
		of(&e.chores.history[i])
	}
	err := e.cfg.Disk.View(func(r disk.Reader) error {
		return r.Scan([]byte("h/"), func(_, value []byte) error {
			var p past
			if cbor.Unmarshal(value, &p) == nil { // else it is no history, and nobody else reads it either
				of(&p)
			}
			return nil
		})
	})
	m := &mending{Cut: uint64(cut)}
	for k, stamps := range out {
		l := ownLate{Scope: []byte(k.scope), Actor: uint64(k.actor)}
		for _, s := range slices.Sorted(maps.Keys(stamps)) {
			for _, id := range stamps[s] {
				l.Stamps, l.IDs = append(l.Stamps, uint64(s)), append(l.IDs, bytes.Clone(id[:]))
			}
		}
		m.Mine = append(m.Mine, l)
	}
	slices.SortFunc(m.Mine, func(a, b ownLate) int {
		return cmp.Or(bytes.Compare(a.Scope, b.Scope), cmp.Compare(a.Actor, b.Actor))
	})
	return m, err
}

// lateOnes lists what has to be written again, in the order in which it was written.
func (e *Engine) lateOnes(cut crdt.Stamp, done map[crdt.ID]bool) (out []late, err error) {
	for _, sc := range e.scopes {
		for _, id := range sc.set.After(cut) {
			if sc.set.Author(id) != e.cfg.Node || done[id] {
				continue
			}
			c, err := e.stored(id)
			if err != nil {
				return nil, err
			}
			if c.Actor != e.actor && c.Writes[0].Table != crdt.TableVoid {
				out = append(out, late{c: c})
			}
		}
	}
	for _, o := range e.outbox {
		if c := o.change; c.Node == e.cfg.Node && c.Stamp > cut {
			out = append(out, late{c, true})
		}
	}
	slices.SortFunc(out, func(a, b late) int {
		x, y := a.c.ID(), b.c.ID()
		return cmp.Or(cmp.Compare(a.c.Stamp, b.c.Stamp), bytes.Compare(x[:], y[:]))
	})
	return out, nil
}

// again is what of l counts, to be written under the right time. It says no to what
// has to stay as it is.
func (e *Engine) again(l late, cut crdt.Stamp, known ownStamps) (*Mutation, bool) {
	c := l.c
	m := &Mutation{Scope: c.Scope, By: c.By, Token: map[crdt.Cell]crdt.Context{}, Ext: crdt.FormerExt(c.Ext, c)}
	if l.out {
		m.Auth = c.Auth // perhaps an administrator's session
	}
	set := view{e}.Set(c.Scope)
	for i := range c.Writes {
		w, cell := c.Writes[i], c.Cell(i)
		if w.Flags&crdt.Final == 0 && !l.out && !slices.ContainsFunc(set.Versions(cell), func(v crdt.Version) bool { return v.ID == c.ID() }) {
			continue // overwritten
		}
		if c.Scope == crdt.Trust && w.Flags&crdt.Final == 0 && e.cfg.Vouches != nil && !e.cfg.Vouches(w) {
			return nil, false
		}
		if c.Scope == crdt.Trust && slices.ContainsFunc(set.Versions(cell), func(v crdt.Version) bool { return v.ID != c.ID() && bytes.Equal(v.Value, w.Value) }) {
			continue // somebody has said so under the right time
		}
		token := crdt.Context{}
		for _, d := range w.Ctx {
			switch {
			case d.Stamp <= cut:
				token = append(token, d)
			case known[ownKey{c.Scope, d.Actor}][d.Stamp] == nil:
				return nil, false // it saw what is not known to be ours
			case mutant.Is(mutant.ForgetsOwn):
			default: // taken back; of that actor what was before counts as seen
				token = append(token, crdt.Dot{Actor: d.Actor, Stamp: cut})
			}
		}
		m.Token[cell] = token
		w.Ctx = nil
		m.Writes = append(m.Writes, w)
	}
	return m, true
}

// takeBack voids what was written again: of another site's state only what sent
// says, because what that site has acknowledged meanwhile is not here any more.
func (e *Engine) takeBack(known ownStamps, sent map[crdt.ActorID]bool) error {
	keys := make([]ownKey, 0, len(known))
	for k := range known {
		if k.scope != crdt.Trust && (sent[k.actor] || e.cfg.Topo.Holds(k.scope)) {
			keys = append(keys, k)
		}
	}
	if mutant.Is(mutant.NothingVoid) {
		return nil
	}
	slices.SortFunc(keys, func(a, b ownKey) int {
		return cmp.Or(cmp.Compare(a.scope, b.scope), cmp.Compare(a.actor, b.actor))
	})
	for _, k := range keys {
		var ids []crdt.ID
		for _, same := range known[k] {
			ids = append(ids, same...)
		}
		for _, w := range crdt.VoidWrites(e.cfg.Node, ids) {
			t := e.newTurn()
			c, err := t.make(&Mutation{Scope: k.scope, Writes: []crdt.Write{w}})
			if err == nil {
				t.stage(staged{c: c, out: !e.cfg.Topo.Holds(k.scope)})
			} else {
				e.log.Warn("What was written while the clock was ahead could not be taken back: it counts again in its time", "scope", k.scope, "why", err)
			}
			if t.commit(); e.readOnly != nil {
				return e.readOnly
			}
		}
	}
	return nil
}

// unholdVoid drops held changes that their author took back, or wrote again as a
// final; c did so. The caller holds mu.
func (e *Engine) unholdVoid(c *crdt.Change, set *crdt.Set) {
	if c.Writes[0].Table != crdt.TableVoid && c.Writes[0].Flags&crdt.Final == 0 {
		return
	}
	for id, h := range e.held {
		if h.change.Node == c.Node && h.change.Scope == c.Scope && h.why == whyAhead && set.Seen(h.change) {
			delete(e.held, id)
			e.chores.dead = append(e.chores.dead, keyHeld(id))
		}
	}
}
