package b2bua

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/route"
)

// Pick-up (calls.md §4): a caller who dialled for it takes the place of the
// phones that ring in another call, of the orbit it is parked in, or, with
// Replaces (RFC 3891), of a phone that talks in it.

var errNotRinging = errors.New("nothing rings or waits there")

// A pick is the wish of one call's caller to take another call.
type pick struct {
	call  *Call // whose caller takes
	leg   *Leg
	reply chan error // of room for one
}

func (p pick) answer(err error) { p.reply <- err }

// offer lets the caller of by take c. It returns nil when he has it; by is over
// then.
func (c *Call) offer(by *Call) error {
	p := pick{by, by.near(), make(chan error, 1)}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case c.picks <- p:
	case <-c.ctx.Done():
		return errNotRinging
	case <-t.C:
		return errNotRinging
	}
	return <-p.reply
}

// taken answers who takes the call and makes their leg one of this call's. It
// runs in the goroutine of the call that is taken.
func (c *Call) taken(p pick) (event, bool) {
	if err := p.call.pickUp(p.call.ctx, nil, c.template(), "pick-up"); err != nil {
		p.answer(err)
		return event{}, false
	}
	p.leg.own(c)
	p.call.without(p.leg)
	p.call.cancel(site.Transferred)
	who := p.call.From()
	p.answer(nil)
	c.mu.Lock()
	c.to = who
	c.mu.Unlock()
	p.leg.mu.Lock()
	defer p.leg.mu.Unlock()
	c.srv.log.Info("Call is picked up", "call", c.chain, "by", who.AOR.User)
	return event{leg: p.leg, sdp: p.leg.heard, answer: true}, true
}

// ringsAt notes whose phones ring now.
func (c *Call) ringsAt(st route.Step) {
	var at []site.AOR
	if st.Here {
		at = append(at, st.Target.AOR)
		for _, m := range st.Members {
			at = append(at, m.AOR)
		}
	}
	c.mu.Lock()
	c.rings = at
	c.mu.Unlock()
	c.lamps()
}

// rung says whether one of those is ringing for the call, or any phone if none
// is named; a caller does not pick up what he calls himself.
func (c *Call) rung(at []site.AOR) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(at) == 0 {
		return len(c.rings) > 0
	}
	return slices.ContainsFunc(c.rings, func(a site.AOR) bool { return slices.Contains(at, a) })
}

// Colleagues is what a View may know besides: whose ringing phones somebody
// may pick up without naming one. No answer means everybody's of the site.
type Colleagues interface {
	Colleagues(of site.Party) []site.AOR
}

// pickUpAt takes the call that rings at ext, or, without one, at a colleague's.
func (c *Call) pickUpAt(ctx context.Context, ext string) error {
	view := c.srv.cfg.View()
	var at []site.AOR
	if ext != "" {
		at = []site.AOR{route.AOR(view, route.ParseURI(ext))}
	} else if v, ok := view.(Colleagues); ok {
		at = v.Colleagues(c.From())
	}
	for _, p := range c.srv.waiting() {
		if p != c && p.rung(at) && p.offer(c) == nil {
			return nil
		}
	}
	if c.peer { // the other node looked at its own already
		return site.Offline
	}
	for _, a := range at {
		if err := c.elsewhere(ctx, a, pickUpCode+a.User, func(d sipcore.DialogState) bool { return d.Recipient && !d.Confirmed }); !errors.Is(err, errNotRinging) {
			return err
		}
	}
	return site.Offline
}

const pickUpCode = "**"

// elsewhere sends the call to the other node of the site, if it owns what is
// wanted at that lamp, as if dialled had been dialled there.
func (c *Call) elsewhere(ctx context.Context, lamp site.AOR, dialled string, wanted func(sipcore.DialogState) bool) error {
	s := c.srv
	if s.cfg.Lamps == nil || c.peer {
		return errNotRinging
	}
	for _, d := range s.cfg.Lamps.Of(lamp) {
		if d.Node == s.cfg.Node || d.Node.IsZero() || !wanted(d) {
			continue
		}
		view := s.cfg.View()
		own := view.Own()
		own.Nodes = []site.NodeID{d.Node}
		to := route.Entry{AOR: site.AOR{User: dialled, Domain: view.Domain()}, Home: own.ID}
		cause, done := c.ring(ctx, route.Step{Kind: route.Away, Target: to,
			Sites: []route.Branch{{Site: own, After: route.PairAfter, Budget: route.Budget}}}, 0, false)
		if done {
			return nil
		}
		return cause
	}
	return errNotRinging
}

// waiting are the calls of this node that nobody talks in yet, oldest first.
func (s *Server) waiting() []*Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Call
	for c := range s.calls {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *Call) int { return cmp.Or(a.began.Compare(b.began), cmp.Compare(a.chain, b.chain)) })
	return out
}

// byChain is a call of this node.
func (s *Server) byChain(chain string) *Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.calls {
		if c.chain == chain {
			return c
		}
	}
	return nil
}

// replacing carries out an INVITE with Replaces (RFC 3891 §3), or refuses it.
func (c *Call) replacing(v string) error {
	r, ok := parseReplaces(v)
	if !ok {
		return site.BadRequest
	}
	err := c.replace(r)
	if !errors.Is(err, errNotRinging) {
		return err
	}
	c.mu.Lock()
	if !c.answered && !c.refused {
		c.refused = true
		c.tx.Respond(c.tx.Response(481, ""))
	}
	c.mu.Unlock()
	c.near().gone()
	c.cancel(site.Offline)
	return nil
}

// replace finds what the header names; errNotRinging means that it is not there.
func (c *Call) replace(r replaces) error {
	if l := c.srv.replaced(r); l != nil && l.call() != c {
		return c.replaceLeg(l, r.early)
	}
	// What our lamps say: the chain, and the number the lamp is of.
	view := c.srv.cfg.View()
	for _, user := range []string{r.to, r.from} {
		a := site.AOR{User: user, Domain: view.Domain()}
		p := c.srv.byChain(r.callID)
		switch {
		case p == nil || p == c:
		case p.rung([]site.AOR{a}), p.parkedAt(user):
			return p.offer(c)
		}
		dialled := pickUpCode + user
		if _, ok := orbitOf(user); ok {
			dialled = user
		}
		err := c.elsewhere(c.ctx, a, dialled, func(d sipcore.DialogState) bool {
			return d.Chain == r.callID && (d.Parked || d.Recipient && !d.Confirmed)
		})
		if !errors.Is(err, errNotRinging) {
			return err
		}
	}
	return errNotRinging
}

// replaceLeg puts the caller in the place of l, in whatever call that is.
func (c *Call) replaceLeg(l *Leg, earlyOnly bool) error {
	p := l.call()
	l.mu.Lock()
	talking := l.state == confirmed
	l.mu.Unlock()
	if !talking {
		return p.offer(c)
	}
	if earlyOnly {
		return site.Busy
	}
	done := make(chan error, 1)
	err := p.connectTo(c.ctx, l, func(kept *Leg) {
		who, was := p.party(kept), p.party(l)
		e, ok := p.taken(pick{c, c.near(), done})
		if !ok {
			return
		}
		p.mu.Lock()
		p.caller, p.partner, p.from, p.moved, p.late = kept, nil, who, true, false
		p.meet(who, kept)
		p.meet(was, l)
		p.mu.Unlock()
		p.without(l)
		l.bye(site.Transferred)
		l.close()
		p.join(e)
	})
	if err != nil {
		return errNotRinging
	}
	return <-done
}
