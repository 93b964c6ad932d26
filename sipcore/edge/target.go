package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/message"
)

// A Resolver finds the addresses of a named host, best first (RFC 3263). port
// is 0 and t "" where the URI does not say.
type Resolver interface {
	Resolve(ctx context.Context, host string, port int, t site.Transport) ([]Dest, error)
}

// HostResolver is a Resolver that knows only addresses (A and AAAA), with the
// default port and transport; the whole of RFC 3263 is a room of its own.
type HostResolver struct{ DNS *net.Resolver } // nil: the system's

// Resolve looks the host up.
func (r HostResolver) Resolve(ctx context.Context, host string, port int, t site.Transport) ([]Dest, error) {
	dns := r.DNS
	if dns == nil {
		dns = net.DefaultResolver
	}
	addrs, err := dns.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("find SIP server %s: %w", host, err)
	}
	var out []Dest
	for _, a := range addrs {
		out = append(out, at(a, port, t))
	}
	return out, nil
}

func at(a netip.Addr, port int, t site.Transport) Dest {
	if t == "" {
		t = site.UDP
	}
	if port == 0 {
		port = 5060
		if t == site.TLS {
			port = 5061
		}
	}
	return Dest{Transport: t, Addr: netip.AddrPortFrom(a.Unmap(), uint16(port))}
}

// Target lists where a request for uri can be sent: the address in it, or what
// r finds for its name (RFC 3263 §4). maddr is not obeyed: it would send our
// requests wherever a stranger writes.
func Target(ctx context.Context, uri *sip.Uri, r Resolver) ([]Dest, error) {
	if uri.Scheme != "sip" && uri.Scheme != "sips" {
		return nil, fmt.Errorf("target of %s: not a SIP URI", uri.String())
	}
	t := site.Transport(strings.ToLower(uri.UriParams.GetOr("transport", "")))
	switch t {
	case "", site.UDP, site.TCP, site.TLS:
	default:
		return nil, fmt.Errorf("target of %s: transport %q is not served", uri.String(), t)
	}
	if uri.Scheme == "sips" {
		t = site.TLS // RFC 5630 §3.1: whatever the parameter says
	}
	if a, ok := message.Addr(uri.Host); ok {
		if a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return nil, fmt.Errorf("target of %s: not the address of a host", uri.String())
		}
		return []Dest{at(a, uri.Port, t)}, nil
	}
	if r == nil {
		return nil, fmt.Errorf("target of %s: %w", uri.String(), errNoResolver)
	}
	return r.Resolve(ctx, uri.Host, uri.Port, t)
}

var errNoResolver = errors.New("no resolver for host names")
