package phonetest

import (
	"context"
	"fmt"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// DialReplacing calls like Dial, with a Replaces header (RFC 3891): the called
// side is asked to let this call take the place of the dialog r, as a phone does
// that picks up a ringing call or is told to by an attended transfer.
func (p *Phone) DialReplacing(ctx context.Context, dialled string, r Replaces) (*Call, error) {
	c, err := p.dial(ctx, dialled, replacing(r.String())...)
	if err != nil {
		return nil, err
	}
	if err := c.WaitAnswered(ctx); err != nil {
		if ctx.Err() != nil {
			c.cancelled(context.Cause(ctx))
		}
		return nil, fmt.Errorf("dial %s in place of %s: %w", dialled, r.CallID, err)
	}
	return c, nil
}

func replacing(value string) []sip.Header {
	return []sip.Header{sip.NewHeader("Replaces", value), sip.NewHeader("Require", "replaces")}
}

// parseReplaces reads the header's value (RFC 3891 §6.1).
func parseReplaces(s string) (r Replaces, ok bool) {
	id, params, _ := strings.Cut(s, ";")
	r.CallID = strings.TrimSpace(id)
	for param := range strings.SplitSeq(params, ";") {
		k, v, _ := strings.Cut(strings.TrimSpace(param), "=")
		switch strings.ToLower(strings.TrimSpace(k)) {
		case "to-tag":
			r.ToTag = strings.TrimSpace(v)
		case "from-tag":
			r.FromTag = strings.TrimSpace(v)
		case "early-only":
			r.EarlyOnly = true
		}
	}
	return r, r.CallID != "" && r.ToTag != "" && r.FromTag != ""
}

// replaced finds the call that an INVITE is to take the place of: nil without
// Replaces. status is what to refuse the INVITE with (RFC 3891 §3).
func (p *Phone) replaced(req *sip.Request) (old *Call, status int) {
	values := message.Values(req, "Replaces")
	if len(values) == 0 {
		return nil, 0
	}
	r, ok := parseReplaces(values[0])
	if !ok || len(values) > 1 {
		return nil, 400
	}
	if old = p.find(r.CallID, r.ToTag); old == nil {
		return nil, 481
	}
	known := old.known()
	old.mu.Lock()
	defer old.mu.Unlock()
	switch {
	case known.remoteTag != r.FromTag:
		return nil, 481
	case old.isOver:
		return nil, 603
	case old.isUp && r.EarlyOnly:
		return nil, 486
	case !old.isUp && !old.out: // an early dialog is only replaced by who made it
		return nil, 481
	}
	return old, 0
}

// Replaced is the call that this one takes the place of, nil for most calls.
// Such a call is answered by itself, and the other one ended.
func (c *Call) Replaced() *Call { return c.old }

// takeOver answers c and ends the call in whose place it comes.
func (c *Call) takeOver() {
	if err := c.Answer(c.p.ctx); err != nil {
		c.p.log.Debug("Call not taken over", "user", c.p.cfg.User, "err", err)
		return
	}
	if err := c.old.Hangup(c.p.ctx); err != nil {
		c.p.log.Debug("Replaced call not ended", "user", c.p.cfg.User, "err", err)
	}
}

// Sent delivers the calls that this phone made because a REFER asked for them.
func (p *Phone) Sent() <-chan *Call { return p.sent }

// referred serves a REFER in a call of ours (RFC 3515 §2.4, RFC 5589): the phone
// calls where it is sent and reports how that goes.
func (c *Call) referred(tx *transaction.ServerTx) {
	req, p := tx.Request(), c.p
	values := message.Values(req, "Refer-To")
	if len(values) != 1 {
		p.respond(tx, tx.Response(400, ""))
		return
	}
	_, u, _, err := message.ParseAddress(values[0])
	if err != nil {
		p.respond(tx, tx.Response(400, ""))
		return
	}
	var more []sip.Header
	if v, ok := header(u, "Replaces"); ok {
		if _, ok := parseReplaces(v); !ok {
			p.respond(tx, tx.Response(400, ""))
			return
		}
		more = replacing(v)
	}
	if v := message.Get(req, "Referred-By"); v != "" {
		more = append(more, sip.NewHeader("Referred-By", strings.Clone(v)))
	}
	u.Headers = nil
	res := tx.Response(202, "")
	p.about(res)
	p.respond(tx, res)
	id, target := req.CSeq().SeqNo, u.String()
	p.spawn(func() { // ends when the new call is answered or refused, or with the phone
		c.report(id, 100, false)
		n, err := p.dial(p.ctx, target, more...)
		if err != nil {
			c.report(id, 503, true)
			return
		}
		select {
		case p.sent <- n:
		default:
		}
		if n.WaitRinging(p.ctx) == nil {
			c.report(id, 180, false)
		}
		status := 200
		if n.WaitAnswered(p.ctx) != nil {
			if status = n.Cause().Status; status == 0 {
				status = 408
			}
		}
		c.report(id, status, true)
	})
}

// header is the value of a header that a URI carries, unescaped.
func header(u sip.Uri, name string) (string, bool) {
	for _, h := range u.Headers {
		if strings.EqualFold(h.K, name) {
			return unescape(h.V), true
		}
	}
	return "", false
}

// unescape undoes escape; what is no escape stays.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			var ch byte
			if n, err := fmt.Sscanf(s[i+1:i+3], "%02x", &ch); n == 1 && err == nil {
				b.WriteByte(ch)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// report sends one NOTIFY about the REFER with number id. last ends the
// subscription.
func (c *Call) report(id uint32, status int, last bool) {
	state := "active;expires=180"
	if last {
		state = "terminated;reason=noresource"
	}
	d := c.dialog().dest
	_, err := c.p.ask(c.p.ctx, wish{build: func() *sip.Request {
		req := c.next(sip.NOTIFY)
		c.p.about(req)
		req.AppendHeader(sip.NewHeader("Event", fmt.Sprintf("refer;id=%d", id)))
		req.AppendHeader(sip.NewHeader("Subscription-State", state))
		ct := sip.ContentTypeHeader("message/sipfrag;version=2.0")
		req.AppendHeader(&ct)
		req.SetBody(fmt.Appendf(nil, "SIP/2.0 %d %s\r\n", status, message.Reason(status)))
		return req
	}}, d, 0)
	if err != nil {
		c.p.log.Debug("Report of a transfer not sent", "user", c.p.cfg.User, "err", err)
	}
}
