package b2bua

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/message"
)

// Session timers (RFC 4028): every leg is refreshed, by us unless the other end
// wants to, so that a call whose phone lost its power ends.
const (
	sessionExpires = 30 * time.Minute
	minSE          = 90 * time.Second
)

// session is the session timer of one leg. Guarded by Leg.mu.
type session struct {
	interval time.Duration
	theirs   bool // the other end refreshes
	timer    *time.Timer
}

func (s *session) stop() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

// expires reads a Session-Expires header.
func expires(msg interface{ Headers() []sip.Header }) (d time.Duration, refresher string) {
	v, params, _ := strings.Cut(message.Get(msg, "Session-Expires"), ";")
	n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 31)
	if err != nil {
		return 0, ""
	}
	for p := range strings.SplitSeq(params, ";") {
		if k, v, ok := strings.Cut(strings.TrimSpace(p), "="); ok && strings.EqualFold(k, "refresher") {
			refresher = strings.ToLower(v)
		}
	}
	return time.Duration(n) * time.Second, refresher
}

// tooShort says that a request wants its session refreshed too often (422).
func tooShort(req *sip.Request) bool {
	d, _ := expires(req)
	return d > 0 && d < minSE
}

// agree settles the session timer as the one who answers req, and says so in res.
func (l *Leg) agree(req *sip.Request, res *sip.Response) {
	d, refresher := expires(req)
	if d == 0 || d > sessionExpires {
		d = sessionExpires
	}
	knows := false
	for _, t := range message.Values(req, "Supported") {
		knows = knows || strings.EqualFold(t, "timer")
	}
	if !knows || refresher != "uac" {
		refresher = "uas"
	}
	if knows {
		res.AppendHeader(sip.NewHeader("Session-Expires", seconds(d)+";refresher="+refresher))
		if refresher == "uac" {
			res.AppendHeader(sip.NewHeader("Require", "timer"))
		}
	}
	l.watch(d, refresher == "uac")
}

// propose asks for a session timer in a request of ours.
func propose(req *sip.Request, d time.Duration) {
	req.AppendHeader(sip.NewHeader("Session-Expires", seconds(d)+";refresher=uac"))
	req.AppendHeader(sip.NewHeader("Min-SE", seconds(minSE)))
}

// agreed settles it from a 2xx to a request of ours.
func (l *Leg) agreed(res *sip.Response) {
	d, refresher := expires(res)
	if d < minSE || d > 24*time.Hour {
		d, refresher = sessionExpires, ""
	}
	l.watch(d, refresher == "uas")
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

// watch starts the timer anew. l.mu is held.
func (l *Leg) watch(d time.Duration, theirs bool) {
	l.session.stop()
	if l.state != confirmed {
		return
	}
	l.session.interval, l.session.theirs = d, theirs
	wait := d / 2
	if theirs {
		wait = d - min(32*time.Second, d/3)
	}
	l.later(wait)
}

func (l *Leg) later(wait time.Duration) {
	l.session.stop()
	l.session.timer = time.AfterFunc(wait, func() { l.srv.spawn(l.due) })
}

// due refreshes the session, or ends a call whose other end did not.
func (l *Leg) due() {
	l.mu.Lock()
	theirs, d, said := l.session.theirs, l.session.interval, l.said
	method := sip.INVITE
	if l.updates {
		method, said = sip.UPDATE, nil
	}
	switch {
	case l.state != confirmed || l.closing:
		l.mu.Unlock()
		return
	case theirs:
		l.mu.Unlock()
		l.srv.log.Info("Call ended: its session was not refreshed", "call", l.call().Chain(), "leg", l.remote.User)
		l.call().end(site.MediaLost)
		return
	case l.inviting || l.invited:
		l.later(5 * time.Second)
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	res, err := l.reinvite(context.Background(), method, said, nil)
	if err == nil && res.IsSuccess() && method == sip.INVITE {
		l.refreshed(res)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != confirmed {
		return
	}
	switch {
	case errors.Is(err, errGlare):
		l.later(5 * time.Second)
	case err != nil || res.StatusCode == 408 || res.StatusCode == 481:
		l.srv.log.Info("Call ended: the other end is gone", "call", l.call().Chain(), "leg", l.remote.User, "err", err)
		l.srv.spawn(func() { l.call().end(site.MediaLost) }) // takes l.mu
	case res.IsSuccess(): // settled by reinvite
	case res.StatusCode == 491:
		l.later(2100*time.Millisecond + time.Duration(l.srv.random(1)[0])*7*time.Millisecond)
	case res.StatusCode == 422:
		if n, err := strconv.ParseUint(message.Get(res, "Min-SE"), 10, 20); err == nil {
			d = max(d, time.Duration(n)*time.Second)
		}
		l.session.interval = d
		l.later(5 * time.Second)
	case method == sip.UPDATE:
		l.updates = false
		l.later(5 * time.Second)
	default:
		l.watch(d, false)
	}
}

// refreshed takes what the other end answered to a description it knew: it may
// have moved.
func (l *Leg) refreshed(res *sip.Response) {
	sdp, ok := sdpOf(res)
	l.mu.Lock()
	same := !ok || sdp == nil || bytes.Equal(sdp, l.heard)
	l.mu.Unlock()
	if same {
		return
	}
	err := l.port.SetRemote(sdp)
	if err == nil {
		_, err = l.offer(l.call().otherLeg(l)) // the port takes it for an offer; what it would say is what was said
	}
	if err != nil {
		l.srv.log.Info("The answer to a refresh cannot be used", "call", l.call().Chain(), "leg", l.remote.User, "err", err)
		return
	}
	l.mu.Lock()
	l.heard = append([]byte(nil), sdp...)
	l.mu.Unlock()
}
