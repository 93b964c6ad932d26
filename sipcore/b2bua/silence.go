package b2bua

import (
	"context"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
)

// A listener is a media port that knows when it last heard something, and
// whether it is on hold. Ports that do not are not watched.
type listener interface {
	LastPacket() time.Time // zero: nothing yet
	Held() bool
}

// A meter is a media port that knows whether speech ever came from its other end.
type meter interface{ Heard() bool }

// bothHeard says whether speech came from every end; nil if that was not measured.
func bothHeard(ends []*Leg) *bool {
	all := true
	for _, l := range ends {
		if l == nil { // a feature: it always speaks
			continue
		}
		m, ok := l.port.(meter)
		if !ok {
			return nil
		}
		all = all && m.Heard()
	}
	return &all
}

// watchSilence asks a leg that sends no RTP whether it is still there (calls.md
// §4). It ends with the call.
func (c *Call) watchSilence(l *Leg) {
	port, ok := l.port.(listener)
	if !ok {
		return
	}
	c.srv.spawn(func() {
		begun := c.srv.cfg.Now()
		t := time.NewTicker(c.srv.cfg.Silence)
		defer t.Stop()
		for {
			select {
			case <-c.ctx.Done():
				return
			case <-t.C:
			}
			l.mu.Lock()
			gone := l.state == ended
			l.mu.Unlock()
			switch {
			case gone || l.call() != c:
				return
			case !c.talks(l): // it has transferred the call
				begun = c.srv.cfg.Now()
				continue
			}
			last := port.LastPacket()
			if last.Before(begun) {
				last = begun
			}
			if port.Held() || c.srv.cfg.Now().Sub(last) < c.srv.cfg.Silence {
				continue
			}
			if !l.alive(c.ctx) && l.call() == c && c.talks(l) {
				c.srv.log.Info("Call ended: no speech and no answer from a phone", "call", c.chain, "leg", l.remote.User)
				c.end(site.MediaLost)
				return
			}
		}
	})
}

// alive asks the other end with OPTIONS in the dialog.
func (l *Leg) alive(ctx context.Context) bool {
	req, d, err := l.next(sip.OPTIONS)
	if err != nil {
		return false
	}
	req.SetBody(nil)
	tx := l.srv.layer.Request(ctx, req, d)
	for res := range tx.Responses() {
		if !res.IsProvisional() {
			return res.StatusCode != 408 && res.StatusCode != 481
		}
	}
	return ctx.Err() != nil
}
