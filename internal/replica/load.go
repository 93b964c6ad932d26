package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/mutant"
	"carrierclass.net/ccnode/internal/disk"
)

// identity is what tells whether this disk is still where it was.
type identity struct {
	Actor   uint32 `cbor:"1,keyasint"`
	Node    []byte `cbor:"2,keyasint"`
	Machine string `cbor:"3,keyasint"`
}

// maxEpochs bounds the list of starts of one scope; cursors older than that are
// not believed, which costs a comparison.
const maxEpochs = 256

// load reads the state at a start: repairs what can be repaired alone, keeps or
// draws the actor, and notes the new epoch.
func (e *Engine) load() error {
	damage, err := disk.Scrub(e.cfg.Disk)
	if err != nil && !errors.Is(err, disk.ErrNoSpace) {
		return err
	}
	lost := false // acknowledged writes may be missing
	for _, d := range damage {
		e.report("store: " + d.String())
		lost = lost || d.Key == nil || bytes.HasPrefix(d.Key, []byte("c/")) || bytes.HasPrefix(d.Key, []byte("s/"))
	}
	if _, err = io.ReadFull(e.cfg.Random, e.x.sketchKey[:]); err != nil {
		return fmt.Errorf("draw a key for sketches: %w", err)
	}
	if e.x.epoch, err = e.random32(); err != nil {
		return err
	}
	if err := e.reload(); err != nil {
		return err
	}
	e.cfg.base = nil
	start := new(disk.Batch)
	if e.start != nil {
		start, e.start = e.start, nil
	}
	if err := e.identify(lost || e.hurt, start); err != nil {
		return err
	}
	for name, sc := range e.scopes {
		sc.epochs = append(sc.epochs, epoch{ID: e.x.epoch, First: sc.arrivals.head + 1})
		sc.epochs = sc.epochs[max(0, len(sc.epochs)-maxEpochs):]
		sc.noted = true
		start.Put(keyEpoch(name), encode(sc.epochs))
		start.Put(keyHash(name), summary(&sc.stored, sc.arrivals.head))
	}
	if err := e.cfg.Disk.Commit(start); err != nil {
		// It goes with the first turn that succeeds.
		e.start = start
		e.readOnly = err
		e.log.Error("Changes are refused", "err", err)
	}
	e.forgetHistory()
	return nil
}

// identify keeps the actor of the last start, or draws one: at the first, and
// whenever the disk may have been copied or rolled back (state.md §2).
func (e *Engine) identify(lost bool, start *disk.Batch) error {
	var was identity
	why := ""
	err := e.cfg.Disk.View(func(r disk.Reader) error {
		b, err := r.Get(keyActor)
		if err != nil {
			return err
		}
		return cbor.Unmarshal(b, &was)
	})
	switch {
	case errors.Is(err, disk.ErrNotFound) && len(e.scopes) == 0:
		why = "first start"
	case err != nil:
		why = "the actor of the last start cannot be read"
	case lost:
		why = "acknowledged changes are missing from the disk"
	case !bytes.Equal(was.Node, e.cfg.Node[:]):
		why = "the disk belonged to another node"
	case was.Machine != e.cfg.Machine && !mutant.Is(mutant.SameMachine):
		why = "the disk was in another machine"
	}
	if why == "" {
		e.adopt(was.Actor)
		return nil
	}
	e.actor = was.Actor
	actor, err := e.fresh()
	if err != nil {
		return err
	}
	e.adopt(actor)
	if why != "first start" {
		e.report("a new actor was drawn: " + why)
	}
	start.Put(keyActor, encode(identity{actor, e.cfg.Node[:], e.cfg.Machine}))
	if why != "first start" {
		start.Put(keyDoubt, []byte{1})
		e.x.doubt = true
	}
	return nil
}

// reload reads all changes. Changes that are covered by others, entries of the
// index without a change and changes without an entry are put right; what does
// not fit the stored hash is reported, and the peers' cursors of that scope are
// dropped, so that they send everything again.
func (e *Engine) reload() error {
	before := e.x.cursors
	var hurt map[crdt.Scope]bool
	for again := true; again; {
		hurt = map[crdt.Scope]bool{}
		err := e.read(hurt)
		if again = errors.Is(err, errAgain); !again && err != nil {
			return err
		}
	}
	for k, old := range before { // what peers acknowledged since it was last written
		if c := e.x.cursor(k.peer, k.scope); !hurt[k.scope] && old.Acked > c.Acked {
			c.Acked = old.Acked
			e.x.setAcked(k, c.Acked)
			e.x.note(k)
		}
	}
	e.hurt = len(hurt) > 0
	e.completeArrivals()
	e.keepAside()
	return nil
}

// read reads everything into an empty engine; after errAgain again, without what
// made the program fail.
func (e *Engine) read(hurt map[crdt.Scope]bool) error {
	e.scopes = e.cfg.base.scopes()
	e.x.out = nil
	e.held, e.dropped, e.outbox = map[crdt.ID]*heldChange{}, map[crdt.ID]*Dropped{}, map[crdt.ID]*outgoing{}
	e.chores, e.unnumbered = chores{}, nil
	e.x.cursors = map[cursorKey]*cursors{}
	now := e.cfg.Now()
	e.hurt = false
	return e.cfg.Disk.View(func(r disk.Reader) error {
		if b, err := r.Get(keyClock); err == nil {
			var s crdt.Stamp
			if cbor.Unmarshal(b, &s) == nil {
				e.clock.witness(s)
			}
		}
		e.mends.wrong = wrongTime{}
		if b, err := r.Get(keyWrong); err == nil && cbor.Unmarshal(b, &e.mends.wrong) == nil {
			e.clock.correct(e.mends.wrong.By, e.wall())
		}
		if b, err := r.Get(keyMending); err == nil {
			var m mending
			if cbor.Unmarshal(b, &m) == nil {
				e.mends.under = &m
			}
		}
		if _, err := r.Get(keyDoubt); err == nil {
			e.x.doubt = true
		}
		if err := e.readChanges(r, now); err != nil {
			return err
		}
		if err := e.readArrivals(r, hurt); err != nil {
			return err
		}
		if err := e.checkHashes(r, hurt); err != nil {
			return err
		}
		return e.readRest(r, hurt)
	})
}

func (e *Engine) readChanges(r disk.Reader, now time.Time) error {
	prefix := len("c/")
	e.recall(r, now)
	stamps := map[crdt.ID]crdt.Stamp{}
	var erased []crdt.Cell
	err := r.Scan([]byte("c/"), func(key, raw []byte) error {
		raw = bytes.Clone(raw)
		c, err := e.decode(raw)
		if p := (*errPoison)(nil); errors.As(err, &p) {
			e.poison(c, Peer{}, p.Error())
			e.chores.dead = append(e.chores.dead, bytes.Clone(key))
			e.aside(nil, c, e.poisons[c.ID()])
			return nil
		}
		if err != nil || len(key) != prefix+len(crdt.ID{}) || c.ID() != crdt.ID(key[prefix:]) {
			e.report(fmt.Sprintf("%x is not the change it should be", key[prefix:]))
			return nil
		}
		sc := e.scope(c.Scope)
		if p := e.poisons[c.ID()]; p != nil {
			e.aside(sc, c, p)
			return nil
		}
		if f := guard(func() {
			fx := sc.set.Add(c)
			e.plant("merge", raw)
			sc.stored.Add(c.ID())
			sc.sizes(c)
			if !e.mends.wrong.has(e.cfg.Node, c) {
				e.clock.witness(c.Stamp)
			}
			stamps[c.ID()] = c.Stamp
			if len(fx.Cells) < len(c.Writes) {
				fx.Displaced = append(fx.Displaced, passedBy(sc.set, c)...)
			}
			fx.Displaced = slices.DeleteFunc(fx.Displaced, func(d crdt.Displaced) bool { return e.remembered(r, d, stamps[d.By]) })
			if erases(c) {
				fx.Displaced = nil
				erased = append(erased, c.Cell(0))
			}
			e.settle(sc, fx, now)
			if !fx.Live {
				e.prune(sc, c.ID())
			}
		}); f != nil {
			e.poison(c, Peer{}, whyPoison+e.spoke("merged", c, f))
			return errAgain // the set is half changed
		}
		return nil
	})
	for _, cell := range erased { // the power may have gone before all of it was
		if err == nil {
			err = e.eraseHistory(r, cell)
		}
	}
	return err
}

// passedBy is what of c is covered by what was read before it: what is on the disk
// comes in the order of ids.
func passedBy(s *crdt.Set, c *crdt.Change) (out []crdt.Displaced) {
	for i := range c.Writes {
		w, cell := &c.Writes[i], c.Cell(i)
		for _, v := range s.Versions(cell) {
			if v.ID != c.ID() && v.Ctx.Covers(c.Dot()) {
				out = append(out, crdt.Displaced{Cell: cell, By: v.ID, Version: crdt.Version{Dot: c.Dot(), ID: c.ID(), Node: c.Node, By: c.By,
					Value: w.Value, Ctx: w.Ctx, Flags: w.Flags}})
				break
			}
		}
	}
	return out
}

// remembered says whether a version that a start finds covered is in the
// history already, or was and is forgotten: a change of which one write is
// covered lies on the disk as long as another is not.
func (e *Engine) remembered(r disk.Reader, d crdt.Displaced, by crdt.Stamp) bool {
	_, err := r.Get(keyDisplaced(d.Cell, d.Version.Stamp, d.Version.ID))
	return err == nil || !time.UnixMilli(by.Millis()).After(e.HistorySince())
}

func (e *Engine) readArrivals(r disk.Reader, hurt map[crdt.Scope]bool) error {
	var stray [][]byte
	err := r.Scan([]byte("a/"), func(key, value []byte) error {
		name, n, ok := parseArrival(key)
		if !ok || len(value) != 32+16 {
			stray = append(stray, bytes.Clone(key))
			return nil
		}
		sc := e.scope(name)
		sc.arrivals.head = max(sc.arrivals.head, n)
		id := crdt.ID(value[:32])
		if _, twice := sc.arrivals.number(id); twice || !sc.set.Has(id) {
			// Pruned, or lost: the hash of the scope tells which.
			if h := e.held[id]; h != nil {
				h.peer = Peer(value[32:])
			}
			e.chores.prune = append(e.chores.prune, pruned{name, id, n})
			return nil
		}
		sc.arrivals.add(n, id, Peer(value[32:]), sc.set.Author(id), int(sc.size[id]))
		return nil
	})
	for range stray {
		hurt[""] = true
	}
	// A pruned change is listed once with its number.
	numbered := map[crdt.ID]bool{}
	for _, p := range e.chores.prune {
		if p.n != 0 {
			numbered[p.id] = true
		}
	}
	kept := e.chores.prune[:0]
	for _, p := range e.chores.prune {
		if p.n != 0 || !numbered[p.id] {
			kept = append(kept, p)
		}
	}
	e.chores.prune = kept
	return err
}

// completeArrivals gives a number to each live change that has none.
func (e *Engine) completeArrivals() {
	for name, sc := range e.scopes {
		size := sc.size
		sc.size = nil
		if sc.arrivals.count() == sc.set.Len() {
			continue
		}
		for _, id := range sc.set.IDs() {
			if _, ok := sc.arrivals.number(id); ok {
				continue
			}
			n := sc.arrivals.head + 1
			sc.arrivals.add(n, id, Peer{}, sc.set.Author(id), int(size[id]))
			e.unnumbered = append(e.unnumbered, numbered{name, n, id})
		}
	}
}

func (e *Engine) checkHashes(r disk.Reader, hurt map[crdt.Scope]bool) error {
	seen := map[crdt.Scope]bool{}
	err := r.Scan([]byte("f/"), func(key, value []byte) error {
		name := crdt.Scope(key[2:])
		seen[name] = true
		sc := e.scope(name)
		if len(value) == len(sc.stored)+8 {
			// Numbers are not given twice, even if all that had them are gone.
			sc.arrivals.head = max(sc.arrivals.head, binary.BigEndian.Uint64(value[len(sc.stored):]))
		}
		if len(value) != len(sc.stored)+8 || crdt.LtHash(value[:len(sc.stored)]) != sc.stored {
			hurt[name] = true
			e.report(fmt.Sprintf("scope %s does not have the changes it had: neighbours are asked for all of theirs", name))
		}
		return nil
	})
	for name, sc := range e.scopes {
		if !seen[name] && sc.set.Len() > 0 {
			hurt[name] = true
			e.report(fmt.Sprintf("scope %s has changes and no fingerprint: neighbours are asked for all of theirs", name))
		}
	}
	return err
}

func (e *Engine) readRest(r disk.Reader, hurt map[crdt.Scope]bool) error {
	scan := func(prefix string, fn func(key, value []byte) error) error {
		return r.Scan([]byte(prefix), func(key, value []byte) error {
			if err := fn(key, value); err != nil {
				e.report(fmt.Sprintf("%q cannot be read: %v", key, err))
			}
			return nil
		})
	}
	return errors.Join(
		scan("e/", func(key, value []byte) error {
			sc := e.scope(crdt.Scope(key[2:]))
			if err := cbor.Unmarshal(value, &sc.epochs); err != nil {
				return err
			}
			sc.noted = len(sc.epochs) > 0 && sc.epochs[len(sc.epochs)-1].ID == e.x.epoch
			return nil
		}),
		scan("p/", func(key, value []byte) error {
			peer, name, ok := parsePeer(key)
			if !ok {
				return errors.New("no cursor")
			}
			c := e.x.cursor(peer, name)
			if err := cbor.Unmarshal(value, c); err != nil {
				return err
			}
			e.x.setAcked(cursorKey{peer, name}, c.Acked)
			e.x.setTaken(cursorKey{peer, name}, c.Taken.N)
			if hurt[name] {
				e.x.setTaken(cursorKey{peer, name}, 0)
				*c = cursors{Acked: c.Acked}
				e.x.note(cursorKey{peer, name})
			}
			return nil
		}),
		scan("held/", func(_, value []byte) error {
			if mutant.Is(mutant.HeldForgotten) {
				return nil
			}
			var h heldRecord
			if err := cbor.Unmarshal(value, &h); err != nil {
				return err
			}
			c, err := e.decode(h.Raw)
			if p := (*errPoison)(nil); errors.As(err, &p) {
				h.Why, h.Program, err = p.Error(), e.cfg.Program, nil
			}
			if err != nil || len(h.Peer) != 16 {
				return errors.Join(err, errors.New("no held change"))
			}
			if strings.HasPrefix(h.Why, whyPoison) && h.Program == e.cfg.Program && e.poisons[c.ID()] == nil {
				e.poison(c, Peer(h.Peer), h.Why)
				e.poisons[c.ID()].change = nil
			}
			e.held[c.ID()] = &heldChange{change: c, peer: Peer(h.Peer), why: h.Why, at: time.UnixMilli(h.At), ask: h.Ask}
			return nil
		}),
		scan("drop/", func(key, value []byte) error {
			var r droppedRecord
			var id crdt.ID
			if err := cbor.Unmarshal(value, &r); err != nil {
				return err
			}
			if copy(id[:], key[len("drop/"):]) != len(id) || len(r.Node) != len(crdt.NodeID{}) {
				return errors.New("no dropped change")
			}
			e.dropped[id] = &Dropped{id, crdt.NodeID(r.Node), crdt.Scope(r.Scope), r.Why, r.By, time.UnixMilli(r.At), r.Writes}
			return nil
		}),
		scan("o/", func(_, value []byte) error {
			var o outboxRecord
			if err := cbor.Unmarshal(value, &o); err != nil {
				return err
			}
			c, err := e.decode(o.Raw)
			if err != nil {
				return err
			}
			if !e.mends.wrong.has(e.cfg.Node, c) {
				e.clock.witness(c.Stamp)
			}
			e.outbox[c.ID()] = &outgoing{change: c, at: time.UnixMilli(o.At)}
			return nil
		}),
	)
}

// summary is what is stored under f/: the hash of the stored ids and the last
// arrival number.
func summary(h *crdt.LtHash, head uint64) []byte {
	return binary.BigEndian.AppendUint64(bytes.Clone(h[:]), head)
}

// numbered is an entry of the arrival index that has to be written.
type numbered struct {
	scope crdt.Scope
	n     uint64
	id    crdt.ID
}

// sizes notes the length of a change until its entry of the index is read.
func (s *scope) sizes(c *crdt.Change) {
	if s.size == nil {
		s.size = map[crdt.ID]int32{}
	}
	s.size[c.ID()] = int32(len(c.Raw()))
}
