package state

import (
	"cmp"
	"slices"

	"carrierclass.net/ccnode/crdt"
)

// recentChanges is how many Recent tells.
const recentChanges = 100

// Recent tells the newest changes of the own site's records and of the fleet's,
// newest first; voicemail messages are left out.
func (s *State) Recent() (History, error) {
	past, err := s.pasts(crdt.Cell{})
	if err != nil {
		return History{}, err
	}
	out := History{Kind: "all", Record: "the newest changes", Since: s.rememberedSince()}
	type seen struct {
		id    crdt.ID
		stamp crdt.Stamp
	}
	told := func(c crdt.Cell) bool {
		_, f := fieldOf(c)
		return f.policy != Derived && c.Table != TableMessage && kindOf(c.Table) != "" && (c.Scope == s.scope || c.Scope == crdt.Fleet)
	}
	s.cfg.Engine.View(func(v View) {
		stamps := map[crdt.ID]crdt.Stamp{}
		of := map[crdt.ID][]crdt.Cell{}
		note := func(c crdt.Cell, x crdt.Version) {
			stamps[x.ID] = x.Stamp
			of[x.ID] = append(of[x.ID], c)
		}
		for _, p := range past {
			if told(p.Cell) {
				note(p.Cell, p.Version)
			}
		}
		for _, scope := range []crdt.Scope{crdt.Fleet, s.scope} {
			set := v.Set(scope)
			for _, t := range kindNames {
				for _, rec := range set.Records(t) {
					for _, f := range set.Fields(t, rec) {
						c := crdt.Cell{Scope: scope, Table: t, Record: rec, Field: f}
						if !told(c) {
							continue
						}
						for _, x := range set.Versions(c) {
							note(c, x)
						}
					}
				}
			}
		}
		order := make([]seen, 0, len(stamps))
		for id, stamp := range stamps {
			order = append(order, seen{id, stamp})
		}
		slices.SortFunc(order, func(a, b seen) int {
			return cmp.Or(-cmp.Compare(a.stamp, b.stamp), slices.Compare(a.id[:], b.id[:]))
		})
		newest, cells := map[crdt.ID]bool{}, map[crdt.Cell]bool{}
		for _, x := range order[:min(len(order), recentChanges)] {
			newest[x.id] = true
			for _, c := range of[x.id] {
				cells[c] = true
			}
		}
		about := slices.DeleteFunc(past, func(p Past) bool { return !cells[p.Cell] })
		out.Changes = slices.DeleteFunc(s.changes(v, cells, about), func(e Edit) bool { return !newest[e.ID] })
	})
	return out, nil
}
