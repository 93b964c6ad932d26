package media

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/pion/rtp"
)

// passing is true of read errors that say something about one packet only.
func passing(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, syscall.EINTR)
}

// outbound is the RTP stream a port sends: one SSRC, numbers without a gap,
// whoever the sound comes from.
type outbound struct {
	mu      sync.Mutex
	ssrc    uint32
	seq     uint16 // last one sent
	ts      uint32
	started bool
	at      time.Time // when it was sent

	source  any // whose numbers the offsets below translate
	from    uint32
	seqOff  uint16
	tsOff   uint32
	packets uint32
	bytes   uint32

	to netip.AddrPort // latched or from the SDP; invalid: nowhere yet
}

// forward sends a packet, rewriting its head in place: payload type, sequence
// number, timestamp and SSRC. source is who it comes from.
func (p *Port) forward(b []byte, pt uint8, source any, rate uint32, now time.Time) {
	f := p.flow.Load()
	if f == nil || !f.send || p.drained.Load() {
		return
	}
	o := &p.out
	o.mu.Lock()
	seq, ts, ssrc := binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	mark := b[1] & 0x80
	if o.source != source || o.from != ssrc {
		// Another source: go on where the last one stopped, at the right time.
		passed := rate / 50
		if o.started {
			passed = max(passed, uint32(min(now.Sub(o.at), time.Hour).Seconds()*float64(rate)))
			mark = 0x80
		}
		o.source, o.from = source, ssrc
		o.seqOff, o.tsOff = o.seq+1-seq, o.ts+passed-ts
	}
	seq, ts = seq+o.seqOff, ts+o.tsOff
	if !o.started || int16(seq-o.seq) > 0 { // #nosec G115: serial number arithmetic
		o.seq, o.ts, o.at, o.started = seq, ts, now, true
	}
	o.packets++
	o.bytes += uint32(len(b) - 12) // #nosec G115: RTCP counts modulo 2^32
	b[1] = mark | pt
	binary.BigEndian.PutUint16(b[2:], seq)
	binary.BigEndian.PutUint32(b[4:], ts)
	binary.BigEndian.PutUint32(b[8:], o.ssrc)
	to := o.to
	o.mu.Unlock()
	if to.IsValid() {
		// A failed send is a lost packet; the statistics of the far end tell.
		_, _ = p.rtp.WriteToUDPAddrPort(b, to)
	}
}

// aim sets where packets are sent after a new description. The caller holds
// topology and mu. A latch made since the last description is kept when the
// new one names the same place.
func (p *Port) aim(first bool, s *stream) {
	var want netip.AddrPort
	if s.addr.IsValid() && !s.addr.IsUnspecified() && !s.addr.IsMulticast() {
		want = netip.AddrPortFrom(s.addr, uint16(s.port)) // #nosec G115: parsed as 16 bits
	}
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	if s.held() { // the old hold does not move the stream
		return
	}
	if !first && want == p.in.want {
		return
	}
	p.in.want, p.in.wantRTCP = want, s.rtcp
	p.in.stale, p.in.latched, p.in.exact = p.in.latched, netip.AddrPort{}, false
	p.out.mu.Lock()
	if want.IsValid() {
		p.out.to = want
	}
	p.out.mu.Unlock()
}

// inbound is the RTP stream a port receives: where from, and how well.
type inbound struct {
	mu       sync.Mutex
	want     netip.AddrPort // from the SDP
	wantRTCP netip.AddrPort
	latched  netip.AddrPort // the one source we listen to
	exact    bool           // latched is want: nobody can take its place
	stale    netip.AddrPort // latched before the last re-INVITE: heard, never latched again
	count    counts
	strange  uint64 // packets from others
	broken   uint64 // packets that are no RTP of this call
}

func (i *inbound) junk() {
	i.mu.Lock()
	i.broken++
	i.mu.Unlock()
}

// take decides whether a packet is from our other end, and counts it.
//
// Symmetric RTP (RFC 4961) with a latch that closes once: the source named in
// the SDP, or the first one that sends RTP of this call, as a phone behind a
// NAT does. Until the named source has spoken it can still claim its place;
// nobody else can. A new description opens the latch again.
func (i *inbound) take(p *Port, f *flow, pkt *rtp.Packet, size int, from netip.AddrPort, now time.Time) bool {
	if from.Addr().Is4In6() {
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case from == i.latched:
	case from == i.want && !i.exact:
		i.latch(p, from, true)
	case from == i.stale && !i.latched.IsValid():
		// Still on its way from where it was.
	case !i.latched.IsValid():
		i.latch(p, from, false)
	default:
		i.strange++
		return false
	}
	i.count.add(pkt, size, f, p.epoch, now)
	return true
}

func (i *inbound) latch(p *Port, from netip.AddrPort, exact bool) {
	i.latched, i.exact = from, exact
	p.out.mu.Lock()
	p.out.to = from
	p.out.mu.Unlock()
}
