// Package featurestest is what features are tested with: a telephone that
// speaks RTP by itself, a call that joins it to a feature, and a network in
// memory so that minutes pass in no time under testing/synctest. The suites
// here are the same for our features and for a foreign one in their place.
package featurestest

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"carrierclass.net/ccnode/features/media"
)

// A Net is a network in memory: datagrams that arrive at once, or are lost
// when Lose says so or the receiver's queue is full. The zero value works.
type Net struct {
	// Lose decides about each datagram; nil: none is lost. Set before
	// use; called by one goroutine at a time.
	Lose func(from, to netip.AddrPort, b []byte) bool

	mu    sync.Mutex
	conns map[netip.AddrPort]*conn
	last  uint16
}

type datagram struct {
	from netip.AddrPort
	b    []byte
}

type conn struct {
	net    *Net
	at     netip.AddrPort
	in     chan datagram
	closed chan struct{}
	once   sync.Once
}

// Listen binds an address; port 0 is any free one. It is a media.Config.Listen.
func (n *Net) Listen(at netip.AddrPort) (media.PacketConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns == nil {
		n.conns, n.last = make(map[netip.AddrPort]*conn), 9999
	}
	for at.Port() == 0 || n.conns[at] != nil && at.Port() == n.last {
		n.last++
		at = netip.AddrPortFrom(at.Addr(), n.last)
	}
	if n.conns[at] != nil {
		return nil, fmt.Errorf("listen %s: in use", at)
	}
	c := &conn{net: n, at: at, in: make(chan datagram, 256), closed: make(chan struct{})}
	n.conns[at] = c
	return c, nil
}

func (c *conn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-c.in:
		return copy(b, d.b), d.from, nil
	case <-c.closed:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (c *conn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
	}
	c.net.mu.Lock()
	lost := c.net.Lose != nil && c.net.Lose(c.at, to, b)
	d := c.net.conns[to]
	c.net.mu.Unlock()
	if lost {
		return len(b), nil
	}
	if d != nil {
		select {
		case d.in <- datagram{c.at, append([]byte(nil), b...)}:
		default:
		}
	}
	return len(b), nil
}

func (c *conn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.at) }

func (c *conn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.net.mu.Lock()
		delete(c.net.conns, c.at)
		c.net.mu.Unlock()
	})
	return nil
}

// Loopback binds a real socket.
func Loopback(at netip.AddrPort) (media.PacketConn, error) {
	return net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
}
