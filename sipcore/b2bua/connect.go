package b2bua

import "carrierclass.net/ccnode/sipcore/route"

// Leave lets the caller leave a message for to, as if nobody had answered there.
// It returns when that is over.
func (c *Call) Leave(to route.Entry) error {
	c.mu.Lock()
	c.to = to.Party()
	c.mu.Unlock()
	return c.feature(c.ctx, route.Step{Kind: route.Feature, Feature: route.Voicemail, Target: to, Diverted: "no answer", Why: "a feature sent the caller there"})
}
