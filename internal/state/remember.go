package state

import (
	"bytes"
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// History tells who changed what of a record, newest first, as far as this node
// still knows. kind may be empty if who says enough.
func (s *State) History(kind, who string) (History, error) {
	n, err := s.find(kind, who)
	if err != nil {
		return History{}, err
	}
	of := []crdt.Cell{{Scope: n.scope, Table: n.table, Record: n.rec}}
	if n.table == TableUser {
		s.mu.RLock()
		for _, d := range s.ix.phones[site.RecordID([]byte(n.rec))] {
			of = append(of, crdt.Cell{Scope: n.scope, Table: TableDevice, Record: string(d[:])})
		}
		s.mu.RUnlock()
	}
	var past []Past
	for _, c := range of {
		if s.cfg.History == nil {
			break
		}
		err := s.cfg.History(crdt.Cell{Scope: c.Scope, Record: c.Record}, func(p Past) error {
			if p.Cell.Scope == c.Scope && p.Cell.Table == c.Table && p.Cell.Record == c.Record {
				past = append(past, p)
			}
			return nil
		})
		if err != nil {
			return History{}, err
		}
	}
	out := History{Kind: n.kind, Record: n.words, Since: s.rememberedSince()}
	s.cfg.Engine.View(func(v View) {
		cells := map[crdt.Cell]bool{}
		for _, c := range of {
			for _, f := range v.Set(c.Scope).Fields(c.Table, c.Record) {
				cells[crdt.Cell{Scope: c.Scope, Table: c.Table, Record: c.Record, Field: f}] = true
			}
		}
		for _, p := range past {
			cells[p.Cell] = true
		}
		out.Changes = s.changes(v, cells, past)
	})
	return out, nil
}

// changes makes one list of what is there and what was, newest first.
func (s *State) changes(v View, cells map[crdt.Cell]bool, past []Past) (out []Edit) {
	type version struct {
		crdt.Version
		live, vague bool
	}
	all := map[crdt.Cell][]version{}
	for _, p := range past {
		all[p.Cell] = append(all[p.Cell], version{p.Version, false, p.Vague})
	}
	at := map[crdt.ID]int{}
	for c := range cells {
		_, f := fieldOf(c)
		if f.policy == Derived {
			continue
		}
		live := v.Set(c.Scope).Versions(c)
		for _, x := range live {
			// A change may have been written to the history by a start that it has outlived.
			all[c] = slices.DeleteFunc(all[c], func(y version) bool { return y.Dot == x.Dot && y.ID == x.ID })
			all[c] = append(all[c], version{x, true, false})
		}
		counts := crdt.Dot{}
		if len(live) > 0 {
			counts = inForce(f, live).Dot
		}
		record, _ := s.recordWords(v, c)
		for _, x := range all[c] {
			w := FieldEdit{Record: record, Field: s.fieldWords(v, c), New: words(f, c, x.Value), Live: x.live, InForce: x.live && x.Dot == counts, cell: c, write: x.Version}
			dot, any := newestOf(x.Ctx)
			switch {
			case x.vague:
			case !any:
				w.First, w.Known, w.Old = true, true, words(f, c, nil)
			default:
				if i := slices.IndexFunc(all[c], func(y version) bool { return y.Dot == dot }); i >= 0 {
					w.Known, w.before, w.Old = true, bytes.Clone(all[c][i].Value), words(f, c, all[c][i].Value)
				}
			}
			i, ok := at[x.ID]
			if !ok {
				i = len(out)
				at[x.ID] = i
				out = append(out, Edit{ID: x.ID, At: time.UnixMilli(x.Stamp.Millis()), By: s.personOf(v, x.By), Node: site.NodeID(x.Node), Site: s.siteOf(site.NodeID(x.Node))})
			}
			out[i].Fields = append(out[i].Fields, w)
		}
	}
	for _, c := range out {
		slices.SortFunc(c.Fields, func(a, b FieldEdit) int {
			return cmpCells(a.cell, b.cell)
		})
	}
	slices.SortFunc(out, func(a, b Edit) int {
		return -crdt.CompareVersions(a.Fields[0].write, b.Fields[0].write)
	})
	return out
}

func cmpCells(a, b crdt.Cell) int {
	return bytes.Compare([]byte(string(rune(a.Table))+a.Record+a.Field), []byte(string(rune(b.Table))+b.Record+b.Field))
}
