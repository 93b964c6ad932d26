package phonetest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// request takes each request that comes to the phone.
func (p *Phone) request(tx *transaction.ServerTx) {
	req := tx.Request()
	if tag := req.To().Params.GetOr("tag", ""); tag != "" {
		p.inDialog(tx, tag)
		return
	}
	switch req.Method {
	case sip.INVITE:
		p.invited(tx)
	case sip.OPTIONS:
		res := tx.Response(200, "")
		p.about(res)
		res.AppendHeader(sip.NewHeader("Accept", "application/sdp"))
		p.respond(tx, res)
	case sip.MESSAGE:
		p.told(tx)
	case sip.NOTIFY:
		p.synced(tx)
	case sip.BYE, sip.UPDATE, sip.INFO:
		p.respond(tx, tx.Response(481, ""))
	default:
		res := tx.Response(405, "")
		res.AppendHeader(sip.NewHeader("Allow", allow))
		p.respond(tx, res)
	}
}

func (p *Phone) respond(tx *transaction.ServerTx, res *sip.Response) {
	if err := tx.Respond(res); err != nil {
		p.log.Debug("Response not sent", "user", p.cfg.User, "status", res.StatusCode, "err", err)
	}
}

// find returns the call of a dialog, nil if there is none.
func (p *Phone) find(callID, tag string) *Call {
	p.mu.Lock()
	c := p.calls[callID]
	p.mu.Unlock()
	if c == nil || c.dlg.localTag != tag { // constant once the call is in the table
		return nil
	}
	return c
}

func (p *Phone) inDialog(tx *transaction.ServerTx, tag string) {
	req := tx.Request()
	if req.Method == sip.NOTIFY && (p.notified(tx, tag) || p.reported(tx, tag)) {
		return
	}
	c := p.find(req.CallID().Value(), tag)
	if c == nil {
		p.respond(tx, tx.Response(481, ""))
		return
	}
	c.mu.Lock()
	from, seq := req.From().Params.GetOr("tag", ""), req.CSeq().SeqNo
	switch {
	case c.dlg.remoteTag != "" && from != c.dlg.remoteTag:
		c.mu.Unlock()
		p.respond(tx, tx.Response(481, ""))
		return
	case c.dlg.remoteSeq != 0 && seq <= c.dlg.remoteSeq: // RFC 3261 §12.2.2
		c.mu.Unlock()
		p.respond(tx, tx.Response(500, "CSeq Out Of Order"))
		return
	}
	c.dlg.remoteSeq = seq
	c.mu.Unlock()
	switch req.Method {
	case sip.BYE:
		p.respond(tx, tx.Response(200, ""))
		c.end(End{Reason: strings.Clone(message.Get(req, "Reason"))})
	case sip.INVITE, sip.UPDATE:
		c.reinvited(tx)
	case sip.REFER:
		c.referred(tx)
	case sip.INFO, sip.OPTIONS, sip.NOTIFY:
		p.respond(tx, tx.Response(200, ""))
	default:
		res := tx.Response(405, "")
		res.AppendHeader(sip.NewHeader("Allow", allow))
		p.respond(tx, res)
	}
}

// ack takes an ACK for a 2xx of ours.
func (p *Phone) ack(ack *sip.Request, _ *edge.Flow) {
	c := p.find(ack.CallID().Value(), ack.To().Params.GetOr("tag", ""))
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.accepted[ack.CSeq().SeqNo]
	if a == nil {
		return
	}
	delete(c.accepted, ack.CSeq().SeqNo)
	a.stop()
	if a.offer {
		d, err := parseSDP(ack.Body())
		if err == nil && d.audio >= 0 {
			c.theirs = d
			if !c.isOver {
				c.media()
			}
		}
	}
	close(a.acked)
}

// invited makes a Call of an INVITE and shows it to whoever has the phone.
func (p *Phone) invited(tx *transaction.ServerTx) {
	req := tx.Request()
	var offer description
	if len(req.Body()) > 0 {
		if status, h := message.Acceptable(req, "application/sdp"); status != 0 {
			res := tx.Response(status, "")
			res.AppendHeader(h)
			p.respond(tx, res)
			return
		}
		var err error
		if offer, err = parseSDP(req.Body()); err != nil {
			p.respond(tx, tx.Response(400, "Bad SDP"))
			return
		}
		if offer.audio < 0 {
			p.respond(tx, tx.Response(488, ""))
			return
		}
	}
	if p.knows(req.CallID().Value()) { // RFC 3261 §8.2.2.2
		p.respond(tx, tx.Response(482, ""))
		return
	}
	old, status := p.replaced(req)
	if status != 0 {
		p.respond(tx, tx.Response(status, ""))
		return
	}
	c, err := p.newCall(p.dialogOf(req, tx.Tag(), tx.Flow()))
	if err != nil {
		p.log.Warn("Call refused by the phone", "user", p.cfg.User, "err", err)
		p.respond(tx, tx.Response(500, ""))
		return
	}
	c.mu.Lock()
	c.old = old
	c.server, c.begun, c.theirs, c.offered = tx, req, offer, len(req.Body()) > 0
	c.caller, c.name = strings.Clone(req.From().Address.User), message.Unquote(`"`+req.From().DisplayName+`"`)
	c.mu.Unlock()
	select {
	case p.incoming <- c:
	default:
		p.respond(tx, tx.Response(486, ""))
		c.end(End{Here: true, Status: 486})
		return
	}
	if old != nil {
		p.spawn(c.takeOver) // ends when the old call is over, or with the phone
	}
	p.spawn(func() { // ends when answered, refused or cancelled, or with the phone
		select {
		case <-tx.Cancelled():
			c.mu.Lock()
			up := c.isUp
			c.mu.Unlock()
			if up {
				return
			}
			p.respond(tx, tx.Response(487, ""))
			c.end(End{Status: 487, Reason: strings.Clone(tx.CancelReason())})
		case <-c.done:
		case <-c.answered:
		}
	})
}

func (p *Phone) knows(callID string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[callID] != nil
}

var errOutgoing = errors.New("this phone is the caller")

// Ring says 180 to the caller.
func (c *Call) Ring() error {
	if c.server == nil {
		return errOutgoing
	}
	res := c.server.Response(180, "")
	c.p.about(res)
	if err := c.server.Respond(res); err != nil {
		return fmt.Errorf("ring: %w", err)
	}
	c.mu.Lock()
	c.rings()
	c.mu.Unlock()
	return nil
}

// Reject refuses the call with a status from 300 on.
func (c *Call) Reject(status int) error {
	if c.server == nil {
		return errOutgoing
	}
	if err := c.server.Respond(c.server.Response(status, "")); err != nil {
		return fmt.Errorf("reject: %w", err)
	}
	c.end(End{Here: true, Status: status})
	return nil
}

// Answer answers the call and returns when the caller has acknowledged it.
func (c *Call) Answer(ctx context.Context) error {
	if c.server == nil {
		return errOutgoing
	}
	c.mu.Lock()
	if c.isOver || c.isUp {
		c.mu.Unlock()
		return fmt.Errorf("answer: %w", errOver)
	}
	res := c.server.Response(200, "")
	c.p.about(res)
	if c.offered {
		setSDP(res, c.sdp.answer(c.theirs, between(c.mine, c.theirs.dir)))
		c.media()
	} else {
		setSDP(res, c.sdp.offer(c.mine))
	}
	c.rings()
	c.up()
	a := c.accept(c.server, res, !c.offered)
	c.mu.Unlock()
	select {
	case <-a.acked:
		return nil
	case <-c.done:
		return fmt.Errorf("answer: %w", errOver)
	case <-ctx.Done():
		return fmt.Errorf("answer: no ACK: %w", context.Cause(ctx))
	}
}

// accept sends a 2xx until its ACK comes. c.mu is held.
func (c *Call) accept(tx *transaction.ServerTx, res *sip.Response, offer bool) *accepted {
	a := &accepted{offer: offer, acked: make(chan struct{})}
	a.stop = tx.Accept(res, func() { // RFC 3261 §13.3.1.4
		c.bye(c.dialog())
		c.end(End{Here: true, Err: errors.New("the answer was never acknowledged")})
	})
	c.accepted[tx.Request().CSeq().SeqNo] = a
	return a
}
