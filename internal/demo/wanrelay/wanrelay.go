// Package wanrelay is the wide area network of a fleet that lives on one
// machine: an ordinary user's process, no root, no kernel rules. Each node has
// an inside address, where it listens, and an outside address, which the
// relay holds and which alone the nodes of other sites are told. What comes in
// at an outside address is carried to the node's inside address with its
// source rewritten likewise, one to one and port for port for UDP, as by a
// router with a static mapping (RFC 4787: endpoint-independent, port
// preserving, hairpinning). On the way it can be counted, cut without a word,
// slowed and delayed.
//
// Its law: what is cut is silent. A cut datagram is gone, a cut TCP connection
// stays open and carries nothing, a new one is taken up by the kernel and
// waits; nobody is told that anything is wrong.
//
// A node is known by its source address, so the nodes must dial and send from
// the address they listen on.
package wanrelay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A Node is one node as the WAN sees it.
type Node struct {
	Site    string     // nodes of one site never pay for what they say to each other
	Inside  netip.Addr // where the node listens and what it sends from
	Outside netip.Addr // what the other sites know it by; held by the relay
	TCP     []uint16   // ports carried over TCP
	UDP     PortRange  // ports carried over UDP, the same number on both sides
}

// A PortRange holds the ports First to Last, both included. Zero holds none.
type PortRange struct{ First, Last uint16 }

func (r PortRange) holds(p uint16) bool { return r.First != 0 && p >= r.First && p <= r.Last }

// Config says which nodes there are. The zero values of the rest are a fast,
// whole network.
type Config struct {
	Nodes []Node
	Delay time.Duration    // one way, between sites
	Log   *slog.Logger     // nil: silent
	Now   func() time.Time // nil: time.Now
}

// ErrConfig is wrapped by every complaint about a Config.
var ErrConfig = errors.New("wanrelay: configuration")

// Validate gathers every complaint.
func (c Config) Validate() error {
	var errs []error
	seen := map[netip.Addr]bool{}
	for _, n := range c.Nodes {
		if n.Site == "" {
			errs = append(errs, fmt.Errorf("%w: node %s has no site", ErrConfig, n.Inside))
		}
		for _, a := range []netip.Addr{n.Inside, n.Outside} {
			switch {
			case !a.IsLoopback():
				errs = append(errs, fmt.Errorf("%w: %s is not a loopback address", ErrConfig, a))
			case seen[a]:
				errs = append(errs, fmt.Errorf("%w: %s is given twice", ErrConfig, a))
			}
			seen[a] = true
		}
		if n.UDP.Last < n.UDP.First {
			errs = append(errs, fmt.Errorf("%w: UDP ports %d-%d of %s", ErrConfig, n.UDP.First, n.UDP.Last, n.Inside))
		}
	}
	return errors.Join(errs...)
}

// A Relay carries what the sites say to each other until Close.
type Relay struct {
	// set at New, then constant
	log    *slog.Logger
	now    func() time.Time
	inside map[netip.Addr]*port
	ways   map[Direction]*way
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex          // guards what follows
	closers map[closer]struct{} // listeners, sockets, connections
	closed  bool
}

type closer interface{ Close() error }

// A port is a node with the sockets the relay holds for it.
type port struct {
	Node
	udp map[uint16]*net.UDPConn // set at New, then constant
}

// A Direction is from one site to another.
type Direction struct{ From, To string }

// New binds every outside address, or none and says which was in use.
func New(cfg Config) (*Relay, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Relay{
		log: cfg.Log, now: cfg.Now,
		inside: map[netip.Addr]*port{}, ways: map[Direction]*way{}, closers: map[closer]struct{}{},
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	for _, a := range cfg.Nodes {
		r.inside[a.Inside] = &port{Node: a, udp: map[uint16]*net.UDPConn{}}
		for _, b := range cfg.Nodes {
			d := Direction{a.Site, b.Site}
			if r.ways[d] == nil {
				delay := cfg.Delay
				if d.From == d.To {
					delay = 0
				}
				r.ways[d] = newWay(delay)
			}
		}
	}
	if err := r.bind(); err != nil {
		r.Close()
		return nil, err
	}
	for _, w := range r.ways {
		r.wg.Go(func() { r.carryUDP(w) }) // ends with ctx
	}
	return r, nil
}

func (r *Relay) bind() error {
	for _, p := range r.inside {
		for _, tcp := range p.TCP {
			at := netip.AddrPortFrom(p.Outside, tcp)
			l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
			if err != nil {
				return fmt.Errorf("hold %s for site %s: %w", at, p.Site, err)
			}
			r.keep(l)
			r.wg.Go(func() { r.accept(l, p, tcp) }) // ends when l closes
		}
		if p.UDP.First == 0 {
			continue
		}
		for n := int(p.UDP.First); n <= int(p.UDP.Last); n++ {
			at := netip.AddrPortFrom(p.Outside, uint16(n))
			c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
			if err != nil {
				return fmt.Errorf("hold %s for site %s: %w", at, p.Site, err)
			}
			r.keep(c)
			p.udp[uint16(n)] = c
		}
	}
	for _, p := range r.inside {
		for n, c := range p.udp {
			r.wg.Go(func() { r.readUDP(c, p, n) }) // ends when c closes
		}
	}
	return nil
}

// keep remembers c for Close. It is false, and c closed, when Close was first.
func (r *Relay) keep(c closer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		c.Close()
		return false
	}
	r.closers[c] = struct{}{}
	return true
}

func (r *Relay) drop(c closer) {
	r.mu.Lock()
	delete(r.closers, c)
	r.mu.Unlock()
	c.Close()
}

// Close ends every connection and gives the addresses back. It returns when
// no goroutine of the relay is left.
func (r *Relay) Close() {
	r.mu.Lock()
	r.closed = true
	for c := range r.closers {
		c.Close()
	}
	clear(r.closers)
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}
