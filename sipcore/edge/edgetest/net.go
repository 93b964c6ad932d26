// Package edgetest is a network in memory for tests of SIP: datagram sockets
// and streams that work in testing/synctest, with loss, delay and reordering
// that a seed repeats.
package edgetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A Net joins sockets by address. The zero Fate loses and delays nothing.
type Net struct {
	mu      sync.Mutex
	sockets map[netip.AddrPort]*Socket
	lns     map[netip.AddrPort]*Listener
	next    uint16

	// Fate decides about each datagram: whether it is lost, and after how long
	// it arrives. nil: at once. Called with the Net's lock held.
	Fate func(from, to netip.AddrPort, b []byte) (lost bool, after time.Duration)
	// Tap sees each datagram that is sent, lost or not.
	Tap func(from, to netip.AddrPort, b []byte)
}

// New makes an empty network.
func New() *Net {
	return &Net{sockets: map[netip.AddrPort]*Socket{}, lns: map[netip.AddrPort]*Listener{}, next: 40000}
}

// Random is a Fate: loss in [0,1), delay up to jitter, by seed.
func Random(seed uint64, loss float64, jitter time.Duration) func(_, _ netip.AddrPort, _ []byte) (bool, time.Duration) {
	r := rand.New(rand.NewPCG(seed, 0))
	return func(netip.AddrPort, netip.AddrPort, []byte) (bool, time.Duration) {
		lost := r.Float64() < loss
		if jitter == 0 {
			return lost, 0
		}
		return lost, time.Duration(r.Int64N(int64(jitter)))
	}
}

// A Socket is an edge.PacketConn.
type Socket struct {
	net   *Net
	local netip.AddrPort
	in    chan datagram
	once  sync.Once
	done  chan struct{}
}

type datagram struct {
	from netip.AddrPort
	b    []byte
}

// UDP binds a socket at addr ("10.0.0.1:5060").
func (n *Net) UDP(addr string) *Socket {
	s := &Socket{net: n, local: netip.MustParseAddrPort(addr), in: make(chan datagram, 4096), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.sockets[s.local] != nil {
		panic("edgetest: " + addr + " is in use")
	}
	n.sockets[s.local] = s
	return s
}

// Listen is UDP with an address that can be in use; port 0 is any free one.
func (n *Net) Listen(at netip.AddrPort) (*Socket, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for at.Port() == 0 || at.Port() == n.next && n.sockets[at] != nil {
		n.next++
		at = netip.AddrPortFrom(at.Addr(), n.next)
	}
	if n.sockets[at] != nil {
		return nil, fmt.Errorf("listen on %s: address already in use", at)
	}
	s := &Socket{net: n, local: at, in: make(chan datagram, 4096), done: make(chan struct{})}
	n.sockets[at] = s
	return s, nil
}

// ReadFromUDPAddrPort waits for a datagram.
func (s *Socket) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-s.in:
		return copy(b, d.b), d.from, nil
	case <-s.done:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

// WriteToUDPAddrPort sends a datagram; to nobody it is lost.
func (s *Socket) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	select {
	case <-s.done:
		return 0, net.ErrClosed
	default:
	}
	n := s.net
	d := datagram{s.local, append([]byte(nil), b...)}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.Tap != nil {
		n.Tap(s.local, to, d.b)
	}
	lost, after := false, time.Duration(0)
	if n.Fate != nil {
		lost, after = n.Fate(s.local, to, d.b)
	}
	switch {
	case lost:
	case after <= 0:
		n.deliver(to, d)
	default:
		time.AfterFunc(after, func() {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.deliver(to, d)
		})
	}
	return len(b), nil
}

func (n *Net) deliver(to netip.AddrPort, d datagram) {
	if s := n.sockets[to]; s != nil {
		select {
		case s.in <- d:
		default: // its buffer is full, as in life
		}
	}
}

// LocalAddr is where the socket is bound.
func (s *Socket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.local) }

// Close frees the address.
func (s *Socket) Close() error {
	s.once.Do(func() {
		close(s.done)
		s.net.mu.Lock()
		delete(s.net.sockets, s.local)
		s.net.mu.Unlock()
	})
	return nil
}

// A Listener takes streams at an address of a Net.
type Listener struct {
	net   *Net
	local netip.AddrPort
	in    chan net.Conn
	once  sync.Once
	done  chan struct{}
}

// TCP listens at addr.
func (n *Net) TCP(addr string) *Listener {
	l := &Listener{net: n, local: netip.MustParseAddrPort(addr), in: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lns[l.local] = l
	return l
}

// Accept waits for Dial.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Addr is where the listener is bound.
func (l *Listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.local) }

// Close frees the address.
func (l *Listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.net.mu.Lock()
		delete(l.net.lns, l.local)
		l.net.mu.Unlock()
	})
	return nil
}

// Dialer makes an edge.DialFunc that connects from host, an IP address.
func (n *Net) Dialer(host string) func(context.Context, netip.AddrPort) (net.Conn, error) {
	ip := netip.MustParseAddr(host)
	return func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		n.mu.Lock()
		l := n.lns[to]
		n.next++
		from := netip.AddrPortFrom(ip, n.next)
		n.mu.Unlock()
		if l == nil {
			return nil, fmt.Errorf("dial %s: connection refused", to)
		}
		a, b := net.Pipe()
		select {
		case l.in <- conn{b, to, from}:
			return conn{a, from, to}, nil
		case <-l.done:
			return nil, fmt.Errorf("dial %s: connection refused", to)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

type conn struct {
	net.Conn
	local, remote netip.AddrPort
}

func (c conn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }
