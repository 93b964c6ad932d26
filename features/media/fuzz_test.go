package media

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/rtp"

	"carrierclass.net/ccnode/internal/site"
)

// fed is a connection that delivers what it was given and then is closed.
type fed struct {
	at   netip.AddrPort
	from netip.AddrPort
	in   [][]byte
	open chan struct{}
	sent int
}

func (f *fed) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	if len(f.in) == 0 {
		<-f.open
		return 0, netip.AddrPort{}, net.ErrClosed
	}
	n := copy(b, f.in[0])
	f.in = f.in[1:]
	return n, f.from, nil
}
func (f *fed) WriteToUDPAddrPort(b []byte, _ netip.AddrPort) (int, error) {
	f.sent++
	return len(b), nil
}
func (f *fed) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(f.at) }
func (f *fed) Close() error {
	select {
	case <-f.open:
	default:
		close(f.open)
	}
	return nil
}

func quiet(t testing.TB, in ...[]byte) *Engine {
	port := uint16(4000)
	return engine(t, func(c *Config) {
		c.Drain = time.Nanosecond
		c.Listen = func(at netip.AddrPort) (PacketConn, error) {
			f := &fed{at: netip.AddrPortFrom(at.Addr(), port), from: netip.MustParseAddrPort("192.0.2.1:4000"), open: make(chan struct{})}
			if at.Port() == 0 {
				f.in = in
			}
			port++
			return f, nil
		}
	})
}

// Whatever comes in as a description: no panic, and what we answer is one that
// we understand, names only our address, and accepts at most one stream.
func FuzzSDP(f *testing.F) {
	for _, s := range []string{
		head + "m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=rtcp:4005 IN IP4 192.0.2.2\r\n",
		head + "m=video 1 RTP/AVP 31\r\nm=audio 4000 RTP/AVPF 111\r\nc=IN IP4 0.0.0.0\r\na=rtpmap:111 opus/48000/2\r\na=inactive\r\n",
		head + "m=audio 4000/2 RTP/SAVP 0\r\nm=audio 1 RTP/AVP 9 9 9\r\n",
		"v=0\no=- 1 1 IN IP6 ::1\ns=-\nc=IN IP6 ff02::1/3\nt=0 0\nm=audio 65535 RTP/AVP 3\n",
		head + "m=audio 4000 RTP/AVP 97\r\nc=IN IP4 phone.example\r\na=rtpmap:97 iLBC/8000\r\na=maxptime:1e9\r\n",
	} {
		f.Add([]byte(s), []byte(head+"m=audio 4000 RTP/AVP 0 96\r\na=rtpmap:96 telephone-event/8000\r\na=sendonly\r\n"))
		f.Add([]byte(head+"m=audio 4000 RTP/AVP 0 97 3 111\r\na=rtpmap:97 iLBC/8000\r\na=rtpmap:111 opus/48000/2\r\n"), []byte(s))
	}
	f.Fuzz(func(t *testing.T, remote, template []byte) {
		e := quiet(t)
		p, err := e.NewPort(PortParams{Local: loopback})
		must(t, err)
		defer func() { _ = e.Close() }()
		check := func(out []byte, err error) {
			t.Helper()
			if err != nil {
				if !errors.Is(err, site.BadRequest) && !errors.Is(err, site.NotAcceptable) {
					t.Fatalf("an error without a cause: %v", err)
				}
				return
			}
			d, err := parse(out)
			if err != nil {
				t.Fatalf("we do not understand ourselves: %v\n%q", err, out)
			}
			live := 0
			for _, s := range d.streams {
				if s.port != 0 {
					live++
					if s.addr != loopback || s.port != int(p.Addr().Port()) {
						t.Fatalf("we named %v:%d", s.addr, s.port)
					}
				}
			}
			if live != 1 {
				t.Fatalf("%d live streams in\n%s", live, out)
			}
		}
		taken := p.SetRemote(remote) == nil
		out, err := p.Local(template)
		check(out, err)
		if taken && err == nil {
			r, _ := parse(remote)
			l, _ := parse(out)
			if len(l.streams) != len(r.streams) {
				t.Fatalf("%d lines answer %d", len(l.streams), len(r.streams))
			}
		}
		check(p.Local(nil))
		_ = p.SetRemote(template)
		check(p.Local(remote))
	})
}

// Whatever arrives on the sockets: no panic, and nothing is sent to a place
// that was not negotiated or latched.
func FuzzPackets(f *testing.F) {
	voice := append([]byte{0x80, 0, 0, 1, 0, 0, 0, 160, 0, 0, 0, 9}, make([]byte, 160)...)
	f.Add(voice, append([]byte{0x80, 101, 0, 2, 0, 0, 0, 160, 0, 0, 0, 9}, 5, 0x80, 1, 64))
	f.Add([]byte{0x80, 200, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{0x81, 201, 0, 7})
	f.Add([]byte{0x9F, 0x80, 0, 1}, []byte{0xB0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0xBE, 0xDE, 0, 1, 0x1F, 1, 2, 3, 0, 0, 0, 255})
	f.Fuzz(func(t *testing.T, one, two []byte) {
		e := quiet(t)
		a, err := e.NewPort(PortParams{Local: loopback})
		must(t, err)
		b, err := e.NewPort(PortParams{Local: loopback})
		must(t, err)
		defer func() { _ = e.Close() }()
		sdp := []byte(head + "m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\n")
		for _, p := range []*Port{a, b} {
			must(t, p.SetRemote(sdp))
			_, err := p.Local(nil)
			must(t, err)
		}
		must(t, e.Bridge(a, b))
		s := a.Session()
		j := newJitter(e.cfg.Now())
		s.rec.Store(j)
		for _, bytes := range [][]byte{one, two, two, one} {
			for _, p := range []*Port{a, b} {
				feed(p, bytes)
				p.report(bytes, netip.MustParseAddrPort("192.0.2.1:4001"))
			}
		}
		must(t, e.Bridge(a, nil))
		feed(a, one)
		feed(a, two)
		r := &recorder{w: io.Discard, limit: Rate, began: e.cfg.Now(), lastAt: e.cfg.Now()}
		r.turn(j, e.cfg.Now(), true)
		if r.pos > Rate {
			t.Fatalf("recorded %d samples of at most %d", r.pos, Rate)
		}
		_ = a.Stats()
	})
}

// feed gives a port one datagram, as its reader would.
func feed(p *Port, b []byte) {
	q := &Port{e: p.e, params: p.params, epoch: p.epoch, gone: make(chan struct{})}
	q.rtp = &fed{in: [][]byte{bytes.Clone(b)}, from: netip.MustParseAddrPort("192.0.2.1:4000"), open: closed}
	q.rtcp = &fed{open: closed}
	q.flow.Store(p.flow.Load())
	q.sink.Store(p.sink.Load())
	q.readRTP()
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func FuzzWAV(f *testing.F) {
	f.Add(append(WAVHeader(MuLaw, 3), 1, 2, 3))
	f.Add(append(WAVHeader(PCM16, -1), 1, 2, 3))
	f.Add([]byte("RIFF\x24\x00\x00\x00WAVELIST\x01\x00\x00\x00x\x00fmt \x10\x00\x00\x00\x06\x00\x01\x00\x40\x1f\x00\x00\x40\x1f\x00\x00\x01\x00\x08\x00data\x02\x00\x00\x00ab"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := NewWAVReader(bytes.NewReader(b))
		c, clipErr := ParseClip(b)
		if err != nil {
			if !errors.Is(err, ErrWAV) || clipErr == nil {
				t.Fatalf("%v, %v", err, clipErr)
			}
			return
		}
		pcm, err := ReadAll(r, time.Minute)
		if len(pcm) > len(b) {
			t.Fatalf("%d samples of %d bytes", len(pcm), len(b))
		}
		if clipErr == nil {
			again, cerr := ReadAll(c.Source(), time.Minute)
			if err != nil || cerr != nil || len(again) != len(pcm) {
				t.Fatalf("read as a file: %d, %v; as a clip: %d, %v", len(pcm), err, len(again), cerr)
			}
		}
	})
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte{5, 0x80, 1, 0}, uint32(160), true, []byte{5, 0, 2, 0}, uint32(320))
	f.Fuzz(func(t *testing.T, one []byte, ts1 uint32, mark bool, two []byte, ts2 uint32) {
		var r keyReader
		n := 0
		for i, p := range []*rtp.Packet{
			{Header: rtp.Header{Timestamp: ts1, Marker: mark}, Payload: one}, {Header: rtp.Header{Timestamp: ts2}, Payload: two},
			{Header: rtp.Header{Timestamp: ts2}, Payload: two},
		} {
			if k, ok := r.read(p, time.Unix(0, int64(i))); ok {
				n++
				if !strings.ContainsRune(keyNames, k) {
					t.Fatalf("key %q", k)
				}
			}
		}
		if n > 2 {
			t.Fatal("one packet twice is two presses")
		}
	})
}
