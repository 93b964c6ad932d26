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
	"errors"
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
	relayed  int // connections it has through us
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
		x.ID, x.Addrs, x.Via = p.ID, p.Addrs, p.Via
		m.peers[p.ID] = x
		delete(old, p.ID)
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

// Dial implements mesh.Mesh.
func (m *Mesh) Dial(id mesh.PeerID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	p := m.peers[id]
	if p == nil {
		m.post(mesh.Event{Kind: mesh.LinkDown, Peer: id, Err: mesh.ErrUnknownPeer}, nil)
		return
	}
	if p.link != nil || p.dialing {
		return
	}
	if len(p.Addrs)+len(p.Via) == 0 {
		m.failed(p, mesh.ErrNoAddress)
		return
	}
	p.dialing = true
	m.wg.Go(func() { m.dialLink(id) })
}

func (m *Mesh) dialLink(id mesh.PeerID) {
	c, err := m.connect(m.ctx, id, kindLink, false)
	m.mu.Lock()
	p := m.peers[id]
	if p != nil {
		p.dialing = false
	}
	if err != nil {
		if p != nil && p.link == nil {
			p.failedAt = time.Now()
			m.failed(p, err)
		}
		m.mu.Unlock()
		return
	}
	m.mu.Unlock()
	m.install(id, c, true)
}

// connect dials, shakes hands, compares the key, and says what the connection
// is for. Relays are tried when no address answers, unless direct is set.
func (m *Mesh) connect(ctx context.Context, id mesh.PeerID, kind byte, direct bool) (*conn, error) {
	m.mu.Lock()
	p := m.peers[id]
	var addrs []string
	var via []mesh.PeerID
	if p != nil {
		if addrs = p.Addrs; !direct {
			via = p.Via
		}
	}
	m.mu.Unlock()
	switch {
	case p == nil:
		return nil, mesh.ErrUnknownPeer
	case len(addrs)+len(via) == 0:
		return nil, mesh.ErrNoAddress
	}
	var errs []error
	if len(addrs) > 0 {
		c, err := m.connectAny(ctx, id, p, addrs)
		if err == nil {
			return c.say(kind)
		}
		errs = append(errs, err)
	}
	for _, r := range via {
		if ctx.Err() != nil {
			break
		}
		c, err := m.connectVia(ctx, id, p, r)
		if err == nil {
			return c.say(kind)
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// say tells the other side what the connection is for. Only then does it count
// there: of two that were dialled side by side, one is used.
func (c *conn) say(kind byte) (*conn, error) {
	c.SetWriteDeadline(time.Now().Add(giveUp * time.Millisecond))
	if _, err := c.Write([]byte{kind}); err != nil {
		c.Close()
		return nil, fmt.Errorf("greet %s: %w", c.peer, err)
	}
	c.SetWriteDeadline(time.Time{})
	return c, nil
}

// connectAny tries the addresses in their order. One that keeps silent does not
// hold up the others: the next is tried beside it after a moment.
func (m *Mesh) connectAny(ctx context.Context, id mesh.PeerID, p *peer, addrs []string) (*conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c   *conn
		err error
	}
	results := make(chan result)
	begin := func(a string) {
		m.wg.Go(func() { // ends with the dial, or with ctx
			c, err := m.connectTo(ctx, id, p, a)
			select {
			case results <- result{c, err}:
			case <-ctx.Done():
				if c != nil {
					c.Close()
				}
			}
		})
	}
	next := time.NewTimer(0)
	defer next.Stop()
	running, errs := 0, []error(nil)
	for running > 0 || len(addrs) > 0 {
		select {
		case <-next.C:
			if len(addrs) > 0 {
				begin(addrs[0])
				running++
				addrs = addrs[1:]
				next.Reset(stagger)
			}
		case r := <-results:
			running--
			if r.err == nil {
				return r.c, nil
			}
			errs = append(errs, r.err)
			next.Reset(0)
		case <-ctx.Done():
			return nil, errors.Join(append(errs, context.Cause(ctx))...)
		}
	}
	return nil, errors.Join(errs...)
}

func (m *Mesh) connectTo(ctx context.Context, id mesh.PeerID, p *peer, addr string) (*conn, error) {
	d := net.Dialer{Timeout: m.cfg.DialTimeout, KeepAlive: -1, Control: userTimeout}
	if ap, err := netip.ParseAddrPort(addr); err == nil && m.cfg.DialFrom.IsValid() && m.cfg.DialFrom.Is4() == ap.Addr().Unmap().Is4() {
		d.LocalAddr = &net.TCPAddr{IP: m.cfg.DialFrom.AsSlice()}
	}
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if tc, ok := raw.(*net.TCPConn); ok {
		patient(tc)
	}
	return m.handshake(ctx, &counter{Conn: raw, m: m, total: true, in: p.in, out: p.out}, id, addr)
}

// handshake proves both ends of an outgoing connection. It closes raw on error.
func (m *Mesh) handshake(ctx context.Context, raw *counter, id mesh.PeerID, addr string) (*conn, error) {
	hctx, cancel := context.WithTimeout(ctx, m.cfg.DialTimeout)
	defer cancel()
	sc, err := m.noise.SecureOutbound(hctx, raw, "")
	if err != nil {
		raw.Close()
		if hctx.Err() != nil {
			err = mesh.ErrSilent
		}
		return nil, fmt.Errorf("shake hands with %s: %w", addr, err)
	}
	c, err := m.secured(sc, raw)
	if err != nil {
		raw.Close()
		return nil, err
	}
	if c.peer != id {
		raw.Close()
		return nil, fmt.Errorf("at %s answers %s, not %s", addr, c.peer, id)
	}
	return c, nil
}

// install makes c the peer's link, unless two were made at once and the other
// one is to stay: the one that the lower id dialled.
func (m *Mesh) install(id mesh.PeerID, c *conn, ours bool) {
	now := m.cfg.Now()
	m.mu.Lock()
	p := m.peers[id]
	if p == nil || m.closed {
		m.mu.Unlock()
		c.Close()
		return
	}
	var old io.Closer
	if cur := p.link; cur != nil {
		lower := string(m.id[:]) < string(id[:])
		if cur.ours != ours && now.Sub(cur.since) < raceWindow && cur.ours == lower {
			m.mu.Unlock()
			c.Close()
			return
		}
		old = m.downLocked(p, errors.New("replaced by a new link"))
	}
	l := newLink(m, p, c, ours, now)
	p.link = l
	m.open[l] = true
	p.failedAt = time.Time{}
	p.stats.Heard, p.stats.Failed, p.stats.Err = now, time.Time{}, nil
	m.post(mesh.Event{Kind: mesh.LinkUp, Peer: id, Inbound: !ours}, l)
	m.wg.Go(l.read)
	m.wg.Go(l.write)
	m.mu.Unlock()
	if old != nil {
		old.Close()
	}
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

func (m *Mesh) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if m.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, for example: it passes.
			m.cfg.Log.Warn("Accepting a connection failed", "err", err)
			select {
			case <-time.After(200 * time.Millisecond):
				continue
			case <-m.ctx.Done():
				return
			}
		}
		from, ok := m.admitUnproven(c)
		if !ok {
			c.Close()
			continue
		}
		m.wg.Go(func() { m.greet(c, from) })
	}
}

// admitUnproven counts a connection that has not proven who it is; it says no
// when there are too many.
func (m *Mesh) admitUnproven(c net.Conn) (from netip.Addr, ok bool) {
	from = source(c)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || m.unproven >= maxHandshakes || m.handshakes[from] >= maxFromAddress {
		return from, false
	}
	m.unproven++
	m.handshakes[from]++
	return from, true
}

func (m *Mesh) proven(from netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unproven--
	less(m.handshakes, from)
}

func less(of map[netip.Addr]int, a netip.Addr) {
	if of[a]--; of[a] <= 0 {
		delete(of, a)
	}
}

// source is whom a limit counts: an IPv4 address, an IPv6 network of 64 bit.
func source(c net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	a := ap.Addr().Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// greet finds out who came and why. It gives its place among the unproven back
// before it serves.
func (m *Mesh) greet(raw net.Conn, from netip.Addr) {
	giveBack := sync.OnceFunc(func() { m.proven(from) })
	defer giveBack()
	if !m.own(raw) {
		raw.Close()
		return
	}
	defer m.disown(raw)
	if tc, ok := raw.(*net.TCPConn); ok {
		quiet(tc)
		patient(tc)
	}
	_, relayed := raw.(*stream)
	counted := &counter{Conn: raw, m: m, total: !relayed} // a relayed one is counted with the relay's
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.DialTimeout+2*time.Second)
	defer cancel()
	raw.SetDeadline(time.Now().Add(m.cfg.DialTimeout + 2*time.Second))
	sc, err := m.noise.SecureInbound(ctx, counted, "")
	if err != nil {
		raw.Close()
		return
	}
	c, err := m.secured(sc, counted)
	if err != nil {
		raw.Close()
		return
	}
	var kind [1]byte
	if _, err := io.ReadFull(c, kind[:]); err != nil {
		raw.Close()
		return
	}
	raw.SetDeadline(time.Time{})
	m.mu.Lock()
	p := m.peers[c.peer]
	if p != nil {
		counted.assign(p.in, p.out)
	}
	m.mu.Unlock()
	giveBack()
	switch {
	case kind[0] == kindLink && p != nil:
		m.install(c.peer, c, false)
	case kind[0] == kindStreams:
		m.serveSession(c, from)
	default:
		c.Close()
	}
}

// conn is an authenticated connection.
type conn struct {
	net.Conn
	raw  *counter
	peer mesh.PeerID
}

type remoteKey interface{ RemotePublicKey() crypto.PubKey }

func (m *Mesh) secured(sc net.Conn, raw *counter) (*conn, error) {
	k, ok := sc.(remoteKey)
	if !ok || k.RemotePublicKey() == nil {
		return nil, errors.New("the handshake gave no key")
	}
	pub, err := k.RemotePublicKey().Raw()
	if err != nil || len(pub) != ed25519.PublicKeySize {
		return nil, errors.New("the other node's key is not Ed25519")
	}
	return &conn{Conn: sc, raw: raw, peer: PeerID(pub)}, nil
}

// counter counts the bytes of a TCP connection.
type counter struct {
	net.Conn
	m       *Mesh
	total   bool
	mu      sync.Mutex
	in, out *atomic.Int64
	early   [2]int64 // counted before we knew whose they are
	wrote   atomic.Int64
}

// taken is how many bytes of what was written the other side's kernel has
// acknowledged; not known over a relay.
func (c *counter) taken() (n int64, known bool) {
	t, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return 0, false
	}
	wrote := c.wrote.Load()
	queued, err := unsent(t)
	return wrote - int64(queued), err == nil
}

func (c *counter) assign(in, out *atomic.Int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in, c.out = in, out
	in.Add(c.early[0])
	out.Add(c.early[1])
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.total {
		c.m.in.Add(int64(n))
	}
	c.mu.Lock()
	if c.in != nil {
		c.in.Add(int64(n))
	} else {
		c.early[0] += int64(n)
	}
	c.mu.Unlock()
	return n, err
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.wrote.Add(int64(n))
	if c.total {
		c.m.out.Add(int64(n))
	}
	c.mu.Lock()
	if c.out != nil {
		c.out.Add(int64(n))
	} else {
		c.early[1] += int64(n)
	}
	c.mu.Unlock()
	return n, err
}

// JoinHostPort writes an address the way mesh.Peer wants it.
func JoinHostPort(ip netip.Addr, port int) string {
	return net.JoinHostPort(ip.String(), strconv.Itoa(port))
}
