package phonetest

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// A lamp is the message-waiting lamp; guarded by Phone.mu, except dlg's
// requests, which mwiTurn puts in order.
type lamp struct {
	dlg       dialog
	confirmed bool // the server answered 2xx, or sent a NOTIFY
	want      bool
	keeping   bool
	granted   time.Duration
	renew     time.Time
	server    netip.AddrPort // that has it
	lit       bool
	new, old  int
	notifies  int
	changed   chan struct{} // closed at each NOTIFY and each change of granted
	moved     chan struct{}
	watches   map[string]*Watch // lamps of others, by Call-ID
}

// SubscribeMWI asks for the message lamp (RFC 3842) and keeps the subscription.
// The first NOTIFY may come after it returns.
func (p *Phone) SubscribeMWI(ctx context.Context) error {
	if err := p.subscribe(ctx, 300*time.Second); err != nil {
		return fmt.Errorf("subscribe %s to its message lamp: %w", p.cfg.User, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lamp.want = true
	if !p.lamp.keeping && !p.cfg.NoRefresh && !p.closed {
		p.lamp.keeping = true
		p.wg.Go(p.keepSubscribed) // ends with the phone
	}
	return nil
}

// UnsubscribeMWI ends the subscription; one more NOTIFY comes.
func (p *Phone) UnsubscribeMWI(ctx context.Context) error {
	p.mu.Lock()
	p.lamp.want = false
	p.mu.Unlock()
	return p.subscribe(ctx, 0)
}

// Lamp is what the lamp shows.
func (p *Phone) Lamp() (on bool, new, old int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lamp.lit, p.lamp.new, p.lamp.old
}

// Notifies counts the NOTIFYs taken.
func (p *Phone) Notifies() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lamp.notifies
}

// WaitNotifies returns when n NOTIFYs were taken.
func (p *Phone) WaitNotifies(ctx context.Context, n int) error {
	for {
		p.mu.Lock()
		have, changed := p.lamp.notifies, p.lamp.changed
		p.mu.Unlock()
		if have >= n {
			return nil
		}
		select {
		case <-changed:
		case <-p.ctx.Done():
			return errClosed
		case <-ctx.Done():
			return fmt.Errorf("wait for %d NOTIFYs, have %d: %w", n, have, context.Cause(ctx))
		}
	}
}

// WaitLamp returns when the lamp shows that many new messages, having been
// told so at least once.
func (p *Phone) WaitLamp(ctx context.Context, new int) error {
	for {
		p.mu.Lock()
		l := p.lamp
		p.mu.Unlock()
		if l.notifies > 0 && l.new == new && l.lit == (new > 0) {
			return nil
		}
		select {
		case <-l.changed:
		case <-p.ctx.Done():
			return errClosed
		case <-ctx.Done():
			return fmt.Errorf("wait for %d new messages on the lamp of %s, which shows %d new, %d old after %d NOTIFYs: %w",
				new, p.cfg.User, l.new, l.old, l.notifies, context.Cause(ctx))
		}
	}
}

// subscribe sends one SUBSCRIBE: in the dialog if there is one, and afresh if
// the server does not know it any more.
func (p *Phone) subscribe(ctx context.Context, expires time.Duration) error {
	select {
	case p.mwiTurn <- struct{}{}:
		defer func() { <-p.mwiTurn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	l := &p.lamp
	for try := 0; ; try++ {
		server := p.Server()
		p.mu.Lock()
		refresh := l.confirmed && l.server == server // else it belongs to another server
		p.mu.Unlock()
		if !refresh {
			d := p.newDialog(p.aor(), p.at(p.Server()))
			p.mu.Lock()
			l.dlg = d
			p.mu.Unlock()
		}
		w := wish{build: func() *sip.Request {
			p.mu.Lock()
			req := l.dlg.next(sip.SUBSCRIBE)
			p.mu.Unlock()
			p.about(req)
			req.AppendHeader(sip.NewHeader("Event", "message-summary"))
			req.AppendHeader(sip.NewHeader("Accept", "application/simple-message-summary"))
			req.AppendHeader(sip.NewHeader("Expires", strconv.Itoa(int(expires/time.Second))))
			return req
		}}
		var a answer
		var err error
		if refresh {
			p.mu.Lock()
			d := l.dlg.dest
			p.mu.Unlock()
			a, err = p.ask(ctx, w, d, 4*p.cfg.Patience)
		} else {
			a, err = p.askServers(ctx, w)
		}
		if refresh && try == 0 && ctx.Err() == nil && (err != nil || a.StatusCode >= 300) {
			p.mu.Lock()
			l.confirmed = false
			p.mu.Unlock()
			if expires == 0 {
				return err
			}
			continue // RFC 6665 §4.1.2.2: 481 asks for a new one
		}
		if err != nil {
			return err
		}
		if a.StatusCode >= 300 {
			return refusal(a.Response)
		}
		granted := expires
		if n, err := strconv.ParseUint(message.Get(a.Response, "Expires"), 10, 31); err == nil {
			granted = time.Duration(n) * time.Second
		}
		server = p.Server()
		p.mu.Lock()
		l.server = server
		if !refresh {
			l.dlg.dest = a.dest
			l.dlg.established(a.Response)
		}
		l.confirmed, l.granted, l.renew = granted > 0, granted, p.cfg.Now().Add(granted/2)
		close(l.changed)
		l.changed = make(chan struct{})
		p.mu.Unlock()
		return nil
	}
}

// notified takes a NOTIFY if it belongs to the lamp's subscription.
func (p *Phone) notified(tx *transaction.ServerTx, tag string) bool {
	req := tx.Request()
	event, _, _ := strings.Cut(message.Get(req, "Event"), ";")
	if strings.EqualFold(strings.TrimSpace(event), "dialog") {
		return p.watched(tx, tag)
	}
	if !strings.EqualFold(strings.TrimSpace(event), "message-summary") {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := &p.lamp
	from, seq := req.From().Params.GetOr("tag", ""), req.CSeq().SeqNo
	switch {
	case l.dlg.callID != req.CallID().Value() || l.dlg.localTag != tag, l.dlg.remoteTag != "" && l.dlg.remoteTag != from:
		return false
	case l.dlg.remoteSeq != 0 && seq <= l.dlg.remoteSeq:
		p.respond(tx, tx.Response(500, "CSeq Out Of Order"))
		return true
	}
	l.dlg.remoteSeq = seq
	l.dlg.remoteTag = from
	l.dlg.refresh(req)
	p.respond(tx, tx.Response(200, ""))
	if len(req.Body()) > 0 {
		l.lit, l.new, l.old = parseSummary(req.Body())
	}
	if s, _, _ := strings.Cut(message.Get(req, "Subscription-State"), ";"); strings.EqualFold(strings.TrimSpace(s), "terminated") {
		l.confirmed, l.granted, l.renew = false, 0, p.cfg.Now().Add(time.Second)
		l.dlg.callID = ""
	}
	l.notifies++
	close(l.changed)
	l.changed = make(chan struct{})
	return true
}

// parseSummary reads an RFC 3842 body: Messages-Waiting and the voice counts.
func parseSummary(b []byte) (lit bool, new, old int) {
	for line := range strings.SplitSeq(string(b), "\n") {
		name, value, ok := strings.Cut(strings.TrimRight(line, "\r"), ":")
		value = strings.TrimSpace(value)
		switch {
		case !ok:
		case strings.EqualFold(name, "Messages-Waiting"):
			lit = strings.EqualFold(value, "yes")
		case strings.EqualFold(name, "Voice-Message"):
			counts, _, _ := strings.Cut(value, "(")
			n, o, _ := strings.Cut(counts, "/")
			new, _ = strconv.Atoi(strings.TrimSpace(n))
			old, _ = strconv.Atoi(strings.TrimSpace(o))
		}
	}
	return lit, new, old
}

// keepSubscribed renews at half time, at once when the server ended it or
// another one answers, and after a failure with growing pauses.
func (p *Phone) keepSubscribed() {
	pause := time.Duration(0)
	for {
		p.mu.Lock()
		wait, changed, want := p.lamp.renew.Sub(p.cfg.Now()), p.lamp.changed, p.lamp.want
		p.mu.Unlock()
		if pause > 0 {
			wait = pause
		}
		if !want {
			wait = time.Hour
		}
		t := time.NewTimer(wait)
		select {
		case <-p.ctx.Done():
			t.Stop()
			return
		case <-changed:
			t.Stop()
			pause = 0
			continue
		case <-p.lamp.moved:
			server := p.Server()
			p.mu.Lock()
			there := p.lamp.server == server
			p.mu.Unlock()
			if there {
				t.Stop()
				continue
			}
		case <-t.C:
		}
		t.Stop()
		if !want {
			continue
		}
		if err := p.subscribe(p.ctx, 300*time.Second); err != nil {
			pause = min(max(2*pause, time.Second), 30*time.Second)
			p.log.Debug("Subscription not renewed", "user", p.cfg.User, "err", err)
			continue
		}
		pause = 0
	}
}
