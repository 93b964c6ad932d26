package p2p

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/meshtest"
)

// fabric puts a relay before every node; a cut makes the relays swallow.
type fabric struct {
	mu     sync.Mutex
	cut    bool
	change chan struct{}
}

func (f *fabric) set(cut bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut = cut
	close(f.change)
	f.change = make(chan struct{})
}

func (f *fabric) Cut()  { f.set(true) }
func (f *fabric) Heal() { f.set(false) }

func (f *fabric) state() (bool, chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cut, f.change
}

func (f *fabric) Node(t *testing.T) (mesh.Mesh, mesh.Peer) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(Config{Key: key, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Now: time.Now,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close(); l.Close(); f.Heal() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.relay(t, c, m.Addrs()[0].String())
		}
	}()
	return m, mesh.Peer{ID: m.ID(), Addrs: []string{l.Addr().String()}}
}

// relay carries a connection; during a cut nothing passes, not even its end.
func (f *fabric) relay(t *testing.T, c net.Conn, to string) {
	if cut, _ := f.state(); cut {
		_, change := f.state()
		<-change
		c.Close()
		return
	}
	d, err := net.Dial("tcp", to)
	if err != nil {
		c.Close()
		return
	}
	pass := func(dst, src net.Conn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			for {
				cut, change := f.state()
				if !cut {
					break
				}
				<-change
			}
			if n > 0 {
				if _, err := dst.Write(buf[:n]); err != nil {
					break
				}
			}
			if err != nil {
				break
			}
		}
		dst.Close()
		src.Close()
	}
	go pass(c, d)
	pass(d, c)
}

func TestMesh(t *testing.T) {
	t.Parallel()
	meshtest.Run(t, func(t *testing.T) meshtest.Fabric { return &fabric{change: make(chan struct{})} })
}

// TestBytes counts what dials and frames cost, above TCP.
func TestBytes(t *testing.T) {
	f := &fabric{change: make(chan struct{})}
	a, pa := f.Node(t)
	b, pb := f.Node(t)
	a.Admit([]mesh.Peer{pb})
	b.Admit([]mesh.Peer{pa})
	a.Dial(pb.ID)
	<-a.Events()
	<-b.Events()
	in, out := a.Total()
	a.Send(mesh.Frame{Peer: pb.ID, Body: make([]byte, 100)})
	<-b.Events()
	time.Sleep(2 * ackDelay)
	in2, out2 := a.Total()
	t.Logf("cold dial %d B, then a frame of 100 B costs %d B with its acknowledgement", in+out, in2-in+out2-out)
	if in+out > 900 {
		t.Errorf("a cold dial costs %d bytes above TCP, want at most 900", in+out)
	}
	if n := in2 - in + out2 - out; n > 150 {
		t.Errorf("a warm frame costs %d bytes above TCP, want at most 150", n)
	}
}

// TestAThirdNodeRelays: a and c cannot dial each other; both reach b.
func TestAThirdNodeRelays(t *testing.T) {
	f := &fabric{change: make(chan struct{})}
	a, pa := f.Node(t)
	b, pb := f.Node(t)
	c, pc := f.Node(t)
	b.(*Mesh).cfg.Relay = func(from, to mesh.PeerID) bool { return from == pa.ID && to == pc.ID }
	a.Admit([]mesh.Peer{pb, {ID: pc.ID, Via: []mesh.PeerID{pb.ID}}})
	b.Admit([]mesh.Peer{pa, {ID: pc.ID}})
	c.Admit([]mesh.Peer{pb, {ID: pa.ID, Via: []mesh.PeerID{pb.ID}}})
	b.Handle("/hello/1", func(s mesh.Stream) { io.WriteString(s, "b"); s.Close() })
	c.Handle("/echo/1", func(s mesh.Stream) {
		if s.Peer() != pa.ID {
			t.Errorf("c is told that %v speaks, want a", s.Peer())
		}
		io.Copy(s, s)
		s.Close()
	})
	ctx := t.Context()
	up, err := c.OpenStream(ctx, pb.ID, "/hello/1") // c keeps a connection to its relay
	if err != nil {
		t.Fatal(err)
	}
	io.ReadAll(up)
	s, err := a.OpenStream(ctx, pc.ID, "/echo/1")
	if err != nil {
		t.Fatal(err)
	}
	s.Write([]byte("INVITE"))
	got := make([]byte, 6)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "INVITE" {
		t.Fatalf("through the relay: %q, %v", got, err)
	}
	a.Dial(pc.ID)
	if ev := <-a.Events(); ev.Kind != mesh.LinkUp || ev.Peer != pc.ID {
		t.Fatalf("a link through the relay: %+v", ev)
	}
	a.Send(mesh.Frame{Peer: pc.ID, Body: []byte("state")})
	for ev := range c.Events() {
		if ev.Kind == mesh.Received {
			if string(ev.Body) != "state" {
				t.Errorf("got %q", ev.Body)
			}
			break
		}
	}
	// The other way is not allowed here, and is refused.
	if s, err := c.OpenStream(ctx, pa.ID, "/x/1"); err == nil {
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("a relay carried what it was not told to")
		}
	}
}

// TestALinkOverThePeersOwnConnection: c cannot be dialled, and no other node
// carries for it, but a connection that it made stands.
func TestALinkOverThePeersOwnConnection(t *testing.T) {
	f := &fabric{change: make(chan struct{})}
	a, pa := f.Node(t)
	c, pc := f.Node(t)
	a.Admit([]mesh.Peer{{ID: pc.ID}})
	c.Admit([]mesh.Peer{pa})
	a.Handle("/hello/1", func(s mesh.Stream) { io.WriteString(s, "a"); s.Close() })
	a.Dial(pc.ID)
	if ev := <-a.Events(); ev.Kind != mesh.LinkDown || !errors.Is(ev.Err, mesh.ErrNoAddress) {
		t.Fatalf("without a connection: %+v", ev)
	}
	up, err := c.OpenStream(t.Context(), pa.ID, "/hello/1")
	if err != nil {
		t.Fatal(err)
	}
	io.ReadAll(up)
	a.Dial(pc.ID)
	if ev := <-a.Events(); ev.Kind != mesh.LinkUp || ev.Peer != pc.ID {
		t.Fatalf("with one: %+v", ev)
	}
	a.Send(mesh.Frame{Peer: pc.ID, Body: []byte("state")})
	for ev := range c.Events() {
		if ev.Kind == mesh.Received {
			if string(ev.Body) != "state" {
				t.Errorf("got %q", ev.Body)
			}
			break
		}
	}
}
