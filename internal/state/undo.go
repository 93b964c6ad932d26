package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// ErrSince: what an undo would undo was changed by somebody since.
var ErrSince = errors.New("it was changed since")

// An Undone tells what an undo wrote.
type Undone struct {
	Record string
	Fields []FieldEdit // Old is what was there, New what is there now
	Left   []string    // in words: what was not brought back, and why
}

// Undo writes again what was there before a change: as a new change that has
// seen what is here now, so that it counts everywhere. change begins with at
// least 8 digits of the change's id. What was changed since is not touched
// (ErrSince, in words) unless over says so. A value that this node does not
// remember, and a secret, are not brought back.
func (s *State) Undo(ctx context.Context, by, change string, over bool) (out Undone, err error) {
	fail := func(err error) (Undone, error) { return Undone{}, fmt.Errorf("undo %.40q: %w", change, err) }
	s.write.Lock()
	defer s.write.Unlock()
	of, err := s.editOf(change)
	if err != nil {
		return fail(err)
	}
	m := Mutation{Scope: of.Fields[0].cell.Scope}
	if m.Scope != s.scope && m.Scope != crdt.Fleet {
		return fail(ErrOtherSite)
	}
	seen := map[crdt.Cell][]crdt.Version{}
	var since, unknown []string
	s.cfg.Engine.View(func(v View) {
		set := v.Set(m.Scope)
		var more []crdt.Write
		if m.By, more = s.person(v, by); m.Scope == s.scope {
			m.Writes = more
		}
		for _, w := range of.Fields {
			_, f := fieldOf(w.cell)
			vs := set.Versions(w.cell)
			out.Record = w.Record
			switch {
			case f.secret:
				out.Left = append(out.Left, w.Field+": a secret is not brought back; set a new one")
				continue
			case w.First && births(w.cell):
				err = fmt.Errorf("%w: this change made %s; to undo that, delete it", ErrState, w.Record)
				return
			case !w.Known:
				unknown = append(unknown, w.Field)
				continue
			}
			if _, gone := set.Final(w.cell.Table, w.cell.Record); gone {
				err = fmt.Errorf("%w: %s was removed for good", ErrState, w.Record)
				return
			}
			r := reader{set, w.cell.Table, w.cell.Record}
			if len(vs) == 1 && sameValue(f, vs[0].Value, w.before) {
				continue // somebody put it back
			}
			if len(vs) != 1 || vs[0].ID != w.write.ID || vs[0].Dot != w.write.Dot {
				since = append(since, s.changedSince(v, w, vs))
			}
			value := w.before
			switch {
			case f.policy == True && !isTrue(value):
				value = boolValue(false)
			case w.cell.Field == deletedField(w.cell.Table) && isTrue(value):
				value = deletedValue(r.seen())
			}
			m.Writes = append(m.Writes, crdt.Write{Table: w.cell.Table, Record: w.cell.Record, Field: w.cell.Field, Value: value})
			seen[w.cell] = vs
			now := ""
			if len(vs) > 0 {
				now = words(f, w.cell, inForce(f, vs).Value)
			}
			out.Fields = append(out.Fields, FieldEdit{Record: w.Record, Field: w.Field, Old: now, New: w.Old, Known: true, Live: true, InForce: true, cell: w.cell, before: value})
		}
	})
	switch {
	case err != nil:
		return fail(err)
	case len(unknown) > 0:
		return fail(fmt.Errorf("%w: this box does not know what %s said before; it remembers since %s", ErrNotFound, strings.Join(unknown, ", "), s.rememberedSince().UTC().Format("2006-01-02 15:04 UTC")))
	case len(since) > 0 && !over:
		return fail(fmt.Errorf("%w: %s", ErrSince, strings.Join(since, "; ")))
	case len(out.Fields) == 0 && len(out.Left) > 0:
		return fail(fmt.Errorf("%w: %s", ErrInvalid, strings.Join(out.Left, "; ")))
	case len(out.Fields) == 0:
		return fail(fmt.Errorf("%w: there is nothing left of it", ErrState))
	}
	if err := s.allowed(out.Fields); err != nil {
		return fail(err)
	}
	m.Precondition = func(v View) error {
		for c, was := range seen {
			if !slices.EqualFunc(v.Set(c.Scope).Versions(c), was, func(a, b crdt.Version) bool { return a.Dot == b.Dot && a.ID == b.ID }) {
				return fmt.Errorf("%w: this very moment; look again", ErrSince)
			}
		}
		return nil
	}
	if _, err := s.commit(ctx, m); err != nil {
		return fail(err)
	}
	for c := range seen {
		if t := c.Table; (t == TableUser || t == TableGroup || t == TableMenu) && len(c.Record) == len(site.RecordID{}) {
			s.follow(ctx, site.RecordID([]byte(c.Record)))
		}
	}
	return out, nil
}

// births says whether a record begins with this field.
func births(c crdt.Cell) bool {
	switch c.Table {
	case TableUser:
		return c.Field == userNumber
	case TableDevice:
		return c.Field == devUser
	case TableMessage:
		return c.Field == msgEntry
	case TableSite:
		return c.Field == siteCode
	}
	return byTable[c.Table] != nil && c.Field == headName
}

// changedSince says in words who wrote over a change.
func (s *State) changedSince(v View, w FieldEdit, vs []crdt.Version) string {
	var who []string
	_, f := fieldOf(w.cell)
	for _, x := range vs {
		if x.ID == w.write.ID {
			continue
		}
		d := s.side(v, w.cell, x)
		code := ""
		if n := s.nodeWords(v, d.Node); n != "" {
			code = " at box " + n
		}
		who = append(who, fmt.Sprintf("%s says %q since %s by %s%s", w.Field, words(f, w.cell, x.Value), d.At.UTC().Format("2006-01-02 15:04:05 UTC"), d.By, code))
	}
	return strings.Join(who, ", and ")
}

// nodeWords is the name of a box.
func (s *State) nodeWords(v View, n site.NodeID) string {
	return reader{v.Set(crdt.Fleet), TableNode, string(n[:])}.text(nodeName)
}

// editOf finds a change by its id, in what is there and in what is remembered.
func (s *State) editOf(id string) (Edit, error) {
	id = strings.ToLower(strings.TrimSpace(id))
	if len(id) < 8 {
		return Edit{}, fmt.Errorf("%w: give at least 8 digits of the change's id, as its history shows it", ErrInvalid)
	}
	past, err := s.pasts(crdt.Cell{})
	if err != nil {
		return Edit{}, err
	}
	var found []Edit
	s.cfg.Engine.View(func(v View) {
		cells := map[crdt.Cell]bool{}
		is := func(x crdt.ID) bool { return strings.HasPrefix(x.String(), id[:min(len(id), 16)]) }
		for _, p := range past {
			if is(p.Version.ID) {
				cells[p.Cell] = true
			}
		}
		for _, scope := range []crdt.Scope{crdt.Fleet, s.scope} {
			set := v.Set(scope)
			for t := range schema {
				for _, rec := range set.Records(t) {
					for _, f := range set.Fields(t, rec) {
						c := crdt.Cell{Scope: scope, Table: t, Record: rec, Field: f}
						if slices.ContainsFunc(set.Versions(c), func(x crdt.Version) bool { return is(x.ID) }) {
							cells[c] = true
						}
					}
				}
			}
		}
		about := slices.DeleteFunc(past, func(p Past) bool { return !cells[p.Cell] })
		for _, e := range s.changes(v, cells, about) {
			if is(e.ID) {
				found = append(found, e)
			}
		}
	})
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Edit{}, fmt.Errorf("%w: this box knows no such change; it remembers since %s", ErrNotFound, s.rememberedSince().UTC().Format("2006-01-02 15:04 UTC"))
	}
	return Edit{}, fmt.Errorf("%w: %d changes begin like that; give more digits", ErrInvalid, len(found))
}

// allowed says whether the records may say what an undo would have them say:
// a number that somebody else has by now is not taken back.
func (s *State) allowed(fs []FieldEdit) error {
	changed := map[recordKey]reflect.Value{}
	for _, w := range fs {
		id := site.RecordID{}
		if copy(id[:], w.cell.Record); len(w.cell.Record) != len(id) {
			continue
		}
		if w.cell.Table == TableUser && (w.cell.Field == userNumber || w.cell.Field == userE164) && len(w.before) > 0 {
			if err := s.free(string(w.before), id); err != nil {
				return err
			}
		}
		t := byTable[w.cell.Table]
		if t == nil {
			continue
		}
		k := recordKey{w.cell.Table, id}
		if _, ok := changed[k]; !ok {
			s.mu.RLock()
			x, ok := s.ix.records[w.cell.Table][id]
			s.mu.RUnlock()
			if !ok {
				return ErrNotFound
			}
			changed[k] = reflect.New(t).Elem()
			changed[k].Set(reflect.ValueOf(x))
		}
		put(changed[k], shapes[t], w.cell.Field, w.before)
	}
	for k, v := range changed {
		if v.FieldByName("Deleted").Bool() {
			continue
		}
		if err := kinds[byTable[k.table]].check(s, v.Interface(), k.id); err != nil {
			return err
		}
	}
	return nil
}

// put sets the field of a record that lies in a cell.
func put(v reflect.Value, sh *shape, cell string, value []byte) {
	for _, f := range sh.fields {
		x := v.FieldByIndex(f.index)
		switch {
		case f.set && strings.HasPrefix(cell, f.cell):
			e := cell[len(f.cell):]
			list := slices.DeleteFunc(slices.Clone(x.Interface().([]string)), func(m string) bool { return m == e })
			if isTrue(value) {
				list = append(list, e)
			}
			x.Set(reflect.ValueOf(list))
		case f.cell != cell:
		case x.Kind() == reflect.Bool:
			x.SetBool(isTrue(value))
		case x.Kind() == reflect.String:
			x.SetString(string(bytes.ToValidUTF8(value, []byte("\uFFFD"))))
		case x.Kind() == reflect.Int:
			x.SetInt(int64(toInt(value)))
		default:
			p := reflect.New(x.Type())
			if len(value) > 0 && !unmarshal(value, p.Interface()) {
				continue
			}
			x.Set(p.Elem())
		}
	}
}
