package replica

import (
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
)

// How much of the changes that are owed to a peer is under way at once: what the
// line carries in its latency, and in a part of a second beyond, which is what
// whoever speaks next has to wait. It is learnt from how long batches take until
// they are acknowledged: nothing is sent for it, and there is no timer.
const (
	firstWindow = 8 << 10 // a second of a line of 64 kbit/s: twenty edits go at once
	mostWindow  = 256 << 10
	// Beyond the quickest, which may be that of a small one: others wait for
	// about half a second on a thin line.
	growBelow   = 200 * time.Millisecond
	shrinkAbove = 400 * time.Millisecond
	forget      = 20 * time.Minute // the latency counts for so long: the way may have become another one
	pacedMost   = time.Minute      // what took longer was no line, but a clock that was set
	enoughLows  = 4
	knownFor    = 24 * time.Hour // it is tried before it is believed
	sameWithin  = 100 * time.Millisecond
)

// pace is what is known of the line to one peer.
type pace struct {
	window int
	least  time.Duration // that a batch took until it was acknowledged; 0: none was
	last   time.Time     // when one was
	mate   time.Time     // when that one was sent
	shrunk time.Time     // what was sent before says nothing new
	low    time.Duration // the quickest of the last lows, sent with the smallest window
	lows   int
	flying map[batchKey]batchSent
	bytes  int  // of flying
	before knew // what an earlier link had; nothing once it was looked at
}

// knew is what a link knew of its line when it ended.
type knew struct {
	least  time.Duration
	window int // of which the line carried all, if nothing ever waited: then twice that
	at     time.Time
}

type batchKey struct {
	scope crdt.Scope
	n     uint64
}

type batchSent struct {
	at   time.Time
	size int
	full bool // the window was
}

// reset forgets what was known of an earlier link: it may be another line now.
// The first full window shows whether it is: see recall.
func (p *pace) reset() {
	before := p.before
	if p.least != 0 && (before.least == 0 || p.window != firstWindow) {
		before = knew{p.least, p.window, p.last}
		if p.shrunk.IsZero() {
			before.window = min(2*before.window, mostWindow)
		}
	}
	*p = pace{window: firstWindow, flying: map[batchKey]batchSent{}, before: before}
}

// recall takes the window of an earlier link when a full first window, of which b
// was the last, was acknowledged as quickly as the quickest batch was then, and b
// soon enough after the one that was sent with it. Of a line that has become a thin one,
// 64 kbit/s, such a window takes half a second, and b alone a quarter.
func (p *pace) recall(b batchSent, took time.Duration, now time.Time) {
	old := p.before
	if old.least == 0 || !b.full || b.at.After(p.mate) {
		return // nothing was sent with it
	}
	p.before = knew{}
	if now.Sub(old.at) > knownFor || p.window > firstWindow || !p.shrunk.IsZero() || took-old.least > min(max(old.least/4, sameWithin/20), sameWithin) {
		return
	}
	w := int64(old.window)
	if apart := now.Sub(p.last); apart > 0 {
		w = min(w, int64(b.size)*int64(shrinkAbove)/int64(apart))
	}
	p.window = max(p.window, int(w))
}

func (p *pace) sent(m antientropy.Message, now time.Time) {
	if p.flying == nil {
		p.reset()
	}
	p.bytes += m.Size
	full := p.bytes >= p.window*3/4 || p.bytes+m.Size > p.window
	if full && p.window > 2*firstWindow && p.shrunk.IsZero() { // for all that is under way: it doubles
		for k, b := range p.flying {
			b.full = true
			p.flying[k] = b
		}
	}
	p.flying[batchKey{m.Scope, m.Batch}] = batchSent{now, m.Size, full}
}

// answered fits the window, and says whether it is another one.
func (p *pace) answered(a antientropy.Answered, now time.Time) bool {
	k := batchKey{a.Scope, a.Batch}
	b, ok := p.flying[k]
	if !ok {
		return false
	}
	delete(p.flying, k)
	p.bytes -= b.size
	took := now.Sub(b.at)
	if took < 0 || took > pacedMost {
		return false
	}
	before := p.window
	p.recall(b, took, now)
	if p.least == 0 || took < p.least {
		p.least = max(took, time.Microsecond)
	} else {
		p.least += time.Duration(float64(p.least) * min(now.Sub(p.last).Seconds()/forget.Seconds(), 1))
	}
	p.last, p.mate = now, b.at
	// With the smallest window next to nothing waits for anything: what batches
	// take then is the line. It has become a longer one while the link stood, by
	// another way through the Internet or a cut that the link outlived.
	switch {
	case p.window > antientropy.LeastWindow:
		p.lows = 0
	case b.at.After(p.shrunk):
		if p.lows == 0 || took < p.low {
			p.low = took
		}
		if p.lows++; p.lows == enoughLows {
			p.lows = 0
			if p.low-p.least > growBelow { // else it grows by itself
				p.least = p.low
			}
		}
	}
	switch waited := took - p.least; {
	case waited > shrinkAbove && b.at.After(p.shrunk):
		p.window = max(int(int64(p.window)*int64(shrinkAbove)/int64(waited)), p.window/4, antientropy.LeastWindow)
		p.shrunk = now
	case waited < growBelow && b.full:
		more := b.size // doubles in a round trip
		if !p.shrunk.IsZero() {
			more = b.size * b.size / p.window / 2
		}
		p.window = min(p.window+more, mostWindow)
	}
	return p.window != before
}
