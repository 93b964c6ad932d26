package trust

import (
	"slices"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// NeededFirst lists the changes of the trust scope that a box that has little of
// it needs before all others: who was shut out and who administers, with the
// grants that these rest on, then those of the boxes of its site, of who may admit
// to the fleet, and of authors: who wrote what the box is sent next. In a fleet of
// 30,000 the other grants take a thin line twenty minutes. A grant comes after the
// one that it rests on.
func (b *Book) NeededFirst(trust *crdt.Set, of site.ID, authors []site.NodeID) (out []crdt.ID) {
	seen := map[crdt.ID]bool{}
	add := func(vs ...crdt.Version) {
		for _, v := range vs {
			if !seen[v.ID] {
				seen[v.ID] = true
				out = append(out, v.ID)
			}
		}
	}
	given := map[crdt.Ref]bool{}
	var grant func(g *Grant)
	var node func(n site.NodeID)
	grant = func(g *Grant) {
		id := g.ID()
		if given[id] {
			return
		}
		given[id] = true
		b.mu.RLock()
		parent := b.grants[g.Parent]
		b.mu.RUnlock()
		if parent != nil {
			grant(parent)
		}
		for _, v := range trust.Versions(crdt.Cell{Scope: crdt.Trust, Table: TableGrant, Record: string(id[:]), Field: DropField}) {
			node(site.NodeID(v.Node)) // who wrote it down need not be who gave it
			add(v)
		}
	}
	done := map[site.NodeID]bool{}
	node = func(n site.NodeID) {
		if done[n] {
			return
		}
		done[n] = true
		b.mu.RLock()
		gs := slices.Clone(b.nodes[n])
		b.mu.RUnlock()
		for _, g := range gs {
			grant(g)
		}
	}
	named := func(rec string, vs []crdt.Version) {
		if len(rec) == len(site.NodeID{}) {
			node(site.NodeID([]byte(rec)))
		}
		for _, v := range vs {
			node(site.NodeID(v.Node))
		}
		add(vs...)
	}
	for _, rec := range trust.Records(TableRevocation) {
		if v, ok := trust.Final(TableRevocation, rec); ok {
			named(rec, []crdt.Version{v})
		}
	}
	for _, t := range []uint16{TableProof, TableFounding, TableAdmin} {
		for _, rec := range trust.Records(t) {
			for _, f := range trust.Fields(t, rec) {
				named(rec, trust.Versions(crdt.Cell{Scope: crdt.Trust, Table: t, Record: rec, Field: f}))
			}
		}
	}
	for _, s := range b.standings() {
		if s.Grant.Site == of || s.Grant.Rights&AdmitFleet != 0 {
			node(s.Grant.Node())
		}
	}
	for _, n := range authors {
		node(n)
	}
	return out
}
