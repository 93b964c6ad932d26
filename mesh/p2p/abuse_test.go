package p2p

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"carrierclass.net/ccnode/mesh"
)

// box starts a mesh on loopback without anything in between.
func box(t *testing.T, set func(*Config)) (*Mesh, mesh.Peer) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Key: key, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	if set != nil {
		set(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, mesh.Peer{ID: m.ID(), Addrs: []string{m.Addrs()[0].String()}}
}

func from(ip string) func(*Config) {
	return func(c *Config) { c.DialFrom = netip.MustParseAddr(ip) }
}

func acks(d time.Duration) func(*Config) { return func(c *Config) { c.AckTimeout = d } }

// await takes events until one of a kind comes.
func await(t *testing.T, m *Mesh, kind mesh.Kind, within time.Duration) mesh.Event {
	t.Helper()
	late := time.After(within)
	for {
		select {
		case ev, ok := <-m.Events():
			if !ok {
				t.Fatal("the events ended")
			}
			if ev.Kind == kind {
				return ev
			}
		case <-late:
			t.Fatalf("no %v within %v", kind, within)
		}
	}
}

// door listens on loopback and does something with each connection.
func door(t *testing.T, fn func(net.Conn)) (addr string, came *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	came = &atomic.Int32{}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			came.Add(1)
			go fn(c)
		}
	}()
	return l.Addr().String(), came
}

func splice(c net.Conn, to string) {
	d, err := net.Dial("tcp", to)
	if err != nil {
		c.Close()
		return
	}
	go func() { io.Copy(d, c); d.Close() }()
	io.Copy(c, d)
	c.Close()
}

func TestMembersComeAndGoWhileTheyAreDialled(t *testing.T) {
	a, _ := box(t, nil)
	b, pb := box(t, nil)
	b.Admit([]mesh.Peer{{ID: a.ID()}})
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				a.Admit([]mesh.Peer{pb, {ID: mesh.PeerID{byte(i)}}})
			}
		}
	}()
	go func() {
		for range a.Events() {
		}
	}()
	for range 20 {
		a.Dial(pb.ID)
		if s, err := a.OpenStream(t.Context(), pb.ID, "/x/1"); err == nil {
			s.Close()
		}
		a.Drop(pb.ID, errors.New("again"))
	}
	close(stop)
	<-done
}

func TestFramesToAnUnreachablePeerDoNotDialInALoop(t *testing.T) {
	t.Parallel()
	addr, came := door(t, func(c net.Conn) { c.Close() })
	a, _ := box(t, nil)
	id := mesh.PeerID{7}
	a.Admit([]mesh.Peer{{ID: id, Addrs: []string{addr}}})
	var downs atomic.Int32
	go func() {
		for ev := range a.Events() {
			if ev.Kind == mesh.LinkDown {
				downs.Add(1)
			}
		}
	}()
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		a.Send(mesh.Frame{Peer: id, Body: []byte("news")})
	}
	if n := came.Load(); n != 1 {
		t.Errorf("500 ms of frames dialled %d times, want once", n)
	}
	if downs.Load() == 0 {
		t.Error("nobody was told that the peer is not reached")
	}
	a.Dial(id) // somebody has a reason
	for end := time.Now().Add(2 * time.Second); came.Load() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("Dial did not dial")
		}
	}
}

func TestIdleConnectionsDoNotKeepMembersOut(t *testing.T) {
	t.Parallel()
	a, pa := box(t, nil)
	b, pb := box(t, nil)
	a.Admit([]mesh.Peer{pb})
	b.Admit([]mesh.Peer{pa})
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 66)}}
	for range 300 {
		c, err := d.Dial("tcp", pa.Addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	b.Dial(pa.ID)
	await(t, b, mesh.LinkUp, 3*time.Second)
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := a.handshakes[netip.MustParseAddr("127.0.0.66")]; n > maxFromAddress {
		t.Errorf("one address has %d unproven connections, want at most %d", n, maxFromAddress)
	}
}

func TestOneAddressDoesNotTakeAllStrangersPlaces(t *testing.T) {
	t.Parallel()
	a, pa := box(t, nil)
	a.HandleStrangers("/join/1", func(s mesh.Stream) { io.WriteString(s, "who?"); io.Copy(io.Discard, s); s.Close() })
	knock := func(ip string) error {
		m, _ := box(t, from(ip))
		m.Admit([]mesh.Peer{pa})
		s, err := m.OpenStream(t.Context(), pa.ID, "/join/1")
		if err != nil {
			return err
		}
		s.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, err = io.ReadFull(s, make([]byte, 4))
		return err
	}
	for i := range strangersFrom {
		if err := knock("127.0.0.66"); err != nil {
			t.Fatalf("stranger %d: %v", i, err)
		}
	}
	if err := knock("127.0.0.66"); err == nil {
		t.Error("one address has more strangers than it may")
	}
	if err := knock("127.0.0.67"); err != nil {
		t.Errorf("a stranger from elsewhere: %v", err)
	}
}

func TestADeadPeerIsNoticedThoughMoreAndMoreIsSent(t *testing.T) {
	t.Parallel()
	f := &fabric{change: make(chan struct{})}
	a, _ := f.Node(t)
	b, pb := f.Node(t)
	a.Admit([]mesh.Peer{pb})
	b.Admit([]mesh.Peer{{ID: a.(*Mesh).ID()}})
	a.Dial(pb.ID)
	await(t, a.(*Mesh), mesh.LinkUp, 3*time.Second)
	f.Cut()
	begun := time.Now()
	for time.Since(begun) < 10*time.Second {
		a.Send(mesh.Frame{Peer: pb.ID, Body: []byte("still there?")})
		select {
		case ev := <-a.Events():
			if ev.Kind != mesh.LinkDown || !errors.Is(ev.Err, mesh.ErrSilent) {
				t.Fatalf("got %v (%v)", ev.Kind, ev.Err)
			}
			if d := time.Since(begun); d > 4*time.Second {
				t.Errorf("noticed after %v", d)
			}
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
	t.Fatal("never noticed")
}

// TestAThinLineIsNotADeadOne: 2 kB/s is what two calls leave of 64 kbit/s.
func TestAThinLineIsNotADeadOne(t *testing.T) {
	t.Parallel()
	a, _ := box(t, nil)
	b, pb := box(t, nil)
	b.Admit([]mesh.Peer{{ID: a.ID()}})
	thin, _ := door(t, func(c net.Conn) {
		c.(*net.TCPConn).SetReadBuffer(2 << 10)
		d, err := net.Dial("tcp", pb.Addrs[0])
		if err != nil {
			c.Close()
			return
		}
		go func() { io.Copy(c, d); c.Close() }()
		buf := make([]byte, 200)
		for {
			n, err := c.Read(buf)
			if err != nil {
				d.Close()
				return
			}
			d.Write(buf[:n])
			time.Sleep(time.Duration(n) * time.Second / 2000)
		}
	})
	a.Admit([]mesh.Peer{{ID: pb.ID, Addrs: []string{thin}}})
	a.Dial(pb.ID)
	await(t, a, mesh.LinkUp, 3*time.Second)
	var over atomic.Bool // then b goes first, and a may see it go
	defer over.Store(true)
	go func() {
		for ev := range a.Events() {
			if ev.Kind == mesh.LinkDown && !over.Load() {
				t.Errorf("the link was given up: %v", ev.Err)
			}
		}
	}()
	for range 2 {
		a.Send(mesh.Frame{Peer: pb.ID, Body: make([]byte, 8<<10)})
	}
	for range 2 {
		await(t, b, mesh.Received, 15*time.Second)
	}
}

func TestWhoReadsSlowlyLosesNoLink(t *testing.T) {
	t.Parallel()
	a, pa := box(t, acks(300*time.Millisecond))
	b, pb := box(t, acks(20*time.Second))
	a.Admit([]mesh.Peer{pb})
	b.Admit([]mesh.Peer{pa})
	b.Dial(pa.ID)
	await(t, b, mesh.LinkUp, 3*time.Second)
	await(t, a, mesh.LinkUp, 3*time.Second)
	const n = 600
	for range n {
		b.Send(mesh.Frame{Peer: pa.ID, Body: make([]byte, 1000)})
	}
	for { // until a's reader waits for us
		a.mu.Lock()
		waiting := len(a.queue) > 256
		a.mu.Unlock()
		if waiting {
			break
		}
		time.Sleep(time.Millisecond)
	}
	a.Send(mesh.Frame{Peer: pb.ID, Body: []byte("its acknowledgement comes behind all that")})
	time.Sleep(time.Second) // well beyond a's acknowledgement time, while nobody reads
	for range n {
		if ev := <-a.Events(); ev.Kind != mesh.Received {
			t.Fatalf("got %v (%v), want what was sent", ev.Kind, ev.Err)
		}
	}
}

func TestWhatWasMeantForAnOldLinkIsNotSentOnTheNewOne(t *testing.T) {
	t.Parallel()
	a, pa := box(t, nil)
	b, pb := box(t, nil)
	a.Admit([]mesh.Peer{pb})
	b.Admit([]mesh.Peer{pa})
	b.Dial(pa.ID)
	await(t, b, mesh.LinkUp, 3*time.Second)
	for !a.Stats(pb.ID).Linked { // else the second link may be there before the first
		time.Sleep(time.Millisecond)
	}
	b.Drop(pa.ID, errors.New("cut"))
	await(t, b, mesh.LinkDown, 3*time.Second)
	b.Dial(pa.ID)
	await(t, b, mesh.LinkUp, 3*time.Second)
	for !a.Stats(pb.ID).Linked || func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.queue) < 2 }() {
		time.Sleep(time.Millisecond)
	}
	if ev := <-a.Events(); ev.Kind != mesh.LinkUp {
		t.Fatalf("got %v", ev.Kind)
	}
	a.Send(mesh.Frame{Peer: pb.ID, Body: []byte("for the first link")})
	if ev := <-a.Events(); ev.Kind != mesh.LinkDown {
		t.Fatalf("got %v", ev.Kind)
	}
	if ev := <-a.Events(); ev.Kind != mesh.LinkUp {
		t.Fatalf("got %v", ev.Kind)
	}
	a.Send(mesh.Frame{Peer: pb.ID, Body: []byte("for the second link")})
	if ev := await(t, b, mesh.Received, 3*time.Second); string(ev.Body) != "for the second link" {
		t.Errorf("got %q", ev.Body)
	}
}

func TestASilentAddressDoesNotHoldUpTheNext(t *testing.T) {
	t.Parallel()
	silent, _ := door(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	a, pa := box(t, nil)
	b, pb := box(t, nil)
	b.Admit([]mesh.Peer{pa})
	a.Admit([]mesh.Peer{{ID: pb.ID, Addrs: []string{silent, pb.Addrs[0]}}})
	begun := time.Now()
	a.Dial(pb.ID)
	await(t, a, mesh.LinkUp, 3*time.Second)
	if d := time.Since(begun); d > 1500*time.Millisecond {
		t.Errorf("the good address was reached after %v", d)
	}
}

// TestAMemberThatLeavesMeanwhileGetsNoConnection: it is revoked between the
// dial and the handshake.
func TestAMemberThatLeavesMeanwhileGetsNoConnection(t *testing.T) {
	t.Parallel()
	b, pb := box(t, nil)
	ready, pass := make(chan struct{}, 1), make(chan struct{})
	addr, _ := door(t, func(c net.Conn) { ready <- struct{}{}; <-pass; splice(c, pb.Addrs[0]) })
	a, pa := box(t, nil)
	b.Admit([]mesh.Peer{pa})
	a.Admit([]mesh.Peer{{ID: pb.ID, Addrs: []string{addr}}})
	failed := make(chan error, 1)
	go func() {
		_, err := a.OpenStream(context.Background(), pb.ID, "/x/1")
		failed <- err
	}()
	<-ready
	a.Admit(nil)
	close(pass)
	if err := <-failed; err == nil {
		t.Error("a stream was opened to a node that is no member any more")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.open) != 0 {
		t.Errorf("%d connections to it are still open", len(a.open))
	}
}

func TestRelaysDoNotGoRoundInCircles(t *testing.T) {
	t.Parallel()
	var second atomic.Int32
	yes := func(mesh.PeerID, mesh.PeerID) bool { return true }
	a, pa := box(t, nil)
	r1, p1 := box(t, func(c *Config) { c.Relay = yes })
	r2, p2 := box(t, func(c *Config) { c.Relay = func(x, y mesh.PeerID) bool { second.Add(1); return true } })
	c := mesh.PeerID{9}
	a.Admit([]mesh.Peer{p1, {ID: c, Via: []mesh.PeerID{p1.ID}}})
	r1.Admit([]mesh.Peer{pa, p2, {ID: c, Addrs: []string{"127.0.0.1:1"}, Via: []mesh.PeerID{p2.ID}}})
	r2.Admit([]mesh.Peer{p1, {ID: c, Via: []mesh.PeerID{p1.ID}}})
	begun := time.Now()
	if _, err := a.OpenStream(t.Context(), c, "/x/1"); err == nil {
		t.Error("a node nobody can reach was reached")
	}
	if second.Load() != 0 {
		t.Error("a relay asked another relay")
	}
	if d := time.Since(begun); d > 2*time.Second {
		t.Errorf("that took %v", d)
	}
}

// A link that began over a relay, because the address was not known yet, does
// not stay there: what is on the same LAN would cross the relay's line for good.
func TestALinkOverARelayBecomesDirect(t *testing.T) {
	t.Parallel()
	yes := func(mesh.PeerID, mesh.PeerID) bool { return true }
	for _, late := range []string{"a", "b", "both"} {
		a, pa := box(t, nil)
		b, pb := box(t, nil)
		r, pr := box(t, func(c *Config) { c.Relay = yes })
		r.Admit([]mesh.Peer{pa, pb})
		via := []mesh.PeerID{pr.ID}
		a.Admit([]mesh.Peer{pr, {ID: pb.ID, Via: via}})
		b.Admit([]mesh.Peer{pr, {ID: pa.ID, Via: via}})
		served := make(chan mesh.Stream, 4)
		b.Handle("/x/1", func(s mesh.Stream) { served <- s })
		a.Dial(pb.ID)
		await(t, a, mesh.LinkUp, 5*time.Second)
		await(t, b, mesh.LinkUp, 5*time.Second)
		s, err := a.OpenStream(t.Context(), pb.ID, "/x/1")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if in, out := r.Total(); in+out == 0 {
			t.Fatal("it does not go over the relay")
		}
		if late != "b" {
			a.Admit([]mesh.Peer{pr, {ID: pb.ID, Addrs: pb.Addrs, Via: via}})
		}
		if late != "a" {
			b.Admit([]mesh.Peer{pr, {ID: pa.ID, Addrs: pa.Addrs, Via: via}})
		}
		direct := func(m *Mesh, id mesh.PeerID) bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			l := m.peers[id].link
			return l != nil && !l.relayed()
		}
		for begun := time.Now(); !direct(a, pb.ID) || !direct(b, pa.ID); time.Sleep(5 * time.Millisecond) {
			if time.Since(begun) > 5*time.Second {
				t.Fatalf("addresses known to %s: the link still goes over the relay", late)
			}
		}
		time.Sleep(50 * time.Millisecond) // the old one ends
		if late == "b" {
			continue // a knows no address to open a stream to
		}
		in, out := r.Total()
		s, err = a.OpenStream(t.Context(), pb.ID, "/x/1")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Write(make([]byte, 4000)); err != nil {
			t.Fatal(err)
		}
		<-served
		if _, err := io.ReadFull(<-served, make([]byte, 4000)); err != nil {
			t.Fatal(err)
		}
		if i, o := r.Total(); i+o-in-out > 2000 {
			t.Errorf("addresses known to %s: a new stream still goes over the relay: %d bytes", late, i+o-in-out)
		}
	}
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	settle := func() (n int) {
		for range 100 {
			if m := runtime.NumGoroutine(); m == n {
				break
			} else {
				n = m
			}
			time.Sleep(20 * time.Millisecond)
		}
		return n
	}
	before := settle()
	for range 5 {
		a, pa := box(t, nil)
		b, pb := box(t, nil)
		a.Admit([]mesh.Peer{pb})
		b.Admit([]mesh.Peer{pa})
		b.Handle("/echo/1", func(s mesh.Stream) { io.Copy(s, s); s.Close() })
		a.Dial(pb.ID)
		await(t, a, mesh.LinkUp, 3*time.Second)
		a.Send(mesh.Frame{Peer: pb.ID, Body: []byte("x")})
		s, err := a.OpenStream(t.Context(), pb.ID, "/echo/1")
		if err != nil {
			t.Fatal(err)
		}
		s.Write([]byte("x"))
		io.ReadFull(s, make([]byte, 1))
		a.Close()
		b.Close()
	}
	if after := settle(); after > before+2 {
		buf := make([]byte, 1<<16)
		t.Errorf("%d goroutines before, %d after\n%s", before, after, buf[:runtime.Stack(buf, true)])
	}
}

// A peer that acknowledges more than it was sent has lost count: its link ends.
func TestWhoAcknowledgesWhatWasNotSentIsDropped(t *testing.T) {
	t.Parallel()
	a, _ := box(t, nil)
	id := mesh.PeerID{1}
	a.Admit([]mesh.Peer{{ID: id}})
	x, y := net.Pipe()
	defer x.Close()
	a.install(id, &conn{Conn: y, raw: &counter{Conn: y, m: a}, peer: id}, false)
	await(t, a, mesh.LinkUp, 3*time.Second)
	go x.Write(appendHead(nil, frameAck, 1, 0))
	if ev := await(t, a, mesh.LinkDown, 3*time.Second); ev.Err == nil || errors.Is(ev.Err, io.EOF) {
		t.Errorf("the link ended with %v", ev.Err)
	}
}
