package replica

import (
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
)

type line struct {
	rate    int // bytes a second
	latency time.Duration
}

// drive sends a backlog over the line for a minute: how much of the line is used
// after 20 seconds, and how long others then wait at worst.
func (l line) drive(p *pace, start time.Time) (used float64, worst time.Duration) {
	now, free, n, flying := start, start, uint64(start.Unix()<<20), 0
	type flight struct {
		n    uint64
		size int
		due  time.Time
	}
	var out []flight
	settled, carried := start.Add(20*time.Second), 0
	for now.Sub(start) < 60*time.Second {
		for size := min(p.window*2/5+50, 8192); flying == 0 || flying+size <= p.window; {
			n++
			if free.Before(now) {
				free = now
			}
			free = free.Add(time.Duration(size) * time.Second / time.Duration(l.rate))
			p.sent(antientropy.Message{Scope: crdt.Fleet, Batch: n, Size: size}, now)
			out = append(out, flight{n, size, free.Add(l.latency)})
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
	for _, f := range out {
		p.answered(antientropy.Answered{Scope: crdt.Fleet, Batch: f.n}, f.due)
	}
	return float64(carried) / 40 / float64(l.rate), worst
}

// A link outlives the way it goes: a line of the LAN's quickness becomes a thin
// and long one. What was learnt of the first is not held against the second.
func TestPaceOfALineThatBecameAnother(t *testing.T) {
	var p pace
	p.reset()
	quick, thin := line{1_000_000, time.Millisecond}, line{8_000, 300 * time.Millisecond}
	used, _ := quick.drive(&p, time.Unix(0, 0))
	t.Logf("%.0f %% of the quick line, window %d", 100*used, p.window)
	thin.drive(&p, time.Unix(100, 0)) // what was under way at the change takes half a minute
	used, worst := thin.drive(&p, time.Unix(200, 0))
	t.Logf("%.0f %% of the thin one, window %d, others wait %v", 100*used, p.window, worst)
	if used < 0.7 || worst > 800*time.Millisecond {
		t.Errorf("after the line became another: %.0f %% of it used, others wait %v", 100*used, worst)
	}
	if used, _ := quick.drive(&p, time.Unix(300, 0)); used < 0.7 {
		t.Errorf("and quick again: %.0f %% used", 100*used)
	}
}

// Over lines of any rate and length a backlog uses most of the line, and what is
// under way delays others by at most half a second.
func TestPaceFitsTheLine(t *testing.T) {
	for _, line := range []line{{8_000, 300 * time.Millisecond}, {8_000, 20 * time.Millisecond}, {2_000, 600 * time.Millisecond}, {125_000, 50 * time.Millisecond}, {1_000_000, time.Millisecond}, {125_000, 600 * time.Millisecond}} {
		var p pace
		p.reset()
		used, worst := line.drive(&p, time.Unix(0, 0))
		t.Logf("%d B/s, %v: window %d, %.0f %% of the line, others wait %v", line.rate, line.latency, p.window, 100*used, worst.Round(time.Millisecond))
		if most := 550*time.Millisecond + time.Duration(antientropy.LeastWindow)*time.Second/time.Duration(line.rate); worst > most {
			t.Errorf("%d B/s, %v: others wait for %v, want %v", line.rate, line.latency, worst, most)
		}
		if used < 0.7 {
			t.Errorf("%d B/s, %v: a backlog uses %.0f %% of the line", line.rate, line.latency, 100*used)
		}
	}
}
