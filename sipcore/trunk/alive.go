package trunk

import (
	"context"
	"fmt"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/edge"
)

// deafAfter is how many OPTIONS without answer mean that nobody is there.
const deafAfter = 2

// crlf is a keep-alive (RFC 5626 §4.4.1).
var crlf = []byte("\r\n\r\n")

// alive sends one keep-alive, as the provider asked for. It returns false when
// that tells us to try everything again at once.
func (r *reg) alive(ctx context.Context) bool {
	if r.cfg.Kind == Register && !r.until.After(r.t.cfg.Now()) {
		return true // the next REGISTER is under way
	}
	d, ok := r.there()
	if !ok {
		return r.cfg.Kind != Peer
	}
	if r.cfg.Alive == CRLF {
		if err := r.t.cfg.Edge.Write(crlf, d); err != nil {
			r.t.log.Debug("Keep-alive not sent", "trunk", r.cfg.Name, "err", err)
			return r.cfg.Kind == Peer
		}
		return true
	}
	err := r.options(ctx, d)
	if ctx.Err() != nil {
		return true
	}
	if err == nil {
		r.deaf = 0
		if r.cfg.Kind == Peer {
			r.line.show(func(s *State) { s.Phase, s.Err = Reachable, "" })
		}
		return true
	}
	if r.deaf++; r.deaf < deafAfter {
		return true
	}
	r.deaf = 0
	r.line.show(func(s *State) { s.Phase, s.Err = NoAnswer, err.Error() })
	return false
}

// there is who answered last, else the first address.
func (r *reg) there() (edge.Dest, bool) {
	if r.at.Addr.IsValid() {
		return r.at, true
	}
	r.line.mu.Lock()
	defer r.line.mu.Unlock()
	if len(r.line.dests) == 0 {
		return edge.Dest{}, false
	}
	return r.line.dests[0], true
}

// options asks whether anybody is there. Any answer will do (RFC 3261 §11).
func (r *reg) options(ctx context.Context, d edge.Dest) error {
	ctx, cancel := context.WithTimeoutCause(ctx, min(oneTry, r.cfg.Every), errNoAnswer)
	defer cancel()
	to, err := r.t.cfg.Edge.Connect(ctx, d)
	if err != nil {
		return err
	}
	contact, err := r.contact(to)
	if err != nil {
		return err
	}
	creds := r.creds
	r.creds = nil // those are for REGISTER
	req, err := r.request(sip.OPTIONS, 0, contact)
	r.creds = creds
	if err != nil {
		return err
	}
	tx := r.t.cfg.Layer.Request(ctx, req, to)
	for res := range tx.Responses() {
		if !res.IsProvisional() {
			r.heard(tx.Request(), res, tx.Dest(), contact)
			return nil
		}
	}
	if err = tx.Err(); err == nil {
		err = errNoAnswer
	}
	return fmt.Errorf("OPTIONS to %s: %w", d, err)
}

// peer is attempt for a trunk that is not registered. Its name, if it has one,
// is looked up again from time to time.
func (r *reg) peer(ctx context.Context) time.Duration {
	r.pause = 0
	wait := time.Duration(0)
	if literal(r.cfg) == nil {
		wait = r.t.between(lookAgain*8/10, lookAgain)
	}
	if r.cfg.Alive != Options {
		return r.settle(result{phase: Ready}, wait)
	}
	for _, d := range r.line.known() {
		err := r.options(ctx, d)
		if ctx.Err() != nil {
			return 0
		}
		if err == nil {
			r.at, r.deaf = d, 0
			return r.settle(result{phase: Reachable}, wait)
		}
		r.settle(result{phase: NoAnswer, err: err}, wait)
	}
	return wait
}

func (l *line) known() []edge.Dest {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]edge.Dest(nil), l.dests...)
}
