package p2p

import (
	"bytes"
	"crypto/ed25519"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"carrierclass.net/ccnode/mesh"
)

// FuzzLink: whatever an authenticated peer sends over its link, reading it
// ends, and nothing longer than the limit is handed on.
func FuzzLink(f *testing.F) {
	frame := func(kind byte, acks uint32, body []byte) []byte {
		return append(appendHead(nil, kind, acks, uint32(len(body))), body...)
	}
	f.Add(frame(frameUrgent, 0, []byte("state")))
	f.Add(append(frame(frameBulk|frameQuiet, 7, bytes.Repeat([]byte{1}, 300)), frame(frameAck, 1, nil)...))
	f.Add([]byte{frameUrgent, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{frameAck, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	_, key, err := ed25519.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{5}, 32)))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := New(Config{Key: key, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err != nil {
			t.Fatal(err)
		}
		id := mesh.PeerID{1}
		m.Admit([]mesh.Peer{{ID: id}})
		x, y := net.Pipe()
		m.install(id, &conn{Conn: y, raw: &counter{Conn: y, m: m}, peer: id}, false)
		go io.Copy(io.Discard, x)
		go func() {
			x.Write(in)
			x.Close()
		}()
		for ev := range m.Events() {
			if len(ev.Body) > mesh.MaxFrame {
				t.Fatalf("a frame of %d bytes", len(ev.Body))
			}
			if ev.Kind == mesh.LinkDown {
				break
			}
		}
		m.Close()
	})
}
