package b2bua

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// errGlare says that another change of the session is under way in the dialog
// (RFC 3261 §14.1).
var errGlare = errors.New("another change of the session is under way")

// reinvite sends INVITE or UPDATE in the dialog and returns the final
// response; a 2xx to an INVITE has been acknowledged. Each one refreshes the
// session (RFC 4028 §7.1: one that did not would end the timer). more may add
// headers.
func (l *Leg) reinvite(ctx context.Context, method sip.RequestMethod, sdp []byte, more func(*sip.Request)) (*sip.Response, error) {
	l.reconnect()
	l.mu.Lock()
	if l.state != confirmed {
		l.mu.Unlock()
		return nil, ErrOver
	}
	if l.inviting || l.invited {
		l.mu.Unlock()
		return nil, errGlare
	}
	l.localSeq++
	req, d := l.request(method, l.localSeq), l.dest
	interval := l.session.interval
	at := l.contact(d)
	if method == sip.INVITE {
		l.inviting = true
	}
	l.mu.Unlock()
	if method == sip.INVITE {
		defer func() { l.mu.Lock(); l.inviting = false; l.mu.Unlock() }()
	}
	req.AppendHeader(at)
	about(req)
	propose(req, cmp.Or(interval, sessionExpires))
	if more != nil {
		more(req)
	}
	setSDP(req, sdp)
	ctx, cancel := context.WithTimeout(ctx, 32*time.Second)
	defer cancel()
	tx := l.srv.layer.Request(ctx, req, d)
	for res := range tx.Responses() {
		if res.IsProvisional() {
			continue
		}
		if res.IsSuccess() {
			l.mu.Lock()
			l.learn(res, false)
			l.agreed(res)
			if sdp != nil {
				l.said = sdp
			}
			l.mu.Unlock()
			if method == sip.INVITE {
				l.ack(tx, res, nil)
			}
		}
		return res, nil
	}
	if err := tx.Err(); err != nil {
		return nil, err
	}
	return nil, transaction.ErrTimeout
}

// serveReinvite answers INVITE and UPDATE in the dialog (RFC 3261 §14.2,
// RFC 3311). A new description goes on to the other leg as an offer, and its
// answer comes back; what changes nothing is answered here.
func (l *Leg) serveReinvite(tx *transaction.ServerTx) {
	req := tx.Request()
	invite := req.Method == sip.INVITE
	sdp, ok := sdpOf(req)
	refuse := func(status int, more ...sip.Header) {
		res := tx.Response(status, "")
		for _, h := range more {
			res.AppendHeader(h)
		}
		tx.Respond(res)
	}
	l.mu.Lock()
	busy := l.inviting || l.invited
	if !busy && invite {
		l.invited = true
	}
	heard, said := l.heard, l.said
	l.mu.Unlock()
	release := func() {
		if invite {
			l.mu.Lock()
			l.invited = false
			l.mu.Unlock()
		}
	}
	switch {
	case busy: // glare
		refuse(491)
		return
	case !ok:
		release()
		refuse(415, sip.NewHeader("Accept", "application/sdp"))
		return
	case tooShort(req):
		release()
		refuse(422, sip.NewHeader("Min-SE", seconds(minSE)))
		return
	}
	other := l.call().otherLeg(l)
	var answer []byte
	var from *sip.Response
	var err error
	switch {
	case sdp == nil && !invite: // a mere refresh
	case sdp != nil && bytes.Equal(sdp, heard): // the same again
		answer = said
	case sdp == nil: // they want our offer
		answer, err = l.offer(other)
	case other == nil:
		if err = l.port.SetRemote(sdp); err == nil {
			answer, err = l.port.Local(nil)
		}
	default:
		var local bool
		if answer, local, err = l.hold(other, sdp); !local {
			if answer, from, err = l.pass(tx, other, sdp, req); err == nil {
				err = l.call().bridge(l, other) // they may have been apart
			}
		}
	}
	if err != nil {
		release()
		l.srv.log.Debug("Change of a session refused", "call", l.call().Chain(), "err", err)
		if from != nil && from.StatusCode >= 400 {
			refuse(from.StatusCode)
			return
		}
		c := failure(err)
		if c == site.Failure {
			c = site.NotAcceptable
		}
		tx.Respond(l.srv.refusal(tx, c))
		return
	}
	l.accept(tx, sdp, answer, from, other)
}

// accept answers a re-INVITE or UPDATE.
func (l *Leg) accept(tx *transaction.ServerTx, sdp, answer []byte, from *sip.Response, other *Leg) {
	req := tx.Request()
	res := tx.Response(200, "")
	l.mu.Lock()
	if l.state != confirmed || l.closing {
		l.mu.Unlock()
		tx.Respond(tx.Response(481, ""))
		return
	}
	l.learn(req, false)
	res.AppendHeader(l.contact(l.dest))
	about(res)
	l.agree(req, res)
	if from != nil {
		copyHeaders(res, from)
	}
	setSDP(res, answer)
	if sdp != nil {
		l.heard = append([]byte(nil), sdp...)
	}
	if answer != nil {
		l.said = answer
	}
	var u *unacked
	var err error
	if req.Method == sip.INVITE {
		if u, err = l.answer(tx, res); err != nil {
			l.invited = false // no ACK will come
		}
	} else {
		err = tx.Respond(res)
	}
	l.mu.Unlock()
	if err != nil {
		l.srv.log.Debug("Answer not sent", "call", l.call().Chain(), "err", err)
		return
	}
	if sdp == nil && u != nil {
		l.takeAnswer(u, other)
	}
}

// offer makes our description for a leg that asks for one.
func (l *Leg) offer(other *Leg) ([]byte, error) {
	if other == nil {
		return l.port.Local(nil)
	}
	other.mu.Lock()
	heard := other.heard
	other.mu.Unlock()
	return l.port.Local(heard)
}

// takeAnswer takes the answer that comes in the ACK, and tells the other leg
// what has become of the session.
func (l *Leg) takeAnswer(u *unacked, other *Leg) {
	var sdp []byte
	select {
	case sdp = <-u.ack:
	case <-l.call().ctx.Done():
		return
	}
	if len(sdp) == 0 {
		l.call().end(site.NotAcceptable) // RFC 3261 §13.2.1: the ACK must answer
		return
	}
	if err := l.port.SetRemote(sdp); err != nil {
		l.srv.log.Info("Call ended: the answer in the ACK cannot be used", "call", l.call().Chain(), "err", err)
		l.call().end(failure(err))
		return
	}
	l.mu.Lock()
	l.heard = sdp
	l.mu.Unlock()
	if other == nil {
		return
	}
	offer, err := other.port.Local(sdp)
	if err != nil {
		return // the other leg stays as it is
	}
	res, err := other.reinvite(l.call().ctx, sip.INVITE, offer, nil)
	if err != nil || !res.IsSuccess() {
		l.restore(other)
		return
	}
	if answer, ok := sdpOf(res); ok && answer != nil && other.port.SetRemote(answer) == nil {
		other.mu.Lock()
		other.heard = append([]byte(nil), answer...)
		other.mu.Unlock()
	}
}

// restore takes back an offer that the other leg refused (RFC 3264 §5: the
// session stays as it was): as if it had been offered what it has, and had said
// what it said.
func (l *Leg) restore(other *Leg) {
	l.mu.Lock()
	template := l.heard
	l.mu.Unlock()
	other.mu.Lock()
	heard := other.heard
	other.mu.Unlock()
	_, err := other.port.Local(template)
	if err == nil {
		err = other.port.SetRemote(heard)
	}
	if err != nil {
		l.srv.log.Debug("Session of a leg not restored", "call", l.call().Chain(), "err", err)
	}
}

// pass offers sdp, an offer from l, to the other leg. l's own media is touched
// only when that leg has accepted.
func (l *Leg) pass(tx *transaction.ServerTx, other *Leg, sdp []byte, req *sip.Request) (answer []byte, from *sip.Response, err error) {
	other.mu.Lock()
	glare := other.inviting || other.invited
	other.mu.Unlock()
	if glare {
		return nil, tx.Response(491, ""), site.Busy
	}
	offer, err := other.port.Local(sdp)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancelCause(l.call().ctx)
	defer cancel(nil)
	if req.Method == sip.INVITE {
		stop := make(chan struct{})
		defer close(stop)
		l.srv.spawn(func() {
			select {
			case <-tx.Cancelled():
				cancel(site.Cancelled)
			case <-stop:
			}
		})
	}
	res, err := other.reinvite(ctx, sip.INVITE, offer, func(r *sip.Request) { copyHeaders(r, req) })
	if errors.Is(err, errGlare) {
		l.restore(other)
		return nil, tx.Response(491, ""), site.Busy
	}
	if err != nil {
		l.restore(other)
		return nil, nil, err
	}
	if !res.IsSuccess() {
		l.restore(other)
		return nil, res, causeOf(res)
	}
	theirs, ok := sdpOf(res)
	if !ok || theirs == nil {
		l.restore(other)
		return nil, nil, site.NotAcceptable
	}
	if err := other.port.SetRemote(theirs); err != nil {
		return nil, nil, err
	}
	other.mu.Lock()
	other.heard = append([]byte(nil), theirs...)
	other.mu.Unlock()
	if err := l.port.SetRemote(sdp); err != nil {
		return nil, nil, err
	}
	answer, err = l.port.Local(theirs)
	return answer, res, err
}
