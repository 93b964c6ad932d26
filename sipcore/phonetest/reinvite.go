package phonetest

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// Hold puts the other end on hold: it hears nothing and is asked to send
// nothing that would be heard (RFC 3264 §8.4).
func (c *Call) Hold(ctx context.Context) error { return c.change(ctx, sendonly) }

// Resume ends Hold.
func (c *Call) Resume(ctx context.Context) error { return c.change(ctx, sendrecv) }

// change makes a new offer.
func (c *Call) change(ctx context.Context, want direction) error {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.done:
		return errOver
	}
	for {
		status, err := c.offer(ctx, want)
		if status != 491 {
			return err
		}
		// RFC 3261 §14.1: who made the Call-ID waits longer.
		b, _ := hex.DecodeString(c.p.token(2))
		pause := time.Duration(binary.BigEndian.Uint16(b)%200) * 10 * time.Millisecond
		if c.out {
			pause += 2100 * time.Millisecond
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		case <-c.done:
			t.Stop()
			return errOver
		}
	}
}

// offer sends one re-INVITE.
func (c *Call) offer(ctx context.Context, want direction) (status int, err error) {
	c.mu.Lock()
	if c.isOver || !c.isUp {
		c.mu.Unlock()
		return 0, errOver
	}
	if c.serving {
		c.mu.Unlock()
		return 491, errors.New("the other end is changing the session")
	}
	c.inviting = true
	sdp, d := c.sdp.offer(want), c.dlg.dest
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.inviting = false
		c.mu.Unlock()
	}()
	a, err := c.p.ask(ctx, wish{build: func() *sip.Request {
		req := c.next(sip.INVITE)
		c.p.about(req)
		setSDP(req, sdp)
		return req
	}, late: c.lateChange}, d, 0)
	if err != nil {
		return 0, fmt.Errorf("change the session: %w", err)
	}
	if a.StatusCode >= 300 {
		if a.StatusCode == 481 || a.StatusCode == 408 { // RFC 3261 §14.1: the dialog is over
			c.end(End{Here: true, Err: refusal(a.Response)})
		}
		status = a.StatusCode
		if status == 500 && message.Get(a.Response, "Retry-After") != "" { // RFC 3261 §14.2: too soon after the last one
			status = 491
		}
		return status, fmt.Errorf("change the session: %w", refusal(a.Response))
	}
	answer, err := parseSDP(a.Body())
	if err == nil && answer.audio < 0 {
		err = errors.New("the answer has no audio")
	}
	c.mu.Lock()
	c.dlg.refresh(a.Response)
	if err == nil && !c.isOver {
		c.mine, c.theirs = want, answer
		c.media()
	}
	c.mu.Unlock()
	c.acknowledge(a, nil)
	return a.StatusCode, err
}

// lateChange acknowledges a re-INVITE that was given up and succeeded all the same.
func (c *Call) lateChange(tx *transaction.ClientTx) {
	for {
		select {
		case <-c.p.ctx.Done():
			return
		case res, ok := <-tx.Responses():
			if !ok {
				return
			}
			if res.StatusCode/100 == 2 {
				c.acknowledge(answer{res, tx, tx.Dest()}, nil)
			}
		}
	}
}

// reinvited serves a re-INVITE or UPDATE of the other end (RFC 3261 §14.2,
// RFC 3311 §5.2).
func (c *Call) reinvited(tx *transaction.ServerTx) {
	req := tx.Request()
	c.mu.Lock()
	defer c.mu.Unlock()
	invite := req.Method == sip.INVITE
	refuse := func(status int, h ...sip.Header) {
		res := tx.Response(status, "")
		for _, h := range h {
			res.AppendHeader(h)
		}
		c.p.respond(tx, res)
	}
	hasOffer := len(req.Body()) > 0
	switch {
	case c.isOver:
		refuse(481)
		return
	case invite && !c.isUp:
		refuse(500, sip.NewHeader("Retry-After", "1"))
		return
	case c.inviting && (invite || hasOffer):
		refuse(491)
		return
	case len(c.accepted) > 0 && (invite || hasOffer): // our last answer is not acknowledged yet
		refuse(500, sip.NewHeader("Retry-After", "1"))
		return
	}
	c.dlg.refresh(req)
	res := tx.Response(200, "")
	c.p.about(res)
	switch {
	case hasOffer:
		if status, h := message.Acceptable(req, "application/sdp"); status != 0 {
			refuse(status, h)
			return
		}
		d, err := parseSDP(req.Body())
		if err != nil {
			refuse(400)
			return
		}
		if d.audio < 0 {
			refuse(488)
			return
		}
		c.theirs = d
		setSDP(res, c.sdp.answer(d, between(c.mine, d.dir)))
		c.media()
	case invite:
		setSDP(res, c.sdp.offer(c.mine))
	default:
		res.SetBody(nil)
	}
	if !invite {
		c.p.respond(tx, res)
		return
	}
	c.accept(tx, res, !hasOffer)
}
