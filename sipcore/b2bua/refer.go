package b2bua

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// A referral is the subscription that a REFER makes (RFC 3515 §2.4.4): its
// NOTIFYs go out one after the other, and after the last one the dialog ends.
type referral struct {
	l     *Leg
	event string
	quiet bool // Refer-Sub: false (RFC 4488)
	queue chan notice
	done  chan struct{} // closed when the last NOTIFY was answered, or never will be
}

type notice struct {
	status int
	last   bool
}

// tell queues what became of the transfer so far. What is too much is left out,
// but for the last.
func (r *referral) tell(status int, last bool) {
	n := notice{status, last}
	if last {
		r.queue <- n
		return
	}
	if len(r.queue) < cap(r.queue)-2 {
		r.queue <- n
	}
}

// refer starts the subscription.
func (l *Leg) referral(req *sip.Request, quiet bool) *referral {
	r := &referral{l: l, event: "refer", quiet: quiet, queue: make(chan notice, 16), done: make(chan struct{})}
	l.mu.Lock()
	l.refers++
	if l.refers > 1 { // RFC 3515 §2.4.6
		r.event += ";id=" + strconv.FormatUint(uint64(req.CSeq().SeqNo), 10)
	}
	l.mu.Unlock()
	c := l.call()
	l.srv.spawn(func() {
		told := 0
		for {
			select {
			case n := <-r.queue:
				if n.status != told || n.last {
					told = n.status
					r.notify(n)
				}
				if !n.last {
					continue
				}
				close(r.done)
				if n.status < 300 { // most phones end the dialog themselves now
					l.linger()
				}
				return
			case <-c.ctx.Done():
				close(r.done)
				return
			case <-l.srv.done:
				close(r.done)
				return
			}
		}
	})
	return r
}

// linger ends a dialog whose phone was told that its transfer is done.
func (l *Leg) linger() {
	t := time.NewTimer(2 * time.Second)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.srv.done:
	}
	if c := l.call(); !c.talks(l) {
		l.bye(site.Normal)
		c.without(l)
		l.close()
	}
}

// talks says whether l is one of the two ends of the call.
func (c *Call) talks(l *Leg) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return l == c.caller || l == c.partner
}

// notify sends one NOTIFY and waits for its answer.
func (r *referral) notify(n notice) {
	if r.quiet {
		return
	}
	l := r.l
	req, d, err := l.next(sip.NOTIFY)
	if err != nil {
		return // the phone has ended the dialog: RFC 3515 §2.4.7 leaves it at that
	}
	state := "active;expires=60"
	if n.last {
		state = "terminated;reason=noresource"
	}
	req.AppendHeader(l.contact(d))
	req.AppendHeader(sip.NewHeader("Event", r.event))
	req.AppendHeader(sip.NewHeader("Subscription-State", state))
	req.AppendHeader(sip.NewHeader("Content-Type", "message/sipfrag;version=2.0"))
	req.SetBody([]byte("SIP/2.0 " + strconv.Itoa(n.status) + " " + phrase(n.status) + "\r\n"))
	ctx, cancel := context.WithTimeout(context.Background(), 8*transaction.T1)
	defer cancel()
	tx := l.srv.layer.Request(ctx, req, d)
	for res := range tx.Responses() {
		if !res.IsProvisional() {
			return
		}
	}
}

func phrase(status int) string {
	switch status {
	case 100:
		return "Trying"
	case 180:
		return "Ringing"
	case 200:
		return "OK"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 481:
		return "Call Does Not Exist"
	case 484:
		return "Address Incomplete"
	case 486:
		return "Busy Here"
	case 487:
		return "Request Terminated"
	case 488:
		return "Not Acceptable Here"
	}
	return "Temporarily Unavailable"
}

// replaces is a Replaces header (RFC 3891 §6.1): a dialog as its other end,
// which is us, names it.
type replaces struct {
	callID, to, from string
	early            bool
}

func parseReplaces(v string) (r replaces, ok bool) {
	for i, p := range strings.Split(v, ";") {
		p = strings.TrimSpace(p)
		if i == 0 {
			r.callID = p
			continue
		}
		k, w, _ := strings.Cut(p, "=")
		switch strings.ToLower(strings.TrimSpace(k)) {
		case "to-tag":
			r.to = strings.TrimSpace(w)
		case "from-tag":
			r.from = strings.TrimSpace(w)
		case "early-only":
			r.early = true
		}
	}
	return r, r.callID != "" && r.to != "" && r.from != ""
}

// replaced finds the leg that a Replaces header names. Some phones take the
// tags the wrong way round.
func (s *Server) replaced(r replaces) *Leg {
	for _, t := range [][2]string{{r.to, r.from}, {r.from, r.to}} {
		if l := s.find(r.callID, t[0]); l != nil {
			l.mu.Lock()
			ok := l.remoteTag == t[1]
			l.mu.Unlock()
			if ok {
				return l
			}
		}
	}
	return nil
}

var errReferTo = errors.New("Refer-To")

// referTo reads where a REFER points, and the dialog it names, if any
// (RFC 3515 §2.1, RFC 3891).
func referTo(req *sip.Request) (to sip.Uri, r replaces, attended bool, err error) {
	all := message.Values(req, "Refer-To")
	if len(all) == 0 {
		all = message.Values(req, "r")
	}
	if len(all) != 1 {
		return to, r, false, errReferTo
	}
	_, to, _, err = message.ParseAddress(all[0])
	if err != nil || to.User == "" {
		return to, r, false, errReferTo
	}
	if m, ok := to.UriParams.Get("method"); ok && !strings.EqualFold(m, "INVITE") {
		return to, r, false, errReferTo
	}
	for _, h := range to.Headers {
		if !strings.EqualFold(h.K, "Replaces") {
			continue
		}
		v, uerr := url.PathUnescape(h.V)
		if uerr != nil {
			v = h.V
		}
		if r, attended = parseReplaces(v); !attended {
			return to, r, false, errReferTo
		}
	}
	return to, r, attended, nil
}

// serveRefer takes a REFER in a dialog (RFC 3515): it is answered 202 and done
// here, with the rights of who sent it (calls.md §4).
func (l *Leg) serveRefer(tx *transaction.ServerTx) {
	req := tx.Request()
	to, r, attended, err := referTo(req)
	if err != nil {
		tx.Respond(tx.Response(400, "Refer-To Must Name One SIP Address"))
		return
	}
	if !l.ours() { // a provider, or another site, does not decide about our lines
		tx.Respond(tx.Response(403, ""))
		return
	}
	c := l.call()
	if c.otherLeg(l) == nil {
		tx.Respond(tx.Response(491, "Nobody Talks Here"))
		return
	}
	quiet := strings.EqualFold(strings.TrimSpace(message.Get(req, "Refer-Sub")), "false")
	res := tx.Response(202, "")
	l.mu.Lock()
	res.AppendHeader(l.contact(l.dest))
	l.mu.Unlock()
	if quiet {
		res.AppendHeader(sip.NewHeader("Refer-Sub", "false"))
	}
	tx.Respond(res)
	sub := l.referral(req, quiet)
	sub.tell(100, false)
	target := routeURI(to)
	l.srv.spawn(func() {
		consult := l.srv.replaced(r)
		if attended && (consult == nil || consult.call() == c) {
			l.srv.log.Info("A transfer names a call that is not here", "call", c.chain, "by", l.remote.User)
			sub.tell(481, true)
			return
		}
		err := c.connectTo(c.ctx, l, func(kept *Leg) {
			if attended {
				c.attended(l, kept, consult.call(), consult, sub)
			} else {
				c.blind(l, kept, route.URI(target), sub)
			}
		})
		if err != nil {
			l.srv.log.Info("A transfer was not possible", "call", c.chain, "err", err)
			sub.tell(491, true)
		}
	})
}
