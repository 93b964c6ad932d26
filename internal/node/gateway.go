package node

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/provision"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
)

// GatewaySheet implements api.Gateways.
func (b *backend) GatewaySheet(_ context.Context, who, model string) (api.GatewaySheet, error) {
	n := b.n
	t, err := state.Named[site.Trunk](n.state, who)
	if err != nil {
		return api.GatewaySheet{}, refuse(err)
	}
	own := n.state.Own()
	g := provision.Gateway{Trunk: t.Name, Number: strings.TrimPrefix(cmp.Or(t.Number, own.Number), "+"), Port: 5060, Emergency: strings.Join(own.Emergency, ", ")}
	if own.Country != "" {
		g.Country = "the country with +" + own.Country
	}
	if _, port, err := net.SplitHostPort(t.Server); err == nil { // else the usual one
		if p, err := strconv.Atoi(port); err == nil {
			g.Port = p
		}
	}
	host, _, err := net.SplitHostPort(t.Server)
	if err != nil {
		host = t.Server
	}
	g.Boxes = n.boxesFor(host)
	text, err := g.Sheet(model)
	if err != nil {
		return api.GatewaySheet{}, api.Invalid(err.Error(), "the line's number: ccnode trunk set "+t.Name+" --number +33...")
	}
	return api.GatewaySheet{Model: model, Text: text}, nil
}

// boxesFor are the SIP addresses of the site's boxes, of each the one nearest
// to a host on the LAN: in the same 256 addresses, if there is one.
func (n *Node) boxesFor(host string) (out []netip.AddrPort) {
	near, err := netip.ParseAddr(host)
	var lan netip.Prefix
	if err == nil && near.Is4() {
		lan, _ = near.Prefix(24)
	}
	for _, x := range n.state.Nodes(n.member.Site) {
		var best netip.AddrPort
		for _, s := range x.SIP {
			at, err := netip.ParseAddrPort(s)
			if err == nil && (!best.IsValid() || lan.IsValid() && lan.Contains(at.Addr()) && !lan.Contains(best.Addr())) {
				best = at
			}
		}
		if best.IsValid() {
			out = append(out, best)
		}
	}
	return out
}
