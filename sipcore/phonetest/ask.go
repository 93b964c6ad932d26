package phonetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// A Refusal is a final response other than 2xx.
type Refusal struct {
	Status int
	Phrase string
	Header string // Reason header (RFC 3326), "" if there was none
}

func (r *Refusal) Error() string { return fmt.Sprintf("refused: %d %s", r.Status, r.Phrase) }

func refusal(res *sip.Response) *Refusal {
	return &Refusal{Status: res.StatusCode, Phrase: strings.Clone(res.Reason), Header: strings.Clone(message.Get(res, "Reason"))}
}

// errSilent means that not even a provisional response came in time.
var errSilent = errors.New("nobody answers")

// A wish is a request to be sent, perhaps several times: to the next server, or
// with an answer to a challenge.
type wish struct {
	build   func() *sip.Request         // a new one, with the next CSeq
	started func(*transaction.ClientTx) // may be nil
	observe func(*sip.Response)         // provisional responses; may be nil
	late    func(*transaction.ClientTx) // reads what comes of an INVITE that was given up
}

// An answer is the final response with its transaction.
type answer struct {
	*sip.Response
	tx   *transaction.ClientTx
	dest edge.Dest
}

// at is the destination of a request to addr.
func (p *Phone) at(addr netip.AddrPort) edge.Dest {
	return edge.Dest{Transport: p.cfg.Transport, Addr: addr}
}

// askServers asks the server that answered last, then the others. A 503 is
// nobody's final word while there is another server (RFC 3263 §4.3).
func (p *Phone) askServers(ctx context.Context, w wish) (answer, error) {
	n := len(p.cfg.Servers)
	if n == 0 {
		return answer{}, errNoServer
	}
	p.mu.Lock()
	first := p.server
	p.mu.Unlock()
	var a answer
	var err error
	for i := range n {
		idx := (first + i) % n
		patience := p.cfg.Patience
		if i == n-1 {
			patience *= 4
		}
		if n == 1 {
			patience = 0
		}
		a, err = p.ask(ctx, w, p.at(p.cfg.Servers[idx]), patience)
		switch {
		case err == nil && (a.StatusCode != 503 || i == n-1):
			p.uses(idx)
			return a, nil
		case ctx.Err() != nil || p.ctx.Err() != nil:
			return a, err
		}
		p.log.Debug("Server does not serve", "user", p.cfg.User, "server", p.cfg.Servers[idx].String(), "err", err)
	}
	return a, err
}

// uses notes which server answered. Registration and subscription follow.
func (p *Phone) uses(idx int) {
	p.mu.Lock()
	moved := p.server != idx
	p.server = idx
	p.mu.Unlock()
	if !moved {
		return
	}
	for _, c := range []chan struct{}{p.reg.moved, p.lamp.moved} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// ask sends w to d, answering challenges. patience 0 waits as long as the
// transaction does.
func (p *Phone) ask(ctx context.Context, w wish, d edge.Dest, patience time.Duration) (answer, error) {
	for try := 0; ; try++ {
		req := w.build()
		fresh, err := p.authorize(req)
		if err != nil {
			return answer{}, err
		}
		a, err := p.once(ctx, w, req, d, patience)
		if err != nil {
			return a, fmt.Errorf("%s to %s: %w", req.Method, d, err)
		}
		if a.StatusCode != 401 && a.StatusCode != 407 || try == 2 {
			return a, nil
		}
		again, err := p.challenged(string(req.Method), a.Response, fresh)
		if err != nil || !again {
			return a, err
		}
	}
}

// once is one transaction.
func (p *Phone) once(ctx context.Context, w wish, req *sip.Request, d edge.Dest, patience time.Duration) (answer, error) {
	tctx, cancel := context.WithCancelCause(p.ctx)
	tx := p.layer.Request(tctx, req, d)
	if w.started != nil {
		w.started(tx)
	}
	var timer <-chan time.Time
	if patience > 0 {
		t := time.NewTimer(patience)
		defer t.Stop()
		timer = t.C
	}
	give := func(cause error) (answer, error) {
		cancel(cause)
		if req.Method == sip.INVITE && w.late != nil {
			p.spawn(func() { w.late(tx) }) // ends with the transaction or the phone
		}
		return answer{}, cause
	}
	for {
		select {
		case res, ok := <-tx.Responses():
			timer = nil
			switch {
			case !ok:
				cancel(nil)
				return answer{}, tx.Err()
			case res.StatusCode >= 200:
				cancel(nil)
				return answer{res, tx, tx.Dest()}, nil
			case w.observe != nil:
				w.observe(res)
			}
		case <-timer:
			return give(errSilent)
		case <-ctx.Done():
			return give(context.Cause(ctx))
		case <-p.ctx.Done():
			return give(errClosed)
		}
	}
}

// An authentication is the newest challenge to one method.
type authentication struct {
	header    string // to answer in
	challenge digest.Challenge
	nc        uint32
}

// authorize adds credentials when the method was challenged before. fresh says
// that the challenge was not answered before.
func (p *Phone) authorize(req *sip.Request) (fresh bool, err error) {
	p.mu.Lock()
	a := p.auth[string(req.Method)]
	if a == nil {
		p.mu.Unlock()
		return false, nil
	}
	a.nc++
	nc, ch, name := a.nc, a.challenge, a.header
	p.mu.Unlock()
	v, err := ch.Answer(string(req.Method), req.Recipient.String(), p.cfg.AuthUser, p.cfg.Password, p.token(8), nc)
	if err != nil {
		return false, fmt.Errorf("answer the challenge to %s: %w", req.Method, err)
	}
	req.AppendHeader(sip.NewHeader(name, v))
	return nc == 1, nil
}

// challenged keeps the challenge of a 401 or 407. again is false when the
// server has just refused an answer to a fresh one.
func (p *Phone) challenged(method string, res *sip.Response, fresh bool) (again bool, err error) {
	from, to := "WWW-Authenticate", "Authorization"
	if res.StatusCode == 407 {
		from, to = "Proxy-Authenticate", "Proxy-Authorization"
	}
	var values []string
	for _, h := range res.GetHeaders(from) {
		values = append(values, strings.Clone(h.Value()))
	}
	ch, err := digest.Choose(values)
	if err != nil {
		return false, fmt.Errorf("challenge to %s: %w", method, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if fresh && !ch.Stale {
		delete(p.auth, method)
		return false, nil
	}
	p.auth[method] = &authentication{header: to, challenge: ch}
	return true, nil
}
