package antientropy

import (
	"maps"

	"carrierclass.net/ccnode/crdt"
)

// Pace says how many bytes of changes may be unacknowledged on the links with a
// peer: what the line carries in its latency and in the time that others may be
// made to wait. Who has a clock knows it, from Message.Batch and Ready.Answered.
func (m *Machine) Pace(id Peer, bytes int) {
	if p := m.peers[id]; p != nil {
		p.window = max(bytes, LeastWindow)
	}
}

func (p *peer) mayFly() int {
	if p.window == 0 {
		return window
	}
	return p.window
}

// batch is the size of one message: two fit the window, the last change of each
// included, so that the line does not wait for the acknowledgement of one.
func (p *peer) batch() int { return min(p.mayFly()*2/5, batch) }

// flying is how much is unacknowledged on the link.
func (p *peer) flying() (bytes int) {
	for _, x := range p.scopes {
		bytes += x.inflight
	}
	return bytes
}

// room says whether one more batch may go.
func (p *peer) room() bool {
	n := p.flying()
	return n == 0 || n+p.batch() <= p.mayFly()
}

// express is what of a scope goes ahead of a backlog: a few changes that came
// while many wait are what somebody did just now. They are sent like those of a
// repair, with a number that leaves the peer's cursor where it is, and are left
// out when their turn comes. What a lost link forgets of this is sent twice, and
// nothing is left out.
type express struct {
	seen  uint64          // arrivals up to here were looked at
	ahead int             // changes sent ahead and not acknowledged
	early map[uint64]bool // arrivals that went ahead
}

const (
	// fewChanges is how many changes may go ahead at once. More than that is
	// itself what others should not have to wait for.
	fewChanges = 16
	fewBytes   = 4 << 10
	// mostEarly bounds what is remembered of those that went ahead.
	mostEarly = 4096
)

// went says whether an arrival went ahead, when its turn has come.
func (e *express) went(n uint64) bool {
	if !e.early[n] {
		return false
	}
	delete(e.early, n)
	return true
}

// hurry sends what came since the last look, if it is little and much waits: of
// the scope, or of another one that goes before it.
func (m *Machine) hurry(p *peer, s crdt.Scope, x *exchange, behind bool) {
	head := m.told[s]
	from := max(x.seen, x.sent)
	x.seen = max(head, x.seen)
	if head <= from || x.sent == 0 && x.given == 0 || x.skipped || !behind && from == x.sent && len(x.give) == 0 && p.room() {
		return // nothing came, or it does not wait
	}
	as := m.view.After(s, from, fewBytes)
	size := 0
	for i, a := range as {
		if a.N > head {
			as = as[:i]
			break
		}
		size += a.Size
	}
	if len(x.early) > mostEarly/2 { // some were replaced before their turn
		maps.DeleteFunc(x.early, func(n uint64, _ bool) bool { return n <= x.sent })
	}
	if len(as) == 0 || size >= fewBytes || x.ahead+len(as) > fewChanges || len(x.early)+len(as) > mostEarly {
		return
	}
	msg := batchMsg{Scope: []byte(s), N: x.sent}
	b := bound{n: x.sent}
	var went []uint64
	for _, a := range as {
		if a.From == p.Peer {
			continue
		}
		raw, err := m.view.Bytes(a.ID)
		if err != nil {
			return
		}
		if raw != nil {
			msg.Changes = append(msg.Changes, raw)
			went = append(went, a.N)
			b.size += len(raw)
		}
	}
	if len(went) == 0 {
		return
	}
	if x.early == nil {
		x.early = map[uint64]bool{}
	}
	for _, n := range went {
		x.early[n] = true
	}
	b.express = len(went)
	x.ahead += b.express
	m.sendBatch(p, s, x, msg, b)
}
