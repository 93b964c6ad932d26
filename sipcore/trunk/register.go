package trunk

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"net/netip"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
)

// A reg is what one setup of a line does. Only the line's goroutine has it.
type reg struct {
	line *line
	t    *Trunks
	cfg  Trunk

	callID, tag string // one Call-ID for all (RFC 3261 §10.2)
	seq         uint32
	asked       time.Duration // expiry; grows when the provider wants more (423)
	at          edge.Dest     // who answered last
	said        *sip.Uri      // Contact that is registered, as we said it
	until       time.Time     // the registration lasts
	tried       time.Time
	public      netip.AddrPort // where the provider sees us

	creds    map[int]*answer // by 401 and 407: what to say unasked
	refusals int             // of the password, one after another
	pause    time.Duration   // before the next try
	deaf     int             // keep-alives without answer
	settled  int             // registrations again because of PublicContact
}

// An answer is how we meet a challenge, now and in later requests.
type answer struct {
	digest.Challenge
	nc    uint32
	fresh bool // it came in this exchange
	stale int  // how often a fresh one was called stale
}

// A result is how a REGISTER, or several, ended.
type result struct {
	phase   Phase
	err     error
	after   time.Duration // Retry-After
	granted time.Duration
	next    bool // another address of the provider may do better
}

// attempt does what is to be done now and says when to do it again; 0: not
// before something happens.
func (r *reg) attempt(ctx context.Context) time.Duration {
	r.tried = r.t.cfg.Now()
	if r.cfg.Hold {
		r.resolve(ctx)
		return r.settle(result{phase: Held}, 0)
	}
	dests := r.resolve(ctx)
	if len(dests) == 0 {
		return r.failed(result{phase: NoAddress, err: fmt.Errorf("no address of %s is known", r.cfg.Server)})
	}
	if r.cfg.Kind == Peer {
		return r.peer(ctx)
	}
	if !r.until.After(r.tried) {
		r.line.show(func(s *State) {
			if s.Phase == Starting {
				s.Phase = Trying
			}
			s.Again = time.Time{}
		})
	}
	var last result
	for _, d := range dests {
		last = r.register(ctx, d, r.asked)
		if ctx.Err() != nil {
			return 0
		}
		if last.phase == Registered {
			return r.registered(last)
		}
		if !last.next {
			break
		}
	}
	return r.failed(last)
}

// registered settles a success and plans the refresh: between half and three
// quarters of what was granted, so that one more failure can be survived and
// the nodes of a fleet do not come all at once.
func (r *reg) registered(res result) time.Duration {
	r.pause, r.refusals, r.deaf = 0, 0, 0
	r.until = r.t.cfg.Now().Add(res.granted)
	lasts := min(res.granted, r.asked)
	wait := max(r.t.between(lasts/2, lasts*3/4), time.Second)
	if r.cfg.PublicContact && r.public.IsValid() && r.public != hostOf(r.said) {
		if r.settled++; r.settled <= 2 { // a NAT that changes its mind each time is left alone
			wait = time.Millisecond
		}
	} else {
		r.settled = 0
	}
	return r.settle(res, wait)
}

// failed plans the next try: after pauses that double, with jitter; seldom
// where the password is wrong; not before the provider said.
func (r *reg) failed(res result) time.Duration {
	r.pause = min(max(2*r.pause, firstPause), longestPause)
	wait := r.t.between(r.pause*3/4, r.pause*5/4)
	if errors.Is(res.err, ErrPassword) {
		if r.refusals++; r.refusals >= 2 {
			res.phase = WrongPassword
			wait = r.t.between(passwordPause, passwordPause*3/2)
		}
	}
	if res.after > 0 {
		wait = max(wait, r.t.between(res.after, res.after*11/10))
	}
	return r.settle(res, wait)
}

// settle shows how it ended and when it goes on.
func (r *reg) settle(res result, wait time.Duration) time.Duration {
	now := r.t.cfg.Now()
	r.line.show(func(s *State) {
		s.Phase, s.Err, s.Until, s.Again = res.phase, "", r.until, time.Time{}
		if res.err != nil {
			s.Err = res.err.Error()
		}
		if wait > 0 {
			s.Again = now.Add(wait)
		}
	})
	return wait
}

// exchanges bounds the requests of one registration: two challenges, one of
// them stale, one 423.
const exchanges = 8

// register asks the registrar at d for expires, 0 to leave, and answers what
// it asks back (RFC 3261 §10.2, §22).
func (r *reg) register(ctx context.Context, d edge.Dest, expires time.Duration) result {
	r.unfresh(0)
	for range exchanges {
		res, req, contact, err := r.send(ctx, d, expires)
		if err != nil {
			return result{phase: NoAnswer, err: err, next: true}
		}
		switch code := res.StatusCode; {
		case code < 300:
			return r.success(res, req, contact, expires)
		case code == 401 || code == 407:
			if out, again := r.challenged(res, req); !again {
				return out
			}
		case code == 423 && expires > 0:
			least, err := strconv.ParseUint(message.Get(res, "Min-Expires"), 10, 31)
			want := time.Duration(least) * time.Second
			if err != nil || want <= expires || want > maxExpires {
				return refused(res, errors.New("the provider wants a longer expiry and does not say which"))
			}
			r.asked, expires = want, want
			r.unfresh(0)
		case code == 403 && len(r.creds) > 0:
			r.creds = nil
			return refused(res, ErrPassword)
		default:
			return refused(res, nil)
		}
	}
	return result{phase: Refused, err: errors.New("the provider never has enough")}
}

// refused reads a final answer that is no success.
func refused(res *sip.Response, why error) result {
	out := result{phase: Refused, err: why}
	if why == nil {
		out.err = fmt.Errorf("%d %s", res.StatusCode, res.Reason)
	}
	out.next = res.StatusCode/100 == 5 || res.StatusCode == 408
	if res.StatusCode == 408 {
		out.phase = NoAnswer
	}
	// RFC 3261 §20.33: seconds, perhaps a comment and parameters.
	v := strings.TrimSpace(message.Get(res, "Retry-After"))
	if n := strings.IndexFunc(v, func(c rune) bool { return c < '0' || c > '9' }); n >= 0 {
		v = v[:n]
	}
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		out.after = min(time.Duration(n)*time.Second, longestAfter)
	}
	return out
}

// challenged takes a 401 or 407. again says that the request can be repeated
// with an answer to it.
func (r *reg) challenged(res *sip.Response, req *sip.Request) (out result, again bool) {
	c, err := strongest(res, r.cfg.Realms)
	if err != nil {
		out = refused(res, err)
		if errors.Is(err, ErrRealm) {
			out.phase = WrongRealm
		}
		return out, false
	}
	next := &answer{Challenge: c, fresh: true}
	if old := r.creds[res.StatusCode]; old != nil && old.fresh && old.Realm == c.Realm {
		switch {
		case !c.Stale || c.Nonce == old.Nonce:
			r.creds = nil
			return refused(res, ErrPassword), false
		case old.stale >= 1:
			r.creds = nil
			out = refused(res, errors.New("a fresh answer is called stale again and again"))
			out.phase = WrongClock
			return out, false
		}
		next.stale = old.stale + 1
	}
	if r.creds == nil {
		r.creds = map[int]*answer{}
	}
	r.creds[res.StatusCode] = next
	r.unfresh(res.StatusCode)
	return out, true
}

// unfresh notes that what we know to answer, but to a challenge with status
// but, may have been used up since: another challenge is no refusal.
func (r *reg) unfresh(but int) {
	for code, a := range r.creds {
		if code != but {
			a.fresh, a.stale = false, 0
		}
	}
}

// send sends one REGISTER to d and waits for its final answer.
func (r *reg) send(ctx context.Context, d edge.Dest, expires time.Duration) (*sip.Response, *sip.Request, *sip.ContactHeader, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, oneTry, errNoAnswer)
	defer cancel()
	to, err := r.t.cfg.Edge.Connect(ctx, d)
	if err != nil {
		return nil, nil, nil, err
	}
	contact, err := r.contact(to)
	if err != nil {
		return nil, nil, nil, err
	}
	if r.said != nil && expires > 0 && r.said.String() != contact.Address.String() {
		r.removeOld(ctx, to)
	}
	req, err := r.request(sip.REGISTER, expires, contact)
	if err != nil {
		return nil, nil, nil, err
	}
	tx := r.t.cfg.Layer.Request(ctx, req, to)
	for res := range tx.Responses() {
		if res.IsProvisional() {
			continue
		}
		r.at = d
		r.heard(tx.Request(), res, tx.Dest(), contact)
		return res, req, contact, nil
	}
	err = tx.Err()
	if err == nil {
		err = errNoAnswer
	}
	return nil, nil, nil, fmt.Errorf("register at %s: %w", d, err)
}

var errNoAnswer = errors.New("no answer")
