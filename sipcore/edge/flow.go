package edge

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/message"
)

// A Flow is how one sender reaches us: a connection, a stream of another node,
// or a pair of UDP addresses (RFC 5626 §2). Its fields do not change. For UDP a
// Flow is made for each datagram, so compare with Same, not with ==.
type Flow struct {
	Transport     site.Transport
	Local, Remote netip.AddrPort // zero for site.Mesh
	Peer          site.NodeID    // who it is, for site.Mesh; else zero

	// Name is unique over all connections this node ever has, and empty for
	// UDP. A binding keeps it: an address may come back to a stranger, a name
	// does not.
	Name string

	packet *packet
	stream *stream
	reply  netip.AddrPort // UDP: where responses go
}

// Dest is the destination of requests on this flow.
func (f *Flow) Dest() Dest { return Dest{Flow: f, Transport: f.Transport} }

// Reply is the destination of responses to the request that came with f
// (RFC 3261 §18.2.2, RFC 3581 §4).
func (f *Flow) Reply() Dest { return Dest{Flow: f, Transport: f.Transport, reply: true} }

// Same says whether f and g are the same flow.
func (f *Flow) Same(g *Flow) bool {
	return f == g || f != nil && g != nil && f.Transport == g.Transport && f.Name == g.Name && f.Local == g.Local && f.Remote == g.Remote
}

// Closed is closed when the connection has ended; nil for UDP, which never ends.
func (f *Flow) Closed() <-chan struct{} {
	if f.stream == nil {
		return nil
	}
	return f.stream.done
}

// Keep says that somebody known is at the other end, so that the connection
// is not closed after Limits.Idle but after Limits.KeptIdle.
func (f *Flow) Keep() {
	if f.stream != nil {
		f.stream.kept.Store(true)
	}
}

func (f *Flow) String() string {
	if f.Transport == site.Mesh {
		return "mesh " + f.Peer.String()
	}
	return string(f.Transport) + " " + f.Remote.String()
}

// A Dest is where a message shall go. One of Flow, Peer and Addr is set.
type Dest struct {
	Flow      *Flow
	Peer      site.NodeID    // another node, over a stream of the mesh
	Transport site.Transport // with Addr: site.UDP or site.TCP
	Addr      netip.AddrPort // with Transport
	Local     netip.AddrPort // UDP: the socket to send from; zero: one that fits
	TCP       bool           // with site.UDP: Addr is known to take TCP as well

	reply bool
}

func (d Dest) String() string {
	switch {
	case d.Flow != nil:
		return d.Flow.String()
	case !d.Peer.IsZero():
		return "mesh " + d.Peer.String()
	}
	return string(d.Transport) + " " + d.Addr.String()
}

// Reliable says whether what is sent to d needs no retransmission.
func (d Dest) Reliable() bool {
	if d.Flow != nil {
		return d.Flow.Transport.Reliable()
	}
	return !d.Peer.IsZero() || d.Transport.Reliable()
}

// A Local is how the other end of a Dest can name us, in Via and Contact.
type Local struct {
	Transport site.Transport
	Host      string // IPv6 in brackets
	Port      int    // 0 for site.Mesh
}

// Via makes our topmost Via, with rport (RFC 3581 §3).
func (l Local) Via(branch string) *sip.ViaHeader {
	return &sip.ViaHeader{
		ProtocolName: "SIP", ProtocolVersion: "2.0", Transport: strings.ToUpper(string(l.Transport)),
		Host: l.Host, Port: l.Port,
		Params: sip.HeaderParams{{K: "branch", V: branch}, {K: "rport"}},
	}
}

// URI makes our Contact URI.
func (l Local) URI(user string) sip.Uri {
	u := sip.Uri{Scheme: "sip", User: user, Host: l.Host, Port: l.Port}
	if l.Transport == site.TCP || l.Transport == site.TLS {
		u.UriParams = sip.HeaderParams{{K: "transport", V: string(l.Transport)}}
	}
	return u
}

// HostPort is Host, with Port when there is one.
func (l Local) HostPort() string {
	if l.Port == 0 {
		return l.Host
	}
	return l.Host + ":" + strconv.Itoa(l.Port)
}

// stamp notes the source in the topmost Via and works out where responses go.
func (f *Flow) stamp(v *sip.ViaHeader) {
	if f.Transport == site.Mesh {
		return // sent-by is a node's name
	}
	received, rport := message.Source(v, f.Remote)
	message.Received(v, received, rport)
	f.reply = f.Remote
	if rport == "" {
		port := v.Port
		if port == 0 {
			port = 5060
		}
		f.reply = netip.AddrPortFrom(f.Remote.Addr(), uint16(port))
	}
}
