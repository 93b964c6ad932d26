package node

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/trunk"
)

// facts are what judge goes by: gathered once, for one examination.
type facts struct {
	now    time.Time
	floor  time.Time // a clock before it was never set
	synced bool      // somebody disciplines the clock (adjtimex)

	listen []netip.Addr   // addresses this box was told to serve
	own    []netip.Prefix // addresses the interfaces have now
	before []string       // SIP addresses this box had said before this start
	said   []string       // and says now

	trunks []trunkFact
	waived string // who accepted that there is no way out without the Internet

	peers  []peerFact
	phones []phoneFact

	strangers []netip.Addr // in other networks; were refused settings
}

type trunkFact struct {
	trunk.State
	transport string // udp or tcp
	probe     probe  // of a trunk on UDP that never answered
	probeWhy  string
}

// probe is what an attempt to open a TCP connection to a silent server showed.
type probe uint8

const (
	notProbed  probe = iota
	tcpOpen          // it takes a connection on the same port
	tcpRefused       // its host answers, that nobody listens there
	tcpSilent        // nothing came back
	noSuchName       // the name was not found
	noWayOut         // our own system or router knows no way there
)

type peerFact struct {
	name   string
	site   string // code
	here   bool   // of our own site
	reach  bool   // linked now
	since  time.Time
	why    string
	heard  time.Time     // zero: never
	ahead  time.Duration // its clock before ours
	dialed bool          // it has an address to be dialled at
}

type phoneFact struct {
	aor    string
	source netip.AddrPort
	nat    bool
}

// Doctor implements api.Diagnostician.
func (b *backend) Doctor(ctx context.Context) api.Doctor {
	n := b.n
	f := n.facts(ctx)
	ports := firewall(n.doors())
	return api.Doctor{At: f.now, Node: n.nodeName(n.id.Node()), Findings: judge(f), Ports: ports, Router: routerWords(ports)}
}

// facts looks at everything judge wants to know. It waits for the network only
// where a trunk has never answered.
func (n *Node) facts(ctx context.Context) facts {
	f := facts{now: n.now(), floor: clockFloor, synced: n.synced(), listen: n.cfg.Listen, before: n.before, waived: n.shop().Waived}
	if n.opt.World == nil {
		f.own = ownPrefixes()
	}
	if n.calls != nil && n.calls.sip != nil {
		f.said = n.calls.sip.Addrs()
		transport := map[string]string{}
		for _, t := range n.trunkRecords() {
			transport[t.Name] = cmp.Or(t.Transport, "udp")
		}
		if ts := n.calls.sip.Trunks(); ts != nil {
			for _, s := range ts.States() {
				f.trunks = append(f.trunks, trunkFact{State: s, transport: transport[s.Name]})
			}
			var probes sync.WaitGroup
			for i := range f.trunks {
				if x := &f.trunks[i]; n.opt.World == nil && x.silentUDP() {
					probes.Go(func() { x.probe, x.probeWhy = probeTCP(ctx, x.Server, n.resolver()) }) // ends within probeFor
				}
			}
			probes.Wait()
		}
		for _, b := range n.pair.All() {
			if b.Node == n.id.Node() { // the pair's other node judges its own
				f.phones = append(f.phones, phoneFact{aor: b.AOR.User, source: b.Source, nat: b.NAT})
			}
		}
	}
	for _, p := range n.engine.Status().Peers {
		f.peers = append(f.peers, n.peerFact(p))
	}
	if n.phones != nil {
		f.strangers = n.phones.strangersSeen()
	}
	return f
}

func (n *Node) peerFact(p replica.PeerStatus) peerFact {
	id := site.NodeID(p.Peer)
	x, _ := n.state.Node(id)
	ms := n.mesh.Stats(mesh.PeerID(p.Peer))
	out := peerFact{name: n.nodeName(id), site: n.siteOfNode(id), here: x.Site == n.member.Site, reach: p.Linked, since: p.Failing,
		heard: latest(ms.Heard, p.Heard), ahead: p.Ahead, dialed: len(n.addrsOf(id)) > 0}
	if p.Err != nil {
		out.why = p.Err.Error()
	}
	return out
}

// ownPrefixes are the addresses of this machine, each with its network.
func ownPrefixes() (out []netip.Prefix) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if x, ok := a.(*net.IPNet); ok {
			ip, ok := netip.AddrFromSlice(x.IP)
			bits, _ := x.Mask.Size()
			if ok {
				out = append(out, netip.PrefixFrom(ip.Unmap(), bits))
			}
		}
	}
	return out
}

// silentUDP: asked over UDP, and nothing ever came back.
func (t trunkFact) silentUDP() bool {
	return t.transport == "udp" && t.At.IsZero() && (t.Phase == trunk.NoAnswer || t.Phase == trunk.Trying)
}

// probeFor is how long a probe of a trunk may take.
const probeFor = 2 * time.Second

// probeTCP asks for a TCP connection to a provider's server: whether its host is
// there, when UDP got no answer.
func probeTCP(ctx context.Context, server string, r edge.Resolver) (probe, string) {
	ctx, cancel := context.WithTimeout(ctx, probeFor)
	defer cancel()
	host, port := server, 5060
	if h, p, err := net.SplitHostPort(server); err == nil {
		host = h
		if port, err = strconv.Atoi(p); err != nil {
			return noSuchName, server + " is no address"
		}
	}
	var to netip.AddrPort
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		to = netip.AddrPortFrom(ip, uint16(port))
	} else if dests, err := r.Resolve(ctx, host, port, site.TCP); err != nil {
		return noSuchName, err.Error()
	} else if len(dests) == 0 {
		return noSuchName, "no address of " + server + " was found"
	} else {
		to = dests[0].Addr
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", to.String())
	switch {
	case err == nil:
		c.Close()
		return tcpOpen, to.String() + " took a TCP connection just now"
	case errors.Is(err, syscall.ECONNREFUSED):
		return tcpRefused, "the host " + to.Addr().String() + " is there: it refused TCP on port " + strconv.Itoa(port) + " just now"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return noWayOut, "there is no way to " + to.Addr().String() + " just now: " + err.Error()
	}
	return tcpSilent, to.String() + " did not answer over TCP just now either"
}
