package phonetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/message"
)

// A registration is guarded by Phone.mu, seq and asked by Phone.regTurn.
type registration struct {
	callID  string
	seq     uint32
	asked   time.Duration
	want    bool
	keeping bool // a goroutine renews it
	granted time.Duration
	until   time.Time
	server  netip.AddrPort // that has it
	changed chan struct{}  // closed when granted or until change
	moved   chan struct{}  // gets one when another server answers
}

// Register registers at the first server that answers, and renews by itself
// after half the granted time.
func (p *Phone) Register(ctx context.Context) error {
	if err := p.register(ctx, p.cfg.Expires); err != nil {
		return fmt.Errorf("register %s: %w", p.cfg.User, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reg.want = true
	if !p.reg.keeping && !p.cfg.NoRefresh && !p.closed {
		p.reg.keeping = true
		p.wg.Go(p.keepRegistered) // ends with the phone
	}
	return nil
}

// Refresh registers again now.
func (p *Phone) Refresh(ctx context.Context) error { return p.Register(ctx) }

// Unregister removes this phone's binding.
func (p *Phone) Unregister(ctx context.Context) error {
	p.mu.Lock()
	p.reg.want = false
	p.mu.Unlock()
	if err := p.register(ctx, 0); err != nil {
		return fmt.Errorf("unregister %s: %w", p.cfg.User, err)
	}
	return nil
}

// Registered says for how long the phone is registered; 0: it is not.
func (p *Phone) Registered() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, p.reg.until.Sub(p.cfg.Now()))
}

// Granted is the expiry of the last registration as the server gave it.
func (p *Phone) Granted() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reg.granted
}

// register sends one REGISTER at a time.
func (p *Phone) register(ctx context.Context, expires time.Duration) error {
	select {
	case p.regTurn <- struct{}{}:
		defer func() { <-p.regTurn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	r := &p.reg
	r.asked = expires
	tag := p.token(6)
	for try := 0; ; try++ {
		a, err := p.askServers(ctx, wish{build: func() *sip.Request {
			r.seq++
			aor := p.aor()
			req := sip.NewRequest(sip.REGISTER, sip.Uri{Scheme: "sip", Host: aor.Host, Port: aor.Port})
			mf := sip.MaxForwardsHeader(70)
			req.AppendHeader(&mf)
			req.AppendHeader(&sip.FromHeader{DisplayName: p.cfg.Name, Address: aor, Params: sip.HeaderParams{{K: "tag", V: tag}}})
			req.AppendHeader(&sip.ToHeader{Address: *aor.Clone()})
			id := sip.CallIDHeader(r.callID)
			req.AppendHeader(&id)
			req.AppendHeader(&sip.CSeqHeader{SeqNo: r.seq, MethodName: sip.REGISTER})
			p.about(req)
			req.AppendHeader(sip.NewHeader("Expires", strconv.Itoa(int(r.asked/time.Second))))
			req.AppendHeader(sip.NewHeader("User-Agent", "ccnode-phonetest"))
			req.SetBody(nil)
			return req
		}})
		if err != nil {
			return err
		}
		switch {
		case a.StatusCode == 423 && try == 0: // RFC 3261 §10.2.8
			least, err := strconv.Atoi(message.Get(a.Response, "Min-Expires"))
			if err != nil || least < 1 || least > 86400 {
				return refusal(a.Response)
			}
			r.asked = time.Duration(least) * time.Second
			continue
		case a.StatusCode >= 300:
			return refusal(a.Response)
		}
		granted := p.expiryOf(a.Response, r.asked)
		if expires > 0 && granted == 0 {
			return errors.New("the 200 does not list this phone's contact")
		}
		server := p.Server()
		p.mu.Lock()
		r.server = server
		r.granted, r.until = granted, p.cfg.Now().Add(granted)
		close(r.changed)
		r.changed = make(chan struct{})
		p.mu.Unlock()
		return nil
	}
}

// expiryOf finds this phone among the contacts of a 200 to REGISTER.
func (p *Phone) expiryOf(res *sip.Response, asked time.Duration) time.Duration {
	mine := p.contact()
	for _, h := range res.Headers() {
		c, ok := h.(*sip.ContactHeader)
		if !ok {
			continue
		}
		instance := message.Unquote(c.Params.GetOr("+sip.instance", ""))
		if instance != "<"+p.instance+">" && (c.Address.User != mine.User || c.Address.Host != mine.Host || c.Address.Port != mine.Port) {
			continue
		}
		v := c.Params.GetOr("expires", message.Get(res, "Expires"))
		if n, err := strconv.ParseUint(v, 10, 31); err == nil {
			return time.Duration(n) * time.Second
		}
		return asked
	}
	return 0
}

// keepRegistered renews at half time, at once when another server answers,
// and after a failure with growing pauses.
func (p *Phone) keepRegistered() {
	pause := time.Duration(0)
	for {
		p.mu.Lock()
		wait, changed := p.reg.granted/2, p.reg.changed
		p.mu.Unlock()
		if pause > 0 {
			wait = pause
		}
		t, moved := time.NewTimer(wait), false
		select {
		case <-p.ctx.Done():
			t.Stop()
			return
		case <-changed:
			t.Stop()
			pause = 0
			continue
		case <-p.reg.moved:
			t.Stop()
			moved = true
		case <-t.C:
		}
		server := p.Server()
		p.mu.Lock()
		want, there := p.reg.want, moved && p.reg.server == server
		p.mu.Unlock()
		if there {
			continue
		}
		if !want {
			pause = 30 * time.Second
			continue
		}
		if err := p.register(p.ctx, p.cfg.Expires); err != nil {
			pause = min(max(2*pause, time.Second), 30*time.Second)
			p.log.Debug("Registration not renewed", "user", p.cfg.User, "err", err)
			continue
		}
		pause = 0
	}
}
