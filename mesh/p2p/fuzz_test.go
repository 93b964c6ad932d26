package p2p

import (
	"bytes"
	"crypto/ed25519"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

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

// muxed is a stream of one connection, over a pipe.
type muxed struct{ net.Conn }

func (m muxed) Reset() error                                 { return m.Close() }
func (m muxed) ResetWithError(network.StreamErrorCode) error { return m.Close() }
func (m muxed) CloseRead() error                             { return nil }
func (m muxed) CloseWrite() error                            { return nil }

// FuzzStream: whatever stands at the beginning of a stream, serving it ends; a
// stranger gets only what is for strangers, and a relay carries nothing for
// whom it does not know.
func FuzzStream(f *testing.F) {
	named := func(name string, rest ...byte) []byte {
		return append(append([]byte{byte(len(name))}, name...), rest...)
	}
	f.Add(named("/members"), true)
	f.Add(named("/members"), false)
	f.Add(named("/anybody", 1, 2, 3), false)
	f.Add(named(relayProtocol, bytes.Repeat([]byte{9}, len(mesh.PeerID{}))...), true)
	f.Add([]byte{0xff, 'x'}, true)
	_, key, err := ed25519.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{5}, 32)))
	if err != nil {
		f.Fatal(err)
	}
	relayed := make(chan mesh.PeerID, 1)
	m, err := New(Config{Key: key, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Relay: func(from, to mesh.PeerID) bool { relayed <- from; return false }})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { m.Close() })
	served := make(chan string, 1)
	m.Handle("/members", func(s mesh.Stream) { served <- "members"; s.Close() })
	m.HandleStrangers("/anybody", func(s mesh.Stream) { served <- "anybody"; s.Close() })
	member := mesh.PeerID{1}
	m.Admit([]mesh.Peer{{ID: member}})
	f.Fuzz(func(t *testing.T, in []byte, known bool) {
		x, y := net.Pipe()
		s := &session{m: m, id: mesh.PeerID{2}}
		if known {
			s.id = member
		}
		go io.Copy(io.Discard, y) // ends with y
		go func() {
			y.Write(in)
			y.Close()
		}()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.serveStream(muxed{x})
		}()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatalf("%x is served without an end", in)
		}
		select {
		case what := <-served:
			if what == "members" && !known {
				t.Fatalf("%x: a stranger is served", in)
			}
		case who := <-relayed:
			if who != member {
				t.Fatalf("%x: a relay for %v", in, who)
			}
		default:
		}
	})
}
