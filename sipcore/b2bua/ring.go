package b2bua

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
)

// margin is taken off a budget, so that what follows has begun when it is over.
const margin = 100 * time.Millisecond

// fork is one ring step under way: its branches talk to it until it is over.
type fork struct {
	call   *Call
	halt   *halt
	events chan event
}

// tell hands an event to the fork; false when it is over and an answer must be
// taken back.
func (f *fork) tell(e event) bool {
	select {
	case f.events <- e:
		return true
	case <-f.halt.ch:
		return false
	}
}

// ring carries out a Ring or Away step: all branches together, the first 2xx
// wins. done means that somebody took the call and it is over; otherwise cause
// says why nobody did.
func (c *Call) ring(ctx context.Context, st route.Step, diversions int, first bool) (cause site.Cause, done bool) {
	f := &fork{call: c, halt: newHalt(), events: make(chan event)}
	defer f.halt.stop("")
	pending := 0
	if st.Here {
		whose := st.Members
		if whose == nil {
			whose = []route.Entry{st.Target}
		}
		for _, to := range whose {
			for _, phone := range c.phones(to.AOR) {
				id := pending
				pending++
				c.srv.spawn(func() { c.ringPhone(id, f, phone, to) })
			}
		}
	}
	phones := pending
	c.ringsAt(st)
	defer c.ringsAt(route.Step{})
	from := c.srv.cfg.Now()
	if first {
		from = c.began
	}
	for _, b := range st.Sites {
		id := pending
		pending++
		v := vector{applied: st.Kind == route.Ring, diversions: diversions}
		c.srv.spawn(func() { c.askSite(id, f, b, st.Target, v, from) })
	}
	single := pending == 1
	var over <-chan time.Time
	if st.Kind == route.Ring {
		t := time.NewTimer(st.For)
		defer t.Stop()
		over = t.C
	}
	worst := site.Offline
	if !st.Here {
		worst = site.Unreachable
	}
	causes := []site.Cause{worst}
	for pending > 0 {
		select {
		case e := <-f.events:
			switch {
			case e.answer:
				f.halt.stop(elsewhere)
				c.ringsAt(route.Step{})
				return c.join(e)
			case e.final:
				pending--
				causes = append(causes, e.cause)
				if e.all && phones > 0 && st.Members == nil { // in a group it is one member's word
					return strongest(causes), false
				}
			default:
				c.ringing(e, single)
			}
		case <-over:
			f.halt.stop(reason(site.NoAnswer))
			return site.NoAnswer, false
		case <-c.ctx.Done():
			return failure(c.cause()), false
		case <-ctx.Done():
			f.halt.stop(reason(site.Cancelled))
			return failure(context.Cause(ctx)), false
		case p := <-c.picks:
			if e, ok := c.taken(p); ok {
				f.halt.stop(elsewhere)
				c.ringsAt(route.Step{})
				return c.join(e)
			}
		}
	}
	return strongest(causes), false
}

// ringing passes a provisional response on (RFC 3261 §16.7 step 5, for a B2BUA).
func (c *Call) ringing(e event, single bool) {
	status := e.res.StatusCode
	if status == 100 {
		return
	}
	answered := c.isAnswered()
	if e.sdp != nil && single && !c.offerless() {
		if err := e.leg.port.SetRemote(e.sdp); err == nil {
			e.leg.mu.Lock()
			e.leg.heard = e.sdp
			e.leg.mu.Unlock()
			if err := c.bridge(c.near(), e.leg); err == nil && (answered || c.progress(183, e.res, e.sdp) == nil) {
				return
			}
		}
	}
	if answered {
		if !c.isParked() { // whoever waits in an orbit goes on hearing music
			c.near().hear(RingBack)
		}
		c.stillRings()
		return
	}
	if status == 183 {
		status = 180 // somebody is there, though nothing can be heard
	}
	if err := c.progress(status, e.res, nil); err != nil {
		c.srv.log.Debug("Caller not told of ringing", "call", c.chain, "err", err)
	}
}

// strongest picks the cause that says most about why nobody answered.
func strongest(causes []site.Cause) site.Cause {
	weight := func(c site.Cause) int {
		return slices.Index([]site.Cause{site.Refused, site.Busy, site.NoAnswer, site.Forbidden, site.NoSuchNumber, site.NotAcceptable}, c)
	}
	best := causes[0]
	for _, c := range causes[1:] {
		w, b := weight(c), weight(best)
		switch {
		case w >= 0 && (b < 0 || w < b), w < 0 && b < 0:
			best = c
		}
	}
	return best
}

// join connects the leg that answered with the caller, and waits until the
// call is over.
func (c *Call) join(e event) (site.Cause, bool) {
	c.mu.Lock()
	near, before := c.caller, c.answered
	c.partner = e.leg
	c.legs = append(c.legs, e.leg)
	if e.leg.trunk != "" {
		c.line = e.leg.trunk
	}
	c.mu.Unlock()
	by := "phone"
	switch {
	case e.leg.trunk != "":
		by = trunkPrefix + e.leg.trunk
	case !e.leg.peer.IsZero():
		by = "site"
	}
	err := c.bridge(near, e.leg)
	if err == nil && before {
		err = c.fit(near, e.leg)
	} else if err == nil {
		err = c.pickUp(c.ctx, e.res, e.sdp, by)
	}
	if err != nil {
		c.mu.Lock()
		c.partner = nil
		c.mu.Unlock()
		if c.ctx.Err() == nil {
			c.srv.log.Warn("An answered call could not be joined", "call", c.chain, "err", err)
		}
		e.leg.bye(failure(err))
		return failure(err), c.ctx.Err() != nil
	}
	if now := c.near(); now != near { // somebody took the caller's place meanwhile
		near, before = now, true
		if err = c.bridge(near, e.leg); err == nil {
			err = c.fit(near, e.leg)
		}
		if err != nil {
			c.end(failure(err))
			return failure(err), true
		}
	}
	if before {
		c.mu.Lock()
		c.answer = by
		c.mu.Unlock()
	}
	c.watchSilence(e.leg)
	c.settled()
	return c.talk(), true
}

// phones groups the bindings of the line into phones: two flows of one phone
// ring once, the newest first. Phones whose connection is the other node's
// come as a group of their own.
func (c *Call) phones(line site.AOR) [][]site.Binding {
	var out [][]site.Binding
	index := map[string]int{}
	for _, b := range c.srv.cfg.Location.Bindings(line) {
		if c.vector.flows && (b.Node != c.srv.cfg.Node || c.srv.direct(b)) {
			continue // the node that asks rings it itself
		}
		key := b.Key()
		switch {
		case !c.srv.direct(b) && b.Node != c.srv.cfg.Node:
			key = "node " + b.Node.String()
		case !b.Device.IsZero():
			key = b.Device.String() + " " + b.Instance
		}
		i, ok := index[key]
		if !ok {
			i = len(out)
			index[key] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], b)
	}
	for _, phone := range out {
		slices.SortStableFunc(phone, func(a, b site.Binding) int { return cmp.Compare(b.Updated.UnixNano(), a.Updated.UnixNano()) })
	}
	return out
}

// direct says whether any node of the site can send to a phone (calls.md §2).
func (s *Server) direct(b site.Binding) bool { return b.Transport == site.UDP && !b.NAT }

// reach says how a phone can be sent to from here.
func (s *Server) reach(b site.Binding) (outgoing, error) {
	u, err := message.ParseURI(b.Contact)
	if err != nil {
		return outgoing{}, err
	}
	o := outgoing{uri: u, device: b.Device}
	switch {
	case b.Transport == site.UDP && b.NAT:
		o.nat = true
		o.dest = edge.Dest{Transport: site.UDP, Addr: b.Source}
	case b.Transport == site.UDP:
		o.dest = destOf(u, edge.Dest{Transport: site.UDP, Addr: b.Source}, netip.AddrPort{})
	default:
		if o.flow = s.cfg.Edge.Flow(b.Flow); o.flow == nil {
			return o, errors.New("its connection has ended")
		}
		o.dest = o.flow.Dest()
	}
	return o, nil
}

// ringPhone tries the flows of one phone until one of them answers at all.
func (c *Call) ringPhone(id int, f *fork, flows []site.Binding, to route.Entry) {
	if b := flows[0]; !c.srv.direct(b) && b.Node != c.srv.cfg.Node {
		own, _ := c.srv.cfg.View().SiteByID(to.Home)
		own.Nodes = []site.NodeID{b.Node}
		c.askSite(id, f, route.Branch{Site: own, After: route.PairAfter, Budget: route.Budget}, to, vector{applied: true, flows: true}, c.srv.cfg.Now())
		return
	}
	last := event{from: id, final: true, lost: true, cause: site.Offline}
	for _, b := range flows {
		if f.halt.stopped() {
			return
		}
		o, err := c.srv.reach(b)
		if err != nil {
			c.srv.log.Debug("A phone cannot be reached", "call", c.chain, "contact", b.Contact, "err", err)
			continue
		}
		o.to = to
		again := false
		c.try(id, o, f.halt, func(e event) bool {
			if e.lost {
				again = true
				return false
			}
			return f.tell(e)
		})
		if !again {
			return
		}
	}
	f.tell(last)
}
