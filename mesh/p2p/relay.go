package p2p

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"carrierclass.net/ccnode/mesh"
)

// A node that cannot be dialled keeps a connection open to one that can. A
// third reaches it through that one: a stream to the relay, spliced to a stream
// from the relay, and over both of them the same handshake as over TCP. The
// relay sees sealed bytes and who talks to whom; it can drop them, and no more.
const (
	relayProtocol   = "/ccnode/relay/1"   // to the relay: 16 bytes, whom to reach
	relayedProtocol = "/ccnode/relayed/1" // from the relay: a connection begins
)

func (m *Mesh) connectVia(ctx context.Context, id mesh.PeerID, p *peer, relay mesh.PeerID) (*conn, error) {
	s, err := m.OpenStream(ctx, relay, relayProtocol)
	if err != nil {
		return nil, fmt.Errorf("through %s: %w", relay, err)
	}
	if _, err := s.Write(id[:]); err != nil {
		s.Close()
		return nil, fmt.Errorf("through %s: %w", relay, err)
	}
	return m.handshake(ctx, &counter{Conn: s, m: m, in: p.in, out: p.out}, id, "relay "+relay.String())
}

// stands says whether a signalling connection of the peer's own line stands.
// Mesh.mu is held.
func (p *peer) stands() bool {
	return slices.ContainsFunc(p.sessions, func(s *session) bool { return !s.mc.IsClosed() && !s.relayed() })
}

// connectOver reaches a peer that cannot be dialled over the signalling
// connection that it made to us: we are our own relay.
func (m *Mesh) connectOver(ctx context.Context, id mesh.PeerID, p *peer) (*conn, error) {
	s, err := m.openStream(ctx, id, relayedProtocol, true)
	if err != nil {
		return nil, fmt.Errorf("over its own connection: %w", err)
	}
	return m.handshake(ctx, &counter{Conn: s, m: m}, id, "its own connection")
}

// maxRelayed bounds the connections one peer has through us.
const maxRelayed = 16

// relay splices two peers. It goes to the other one directly, never through yet
// another relay: two relays that take each other for the way would go round.
func (m *Mesh) relay(from mesh.Stream) {
	defer from.Close()
	var to mesh.PeerID
	from.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(from, to[:]); err != nil {
		return
	}
	from.SetReadDeadline(time.Time{})
	if m.cfg.Relay == nil || !m.cfg.Relay(from.Peer(), to) {
		return
	}
	m.mu.Lock()
	p := m.peers[from.Peer()]
	ok := p != nil && p.relayed < maxRelayed
	if ok {
		p.relayed++
	}
	m.mu.Unlock()
	if !ok {
		return
	}
	defer func() { m.mu.Lock(); p.relayed--; m.mu.Unlock() }()
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.DialTimeout)
	defer cancel()
	s, err := m.openStream(ctx, to, relayedProtocol, true)
	if err != nil {
		return
	}
	defer s.Close()
	var wg sync.WaitGroup
	wg.Go(func() { // ends when either side closes: both are closed then
		io.Copy(s, from)
		s.Close()
		from.Close()
	})
	io.Copy(from, s)
	s.Close()
	from.Close()
	wg.Wait()
}

// relayed treats what a relay brings like a connection from the network.
func (m *Mesh) relayed(s mesh.Stream) {
	from, ok := m.admitUnproven(s)
	if !ok {
		s.Close()
		return
	}
	m.greet(s, from)
}
