package box

import (
	"bytes"
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

// TestMalformedPackets floods every port with what is not a message, while
// phones go on registering and the interface answers.
func TestMalformedPackets(t *testing.T) {
	b := newBox(t)
	b.up()
	u := b.user("201")
	p := b.phone(u, u.Devices[0].Password)
	if err := p.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := b.status()

	junk := [][]byte{
		{}, {0}, []byte("\r\n\r\n"), []byte("\r\n"), bytes.Repeat([]byte{0xff}, 60_000), bytes.Repeat([]byte("A"), 60_000),
		[]byte("INVITE"), []byte("INVITE sip:x SIP/2.0"), []byte("INVITE sip:x SIP/2.0\r\n\r\n"), []byte("SIP/2.0 200 OK\r\n\r\n"),
		[]byte("REGISTER sip:x SIP/2.0\r\nVia: SIP/2.0/UDP ;branch=\r\nTo: \r\nFrom: \r\nCall-ID: \r\nCSeq: \r\n\r\n"),
		[]byte("INVITE sip:201@x SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:201@b>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\nContent-Length: 99999999\r\n\r\n"),
		[]byte("INVITE sip:201@x SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:201@b>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\nContent-Length: -5\r\n\r\nx"),
		[]byte("OPTIONS sip:x SIP/2.0\r\n" + string(bytes.Repeat([]byte("Via: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK1\r\n"), 1000)) + "\r\n"),
		[]byte("GET / HTTP/1.1\r\n\r\n"), []byte("\x16\x03\x01\x02\x00\x01\x00"), {0x80, 0, 0, 0},
	}
	tortures, err := filepath.Glob("../../sipcore/edge/testdata/rfc4475/*.dat")
	if err != nil {
		t.Fatal(err)
	}
	v6, err := filepath.Glob("../../sipcore/edge/testdata/rfc5118/wire/*.dat")
	if tortures = append(tortures, v6...); err != nil || len(tortures) < 50 {
		t.Fatalf("%d torture messages: %v", len(tortures), err)
	}
	for _, name := range tortures {
		m, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		junk = append(junk, m)
	}
	for range 200 {
		x := make([]byte, 300)
		rand.Read(x)
		junk = append(junk, x)
		// a good message with some bytes replaced
		y := []byte("REGISTER sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;rport;branch=z9hG4bKy\r\nMax-Forwards: 70\r\nFrom: <sip:201@x>;tag=1\r\nTo: <sip:201@x>\r\nCall-ID: y\r\nCSeq: 1 REGISTER\r\nContact: <sip:201@127.0.0.1:9>\r\nContent-Length: 0\r\n\r\n")
		for i := range 5 {
			y[int(x[2*i])*len(y)/256] = x[2*i+1]
		}
		junk = append(junk, y)
	}

	udp, err := net.Dial("udp", b.ip.String()+":5060")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	send := func() {
		for _, m := range junk {
			_, _ = udp.Write(m)
		}
		for _, port := range []string{"5060", "5870", "8443"} {
			for i := 0; i < len(junk); i += 7 {
				c, err := net.Dial("tcp", b.ip.String()+":"+port)
				if err != nil {
					t.Fatalf("port %s: %v", port, err)
				}
				_ = c.SetDeadline(time.Now().Add(time.Second))
				_, _ = c.Write(junk[i])
				if i%2 == 0 {
					_, _ = c.Write(junk[(i+3)%len(junk)])
				}
				c.Close()
			}
		}
	}
	// and connections that say nothing, or one letter at a time
	var silent []net.Conn
	for i := range 150 {
		c, err := net.Dial("tcp", net.JoinHostPort(b.ip.String(), []string{"5060", "5870", "8443"}[i%3]))
		if err == nil {
			_, _ = c.Write([]byte("I"))
			silent = append(silent, c)
		}
	}
	defer func() {
		for _, c := range silent {
			c.Close()
		}
	}()
	for range 5 {
		send()
		if err := options(b.ip, 3*time.Second); err != nil {
			t.Fatalf("OPTIONS during the flood: %v\n%s", err, b.out.String())
		}
		if err := p.Refresh(t.Context()); err != nil {
			t.Fatalf("REGISTER during the flood: %v", err)
		}
		if _, err := ask[api.User](b, "GET", "/users/201", nil); err != nil {
			t.Fatalf("the interface during the flood: %v", err)
		}
	}
	after := b.status()
	if !b.running() || after.Users != before.Users || after.Phones != before.Phones {
		t.Errorf("the flood changed something: %+v", after)
	}
	if said := b.out.String(); bytes.Contains([]byte(said), []byte("panic")) {
		t.Errorf("something panicked:\n%.4000s", said)
	}
	if len(b.out.String()) > 1<<20 {
		t.Errorf("the flood filled the log: %d bytes", len(b.out.String()))
	}
}
