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
	used, worst, _ = l.driven(p, start)
	return used, worst
}

// driven says also how long others wait in the first 20 seconds.
func (l line) driven(p *pace, start time.Time) (used float64, worst, early time.Duration) {
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
		} else {
			early = max(early, free.Sub(now))
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
	return float64(carried) / 40 / float64(l.rate), worst, early
}

// What a link knew is offered to the next one to the same peer, over whatever
// line that goes: over a thin one, others wait as they do over one that nobody
// knows, even if its latency is less by just what a batch takes.
func TestPaceOfALinkOverAnotherLine(t *testing.T) {
	for _, quick := range []line{{1_000_000, time.Millisecond}, {1_000_000, 50 * time.Millisecond}, {1_000_000, 320 * time.Millisecond}, {1_000_000, 620 * time.Millisecond}, {1_000_000, 1200 * time.Millisecond}} {
		for _, thin := range []line{{8_000, time.Millisecond}, {8_000, 20 * time.Millisecond}, {8_000, 300 * time.Millisecond}, {8_000, 600 * time.Millisecond}, {4_000, 20 * time.Millisecond}} {
			var p, fresh pace
			p.reset()
			quick.drive(&p, time.Unix(0, 0))
			p.reset()
			_, _, got := thin.driven(&p, time.Unix(100, 0))
			fresh.reset()
			_, _, want := thin.driven(&fresh, time.Unix(100, 0))
			if got > want || want > 2500*time.Millisecond {
				t.Errorf("%v, then %v: others wait %v, over an unknown line %v", quick, thin, got, want)
			}
		}
		var p pace
		p.reset()
		quick.drive(&p, time.Unix(0, 0))
		w := p.window
		p.reset()
		p.sent(antientropy.Message{Scope: crdt.Fleet, Batch: 1, Size: 3300}, time.Unix(100, 0))
		p.sent(antientropy.Message{Scope: crdt.Fleet, Batch: 2, Size: 3300}, time.Unix(100, 0))
		back := time.Unix(100, 0).Add(quick.latency + 3300*time.Second/time.Duration(quick.rate))
		p.answered(antientropy.Answered{Scope: crdt.Fleet, Batch: 1}, back)
		p.answered(antientropy.Answered{Scope: crdt.Fleet, Batch: 2}, back.Add(3300*time.Second/time.Duration(quick.rate)))
		if p.window < w {
			t.Errorf("%v again: a window of %d, and %d before", quick, p.window, w)
		}
		p.reset()
		for n := range uint64(2) {
			p.sent(antientropy.Message{Scope: crdt.Fleet, Batch: n, Size: 3300}, time.Unix(200, 0))
		}
		for n := range uint64(2) { // stored at once
			p.answered(antientropy.Answered{Scope: crdt.Fleet, Batch: n}, time.Unix(200, 0).Add(quick.latency+800*time.Millisecond))
		}
		if p.window > 2*firstWindow {
			t.Errorf("%v, then 0.8 s longer: a window of %d", quick, p.window)
		}
	}
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
