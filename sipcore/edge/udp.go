package edge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// A PacketConn is a datagram socket; *net.UDPConn is one.
type PacketConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
	LocalAddr() net.Addr
	Close() error
}

type packet struct {
	pc    PacketConn
	local netip.AddrPort
}

// readPackets reads one socket until it is closed. A socket that fails
// again and again for another reason ends the Edge, with the reason.
func (e *Edge) readPackets(p *packet) error {
	buf := make([]byte, 65536)
	fails := 0
	for {
		n, src, err := p.pc.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			// ICMP errors of earlier sends come up here; they are no reason to stop.
			if fails++; fails > 1000 {
				return fmt.Errorf("read SIP on udp %s: %w", p.local, err)
			}
			time.Sleep(time.Duration(min(fails, 100)) * time.Millisecond)
			continue
		}
		fails = 0
		src = netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
		raw := buf[:n]
		switch {
		case n < 20: // keep-alive of a phone behind NAT, or noise
			continue
		case n > e.limits.MaxMessage:
			e.cfg.Count("too large")
			continue
		case !e.gate.pass(src.Addr(), raw, e.cfg.Now()):
			e.cfg.Count("over rate")
			continue
		}
		e.receive(raw, &Flow{Transport: site.UDP, Local: p.local, Remote: src, packet: p})
	}
}

// packetFor picks the socket that reaches dst: the one bound to the address
// the kernel would send from, else the first of the same family.
func (e *Edge) packetFor(dst netip.AddrPort, local netip.AddrPort) (*packet, error) {
	if local.IsValid() {
		for _, p := range e.packets {
			if p.local == local {
				return p, nil
			}
		}
		return nil, fmt.Errorf("no SIP socket on udp %s", local)
	}
	ip := dst.Addr()
	e.mu.Lock()
	p := e.routes[ip]
	e.mu.Unlock()
	if p != nil {
		return p, nil
	}
	var fit *packet
	n := 0
	for _, c := range e.packets {
		if c.local.Addr().Is4() == ip.Is4() || c.local.Addr().IsUnspecified() && c.local.Addr().Is6() {
			if fit == nil {
				fit = c
			}
			n++
		}
	}
	if fit == nil {
		return nil, fmt.Errorf("no SIP socket on udp that reaches %s", dst)
	}
	if n > 1 {
		from := sourceFor(dst)
		for _, c := range e.packets {
			if c.local.Addr() == from {
				fit = c
			}
		}
	}
	e.mu.Lock()
	if len(e.routes) >= 4096 {
		clear(e.routes)
	}
	e.routes[ip] = fit
	e.mu.Unlock()
	return fit, nil
}

// sourceFor asks the kernel which address it would send from. Nothing is sent.
func sourceFor(dst netip.AddrPort) netip.Addr {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(dst))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return addrPort(c.LocalAddr()).Addr()
}
