package state

import (
	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// NeededFirst lists the changes of the fleet scope that a new box of a site needs
// before it can serve the site's telephones: the site's lines of the directory,
// features of the fleet, its domain, and at last the
// site itself, so that who has that has the others. It looks at every name of the
// directory once.
func NeededFirst(v View, of site.ID) (out []crdt.ID) {
	fleet := v.Set(crdt.Fleet)
	seen := map[crdt.ID]bool{}
	add := func(table uint16, record string) {
		for _, f := range fleet.Fields(table, record) {
			for _, x := range fleet.Versions(crdt.Cell{Scope: crdt.Fleet, Table: table, Record: record, Field: f}) {
				if !seen[x.ID] {
					seen[x.ID] = true
					out = append(out, x.ID)
				}
			}
		}
	}
	prefix := trust.SiteRecord(of, site.RecordID{})[:trust.PrefixSize]
	for _, t := range []uint16{TableDirectory, TableService, TableRoam} {
		for _, r := range fleet.Begins(t, prefix) {
			add(t, r)
		}
	}
	for _, t := range []uint16{TablePlacement, TableFleet} {
		for _, r := range fleet.Records(t) {
			add(t, r)
		}
	}
	add(TableSite, string(of[:]))
	return out
}
