package b2bua

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/route"
)

// Transfers (calls.md §4, replace leg): the end that stays becomes the caller
// of the same call, which is routed anew with the rights of who transferred it.
// The dialog of that one lives on until the outcome is known, so that the call
// can come back to it.

// errNotTalking says that a call cannot be moved now: it still rings, is in a
// menu, or is being moved already.
var errNotTalking = errors.New("the call is not one that two parties talk in")

// patience is how long a request waits for the call's goroutine to take it.
const patience = 500 * time.Millisecond

// talk lasts until the call is over; whoever transfers it, is served here.
func (c *Call) talk() site.Cause {
	for {
		c.lamps()
		select {
		case <-c.ctx.Done():
			return failure(c.cause())
		case f := <-c.moves:
			f()
		case p := <-c.picks:
			p.answer(errNotRinging)
		}
	}
}

// move has f done by the goroutine of a call in which two parties talk.
func (c *Call) move(f func()) error {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case c.moves <- f:
		return nil
	case <-c.ctx.Done():
		return over("transfer", failure(c.cause()))
	case <-t.C:
		return errNotTalking
	}
}

// party is who is at the other end of one of the call's legs.
func (c *Call) party(l *Leg) site.Party {
	c.mu.Lock()
	from, near := c.from, c.caller
	c.mu.Unlock()
	if l == near {
		return from
	}
	p := route.Who(c.srv.cfg.View(), l.line)
	p.Device = l.device
	return p
}

// trunkPrefix begins what a record says of a call to the outside: the trunk's
// name follows.
const trunkPrefix = "trunk "

// meet notes for the record who talks with whom before that changes, and what
// it costs: the trunk by which l was called. c.mu is held.
func (c *Call) meet(p site.Party, l *Leg) {
	c.met = append(c.met, p.AOR)
	if l.trunk != "" {
		c.outside = l.trunk
	}
}

// recall writes into the record of a call that was transferred who else talked
// in it, and the trunk that somebody still pays for. c.mu is held.
func (c *Call) recall(r *Record) {
	for _, x := range c.met {
		if x != r.From.AOR && x != r.To.AOR && !slices.Contains(r.Also, x) {
			r.Also = append(r.Also, x)
		}
	}
	if c.outside != "" && !strings.HasPrefix(r.Answered, trunkPrefix) {
		r.Answered = trunkPrefix + c.outside
	}
}

// blind transfers the call at the wish of the other end of l: who talks with
// it is connected to what to names. It runs until that talk is over, or until
// the call has gone back to l.
func (c *Call) blind(l, kept *Leg, to route.URI, r *referral) {
	who, by := c.party(kept), c.party(l)
	c.mu.Lock()
	before := struct {
		caller, partner *Leg
		from, to        site.Party
		moved           bool
		by              []site.AOR
		answer          string
	}{c.caller, c.partner, c.from, c.to, c.moved, c.by, c.answer}
	c.caller, c.partner, c.from, c.moved, c.late = kept, nil, who, true, false
	c.rights, c.back, c.by = by, by.AOR, append(slices.Clip(c.by), by.AOR)
	c.answer, c.referral = "", r
	c.meet(who, kept)
	c.meet(by, l)
	c.mu.Unlock()
	c.srv.log.Info("Call is transferred", "call", c.chain, "who", who.AOR.User, "by", by.AOR.User, "to", to.String())
	kept.hear(RingBack)
	err := c.route(c.ctx, to)
	if err == nil || c.ctx.Err() != nil {
		return
	}
	cause := failure(err)
	c.srv.log.Info("A transfer failed", "call", c.chain, "to", to.String(), "cause", cause.String())
	c.refer(cause)
	l.mu.Lock()
	there := l.state == confirmed && !l.closing
	l.mu.Unlock()
	if !there {
		c.giveBack(cause)
		return
	}
	c.mu.Lock() // all is as it was
	c.caller, c.partner, c.from, c.to = before.caller, before.partner, before.from, before.to
	c.moved, c.by, c.answer = before.moved, before.by, before.answer
	c.rights, c.back = site.Party{}, site.AOR{}
	c.failed, c.failedAt = l, c.srv.cfg.Now()
	c.mu.Unlock()
	if err := c.bridge(kept, l); err != nil {
		c.end(failure(err))
	}
}

// sulk is how soon a phone hangs up by itself because its transfer failed.
const sulk = time.Second

// deserted says whether l has hung up because its transfer failed a moment
// ago, which some phones do unasked (baresip 1.0.0). Who was to be transferred
// is not dropped for that: the phone is rung.
func (c *Call) deserted(l *Leg) bool {
	c.mu.Lock()
	yes := c.failed == l && c.srv.cfg.Now().Sub(c.failedAt) < sulk
	c.failed = nil
	c.mu.Unlock()
	kept := c.otherLeg(l)
	if !yes || kept == nil {
		return false
	}
	c.srv.spawn(func() {
		err := c.move(func() {
			who, by := c.party(kept), c.party(l)
			c.mu.Lock()
			c.caller, c.partner, c.from, c.moved, c.late = kept, nil, who, true, false
			c.back, c.answer = by.AOR, ""
			c.by = append(slices.Clip(c.by), by.AOR)
			c.mu.Unlock()
			c.without(l)
			l.close()
			c.giveBack(site.Offline)
		})
		if err != nil {
			c.end(site.Normal)
		}
	})
	return true
}

// giveBack rings who transferred an answered caller to where nobody took the
// call, once; else the call is over.
func (c *Call) giveBack(cause site.Cause) {
	c.refer(cause)
	c.mu.Lock()
	back := c.back
	c.back, c.rights = site.AOR{}, site.Party{}
	c.mu.Unlock()
	if back.User == "" || c.ctx.Err() != nil {
		c.end(cause)
		return
	}
	c.srv.log.Info("A transferred call goes back", "call", c.chain, "to", back.User)
	c.near().hear(RingBack)
	if err := c.route(c.ctx, route.ParseURI(back.User)); err != nil {
		c.end(failure(err))
	}
}

// settled says that a transfer has come to its end: somebody answered.
func (c *Call) settled() {
	c.mu.Lock()
	r := c.referral
	c.referral, c.back, c.rights = nil, site.AOR{}, site.Party{}
	c.mu.Unlock()
	if r != nil {
		r.tell(200, true)
	}
}

// stillRings tells who transferred the call that it rings.
func (c *Call) stillRings() {
	c.mu.Lock()
	r := c.referral
	c.mu.Unlock()
	if r != nil {
		r.tell(180, false)
	}
}

// refer tells who transferred the call that nobody took it.
func (c *Call) refer(cause site.Cause) {
	c.mu.Lock()
	r := c.referral
	c.referral = nil
	c.mu.Unlock()
	if r != nil {
		r.tell(codes[cause].status, true)
	}
}

// drop takes l out of the call without ending it, so that another call can
// have it. c.mu is not held.
func (c *Call) without(l *Leg) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := c.legs[:0:0]
	for _, x := range c.legs {
		if x != l {
			rest = append(rest, x)
		}
	}
	c.legs = rest
	if c.partner == l {
		c.partner = nil
	}
}

// adopt makes l, of another call, a leg of this one.
func (c *Call) adopt(l *Leg) {
	l.own(c)
	c.mu.Lock()
	c.legs = append(c.legs, l)
	c.mu.Unlock()
	c.watchSilence(l)
}

// attended joins the two calls of one phone, in each of which it is one end:
// l of this one, of which kept is the other end, and l2 of another, consult.
func (c *Call) attended(l, kept *Leg, consult *Call, l2 *Leg, r *referral) {
	by := c.party(l)
	far := make(chan *Leg, 1)
	var who site.Party
	err := consult.move(func() {
		other := consult.otherLeg(l2)
		if other != nil {
			who = consult.party(other)
			consult.without(other)
		}
		far <- other
		if other != nil {
			consult.end(site.Transferred)
		}
	})
	switch {
	case errors.Is(err, errNotTalking) && consult.takeOver(l2, kept, c.party(kept), by):
		c.without(kept)
		r.tell(200, true)
		select { // the phone hears of it while its dialog is there
		case <-r.done:
		case <-c.ctx.Done():
		}
		c.end(site.Transferred)
		return
	case err == nil:
	case consult.isAnswered(): // it talks with a menu or a mailbox: go where it went
		to := consult.To()
		consult.end(site.Transferred)
		c.blind(l, kept, route.ParseURI(to.AOR.User), r)
		return
	default:
		c.srv.log.Info("An attended transfer failed", "call", c.chain, "err", err)
		r.tell(480, true)
		return
	}
	other := <-far
	if other == nil {
		r.tell(480, true)
		return
	}
	c.adopt(other)
	from := c.party(kept)
	c.mu.Lock()
	c.caller, c.partner, c.from, c.to, c.moved, c.late = kept, other, from, who, true, false
	c.by = append(c.by, by.AOR)
	c.meet(from, kept)
	c.meet(by, l)
	c.meet(who, other)
	c.mu.Unlock()
	c.srv.log.Info("Call is transferred", "call", c.chain, "who", from.AOR.User, "by", by.AOR.User, "to", who.AOR.User, "joins", consult.chain)
	err = c.bridge(kept, other)
	if err == nil {
		err = c.fit(kept, other)
	}
	if err != nil {
		r.tell(488, true)
		c.end(failure(err))
		return
	}
	r.tell(200, true)
}

// takeOver puts kept, a leg of another call that was answered, in the place of
// the caller l2 of this one, which still rings (semi-attended transfer).
func (c *Call) takeOver(l2, kept *Leg, who, by site.Party) bool {
	c.mu.Lock()
	if c.answered || c.refused || c.caller != l2 || c.ctx.Err() != nil {
		c.mu.Unlock()
		return false
	}
	c.answered, c.moved, c.late = true, true, false
	c.start = c.srv.cfg.Now()
	c.caller, c.from, c.rights, c.back, c.by = kept, who, by, by.AOR, append(c.by, by.AOR)
	c.meet(who, kept)
	c.mu.Unlock()
	kept.hush()
	c.without(l2)
	c.adopt(kept)
	c.tx.Respond(c.srv.refusal(c.tx, site.Transferred))
	l2.gone()
	l2.close()
	kept.hear(RingBack)
	c.srv.log.Info("Call is transferred while it rings", "call", c.chain, "who", who.AOR.User, "by", by.AOR.User)
	return true
}

// connectTo is what REFER asks for: see Leg.serveRefer.
func (c *Call) connectTo(ctx context.Context, l *Leg, f func(kept *Leg)) error {
	kept := c.otherLeg(l)
	if kept == nil {
		return errNotTalking
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return c.move(func() {
		if c.otherLeg(l) != kept { // it changed meanwhile
			return
		}
		f(kept)
	})
}
