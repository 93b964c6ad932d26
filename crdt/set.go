package crdt

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"carrierclass.net/ccnode/crdt/mutant"
	"carrierclass.net/ccnode/crdt/riblt"
)

// A Version is one uncovered write of a cell.
type Version struct {
	Dot
	ID    ID
	Node  NodeID
	By    Ref
	Value []byte
	Ctx   Context
	Flags Flags
}

// Displaced is a version that a change covered or killed; what it said goes to
// the local history.
type Displaced struct {
	Cell    Cell
	Version Version
	By      ID
}

// Effect is what adding one change did.
type Effect struct {
	Known     bool        // the change was live here before
	Live      bool        // it is live now
	Pruned    []ID        // changes that are no longer live
	Displaced []Displaced // versions that are gone
	Cells     []Cell      // cells whose reading may have changed
	Equivocal []ID        // other live changes under the same dot: proof against their author
}

// Set is the live changes of one scope, and what their cells say. It keeps no
// bytes of changes: the store does. It is not safe for concurrent use.
//
// Merge is Add of every change of the other set. Live(A ∪ B) does not depend on
// order: a version is covered iff the context of some change covers its dot,
// and whatever covers a coverer has seen what that one saw.
type Set struct {
	scope  Scope
	live   idMap
	tables map[uint16]map[string]*record // records that have, or had, a live cell or a final
	dots   map[Dot]*entry                // one live change per dot; more are in twins
	twins  map[Dot][]*entry
	hash   LtHash
	voids  map[[voidName]byte]NodeID // what nodes took back
	former map[ID][]Dot              // of live changes, and those under way: ExtFormer

	sketches []*riblt.Sketch // of the live ids, last used first
	size     int             // live changes
	lost     map[ID]bool     // of the base, gone here
	base     *Set            // what it began with, shared and never altered; nil: nothing. See Over
}

type entry struct {
	id   ID
	dot  Dot
	node NodeID
	by   Ref
	refs int // uncovered writes, or 1 for the final that stays
}

type version struct {
	e     *entry
	value []byte
	ctx   Context
	flags Flags
}

// A record has few fields, or is a set with an element in each: kept sorted,
// they take a fraction of the room of a map.
type record struct {
	fields []field
	final  *version
}

type field struct {
	name string
	vs   []version // never empty
}

func (r *record) find(name string) (int, bool) {
	return slices.BinarySearchFunc(r.fields, name, func(f field, n string) int { return cmp.Compare(f.name, n) })
}

// NewSet returns the empty set of a scope.
func NewSet(scope Scope) *Set {
	return &Set{scope: scope, tables: map[uint16]map[string]*record{}, dots: map[Dot]*entry{}, twins: map[Dot][]*entry{}}
}

// Scope of the set.
func (s *Set) Scope() Scope { return s.scope }

// Len counts live changes.
func (s *Set) Len() int { return s.size }

// Has says whether a change is live here.
func (s *Set) Has(id ID) bool { return s.entry(id) != nil }

// Author is the node that wrote a live change; zero if it is not live here.
func (s *Set) Author(id ID) (n NodeID) {
	if e := s.entry(id); e != nil {
		n = e.node
	}
	return n
}

// IDs lists the live changes, sorted.
func (s *Set) IDs() []ID {
	ids := make([]ID, 0, s.size)
	s.EachID(func(id ID) { ids = append(ids, id) })
	slices.SortFunc(ids, func(a, b ID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

// Fingerprint is the digest of the LtHash of the live ids: equal sets, equal
// fingerprints; and nobody can choose ids that cancel somebody else's.
func (s *Set) Fingerprint() Fingerprint { return s.hash.Digest() }

// Hash returns a copy of the LtHash, to be stored with the set.
func (s *Set) Hash() LtHash { return s.hash }

// Add merges one change of the scope. The caller has checked shape, signature
// and grant.
func (s *Set) Add(c *Change) (fx Effect) {
	if s.entry(c.id) != nil {
		return Effect{Known: true, Live: true}
	}
	e := &entry{id: c.id, dot: c.dot, node: c.Node, by: c.By}
	if len(c.former) > 0 {
		if s.former == nil {
			s.former = map[ID][]Dot{}
		}
		s.former[c.id] = c.former
	}
	switch {
	case s.Void(c):
	case c.Writes[0].Flags&Final != 0:
		s.addFinal(c, e, &fx)
	default:
		s.addWrites(c, e, &fx)
	}
	if e.refs == 0 {
		delete(s.former, c.id)
		return fx
	}
	fx.Live = true
	s.live.put(e)
	s.size++
	s.hash.Add(e.id)
	s.sketch(e.id, true)
	fx.Equivocal = s.noteDot(e)
	return fx
}

// Seen says that adding c would change nothing: each of its writes is covered by
// somebody who had seen it, its record has a final, or its node took it back.
func (s *Set) Seen(c *Change) bool {
	if s.entry(c.id) != nil || s.Void(c) {
		return true
	}
	e := &entry{id: c.id, dot: c.dot}
	for i := range c.Writes {
		w := &c.Writes[i]
		r := s.look(w.Table, w.Record)
		switch {
		case w.Flags&Final != 0:
			if r == nil || r.final == nil || compareEntry(r.final.e, e) > 0 {
				return false
			}
		case r == nil:
			return false
		case r.final != nil:
		default:
			at, there := r.find(w.Field)
			if !there || !slices.ContainsFunc(r.fields[at].vs, func(v version) bool { return v.ctx.Covers(e.dot) || slices.ContainsFunc(c.former, v.ctx.Covers) }) {
				return false
			}
		}
	}
	return true
}

func (s *Set) addFinal(c *Change, e *entry, fx *Effect) {
	w := &c.Writes[0]
	r := s.record(w.Table, w.Record)
	if r.final != nil && compareEntry(r.final.e, e) < 0 { // then the record was there before
		return // the older final stays
	}
	cell := c.Cell(0)
	if r.final != nil {
		fx.Displaced = append(fx.Displaced, Displaced{cell, s.export(*r.final), c.id})
		s.release(r.final.e, fx)
	}
	r.final = &version{e, w.Value, w.Ctx, w.Flags}
	e.refs = 1
	for _, f := range r.fields {
		fc := Cell{s.scope, w.Table, w.Record, f.name}
		for _, v := range f.vs {
			fx.Displaced = append(fx.Displaced, Displaced{fc, s.export(v), c.id})
			s.release(v.e, fx)
		}
		fx.Cells = append(fx.Cells, fc)
	}
	r.fields = nil
	fx.Cells = append(fx.Cells, cell)
	sortCells(fx.Cells)
}

func (s *Set) addWrites(c *Change, e *entry, fx *Effect) {
	for i := range c.Writes {
		w := &c.Writes[i]
		r := s.look(w.Table, w.Record)
		if r != nil && r.final != nil {
			continue // killed
		}
		at, there := 0, false
		var vs []version
		if r != nil {
			if at, there = r.find(w.Field); there {
				vs = r.fields[at].vs
			}
		}
		if slices.ContainsFunc(vs, func(v version) bool { return s.saw(v.ctx, e) }) {
			continue // somebody here has seen it, and wrote over it
		}
		cell := c.Cell(i)
		kept := make([]version, 0, 1)
		for _, v := range vs {
			if s.saw(w.Ctx, v.e) || mutant.Is(mutant.StampOrder) && v.e.dot.Stamp < e.dot.Stamp {
				fx.Displaced = append(fx.Displaced, Displaced{cell, s.export(v), c.id})
				s.release(v.e, fx)
				continue
			}
			kept = append(kept, v)
		}
		e.refs++
		kept = append(kept, version{e, w.Value, w.Ctx, w.Flags})
		if r == nil || s.base != nil {
			r = s.record(w.Table, w.Record)
		}
		if there {
			r.fields[at].vs = kept
		} else {
			r.fields = slices.Insert(r.fields, at, field{w.Field, kept})
		}
		fx.Cells = append(fx.Cells, cell)
		if w.Table == TableVoid {
			s.voided(c, w, fx)
		}
	}
}

func (s *Set) record(table uint16, rec string) *record {
	t := s.tables[table]
	if t == nil {
		t = map[string]*record{}
		s.tables[table] = t
	}
	r := t[rec]
	if r == nil {
		r = s.inherit(table, rec)
		t[rec] = r
	}
	return r
}

// release takes one live write from a change; the last one prunes it.
func (s *Set) release(e *entry, fx *Effect) {
	e = s.own(e)
	if e.refs--; e.refs > 0 {
		return
	}
	s.size--
	s.drop(e.id)
	s.hash.Remove(e.id)
	s.sketch(e.id, false)
	s.forgetDot(e)
	delete(s.former, e.id)
	fx.Pruned = append(fx.Pruned, e.id)
}

func (s *Set) noteDot(e *entry) (others []ID) {
	first := s.dot(e.dot)
	if first == nil {
		s.dots[e.dot] = e
		return nil
	}
	others = append(others, first.id)
	for _, o := range s.twins[e.dot] {
		others = append(others, o.id)
	}
	s.twins[e.dot] = append(s.twins[e.dot], e)
	return others
}

func (s *Set) forgetDot(e *entry) {
	twins := s.twins[e.dot]
	if s.dot(e.dot).id == e.id {
		if len(twins) == 0 {
			s.dropDot(e.dot)
			return
		}
		s.dots[e.dot], twins = twins[0], twins[1:]
	} else {
		twins = slices.DeleteFunc(slices.Clone(twins), func(o *entry) bool { return o.id == e.id })
	}
	if len(twins) == 0 {
		delete(s.twins, e.dot)
	} else {
		s.twins[e.dot] = twins
	}
}

func compareEntry(a, b *entry) int {
	return cmp.Or(cmp.Compare(a.dot.Stamp, b.dot.Stamp), bytes.Compare(a.id[:], b.id[:]))
}

func sortCells(cs []Cell) {
	slices.SortFunc(cs, func(a, b Cell) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Record, b.Record), cmp.Compare(a.Field, b.Field))
	})
}

func (s *Set) export(v version) Version {
	return Version{v.e.dot, v.e.id, v.e.node, v.e.by, v.value, v.ctx, v.flags}
}

// Versions returns the uncovered writes of a cell, oldest stamp first. Values
// and contexts must not be altered.
func (s *Set) Versions(c Cell) []Version {
	vs := s.versions(c)
	out := make([]Version, len(vs))
	for i, v := range vs {
		out[i] = s.export(v)
	}
	if len(out) > 1 {
		slices.SortFunc(out, CompareVersions)
	}
	return out
}

func (s *Set) versions(c Cell) []version {
	if r := s.look(c.Table, c.Record); r != nil {
		if at, ok := r.find(c.Field); ok {
			return r.fields[at].vs
		}
	}
	return nil
}

// CompareVersions orders by (stamp, id).
func CompareVersions(a, b Version) int {
	return cmp.Or(cmp.Compare(a.Stamp, b.Stamp), bytes.Compare(a.ID[:], b.ID[:]))
}

// Known is all that is known of a cell: the contexts and dots of its versions.
// It is what a write that has seen everything here carries.
func (s *Set) Known(c Cell) (k Context) {
	for _, v := range s.versions(c) {
		k = k.Join(v.ctx).With(v.e.dot)
	}
	return k
}

// Fields lists the fields of a record that have a version, sorted.
func (s *Set) Fields(table uint16, rec string) []string {
	r := s.look(table, rec)
	if r == nil {
		return nil
	}
	out := make([]string, len(r.fields))
	for i, f := range r.fields {
		out[i] = f.name
	}
	return out
}

// Records lists the records of a table that have a version or a final, sorted.
func (s *Set) Records(table uint16) []string {
	return s.Begins(table, "")
}

// Begins lists the records of a table whose names begin with prefix, sorted.
func (s *Set) Begins(table uint16, prefix string) (out []string) {
	for name := range s.tables[table] {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	s.based(table, func(name string, _ *record) bool {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
		return true
	})
	slices.Sort(out)
	return out
}

// Final returns the final of a record, if it has one.
func (s *Set) Final(table uint16, rec string) (Version, bool) {
	r := s.look(table, rec)
	if r == nil || r.final == nil {
		return Version{}, false
	}
	return s.export(*r.final), true
}

// Mentions says whether the value of any live version, of whatever table and
// field, contains part: what it names must not be thrown away, whether or not
// this program knows the field. It looks at everything.
func (s *Set) Mentions(part []byte) bool {
	for _, t := range s.tables {
		for _, r := range t {
			if r.mentions(part) {
				return true
			}
		}
	}
	return s.basesMention(part)
}

func (r *record) mentions(part []byte) bool {
	if r.final != nil && bytes.Contains(r.final.value, part) {
		return true
	}
	for _, f := range r.fields {
		for _, v := range f.vs {
			if bytes.Contains(v.value, part) {
				return true
			}
		}
	}
	return false
}
