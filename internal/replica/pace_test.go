package replica

import (
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
)

// Over lines of any rate and length a backlog uses most of the line, and what is
// under way delays others by at most half a second.
func TestPaceFitsTheLine(t *testing.T) {
	for _, line := range []struct {
		rate    int // bytes a second
		latency time.Duration
	}{{8_000, 300 * time.Millisecond}, {8_000, 20 * time.Millisecond}, {2_000, 600 * time.Millisecond}, {125_000, 50 * time.Millisecond}, {1_000_000, time.Millisecond}, {125_000, 600 * time.Millisecond}} {
		var p pace
		p.reset()
		now := time.Unix(0, 0)
		start, free, n, flying := now, now, uint64(0), 0
		type flight struct {
			n    uint64
			size int
			due  time.Time
		}
		var out []flight
		var worst time.Duration
		settled, carried := start.Add(20*time.Second), 0
		for now.Sub(start) < 60*time.Second {
			for size := min(p.window*2/5+50, 8192); flying == 0 || flying+size <= p.window; {
				n++
				if free.Before(now) {
					free = now
				}
				free = free.Add(time.Duration(size) * time.Second / time.Duration(line.rate))
				p.sent(antientropy.Message{Scope: crdt.Fleet, Batch: n, Size: size}, now)
				out = append(out, flight{n, size, free.Add(line.latency)})
				flying += size
			}
			if now.After(settled) {
				worst = max(worst, free.Sub(now))
			}
			f := out[0]
			out = out[1:]
			now, flying = f.due, flying-f.size
			if now.After(settled) {
				carried += f.size
			}
			p.answered(antientropy.Answered{Scope: crdt.Fleet, Batch: f.n}, now)
		}
		used := float64(carried) / 40 / float64(line.rate)
		t.Logf("%d B/s, %v: window %d, %.0f %% of the line, others wait %v", line.rate, line.latency, p.window, 100*used, worst.Round(time.Millisecond))
		if most := 550*time.Millisecond + time.Duration(antientropy.LeastWindow)*time.Second/time.Duration(line.rate); worst > most {
			t.Errorf("%d B/s, %v: others wait for %v, want %v", line.rate, line.latency, worst, most)
		}
		if used < 0.7 {
			t.Errorf("%d B/s, %v: a backlog uses %.0f %% of the line", line.rate, line.latency, 100*used)
		}
	}
}
