package sipcore

import "carrierclass.net/ccnode/internal/site"

// A DialogState is one call as the lamps of others show it for one user, group
// member or orbit (RFC 4235 §3.7): it rings there, somebody talks there, or a
// caller is parked there.
type DialogState struct {
	Chain     string      // chain id of the call; one call has at most one state for an AOR
	AOR       site.AOR    // whose lamp
	Recipient bool        // the call came to AOR; else AOR made it
	Confirmed bool        // answered, or parked; else it rings
	Parked    bool        // AOR is an orbit
	Remote    site.Party  // who is at the other end
	Node      site.NodeID // owns the call; set by Lamps, zero in what Set gets
}

// Lamps keeps what the lamps of a site show: memory of both nodes of its pair,
// never on disk, never on the WAN (calls.md §4). Neither method may block.
type Lamps interface {
	// Set replaces all states of one call of this node; none means it is over.
	Set(chain string, states []DialogState)

	// Of returns the states of one AOR at whichever node of the site, oldest
	// first.
	Of(aor site.AOR) []DialogState
}
