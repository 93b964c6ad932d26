package p2p

import (
	"context"
	"fmt"
	"io"
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

func (m *Mesh) connectVia(ctx context.Context, p *peer, relay mesh.PeerID, kind byte) (*conn, error) {
	s, err := m.OpenStream(ctx, relay, relayProtocol)
	if err != nil {
		return nil, fmt.Errorf("through %s: %w", relay, err)
	}
	if _, err := s.Write(p.ID[:]); err != nil {
		s.Close()
		return nil, fmt.Errorf("through %s: %w", relay, err)
	}
	return m.handshake(ctx, &counter{Conn: s, m: m, in: p.in, out: p.out}, p.ID, "relay "+relay.String(), kind)
}

// relay splices two peers.
func (m *Mesh) relay(from mesh.Stream) {
	defer from.Close()
	var to mesh.PeerID
	from.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(from, to[:]); err != nil {
		return
	}
	from.SetReadDeadline(time.Time{})
	m.mu.Lock()
	p := m.peers[to]
	near := p != nil && len(p.sessions) > 0
	m.mu.Unlock()
	if m.cfg.Relay == nil || !m.cfg.Relay(from.Peer(), to) || (p != nil && !near && len(p.Addrs) == 0) {
		return
	}
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.DialTimeout)
	defer cancel()
	// Never through yet another relay.
	s, err := m.OpenStream(ctx, to, relayedProtocol)
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
	select {
	case m.handshakes <- struct{}{}:
		m.greet(s)
	default:
		s.Close()
	}
}
