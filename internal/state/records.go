package state

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// A Record is one of the things an administrator keeps for the own site: a
// trunk, a group, a menu (internal/site, records.go). Its fields are cells, as
// their tags say:
//
//	`cell:"3"`         a text, a truth, a number; a list or struct as CBOR; policy latest
//	`cell:"4,true"`    a truth that is true if anybody says so
//	`cell:"5,secret"`  sealed under the site key; never read back but by Reveal
//	`cell:"32,set"`    texts, each a cell of its own: additions win
//
// Field 1 of every record is its name, field 126 whether it was deleted.
type Record interface {
	site.Trunk | site.Inbound | site.Group | site.Menu | site.Hours | site.Phone | site.Shop
}

const (
	headName    = "\x01"
	headDeleted = "\x7e"
)

// A shape is how a type of records lies in cells.
type shape struct {
	table  uint16
	name   string
	fields []shapeField
}

type shapeField struct {
	index  []int
	cell   string
	name   string
	policy Policy
	secret bool
	set    bool
}

// kinds are the records there are, each with its table, its name and what
// refuses values that make no sense; their fields are part of the schema.
var kinds = map[reflect.Type]kind{
	reflect.TypeFor[site.Trunk]():   {TableTrunk, "trunk", checked(checkTrunk)},
	reflect.TypeFor[site.Inbound](): {TableInbound, "public number", checked(checkInbound)},
	reflect.TypeFor[site.Group]():   {TableGroup, "group", checked(checkGroup)},
	reflect.TypeFor[site.Menu]():    {TableMenu, "menu", checked(checkMenu)},
	reflect.TypeFor[site.Hours]():   {TableHours, "opening hours", checked(checkHours)},
	reflect.TypeFor[site.Phone]():   {TablePhone, "phone", checked(checkPhone)},
	reflect.TypeFor[site.Shop]():    {TableShop, "shop", checked(checkShop)},
}

type kind struct {
	table uint16
	name  string
	check func(s *State, v any, id site.RecordID) error
}

func checked[T Record](fn func(*State, T, site.RecordID) error) func(*State, any, site.RecordID) error {
	return func(s *State, v any, id site.RecordID) error { return fn(s, v.(T), id) }
}

// byTable finds the type of a table's records.
var byTable = map[uint16]reflect.Type{}

func init() {
	for t, k := range kinds {
		sh := shapeOf(t, k)
		of := table{sh.name, map[string]field{}}
		for _, f := range sh.fields {
			of.fields[f.cell] = field{name: f.name, policy: f.policy, secret: f.secret, set: f.set}
		}
		schema[sh.table] = of
		byTable[sh.table] = t
		shapes[t] = sh
	}
}

// shapes are made once, in init.
var shapes = map[reflect.Type]*shape{}

func shapeFor[T Record]() *shape { return shapes[reflect.TypeFor[T]()] }

func shapeOf(t reflect.Type, k kind) *shape {
	sh := &shape{table: k.table, name: k.name}
	for _, f := range reflect.VisibleFields(t) {
		tag, ok := f.Tag.Lookup("cell")
		if !ok {
			continue
		}
		number, how, _ := strings.Cut(tag, ",")
		c, err := strconv.ParseUint(number, 10, 7)
		if err != nil {
			panic(fmt.Sprintf("state: %s.%s: %v", k.name, f.Name, err))
		}
		x := shapeField{index: f.Index, cell: string([]byte{byte(c)}), secret: how == "secret", set: how == "set"}
		if how == "true" || x.set {
			x.policy = True
		}
		x.name, _, _ = strings.Cut(f.Tag.Get("json"), ",")
		x.name = spaced(x.name)
		sh.fields = append(sh.fields, x)
	}
	return sh
}

// spaced makes "ring time" of "ringTime".
func spaced(s string) string {
	var out []byte
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' && i > 0 && s[i-1] >= 'a' {
			out = append(out, ' ', c|0x20)
		} else {
			out = append(out, c)
		}
	}
	return string(out)
}

// read fills v, a struct, from the cells of r.
func (sh *shape) read(r reader, v reflect.Value) {
	for _, f := range sh.fields {
		x := v.FieldByIndex(f.index)
		switch {
		case f.secret:
		case f.set:
			var set []string
			for _, name := range r.set.Fields(r.table, r.rec) {
				if e, ok := strings.CutPrefix(name, f.cell); ok && e != "" && r.anyTrue(name) {
					set = append(set, e)
				}
			}
			slices.Sort(set)
			x.Set(reflect.ValueOf(set))
		case x.Kind() == reflect.Bool && f.policy == True:
			x.SetBool(r.anyTrue(f.cell))
		case x.Kind() == reflect.Bool:
			x.SetBool(r.truth(f.cell))
		case x.Kind() == reflect.String:
			x.SetString(r.text(f.cell))
		case x.Kind() == reflect.Int:
			x.SetInt(int64(r.number(f.cell)))
		default:
			if b := r.bytes(f.cell); len(b) > 0 {
				p := reflect.New(x.Type())
				if unmarshal(b, p.Interface()) {
					x.Set(p.Elem())
				}
			}
		}
	}
}

// encode is the value of one cell.
func encode(x reflect.Value) []byte {
	switch x.Kind() {
	case reflect.Bool:
		return boolValue(x.Bool())
	case reflect.String:
		return []byte(x.String())
	case reflect.Int:
		return intValue(int(x.Int()))
	}
	if x.IsZero() || x.Kind() == reflect.Slice && x.Len() == 0 {
		return nil
	}
	return marshal(x.Interface())
}

// writes are what must be written so that a record that reads as old reads as v.
func (s *State) writes(sh *shape, id site.RecordID, old, v reflect.Value) (ws []crdt.Write, err error) {
	add := func(f string, value []byte) {
		ws = append(ws, crdt.Write{Table: sh.table, Record: string(id[:]), Field: f, Value: value})
	}
	for _, f := range sh.fields {
		was, is := old.FieldByIndex(f.index), v.FieldByIndex(f.index)
		switch {
		case f.secret:
			if is.String() == "" {
				continue // not asked for
			}
			c := crdt.Cell{Scope: s.scope, Table: sh.table, Record: string(id[:]), Field: f.cell}
			b, err := s.keys.Seal(trust.Where(c), []byte(is.String()), lockedRandom{s})
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrNoKey, err)
			}
			add(f.cell, b)
		case f.set:
			had, has := was.Interface().([]string), is.Interface().([]string)
			for _, e := range had {
				if !slices.Contains(has, e) {
					add(f.cell+e, boolValue(false))
				}
			}
			for i, e := range has {
				if len(e) > 60 || e == "" {
					return nil, fmt.Errorf("%s %.40q: %w: 1 to 60 bytes", f.name, e, ErrInvalid)
				}
				if !slices.Contains(had, e) && !slices.Contains(has[:i], e) {
					add(f.cell+e, boolValue(true))
				}
			}
		default:
			b := encode(is)
			if len(b) > 4000 {
				return nil, fmt.Errorf("%s: %w: it is too long", f.name, ErrInvalid)
			}
			if x := is.Kind(); x == reflect.String {
				if err := checkText(f.name, is.String(), 2000); err != nil {
					return nil, err
				}
			}
			if !bytes.Equal(encode(was), b) {
				add(f.cell, b)
			}
		}
	}
	return ws, nil
}

// indexRecord keeps what calls look up.
func (s *State) indexRecord(r reader, id site.RecordID) {
	t, ok := byTable[r.table]
	if !ok {
		return
	}
	if s.ix.records[r.table] == nil {
		s.ix.records[r.table] = map[site.RecordID]any{}
	}
	if len(r.set.Fields(r.table, r.rec)) == 0 || r.final() {
		delete(s.ix.records[r.table], id)
		return
	}
	p := reflect.New(t)
	shapes[t].read(r, p.Elem())
	p.Interface().(interface{ Record() *site.Head }).Record().ID = id
	s.ix.records[r.table][id] = p.Elem().Interface()
}

// List returns the records of a kind that are not deleted, by name.
func List[T Record](s *State) (out []T) {
	s.mu.RLock()
	for _, x := range s.ix.records[shapeFor[T]().table] {
		if v := x.(T); !headOf(&v).Deleted {
			out = append(out, v)
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(out, func(a, b T) int {
		x, y := headOf(&a), headOf(&b)
		if d := strings.Compare(x.Name, y.Name); d != 0 {
			return d
		}
		return bytes.Compare(x.ID[:], y.ID[:])
	})
	return out
}

func headOf[T Record](v *T) *site.Head { return any(v).(interface{ Record() *site.Head }).Record() }

// Get returns one, deleted ones too, with its ETag.
func Get[T Record](s *State, id site.RecordID) (v T, err error) {
	sh := shapeFor[T]()
	s.mu.RLock()
	x, ok := s.ix.records[sh.table][id]
	s.mu.RUnlock()
	if !ok {
		return v, fmt.Errorf("%s %s: %w", sh.name, id, ErrNotFound)
	}
	v = x.(T)
	s.cfg.Engine.View(func(view View) { headOf(&v).ETag = s.tag(view, id, recordKey{sh.table, id}) })
	return v, nil
}

// Peek is Get for calls: without an ETag, and none that was deleted.
func Peek[T Record](s *State, id site.RecordID) (v T, ok bool) {
	s.mu.RLock()
	x, ok := s.ix.records[shapeFor[T]().table][id]
	s.mu.RUnlock()
	if !ok {
		return v, false
	}
	v = x.(T)
	return v, !headOf(&v).Deleted
}

// Named finds a record by its id or its name.
func Named[T Record](s *State, who string) (v T, err error) {
	if id, err := site.ParseRecordID(who); err == nil {
		if v, err := Get[T](s, id); err == nil {
			return v, nil
		}
	}
	found := slices.DeleteFunc(List[T](s), func(x T) bool { return !strings.EqualFold(headOf(&x).Name, who) })
	name := shapeFor[T]().name
	switch len(found) {
	case 1:
		return Get[T](s, headOf(&found[0]).ID)
	case 0:
		return v, fmt.Errorf("%s %q: %w: give a name or an id", name, who, ErrNotFound)
	}
	return v, fmt.Errorf("%s %q: %w: %d have that name; give the id", name, who, ErrInvalid, len(found))
}

// Create makes a record.
func Create[T Record](ctx context.Context, s *State, by string, v T) (T, error) {
	id, err := s.newID()
	if err != nil {
		return v, err
	}
	var zero T
	return keep(ctx, s, by, id, zero, v, nil)
}

// Change alters a record as fn says; etag is what the person had seen, "" what
// is here. A secret that fn leaves empty stays.
func Change[T Record](ctx context.Context, s *State, by string, id site.RecordID, etag string, fn func(*T) error) (T, error) {
	old, err := Get[T](s, id)
	if err != nil {
		return old, err
	}
	sh := shapeFor[T]()
	token, err := s.tokenOf(sh.table, id, etag)
	if err != nil {
		return old, fmt.Errorf("change %s %s: %w", sh.name, id, err)
	}
	v := clone(old)
	if err := fn(&v); err != nil {
		return old, err
	}
	return keep(ctx, s, by, id, old, v, token)
}

// clone shares nothing that fn could alter.
func clone[T any](v T) (out T) {
	if unmarshal(marshal(v), &out) {
		return out
	}
	return v
}

func keep[T Record](ctx context.Context, s *State, by string, id site.RecordID, old, v T, token map[crdt.Cell]crdt.Context) (T, error) {
	sh := shapeFor[T]()
	fail := func(err error) (T, error) { return old, fmt.Errorf("keep %s %q: %w", sh.name, headOf(&v).Name, err) }
	s.write.Lock()
	defer s.write.Unlock()
	if !headOf(&v).Deleted {
		if headOf(&v).Name == "" {
			return fail(fmt.Errorf("name: %w: it is empty", ErrInvalid))
		}
		if err := kinds[reflect.TypeFor[T]()].check(s, v, id); err != nil {
			return fail(err)
		}
	}
	ws, err := s.writes(sh, id, reflect.ValueOf(old), reflect.ValueOf(v))
	if err != nil {
		return fail(err)
	}
	m := Mutation{Scope: s.scope, Token: token, Writes: ws}
	if len(ws) > 0 {
		s.cfg.Engine.View(func(view View) {
			for i, w := range ws {
				if w.Field == headDeleted && isTrue(w.Value) {
					ws[i].Value = deletedValue(saw(reader{view.Set(s.scope), w.Table, w.Record}, token))
				}
			}
			ref, more := s.person(view, by)
			m.By, m.Writes = ref, append(m.Writes, more...)
			for _, w := range more {
				if c := (crdt.Cell{Scope: s.scope, Table: w.Table, Record: w.Record, Field: w.Field}); token != nil {
					token[c] = view.Set(s.scope).Known(c)
				}
			}
		})
		// More than fits one change is written one after the other, the name
		// first: what a power cut leaves is a record that can be edited on.
		for part := range slices.Chunk(m.Writes, crdt.MaxWrites) {
			if _, err := s.commit(ctx, Mutation{Scope: m.Scope, By: m.By, Token: m.Token, Writes: part}); err != nil {
				return fail(err)
			}
		}
		s.follow(ctx, id)
	}
	out, err := Get[T](s, id)
	if err != nil {
		return fail(err)
	}
	return out, nil
}

// Reveal opens a secret of a record, for those who must use it: field is its
// number. "" without one.
func Reveal[T Record](s *State, id site.RecordID, field byte) (string, error) {
	sh := shapeFor[T]()
	n, name := sh.table, sh.name
	c := crdt.Cell{Scope: s.scope, Table: n, Record: string(id[:]), Field: string([]byte{field})}
	var b []byte
	s.cfg.Engine.View(func(v View) {
		b = bytes.Clone(reader{v.Set(s.scope), n, string(id[:])}.bytes(c.Field))
	})
	if len(b) == 0 {
		return "", nil
	}
	out, err := s.keys.Open(trust.Where(c), b)
	if err != nil {
		return "", fmt.Errorf("open the secret of %s %s: %w", name, id, err)
	}
	return string(out), nil
}
