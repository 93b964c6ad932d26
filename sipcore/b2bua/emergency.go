package b2bua

import (
	"cmp"
	"context"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/route"
)

// tryEmergency is the test call behind route.EmergencyTest: it goes the way an
// emergency call of this caller would go, with the same identity and from line
// to line, but to the number that the provider gives for tests, ends nobody
// else's call, and is marked as a test wherever it is told of.
func (c *Call) tryEmergency(ctx context.Context) error {
	view := c.srv.cfg.View()
	numbers := view.Own().Emergency
	if len(numbers) == 0 || c.srv.cfg.Lines == nil {
		return site.NoLine
	}
	st := route.Next(view, route.Call{From: c.payer(), To: route.URI{User: numbers[0]}}, nil)
	if st.Kind != route.Emergency {
		return st.Cause
	}
	c.mu.Lock()
	c.test = true
	c.to = site.Party{AOR: site.AOR{User: st.Number, Domain: view.Domain()}, Display: "test"}
	c.mu.Unlock()
	cause, done := c.external(ctx, st)
	if done {
		return nil
	}
	return cause
}

func (c *Call) isTest() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.test
}

// An sos is what a neighbour is told of an emergency call that finds no line at
// its own site (calls.md §3 step 0).
type sos struct {
	set      bool
	callBack string // E.164
	place    string
}

// maxPlace bounds the place another node tells, in bytes.
const maxPlace = 200

func (e sos) String() string {
	if !e.set {
		return ""
	}
	s := ";sos=" + url.QueryEscape(e.callBack)
	if place := e.place; place != "" {
		for len(place) > maxPlace {
			_, n := utf8.DecodeLastRuneInString(place)
			place = place[:len(place)-n]
		}
		s += ";place=" + url.QueryEscape(place)
	}
	return s
}

// read takes one parameter of what another node told.
func (e *sos) read(key, val string) {
	e.set = true
	text, err := url.QueryUnescape(val)
	if err != nil || len(text) > maxPlace || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
		return
	}
	if key == "place" {
		e.place = text
	} else {
		e.callBack = text
	}
}

// byNeighbours sends an emergency call to other sites, one after the other,
// which carry it over their lines as if it had begun there.
func (c *Call) byNeighbours(ctx context.Context, number string, help sos, cause site.Cause) (string, site.Cause, bool) {
	view := c.srv.cfg.View()
	for _, b := range c.srv.cfg.Lines.Neighbours() {
		if len(b.Site.Emergency) == 0 {
			continue
		}
		if !slices.Contains(b.Site.Emergency, number) { // it has another number for it
			number = b.Site.Emergency[0]
		}
		c.srv.log.Warn("An emergency call goes over another site's lines", "call", c.chain, "site", b.Site.Code)
		to := route.Entry{AOR: site.AOR{User: number, Domain: route.SiteDomain(view, b.Site.Code)}, Home: b.Site.ID}
		why, done := c.askNeighbour(ctx, b, to, vector{sos: help})
		if done || ctx.Err() != nil || c.ctx.Err() != nil {
			return b.Site.Code, why, done
		}
		c.srv.log.Warn("That site has no line either", "call", c.chain, "site", b.Site.Code, "cause", why.String())
	}
	return "", cause, false
}

func (c *Call) askNeighbour(ctx context.Context, b route.Branch, to route.Entry, v vector) (cause site.Cause, done bool) {
	f := &fork{call: c, halt: newHalt(), events: make(chan event)}
	defer f.halt.stop("")
	from := c.srv.cfg.Now()
	c.srv.spawn(func() { c.askSite(0, f, b, to, v, from) })
	for {
		select {
		case e := <-f.events:
			switch {
			case e.answer:
				f.halt.stop(elsewhere)
				return c.join(e)
			case e.final:
				return cmp.Or(e.cause, site.NoLine), false
			default:
				c.ringing(e, true)
			}
		case p := <-c.picks:
			p.answer(errNotRinging)
		case <-c.ctx.Done():
			return failure(c.cause()), false
		case <-ctx.Done():
			return failure(context.Cause(ctx)), false
		}
	}
}

// answerHelp routes a call; one back to who made an emergency call rings there
// first, whatever was set for calls to that line, and nobody's voicemail ends it.
func (c *Call) answerHelp(to route.URI) error {
	if c.rescue == "" {
		return c.route(c.ctx, to)
	}
	view := c.srv.cfg.View()
	rc := route.Call{From: c.payer(), To: route.ParseURI(c.rescue), Trunk: true}
	for _, e := range view.Lookup(rc.To.User) {
		rc.Applied = rc.Applied || e.Home == view.Own().ID // another site applies its own
	}
	c.srv.log.Warn("A call back after an emergency call", "call", c.chain, "to", c.rescue)
	if err := c.routeAs(c.ctx, rc); err == nil || c.ctx.Err() != nil || c.isAnswered() {
		return err
	}
	return c.route(c.ctx, to)
}

// mostUrgent is how many emergency calls there may be at once from one address:
// a broken or evil telephone must not take every line from those in need. A
// base of cordless telephones has one address.
const mostUrgent = 4

// urgentFrom counts one more emergency call from an address; false: too many.
func (s *Server) urgentFrom(c *Call, from netip.Addr) bool {
	s.mu.Lock()
	if s.urgent[from] >= mostUrgent {
		s.mu.Unlock()
		return false
	}
	if s.urgent == nil {
		s.urgent = map[netip.Addr]int{}
	}
	s.urgent[from]++
	s.mu.Unlock()
	context.AfterFunc(c.ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.urgent[from]--; s.urgent[from] <= 0 {
			delete(s.urgent, from)
		}
	})
	return true
}
