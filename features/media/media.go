// Package media is the sound of a call: RTP and RTCP ports (RFC 3550), session
// descriptions (RFC 8866, offer and answer of RFC 3264), a relay between two
// legs, and sessions that play, record and understand keys (RFC 4733).
//
// Its law: nothing that arrives on a socket can crash it, block it, or make it
// send to a stranger; and whatever it starts ends with Close.
package media

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// A PacketConn is the part of *net.UDPConn that a port uses. Tests hand in
// connections of their own.
type PacketConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	LocalAddr() net.Addr
	Close() error
}

// Config of an Engine. Now, Rand and Logger are required.
type Config struct {
	// PortMin and PortMax bound the RTP and RTCP ports; an RTP port is even,
	// its RTCP port the odd one above (RFC 3550 §11). Both 0: any free pair.
	PortMin, PortMax uint16

	// Drain is how long the sockets of a closed port stay bound and are read
	// empty, so that the next call does not hear the last one. Default 3 s.
	Drain time.Duration

	// Report is the mean time between RTCP reports (RFC 3550 §6.2). Default 5 s.
	Report time.Duration

	Now    func() time.Time
	Rand   io.Reader
	Logger *slog.Logger

	// Listen binds a UDP socket. Default: net.ListenUDP.
	Listen func(netip.AddrPort) (PacketConn, error)
}

// Validate reports every complaint at once.
func (c Config) Validate() error {
	var errs []error
	if c.PortMax < c.PortMin || (c.PortMin == 0) != (c.PortMax == 0) {
		errs = append(errs, fmt.Errorf("media ports %d–%d: want a range, or 0–0 for any", c.PortMin, c.PortMax))
	} else if c.PortMin != 0 && c.PortMax-c.PortMin < 3 {
		errs = append(errs, fmt.Errorf("media ports %d–%d: a call needs four", c.PortMin, c.PortMax))
	}
	if c.Drain < 0 || c.Report < 0 {
		errs = append(errs, errors.New("media: Drain and Report may not be negative"))
	}
	if c.Now == nil || c.Rand == nil || c.Logger == nil {
		errs = append(errs, errors.New("media: Now, Rand and Logger are required"))
	}
	return errors.Join(errs...)
}

// An Engine owns the media ports of one node.
type Engine struct {
	// set at New, then constant
	cfg Config

	// guarded by mu
	mu       sync.Mutex
	rand     io.Reader
	closed   bool
	ports    map[*Port]struct{} // open or draining
	draining []*Port            // oldest first
	next     uint16             // where the search for a free port goes on

	topology sync.Mutex // guards who is bridged with whom; taken before Port.mu
	wg       sync.WaitGroup
}

// New makes an engine; it opens nothing until a port is wanted.
func New(cfg Config) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Drain == 0 {
		cfg.Drain = 3 * time.Second
	}
	if cfg.Report == 0 {
		cfg.Report = 5 * time.Second
	}
	if cfg.Listen == nil {
		cfg.Listen = listenUDP
	}
	e := &Engine{cfg: cfg, rand: cfg.Rand, ports: make(map[*Port]struct{})}
	if cfg.PortMin != 0 {
		e.next = uint16(e.random() % uint64(cfg.PortMax-cfg.PortMin)) // #nosec G115: below 65536
	}
	return e, nil
}

// Close ends all ports at once, without draining, and waits for their readers.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	ports := make([]*Port, 0, len(e.ports))
	for p := range e.ports {
		ports = append(ports, p)
	}
	e.mu.Unlock()
	for _, p := range ports {
		_ = p.Close()
		p.release()
	}
	e.wg.Wait()
	return nil
}

// PortParams say where a leg's media will come from.
type PortParams struct {
	Chain string     // chain id of the call, for logs and records
	Local netip.Addr // the address the other end of the leg sees us at
	Peer  bool       // the other end is another node of the fleet; treated alike so far
}

// NewPort opens one leg's media endpoint: a pair of sockets. The caller must
// Close it. A used-up range gives an error that matches site.NodeFull.
func (e *Engine) NewPort(p PortParams) (*Port, error) {
	if !p.Local.IsValid() || p.Local.IsMulticast() || p.Local.IsUnspecified() {
		return nil, fmt.Errorf("open media port: %v is no address a phone can send to", p.Local)
	}
	p.Local = p.Local.Unmap()
	rtp, rtcp, err := e.bind(p.Local)
	if err != nil {
		return nil, fmt.Errorf("open media port at %s: %w", p.Local, err)
	}
	port := newPort(e, p, rtp, rtcp)
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		_, _ = rtp.Close(), rtcp.Close()
		return nil, errors.New("open media port: the media engine is closed")
	}
	e.ports[port] = struct{}{}
	e.wg.Add(2)
	e.mu.Unlock()
	go func() { defer e.wg.Done(); port.readRTP() }()  // ends when the socket closes: release
	go func() { defer e.wg.Done(); port.readRTCP() }() // the same
	port.startReports()
	return port, nil
}

// Bridge relays between a and b, both ways, until one is closed, bridged
// elsewhere, or unbridged by Bridge(a, nil). What a and b were bridged with
// before falls silent.
func (e *Engine) Bridge(a, b *Port) error {
	if a == nil || a == b {
		return errors.New("bridge: two different ports are needed")
	}
	e.topology.Lock()
	defer e.topology.Unlock()
	if a.isClosed() || (b != nil && b.isClosed()) {
		return fmt.Errorf("bridge: %w", net.ErrClosed)
	}
	a.unlink()
	if b == nil {
		return nil
	}
	b.unlink()
	a.peer, b.peer = b, a
	a.link()
	return nil
}

// Ports counts open ports and those that still drain.
func (e *Engine) Ports() (open, draining int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.ports) - len(e.draining), len(e.draining)
}

func listenUDP(at netip.AddrPort) (PacketConn, error) {
	network := "udp4"
	if at.Addr().Is6() {
		network = "udp6"
	}
	c, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(at))
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		// The address we are seen at is not on this machine: a NAT that
		// forwards the range to us. Everywhere, then.
		any := netip.IPv4Unspecified()
		if at.Addr().Is6() {
			any = netip.IPv6Unspecified()
		}
		c, err = net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(any, at.Port())))
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// bind opens an even port and the odd one above it. When the range is used up
// the port that has drained longest is given up for it.
func (e *Engine) bind(local netip.Addr) (rtp, rtcp PacketConn, err error) {
	for {
		if rtp, rtcp, err = e.search(local); err == nil {
			return rtp, rtcp, nil
		}
		e.mu.Lock()
		i := slices.IndexFunc(e.draining, func(p *Port) bool { return p.params.Local == local })
		if i < 0 {
			e.mu.Unlock()
			return nil, nil, err
		}
		oldest := e.draining[i]
		e.mu.Unlock()
		oldest.release()
	}
}

func (e *Engine) search(local netip.Addr) (rtp, rtcp PacketConn, err error) {
	if e.cfg.PortMin == 0 {
		for range 64 {
			if rtp, err = e.cfg.Listen(netip.AddrPortFrom(local, 0)); err != nil {
				return nil, nil, err
			}
			port := portOf(rtp)
			if port%2 == 0 {
				if rtcp, err = e.cfg.Listen(netip.AddrPortFrom(local, port+1)); err == nil {
					return rtp, rtcp, nil
				}
			}
			_ = rtp.Close()
		}
		return nil, nil, fmt.Errorf("no free pair of ports: %w", site.NodeFull)
	}
	first := (int(e.cfg.PortMin) + 1) &^ 1
	pairs := (int(e.cfg.PortMax) - first + 1) / 2
	e.mu.Lock()
	start := int(e.next)
	e.mu.Unlock()
	for i := range pairs {
		port := uint16(first + 2*((start+i)%pairs)) // #nosec G115: within the range
		if rtp, err = e.cfg.Listen(netip.AddrPortFrom(local, port)); err != nil {
			continue
		}
		if rtcp, err = e.cfg.Listen(netip.AddrPortFrom(local, port+1)); err != nil {
			_ = rtp.Close()
			continue
		}
		e.mu.Lock()
		e.next = uint16((start + i + 1) % pairs) // #nosec G115: below 32768
		e.mu.Unlock()
		return rtp, rtcp, nil
	}
	return nil, nil, fmt.Errorf("all ports %d–%d are in use (%w): %w", e.cfg.PortMin, e.cfg.PortMax, site.NodeFull, err)
}

func portOf(c PacketConn) uint16 {
	if a, ok := c.LocalAddr().(interface{ AddrPort() netip.AddrPort }); ok {
		return a.AddrPort().Port()
	}
	return 0
}

// random draws 64 bits. A broken source gives zeros: calls go on with numbers
// that can be guessed, which the latch bounds.
func (e *Engine) random() uint64 {
	var b [8]byte
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, err := io.ReadFull(e.rand, b[:]); err != nil {
		e.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "Media has no randomness", slog.Any("err", err))
	}
	return binary.BigEndian.Uint64(b[:])
}
