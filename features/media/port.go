package media

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtp"
)

// A Port is one leg's media endpoint. Its methods may be called from any goroutine.
type Port struct {
	// set at NewPort, then constant
	e         *Engine
	params    PortParams
	rtp, rtcp PacketConn
	epoch     time.Time
	cname     string

	// guarded by Engine.topology
	peer *Port

	// guarded by mu; Engine.topology is taken before it
	mu      sync.Mutex
	sdp     dialogue
	session *Session
	closed  bool
	timer   *time.Timer // next report, then the end of draining

	// read by the packet path
	flow atomic.Pointer[flow]
	sink atomic.Pointer[sink]

	in  inbound
	out outbound

	drained atomic.Bool // packets are thrown away
	gone    chan struct{}
	freed   sync.Once
}

// sink is where packets of a port go.
type sink struct {
	peer    *Port
	session *Session
	pt      [128]uint8 // number for the peer, or drop
	rate    uint32
}

func newPort(e *Engine, params PortParams, rtpConn, rtcpConn PacketConn) *Port {
	p := &Port{e: e, params: params, rtp: rtpConn, rtcp: rtcpConn, epoch: e.cfg.Now(), gone: make(chan struct{})}
	r := e.random()
	p.out.ssrc = uint32(r)             // #nosec G115: 32 of 64 random bits
	p.out.seq = uint16(r >> 32)        // #nosec G115: the same
	p.out.ts = uint32(e.random())      // #nosec G115: the same
	p.sdp.id = e.random() >> 2         // fits signed 63 bits of the peers that use them
	p.sdp.version = 1 + e.random()>>40 // rises by one
	p.cname = cname(e.random())
	return p
}

// Addr is where this port receives RTP.
func (p *Port) Addr() netip.AddrPort { return netip.AddrPortFrom(p.params.Local, portOf(p.rtp)) }

// Chain is the chain id of the call.
func (p *Port) Chain() string { return p.params.Chain }

// Held is true while the other end does not want to hear us.
func (p *Port) Held() bool {
	f := p.flow.Load()
	return f != nil && !f.send
}

// Close ends the leg's media. The sockets stay bound and are read empty for a
// while (Config.Drain). Closing twice is not an error.
func (p *Port) Close() error {
	p.e.topology.Lock()
	p.unlink()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.e.topology.Unlock()
		return nil
	}
	p.closed = true
	p.drained.Store(true)
	p.sink.Store(nil)
	s := p.session
	if p.timer != nil {
		p.timer.Stop()
	}
	p.sendBye()
	p.timer = time.AfterFunc(p.e.cfg.Drain, p.release)
	p.mu.Unlock()
	p.e.topology.Unlock()
	if s != nil {
		s.end()
	}
	p.e.mu.Lock()
	if _, ok := p.e.ports[p]; ok {
		p.e.draining = append(p.e.draining, p)
	}
	p.e.mu.Unlock()
	return nil
}

// release gives the sockets back.
func (p *Port) release() {
	p.freed.Do(func() {
		p.mu.Lock()
		if p.timer != nil {
			p.timer.Stop()
		}
		p.mu.Unlock()
		_, _ = p.rtp.Close(), p.rtcp.Close()
		p.e.mu.Lock()
		delete(p.e.ports, p)
		p.e.draining = slices.DeleteFunc(p.e.draining, func(q *Port) bool { return q == p })
		p.e.mu.Unlock()
		close(p.gone)
	})
	<-p.gone
}

func (p *Port) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// unlink ends a bridge at both ends. The caller holds topology.
func (p *Port) unlink() {
	q := p.peer
	if q == nil {
		return
	}
	p.peer, q.peer = nil, nil
	for _, x := range []*Port{p, q} {
		x.mu.Lock()
		x.point()
		x.mu.Unlock()
	}
}

// link makes the tables of a bridge, both ways. The caller holds topology, and
// may hold either mu: what translate reads changes only under topology.
func (p *Port) link() {
	q := p.peer
	p.sink.Store(&sink{peer: q, pt: translate(p, q), rate: p.rate()})
	q.sink.Store(&sink{peer: p, pt: translate(q, p), rate: q.rate()})
}

// point directs an unbridged port at its session, if it has one.
func (p *Port) point() {
	if p.session == nil || p.closed {
		p.sink.Store(nil)
		return
	}
	p.sink.Store(&sink{session: p.session, rate: p.rate()})
}

func (p *Port) rate() uint32 {
	if f := p.flow.Load(); f != nil {
		return f.rate
	}
	return 8000
}

// readRTP is the packet path: one goroutine per port, nothing allocated.
func (p *Port) readRTP() {
	buf := make([]byte, 2048)
	var pkt rtp.Packet
	for {
		n, from, err := p.rtp.ReadFromUDPAddrPort(buf)
		if err != nil {
			if p.over(err) {
				return
			}
			continue
		}
		if p.drained.Load() {
			continue
		}
		b := buf[:n]
		if isRTCP(b) { // RFC 5761: some send it here unasked
			p.report(b, from)
			continue
		}
		if len(b) < 12 || b[0]>>6 != 2 || pkt.Unmarshal(b) != nil {
			p.in.junk()
			continue
		}
		f := p.flow.Load()
		if f == nil || !f.accept[pkt.PayloadType] {
			p.in.junk()
			continue
		}
		now := p.e.cfg.Now()
		if !p.in.take(p, f, &pkt, n, from, now) {
			continue
		}
		switch s := p.sink.Load(); {
		case s == nil:
		case s.peer != nil:
			if pt := s.pt[pkt.PayloadType]; pt != drop {
				s.peer.forward(b, pt, p, s.rate, now)
			}
		case s.session != nil:
			s.session.receive(f, &pkt, now)
		}
	}
}

func (p *Port) readRTCP() {
	buf := make([]byte, 2048)
	for {
		n, from, err := p.rtcp.ReadFromUDPAddrPort(buf)
		if err != nil {
			if p.over(err) {
				return
			}
			continue
		}
		if !p.drained.Load() && isRTCP(buf[:n]) {
			p.report(buf[:n], from)
		}
	}
}

// over says whether a read error means that the socket is closed. Others, an
// ICMP message for example, pass; an error that stays would spin, so after it
// the port is taken as closed too.
func (p *Port) over(err error) bool {
	if p.drained.Load() || !passing(err) {
		if !p.drained.Load() {
			p.e.cfg.Logger.LogAttrs(context.Background(), slog.LevelWarn, "Media socket failed",
				slog.String("chain", p.params.Chain), slog.Any("err", err))
		}
		return true
	}
	return false
}
