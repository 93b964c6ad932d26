package b2bua

import (
	"context"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// announceFor is how long a caller is kept, at most, to be told why a call
// cannot be made.
const announceFor = 8 * time.Second

// announce tells the caller why, before the refusal that follows at once (RFC
// 3261 §13.2.1, calls.md §6): only phones of this site, who made an offer, and
// have not heard it already from a trunk or a feature. It returns when that is
// said, or when the caller has hung up.
func (c *Call) announce(cause site.Cause) {
	say := c.srv.cfg.Announce
	c.mu.Lock()
	deaf, l := c.late || c.shown == 183, c.caller
	c.mu.Unlock()
	if say == nil || c.peer || c.incoming || deaf || c.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(c.ctx, announceFor)
	defer cancel()
	if err := c.srv.cfg.Anchor.Bridge(l.port, nil); err != nil { // from a leg that was heard and is gone
		c.srv.log.Debug("A caller cannot be told why", "call", c.chain, "err", err)
		return
	}
	say(ctx, cause, c)
}
