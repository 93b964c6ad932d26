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
	firstWindow = 4 << 10 // half a second of a line of 64 kbit/s
	mostWindow  = 256 << 10
	// Recordings make way at half of these (blobs.go): a line that both want
	// carries changes.
	growBelow   = 150 * time.Millisecond
	shrinkAbove = 350 * time.Millisecond
	pacedMost   = time.Minute // what took longer was no line, but a clock that was set
)

// pace is what is known of the line to one peer.
type pace struct {
	window int
	least  time.Duration // that a batch took until it was acknowledged; 0: none was
	shrunk time.Time     // what was sent before says nothing new
	flying map[batchKey]batchSent
	bytes  int // of flying
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

// reset forgets what was on its way on an earlier link, and the latency: it may be
// another way now. The window stays: it is most probably the same line.
func (p *pace) reset() {
	p.flying, p.bytes, p.least, p.shrunk = map[batchKey]batchSent{}, 0, 0, time.Time{}
	if p.window == 0 {
		p.window = firstWindow
	}
	p.window = min(p.window, 8*firstWindow)
}

func (p *pace) sent(m antientropy.Message, now time.Time) {
	if p.flying == nil {
		p.reset()
	}
	p.bytes += m.Size
	p.flying[batchKey{m.Scope, m.Batch}] = batchSent{now, m.Size, p.bytes >= p.window*3/4}
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
	if p.least == 0 || took < p.least {
		p.least = max(took, time.Microsecond)
	} else {
		p.least += p.least / 256 // the way may have become another one
	}
	before := p.window
	switch waited := took - p.least; {
	case waited > shrinkAbove && b.at.After(p.shrunk):
		p.window = max(int(int64(p.window)*int64(shrinkAbove)/int64(waited)), p.window/4, antientropy.LeastWindow)
		p.shrunk = now
	case waited < growBelow && b.full:
		p.window = min(p.window+b.size, mostWindow)
	}
	return p.window != before
}
