package labkit

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// exchange sends one datagram from a to b and reports whether it came.
func exchange(t *testing.T, a, b *Host, size int) bool {
	t.Helper()
	rx, err := b.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer rx.Close()
	tx, err := a.Dial("udp", rx.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if _, err := tx.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	rx.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	n, _, err := rx.ReadFrom(make([]byte, 4096))
	return err == nil && n == size
}

func TestWanCountsCutsAndHeals(t *testing.T) {
	l := New(t, "a", "b", "c")
	a, a2, b, c := l.Host("a", "a1"), l.Host("a", "a2"), l.Host("b", "b1"), l.Host("c", "c1")
	before := l.Wan()
	if !exchange(t, a, b, 100) {
		t.Fatal("no datagram from a to b on a whole WAN")
	}
	if d := l.Wan().Since(before); d.Sum().All() != (Count{1, 128}) || d[[2]string{"a", "b"}].UDP != (Count{1, 128}) {
		t.Errorf("one datagram of 100 octets counted as %+v", d)
	}
	before = l.Wan()
	if !exchange(t, a, a2, 100) {
		t.Fatal("no datagram within the LAN")
	}
	if d := l.Wan().Since(before).Sum().All(); d != (Count{}) {
		t.Errorf("the LAN's traffic was counted on the WAN: %+v", d)
	}

	l.Cut("b")
	if exchange(t, a, b, 100) || exchange(t, b, c, 100) {
		t.Error("a datagram crossed the cut")
	}
	if !exchange(t, a, c, 100) || !exchange(t, a, a2, 100) {
		t.Error("the cut of b hurts others")
	}
	if d := l.Wan().Since(before)[[2]string{"a", "b"}]; d.UDP.Packets != 1 || d.Through.Packets != 0 {
		t.Errorf("a cut datagram was counted as %+v", d)
	}
	l.Heal()
	if !exchange(t, a, b, 100) {
		t.Error("no datagram after the heal")
	}

	l.CutWay("a", "b")
	if exchange(t, a, b, 100) || !exchange(t, b, a, 100) {
		t.Error("a one-way cut is not one way")
	}
	l.Heal()

	l.Lose(50)
	before = l.Wan()
	rx, err := b.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer rx.Close()
	tx, err := a.Dial("udp", rx.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	for range 400 {
		tx.Write([]byte("x"))
	}
	d := l.Wan().Since(before)[[2]string{"a", "b"}]
	if d.UDP.Packets != 400 || d.Through.Packets < 120 || d.Through.Packets > 280 {
		t.Errorf("of 400 datagrams at 50 %% loss %d passed", d.Through.Packets)
	}
	l.Heal()

	before = l.Wan()
	conn, err := a.Dial("tcp", b.Addr.String()+":9") // refused
	if err == nil {
		conn.Close()
		t.Error("a port nobody listens on was dialled")
	}
	if d := l.Wan().Since(before).Sum(); d.TCP.Packets != 2 || d.UDP.Packets != 0 {
		t.Errorf("SYN and RST counted as %+v", d)
	}
}

func TestCableAndLink(t *testing.T) {
	l := New(t, "a")
	x, y := l.Host("a", "x"), l.Host("a", "y")
	if !exchange(t, x, y, 10) {
		t.Fatal("no datagram on the LAN")
	}
	for _, c := range []struct {
		name     string
		out, put func()
	}{{"cable", y.Unplug, y.Plug}, {"link", y.LinkDown, y.LinkUp}} {
		c.out()
		if exchange(t, x, y, 10) {
			t.Errorf("%s: a datagram came to a host that is dark", c.name)
		}
		c.put()
		l.Within(3*time.Second, c.name+" back", func() bool { return exchange(t, x, y, 10) })
	}
}

func TestSlowLine(t *testing.T) {
	l := New(t, "a", "b")
	a, b := l.Host("a", "a1"), l.Host("b", "b1")
	l.Slow("b", 64)
	rx, err := b.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer rx.Close()
	tx, err := a.Dial("udp", rx.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	start := time.Now()
	for range 10 { // 10 packets of 642 octets on the wire, 5 of them the bucket
		tx.Write(make([]byte, 600))
	}
	rx.SetReadDeadline(time.Now().Add(3 * time.Second))
	for i := range 10 {
		if _, _, err := rx.ReadFrom(make([]byte, 2000)); err != nil {
			t.Fatalf("packet %d: %v", i, err)
		}
	}
	if took := time.Since(start); took < 250*time.Millisecond || took > 1500*time.Millisecond {
		t.Errorf("6.4 kB took %v at 64 kbit/s with a bucket of 3.2 kB, want 0.4 s", took)
	}
	l.Slow("b", 0)
}

func TestProcessOnHost(t *testing.T) {
	l := New(t, "a")
	h := l.Host("a", "x")
	p := h.Start("shell", "sh", "-c", "ip -br addr show eth0; read line </dev/tty; sleep 60")
	p.Kill()
	p = h.Start("shell", "sh", "-c", "ip -br addr show eth0; exec sleep 60")
	if line, err := p.Says("10.77.1.1/24", 5*time.Second); err != nil || !strings.Contains(line, "eth0") {
		t.Fatalf("%q, %v", line, err)
	}
	if _, err := p.Says("never", 50*time.Millisecond); err == nil {
		t.Error("heard what was not said")
	}
	if !p.Running() || syscall.Kill(p.PID(), 0) != nil {
		t.Error("the process does not run")
	}
	p.Stop(2 * time.Second)
	if p.Running() || syscall.Kill(p.PID(), 0) == nil {
		t.Error("the process still runs")
	}
	if out, err := h.Run(5*time.Second, "sh", "-c", "echo out; exit 3"); err == nil || strings.TrimSpace(out) != "out" {
		t.Errorf("%q, %v; want the exit status as error", out, err)
	}
	if _, err := h.Run(50*time.Millisecond, "sleep", "5"); err == nil {
		t.Error("a command without an end ended")
	}
}

func TestLine(t *testing.T) {
	l := New(t, "a", "b")
	a, b := l.Host("a", "a1"), l.Host("b", "b1")
	l.Line(64, 300*time.Millisecond)
	rx, err := b.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer rx.Close()
	tx, err := a.Dial("udp", rx.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	before, start := l.Wan(), time.Now()
	for range 20 { // of 628 octets each, 78.5 ms at 64 kbit/s; a second and one packet more waits
		tx.Write(make([]byte, 600))
	}
	var first, last time.Duration
	n := 0
	for ; ; n++ {
		rx.SetReadDeadline(time.Now().Add(time.Second))
		if _, _, err := rx.ReadFrom(make([]byte, 2000)); err != nil {
			break
		}
		if last = time.Since(start); n == 0 {
			first = last
		}
	}
	near := func(what string, is, want time.Duration) {
		if is < want-20*time.Millisecond || is > want+150*time.Millisecond {
			t.Errorf("the %s packet came after %v, want %v", what, is, want)
		}
	}
	near("first", first, 229*time.Millisecond)
	near("last", last, 1170*time.Millisecond)
	if n < 13 || n > 14 {
		t.Errorf("%d packets came, want 13: a second of them, and no more", n)
	}
	if c := l.Wan().Since(before)[[2]string{"a", "b"}].UDP; c.Packets != int64(n) {
		t.Errorf("%d packets counted, %d came", c.Packets, n)
	}
	l.Cut("b")
	tx.Write([]byte("cut"))
	rx.SetReadDeadline(time.Now().Add(600 * time.Millisecond))
	if _, _, err := rx.ReadFrom(make([]byte, 2000)); err == nil {
		t.Error("a packet came through the cut")
	}
	l.Heal()
	l.Line(0, 100*time.Millisecond)
	if !exchange(t, a, b, 1) {
		t.Error("nothing comes after the cut")
	}
}
