// Package edge is where SIP enters and leaves the node: its listeners on UDP
// and TCP, the signalling streams from other nodes of the fleet, and the gate
// every message passes before anybody else sees it. Early drop, caps and
// deadlines; message.Parse; a stateless answer to what is malformed; a recover
// round every handler.
//
// Its law: what leaves for somebody goes to that somebody. A request goes out
// on a Flow, which is a named thing, or from our UDP socket, or on a connection
// this node dialled for that address. Never on a connection that happens to
// have come from there.
//
// RFC 3261 §18, RFC 3581, RFC 5626 §4.4.1 (keep-alive).
//
// In use:
//
//	e, err := edge.New(edge.Config{Listen: …, Logger: log})
//	err = e.Listen()                    // binds; e.Addrs says where
//	l := transaction.New(transaction.Config{Edge: e, OnRequest: …})
//	err = e.Serve(ctx, l)               // until ctx ends
//
// HandleRequest and HandleResponse are called on the goroutine that reads the
// socket: they must not block.
package edge

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
)

// Config says what an Edge listens on and what it puts up with. Only Listen
// (or AddPacket, AddListener) is needed; the rest has defaults.
type Config struct {
	Listen    []Listen
	Node      site.NodeID        // our name towards other nodes
	Peers     sipcore.Peers      // opens streams to other nodes; nil: none
	Supported []string           // option-tags understood in Require; others get 420
	Limits    Limits             // zero fields take DefaultLimits
	Logger    *slog.Logger       // default: discards
	Now       func() time.Time   // default time.Now
	Rand      io.Reader          // default crypto/rand.Reader; flow names and tags
	Dial      DialFunc           // default net.Dialer; TCP towards others
	Count     func(event string) // counts drops and refusals; may be nil, must not block
}

// Listen is one address to listen on. Port 0 picks one. Name each address of
// the machine: on an unspecified one the kernel may answer from another address
// than it was asked at.
type Listen struct {
	Transport site.Transport // site.UDP or site.TCP
	Addr      netip.AddrPort
}

// DialFunc opens a stream to addr from a local port of its own.
type DialFunc func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)

// A Handler takes what passed the gate. Both are called on the goroutine
// that reads the socket and must not block. A panic is recovered, logged, and
// answered 500.
type Handler interface {
	// HandleRequest takes one request; the topmost Via already says where it
	// came from. raw is the message as received, valid only during the call.
	HandleRequest(req *sip.Request, f *Flow, raw []byte)
	HandleResponse(res *sip.Response, f *Flow)
}

// A FlowHandler is a Handler that wants to know when a connection has ended.
// It must not block.
type FlowHandler interface{ FlowClosed(f *Flow) }

// An Edge owns the node's SIP sockets.
type Edge struct {
	cfg     Config
	limits  Limits
	log     *slog.Logger
	gate    *gate
	macs    sync.Pool     // of hash.Hash, for stateless To tags
	handler Handler       // set before started is closed
	started chan struct{} // closed by Serve
	wg      sync.WaitGroup

	mu       sync.Mutex
	packets  []*packet              // constant once Serve runs
	lns      []listener             // constant once Serve runs
	streams  map[string]*Flow       // by Name
	dialled  map[destKey]*Flow      // connections we opened
	dialling map[destKey]*dialling  // and are opening
	peers    map[site.NodeID]*Flow  // newest stream of each node
	perIP    map[netip.Addr]int     // inbound connections
	inbound  int                    // in all
	routes   map[netip.Addr]*packet // which socket reaches whom
	closed   bool
}

type destKey struct {
	transport site.Transport
	addr      netip.AddrPort
	peer      site.NodeID
}

// New checks cfg and makes an Edge that is not yet bound to anything.
func New(cfg Config) (*Edge, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr.String())
		}
	}
	if cfg.Count == nil {
		cfg.Count = func(string) {}
	}
	for _, l := range cfg.Listen {
		if l.Transport != site.UDP && l.Transport != site.TCP {
			return nil, fmt.Errorf("listen on %s %s: transport must be udp or tcp", l.Transport, l.Addr)
		}
	}
	e := &Edge{
		cfg: cfg, limits: cfg.Limits.withDefaults(), log: cfg.Logger,
		streams: map[string]*Flow{}, dialled: map[destKey]*Flow{}, dialling: map[destKey]*dialling{}, started: make(chan struct{}), peers: map[site.NodeID]*Flow{},
		perIP: map[netip.Addr]int{}, routes: map[netip.Addr]*packet{},
	}
	var key [32]byte
	if _, err := io.ReadFull(cfg.Rand, key[:]); err != nil {
		return nil, fmt.Errorf("read random key for SIP tags: %w", err)
	}
	e.macs.New = func() any { return hmac.New(sha256.New, key[:]) }
	e.gate = newGate(e.limits)
	return e, nil
}

// Listen binds every configured address, or none.
func (e *Edge) Listen() error {
	for _, l := range e.cfg.Listen {
		if err := e.bind(l); err != nil {
			for _, p := range e.packets {
				p.pc.Close()
			}
			for _, ln := range e.lns {
				ln.ln.Close()
			}
			e.packets, e.lns = nil, nil
			return err
		}
	}
	return nil
}

func (e *Edge) bind(l Listen) error {
	if l.Transport == site.UDP {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(l.Addr))
		if err != nil {
			return fmt.Errorf("bind SIP on udp %s (another SIP server running, or not an address of this machine?): %w", l.Addr, err)
		}
		c.SetReadBuffer(4 << 20) // best effort: the kernel caps it
		e.AddPacket(c)
		return nil
	}
	ln, err := net.Listen("tcp", l.Addr.String())
	if err != nil {
		return fmt.Errorf("bind SIP on tcp %s (another SIP server running, or not an address of this machine?): %w", l.Addr, err)
	}
	e.AddListener(ln, site.TCP)
	return nil
}

// AddPacket gives the Edge one more datagram socket, before Serve.
func (e *Edge) AddPacket(pc PacketConn) {
	e.packets = append(e.packets, &packet{pc: pc, local: addrPort(pc.LocalAddr())})
}

// AddListener gives the Edge one more stream listener, before Serve; for
// site.TLS and site.WSS it is the caller who wrapped it.
func (e *Edge) AddListener(ln net.Listener, t site.Transport) {
	e.lns = append(e.lns, listener{ln, t, addrPort(ln.Addr())})
}

// Addrs returns the bound addresses, to be told to people and phones.
func (e *Edge) Addrs() []Listen {
	var out []Listen
	for _, p := range e.packets {
		out = append(out, Listen{site.UDP, p.local})
	}
	for _, l := range e.lns {
		out = append(out, Listen{l.transport, l.local})
	}
	return out
}

// Serve reads until ctx ends or a datagram socket fails for good. It closes
// every socket and connection, and returns when no handler runs any more. It is
// called once; what arrives on connections made before waits for it.
func (e *Edge) Serve(ctx context.Context, h Handler) error {
	e.handler = h
	close(e.started)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for _, p := range e.packets {
		e.wg.Go(func() {
			if err := e.readPackets(p); err != nil {
				cancel(err)
			}
		})
	}
	for _, l := range e.lns {
		e.wg.Go(func() { e.accept(ctx, l) })
	}
	<-ctx.Done()
	e.close()
	e.wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (e *Edge) close() {
	e.mu.Lock()
	e.closed = true
	flows := make([]*Flow, 0, len(e.streams))
	for _, f := range e.streams {
		flows = append(flows, f)
	}
	e.mu.Unlock()
	for _, p := range e.packets {
		p.pc.Close()
	}
	for _, l := range e.lns {
		l.ln.Close()
	}
	for _, f := range flows {
		f.stream.close(errClosed)
	}
}

var errClosed = errors.New("SIP edge closed")

// Tag makes the To tag of a stateless response: the same for every
// retransmission of a request (RFC 3261 §8.2.7), and for the ACK that repeats
// an INVITE's branch.
func (e *Edge) Tag(req *sip.Request) string {
	m := e.macs.Get().(hash.Hash)
	defer e.macs.Put(m)
	m.Reset()
	if v := req.Via(); v != nil {
		io.WriteString(m, v.Params.GetOr("branch", ""))
	}
	var num [5]byte
	if c := req.CSeq(); c != nil {
		binary.BigEndian.PutUint32(num[1:], c.SeqNo)
		m.Write(num[:])
		if c.MethodName == sip.ACK {
			io.WriteString(m, string(sip.INVITE))
		} else {
			io.WriteString(m, string(c.MethodName))
		}
	}
	if c := req.CallID(); c != nil {
		m.Write(num[:1])
		io.WriteString(m, string(*c))
	}
	var out [sha256.Size]byte
	return hex.EncodeToString(m.Sum(out[:0])[:8])
}

func (e *Edge) random(n int) string {
	b := make([]byte, n)
	if _, err := io.ReadFull(e.cfg.Rand, b); err != nil {
		panic("no randomness for flow names: " + err.Error())
	}
	return hex.EncodeToString(b)
}

func addrPort(a net.Addr) netip.AddrPort {
	if a, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		p := a.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	if a == nil {
		return netip.AddrPort{}
	}
	p, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
