package media

import (
	"encoding/hex"
	"net/netip"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
)

// counts follows RFC 3550 A.1, A.3 and A.8 for one received stream.
type counts struct {
	ssrc     uint32
	started  bool
	base     uint32 // extended sequence number of the first packet
	max      uint32 // highest so far
	received uint32 // since base
	probing  uint16 // next number of a stream that may have restarted
	isProbe  bool

	packets, bytes, lostBefore uint64
	jitter                     float64 // in units of the RTP clock
	transit                    uint32
	rate                       uint32
	last                       time.Time

	expectedPrior, receivedPrior uint32 // at the last report
	lastSR                       uint32 // middle 32 bits of the NTP time of the last SR
	lastSRAt                     time.Time
	far                          rtcp.ReceptionReport // what the other end says of us
	rtt                          time.Duration
	hasFar                       bool
}

// A stream that jumps further than this has restarted (RFC 3550 A.1).
const maxDropout, maxMisorder = 3000, 100

func (c *counts) add(pkt *rtp.Packet, size int, f *flow, epoch, now time.Time) {
	c.packets++
	c.bytes += uint64(size) // #nosec G115: a datagram
	c.last, c.rate = now, f.rate
	arrival := uint32(uint64(now.Sub(epoch).Seconds() * float64(f.rate)))
	transit := arrival - pkt.Timestamp
	seq := pkt.SequenceNumber
	if !c.started || c.ssrc != pkt.SSRC {
		c.restart(seq)
		c.ssrc, c.started, c.transit = pkt.SSRC, true, transit
		return
	}
	switch delta := seq - uint16(c.max); { // #nosec G115: the low half
	case delta < maxDropout:
		c.max += uint32(delta)
	case delta > 65535-maxMisorder: // late or twice
	case c.isProbe && seq == c.probing:
		c.restart(seq)
		c.transit = transit
		return
	default:
		c.isProbe, c.probing = true, seq+1
		return
	}
	c.received++
	c.isProbe = false
	if !f.isKeys[pkt.PayloadType] { // a key keeps its timestamp while it lasts
		d := int32(transit - c.transit) // #nosec G115: serial number arithmetic
		c.transit = transit
		if d < 0 {
			d = -d
		}
		c.jitter += (float64(d) - c.jitter) / 16
	}
}

func (c *counts) restart(seq uint16) {
	c.lostBefore += c.lost()
	c.base, c.max, c.received = uint32(seq), uint32(seq), 1
	c.expectedPrior, c.receivedPrior, c.isProbe = 0, 0, false
}

// lost since base.
func (c *counts) lost() uint64 {
	if expected := c.max - c.base + 1; c.started && expected > c.received {
		return uint64(expected - c.received)
	}
	return 0
}

// Stats are one leg's figures as this node saw them.
type Stats struct {
	Received, ReceivedBytes uint64        // RTP packets and bytes from the other end
	Sent, SentBytes         uint64        // to it
	Lost                    uint64        // by the sequence numbers
	Jitter                  time.Duration // RFC 3550 A.8
	Last                    time.Time     // when the last packet came; zero: never
	Heard                   bool          // packets went both ways
	Strangers, Broken       uint64        // thrown away: from elsewhere; not RTP of this call
	Source                  netip.AddrPort

	// What the other end reported of us by RTCP.
	Reported  bool
	FarLost   uint32
	FarJitter time.Duration
	RoundTrip time.Duration
}

// Stats reads the figures; they stay readable after Close.
func (p *Port) Stats() Stats {
	p.in.mu.Lock()
	c := p.in.count
	s := Stats{Received: c.packets, ReceivedBytes: c.bytes, Lost: c.lostBefore + c.lost(), Last: c.last,
		Strangers: p.in.strange, Broken: p.in.broken, Source: p.in.latched}
	p.in.mu.Unlock()
	if c.rate != 0 {
		s.Jitter = time.Duration(c.jitter / float64(c.rate) * float64(time.Second))
		if c.hasFar {
			s.Reported, s.FarLost, s.RoundTrip = true, c.far.TotalLost, c.rtt
			s.FarJitter = time.Duration(float64(c.far.Jitter) / float64(c.rate) * float64(time.Second))
		}
	}
	p.out.mu.Lock()
	s.Sent, s.SentBytes = uint64(p.out.packets), uint64(p.out.bytes)
	p.out.mu.Unlock()
	s.Heard = s.Received > 0 && s.Sent > 0
	return s
}

// isRTCP tells the two apart (RFC 5761 §4).
func isRTCP(b []byte) bool { return len(b) >= 8 && b[0]>>6 == 2 && b[1] >= 192 && b[1] <= 223 }

// report takes RTCP from the other end. It is never relayed: each leg has its
// own sequence numbers, so each leg's reports are about that leg.
func (p *Port) report(b []byte, from netip.AddrPort) {
	packets, err := rtcp.Unmarshal(b)
	if err != nil {
		p.in.junk()
		return
	}
	now := p.e.cfg.Now()
	p.out.mu.Lock()
	ours := p.out.ssrc
	p.out.mu.Unlock()
	i := &p.in
	i.mu.Lock()
	defer i.mu.Unlock()
	if a := from.Addr().Unmap(); a != i.latched.Addr() && a != i.want.Addr() && a != i.wantRTCP.Addr() {
		i.strange++
		return
	}
	for _, packet := range packets {
		switch packet := packet.(type) {
		case *rtcp.SenderReport:
			i.count.lastSR, i.count.lastSRAt = uint32(packet.NTPTime>>16), now // #nosec G115: the middle
			i.count.reception(packet.Reports, ours, now)
		case *rtcp.ReceiverReport:
			i.count.reception(packet.Reports, ours, now)
		}
	}
}

func (c *counts) reception(reports []rtcp.ReceptionReport, ours uint32, now time.Time) {
	for _, r := range reports {
		if r.SSRC != ours {
			continue
		}
		c.far, c.hasFar = r, true
		if r.LastSenderReport != 0 { // RFC 3550 §6.4.1
			rtt := uint32(ntp(now)>>16) - r.LastSenderReport - r.Delay // #nosec G115: the middle
			if rtt < 1<<31 {
				c.rtt = time.Duration(float64(rtt) / 65536 * float64(time.Second))
			}
		}
	}
}

// startReports sends RTCP now and then until Close (RFC 3550 §6.2: between
// half and one and a half times the mean).
func (p *Port) startReports() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.timer = time.AfterFunc(p.pause(), func() {
			p.sendReport()
			p.startReports()
		})
	}
}

func (p *Port) pause() time.Duration {
	mean := p.e.cfg.Report
	return mean/2 + time.Duration(p.e.random()%uint64(mean)) // #nosec G115: positive
}

func (p *Port) sendReport() {
	if b, to := p.compound(); b != nil && to.IsValid() {
		_, _ = p.rtcp.WriteToUDPAddrPort(b, to)
	}
}

// sendBye tells the other end that this stream is over. The caller holds mu.
func (p *Port) sendBye() {
	b, to := p.compound()
	if b == nil || !to.IsValid() {
		return
	}
	p.out.mu.Lock()
	ssrc := p.out.ssrc
	p.out.mu.Unlock()
	if bye, err := (&rtcp.Goodbye{Sources: []uint32{ssrc}}).Marshal(); err == nil {
		_, _ = p.rtcp.WriteToUDPAddrPort(append(b, bye...), to)
	}
}

// compound makes SR or RR, and SDES (RFC 3550 §6.1). Nothing is said before
// anything was sent or heard.
func (p *Port) compound() ([]byte, netip.AddrPort) {
	now := p.e.cfg.Now()
	i, o := &p.in, &p.out
	i.mu.Lock()
	o.mu.Lock()
	defer o.mu.Unlock()
	defer i.mu.Unlock()
	c := &i.count
	if !o.started && !c.started {
		return nil, netip.AddrPort{}
	}
	to := i.wantRTCP
	if i.latched.IsValid() && i.latched != i.want && i.latched.Port() < 65535 {
		to = netip.AddrPortFrom(i.latched.Addr(), i.latched.Port()+1)
	}
	if !to.IsValid() || to.Addr().IsUnspecified() || to.Addr().IsMulticast() {
		return nil, netip.AddrPort{}
	}
	var reports []rtcp.ReceptionReport
	if c.started {
		expected := c.max - c.base + 1
		r := rtcp.ReceptionReport{SSRC: c.ssrc, LastSequenceNumber: c.max, Jitter: uint32(c.jitter), LastSenderReport: c.lastSR}
		r.TotalLost = uint32(min(c.lost(), 1<<23-1)) // #nosec G115: bounded
		window, got := expected-c.expectedPrior, c.received-c.receivedPrior
		if window > got && window < 1<<24 {
			r.FractionLost = uint8(min((window-got)*256/window, 255)) // #nosec G115: bounded
		}
		if c.lastSR != 0 {
			r.Delay = uint32(min(now.Sub(c.lastSRAt), time.Hour).Seconds() * 65536)
		}
		c.expectedPrior, c.receivedPrior = expected, c.received
		reports = append(reports, r)
	}
	var first rtcp.Packet = &rtcp.ReceiverReport{SSRC: o.ssrc, Reports: reports}
	if o.started && now.Sub(o.at) < 2*p.e.cfg.Report {
		passed := uint32(now.Sub(o.at).Seconds() * float64(p.rate()))
		first = &rtcp.SenderReport{SSRC: o.ssrc, NTPTime: ntp(now), RTPTime: o.ts + passed,
			PacketCount: o.packets, OctetCount: o.bytes, Reports: reports}
	}
	b, err := rtcp.Marshal([]rtcp.Packet{first, &rtcp.SourceDescription{Chunks: []rtcp.SourceDescriptionChunk{{
		Source: o.ssrc, Items: []rtcp.SourceDescriptionItem{{Type: rtcp.SDESCNAME, Text: p.cname}}}}}})
	if err != nil {
		return nil, netip.AddrPort{}
	}
	return b, to
}

// ntp is the 64-bit time of RFC 3550 §4.
func ntp(t time.Time) uint64 {
	const from1900 = 2208988800
	return uint64(t.Unix()+from1900)<<32 | uint64(t.Nanosecond())<<32/1e9 // #nosec G115: until 2036
}

// cname names the source for the life of the port and tells nothing else
// (RFC 7022).
func cname(random uint64) string {
	var b [8]byte
	for i := range b {
		b[i] = byte(random >> (8 * i))
	}
	return hex.EncodeToString(b[:])
}
