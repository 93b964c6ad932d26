package b2bua

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/trunk"
)

// Lines are the site's trunks; *trunk.Trunks is one, with Public added.
type Lines interface {
	Inbound(req *sip.Request, f *edge.Flow) (trunk.Inbound, bool)
	Outgoing(name string, c trunk.Call) (trunk.Outgoing, error)
	Authorize(name string, req *sip.Request, res *sip.Response) (sip.Header, error)
	Take(name string, c trunk.Claim) (lease *trunk.Lease, drop string, ok bool)

	// Public is where a call to one of the site's public numbers goes, as a
	// phone of the site would dial it; "" for a number that is not the site's.
	Public(number string) string
	// Rescued is the line that a call to a number rings before it goes to where
	// Public says, because an emergency call from there showed that number; ""
	// usually.
	Rescued(number string) string
	// CallBack is the number that reaches the place an emergency call of that
	// party comes from.
	CallBack(from site.Party) string
	// Urgent is told, at once, of every emergency call as it begins and ends.
	Urgent(e Emergency)
	// Settle says whether a call from outside that arrived here is this node's,
	// and not the pair's other node's; release says later that it is over. It
	// returns soon, whatever the other node does.
	Settle(ctx context.Context, a Arrival) (release func(), mine bool)
	// TestNumber is what a test of the emergency call dials by that trunk; ""
	// where nothing may be dialled.
	TestNumber(trunk string) string
	// Neighbours are the sites whose lines an emergency call may use when those
	// of this site fail, first the nearest; Place is where people are told that
	// an emergency call of this site comes from.
	Neighbours() []route.Branch
	Place() string
}

// noEmergency is the feature that says that no emergency call is possible.
const noEmergency site.FeatureName = "no-emergency"

// An Emergency is what people on site are told of an emergency call.
type Emergency struct {
	Chain  string
	From   site.Party
	Number string
	Trunk  string // over which it goes, "" while none took it
	Over   bool
	Cause  site.Cause // Over: how it ended
	Test   bool       // it is none: somebody tries whether one would pass
	Peer   bool       // it is of another site, whose lines failed

	CallBack string // number it shows, where the line allows it
	Place    string // where it comes from; "" of this site
}

// external carries out an External or Emergency step: one line after the other,
// until one of them takes the call (calls.md §3 steps 0 and 8).
func (c *Call) external(ctx context.Context, st route.Step) (cause site.Cause, done bool) {
	lines := c.srv.cfg.Lines
	if lines == nil {
		return site.NoLine, false
	}
	urgent, test := st.Kind == route.Emergency, c.isTest()
	from := c.payer()
	call := trunk.Call{From: from, Dialled: st.Number, Emergency: urgent}
	for _, e := range c.srv.cfg.View().Lookup(from.AOR.User) {
		if e.User == from.User {
			call.Number = e.E164
		}
	}
	if urgent && c.peer && len(st.Trunks) == 0 {
		return site.NoLine, false // nobody here can do anything about it
	}
	neighbour := ""
	var help sos
	if urgent {
		help = c.vector.sos
		if !c.peer {
			help = sos{set: true, callBack: lines.CallBack(from), place: lines.Place()}
		}
		call.CallBack = help.callBack
		e := Emergency{Chain: c.chain, From: from, Number: st.Number, Test: test, Peer: c.peer, CallBack: help.callBack}
		if c.peer {
			e.Place = help.place
		}
		lines.Urgent(e)
		defer func() {
			if !done && c.ctx.Err() == nil && !c.offerless() && !c.peer {
				// Said before the caller is refused; phones do not say what 480 means.
				if err := c.srv.cfg.Feature(c.ctx, noEmergency, c); failure(err) != site.Failure {
					cause = failure(err)
				}
			}
			c.mu.Lock()
			e.Over, e.Cause, e.Trunk = true, cause, c.line
			c.mu.Unlock()
			if done && e.Trunk == "" && neighbour != "" {
				e.Trunk = "site " + neighbour
			}
			lines.Urgent(e)
		}()
	}
	cause = site.NoLine
	full := false // some line had no channel
	for _, way := range ways(st) {
		name := way.trunk
		if c.ctx.Err() != nil {
			return failure(c.cause()), false
		}
		if test {
			if call.Dialled = lines.TestNumber(name); call.Dialled == "" {
				continue
			}
		}
		out, err := lines.Outgoing(name, call)
		if err != nil {
			c.srv.log.Warn("A call cannot leave by this trunk", "call", c.chain, "trunk", name, "err", err)
			continue
		}
		dests := way.of(out.Dests)
		if len(dests) == 0 {
			continue
		}
		lease, drop, ok := lines.Take(name, trunk.Claim{Call: c.chain, Emergency: urgent && !test})
		if drop != "" {
			c.srv.drop(drop)
		}
		if !ok {
			full = true
			continue
		}
		for _, d := range dests {
			var again bool
			cause, again, done = c.over(ctx, out, d, st, lease, way.within)
			if done || !again {
				lease.Release()
				return cause, done
			}
			if !urgent { // what a broken line says is not what the called party says
				cause = site.LineDown
			}
			c.srv.log.Info("The next way out is tried", "call", c.chain, "trunk", name, "to", d.String(), "cause", cause.String())
		}
		lease.Release()
	}
	if full && cause == site.LineDown {
		cause = site.NoLine
	}
	if urgent && !test && !c.peer && c.ctx.Err() == nil && ctx.Err() == nil {
		neighbour, cause, done = c.byNeighbours(ctx, st.Number, help, cause)
		return cause, done
	}
	return cause, false
}

// A way is some of the addresses of a line.
type way struct {
	trunk       string
	first, rest bool
	within      time.Duration // it must have said something by then
}

func (w way) of(d []edge.Dest) []edge.Dest {
	switch {
	case len(d) == 0 || w.first && w.rest:
		return d
	case w.first:
		return d[:1]
	}
	return d[1:]
}

// ways is the order in which lines are tried. An emergency call that has a
// choice waits for none of them long, and tries every line's best address
// before any second one: with the Internet cut, a provider with many addresses
// would be a long silence. When that has not helped, all are tried with
// patience: the line may only be slow.
func ways(st route.Step) (out []way) {
	if st.Kind == route.Emergency && len(st.Trunks) > 1 {
		for _, name := range st.Trunks {
			out = append(out, way{name, true, false, trunk.EmergencyWithin})
		}
		for _, name := range st.Trunks {
			out = append(out, way{name, false, true, trunk.EmergencyWithin})
		}
	}
	for _, name := range st.Trunks {
		out = append(out, way{name, true, true, trunk.ReplyWithin})
	}
	return out
}

// over tries one address of one trunk. again means that the next one is to be tried.
func (c *Call) over(ctx context.Context, out trunk.Outgoing, d edge.Dest, st route.Step, lease *trunk.Lease, within time.Duration) (cause site.Cause, again, done bool) {
	f := &fork{call: c, halt: newHalt(), events: make(chan event)}
	defer f.halt.stop("")
	o := outgoing{uri: out.URI, dest: d, line: &out, to: route.Entry{AOR: site.AOR{User: st.Number, Domain: d.Addr.Addr().String()}}}
	c.srv.spawn(func() { c.try(0, o, f.halt, f.tell) })
	urgent := st.Kind == route.Emergency
	silent := time.NewTimer(within)
	defer silent.Stop()
	for {
		select {
		case e := <-f.events:
			switch {
			case e.answer:
				f.halt.stop(elsewhere)
				lease.Answered()
				cause, done = c.join(e)
				return cause, false, done
			case e.final:
				status := 0
				if e.res != nil {
					status = e.res.StatusCode
				}
				err := e.err
				if status == 0 && err == nil {
					err = errors.New("no answer")
				}
				next := trunk.Classify(status, err, urgent)
				return cmp.Or(e.cause, site.NoLine), next == trunk.Next || next == trunk.Challenge, false
			default:
				if e.res.StatusCode == 100 && urgent {
					silent.Reset(trunk.ReplyWithin) // it is alive, but it has to do something too
				} else {
					silent.Stop()
				}
				c.ringing(e, true)
			}
		case p := <-c.picks:
			p.answer(errNotRinging)
		case <-silent.C:
			return site.NoLine, true, false
		case <-c.ctx.Done():
			return failure(c.cause()), false, false
		case <-ctx.Done():
			return failure(context.Cause(ctx)), false, false
		}
	}
}

// drop ends a call to make room for an emergency call.
func (s *Server) drop(chain string) {
	s.mu.Lock()
	var victim *Call
	for c := range s.calls {
		if c.chain == chain {
			victim = c
		}
	}
	s.mu.Unlock()
	if victim != nil {
		s.log.Warn("A call is ended for an emergency call", "call", chain)
		victim.end(site.NoLine)
	}
}

// dialLine gives a leg and its INVITE what a trunk wants to hear.
func (l *Leg) dialLine(o outgoing) {
	out := o.line
	l.trunk, l.contactUser, l.public = out.Trunk, out.User, out.Public
	l.local, l.name = *out.From.Address.Clone(), out.From.DisplayName
	l.remote = *out.To.Address.Clone()
}

// answering makes the INVITE once more, with what answers the challenge.
func (l *Leg) answering(old *sip.Request, auth sip.Header) *sip.Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.localSeq++
	l.remoteTag = ""
	req := l.request(sip.INVITE, l.localSeq)
	message.Remove(req, "Max-Forwards")
	for _, h := range old.Headers() {
		switch h.Name() {
		case "Via", "From", "To", "Call-ID", "CSeq", "User-Agent", "Route", "Content-Length", "Authorization", "Proxy-Authorization":
			continue
		}
		req.AppendHeader(sip.HeaderClone(h))
	}
	req.AppendHeader(auth)
	req.SetBody(old.Body())
	return req
}

// fromTrunk says who calls by a trunk and where to; false if req is not from one.
func (s *Server) fromTrunk(view route.View, req *sip.Request, f *edge.Flow) (in trunk.Inbound, from site.Party, to route.URI, ok bool) {
	if s.cfg.Lines == nil {
		return in, from, to, false
	}
	if in, ok = s.cfg.Lines.Inbound(req, f); !ok {
		return in, from, to, false
	}
	from = site.Party{Display: in.Name}
	from.AOR = site.AOR{User: "anonymous", Domain: "anonymous.invalid"} // RFC 3323 §4.1.1.3
	if !in.Hidden && in.Caller != "" {
		from.AOR = site.AOR{User: in.Caller, Domain: view.Domain()}
	}
	from.Number = route.Shown(view, from)
	return in, from, route.ParseURI(cmp.Or(s.cfg.Lines.Public(in.Called), s.cfg.Lines.Rescued(in.Called))), true
}

// leaseFor claims the channel of a call that came in by a trunk; it is given
// back when the call is over.
func (c *Call) leaseFor(name string) {
	c.line = name
	lease, _, ok := c.srv.cfg.Lines.Take(name, trunk.Claim{Call: c.chain, Inbound: true})
	if !ok {
		return
	}
	context.AfterFunc(c.ctx, lease.Release)
}
