package sntp

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 500_000_000, time.UTC)

func lan(a netip.Addr) bool {
	return a.IsLoopback() || netip.MustParsePrefix("192.168.1.0/24").Contains(a)
}

func server(t testing.TB, change func(*Config)) *Server {
	t.Helper()
	cfg := Config{Now: func() time.Time { return noon.Add(time.Millisecond) }, LAN: lan}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func question(mode, version byte) []byte {
	q := make([]byte, Size)
	q[0] = version<<3 | mode
	q[2] = 6
	binary.BigEndian.PutUint64(q[40:], 0x0123456789abcdef)
	return q
}

var phone = netip.MustParseAddrPort("192.168.1.50:40123")

// believable is what RFC 4330 §5 lets a client check before it sets its clock.
func believable(t *testing.T, q []byte, a [Size]byte) {
	t.Helper()
	if li, mode := a[0]>>6, a[0]&7; li == 3 || mode != 4 {
		t.Errorf("leap indicator %d, mode %d", li, mode)
	}
	if got, want := a[0]>>3&7, q[0]>>3&7; got != want {
		t.Errorf("version %d, asked %d", got, want)
	}
	if a[1] == 0 || a[1] > 15 {
		t.Errorf("stratum %d", a[1])
	}
	if string(a[24:32]) != string(q[40:48]) {
		t.Error("origin is not the client's transmit time")
	}
	if binary.BigEndian.Uint64(a[40:]) == 0 {
		t.Error("no transmit time")
	}
	if d := binary.BigEndian.Uint32(a[8:]); d >= 1<<16 {
		t.Errorf("dispersion of %d/65536 s: clients refuse a second", d)
	}
}

func TestTimeIsRight(t *testing.T) {
	s := server(t, nil)
	for _, version := range []byte{1, 2, 3, 4} {
		var a [Size]byte
		q := question(3, version)
		if !s.Answer(&a, q, phone, noon) {
			t.Fatal("no answer")
		}
		believable(t, q, a)
		// 1 July 2026 12:00 UTC is 3991896000 s after 1900; half a second is
		// 2^31 of the fraction.
		if got, want := binary.BigEndian.Uint64(a[32:]), uint64(3991896000)<<32|1<<31; got != want {
			t.Errorf("receive time %x, want %x", got, want)
		}
		if got := binary.BigEndian.Uint64(a[40:]) - binary.BigEndian.Uint64(a[32:]); got != 1<<32/1000 {
			t.Errorf("transmit is %d/2^32 s after receive, want a millisecond", got)
		}
	}
}

func TestEraOfNTPEnds(t *testing.T) {
	// RFC 5905 §6: era 1 begins 7 February 2036 06:28:16 UTC.
	if got := stamp(time.Date(2036, 2, 7, 6, 28, 17, 0, time.UTC)); got != 1<<32 {
		t.Errorf("got %x", got)
	}
}

func TestIslandedClockIsStillBelieved(t *testing.T) {
	st := Status{MaxError: 16 * time.Second}
	s := server(t, func(c *Config) { c.Status = func() Status { return st }; c.Islanded = 11 })
	var a [Size]byte
	q := question(3, 4)
	if !s.Answer(&a, q, phone, noon) {
		t.Fatal("no answer")
	}
	believable(t, q, a)
	if a[1] != 11 || string(a[12:16]) != "LOCL" {
		t.Errorf("stratum %d of %q, want 11 of LOCL", a[1], a[12:16])
	}
	st = Status{Synchronised: true, MaxError: 20 * time.Millisecond, Source: netip.MustParseAddr("192.0.2.7"), Set: noon.Add(-time.Minute)}
	if !s.Answer(&a, q, phone, noon) {
		t.Fatal("no answer")
	}
	believable(t, q, a)
	if a[1] != 3 || [4]byte(a[12:16]) != [4]byte{192, 0, 2, 7} {
		t.Errorf("stratum %d of %v", a[1], a[12:16])
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		q   []byte
		src string
		now time.Time
		got func(Stats) uint64
	}{
		"short":           {question(3, 4)[:47], "192.168.1.50:123", noon, func(s Stats) uint64 { return s.Invalid }},
		"a server's":      {question(4, 4), "192.168.1.50:123", noon, func(s Stats) uint64 { return s.Invalid }},
		"a peer's":        {question(1, 4), "192.168.1.50:123", noon, func(s Stats) uint64 { return s.Invalid }},
		"a broadcast":     {question(5, 4), "192.168.1.50:123", noon, func(s Stats) uint64 { return s.Invalid }},
		"control":         {question(6, 2), "192.168.1.50:123", noon, func(s Stats) uint64 { return s.Invalid }},
		"monlist":         {question(7, 2), "192.168.1.50:123", noon, func(s Stats) uint64 { return s.Invalid }},
		"version 0":       {question(3, 0), "192.168.1.50:123", noon, func(s Stats) uint64 { return s.Invalid }},
		"version 5":       {question(3, 5), "192.168.1.50:123", noon, func(s Stats) uint64 { return s.Invalid }},
		"foreign":         {question(3, 4), "203.0.113.9:123", noon, func(s Stats) uint64 { return s.Foreign }},
		"multicast":       {question(3, 4), "224.0.1.1:123", noon, func(s Stats) uint64 { return s.Foreign }},
		"port 0":          {question(3, 4), "192.168.1.50:0", noon, func(s Stats) uint64 { return s.Foreign }},
		"clock never set": {question(3, 4), "192.168.1.50:123", time.Unix(60, 0), func(s Stats) uint64 { return s.NoClock }},
	} {
		t.Run(name, func(t *testing.T) {
			s := server(t, func(c *Config) { c.Floor = noon.AddDate(-1, 0, 0) })
			var a [Size]byte
			if s.Answer(&a, c.q, netip.MustParseAddrPort(c.src), c.now) {
				t.Error("answered")
			}
			if a != [Size]byte{} {
				t.Error("something was written")
			}
			if st := s.Stats(); c.got(st) != 1 || st.Answered != 0 {
				t.Errorf("counted as %+v", st)
			}
		})
	}
}

func TestRateOfOneAndOfMany(t *testing.T) {
	s := server(t, nil)
	var a [Size]byte
	q := question(3, 4)
	count := func(n int, src func(int) netip.AddrPort, at time.Time) (answered int) {
		for i := range n {
			if s.Answer(&a, q, src(i), at) {
				answered++
			}
		}
		return answered
	}
	one := func(int) netip.AddrPort { return phone }
	many := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(i >> 16), byte(i >> 8), byte(i)}), 9)
	}
	if got := count(100, one, noon); got != 16 {
		t.Errorf("%d answers to one source in a window, want 16", got)
	}
	if got := count(10_000, many, noon); got != maxSources-1+maxOthers {
		t.Errorf("%d answers to 10,000 sources", got)
	}
	if len(s.seen) != maxSources {
		t.Errorf("%d sources remembered", len(s.seen))
	}
	if got := count(100, one, noon.Add(16*time.Second)); got != 16 {
		t.Errorf("%d answers in the next window", got)
	}
	if got := count(100, one, noon.Add(-time.Hour)); got != 16 {
		t.Errorf("%d answers after the clock was set back", got)
	}
}

func TestOverTheWire(t *testing.T) {
	c, err := Listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	s := server(t, func(c *Config) { c.Now = time.Now })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, c) }()
	p, err := net.Dial("udp", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.SetDeadline(time.Now().Add(5 * time.Second))
	q := append(question(3, 4), make([]byte, 20)...) // with a message digest we do not know
	if _, err := p.Write(q); err != nil {
		t.Fatal(err)
	}
	var a [100]byte
	n, err := p.Read(a[:])
	if err != nil {
		t.Fatal(err)
	}
	if n != Size {
		t.Errorf("answer of %d octets", n)
	}
	believable(t, q, [Size]byte(a[:Size]))
	sec := binary.BigEndian.Uint32(a[40:]) - 2208988800
	if d := time.Since(time.Unix(int64(sec), 0)); d < 0 || d > 3*time.Second {
		t.Errorf("off by %v", d)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestKernelIsAsked(t *testing.T) {
	if _, err := System(); err != nil {
		t.Error(err)
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(question(3, 4), uint16(123))
	f.Add([]byte{}, uint16(0))
	f.Add([]byte{0x1b}, uint16(1))
	s, err := New(Config{Now: func() time.Time { return noon }, LAN: lan, PerSource: 1 << 30})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, q []byte, port uint16) {
		var a [Size]byte
		ok := s.Answer(&a, q, netip.AddrPortFrom(phone.Addr(), port), noon)
		if !ok {
			return
		}
		if len(q) < Size || q[0]&7 != 3 || port == 0 {
			t.Fatalf("answered %x from port %d", q, port)
		}
		believable(t, q, a)
	})
}

func BenchmarkAnswer(b *testing.B) {
	s := server(b, func(c *Config) { c.PerSource = 1 << 30 })
	q := question(3, 4)
	var a [Size]byte
	b.ReportAllocs()
	for b.Loop() {
		s.Answer(&a, q, phone, noon)
	}
}
