package b2bua

import (
	"context"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// serve takes a request in the dialog (RFC 3261 §12.2.2).
func (l *Leg) serve(tx *transaction.ServerTx) {
	req := tx.Request()
	tag, _ := req.From().Params.Get("tag")
	seq := req.CSeq().SeqNo
	l.mu.Lock()
	state := l.state
	stale := l.remoteSeq != 0 && seq <= l.remoteSeq
	other := tag != l.remoteTag
	if !stale && !other {
		l.remoteSeq = seq
	}
	l.mu.Unlock()
	switch {
	case other || state == ended:
		tx.Respond(tx.Response(481, ""))
		return
	case stale:
		tx.Respond(tx.Response(500, "CSeq Out Of Order"))
		return
	}
	l.moved(tx.Flow())
	switch req.Method {
	case sip.BYE:
		tx.Respond(tx.Response(200, ""))
		l.gone()
		if state == early { // RFC 3261 §15.1.2: the INVITE gets 487
			l.call().end(site.Cancelled)
			return
		}
		if c := l.call(); !c.talks(l) { // it has transferred the call
			c.without(l)
			l.close()
			return
		}
		if !l.call().deserted(l) {
			l.call().end(endedBy(req))
		}
	case sip.INVITE, sip.UPDATE:
		if state != confirmed {
			tx.Respond(tx.Response(491, ""))
			return
		}
		l.serveReinvite(tx)
	case sip.OPTIONS:
		res := tx.Response(200, "")
		about(res)
		res.AppendHeader(sip.NewHeader("Accept", "application/sdp"))
		tx.Respond(res)
	case sip.PRACK:
		tx.Respond(tx.Response(481, "")) // none was asked for
	case sip.REFER:
		if state != confirmed {
			tx.Respond(tx.Response(491, ""))
			return
		}
		l.serveRefer(tx)
	case sip.SUBSCRIBE, sip.NOTIFY, sip.PUBLISH, sip.REGISTER:
		res := tx.Response(405, "")
		res.AppendHeader(sip.NewHeader("Allow", allow))
		tx.Respond(res)
	default:
		l.relay(tx)
	}
}

// relay copies a request to the other leg and its answer back: INFO, MESSAGE
// and methods nobody here knows.
func (l *Leg) relay(tx *transaction.ServerTx) {
	req := tx.Request()
	other := l.call().otherLeg(l)
	if other == nil {
		switch req.Method {
		case sip.INFO, sip.MESSAGE: // a feature hears keys as RFC 4733
			tx.Respond(tx.Response(200, ""))
		default:
			res := tx.Response(405, "")
			res.AppendHeader(sip.NewHeader("Allow", allow))
			tx.Respond(res)
		}
		return
	}
	out, d, err := other.next(req.Method)
	if err != nil {
		tx.Respond(tx.Response(481, ""))
		return
	}
	copyHeaders(out, req)
	copyBody(out, req)
	ctx, cancel := context.WithCancel(l.call().ctx)
	defer cancel()
	out2 := l.srv.layer.Request(ctx, out, d)
	for res := range out2.Responses() {
		if res.IsProvisional() {
			continue
		}
		if res.StatusCode == 408 || res.StatusCode == 481 {
			tx.Respond(tx.Response(res.StatusCode, ""))
			l.call().end(site.MediaLost)
			return
		}
		back := tx.Response(res.StatusCode, res.Reason)
		if c := res.StatusCode; c == 401 || c == 407 || c == 503 { // that leg's own affair
			back = tx.Response(500, "")
		}
		copyHeaders(back, res)
		copyBody(back, res)
		tx.Respond(back)
		return
	}
	tx.Respond(tx.Response(504, ""))
}
