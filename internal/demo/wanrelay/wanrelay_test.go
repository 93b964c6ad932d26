package wanrelay

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// network is two or three one-node sites on loopback addresses of this test's
// own, so that tests running at the same time do not meet.
type network struct {
	*Relay
	nodes []Node
}

var blocks int

func newNetwork(t *testing.T, sites int, cfg Config) *network {
	t.Helper()
	before := runtime.NumGoroutine()
	pid := os.Getpid()
	blocks++
	for i := range sites {
		cfg.Nodes = append(cfg.Nodes, Node{
			Site:    string(rune('a' + i)),
			Inside:  netip.AddrFrom4([4]byte{127, byte(64 + pid%64), byte(pid / 64 % 256), byte(blocks*16 + i + 1)}),
			Outside: netip.AddrFrom4([4]byte{127, byte(128 + pid%64), byte(pid / 64 % 256), byte(blocks*16 + i + 1)}),
			TCP:     []uint16{5870}, UDP: PortRange{30000, 30003},
		})
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
			if time.Now().After(end) {
				buf := make([]byte, 1<<16)
				t.Fatalf("goroutines left: %d, were %d\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
			}
		}
	})
	return &network{r, cfg.Nodes}
}

func (n *network) listen(t *testing.T, i int) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(n.nodes[i].Inside, 5870)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (n *network) dial(t *testing.T, from, to int) *net.TCPConn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: n.nodes[from].Inside.AsSlice()}, Timeout: 5 * time.Second}
	c, err := d.Dial("tcp4", netip.AddrPortFrom(n.nodes[to].Outside, 5870).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func (n *network) udp(t *testing.T, i int, port uint16) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.nodes[i].Inside, port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (n *network) send(t *testing.T, c *net.UDPConn, to int, port uint16, text string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(n.nodes[to].Outside, port)); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, c *net.UDPConn, within time.Duration) (string, netip.AddrPort) {
	t.Helper()
	buf := make([]byte, 2000)
	c.SetReadDeadline(time.Now().Add(within))
	size, from, err := c.ReadFromUDPAddrPort(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", from
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:size]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

func TestStreamBothWays(t *testing.T) {
	n := newNetwork(t, 2, Config{})
	l := n.listen(t, 1)
	c := n.dial(t, 0, 1)
	s, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, want := addrOf(s.RemoteAddr()).Addr(), n.nodes[0].Outside; got != want {
		t.Errorf("b sees %v, want a's outside address %v", got, want)
	}
	data := make([]byte, 300_000)
	rand.Read(data)
	go func() { c.Write(data); c.CloseWrite() }()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("b got %d octets, %v; want %d unchanged", len(got), err, len(data))
	}
	// The way back is open although a has finished.
	s.Write([]byte("thanks"))
	s.Close()
	if got, err := io.ReadAll(c); string(got) != "thanks" || err != nil {
		t.Fatalf("a got %q, %v", got, err)
	}
	k := n.Counters()
	if there := k[Direction{"a", "b"}]; there.TCPBytes != 300_000 || there.TCPConns != 1 || there.UDPBytes != 0 {
		t.Errorf("counted %+v from a to b", there)
	}
	if back := k[Direction{"b", "a"}]; back.TCPBytes != 6 || back.TCPConns != 0 {
		t.Errorf("counted %+v from b to a", back)
	}
	if total := n.Total().Bytes(); total != 300_006 {
		t.Errorf("counted %d in all", total)
	}
}

func TestClosedPortAndStrangerAreRefused(t *testing.T) {
	n := newNetwork(t, 2, Config{})
	refused := func(who string, from net.IP) {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 5 * time.Second}
		c, err := d.Dial("tcp4", netip.AddrPortFrom(n.nodes[1].Outside, 5870).String())
		if err == nil { // the reset came after the handshake
			defer c.Close()
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			_, err = c.Read(make([]byte, 1))
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", who, err)
		}
	}
	refused("nobody listens at b", n.nodes[0].Inside.AsSlice())
	l := n.listen(t, 1)
	refused("a stranger", net.IPv4(127, 0, 0, 1))
	l.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := l.Accept(); err == nil {
		t.Error("b was reached by a stranger")
	}
}

func TestDatagramKeepsItsPort(t *testing.T) {
	n := newNetwork(t, 2, Config{})
	a, b := n.udp(t, 0, 30001), n.udp(t, 1, 30002)
	n.send(t, a, 1, 30002, "hello")
	got, from := receive(t, b, 5*time.Second)
	if want := netip.AddrPortFrom(n.nodes[0].Outside, 30001); got != "hello" || from != want {
		t.Fatalf("b got %q from %v, want hello from %v", got, from, want)
	}
	b.WriteToUDPAddrPort([]byte("back"), from) // as a telephone answers: to where it came from
	got, from = receive(t, a, 5*time.Second)
	if want := netip.AddrPortFrom(n.nodes[1].Outside, 30002); got != "back" || from != want {
		t.Fatalf("a got %q from %v, want back from %v", got, from, want)
	}
	stranger := n.udp(t, 0, 40000)
	n.send(t, stranger, 1, 30002, "who")
	if got, _ := receive(t, b, 50*time.Millisecond); got != "" {
		t.Errorf("b got %q from a port the relay does not hold", got)
	}
	if k := n.Counters()[Direction{"a", "b"}]; k.UDPPackets != 1 || k.UDPBytes != 5 {
		t.Errorf("counted %+v", k)
	}
}

func TestCutIsSilentAndHealGoesOn(t *testing.T) {
	n := newNetwork(t, 3, Config{})
	l := n.listen(t, 1)
	c := n.dial(t, 0, 1)
	s, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a, b, x := n.udp(t, 0, 30000), n.udp(t, 1, 30000), n.udp(t, 2, 30000)
	exchange := func(text string) {
		t.Helper()
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		s.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadFull(s, got); err != nil || string(got) != text {
			t.Fatalf("b got %q, %v; want %q", got, err, text)
		}
	}
	exchange("before")
	n.Cut("b")
	before := n.Total()
	c.Write([]byte("during"))
	n.send(t, a, 1, 30000, "lost")
	late := n.dial(t, 0, 1) // the kernel takes it up
	s.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("b reads %v during the cut, want silence", err)
	}
	if got, _ := receive(t, b, 50*time.Millisecond); got != "" {
		t.Fatalf("b got %q during the cut", got)
	}
	l.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := l.Accept(); err == nil {
		t.Fatal("b was dialled during the cut")
	}
	if d := n.Total().Minus(before); d.Bytes() != 0 || d.CutPackets != 1 || d.CutBytes != 4 {
		t.Errorf("during the cut %+v", d)
	}
	n.send(t, a, 2, 30000, "still here") // the others hear each other
	if got, _ := receive(t, x, 5*time.Second); got != "still here" {
		t.Errorf("c got %q from a", got)
	}

	n.Heal()
	got := make([]byte, 6)
	s.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "during" {
		t.Fatalf("after the heal b got %q, %v", got, err)
	}
	l.SetDeadline(time.Now().Add(5 * time.Second))
	s2, err := l.AcceptTCP()
	if err != nil {
		t.Fatalf("the held connection did not come: %v", err)
	}
	defer s2.Close()
	late.Write([]byte("x"))
	if _, err := io.ReadFull(s2, got[:1]); err != nil {
		t.Fatal(err)
	}
	n.send(t, a, 1, 30000, "again")
	if got, _ := receive(t, b, 5*time.Second); got != "again" {
		t.Errorf("b got %q after the heal; what the cut swallowed must not come back", got)
	}
	exchange("after")
}

func TestOneWayCut(t *testing.T) {
	n := newNetwork(t, 2, Config{})
	a, b := n.udp(t, 0, 30000), n.udp(t, 1, 30000)
	n.CutWay("a", "b")
	n.send(t, a, 1, 30000, "lost")
	n.send(t, b, 0, 30000, "heard")
	if got, _ := receive(t, a, 5*time.Second); got != "heard" {
		t.Errorf("a got %q", got)
	}
	if got, _ := receive(t, b, 50*time.Millisecond); got != "" {
		t.Errorf("b got %q", got)
	}
}

func TestCloseDuringCutLeavesNothing(t *testing.T) {
	n := newNetwork(t, 2, Config{Delay: time.Hour})
	n.listen(t, 1)
	c := n.dial(t, 0, 1)
	n.Cut("a")
	n.dial(t, 0, 1)
	c.Write([]byte("held"))
	n.send(t, n.udp(t, 0, 30000), 1, 30000, "held")
	n.Close() // newNetwork's Cleanup counts goroutines
}

// The arithmetic of the line, without a socket.
func TestLineRate(t *testing.T) {
	w := newWay(10 * time.Millisecond)
	t0 := time.Unix(1000, 0)
	if due, _ := w.reserve(t0, 1000, true); due != t0.Add(10*time.Millisecond) {
		t.Errorf("unshaped: due %v", due.Sub(t0))
	}
	w.setRate(64) // 8 octets a millisecond
	for i := 1; i <= 5; i++ {
		want := time.Duration(100*i+10) * time.Millisecond
		if due, ok := w.reserve(t0, 800, true); !ok || due.Sub(t0) != want {
			t.Errorf("piece %d due after %v, %v; want %v", i, due.Sub(t0), ok, want)
		}
	}
	if _, ok := w.reserve(t0, 1, true); ok {
		t.Error("a line 0.5 s behind took a datagram")
	}
	if _, ok := w.reserve(t0, 1, false); !ok {
		t.Error("a stream was refused")
	}
	if due, ok := w.reserve(t0.Add(time.Hour), 80, true); !ok || due.Sub(t0.Add(time.Hour)) != 20*time.Millisecond {
		t.Errorf("an idle line saved its time up: %v", due.Sub(t0.Add(time.Hour)))
	}
	if got := w.chunk(); got != 400 {
		t.Errorf("pieces of %d at 64 kbit/s, want 400 (50 ms)", got)
	}
}

func TestShapedStreamTakesItsTime(t *testing.T) {
	n := newNetwork(t, 2, Config{})
	n.Shape(256)
	l := n.listen(t, 1)
	c := n.dial(t, 0, 1)
	s, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	start := time.Now()
	go func() { c.Write(make([]byte, 14_000)); c.CloseWrite() }()
	got, err := io.Copy(io.Discard, s)
	took := time.Since(start)
	// 10 pieces of 1440 at 32 octets/ms are 450 ms.
	if got != 14_000 || err != nil || took < 400*time.Millisecond || took > 3*time.Second {
		t.Errorf("%d octets in %v, %v; want 14000 in 0.45 s", got, took, err)
	}
}

func TestConfigComplaints(t *testing.T) {
	lo := netip.MustParseAddr("127.9.9.9")
	_, err := New(Config{Nodes: []Node{
		{Site: "a", Inside: lo, Outside: lo},
		{Inside: netip.MustParseAddr("192.0.2.1"), Outside: netip.MustParseAddr("127.9.9.8"), UDP: PortRange{9, 8}},
	}})
	if !errors.Is(err, ErrConfig) {
		t.Fatal(err)
	}
	for _, want := range []string{"given twice", "no site", "192.0.2.1 is not a loopback", "UDP ports 9-8"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %q in %v", want, err)
		}
	}
}

func TestAddressInUseIsNamed(t *testing.T) {
	n := newNetwork(t, 2, Config{})
	_, err := New(Config{Nodes: n.nodes})
	if err == nil || !strings.Contains(err.Error(), n.nodes[0].Outside.String()) && !strings.Contains(err.Error(), n.nodes[1].Outside.String()) {
		t.Fatalf("got %v, want the address in use named", err)
	}
}
