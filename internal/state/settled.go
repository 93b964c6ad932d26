package state

import (
	"fmt"
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
)

// pasts reads this node's history of one cell, oldest first; of the zero cell,
// everything.
func (s *State) pasts(c crdt.Cell) (out []Past, err error) {
	if s.cfg.History == nil {
		return nil, nil
	}
	err = s.cfg.History(c, func(p Past) error {
		if c == (crdt.Cell{}) || p.Cell == c {
			out = append(out, p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	return out, nil
}

// newestOf is the newest version that a writer had seen, false if there was none.
func newestOf(ctx crdt.Context) (d crdt.Dot, ok bool) {
	for _, x := range ctx {
		if x.Stamp > d.Stamp {
			d, ok = x, true
		}
	}
	return d, ok
}

// replaced fills in what each side replaced, as far as this node remembers.
func (s *State) replaced(ms []Merge) error {
	read := map[crdt.Cell][]Past{}
	for i := range ms {
		for j := range ms[i].Sides {
			d := &ms[i].Sides[j]
			if d.cell == (crdt.Cell{}) {
				continue
			}
			ps, ok := read[d.cell]
			if !ok {
				var err error
				if ps, err = s.pasts(d.cell); err != nil {
					return err
				}
				read[d.cell] = ps
			}
			dot, any := newestOf(d.saw)
			if _, f := fieldOf(d.cell); !any {
				d.Was, d.Known = words(f, d.cell, nil), true
			} else if i := slices.IndexFunc(ps, func(p Past) bool { return p.Version.Dot == dot }); i >= 0 {
				d.Was, d.Known = words(f, d.cell, ps[i].Version.Value), true
			}
		}
	}
	return nil
}

// Settled is a merge that was open as it is now that it is not: what is in force,
// and, where one change settled it, whose that was.
func (s *State) Settled(m Merge) Merge {
	m.Closed, m.Why, m.Both, m.Do = true, "", "", ""
	kind, c, err := parseMergeID(m.ID)
	if err != nil || kind == MergeNumber {
		return m
	}
	s.cfg.Engine.View(func(v View) {
		_, f := fieldOf(c)
		if vs := v.Set(c.Scope).Versions(c); len(vs) > 0 {
			m.InForce = words(f, c, inForce(f, vs).Value)
			if len(vs) == 1 {
				d := s.side(v, c, vs[0])
				m.ClosedBy = &d
			}
		}
	})
	return m
}

// settled reads this node's history: cells where one change covered versions of
// different value.
func (s *State) settled() (out []Merge, err error) {
	type by struct {
		cell crdt.Cell
		id   crdt.ID
	}
	found := map[by][]Past{}
	wrote := map[by]crdt.Version{} // what changes wrote that are past themselves
	all, err := s.pasts(crdt.Cell{})
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if _, f := fieldOf(p.Cell); f.policy != Derived {
			k := by{p.Cell, p.By}
			found[k] = append(found[k], p)
			wrote[by{p.Cell, p.Version.ID}] = p.Version
		}
	}
	s.cfg.Engine.View(func(v View) {
		for k, ps := range found {
			_, f := fieldOf(k.cell)
			if len(ps) < 2 || !slices.ContainsFunc(ps, func(p Past) bool { return !sameValue(f, p.Version.Value, ps[0].Version.Value) }) {
				continue
			}
			m := Merge{ID: mergeID(MergeEdit, k.cell) + "." + k.id.String(), Kind: MergeEdit, Field: s.fieldWords(v, k.cell), Closed: true, Policy: f.policy}
			m.Record, m.User = s.recordWords(v, k.cell)
			vs := v.Set(k.cell.Scope).Versions(k.cell)
			if len(vs) > 0 {
				m.InForce = words(f, k.cell, inForce(f, vs).Value)
			}
			closer, ok := wrote[k]
			for _, x := range vs {
				if x.ID == k.id {
					closer, ok = x, true
				}
			}
			if ok {
				d := s.side(v, k.cell, closer)
				m.ClosedBy, m.Why = &d, "somebody who had seen all of it wrote that"
			}
			slices.SortFunc(ps, func(a, b Past) int { return crdt.CompareVersions(b.Version, a.Version) })
			for _, p := range ps {
				m.Sides = append(m.Sides, s.side(v, k.cell, p.Version))
				if at := p.At.Truncate(time.Millisecond); m.At.Before(at) {
					m.At = at
				}
			}
			out = append(out, m)
		}
	})
	return out, nil
}
