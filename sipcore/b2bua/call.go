package b2bua

import (
	"context"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// A Call is a whole call of this node, from its first INVITE until both ends
// are gone. To a feature it is what calls.md §4 lays down; features see it
// through internal/node. Its methods may be called from any goroutine.
type Call struct {
	// set when made, then constant
	srv      *Server
	ctx      context.Context // ends with the call; its cause is a site.Cause
	cancel   context.CancelCauseFunc
	chain    string
	tx       *transaction.ServerTx // the first INVITE
	origin   site.Party            // who sent it
	began    time.Time
	peer     bool
	vector   vector
	incoming bool   // by a trunk
	rescue   string // the line that is rung first, as somebody there has called for help

	moves chan func() // what is to be done with a call that talks, by who runs it
	picks chan pick   // who takes the call instead of those it rings at

	showing sync.Mutex // one is shown to lamps at a time; taken before mu

	mu       sync.Mutex // guards what follows; taken before Leg.mu
	from     site.Party
	to       site.Party
	rights   site.Party // whose rights count: who transferred the call; zero: from's
	back     site.AOR   // who gets the call back if a transfer fails
	referral *referral  // the transfer under way
	rings    []site.AOR // whose phones ring
	orbit    string     // where it is parked
	gone     bool       // nothing of it is to be shown any more
	by       []site.AOR // who transferred it, in order
	met      []site.AOR // who talked when it was transferred
	outside  string     // the trunk by which one of them was called
	moved    bool       // caller is not who called first
	late     bool       // the caller made no offer
	failed   *Leg       // whose transfer failed last
	failedAt time.Time  // when
	caller   *Leg       // the end that stays while others are tried
	diverted string
	arg      string
	legs     []*Leg // all that have a port
	partner  *Leg   // who talks with the caller
	answered bool   // the caller got a 2xx
	answer   string // by whom
	line     string // the trunk it came or left by
	test     bool   // of the emergency call
	start    time.Time
	shown    int  // greatest provisional status the caller got
	refused  bool // the caller got a final refusal
}

// From is who calls.
func (c *Call) From() site.Party {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.from
}

// To is whom the call is for now; for a feature code that is the caller.
func (c *Call) To() site.Party {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.to
}

// Diverted says why the call came to a feature: "", "no answer", "busy",
// "offline", "unreachable", "all".
func (c *Call) Diverted() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.diverted
}

// Arg is what was dialled after a feature code.
func (c *Call) Arg() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.arg
}

// Chain is the id that joins all records and log lines of the call, at every node.
func (c *Call) Chain() string { return c.chain }

// Context ends with the call; context.Cause is the site.Cause.
func (c *Call) Context() context.Context { return c.ctx }

// Answer sends the caller a 200 with media that ends in this node, and returns
// that media. Answered before, it returns the same port.
func (c *Call) Answer(ctx context.Context) (sipcore.Port, error) {
	if err := c.pickUp(ctx, nil, nil, "feature"); err != nil {
		return nil, err
	}
	return c.near().port, nil
}

// Early lets the caller hear something before the answer (183).
func (c *Call) Early(context.Context) (sipcore.Port, error) {
	if c.offerless() {
		return nil, over("early media", site.NotAcceptable) // nothing to answer yet
	}
	if err := c.progress(183, nil, nil); err != nil {
		return nil, err
	}
	return c.near().port, nil
}

// Reject refuses the call, if it was not answered.
func (c *Call) Reject(cause site.Cause) error {
	c.mu.Lock()
	if c.answered {
		c.mu.Unlock()
		return ErrAnswered
	}
	if c.refused || c.ctx.Err() != nil {
		c.mu.Unlock()
		return over("reject", cause)
	}
	c.refused = true
	l := c.caller
	c.mu.Unlock()
	err := c.tx.Respond(c.srv.refusal(c.tx, cause))
	l.gone()
	c.cancel(cause)
	return err
}

// Hangup ends the call on all legs.
func (c *Call) Hangup(_ context.Context, cause site.Cause) error {
	c.end(cause)
	return nil
}

// Connect routes the call on to what to names, as if the caller had dialled
// it now, within the same chain; a caller who was answered stays. It returns
// nil when somebody took the call and the talk is over, else why nobody did.
// If ctx ends before, the attempt is given up.
func (c *Call) Connect(ctx context.Context, to route.URI) error {
	err := c.route(ctx, to)
	c.near().hush() // whoever sent the caller on speaks again
	return err
}

// end ends the call on all legs, once.
func (c *Call) end(cause site.Cause) {
	if c.cancel == nil { // a leg that nobody wanted
		return
	}
	c.cancel(cause)
	c.mu.Lock()
	answered, refused := c.answered, c.refused
	if !answered {
		c.refused = true
	}
	legs, l := append([]*Leg(nil), c.legs...), c.caller
	c.mu.Unlock()
	if !answered && !refused {
		c.tx.Respond(c.srv.refusal(c.tx, cause))
		l.gone()
	}
	for _, l := range legs {
		l.bye(cause)
	}
}

// near is the end that stays while others are tried: the caller, or who was
// left when the caller transferred the call.
func (c *Call) near() *Leg {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.caller
}

// first is the INVITE that made the call, nil if it says nothing about who
// calls now.
func (c *Call) first() *sip.Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.moved {
		return nil
	}
	return c.tx.Request()
}

func (c *Call) offerless() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.late
}

func (c *Call) isAnswered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answered
}

// payer is who answers for where the call goes: who transferred it last, else
// who called.
func (c *Call) payer() site.Party {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rights.AOR.User != "" {
		return c.rights
	}
	return c.from
}

// otherLeg is the end that talks with l, nil if that is a feature or nobody.
func (c *Call) otherLeg(l *Leg) *Leg {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case l == c.caller:
		return c.partner
	case l == c.partner:
		return c.caller
	}
	return nil
}

// run carries the call from its INVITE to its end.
func (c *Call) run(to route.URI) {
	defer c.cleanUp()
	var err error
	if v := message.Get(c.tx.Request(), "Replaces"); v != "" && !c.incoming {
		err = c.replacing(v)
	} else {
		err = c.answerHelp(to)
	}
	if err == nil {
		return
	}
	cause := failure(err)
	if c.isAnswered() {
		c.giveBack(cause) // somebody transferred a caller to who did not answer yet
		return
	}
	if c.ctx.Err() == nil {
		c.announce(cause)
		c.Reject(cause)
	}
}

// cleanUp gives back what the call held. Nothing of it runs any more except
// branches that wait for their last response; they hold no port.
func (c *Call) cleanUp() {
	c.end(site.Normal)
	c.mu.Lock()
	c.gone = true
	legs := c.legs
	r := Record{Chain: c.chain, From: c.origin, To: c.to, Device: c.origin.Device, Answered: c.answer, Began: c.began, By: c.by,
		Start: c.start, End: c.srv.cfg.Now(), Cause: failure(context.Cause(c.ctx)), Peer: c.peer, Diverted: c.diverted, Test: c.test}
	c.recall(&r)
	ends, answered := []*Leg{c.caller, c.partner}, c.answered
	c.mu.Unlock()
	if answered && r.Cause != site.Transferred { // else its ends talk on in another call
		r.BothHeard = bothHeard(ends)
	}
	for _, l := range legs {
		l.close()
	}
	c.lamps()
	if c.srv.cfg.Records != nil {
		c.srv.cfg.Records.End(r)
	}
	c.srv.log.Info("Call over", "call", c.chain, "from", c.origin.AOR.User, "to", r.To.AOR.User, "answered", r.Answered, "cause", r.Cause.String())
	c.srv.finish(c)
}

// route carries out one decision after another until the call has ended, which
// is nil, or nobody took it, which is the cause. It gives up when ctx ends.
func (c *Call) route(ctx context.Context, to route.URI) error {
	rc := route.Call{From: c.payer(), To: to}
	if c.first() != nil {
		rc.Peer, rc.Trunk, rc.Applied, rc.Diversions = c.peer, c.incoming, c.vector.applied, c.vector.diversions
	}
	return c.routeAs(ctx, rc)
}

func (c *Call) routeAs(ctx context.Context, rc route.Call) error {
	var past []route.Outcome
	diversions := rc.Diversions
	for {
		if c.ctx.Err() != nil {
			return context.Cause(c.ctx)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		st := route.Next(c.srv.cfg.View(), rc, past)
		c.srv.log.Debug("Next step", "call", c.chain, "step", st.Kind.String(), "why", st.Why)
		cause := site.NoLine
		c.mu.Lock()
		if st.Target.AOR.User != "" {
			c.to = st.Target.Party()
		}
		c.mu.Unlock()
		switch st.Kind {
		case route.Reject:
			return st.Cause
		case route.Divert:
			diversions++
			c.progress(181, nil, nil)
		case route.Ring, route.Away:
			var done bool
			if cause, done = c.ring(ctx, st, diversions, len(past) == 0); done {
				return nil
			}
		case route.Feature:
			return c.feature(ctx, st)
		case route.External, route.Emergency:
			if st.Public {
				c.publicly()
			}
			var done bool
			if cause, done = c.external(ctx, st); done {
				return nil
			}
		}
		past = append(past, route.Outcome{Step: st, Cause: cause})
	}
}

// feature gives the call away until the feature has done with it.
func (c *Call) feature(ctx context.Context, st route.Step) error {
	switch st.Feature {
	case route.Park:
		return c.park(ctx, st.Arg)
	case route.PickUp:
		return c.pickUpAt(ctx, st.Arg)
	case route.EmergencyTest:
		return c.tryEmergency(ctx)
	}
	c.mu.Lock()
	c.diverted, c.arg = st.Diverted, st.Arg
	c.answer = "feature " + string(st.Feature)
	answered := c.answered
	c.mu.Unlock()
	if !answered && !c.offerless() && st.Diverted == "unreachable" {
		c.progress(181, nil, nil)
	}
	if answered {
		c.near().hush()
		c.settled()
	}
	err := c.srv.cfg.Feature(ctx, st.Feature, c)
	c.mu.Lock()
	answered = c.answered
	if !answered {
		c.answer = ""
	}
	c.mu.Unlock()
	switch {
	case answered:
		if err != nil && c.ctx.Err() == nil {
			c.srv.log.Warn("A feature ended early", "call", c.chain, "feature", string(st.Feature), "err", err)
		}
		c.end(site.Normal)
		return nil
	case c.ctx.Err() != nil:
		return context.Cause(c.ctx)
	case err == nil:
		return site.NoAnswer
	}
	cause := failure(err)
	if cause == site.Failure {
		c.srv.log.Warn("A feature did not take a call", "call", c.chain, "feature", string(st.Feature), "err", err)
		cause = site.NoAnswer
	}
	return cause
}

// progress tells the caller how far the call is. from is the response of the
// other leg it follows, sdp its description: with one, or for 183, the caller
// can hear what comes.
func (c *Call) progress(status int, from *sip.Response, sdp []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answered || c.refused || c.ctx.Err() != nil {
		return over("progress", failure(context.Cause(c.ctx)))
	}
	l := c.caller
	var body []byte
	if status == 183 && !c.late {
		l.mu.Lock()
		body = l.said
		l.mu.Unlock()
		if body == nil {
			var err error
			if body, err = l.port.Local(sdp); err != nil {
				return err
			}
			l.mu.Lock()
			l.said = body
			l.mu.Unlock()
		}
	}
	if status == c.shown && from == nil {
		return nil
	}
	c.shown = status
	res := c.tx.Response(status, "")
	l.mu.Lock()
	res.AppendHeader(l.contact(l.dest))
	l.mu.Unlock()
	res.AppendHeader(sip.NewHeader("Allow", allow))
	if from != nil {
		copyHeaders(res, from)
	}
	c.name(res)
	setSDP(res, body)
	return c.tx.Respond(res)
}

// pickUp answers the caller: with sdp of the other leg as the template, or with
// our own abilities. It returns when the media is set, for a caller that made
// no offer when its ACK has brought the answer.
func (c *Call) pickUp(ctx context.Context, from *sip.Response, sdp []byte, by string) error {
	c.mu.Lock()
	if c.answered {
		c.mu.Unlock()
		return nil
	}
	if c.refused || c.ctx.Err() != nil {
		c.mu.Unlock()
		return over("answer", failure(context.Cause(c.ctx)))
	}
	l := c.caller
	body := l.said
	if body == nil {
		var err error
		if body, err = l.port.Local(sdp); err != nil {
			c.mu.Unlock()
			return err
		}
	}
	res := c.tx.Response(200, "")
	l.mu.Lock()
	res.AppendHeader(l.contact(l.dest))
	about(res)
	l.state = confirmed
	l.invited = true
	l.said = body
	l.agree(c.tx.Request(), res)
	if from != nil {
		copyHeaders(res, from)
	}
	c.name(res)
	setSDP(res, body)
	u, err := l.answer(c.tx, res)
	l.mu.Unlock()
	if err != nil { // it cannot be, unless the transaction is gone
		c.refused = true
		c.mu.Unlock()
		c.cancel(site.Cancelled)
		l.gone()
		return err
	}
	c.answered = true
	c.start = c.srv.cfg.Now()
	if by != "feature" {
		c.answer = by
	}
	r := Record{Chain: c.chain, From: c.origin, To: c.to, Device: c.origin.Device, Answered: c.answer, Began: c.began, Start: c.start,
		Peer: c.peer, Diverted: c.diverted, Test: c.test}
	late := c.late
	c.mu.Unlock()
	if c.srv.cfg.Records != nil {
		c.srv.cfg.Records.Start(r)
	}
	c.lamps()
	if !late {
		c.watchSilence(l)
		return nil
	}
	select {
	case answer := <-u.ack:
		if len(answer) == 0 {
			c.end(site.NotAcceptable)
			return site.NotAcceptable
		}
		if err := l.port.SetRemote(answer); err != nil {
			c.end(failure(err))
			return err
		}
		l.mu.Lock()
		l.heard = answer
		l.mu.Unlock()
		c.watchSilence(l)
		return nil
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Call) cause() error { return context.Cause(c.ctx) }
