package phonetest

import (
	"bytes"
	"net/netip"
	"testing"
)

var phoneHost = netip.MustParseAddr("127.0.0.1")

func FuzzSDP(f *testing.F) {
	w := sdpWriter{id: 7, host: phoneHost, port: 4000}
	f.Add(w.offer(sendrecv))
	f.Add([]byte(sdpAt(9, "m=video 8 RTP/AVP 96\r\na=sendonly\r\n")))
	f.Add([]byte("v=0\nm=audio 1/2 RTP/AVP 0 101\nc=IN IP6 ::1\na=rtpmap:101 telephone-event/8000\n"))
	f.Add([]byte("c=IN IP4 224.1.1.1/127\r\na=rtpmap:0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseSDP(b)
		if err != nil {
			return
		}
		if d.audio >= len(d.lines) {
			t.Fatalf("audio line %d of %d", d.audio, len(d.lines))
		}
		if d.audio < 0 {
			return
		}
		// What we answer can be read again, and takes what was offered.
		w := sdpWriter{id: 7, host: phoneHost, port: 4000}
		a, err := parseSDP(w.answer(d, between(sendrecv, d.dir)))
		if err != nil {
			t.Fatalf("our answer: %v", err)
		}
		if a.audio != d.audio || len(a.lines) != len(d.lines) || a.event != d.event || a.addr.Port() != 4000 {
			t.Fatalf("offer %+v, our answer %+v", d, a)
		}
		if a.dir.sends() && !d.dir.hears() {
			t.Fatalf("we send, they do not hear: %v, %v", a.dir, d.dir)
		}
	})
}

func FuzzRTP(f *testing.F) {
	f.Add(append([]byte{0x80, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1}, 0xff))
	f.Add([]byte{0xb1, 101, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 0, 0, 0, 0, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, payload, ok := parseRTP(b); ok && !bytes.Contains(b, payload) {
			t.Fatal("payload from nowhere")
		}
	})
}

func FuzzSummary(f *testing.F) {
	f.Add([]byte("Messages-Waiting: yes\r\nMessage-Account: sip:a@b\r\nVoice-Message: 2/8 (0/2)\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) { parseSummary(b) })
}

func TestSummaries(t *testing.T) {
	for _, c := range []struct {
		body     string
		lit      bool
		new, old int
	}{
		{"Messages-Waiting: yes\r\nMessage-Account: sip:a@b\r\nVoice-Message: 2/8 (0/2)\r\n", true, 2, 8},
		{"messages-waiting: no\nvoice-message: 0/3\n", false, 0, 3},
		{"Messages-Waiting: yes\r\n", true, 0, 0},
		{"", false, 0, 0},
	} {
		if lit, new, old := parseSummary([]byte(c.body)); lit != c.lit || new != c.new || old != c.old {
			t.Errorf("%q: %v %d/%d", c.body, lit, new, old)
		}
	}
}
