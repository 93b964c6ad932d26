package media

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// cpu is what this process used so far.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRelay compares our relay with the plainest one there is: read a
// packet, write it to the other end. Each operation is one G.711 packet there
// and through; sender and receiver are in it on both sides, so the difference
// between the two is what our relay costs more.
func BenchmarkRelay(b *testing.B) {
	pkt := make([]byte, 172)
	pkt[0] = 0x80
	binary.BigEndian.PutUint32(pkt[8:], 0x1234)
	run := func(b *testing.B, from, to *net.UDPConn, via netip.AddrPort) {
		b.ReportAllocs()
		buf := make([]byte, 2048)
		began := cpu()
		b.ResetTimer()
		for i := range b.N {
			binary.BigEndian.PutUint16(pkt[2:], uint16(i))
			binary.BigEndian.PutUint32(pkt[4:], uint32(i)*160)
			if _, err := from.WriteToUDPAddrPort(pkt, via); err != nil {
				b.Fatal(err)
			}
			_ = to.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, _, err := to.ReadFromUDPAddrPort(buf); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		b.ReportMetric(float64((cpu()-began).Microseconds())/float64(b.N), "cpu-µs/packet")
	}
	b.Run("plain", func(b *testing.B) {
		from, to := newPhone(b), newPhone(b)
		in, out := newPhone(b), newPhone(b)
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 2048)
			for {
				n, _, err := in.conn.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				_, _ = out.conn.WriteToUDPAddrPort(buf[:n], to.addr())
			}
		}()
		run(b, from.conn, to.conn, in.addr())
		_ = in.conn.Close()
		<-done
	})
	b.Run("ours", func(b *testing.B) {
		e := engine(b)
		from, to, _, _ := pair(b, e, []string{"0"}, []string{"0"})
		run(b, from.conn, to.conn, from.to)
	})
}

// channels runs n sessions at once for a second and reports the CPU of one.
func channels(b *testing.B, n int, do func(ctx context.Context, s *Session, tick func())) {
	for range b.N {
		e := engine(b)
		sessions := make([]*Session, n)
		ticks := make([]func(), n)
		for i := range sessions {
			p, ph := port(b, e), newPhone(b)
			must(b, p.SetRemote(ph.sdp("0")))
			answer, err := p.Local(nil)
			must(b, err)
			ph.target(answer)
			sessions[i] = p.Session()
			voice := make([]byte, 160)
			ticks[i] = func() { ph.send(0, voice) }
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		done := make(chan struct{})
		began, at := cpu(), time.Now()
		for i, s := range sessions {
			go func() { do(ctx, s, ticks[i]); done <- struct{}{} }()
		}
		for range sessions {
			<-done
		}
		b.ReportMetric(100*(cpu()-began).Seconds()/time.Since(at).Seconds()/float64(n), "%core/channel")
		cancel()
	}
}

func BenchmarkPlayback(b *testing.B) {
	channels(b, 50, func(ctx context.Context, s *Session, _ func()) {
		_ = s.Play(ctx, Tone(440, 0.5, time.Minute), false)
	})
}

// BenchmarkRecord has the senders' cost in it: subtract BenchmarkSenders.
func BenchmarkRecord(b *testing.B)  { recordBench(b, true) }
func BenchmarkSenders(b *testing.B) { recordBench(b, false) }

func recordBench(b *testing.B, record bool) {
	channels(b, 50, func(ctx context.Context, s *Session, tick func()) {
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			t := time.NewTicker(20 * time.Millisecond)
			defer t.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-t.C:
					tick()
				}
			}
		}()
		if record {
			w, _ := NewWAVWriter(io.Discard, MuLaw)
			_, _ = s.Record(ctx, w, time.Minute, 0)
		} else {
			_ = s.p.Close() // nobody reads
			s.p.release()
		}
		<-sent
	})
}

func BenchmarkNewPort(b *testing.B) {
	e, err := New(Config{Now: time.Now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler), Drain: time.Millisecond})
	must(b, err)
	defer func() { _ = e.Close() }()
	for range b.N {
		p, err := e.NewPort(PortParams{Local: loopback})
		must(b, err)
		must(b, p.Close())
	}
}
