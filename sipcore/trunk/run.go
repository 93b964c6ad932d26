package trunk

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
)

// Times of the registration.
const (
	firstPause    = 2 * time.Second
	longestPause  = 5 * time.Minute
	passwordPause = 5 * time.Minute
	longestAfter  = time.Hour        // of a Retry-After that we obey
	oneTry        = 10 * time.Second // for one request to one address
	lookup        = 5 * time.Second
	lookAgain     = 5 * time.Minute  // the name of a peer
	closedPause   = 10 * time.Second // between registrations because a connection broke
)

// run is the life of a line, one setup after another.
func (l *line) run() {
	var last *reg
	for {
		ctx, cancel := context.WithCancel(context.Background())
		l.mu.Lock()
		if l.gone {
			l.mu.Unlock()
			cancel()
			break
		}
		select {
		case <-l.renewed: // what is taken now is the newest
		default:
		}
		cfg := l.cfg
		l.stop = cancel
		l.mu.Unlock()
		r := &reg{line: l, t: l.all, cfg: cfg, callID: l.all.token(), tag: l.all.token(), asked: cfg.Expires}
		if last != nil && sameAccount(last.cfg, cfg) {
			r.callID, r.seq, r.said, r.at, r.public = last.callID, last.seq, last.said, last.at, last.public
		} else if last != nil {
			last.leave()
			l.reset()
		}
		r.keep(ctx)
		cancel()
		last = r
	}
	if last != nil {
		last.leave()
	}
	l.show(func(s *State) { s.Phase, s.Until, s.Again = Closed, time.Time{}, time.Time{} })
}

// reset forgets what was known of another account.
func (l *line) reset() {
	l.mu.Lock()
	l.dests, l.flow, l.at = nil, nil, edge.Dest{}
	l.state = State{Since: l.all.cfg.Now()}
	l.mu.Unlock()
	l.all.news()
}

// show changes the state and tells those who watch. A new phase is logged.
func (l *line) show(change func(*State)) {
	l.mu.Lock()
	was := l.state.Phase
	change(&l.state)
	s := l.state
	if s.Phase != was {
		l.state.Since = l.all.cfg.Now()
	}
	tell := s.Phase != Trying && s.Phase != l.logged
	if tell {
		l.logged = s.Phase
	}
	name := l.cfg.Name
	l.mu.Unlock()
	if tell {
		l.all.log.Info("Trunk has changed", "trunk", name, "is", s.Phase.String(), "status", s.Status, "err", s.Err)
	}
	l.all.news()
}

// literal is where t is reached when that is written as an address.
func literal(t Trunk) []edge.Dest {
	host, port := t.hop()
	a, ok := message.Addr(host)
	if !ok {
		return nil
	}
	return []edge.Dest{{Transport: t.Transport, Addr: netip.AddrPortFrom(a, uint16(orElse(port, 5060)))}}
}

// resolve finds where t is reached. When the resolver does not answer, what
// was known last serves on.
func (r *reg) resolve(ctx context.Context) []edge.Dest {
	found := literal(r.cfg)
	if found == nil && r.t.cfg.Resolver != nil {
		host, port := r.cfg.hop()
		ctx, cancel := context.WithTimeout(ctx, lookup)
		defer cancel()
		got, err := r.t.cfg.Resolver.Resolve(ctx, host, port, r.cfg.Transport)
		if err != nil {
			r.t.log.Info("Trunk's server not found", "trunk", r.cfg.Name, "host", host, "err", err)
		}
		for _, d := range got {
			if d.Addr.IsValid() && (d.Transport == "udp" || d.Transport == "tcp") {
				found = append(found, d)
			}
		}
	}
	r.line.mu.Lock()
	defer r.line.mu.Unlock()
	if len(found) > 0 {
		found = first(found, r.line.at)
		r.line.dests = found
	}
	return slices.Clone(r.line.dests)
}

// first moves the destination at to the front, if it is there.
func first(dests []edge.Dest, at edge.Dest) []edge.Dest {
	i := slices.IndexFunc(dests, func(d edge.Dest) bool { return d.Addr == at.Addr && d.Transport == at.Transport })
	if i > 0 {
		dests = slices.Insert(slices.Delete(slices.Clone(dests), i, i+1), 0, dests[i])
	}
	return dests
}

// answered notes who registered us: the first to be asked for calls, and one
// to be known by its address whatever the resolver says later.
func (l *line) answered(d edge.Dest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = d
	l.dests = first(l.dests, d)
}

// keep keeps the line of one setup up until ctx ends.
func (r *reg) keep(ctx context.Context) {
	var alive <-chan time.Time
	var pulse *time.Timer
	if r.cfg.Alive != Silent && !r.cfg.Hold {
		pulse = time.NewTimer(r.beat())
		defer pulse.Stop()
		alive = pulse.C
	}
	for {
		wait := r.attempt(ctx)
		if ctx.Err() != nil {
			return
		}
		var again <-chan time.Time
		var timer *time.Timer
		if wait > 0 {
			timer = time.NewTimer(wait)
			again = timer.C
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
			case <-again:
			case <-r.line.moved:
				r.pause = 0
			case <-r.broken():
				if r.until.IsZero() || timer == nil {
					r.flowGone()
					continue
				}
				r.flowGone()
				left := closedPause - r.t.cfg.Now().Sub(r.tried)
				if left > 0 {
					timer.Reset(left)
					continue
				}
			case <-alive:
				pulse.Reset(r.beat())
				if r.alive(ctx) {
					continue
				}
			}
			waiting = false
		}
		if timer != nil {
			timer.Stop()
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// broken is closed when the connection that we registered over has ended.
func (r *reg) broken() <-chan struct{} {
	r.line.mu.Lock()
	defer r.line.mu.Unlock()
	if r.line.flow == nil {
		return nil
	}
	return r.line.flow.Closed()
}

func (r *reg) flowGone() {
	r.line.mu.Lock()
	r.line.flow = nil
	r.line.mu.Unlock()
}

// beat is the time to the next keep-alive: 80 to 100 % of what is set
// (RFC 5626 §4.4.1).
func (r *reg) beat() time.Duration { return r.t.between(r.cfg.Every*8/10, r.cfg.Every) }
