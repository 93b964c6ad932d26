package node

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/provision"
	"carrierclass.net/ccnode/sipcore/trunk"
)

// maxAway bounds who is remembered of other networks.
const maxAway = 32

// turnedAway notes who asked for settings from another network of the house;
// strangers from the Internet are of no interest.
func (p *phones) turnedAway(a netip.Addr) {
	if !inner(a) && !a.IsLoopback() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away == nil {
		p.away = map[netip.Addr]bool{}
	}
	if len(p.away) < maxAway {
		p.away[a] = true
	}
}

func (p *phones) strangersSeen() (out []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for a := range p.away {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// doors is what this box really listens on, and whom it calls.
type doors struct {
	sip       []string // "udp:192.0.2.1:5060", as bound
	mesh      []netip.AddrPort
	media     [2]int
	mediaAt   []string
	web       []string // "https://[::]:8443"
	fetch     []string // where phones fetch settings
	fetchPort []int    // HTTP, then HTTPS
	timed     []string
	heard     []string
	mdns      bool
	behindNAT bool
	advertise string
	trunks    []trunkFact
	others    bool // there are boxes of other sites
	dial      []string
}

func texts(all []netip.Addr) (out []string) {
	for _, a := range all {
		out = append(out, a.String())
	}
	return out
}

// doors asks the rooms what they have open.
func (n *Node) doors() doors {
	d := doors{behindNAT: n.cfg.BehindNAT, advertise: n.cfg.Advertise, media: n.cfg.MediaPorts, mediaAt: texts(n.cfg.Listen)}
	if n.calls != nil && n.calls.sip != nil {
		d.sip = n.calls.sip.Addrs()
		for _, t := range n.trunkRecords() {
			d.trunks = append(d.trunks, trunkFact{transport: t.Transport, State: trunk.State{Name: t.Name, Kind: trunk.Kind(t.Kind), Via: trunk.Way(t.Via), Server: t.Server}})
		}
	}
	if m, ok := n.mesh.(interface{ Addrs() []netip.AddrPort }); ok {
		d.mesh = m.Addrs()
	}
	if n.web != nil {
		for _, a := range n.web.addrs {
			if s, ok := strings.CutPrefix(a, "https://"); ok {
				d.web = append(d.web, s)
			}
		}
	}
	if p := n.phones; p != nil {
		for _, l := range p.lans {
			d.fetch = append(d.fetch, l.addr.String())
		}
		d.fetchPort = append([]int{n.cfg.PhoneHTTP}, p.open()...)
		p.mu.Lock()
		d.timed, d.heard = texts(p.timed), texts(p.heard)
		p.mu.Unlock()
		d.mdns = !n.cfg.NoMulticast
	}
	for _, s := range n.engine.Status().Peers {
		p := n.peerFact(s)
		d.others = d.others || !p.here
	}
	for _, x := range n.state.Nodes(n.state.Own().ID) {
		if x.ID != n.id.Node() {
			d.dial = append(d.dial, n.addrsOf(x.ID)...)
		}
	}
	for _, g := range n.state.Sites() {
		if g.ID == n.member.Site {
			continue
		}
		for _, x := range n.state.Nodes(g.ID) {
			d.dial = append(d.dial, n.addrsOf(x.ID)...)
		}
	}
	return d
}

const (
	closed = "keep closed"
	nobody = "nothing to open"
)

// firewall is the statement, by what is really open.
func firewall(d doors) (out []api.Port) {
	in := func(protocol, port string, addrs []string, who, what, router string) {
		if len(addrs) > 0 {
			out = append(out, api.Port{Way: "in", Protocol: protocol, Port: port, Addrs: addrs, Who: who, For: what, Router: router})
		}
	}
	// A peer that knows us by our address calls in by itself; who registers has
	// opened the way back through the router by registering.
	var registers, knows, gateways []string
	for _, t := range d.trunks {
		switch {
		case t.Via == trunk.LAN:
			gateways = append(gateways, t.Name)
		case t.Kind == trunk.Register:
			registers = append(registers, t.Name)
		default:
			knows = append(knows, t.Name)
		}
	}
	who, router := "phones of the LAN", closed
	if len(gateways) > 0 {
		who += ", gateways (" + strings.Join(gateways, ", ") + ")"
	}
	speech := who
	if len(registers) > 0 {
		who += ", providers (" + strings.Join(registers, ", ") + ") over the way that registering opened"
		speech += ", providers"
		router = nobody
	}
	mediaRouter := nobody
	if len(d.trunks) == 0 && !d.others {
		mediaRouter = closed
	}
	if len(knows) > 0 {
		who += ", providers that know our address (" + strings.Join(knows, ", ") + ")"
		speech += ", providers that know our address"
		router = "forward to this box, from the servers of " + strings.Join(knows, ", ") + " only"
		mediaRouter = router
	}
	for _, protocol := range []string{"udp", "tcp"} {
		at := map[string][]string{}
		var ports []string
		for _, s := range d.sip {
			rest, ok := strings.CutPrefix(s, protocol+":")
			host, port, err := net.SplitHostPort(rest)
			if !ok || err != nil {
				continue
			}
			if at[port] == nil {
				ports = append(ports, port)
			}
			at[port] = append(at[port], host)
		}
		for _, port := range ports {
			in(protocol, port, at[port], who, "SIP: registrations and calls", router)
		}
	}
	if d.others {
		speech += ", boxes of other sites"
		if d.advertise != "" && len(knows) == 0 {
			mediaRouter = "forward to this box, from the other sites (" + d.advertise + " is said to be our address)"
		} else if len(knows) == 0 {
			mediaRouter = "nothing if the sites reach each other by VPN; else forward to this box, from the other sites"
		}
	}
	in("udp", fmt.Sprintf("%d-%d", d.media[0], d.media[1]), d.mediaAt, speech, "speech (RTP, RTCP); a port is open only while its call lasts", mediaRouter)

	meshRouter := closed + " until there is another site"
	switch {
	case d.behindNAT:
		meshRouter = "nothing to open: started with --behind-nat, this box calls a relay"
	case d.advertise != "":
		meshRouter = "forward to this box: other boxes are told to dial " + d.advertise
	case d.others:
		meshRouter = "forward to this box if boxes of other sites shall dial it without a VPN; one side of each two is enough"
	}
	for _, a := range d.mesh {
		in("tcp", strconv.Itoa(int(a.Port())), []string{a.Addr().String()}, "other boxes of the fleet", "mesh: what the boxes share, and calls between them", meshRouter)
	}
	if len(d.fetch) > 0 {
		in("tcp", strconv.Itoa(d.fetchPort[0]), d.fetch, "phones of the LAN", "provisioning: the first file of a phone (HTTP)", closed)
		for _, port := range d.fetchPort[1:] {
			in("tcp", strconv.Itoa(port), d.fetch, "phones of the LAN", "provisioning: settings with passwords (HTTPS)", closed)
		}
	}
	if len(d.heard) > 0 {
		in("udp", strconv.Itoa(int(provision.Group.Port())), []string{provision.Group.Addr().String()}, "phones of the LAN", "plug and play: phones ask by multicast where their settings are", closed)
	}
	in("udp", "123", d.timed, "phones of the LAN", "the time (SNTP)", closed)
	for _, a := range d.web {
		host, port, err := net.SplitHostPort(a)
		if err == nil {
			in("tcp", port, []string{host}, "administrators, with the token", "page and REST interface (HTTPS)", closed+"; by VPN from outside")
		}
	}
	if d.mdns {
		in("udp", "5353", []string{"224.0.0.251"}, "other boxes on the LAN", "boxes find each other (mDNS)", closed)
	}
	return append(out, outward(d)...)
}

// outward is whom this box calls.
func outward(d doors) (out []api.Port) {
	pass := "let pass to the outside (most routers do)"
	for _, t := range d.trunks {
		protocol := t.transport
		if protocol == "" {
			protocol = "udp"
		}
		port := "5060"
		if _, p, err := net.SplitHostPort(t.Server); err == nil {
			port = p
		}
		who, router := "provider, trunk "+t.Name, pass
		if t.Via == trunk.LAN {
			who, router = "gateway on the LAN, trunk "+t.Name, "does not pass it"
		}
		out = append(out, api.Port{Way: "out", Protocol: protocol, Port: port, Addrs: []string{t.Server}, Who: who, For: "SIP: calls by this line", Router: router})
		if t.Via != trunk.LAN {
			out = append(out, api.Port{Way: "out", Protocol: "udp", Port: "any", Addrs: []string{"where the provider says"}, Who: who, For: fmt.Sprintf("speech, from our ports %d-%d", d.media[0], d.media[1]), Router: pass})
		}
	}
	ports := map[string][]string{}
	var order []string
	for _, a := range d.dial {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			continue
		}
		if ports[port] == nil {
			order = append(order, port)
		}
		ports[port] = append(ports[port], host)
	}
	for _, port := range order {
		out = append(out, api.Port{Way: "out", Protocol: "tcp", Port: port, Addrs: ports[port], Who: "other boxes of the fleet", For: "mesh", Router: pass})
	}
	return out
}

// routerWords is the whole in a sentence.
func routerWords(ports []api.Port) string {
	var forward []string
	for _, p := range ports {
		if p.Way == "in" && strings.Contains(p.Router, "forward to this box") {
			forward = append(forward, p.Protocol+" "+p.Port)
		}
	}
	if len(forward) == 0 {
		return "On the router towards the Internet nothing has to be opened inwards."
	}
	return "On the router towards the Internet, inwards, as said above: " + strings.Join(forward, ", ") + "; nothing else."
}
