package media

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/rtcp"
)

// control reads RTCP until want is true of a packet.
func control(t *testing.T, p *phone, want func(rtcp.Packet) bool) {
	t.Helper()
	b := make([]byte, 2048)
	_ = p.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	for {
		n, _, err := p.conn.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatal(err)
		}
		packets, err := rtcp.Unmarshal(b[:n])
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packets {
			if want(p) {
				return
			}
		}
	}
}

func TestReports(t *testing.T) {
	e := engine(t, func(c *Config) { c.Report = 20 * time.Millisecond })
	a, b, ctl := newPhone(t), newPhone(t), newPhone(t)
	pa, pb := port(t, e), port(t, e)
	offer := a.sdp("0", "a=rtcp:"+itoa(int(ctl.addr().Port())))
	must(t, pa.SetRemote(offer))
	toB, err := pb.Local(offer)
	must(t, err)
	b.target(toB)
	must(t, pb.SetRemote(b.sdp("0")))
	toA, err := pa.Local(b.sdp("0"))
	must(t, err)
	a.target(toA)
	must(t, e.Bridge(pa, pb))
	for i := range 20 { // 4 of 20 lost
		if i%5 == 4 {
			a.head.SequenceNumber++
			a.head.Timestamp += 160
			continue
		}
		a.send(0, []byte{1})
		b.read()
	}
	a.send(0, []byte{1})
	b.read()
	if s := pa.Stats(); s.Lost != 4 || s.Received != 17 {
		t.Fatalf("%+v", s)
	}
	b.send(0, []byte{2})
	got := a.read()
	control(t, ctl, func(p rtcp.Packet) bool {
		sr, ok := p.(*rtcp.SenderReport)
		if !ok || len(sr.Reports) != 1 {
			return false
		}
		r := sr.Reports[0]
		if sr.SSRC != got.SSRC || sr.PacketCount != 1 || sr.OctetCount != 1 || r.SSRC != 0x1234 || r.TotalLost != 4 || r.Delay != 0 {
			t.Errorf("%+v", sr)
		}
		return true
	})
	// The other end's report of us, half a second after one of ours.
	now := ntp(time.Now().Add(-600 * time.Millisecond))
	rr := rtcp.ReceiverReport{SSRC: 0x1234, Reports: []rtcp.ReceptionReport{
		{SSRC: got.SSRC, TotalLost: 3, Jitter: 80, LastSenderReport: uint32(now >> 16), Delay: 65536 / 2}, {SSRC: 5, TotalLost: 99}}}
	sr := rtcp.SenderReport{SSRC: 0x1234, NTPTime: ntp(time.Now())}
	compound, err := rtcp.Marshal([]rtcp.Packet{&rr, &sr})
	must(t, err)
	to := netip.AddrPortFrom(loopback, a.to.Port()+1)
	if _, err := ctl.conn.WriteToUDPAddrPort(compound, to); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return pa.Stats().Reported })
	if s := pa.Stats(); s.FarLost != 3 || s.FarJitter != 10*time.Millisecond || s.RoundTrip < 100*time.Millisecond || s.RoundTrip > 400*time.Millisecond {
		t.Errorf("%+v", s)
	}
	control(t, ctl, func(p rtcp.Packet) bool { // and our next one says when theirs came
		var reports []rtcp.ReceptionReport
		switch p := p.(type) {
		case *rtcp.SenderReport:
			reports = p.Reports
		case *rtcp.ReceiverReport:
			reports = p.Reports
		}
		return len(reports) == 1 && reports[0].LastSenderReport == uint32(sr.NTPTime>>16)
	})
	must(t, pa.Close())
	control(t, ctl, func(p rtcp.Packet) bool {
		bye, ok := p.(*rtcp.Goodbye)
		return ok && len(bye.Sources) == 1 && bye.Sources[0] == got.SSRC
	})
}

func TestJitterIsMeasured(t *testing.T) {
	// Packets that come 10 ms early and late in turn: RFC 3550 gives 20 ms of
	// mean deviation from one to the next.
	var c counts
	f := &flow{rate: 8000}
	epoch := time.Unix(1000, 0)
	for i := range 2000 {
		at := epoch.Add(time.Duration(i)*20*time.Millisecond + 10*time.Millisecond)
		if i%2 == 0 {
			at = at.Add(20 * time.Millisecond)
		}
		c.add(packet(uint16(i+65000), uint32(i*160), 1), 172, f, epoch, at)
	}
	if ms := c.jitter / 8; math.Abs(ms-20) > 1 {
		t.Errorf("jitter %.1f ms, want 20", ms)
	}
	if c.lost() != 0 || c.max-c.base != 1999 {
		t.Errorf("lost %d, span %d over a wrap", c.lost(), c.max-c.base)
	}
	// A stream that starts again is no loss.
	c.add(packet(5, 0, 1), 172, f, epoch, epoch)
	c.add(packet(6, 160, 1), 172, f, epoch, epoch)
	c.add(packet(7, 320, 1), 172, f, epoch, epoch)
	if n := c.lostBefore + c.lost(); n != 0 {
		t.Errorf("%d lost after a restart", n)
	}
	// Another source is another count.
	c.add(packet(100, 0, 2), 172, f, epoch, epoch)
	c.add(packet(102, 160, 2), 172, f, epoch, epoch)
	if n := c.lostBefore + c.lost(); n != 1 {
		t.Errorf("%d lost, want 1", n)
	}
}

func TestReportsFromStrangersAreNotBelieved(t *testing.T) {
	e := quiet(t)
	p, err := e.NewPort(PortParams{Local: loopback})
	must(t, err)
	must(t, p.SetRemote([]byte(head+"m=audio 4000 RTP/AVP 0\r\n")))
	rr := rtcp.ReceiverReport{SSRC: 1, Reports: []rtcp.ReceptionReport{{SSRC: p.out.ssrc, TotalLost: 9}}}
	b, err := rr.Marshal()
	must(t, err)
	p.report(b, netip.MustParseAddrPort("198.51.100.7:4001"))
	if s := p.Stats(); s.Reported || s.Strangers != 1 {
		t.Errorf("%+v", s)
	}
	p.report(b, netip.MustParseAddrPort("192.0.2.1:9"))
	if s := p.Stats(); s.Strangers != 1 || !p.in.count.hasFar {
		t.Errorf("%+v", s)
	}
}
