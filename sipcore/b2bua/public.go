package b2bua

import (
	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/route"
)

// viaPublic is what records and displays say of a call that goes over the
// public network because the site it is for cannot be reached (calls.md §3
// step 7).
const viaPublic = "via public line"

// publicly notes that the call takes that way, and lets the caller see it.
func (c *Call) publicly() {
	c.mu.Lock()
	c.diverted = viaPublic
	c.mu.Unlock()
	if err := c.progress(181, nil, nil); err != nil {
		c.srv.log.Debug("Caller not told of the public line", "call", c.chain, "err", err)
	}
}

// name tells a phone of this site whom it is connected with, where that is
// another way than it asked for (RFC 3325 §9.1: the header in a response).
// Call.mu is held.
func (c *Call) name(res *sip.Response) {
	if c.diverted != viaPublic || c.peer || c.incoming {
		return
	}
	view := c.srv.cfg.View()
	at := sip.Uri{Scheme: "sip", User: escapeUser(route.Shown(view, c.to)), Host: view.Domain()}
	res.AppendHeader(sip.NewHeader("P-Asserted-Identity", `"`+display(c.to.Display+" "+viaPublic)+`" <`+at.String()+`>`))
}
