// Package sipcore is the signalling of one site: registrar, back-to-back user
// agent, proxy and subscriptions on SIP transports of its own. It never touches
// RTP and never knows how state is stored: what it needs it declares here, in
// its own words, and internal/node fits the pieces together.
package sipcore

import (
	"context"
	"net"
	"net/netip"

	"carrierclass.net/ccnode/internal/site"
)

// LocationService is the abstract database of RFC 3261 §10 and §16.5, of this
// site: bindings of both nodes of a pair are in it.
type LocationService interface {
	// Bindings returns the phones registered for aor at whichever node of
	// this site, newest first. Expired ones are not returned.
	Bindings(aor site.AOR) []site.Binding

	// Bind stores b, replacing the binding with the same Key. A new or moved
	// contact is on this node's disk when Bind returns; a mere refresh is
	// not a write (house.md §2a). Bind waits for no other node. It returns an
	// error only when nothing was stored, not even in memory.
	Bind(ctx context.Context, b site.Binding) error

	// Unbind removes the binding with that key; removing what is not there
	// is not an error.
	Unbind(ctx context.Context, key string) error
}

// A Credential is what one device may authenticate with.
type Credential struct {
	Device    site.RecordID
	HA1MD5    string // hex of MD5(user:realm:password), RFC 7616 §3.4.2
	HA1SHA256 string // the same with SHA-256, "" where the device cannot
	SHA256    bool   // challenge with SHA-256 instead of MD5
	Lines     []Line // AORs it may register and call from
	Disabled  bool   // the user was disabled: 403 after a right password
}

// A Line is one AOR of a device.
type Line struct {
	AOR  site.AOR
	User site.RecordID
	Name string // display name
}

// Credentials looks up digest secrets (RFC 7616). One user name can belong to
// several devices (a number clash after a merge): the one whose password fits is meant.
type Credentials interface {
	Credentials(username, realm string) []Credential
}

// Reach remembers how attempts to reach other nodes ended. It is evidence from
// work we had to do anyway; it never probes.
type Reach interface {
	Suspect(site.NodeID) bool
	Note(node site.NodeID, err error) // nil: reached
}

// Peers opens signalling streams to other nodes of the fleet, over the mesh's
// authenticated link and on a connection of its own.
type Peers interface {
	DialSIP(ctx context.Context, node site.NodeID) (net.Conn, error)
}

// Anchor puts media ports of this node into calls. SDP goes in, SDP comes out;
// signalling never sees a packet. features/media implements it.
type Anchor interface {
	// NewPort opens one leg's media endpoint. The caller must Close it.
	NewPort(p PortParams) (Port, error)

	// Bridge relays media between two ports, both ways, until one is closed,
	// bridged elsewhere, or unbridged by Bridge(a, nil).
	Bridge(a, b Port) error
}

// PortParams say where a leg's media will come from.
type PortParams struct {
	Chain string     // chain id of the call, for logs and records
	Local netip.Addr // the address the other end of the leg sees us at
	Peer  bool       // the other end is another node of the fleet
}

// A Port is one leg's media endpoint. Its methods may be called from any goroutine.
type Port interface {
	// SetRemote takes the other end's SDP, offer or answer (RFC 3264).
	SetRemote(sdp []byte) error

	// Local makes our SDP for this leg: an offer, or the answer to what
	// SetRemote took. template is the other leg's SDP, whose codecs and
	// direction are kept; nil means our own capabilities (G.711, telephone-event).
	// The origin line is this leg's own, with a rising version.
	// site.NotAcceptable is returned when no stream can be accepted.
	Local(template []byte) ([]byte, error)

	Close() error
}
