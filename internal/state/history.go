package state

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// A History is what this node remembers of a record: the versions that are
// there, and what it saw being overwritten.
type History struct {
	Kind    string
	Record  string // in words
	Since   time.Time
	Changes []Edit // newest first
}

// An Edit is one signed change, as far as it is about the record asked for.
type Edit struct {
	ID     crdt.ID
	At     time.Time // when it was written
	By     string
	Node   site.NodeID
	Site   site.ID
	Fields []FieldEdit
}

// A FieldEdit is one write of a change.
type FieldEdit struct {
	Record  string // in words; a user's history has its devices in it
	Field   string
	New     string
	Old     string // if Known
	Known   bool   // this node knows what was there before
	First   bool   // nothing was
	Live    bool   // nobody wrote over it
	InForce bool   // and it counts

	cell   crdt.Cell
	write  crdt.Version
	before []byte
}

// Remembered says whether what a cell said is worth a place in the history:
// not what is computed from other records. What only a newer version of the
// program knows is.
func Remembered(c crdt.Cell) bool {
	t, known := schema[c.Table]
	if !known {
		return true
	}
	f, ok := t.fields[c.Field]
	return !ok || f.policy != Derived
}

// rememberedSince says since when this node remembers what was overwritten.
func (s *State) rememberedSince() time.Time {
	if s.cfg.HistorySince == nil {
		return time.Time{}
	}
	return s.cfg.HistorySince()
}

// kindNames are the tables whose records have a history, as people call them.
var kindNames = map[string]uint16{"user": TableUser, "device": TableDevice, "message": TableMessage, "site": TableSite, "fleet": TableFleet,
	"node": TableNode, "feature": TablePlacement, "trunk": TableTrunk, "number": TableInbound, "group": TableGroup, "menu": TableMenu,
	"hours": TableHours, "phone": TablePhone, "shop": TableShop}

// Kinds are the names of what has a history, in order.
func Kinds() (out []string) {
	for k := range kindNames {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// A named record of the own site, deleted or not.
type named struct {
	kind    string
	scope   crdt.Scope
	table   uint16
	rec     string
	words   string
	deleted bool
}

// named finds records by what people call them: a number, a name, an id.
func (s *State) named(kind, who string) (out []named) {
	is := func(names ...string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return n != "" && strings.EqualFold(n, who) })
	}
	add := func(k string, scope crdt.Scope, rec, words string, deleted bool) {
		if kind == "" || kind == k {
			out = append(out, named{k, scope, kindNames[k], rec, words, deleted})
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for id, u := range s.ix.users {
		ext := strings.TrimPrefix(u.Number, s.ownCode())
		if is(id.String(), u.Number, ext, u.Name, u.E164) {
			add("user", s.scope, string(id[:]), strings.TrimSpace("user "+u.Number+" "+u.Name), u.Deleted)
		}
	}
	for id, d := range s.ix.devices {
		if is(id.String(), d.name) {
			add("device", s.scope, string(id[:]), "device "+id.String(), d.deleted)
		}
	}
	for id := range s.ix.messages {
		if is(id.String()) {
			add("message", s.scope, string(id[:]), "message "+who, false)
		}
	}
	for k, t := range kindNames {
		for id, x := range s.ix.records[t] {
			v := reflect.ValueOf(x)
			h := v.FieldByName("Head").Interface().(site.Head)
			names := []string{id.String(), h.Name}
			for _, f := range []string{"Number", "MAC", "E164"} {
				if f := v.FieldByName(f); f.IsValid() && f.Kind() == reflect.String && t != TableTrunk {
					names = append(names, f.String())
				}
			}
			if is(names...) || k == "shop" && who == "" {
				add(k, s.scope, string(id[:]), k+" "+h.Name, h.Deleted)
			}
		}
	}
	for id, x := range s.ix.sites {
		if is(x.Code, x.Name, id.String()) || kind == "site" && who == "" && id == s.cfg.Site {
			add("site", crdt.Fleet, string(id[:]), "site "+x.Code+" "+x.Name, false)
		}
	}
	for id, x := range s.ix.nodes {
		if is(id.String(), x.Name) {
			add("node", crdt.Fleet, string(id[:]), "node "+x.Name, false)
		}
	}
	if is(s.ix.fleetName) || kind == "fleet" && who == "" {
		f := s.cfg.Book.Fleet()
		add("fleet", crdt.Fleet, string(f[:16]), "fleet "+s.ix.fleetName, false)
	}
	return out
}

// ownCode is the code of the own site. The caller holds mu.
func (s *State) ownCode() string {
	if x := s.ix.sites[s.cfg.Site]; x != nil {
		return x.Code
	}
	return ""
}

// find is the one record that is meant. Of several with one name the one that
// was not deleted is.
func (s *State) find(kind, who string) (named, error) {
	if _, ok := kindNames[kind]; !ok && kind != "" {
		return named{}, fmt.Errorf("%.40q: %w: one of %s", kind, ErrInvalid, strings.Join(Kinds(), ", "))
	}
	found := s.named(kind, who)
	if live := slices.DeleteFunc(slices.Clone(found), func(n named) bool { return n.deleted }); len(live) > 0 {
		found = live
	}
	what := strings.TrimSpace(kind + " " + who)
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if id, err := s.Find(who); err == nil {
			if u, err := s.User(id); err == nil && !u.Here {
				x, _ := s.Site(u.Site)
				return named{}, fmt.Errorf("%.80q: %w, %s", what, ErrOtherSite, x.Code)
			}
		}
		return named{}, fmt.Errorf("%.80q: %w at this site: give a kind (%s) and a number, a name or an id", what, ErrNotFound, strings.Join(Kinds(), ", "))
	}
	var list []string
	for _, n := range found {
		id := site.RecordID{}
		if copy(id[:], n.rec); len(n.rec) == len(id) {
			n.words += " (" + id.String() + ")"
		}
		list = append(list, n.words)
	}
	slices.Sort(list)
	return named{}, fmt.Errorf("%.80q: %w: it may be %s: give the kind, or the id", what, ErrInvalid, strings.Join(list, " or "))
}

// A Touched record is one that was written to.
type Touched struct {
	Kind   string
	ID     string
	Record string   // in words
	Fields []string // that were written
}

// Touched describes what a merge touched of the own site, of the sites' and
// boxes' records and of the fleet's: records people know, fields people write.
func (s *State) Touched(scope crdt.Scope, cells []crdt.Cell) (out []Touched) {
	if scope != s.scope && scope != crdt.Fleet {
		return nil
	}
	at := map[crdt.Cell]int{}
	s.cfg.Engine.View(func(v View) {
		for _, c := range cells {
			kind := kindOf(c.Table)
			if _, f := fieldOf(c); kind == "" || f.policy == Derived && c.Field != "" {
				continue
			}
			c.Scope = scope
			r := crdt.Cell{Scope: scope, Table: c.Table, Record: c.Record}
			i, ok := at[r]
			if !ok {
				i = len(out)
				at[r] = i
				words, _ := s.recordWords(v, c)
				id := site.RecordID{}
				t := Touched{Kind: kind, Record: words}
				if copy(id[:], c.Record); len(c.Record) == len(id) {
					t.ID = id.String()
				}
				if c.Table == TableNode && len(c.Record) == len(site.NodeID{}) {
					t.ID = site.NodeID([]byte(c.Record)).String()
				}
				out = append(out, t)
			}
			name := "removed for good"
			if c.Field != "" {
				name = s.fieldWords(v, c)
			}
			if !slices.Contains(out[i].Fields, name) {
				out[i].Fields = append(out[i].Fields, name)
			}
		}
	})
	return out
}

// kindOf is what people call the records of a table; "" if they do not.
func kindOf(table uint16) string {
	for k, t := range kindNames {
		if t == table {
			return k
		}
	}
	return ""
}
