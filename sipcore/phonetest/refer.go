package phonetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// A Replaces names the dialog that a new call takes the place of (RFC 3891 §6.1),
// as the phone sees it that is called with it.
type Replaces struct {
	CallID         string
	ToTag, FromTag string // the called phone's own, and its peer's
	EarlyOnly      bool   // only while it is not answered
}

// String is the header's value.
func (r Replaces) String() string {
	s := r.CallID + ";to-tag=" + r.ToTag + ";from-tag=" + r.FromTag
	if r.EarlyOnly {
		s += ";early-only"
	}
	return s
}

// Replaces names this call to its other end. ok is false for an outgoing call
// that nobody has answered with a tag yet.
func (c *Call) Replaces() (r Replaces, ok bool) {
	d := c.known()
	return Replaces{CallID: d.callID, ToTag: d.remoteTag, FromTag: d.localTag}, d.remoteTag != ""
}

// known is the dialog, early or confirmed.
func (c *Call) known() dialog {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dlg.remoteTag == "" && c.early.remoteTag != "" {
		return c.early
	}
	return c.dlg
}

// escape writes s as a header value within a URI (RFC 3261 §19.1.1, §25.1).
func escape(s string) string {
	var b strings.Builder
	for _, ch := range []byte(s) {
		switch {
		case 'a' <= ch && ch <= 'z', 'A' <= ch && ch <= 'Z', '0' <= ch && ch <= '9', strings.IndexByte("-_.!~*'()", ch) >= 0:
			b.WriteByte(ch)
		default:
			fmt.Fprintf(&b, "%%%02X", ch)
		}
	}
	return b.String()
}

// A referral is one REFER of ours and what its NOTIFYs said (RFC 3515). It
// lives on when the call is over, as its subscription does (RFC 5057 §4.1).
type referral struct {
	c *Call

	// guarded by Phone.mu
	ids      map[uint32]bool // CSeq of the REFER: its first try, and those with credentials
	statuses []int
	over     bool // the subscription ended
	reason   string
	changed  chan struct{}
}

// Refer transfers the call blindly (RFC 5589 §6): it asks the other end to call
// target instead, what a person would dial or a SIP URI, and returns the status
// that this came to: 200 when the target answered, else its refusal. The error
// is a *Refusal if the REFER itself was refused. The call stays until somebody
// hangs up; hanging up here does not end the reports.
func (c *Call) Refer(ctx context.Context, target string) (status int, err error) {
	u, _, err := c.p.uri(target)
	if err != nil {
		return 0, fmt.Errorf("transfer to %s: %w", target, err)
	}
	return c.ReferTo(ctx, "<"+u.String()+">")
}

// ReferReplaces transfers the call to whom other talks with (RFC 5589 §7), or,
// while other still rings, to whom it rings at, with the Replaces of the early
// dialog (semi-attended). Like Refer, it hangs up nothing.
func (c *Call) ReferReplaces(ctx context.Context, other *Call) (status int, err error) {
	r, ok := other.Replaces()
	if !ok {
		return 0, errors.New("transfer: the consultation call has no dialog yet")
	}
	u := other.known().target
	u.Headers = nil
	return c.ReferTo(ctx, "<"+u.String()+"?Replaces="+escape(r.String())+">")
}

// ReferRinging is the other way of the semi-attended transfer: other, which
// still rings, is cancelled, then the call is transferred blindly to whom it
// had called.
func (c *Call) ReferRinging(ctx context.Context, other *Call) (status int, err error) {
	u := other.dialog().remote
	if err := other.Hangup(ctx); err != nil {
		return 0, fmt.Errorf("transfer: give the consultation up: %w", err)
	}
	return c.ReferTo(ctx, "<"+u.String()+">")
}

// ReferTo is Refer with the value of the Refer-To header as it shall be sent.
func (c *Call) ReferTo(ctx context.Context, referTo string) (status int, err error) {
	c.mu.Lock()
	if c.isOver || !c.isUp {
		c.mu.Unlock()
		return 0, errOver
	}
	d := c.dlg.dest
	by := "<" + c.dlg.local.String() + ">"
	c.mu.Unlock()
	r := &referral{c: c, ids: map[uint32]bool{}, changed: make(chan struct{})}
	p := c.p
	p.mu.Lock()
	p.referrals[c.ID()] = r
	p.mu.Unlock()
	a, err := p.ask(ctx, wish{build: func() *sip.Request {
		req := c.next(sip.REFER)
		p.mu.Lock()
		r.ids[req.CSeq().SeqNo] = true // a NOTIFY may overtake the 202
		p.mu.Unlock()
		p.about(req)
		req.AppendHeader(sip.NewHeader("Refer-To", referTo))
		req.AppendHeader(sip.NewHeader("Referred-By", by)) // RFC 3892
		return req
	}}, d, 0)
	if err != nil {
		return 0, fmt.Errorf("transfer: %w", err)
	}
	if a.StatusCode >= 300 {
		return 0, fmt.Errorf("transfer: %w", refusal(a.Response))
	}
	for {
		p.mu.Lock()
		statuses, over, changed := r.statuses, r.over, r.changed
		p.mu.Unlock()
		if n := len(statuses); n > 0 && statuses[n-1] >= 200 {
			return statuses[n-1], nil
		}
		if over {
			return 0, fmt.Errorf("transfer: the reports ended (%s) with %v", r.reason, statuses)
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			return 0, errClosed
		case <-ctx.Done():
			return 0, fmt.Errorf("wait for the end of the transfer, have %v: %w", statuses, context.Cause(ctx))
		}
	}
}

// Reports are the statuses that the NOTIFYs of the last REFER brought, in order.
func (c *Call) Reports() []int {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if r := c.p.referrals[c.ID()]; r != nil {
		return append([]int(nil), r.statuses...)
	}
	return nil
}

// reported takes a NOTIFY if it belongs to a REFER of ours.
func (p *Phone) reported(tx *transaction.ServerTx, tag string) bool {
	req := tx.Request()
	event, rest, _ := strings.Cut(message.Get(req, "Event"), ";")
	if !strings.EqualFold(strings.TrimSpace(event), "refer") {
		return false
	}
	p.mu.Lock()
	r := p.referrals[req.CallID().Value()]
	p.mu.Unlock()
	if r == nil || r.c.dlg.localTag != tag {
		return false
	}
	c := r.c
	c.mu.Lock()
	from, seq := req.From().Params.GetOr("tag", ""), req.CSeq().SeqNo
	status := 200
	switch {
	case c.dlg.remoteTag != from:
		status = 481
	case c.dlg.remoteSeq != 0 && seq <= c.dlg.remoteSeq: // RFC 3261 §12.2.2
		status = 500
	default:
		c.dlg.remoteSeq = seq
	}
	c.mu.Unlock()
	if status == 200 {
		status = p.report(r, req, rest)
	}
	p.respond(tx, tx.Response(status, ""))
	return true
}

// report notes what one NOTIFY says, and returns what to answer.
func (p *Phone) report(r *referral, req *sip.Request, params string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for param := range strings.SplitSeq(params, ";") { // RFC 3515 §2.4.6
		if k, v, _ := strings.Cut(strings.TrimSpace(param), "="); strings.EqualFold(k, "id") {
			if n, err := strconv.ParseUint(v, 10, 32); err != nil || !r.ids[uint32(n)] {
				return 481
			}
		}
	}
	state, rest, _ := strings.Cut(message.Get(req, "Subscription-State"), ";")
	if state == "" {
		return 400
	}
	if len(req.Body()) > 0 {
		if n, ok := parseFrag(req.Body()); ok {
			r.statuses = append(r.statuses, n)
		} else {
			return 400
		}
	}
	if strings.EqualFold(strings.TrimSpace(state), "terminated") {
		r.over, r.reason = true, strings.Clone(strings.TrimSpace(rest))
	}
	close(r.changed)
	r.changed = make(chan struct{})
	return 200
}

// parseFrag reads the status line of a message/sipfrag (RFC 3420).
func parseFrag(b []byte) (status int, ok bool) {
	line, _, _ := strings.Cut(string(b), "\n")
	rest, ok := strings.CutPrefix(strings.TrimRight(line, "\r"), "SIP/2.0 ")
	code, _, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(code)
	return n, ok && err == nil && len(code) == 3 && n >= 100 && n < 700
}
