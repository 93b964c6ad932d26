package b2bua

import (
	"carrierclass.net/ccnode/sipcore"
)

// lamps shows the call as it is now to those who watch.
func (c *Call) lamps() {
	if c.srv.cfg.Lamps == nil {
		return
	}
	var out []sipcore.DialogState
	c.showing.Lock() // so that what is newer is set later
	defer c.showing.Unlock()
	c.mu.Lock()
	over := c.gone
	if !over && c.caller != nil {
		if c.caller.ours() {
			out = append(out, sipcore.DialogState{AOR: c.from.AOR, Confirmed: c.answered, Remote: c.to})
		}
		for _, a := range c.rings {
			out = append(out, sipcore.DialogState{AOR: a, Recipient: true, Remote: c.from})
		}
		if p := c.partner; p != nil && p.ours() {
			out = append(out, sipcore.DialogState{AOR: p.line, Recipient: true, Confirmed: true, Remote: c.from})
		}
		if c.orbit != "" {
			out = append(out, sipcore.DialogState{AOR: c.srv.orbitAOR(c.orbit), Recipient: true, Confirmed: true, Parked: true, Remote: c.from})
		}
	}
	c.mu.Unlock()
	for i := range out {
		out[i].Chain = c.chain
	}
	c.srv.cfg.Lamps.Set(c.chain, out)
}
