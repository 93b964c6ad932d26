package b2bua

import (
	"context"

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
