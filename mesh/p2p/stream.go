package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"carrierclass.net/ccnode/mesh"
)

const (
	maxProtocol  = 64
	accepted     = 1
	strangerLife = 15 * time.Minute // a person has to approve within it
	// firstStream is how long a stranger may take to say what it wants.
	firstStream = 10 * time.Second
	// strangersFrom bounds the strangers of one address, so that nobody alone
	// keeps others from joining.
	strangersFrom = maxStrangers / 2
)

// session is one signalling connection, dialled by us or by the peer; streams
// are opened over it both ways.
type session struct {
	m     *Mesh
	id    mesh.PeerID
	mc    network.MuxedConn
	c     *conn
	since time.Time
	once  sync.Once
}

// Close ends the connection and every stream on it.
func (s *session) Close() error {
	s.once.Do(func() {
		s.m.mu.Lock()
		if p := s.m.peers[s.id]; p != nil {
			p.sessions = slices.DeleteFunc(p.sessions, func(o *session) bool { return o == s })
		}
		delete(s.m.open, s)
		s.m.mu.Unlock()
		s.mc.Close()
		s.c.Close()
	})
	return nil
}

// relayed says whether a third node carries the connection.
func (s *session) relayed() bool { return s.c.relayed() }

func (c *conn) relayed() bool {
	_, tcp := c.raw.Conn.(*net.TCPConn)
	return !tcp
}

func (m *Mesh) newSession(c *conn, server, member bool) (*session, error) {
	mc, err := m.mux.NewConn(c, server, nil)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("set up the signalling connection: %w", err)
	}
	s := &session{m: m, id: c.peer, mc: mc, c: c, since: m.cfg.Now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		mc.Close()
		c.Close()
		return nil, mesh.ErrClosed
	}
	p := m.peers[c.peer]
	if (p != nil) != member {
		mc.Close() // it was admitted, or it is no member any more: it can come again
		c.Close()
		return nil, mesh.ErrUnknownPeer
	}
	m.open[s] = true
	if p != nil {
		p.sessions = append(p.sessions, s)
		p.stats.Heard, p.stats.Failed, p.stats.Err = m.cfg.Now(), time.Time{}, nil
		if len(p.sessions) > maxSessions {
			oldest := p.sessions[0]
			m.wg.Go(func() { oldest.Close() })
		}
	}
	return s, nil
}

// serveSession takes the streams of a connection that somebody dialled to us.
func (m *Mesh) serveSession(c *conn, from netip.Addr) {
	m.mu.Lock()
	member := m.peers[c.peer] != nil
	if !member {
		if m.strangers >= maxStrangers || m.strange[from] >= strangersFrom || !m.welcomesLocked() {
			m.mu.Unlock()
			c.Close()
			return
		}
		m.strangers++
		m.strange[from]++
	}
	m.mu.Unlock()
	if !member {
		defer func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.strangers--
			less(m.strange, from)
		}()
	}
	s, err := m.newSession(c, true, member)
	if err != nil {
		return
	}
	if !member {
		s.serveOne()
		return
	}
	s.serve()
}

// serveOne serves one stream of a stranger: if it has become a member by then,
// it comes back as one.
func (s *session) serveOne() {
	defer s.Close()
	t := time.AfterFunc(firstStream, func() { s.c.Close() })
	defer t.Stop()
	ms, err := s.mc.AcceptStream()
	if err != nil {
		return
	}
	t.Reset(strangerLife)
	s.serveStream(ms)
	// What was written last must get there before the connection closes.
	select {
	case <-s.gone():
	case <-time.After(2 * time.Second):
	}
}

// gone is closed when the other side ends the connection or opens more than it
// may.
func (s *session) gone() <-chan struct{} {
	ch := make(chan struct{})
	s.m.wg.Go(func() { // ends with the connection
		defer close(ch)
		_, _ = s.mc.AcceptStream()
	})
	return ch
}

func (m *Mesh) welcomesLocked() bool {
	for _, h := range m.handlers {
		if h.strangers {
			return true
		}
	}
	return false
}

func (s *session) serve() {
	defer s.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		ms, err := s.mc.AcceptStream()
		if err != nil {
			return
		}
		wg.Go(func() { s.serveStream(ms) })
	}
}

// serveStream reads which protocol is wanted and answers at once whether it is
// served: that answer is what tells the other side that we are alive.
func (s *session) serveStream(ms network.MuxedStream) {
	ms.SetReadDeadline(time.Now().Add(5 * time.Second))
	var n [1]byte
	if _, err := io.ReadFull(ms, n[:]); err != nil || n[0] > maxProtocol {
		ms.Reset()
		return
	}
	name := make([]byte, n[0])
	if _, err := io.ReadFull(ms, name); err != nil {
		ms.Reset()
		return
	}
	ms.SetReadDeadline(time.Time{})
	s.m.mu.Lock()
	h := s.m.handlers[string(name)]
	p := s.m.peers[s.id]
	if p != nil {
		p.stats.Heard = s.m.cfg.Now()
	}
	s.m.mu.Unlock()
	if h.fn == nil || (p == nil && !h.strangers) {
		ms.Write([]byte{0})
		ms.Close()
		return
	}
	if _, err := ms.Write([]byte{accepted}); err != nil {
		ms.Reset()
		return
	}
	h.fn(&stream{MuxedStream: ms, s: s, ready: closed, answered: true})
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// stream is a net.Conn over one yamux stream.
type stream struct {
	network.MuxedStream
	s     *session
	ready chan struct{} // closed when the other side answered, or did not
	err   error         // after ready: why it did not

	mu       sync.Mutex
	deadline time.Time // of reads, as the owner set it
	answered bool
}

// SetReadDeadline implements net.Conn; before the other side answered it is
// kept, because that wait has a deadline of its own.
func (st *stream) SetReadDeadline(t time.Time) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.deadline = t
	if !st.answered {
		return nil
	}
	return st.MuxedStream.SetReadDeadline(t)
}

// SetDeadline implements net.Conn.
func (st *stream) SetDeadline(t time.Time) error {
	if err := st.MuxedStream.SetWriteDeadline(t); err != nil {
		return err
	}
	return st.SetReadDeadline(t)
}

// Peer implements mesh.Stream.
func (st *stream) Peer() mesh.PeerID    { return st.s.id }
func (st *stream) LocalAddr() net.Addr  { return st.s.c.LocalAddr() }
func (st *stream) RemoteAddr() net.Addr { return st.s.c.RemoteAddr() }

// Close ends both directions.
func (st *stream) Close() error {
	_ = st.MuxedStream.CloseRead()
	return st.MuxedStream.Close()
}

// Read waits for the other side's answer, then reads.
func (st *stream) Read(b []byte) (int, error) {
	<-st.ready
	if st.err != nil {
		return 0, st.err
	}
	n, err := st.MuxedStream.Read(b)
	if n > 0 {
		st.s.m.mu.Lock()
		if p := st.s.m.peers[st.s.id]; p != nil {
			p.stats.Heard = st.s.m.cfg.Now()
		}
		st.s.m.mu.Unlock()
	}
	return n, err
}

// answer waits for the first byte of the other side. Without one in time the
// whole connection is dead: a quiet TCP connection would not notice for long.
func (st *stream) answer(timeout time.Duration) {
	defer close(st.ready)
	_ = st.MuxedStream.SetReadDeadline(time.Now().Add(timeout))
	var b [1]byte
	_, err := io.ReadFull(st.MuxedStream, b[:])
	st.mu.Lock()
	st.answered = true
	_ = st.MuxedStream.SetReadDeadline(st.deadline)
	st.mu.Unlock()
	switch {
	case err == nil && b[0] == accepted:
		return
	case err == nil:
		st.err = mesh.ErrRefused
		st.MuxedStream.Reset()
		return
	}
	st.err = err
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		st.err = mesh.ErrSilent
		st.s.m.mu.Lock()
		if p := st.s.m.peers[st.s.id]; p != nil {
			p.stats.Failed, p.stats.Err = st.s.m.cfg.Now(), mesh.ErrSilent
		}
		st.s.m.mu.Unlock()
		st.s.Close()
	}
}

// OpenStream implements mesh.Mesh. It returns once the stream is open on a live
// connection; whether the other side serves the protocol shows at the first Read.
func (m *Mesh) OpenStream(ctx context.Context, id mesh.PeerID, protocol string) (mesh.Stream, error) {
	if len(protocol) > maxProtocol {
		return nil, fmt.Errorf("protocol name %q is longer than %d bytes", protocol, maxProtocol)
	}
	return m.openStream(ctx, id, protocol, false)
}

// openStream is OpenStream; direct: never through a relay.
func (m *Mesh) openStream(ctx context.Context, id mesh.PeerID, protocol string, direct bool) (mesh.Stream, error) {
	s, err := m.session(ctx, id, direct)
	if err != nil {
		return nil, fmt.Errorf("open %s to %s: %w", protocol, id, err)
	}
	ms, err := s.mc.OpenStream(ctx)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("open %s to %s: %w", protocol, id, err)
	}
	st := &stream{MuxedStream: ms, s: s, ready: make(chan struct{})}
	if _, err := ms.Write(append([]byte{byte(len(protocol))}, protocol...)); err != nil {
		ms.Reset()
		s.Close()
		return nil, fmt.Errorf("open %s to %s: %w", protocol, id, err)
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		ms.Reset()
		return nil, mesh.ErrClosed
	}
	m.wg.Go(func() { st.answer(m.cfg.AckTimeout) })
	m.mu.Unlock()
	return st, nil
}

// Hangup closes the signalling connections with a peer, so that the next stream
// dials a new one: after joining, what was a stranger comes back as a member.
func (m *Mesh) Hangup(id mesh.PeerID) {
	m.mu.Lock()
	var all []*session
	if p := m.peers[id]; p != nil {
		all = slices.Clone(p.sessions)
	}
	m.mu.Unlock()
	for _, s := range all {
		s.Close()
	}
}

// session finds a signalling connection of the peer or dials one; callers that
// come meanwhile wait for the same dial.
func (m *Mesh) session(ctx context.Context, id mesh.PeerID, direct bool) (*session, error) {
	for {
		m.mu.Lock()
		p := m.peers[id]
		switch {
		case m.closed:
			m.mu.Unlock()
			return nil, mesh.ErrClosed
		case p == nil:
			m.mu.Unlock()
			return nil, mesh.ErrUnknownPeer
		}
		for _, s := range slices.Backward(p.sessions) {
			if !s.mc.IsClosed() && !(s.relayed() && (direct || p.straight(s.since))) {
				m.mu.Unlock()
				return s, nil
			}
		}
		wait := p.opening
		if wait == nil {
			wait = make(chan struct{})
			p.opening = wait
			m.wg.Go(func() { m.dialSession(id, p, wait, direct) })
		}
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-wait:
		}
		m.mu.Lock()
		err := p.openErr
		m.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
}

// straight says whether the peer has been linked without a relay since then.
// Mesh.mu is held.
func (p *peer) straight(since time.Time) bool {
	return p.link != nil && !p.link.relayed() && p.link.since.After(since)
}

func (m *Mesh) dialSession(id mesh.PeerID, p *peer, done chan struct{}, direct bool) {
	c, err := m.connect(m.ctx, id, kindStreams, direct)
	var s *session
	if err == nil {
		s, err = m.newSession(c, false, true)
	}
	m.mu.Lock()
	p.opening, p.openErr = nil, err
	if err != nil {
		p.stats.Failed, p.stats.Err = m.cfg.Now(), err
	} else if !m.closed {
		m.wg.Go(s.serve)
	}
	close(done)
	m.mu.Unlock()
}
