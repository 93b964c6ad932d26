package p2p

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"

	"carrierclass.net/ccnode/mesh"
)

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
