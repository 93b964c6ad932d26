package trust

import (
	"fmt"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// Tables of the trust scope.
const (
	TableFounding   uint16 = 1 // record: first 16 bytes of the fleet id
	TableGrant      uint16 = 2 // record: the grant's id
	TableRevocation uint16 = 3 // record: the node; always a final
	TableProof      uint16 = 4 // record: the node that signed two changes under one dot
	TableAdmin      uint16 = 5 // record: the administrator's id; see admins.go
)

// The number of a table says who may write it, so that a node also judges
// tables that it does not know yet.
//
//	fleet scope  0x01xx  settings of the fleet: admit:fleet
//	             0x02xx  of a site: its own nodes; the record starts with the
//	                     first 6 bytes of the site's id
//	             0x03xx  of a node: itself; the record is its id
//	site scope   0x10xx  the site's own nodes
//	             0x11xx  drops: also nodes of other sites may leave a record,
//	                     in its field 1, once (a voicemail)
const (
	FleetSettings uint16 = 0x0100
	FleetSites    uint16 = 0x0200
	FleetNodes    uint16 = 0x0300
	SiteOwn       uint16 = 0x1000
	SiteDrops     uint16 = 0x1100

	// TableSite describes sites; a node that may admit to the fleet also
	// writes it, when it invites the first box of a new site.
	TableSite = FleetSites
)

// PrefixSize is how much of a site's id its records in the fleet scope start with.
const PrefixSize = 6

// SiteRecord is the record, in the fleet scope, of something that belongs to a
// site: only nodes of that site may write it.
func SiteRecord(s site.ID, id site.RecordID) string {
	return string(s[:PrefixSize]) + string(id[:])
}

// DropField is the one field that strangers may write of a drop.
const DropField = "\x01"

// may says whether a node with grant g may make this write. It is a function of
// its arguments alone.
func (g *Grant) may(scope crdt.Scope, w *crdt.Write) error {
	for _, a := range g.Extra {
		if string(a.Scope) != string(scope) {
			continue
		}
		if len(a.Tables) == 0 {
			return nil
		}
		for _, t := range a.Tables {
			if t == w.Table {
				return nil
			}
		}
	}
	no := func(why string) error {
		return fmt.Errorf("%w: node %s of site %s, table %#x of %s: %s", ErrForbidden, g.Node(), g.Site, w.Table, scope, why)
	}
	if s, ok := scope.Site(); ok {
		switch {
		case site.ID(s) == g.Site:
			return nil
		case w.Table == crdt.TableVoid:
			return nil // of its own changes only, whoever let it write them
		case w.Table&0xff00 != SiteDrops:
			return no("only its own nodes write it; to do so from here, log in as an administrator of that site")
		case w.Field != DropField || w.Flags != 0 || len(w.Ctx) != 0:
			return no("another site may leave a record there, not change one")
		}
		return nil
	}
	switch w.Table & 0xff00 {
	case FleetSettings:
		if g.Rights&AdmitFleet == 0 {
			return no("it wants the right " + AdmitFleet.String())
		}
	case FleetSites:
		own := len(w.Record) >= PrefixSize && w.Record[:PrefixSize] == string(g.Site[:PrefixSize])
		if !own && (w.Table != TableSite || g.Rights&AdmitFleet == 0) {
			return no("the record is another site's")
		}
	case FleetNodes:
		if n := g.Node(); w.Record != string(n[:]) {
			return no("the record is another node's")
		}
	default:
		return fmt.Errorf("%w: table %#x of %s", errNoRule, w.Table, scope)
	}
	return nil
}
