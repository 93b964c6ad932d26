package phonetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// Dial calls what a person would dial ("202"), or a SIP URI, and returns when
// the other end answered. The error is a *Refusal if it refused. When ctx ends
// first, the call is cancelled.
func (p *Phone) Dial(ctx context.Context, dialled string) (*Call, error) {
	c, err := p.DialStart(ctx, dialled)
	if err != nil {
		return nil, err
	}
	if err := c.WaitAnswered(ctx); err != nil {
		if ctx.Err() != nil {
			c.cancelled(context.Cause(ctx))
		}
		return nil, fmt.Errorf("dial %s: %w", dialled, err)
	}
	return c, nil
}

// cancelled gives an outgoing call up without waiting.
func (c *Call) cancelled(cause error) {
	c.mu.Lock()
	c.hungUp = true
	tx := c.client
	c.mu.Unlock()
	if tx != nil {
		tx.Cancel("")
	}
	c.end(End{Here: true, Status: 487, Err: cause})
}

// DialStart is Dial without waiting for anything; see WaitRinging and
// WaitAnswered. ctx bounds only the start.
func (p *Phone) DialStart(ctx context.Context, dialled string) (*Call, error) {
	return p.dial(ctx, dialled)
}

// dial is DialStart with more headers.
func (p *Phone) dial(ctx context.Context, dialled string, more ...sip.Header) (*Call, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	to, direct, err := p.uri(dialled)
	if err != nil {
		return nil, err
	}
	var d edge.Dest
	if direct {
		ds, err := edge.Target(ctx, &to, nil)
		if err != nil {
			return nil, fmt.Errorf("dial %s: %w", dialled, err)
		}
		d = ds[0]
	} else if len(p.cfg.Servers) == 0 {
		return nil, fmt.Errorf("dial %s: %w", dialled, errNoServer)
	}
	c, err := p.newCall(p.newDialog(to, d))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", dialled, err)
	}
	c.out, c.caller = true, to.User
	offer := c.sdp.offer(sendrecv)
	w := wish{build: func() *sip.Request {
		req := c.next(sip.INVITE)
		p.about(req)
		for _, h := range more {
			req.AppendHeader(sip.HeaderClone(h))
		}
		setSDP(req, offer)
		return req
	}, started: c.started, observe: c.progress, late: c.late}
	if !p.spawn(func() { // ends with the INVITE or the phone
		var a answer
		var err error
		if direct {
			a, err = p.ask(p.ctx, w, d, 0)
		} else {
			a, err = p.askServers(p.ctx, w)
		}
		c.final(a, err)
	}) {
		c.end(End{Here: true, Err: errClosed})
		return nil, errClosed
	}
	return c, nil
}

// started notes the transaction to cancel.
func (c *Call) started(tx *transaction.ClientTx) {
	c.mu.Lock()
	c.client = tx
	if c.begun == nil {
		c.begun = tx.Request()
	}
	gone := c.hungUp
	c.mu.Unlock()
	if gone {
		tx.Cancel("")
	}
}

// progress takes a provisional response, with early media (RFC 3960).
func (c *Call) progress(res *sip.Response) {
	if res.StatusCode <= 100 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if res.To().Params.GetOr("tag", "") != "" && !c.isUp { // RFC 3261 §12.1
		c.early = c.dlg
		c.early.established(res)
	}
	if res.StatusCode == 180 || res.StatusCode == 183 {
		c.rings()
	}
	if len(res.Body()) > 0 && !c.isOver {
		if d, err := parseSDP(res.Body()); err == nil && d.audio >= 0 {
			c.theirs = d
			c.media()
		}
	}
}

// final takes what became of the INVITE.
func (c *Call) final(a answer, err error) {
	if err != nil {
		c.end(End{Err: err})
		return
	}
	if a.StatusCode >= 300 {
		r := refusal(a.Response)
		c.mu.Lock()
		here := c.hungUp
		c.mu.Unlock()
		c.end(End{Here: here, Status: r.Status, Reason: r.Header, Err: r})
		return
	}
	d, err := parseSDP(a.Body())
	if err == nil && d.audio < 0 {
		err = errors.New("the answer has no audio that this phone understands")
	}
	c.mu.Lock()
	c.dlg.dest = a.dest
	c.dlg.established(a.Response)
	c.theirs = d
	over := c.isOver || c.hungUp
	if !over && err == nil {
		c.media()
		c.rings()
		c.up()
	}
	c.mu.Unlock()
	c.acknowledge(a, nil)
	tag := c.dlg.remoteTag
	c.p.spawn(func() { c.others(a.tx, tag) }) // ends 64×T1 later, or with the phone
	if over || err != nil {
		c.bye(c.dialog())
		c.end(End{Here: true, Err: err})
	}
}

func (c *Call) dialog() dialog {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dlg
}

// bye ends a dialog that nobody wants, and waits only for the phone.
func (c *Call) bye(d dialog) {
	to := d.dest
	c.p.spawn(func() { // ends with the transaction or the phone
		_, err := c.p.ask(c.p.ctx, wish{build: func() *sip.Request { return d.next(sip.BYE) }}, to, 0)
		if err != nil {
			c.p.log.Debug("BYE without answer", "user", c.p.cfg.User, "err", err)
		}
	})
}

// late reads what comes of an INVITE that was given up.
func (c *Call) late(tx *transaction.ClientTx) { c.others(tx, "") }

// others acknowledges and ends every dialog of tx except the one with our call
// (RFC 3261 §13.2.2.4: a proxy may have forked).
func (c *Call) others(tx *transaction.ClientTx, ours string) {
	for {
		select {
		case <-c.p.ctx.Done():
			return
		case res, ok := <-tx.Responses():
			if !ok {
				return
			}
			tag := res.To().Params.GetOr("tag", "")
			if res.StatusCode/100 != 2 || tag == ours {
				continue
			}
			d := c.dialog()
			d.dest = tx.Dest()
			d.established(res)
			d.localSeq = max(d.localSeq, res.CSeq().SeqNo)
			ack := d.request(sip.ACK, res.CSeq().SeqNo)
			if err := tx.Ack(c.p.ctx, ack, d.dest); err == nil {
				c.bye(d)
			}
		}
	}
}
