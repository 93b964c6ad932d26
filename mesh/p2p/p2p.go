// Package p2p is the mesh over go-libp2p's Noise and yamux on TCP, made quiet.
//
// One listening port serves everything. Between two nodes there are at most two
// kinds of connection, each dialled when it is first needed and then left open
// and silent: the link, which carries frames, and the signalling connection,
// which carries streams, so that a recording on its way never delays a call.
//
// Quiet means: no yamux keep-alive and no round-trip probes, no kernel
// keep-alive on either side, no identify, ping, relay or discovery. What would
// have noticed a dead connection is done by use: a frame or a stream that is not
// acknowledged within seconds ends its connection.
package p2p

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"

	"carrierclass.net/ccnode/mesh"
)

// Config is what a node's mesh needs.
type Config struct {
	Key      ed25519.PrivateKey
	Listen   []netip.AddrPort
	DialFrom netip.Addr // source of our own connections; zero: the system chooses
	Now      func() time.Time
	Log      *slog.Logger

	// Relay says whether this node carries a connection between two others;
	// nil: never. What it carries is sealed between these two.
	Relay func(from, to mesh.PeerID) bool

	// Timeouts; zero takes the default.
	DialTimeout time.Duration // 3 s, for connecting and for the handshake each
	AckTimeout  time.Duration // 3 s, plus what the unsent bytes take at 4 kB/s
}

const (
	maxStrangers = 16
	// Connections that have not proven who they are: in all, and from one
	// address, so that nobody alone can keep the members out.
	maxHandshakes  = 256
	maxFromAddress = 16
	// maxSessions bounds the signalling connections of one peer. More than two
	// means that it was cut off without a word: the oldest goes.
	maxSessions = 8

	queueLimit    = 8 << 20 // bytes waiting for one link
	receivedLimit = 4 << 20 // bytes received and not taken by the reader of the events
	bulkWindow    = 16 << 10
	raceWindow    = 5 * time.Second
	tryDirect     = time.Hour // while a link over a relay is used, the peer's addresses are tried again

	// stagger is how long one address of a peer may keep silent before the next
	// one is tried beside it (RFC 8305).
	stagger = 300 * time.Millisecond
	// again is how soon after a failed dial a frame may cause the next one.
	// Whoever is owed something has longer pauses of his own, and calls Dial.
	again = time.Second
)

// Kinds of connection, said in the first byte after the handshake.
const (
	kindLink    = 'L'
	kindStreams = 'S'
)

// Mesh implements mesh.Mesh.
type Mesh struct {
	cfg       Config
	id        mesh.PeerID
	noise     *noise.SessionTransport
	mux       *yamux.Transport
	listeners []net.Listener

	mu        sync.Mutex
	peers     map[mesh.PeerID]*peer // admitted
	strangers int
	handlers  map[string]handler
	closed    bool
	open      map[io.Closer]bool // everything Close must close

	queue  []queued
	queued int // bytes of received frames in queue
	wake   chan struct{}
	room   *sync.Cond // queue became shorter, on mu
	events chan mesh.Event

	in, out    atomic.Int64
	handshakes map[netip.Addr]int // connections that have not proven who they are, by source; on mu
	unproven   int                // their number; on mu
	strange    map[netip.Addr]int // strangers' connections by source; on mu
	ctx        context.Context
	cancel     context.CancelFunc
	wg         sync.WaitGroup
}

// queued is an event on its way to the reader; link is set with LinkUp.
type queued struct {
	mesh.Event
	link *link
}

type handler struct {
	fn        func(mesh.Stream)
	strangers bool
}

// peer is what we know of one admitted node; guarded by Mesh.mu.
type peer struct {
	mesh.Peer
	link     *link
	told     *link // the one whose LinkUp the reader of the events has
	dialing  bool
	failedAt time.Time // when a dial failed last; zero: since then one worked
	sessions []*session
	opening  chan struct{} // a signalling connection is being dialled; closed when done
	openErr  error
	relayed  int       // connections it has through us
	direct   bool      // while a link over a relay stands, its addresses are tried
	triedAt  time.Time // when that was begun last
	stats    mesh.Stats
	in, out  *atomic.Int64
}

// New binds the listeners and starts serving.
func New(cfg Config) (*Mesh, error) {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 3 * time.Second
	}
	if cfg.AckTimeout == 0 {
		cfg.AckTimeout = 3 * time.Second
	}
	priv, err := crypto.UnmarshalEd25519PrivateKey(cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("read the node's key: %w", err)
	}
	nt, err := noise.New(noise.ID, priv, nil)
	if err != nil {
		return nil, fmt.Errorf("set up Noise: %w", err)
	}
	// The peer's key is compared by us, after the handshake: what we know of a
	// peer is the hash of it.
	st, err := nt.WithSessionOptions(noise.DisablePeerIDCheck(), noise.Prologue([]byte("ccnode mesh 1")))
	if err != nil {
		return nil, fmt.Errorf("set up Noise: %w", err)
	}
	mux := *yamux.DefaultTransport
	mux.EnableKeepAlive = false
	mux.MeasureRTTInterval = 10 * 365 * 24 * time.Hour
	mux.MaxStreamWindowSize = 1 << 20
	mux.MaxIncomingStreams = 256
	ctx, cancel := context.WithCancel(context.Background())
	m := &Mesh{cfg: cfg, id: PeerID(cfg.Key.Public().(ed25519.PublicKey)), noise: st, mux: &mux,
		peers: map[mesh.PeerID]*peer{}, handlers: map[string]handler{}, open: map[io.Closer]bool{},
		wake: make(chan struct{}, 1), events: make(chan mesh.Event), handshakes: map[netip.Addr]int{}, strange: map[netip.Addr]int{},
		ctx: ctx, cancel: cancel}
	m.room = sync.NewCond(&m.mu)
	for _, a := range cfg.Listen {
		lc := net.ListenConfig{KeepAlive: -1, KeepAliveConfig: net.KeepAliveConfig{Enable: false}}
		l, err := lc.Listen(ctx, "tcp", a.String())
		if err != nil {
			for _, l := range m.listeners {
				l.Close()
			}
			cancel()
			return nil, err
		}
		m.listeners = append(m.listeners, l)
	}
	m.handlers[relayProtocol] = handler{m.relay, false}
	m.handlers[relayedProtocol] = handler{m.relayed, false}
	m.wg.Go(m.deliver)
	for _, l := range m.listeners {
		m.wg.Go(func() { m.accept(l) })
	}
	return m, nil
}

// PeerID names the holder of an Ed25519 key.
func PeerID(pub ed25519.PublicKey) (id mesh.PeerID) {
	sum := sha256.Sum256(pub)
	copy(id[:], sum[:])
	return id
}

// ID is our own name.
func (m *Mesh) ID() mesh.PeerID { return m.id }

// Addrs lists the bound addresses.
func (m *Mesh) Addrs() (out []netip.AddrPort) {
	for _, l := range m.listeners {
		if a, ok := l.Addr().(*net.TCPAddr); ok {
			out = append(out, a.AddrPort())
		}
	}
	return out
}

// Events implements mesh.Mesh.
func (m *Mesh) Events() <-chan mesh.Event { return m.events }

func (m *Mesh) deliver() {
	defer close(m.events)
	for {
		m.mu.Lock()
		var ev mesh.Event
		have := len(m.queue) > 0
		if have {
			q := m.queue[0]
			m.queue[0] = queued{}
			ev, m.queue = q.Event, m.queue[1:]
			m.queued -= len(ev.Body)
			if p := m.peers[ev.Peer]; p != nil && q.link != nil {
				p.told = q.link
			}
			m.room.Broadcast()
		}
		m.mu.Unlock()
		if !have {
			select {
			case <-m.wake:
			case <-m.ctx.Done():
				return
			}
			continue
		}
		select {
		case m.events <- ev:
		case <-m.ctx.Done():
			return
		}
	}
}

// post queues an event; mu is held.
func (m *Mesh) post(ev mesh.Event, l *link) {
	if m.closed {
		return
	}
	m.queue = append(m.queue, queued{ev, l})
	m.queued += len(ev.Body)
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Admit implements mesh.Mesh.
func (m *Mesh) Admit(peers []mesh.Peer) {
	m.mu.Lock()
	var shut []io.Closer
	old := m.peers
	m.peers = map[mesh.PeerID]*peer{}
	for _, p := range peers {
		if p.ID == m.id {
			continue
		}
		x := old[p.ID]
		if x == nil {
			x = &peer{in: &atomic.Int64{}, out: &atomic.Int64{}}
		}
		if slices.ContainsFunc(p.Addrs, func(a string) bool { return !slices.Contains(x.Addrs, a) }) {
			x.triedAt = time.Time{}
		}
		x.ID, x.Addrs, x.Via = p.ID, p.Addrs, p.Via
		m.peers[p.ID] = x
		delete(old, p.ID)
		m.straighten(x)
	}
	for _, x := range old {
		if x.link != nil {
			shut = append(shut, m.downLocked(x, mesh.ErrUnknownPeer))
		}
		for _, s := range x.sessions {
			shut = append(shut, s)
		}
	}
	m.mu.Unlock()
	for _, c := range shut {
		c.Close()
	}
}

// Handle implements mesh.Mesh.
func (m *Mesh) Handle(protocol string, fn func(mesh.Stream)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.handlers[protocol] = handler{fn, false}
}

// HandleStrangers implements mesh.Mesh.
func (m *Mesh) HandleStrangers(protocol string, fn func(mesh.Stream)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.handlers[protocol] = handler{fn, true}
}

// Stats implements mesh.Mesh.
func (m *Mesh) Stats(id mesh.PeerID) mesh.Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[id]
	if p == nil {
		return mesh.Stats{}
	}
	s := p.stats
	s.In, s.Out, s.Linked = p.in.Load(), p.out.Load(), p.link != nil
	return s
}

// Total implements mesh.Mesh.
func (m *Mesh) Total() (in, out int64) { return m.in.Load(), m.out.Load() }

// Close implements mesh.Mesh.
func (m *Mesh) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	m.cancel()
	var all []io.Closer
	for c := range m.open {
		all = append(all, c)
	}
	m.room.Broadcast()
	m.mu.Unlock()
	for _, l := range m.listeners {
		l.Close()
	}
	for _, c := range all {
		c.Close()
	}
	m.wg.Wait()
	return nil
}

// own registers c to be closed by Close; false if the mesh is closed already.
func (m *Mesh) own(c io.Closer) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.open[c] = true
	return true
}

func (m *Mesh) disown(c io.Closer) {
	m.mu.Lock()
	delete(m.open, c)
	m.mu.Unlock()
}

// Drop implements mesh.Mesh.
func (m *Mesh) Drop(id mesh.PeerID, why error) {
	m.mu.Lock()
	var l io.Closer
	if p := m.peers[id]; p != nil && p.link != nil {
		l = m.downLocked(p, why)
	}
	m.mu.Unlock()
	if l != nil {
		l.Close()
	}
}

// downLocked forgets a peer's link and reports it; the caller closes what it
// returns, without mu.
func (m *Mesh) downLocked(p *peer, why error) io.Closer {
	l := p.link
	p.link = nil
	l.why = why
	m.failed(p, why)
	m.room.Broadcast() // its reader may wait
	return l
}

func (m *Mesh) failed(p *peer, why error) {
	p.stats.Failed, p.stats.Err = m.cfg.Now(), why
	m.post(mesh.Event{Kind: mesh.LinkDown, Peer: p.ID, Err: why}, nil)
}

// Send implements mesh.Mesh. A link counts from the moment its LinkUp was
// handed over: what was meant for an earlier one is dropped.
func (m *Mesh) Send(f mesh.Frame) {
	m.mu.Lock()
	p := m.peers[f.Peer]
	switch {
	case m.closed:
		m.mu.Unlock()
	case p == nil:
		m.mu.Unlock()
		m.Dial(f.Peer)
	case p.link == nil && !p.failedAt.IsZero() && time.Since(p.failedAt) < again:
		if !m.downQueued(f.Peer) {
			m.failed(p, p.stats.Err)
		}
		m.mu.Unlock()
	case p.link == nil:
		m.mu.Unlock()
		m.Dial(f.Peer)
	case p.link != p.told:
		m.mu.Unlock() // LinkUp follows
	default:
		l := p.link
		m.straighten(p)
		m.mu.Unlock()
		l.send(f)
	}
}

// downQueued says whether the newest event of p that nobody took yet is that it
// is not reached. mu is held.
func (m *Mesh) downQueued(p mesh.PeerID) bool {
	for _, q := range slices.Backward(m.queue) {
		if q.Peer == p {
			return q.Kind == mesh.LinkDown
		}
	}
	return false
}

// JoinHostPort writes an address the way mesh.Peer wants it.
func JoinHostPort(ip netip.Addr, port int) string {
	return net.JoinHostPort(ip.String(), strconv.Itoa(port))
}
