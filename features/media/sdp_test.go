package media

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"carrierclass.net/ccnode/internal/site"
)

const head = "v=0\r\no=u 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"

// version and body of a description of ours.
func version(t *testing.T, sdp []byte) string {
	t.Helper()
	for line := range strings.Lines(string(sdp)) {
		if o, ok := strings.CutPrefix(line, "o="); ok {
			return strings.Fields(o)[2]
		}
	}
	t.Fatalf("no o= in\n%s", sdp)
	return ""
}

func TestMalformedAndUnacceptable(t *testing.T) {
	for _, c := range []struct {
		name, sdp string
		want      site.Cause
	}{
		{"empty", "", site.BadRequest},
		{"not SDP", "hello", site.BadRequest},
		{"wrong version", strings.Replace(head, "v=0", "v=1", 1) + "m=audio 4000 RTP/AVP 0\r\n", site.BadRequest},
		{"port", head + "m=audio 70000 RTP/AVP 0\r\n", site.BadRequest},
		{"port word", head + "m=audio x RTP/AVP 0\r\n", site.BadRequest},
		{"no format", head + "m=audio 4000 RTP/AVP\r\n", site.BadRequest},
		{"no c", "v=0\r\no=u 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n", site.BadRequest},
		{"no o", "v=0\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n", site.BadRequest},
		{"c of the wrong family", strings.Replace(head, "c=IN IP4 192.0.2.1", "c=IN IP6 192.0.2.1", 1) + "m=audio 4000 RTP/AVP 0\r\n", site.BadRequest},
		{"smuggled line", head + "m=audio 4000 RTP/AVP 0\r\na=fmtp:0 x\rm=audio 1 RTP/AVP 0\r\n", site.BadRequest},
		{"too long", head + "m=audio 4000 RTP/AVP 0\r\na=x:" + strings.Repeat("x", maxSDP) + "\r\n", site.BadRequest},
		{"too many lines", head + strings.Repeat("m=audio 0 RTP/AVP 0\r\n", maxMedia+1), site.BadRequest},
		{"no media", head, site.NotAcceptable},
		{"video only", head + "m=video 4000 RTP/AVP 31\r\n", site.NotAcceptable},
		{"fax", head + "m=image 4000 udptl t38\r\n", site.NotAcceptable},
		{"encrypted only", head + "m=audio 4000 RTP/SAVP 0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x\r\n", site.NotAcceptable},
		{"keys only", head + "m=audio 4000 RTP/AVP 101\r\na=rtpmap:101 telephone-event/8000\r\n", site.NotAcceptable},
		{"unexplained number", head + "m=audio 4000 RTP/AVP 97\r\n", site.NotAcceptable},
		{"rejected", head + "m=audio 0 RTP/AVP 0\r\n", site.NotAcceptable},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := port(t, engine(t))
			if err := p.SetRemote([]byte(c.sdp)); !errors.Is(err, c.want) {
				t.Errorf("SetRemote: %v, want %v", err, c.want)
			}
			if _, err := p.Local([]byte(c.sdp)); !errors.Is(err, c.want) {
				t.Errorf("Local: %v, want %v", err, c.want)
			}
			// Nothing has changed: the leg can still be used.
			if _, err := p.Local(nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRefusedReInviteChangesNothing(t *testing.T) {
	p := port(t, engine(t))
	must(t, p.SetRemote([]byte(head+"m=audio 4000 RTP/AVP 0\r\n")))
	one, err := p.Local(nil)
	must(t, err)
	if err := p.SetRemote([]byte(strings.Replace(head, " 1 1 ", " 1 2 ", 1) + "m=audio 0 RTP/AVP 0\r\nm=image 4000 udptl t38\r\n")); !errors.Is(err, site.NotAcceptable) {
		t.Fatal(err)
	}
	must(t, p.SetRemote([]byte(strings.Replace(head, " 1 1 ", " 1 3 ", 1)+"m=audio 4000 RTP/AVP 0\r\n")))
	two, err := p.Local(nil)
	must(t, err)
	if string(one) != string(two) {
		t.Errorf("a refresh changed\n%s\nto\n%s", one, two)
	}
}

func TestVersionRisesByOneWithEachChange(t *testing.T) {
	p := port(t, engine(t))
	first, err := p.Local(nil)
	must(t, err)
	again, err := p.Local(nil)
	must(t, err)
	held, err := p.Local([]byte(head + "m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=sendonly\r\n"))
	must(t, err)
	var a, b uint64
	if _, err := fmt.Sscan(version(t, first)+" "+version(t, held), &a, &b); err != nil {
		t.Fatal(err)
	}
	if version(t, first) != version(t, again) || b != a+1 {
		t.Errorf("versions %s, %s, %s", version(t, first), version(t, again), version(t, held))
	}
}

// A hold goes through a call of two legs and comes back.
func TestHoldThroughACall(t *testing.T) {
	at := netip.MustParseAddrPort("192.0.2.9:4000")
	for _, c := range []struct {
		name, offer          string
		toB, answerB, answer string
	}{
		{"sendonly", "a=sendonly", "a=sendonly", "a=recvonly", "a=recvonly"},
		{"inactive", "a=inactive", "a=inactive", "a=inactive", "a=inactive"},
		{"back", "a=sendrecv", "a=sendrecv", "a=sendrecv", "a=sendrecv"},
		{"b does not understand hold", "a=sendonly", "a=sendonly", "a=sendrecv", "a=recvonly"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := engine(t)
			pa, pb := port(t, e), port(t, e)
			must(t, pa.SetRemote(description4(at, "1 1", "0")))
			_, err := pb.Local(description4(at, "1 1", "0"))
			must(t, err)
			must(t, pb.SetRemote(description4(at, "2 1", "0")))
			_, err = pa.Local(description4(at, "2 1", "0"))
			must(t, err)
			must(t, e.Bridge(pa, pb))

			must(t, pa.SetRemote(description4(at, "1 2", "0", c.offer)))
			toB, err := pb.Local(description4(at, "1 2", "0", c.offer))
			must(t, err)
			must(t, pb.SetRemote(description4(at, "2 2", "0", c.answerB)))
			toA, err := pa.Local(description4(at, "2 2", "0", c.answerB))
			must(t, err)
			if !strings.Contains(string(toB), c.toB+"\r\n") || !strings.Contains(string(toA), c.answer+"\r\n") {
				t.Errorf("to b:\n%s\nto a:\n%s", toB, toA)
			}
			if held := c.offer != "a=sendrecv"; pa.Held() != held {
				t.Errorf("a held: %v", pa.Held())
			}
		})
	}
}

func TestOldHoldKeepsTheStream(t *testing.T) {
	e := engine(t)
	a, b, pa, pb := pair(t, e, []string{"0"}, []string{"0"})
	old := strings.Replace(string(description4(a.addr(), "7 8", "0")), "c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0", 1)
	must(t, pa.SetRemote([]byte(old)))
	answer, err := pa.Local(b.sdp("0", "a=recvonly"))
	must(t, err)
	if !strings.Contains(string(answer), "a=recvonly") || !pa.Held() {
		t.Errorf("held %v:\n%s", pa.Held(), answer)
	}
	b.send(0, []byte("not to be heard"))
	eventually(t, func() bool { return pb.Stats().Received == 1 })
	if n := pa.Stats().Sent; n != 0 {
		t.Errorf("%d packets sent to a phone on hold", n)
	}
	must(t, pa.SetRemote(description4(a.addr(), "7 9", "0")))
	_, err = pa.Local(b.sdp("0"))
	must(t, err)
	a.send(0, []byte("back"))
	b.read()
	b.send(0, []byte("back too"))
	if got := a.read(); string(got.Payload) != "back too" {
		t.Errorf("a heard %q", got.Payload)
	}
}

func TestAnswerTakesTheOfferersNumbers(t *testing.T) {
	p := port(t, engine(t))
	must(t, p.SetRemote([]byte(head+"m=audio 4000 RTP/AVP 18 111 8 0 96\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 useinbandfec=1\r\na=rtpmap:96 telephone-event/8000\r\na=ptime:30\r\n")))
	got, err := p.Local([]byte(head + "m=audio 5000 RTP/AVP 107 8 101\r\na=rtpmap:107 OPUS/48000/2\r\na=fmtp:107 maxaveragebitrate=16000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:60\r\na=maxptime:120\r\n"))
	must(t, err)
	for _, want := range []string{" RTP/AVP 111 8 96\r\n", "a=rtpmap:111 opus/48000/2\r\n", "a=fmtp:111 maxaveragebitrate=16000\r\n", "a=fmtp:96 0-16\r\n", "a=ptime:60\r\n", "a=maxptime:120\r\n"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	// A codec that only one side has: none in common.
	q := port(t, engine(t))
	must(t, q.SetRemote([]byte(head+"m=audio 4000 RTP/AVP 0\r\n")))
	if _, err := q.Local([]byte(head + "m=audio 5000 RTP/AVP 18\r\n")); !errors.Is(err, site.NotAcceptable) {
		t.Error(err)
	}
}

func TestOffersKeepTheNumbersOfTheLeg(t *testing.T) {
	p := port(t, engine(t))
	first, err := p.Local([]byte(head + "m=audio 5000 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n"))
	must(t, err)
	must(t, p.SetRemote([]byte(head+"m=audio 4000 RTP/AVP 0 101\r\na=rtpmap:101 telephone-event/8000\r\n")))
	// The other leg is replaced by one in which 101 means something else.
	second, err := p.Local([]byte(head + "m=audio 5000 RTP/AVP 101 0 96\r\na=rtpmap:101 opus/48000/2\r\na=rtpmap:96 telephone-event/8000\r\n"))
	must(t, err)
	if !strings.Contains(string(first), "RTP/AVP 0 101\r\n") || !strings.Contains(string(second), "RTP/AVP 96 0 101\r\n") ||
		!strings.Contains(string(second), "a=rtpmap:96 opus/48000/2\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n") {
		t.Errorf("first\n%s\nsecond\n%s", first, second)
	}
}

func TestLinesNeverBecomeFewer(t *testing.T) {
	p := port(t, engine(t))
	must(t, p.SetRemote([]byte(head+"m=audio 4000 RTP/AVP 0\r\nm=video 4002 RTP/AVP 31\r\n")))
	_, err := p.Local(nil)
	must(t, err)
	offer, err := p.Local([]byte(head + "m=audio 5000 RTP/AVP 0\r\n"))
	must(t, err)
	if !strings.Contains(string(offer), "m=video 0 RTP/AVP 31\r\n") {
		t.Errorf("an offer of ours forgot the video line:\n%s", offer)
	}
}

func TestRTPAndSRTPInOneOffer(t *testing.T) {
	p := port(t, engine(t))
	must(t, p.SetRemote([]byte(head+"m=audio 4000 RTP/SAVP 0\r\nm=audio 4002 RTP/AVP 0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x\r\n")))
	got, err := p.Local(nil)
	must(t, err)
	if !strings.Contains(string(got), "m=audio 0 RTP/SAVP 0\r\nm=audio ") || strings.Contains(string(got), "crypto") {
		t.Error(string(got))
	}
}

func TestIPv6(t *testing.T) {
	e := engine(t)
	p, err := e.NewPort(PortParams{Local: netip.MustParseAddr("::1")})
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	defer func() { _ = p.Close() }()
	must(t, p.SetRemote([]byte("v=0\r\no=u 1 1 IN IP6 ::1\r\ns=-\r\nc=IN IP6 ::1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n")))
	got, err := p.Local(nil)
	must(t, err)
	if !strings.Contains(string(got), "c=IN IP6 ::1\r\n") || p.flow.Load().want != netip.MustParseAddrPort("[::1]:4000") {
		t.Error(string(got))
	}
}

func TestPortRange(t *testing.T) {
	// A free range: what a throw-away pair sat on.
	var low uint16
	func() {
		e := engine(t)
		p := port(t, e)
		low = p.Addr().Port()
		must(t, p.Close())
		p.release()
	}()
	e := engine(t, func(c *Config) { c.PortMin, c.PortMax, c.Drain = low, low+3, 1<<40 })
	one, err := e.NewPort(PortParams{Local: loopback})
	if err != nil {
		t.Skipf("somebody took the range: %v", err)
	}
	two, err := e.NewPort(PortParams{Local: loopback})
	if err != nil {
		t.Skipf("somebody took the range: %v", err)
	}
	if one.Addr().Port()%2 != 0 || two.Addr() == one.Addr() {
		t.Errorf("%v, %v", one.Addr(), two.Addr())
	}
	if _, err := e.NewPort(PortParams{Local: loopback}); !errors.Is(err, site.NodeFull) {
		t.Errorf("a third call: %v", err)
	}
	was := one.Addr()
	must(t, one.Close())
	three, err := e.NewPort(PortParams{Local: loopback}) // the drain is cut short when ports are scarce
	must(t, err)
	if three.Addr() != was {
		t.Errorf("%v, want %v", three.Addr(), was)
	}
	if open, draining := e.Ports(); open != 2 || draining != 0 {
		t.Errorf("%d open, %d draining", open, draining)
	}
	if _, err := e.NewPort(PortParams{Local: netip.MustParseAddr("0.0.0.0")}); err == nil {
		t.Error("a port at 0.0.0.0")
	}
	for _, c := range []Config{{}, {PortMin: 5}, {PortMin: 9, PortMax: 8}, {PortMin: 8, PortMax: 9}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

func TestARefusedOfferIsForgotten(t *testing.T) {
	p := port(t, engine(t))
	must(t, p.SetRemote([]byte(head+"m=audio 4000 RTP/AVP 0\r\n")))
	_, err := p.Local(nil)
	must(t, err)
	_, err = p.Local([]byte(head + "m=audio 5000 RTP/AVP 0\r\na=sendonly\r\n"))
	must(t, err)
	p.Rollback() // 491
	must(t, p.SetRemote([]byte(strings.Replace(head, " 1 1 ", " 1 2 ", 1)+"m=audio 4000 RTP/AVP 0\r\nm=video 4002 RTP/AVP 31\r\n")))
	answer, err := p.Local([]byte(head + "m=audio 5000 RTP/AVP 0\r\n"))
	must(t, err)
	if !strings.Contains(string(answer), "m=video 0 RTP/AVP 31\r\n") {
		t.Errorf("their offer was taken for an answer:\n%s", answer)
	}
}
