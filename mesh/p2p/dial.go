package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"carrierclass.net/ccnode/mesh"
)

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
	if len(p.Addrs)+len(p.Via) == 0 && !p.stands() {
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

// straighten tries the addresses of a peer whose link goes over a relay: when
// they are new, and while the link is used every so often. mu is held.
func (m *Mesh) straighten(p *peer) {
	if m.closed || p.direct || p.link == nil || !p.link.relayed() || len(p.Addrs) == 0 || !p.triedAt.IsZero() && time.Since(p.triedAt) < tryDirect {
		return
	}
	p.direct, p.triedAt = true, time.Now()
	id, addrs := p.ID, p.Addrs
	m.wg.Go(func() {
		c, err := m.connectAny(m.ctx, id, p, addrs)
		m.mu.Lock()
		p.direct = false
		wanted := m.peers[id] == p && p.link != nil && p.link.relayed()
		m.mu.Unlock()
		switch {
		case err != nil:
			return // the relay goes on
		case !wanted:
			c.Close()
			return
		}
		if c, err = c.say(kindLink); err == nil {
			m.install(id, c, true)
		}
	})
}

// connect dials, shakes hands, compares the key, and says what the connection
// is for. When no address answers, a link goes over a signalling connection
// that the peer made, if one stands, and then over relays, unless direct is set.
func (m *Mesh) connect(ctx context.Context, id mesh.PeerID, kind byte, direct bool) (*conn, error) {
	m.mu.Lock()
	p := m.peers[id]
	var addrs []string
	var via []mesh.PeerID
	over := false
	if p != nil {
		if addrs = p.Addrs; !direct {
			via = p.Via
		}
		over = kind == kindLink && p.stands()
	}
	m.mu.Unlock()
	switch {
	case p == nil:
		return nil, mesh.ErrUnknownPeer
	case len(addrs)+len(via) == 0 && !over:
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
	if over {
		c, err := m.connectOver(ctx, id, p)
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
		straightens := cur.relayed() && !c.relayed()
		if cur.ours != ours && now.Sub(cur.since) < raceWindow && cur.ours == lower && !straightens {
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
