package trunk

import "slices"

// A Claim asks for one channel of a trunk.
type Claim struct {
	Call      string // names the call, for Drop
	Emergency bool
	Inbound   bool // the provider has given the channel already
}

// A channel is one call through a trunk.
type channel struct {
	Claim
	answered bool
	dropped  bool // named to be ended: its place is taken already
}

// admit says whether a claim fits beside the calls that are there, oldest
// first, and which of them must go for it. Emergency and inbound calls always
// fit. For an emergency call that finds the trunk full, the newest call that
// nobody has answered yet goes, else the newest; never another emergency call.
func admit(open []*channel, limit int, c Claim) (drop *channel, ok bool) {
	stay := 0
	for _, o := range open {
		if !o.dropped {
			stay++
		}
	}
	switch {
	case limit <= 0:
		return nil, true
	case !c.Emergency: // those that are to go are still there
		return nil, c.Inbound || len(open) < limit
	case stay < limit:
		return nil, true
	}
	for _, answered := range []bool{false, true} {
		for _, o := range slices.Backward(open) {
			if !o.Emergency && !o.dropped && o.answered == answered {
				return o, true
			}
		}
	}
	return nil, true
}

// A Lease is a channel in use. Its methods may be called from any goroutine,
// and on a nil Lease.
type Lease struct {
	trunk *line
	ch    *channel
}

// Answered notes that the call is a conversation now, which is dropped for an
// emergency call only when nothing else can be.
func (l *Lease) Answered() {
	if l == nil {
		return
	}
	l.trunk.mu.Lock()
	l.ch.answered = true
	l.trunk.mu.Unlock()
}

// Release gives the channel back. Doing it twice does nothing.
func (l *Lease) Release() {
	if l == nil {
		return
	}
	t := l.trunk
	t.mu.Lock()
	i := slices.Index(t.open, l.ch)
	if i >= 0 {
		t.open = slices.Delete(t.open, i, i+1)
	}
	t.mu.Unlock()
	if i >= 0 {
		t.all.news()
	}
}

// take claims a channel of t.
func (t *line) take(c Claim) (lease *Lease, drop string, ok bool) {
	t.mu.Lock()
	victim, ok := admit(t.open, t.cfg.Channels, c)
	if victim != nil {
		victim.dropped = true
		drop = victim.Call
	}
	if ok {
		ch := &channel{Claim: c}
		t.open = append(t.open, ch)
		lease = &Lease{t, ch}
	}
	t.mu.Unlock()
	if ok {
		t.all.news()
	}
	return lease, drop, ok
}
