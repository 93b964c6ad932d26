package media

import (
	"bytes"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pion/rtp"
)

var loopback = netip.MustParseAddr("127.0.0.1")

func engine(t testing.TB, change ...func(*Config)) *Engine {
	t.Helper()
	c := Config{Now: time.Now, Rand: rand.Reader, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), Drain: 20 * time.Millisecond}
	for _, f := range change {
		f(&c)
	}
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func port(t testing.TB, e *Engine) *Port {
	t.Helper()
	p, err := e.NewPort(PortParams{Chain: "test", Local: loopback})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// phone is one end of a leg: a socket that speaks RTP.
type phone struct {
	t    testing.TB
	conn *net.UDPConn
	to   netip.AddrPort
	head rtp.Header
}

func newPhone(t testing.TB) *phone {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &phone{t: t, conn: c, head: rtp.Header{Version: 2, SSRC: 0x1234, SequenceNumber: 65530, Timestamp: 1 << 31}}
}

func (p *phone) addr() netip.AddrPort { return p.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// sdp says where the phone is; more are lines to add or formats to use.
func (p *phone) sdp(formats string, lines ...string) []byte {
	return description4(p.addr(), "7 7", formats, lines...)
}

func description4(at netip.AddrPort, version, formats string, lines ...string) []byte {
	s := "v=0\r\no=- " + version + " IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 " + at.Addr().String() + "\r\nt=0 0\r\nm=audio " +
		itoa(int(at.Port())) + " RTP/AVP " + formats + "\r\n"
	for _, l := range lines {
		s += l + "\r\n"
	}
	return []byte(s)
}

func itoa(n int) string { return string(appendInt(nil, n)) }

func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

// target takes where to send from our description.
func (p *phone) target(sdp []byte) {
	p.t.Helper()
	d, err := parse(sdp)
	if err != nil {
		p.t.Fatalf("our own description: %v\n%s", err, sdp)
	}
	i, err := d.audio(-1)
	if err != nil {
		p.t.Fatal(err)
	}
	p.to = netip.AddrPortFrom(d.streams[i].addr, uint16(d.streams[i].port))
}

func (p *phone) send(pt uint8, payload []byte) {
	p.t.Helper()
	p.head.PayloadType = pt
	pkt := rtp.Packet{Header: p.head, Payload: payload}
	b, err := pkt.Marshal()
	if err != nil {
		p.t.Fatal(err)
	}
	p.head.SequenceNumber++
	p.head.Timestamp += 160
	if _, err := p.conn.WriteToUDPAddrPort(b, p.to); err != nil {
		p.t.Fatal(err)
	}
}

// read waits for the next RTP packet.
func (p *phone) read() *rtp.Packet {
	p.t.Helper()
	b := make([]byte, 2048)
	_ = p.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, _, err := p.conn.ReadFromUDPAddrPort(b)
	if err != nil {
		p.t.Fatal(err)
	}
	var pkt rtp.Packet
	if err := pkt.Unmarshal(b[:n]); err != nil {
		p.t.Fatal(err)
	}
	return &pkt
}

// pair puts two phones through a bridge, the way a call does.
func pair(t testing.TB, e *Engine, offer, answer []string) (a, b *phone, pa, pb *Port) {
	t.Helper()
	a, b = newPhone(t), newPhone(t)
	pa, pb = port(t, e), port(t, e)
	must(t, pa.SetRemote(a.sdp(offer[0], offer[1:]...)))
	toB, err := pb.Local(a.sdp(offer[0], offer[1:]...))
	must(t, err)
	b.target(toB)
	answerB := b.sdp(answer[0], answer[1:]...)
	must(t, pb.SetRemote(answerB))
	toA, err := pa.Local(answerB)
	must(t, err)
	a.target(toA)
	must(t, e.Bridge(pa, pb))
	return a, b, pa, pb
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what another goroutine is about to do.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal("it never became so")
		}
		runtime.Gosched()
	}
}

func TestBridgeRelaysBothWays(t *testing.T) {
	e := engine(t)
	a, b, pa, pb := pair(t, e, []string{"0 8 101", "a=rtpmap:101 telephone-event/8000"}, []string{"0 101", "a=rtpmap:101 telephone-event/8000"})
	for i := range 20 {
		payload := []byte{byte(i), 1, 2, 3}
		a.send(0, payload)
		if got := b.read(); !bytes.Equal(got.Payload, payload) || got.PayloadType != 0 || got.SSRC == 0x1234 {
			t.Fatalf("b heard %v", got)
		}
		b.send(0, payload)
		if got := a.read(); !bytes.Equal(got.Payload, payload) {
			t.Fatalf("a heard %v", got)
		}
	}
	if s := pa.Stats(); s.Received != 20 || s.Sent != 20 || !s.Heard || s.Lost != 0 {
		t.Errorf("stats of a: %+v", s)
	}
	must(t, e.Bridge(pa, nil))
	a.send(0, []byte{1})
	eventually(t, func() bool { return pa.Stats().Received == 21 })
	must(t, e.Bridge(pb, pa))
	a.send(0, []byte("again"))
	if got := b.read(); string(got.Payload) != "again" {
		t.Errorf("after unbridging and bridging: %v", got)
	}
}

func TestPayloadTypesAreTranslated(t *testing.T) {
	e := engine(t)
	a, b, _, _ := pair(t, e,
		[]string{"0 101", "a=rtpmap:101 telephone-event/8000"},
		[]string{"0 96", "a=rtpmap:96 telephone-event/8000"})
	a.send(101, []byte{5, 0, 0, 160})
	if got := b.read(); got.PayloadType != 96 {
		t.Errorf("b got keys as %d, said 96", got.PayloadType)
	}
	b.send(101, []byte{6, 0, 0, 160}) // the number our offer named
	if got := a.read(); got.PayloadType != 101 {
		t.Errorf("a got keys as %d, said 101", got.PayloadType)
	}
	b.send(96, []byte{6, 0, 0, 160}) // its own number: many phones do
	if got := a.read(); got.PayloadType != 101 {
		t.Errorf("a got keys as %d, said 101", got.PayloadType)
	}
}

func TestLatchIgnoresStrangers(t *testing.T) {
	e := engine(t)
	a, b, pa, _ := pair(t, e, []string{"0"}, []string{"0"})
	a.send(0, []byte("me"))
	b.read()
	s := newPhone(t)
	s.to = a.to
	s.send(0, []byte("stranger"))
	a.send(0, []byte("me again"))
	if got := b.read(); string(got.Payload) != "me again" {
		t.Errorf("b heard %q", got.Payload)
	}
	if n := pa.Stats().Strangers; n != 1 {
		t.Errorf("%d strangers counted, want 1", n)
	}
}

func TestLatchFollowsNATButTheNamedSourceWins(t *testing.T) {
	e := engine(t)
	a, b, pa, pb := pair(t, e, []string{"0"}, []string{"0"})
	nat := newPhone(t) // the same phone as the NAT shows it
	nat.to = a.to
	nat.send(0, []byte("through NAT"))
	b.read()
	b.send(0, []byte("hello"))
	if got := nat.read(); string(got.Payload) != "hello" {
		t.Errorf("nat heard %q", got.Payload)
	}
	a.send(0, []byte("from where I said"))
	b.read()
	nat.send(0, []byte("late"))
	eventually(t, func() bool { return pa.Stats().Strangers == 1 }) // or it would be the first after the new description
	b.send(0, []byte("to you"))
	if got := a.read(); string(got.Payload) != "to you" {
		t.Errorf("a heard %q", got.Payload)
	}
	// A new description moves the stream.
	moved := newPhone(t)
	must(t, pa.SetRemote(description4(moved.addr(), "7 8", "0")))
	_, err := pa.Local(description4(b.addr(), "7 7", "0"))
	must(t, err)
	b.send(0, []byte("moved?"))
	if got := moved.read(); string(got.Payload) != "moved?" {
		t.Errorf("moved heard %q", got.Payload)
	}
	_ = pb
}

func TestStreamGoesOnWhenTheSourceChanges(t *testing.T) {
	e := engine(t)
	a, b, _, pb := pair(t, e, []string{"0"}, []string{"0"})
	a.send(0, []byte("one"))
	first := b.read()
	c := newPhone(t)
	pc := port(t, e)
	must(t, pc.SetRemote(c.sdp("0")))
	toC, err := pc.Local(b.sdp("0"))
	must(t, err)
	c.target(toC)
	c.head.SSRC, c.head.SequenceNumber, c.head.Timestamp = 99, 7, 7
	must(t, e.Bridge(pc, pb))
	c.send(0, []byte("two"))
	second := b.read()
	if second.SSRC != first.SSRC || second.SequenceNumber != first.SequenceNumber+1 || !second.Marker {
		t.Errorf("after %v came %v", first, second)
	}
	if d := second.Timestamp - first.Timestamp; d < 160 || d > 8000 {
		t.Errorf("timestamp stepped by %d", d)
	}
}

func TestClosedPortDrainsThenGoes(t *testing.T) {
	e := engine(t, func(c *Config) { c.Drain = 50 * time.Millisecond })
	p := port(t, e)
	at := p.Addr()
	must(t, p.Close())
	must(t, p.Close())
	if c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at)); err == nil {
		_ = c.Close()
		t.Error("the port was free while it should drain")
	}
	<-p.gone
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatalf("the port was not given back: %v", err)
	}
	_ = c.Close()
	if open, draining := e.Ports(); open != 0 || draining != 0 {
		t.Errorf("%d open, %d draining", open, draining)
	}
}

func TestLocalKeepsTheLayout(t *testing.T) {
	e := engine(t)
	p := port(t, e)
	offer := "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n" +
		"m=video 5000 RTP/AVP 99\r\na=rtpmap:99 H264/90000\r\nm=audio 5002 RTP/SAVP 0\r\nm=audio 5004 RTP/AVP 8 96\r\na=rtpmap:96 telephone-event/8000\r\na=sendonly\r\n"
	must(t, p.SetRemote([]byte(offer)))
	got, err := p.Local(nil)
	must(t, err)
	for _, want := range []string{"m=video 0 RTP/AVP 99\r\nm=audio 0 RTP/SAVP 0\r\nm=audio ", " RTP/AVP 8 96\r\n", "a=recvonly\r\n", "a=fmtp:96 0-15"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	again, err := p.Local(nil)
	must(t, err)
	if !bytes.Equal(bytes.SplitN(got, []byte("\r\n"), 3)[1], bytes.SplitN(again, []byte("\r\n"), 3)[1]) {
		t.Log("a second offer may have another version; it has other codecs")
	}
}

func packet(seq uint16, ts, ssrc uint32) *rtp.Packet {
	return &rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: seq, Timestamp: ts, SSRC: ssrc}, Payload: make([]byte, 160)}
}
