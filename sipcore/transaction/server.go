package transaction

import (
	"fmt"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
)

// A ServerTx is one request that came to us and must be answered. It may be
// used from any goroutine.
type ServerTx struct {
	*server
	req  *sip.Request
	flow *edge.Flow
}

// Request is the request. It is the user's to read, not to change.
func (t *ServerTx) Request() *sip.Request { return t.req }

// Flow is how the request came.
func (t *ServerTx) Flow() *edge.Flow { return t.flow }

// Response makes a response to the request with this transaction's To tag.
func (t *ServerTx) Response(status int, reason string) *sip.Response {
	return message.NewResponse(t.req, status, reason, t.tag)
}

// server is what the table keeps: after the final response nothing of the
// request but the key.
type server struct {
	layer    *Layer
	shard    *shard
	key      key
	invite   bool
	reliable bool
	tag      string
	dest     edge.Dest

	cancelled chan struct{} // closed when a CANCEL came in time
	done      chan struct{} // closed when the transaction is forgotten

	due due // guarded by shard.mu

	mu           sync.Mutex // taken before shard.mu
	state        state
	user         *ServerTx // until a final response
	last         []byte    // newest response
	reason       string    // of the CANCEL
	wasCancelled bool
	interval     time.Duration // timer G
	next         time.Time     // of timer G or the automatic 100; zero: none
	end          time.Time     // timer H, I, J or L; before: the user's time is up
	settled      bool          // released from the layer's caps
}

type state uint8

const (
	trying     state = iota // no response yet (INVITE: proceeding in the RFC's words)
	proceeding              // a provisional one
	completed               // a final one, refused if INVITE
	confirmed               // INVITE refused and acknowledged
	accepted                // INVITE 2xx (RFC 6026 §7.1)
	terminated
)

// Tag is the To tag of this transaction's responses.
func (s *server) Tag() string { return s.tag }

// Cancelled is closed when the other end cancelled an INVITE that had no final
// response yet. The CANCEL is answered already; the INVITE is answered by its
// user, with 487, or with the 200 that was on its way. A caller whose
// connection broke counts as one that cancelled.
func (s *server) Cancelled() <-chan struct{} { return s.cancelled }

// CancelReason is the Reason header of the CANCEL (RFC 3326), "" if it had none.
func (s *server) CancelReason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}

// Done is closed when the transaction has ended: for an INVITE answered 2xx,
// 64×T1 later; for one refused, when the ACK came or timer H fired.
func (s *server) Done() <-chan struct{} { return s.done }

// start sets the automatic 100 (RFC 3261 §17.2.1: within 200 ms) and a bound
// on users that never answer.
func (s *server) start(tx *ServerTx) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.layer.cfg.Now()
	s.user = tx
	s.end = now.Add(64 * T1) // whoever asked has given up by then (RFC 4320 §4.2)
	if s.invite {
		s.next = now.Add(200 * time.Millisecond)
		s.end = now.Add(s.layer.cfg.TimerC + 64*T1)
	}
	s.plan()
}

// Respond sends res. After 401 and 407 nothing is kept. It returns ErrDone when a final response was sent before
// (except further 2xx to an INVITE, which are the user's to repeat), or the
// transaction is forgotten.
func (t *ServerTx) Respond(res *sip.Response) error {
	b := edge.Marshal(res)
	if err := t.server.respond(res, b); err != nil {
		return err
	}
	return t.server.send(b)
}

func (s *server) respond(res *sip.Response, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.layer.cfg.Now()
	if s.state == accepted && res.IsSuccess() {
		return nil
	}
	if s.state != trying && s.state != proceeding {
		return fmt.Errorf("respond %d: %w", res.StatusCode, ErrDone)
	}
	s.last, s.next = b, time.Time{}
	if res.IsProvisional() {
		s.state = proceeding
		if s.invite {
			s.end = now.Add(s.layer.cfg.TimerC + 64*T1)
		}
		s.plan()
		return nil
	}
	s.user = nil
	s.end = now.Add(64 * T1)
	switch {
	case res.StatusCode == 401 || res.StatusCode == 407:
		// As a stateless UAS (RFC 3261 §8.2.7): if it is lost the request
		// comes again, and gets another challenge.
		s.state = terminated
		s.shard.dropServer(s)
		s.settle()
		close(s.done)
		return nil
	case s.invite && res.IsSuccess(): // timer L
		// RFC 6026 §8.7: retransmitted INVITEs are absorbed without an answer.
		s.state, s.last = accepted, nil
	case s.invite: // timer H
		s.state = completed
		if !s.reliable {
			s.interval = T1
			s.next = now.Add(T1) // timer G
		}
	default: // timer J
		s.state = completed
		if s.reliable {
			s.end = now
		}
	}
	s.plan()
	s.settle()
	return nil
}

// settle releases the transaction from the caps: what remains is small. s.mu is held.
func (s *server) settle() {
	if !s.settled {
		s.settled = true
		s.layer.releaseIP(s.key.ip)
	}
}

func (s *server) send(b []byte) error {
	if err := s.layer.edge.Write(b, s.dest); err != nil {
		return fmt.Errorf("respond: %w: %w", ErrTransport, err)
	}
	return nil
}

// again absorbs a retransmission of the request.
func (s *server) again() {
	s.mu.Lock()
	b := s.last
	s.mu.Unlock()
	if b != nil {
		s.resend(b)
	}
}

func (s *server) resend(b []byte) {
	if err := s.send(b); err != nil {
		s.layer.log.Debug("Response not sent again", "to", s.dest.String(), "err", err)
	}
}

// ack takes an ACK on the INVITE's branch. It returns true when the ACK is for
// the user: some acknowledge a 2xx on the branch of the INVITE.
func (s *server) ack() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case completed:
		s.state, s.next = confirmed, time.Time{}
		s.end = s.layer.cfg.Now() // timer I
		if !s.reliable {
			s.end = s.end.Add(T4)
		}
		s.plan()
	case accepted:
		return true
	}
	return false
}

func (s *server) cancel(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wasCancelled || s.state != trying && s.state != proceeding {
		return
	}
	s.wasCancelled, s.reason = true, reason
	close(s.cancelled)
}

// plan puts the next thing to do into the shard's heap. s.mu is held.
func (s *server) plan() {
	at := s.next
	if at.IsZero() || s.end.Before(at) {
		at = s.end
	}
	s.shard.schedule(&s.due, at)
}

// fire does what is due: an automatic 100, a retransmission, or the end.
func (s *server) fire(now time.Time) {
	s.mu.Lock()
	switch {
	case s.state == terminated:
		s.mu.Unlock()
		return
	case !s.end.After(now) && s.invite && s.user != nil: // nobody answered
		tx := s.user
		s.mu.Unlock()
		s.layer.log.Warn("An INVITE was never answered by its handler", "callid", tx.req.CallID().Value())
		if err := tx.Respond(tx.Response(480, "")); err != nil {
			s.layer.log.Debug("An INVITE was answered at last", "err", err)
		}
		return
	case !s.end.After(now):
		s.state, s.user = terminated, nil
		s.shard.dropServer(s)
		s.settle()
		s.mu.Unlock()
		close(s.done)
		return
	case s.next.IsZero() || s.next.After(now): // moved meanwhile
		s.plan()
		s.mu.Unlock()
		return
	case s.state == trying:
		s.last = edge.Marshal(s.user.Response(100, ""))
		s.state, s.next = proceeding, time.Time{}
	default: // timer G
		s.interval = min(2*s.interval, T2)
		s.next = now.Add(s.interval)
	}
	b := s.last
	s.plan()
	s.mu.Unlock()
	s.resend(b)
}

// Accept answers an INVITE with a 2xx and sends it again, after T1 and then
// doubling to T2, until stop is called: its user calls it when the ACK of its
// dialog comes (RFC 3261 §13.3.1.4). If none comes for 64×T1, unacknowledged
// is called once, on a goroutine of its own; the dialog is to be ended by BYE.
func (t *ServerTx) Accept(res *sip.Response, unacknowledged func()) (stop func()) {
	s := t.server
	b := edge.Marshal(res)
	if err := s.respond(res, b); err != nil {
		s.layer.log.Debug("An INVITE was accepted too late", "err", err)
		return func() {}
	}
	s.resend(b)
	now := s.layer.cfg.Now()
	r := &repeat{s: s, b: b, interval: T1, next: now.Add(T1), end: now.Add(64 * T1), expired: unacknowledged}
	r.due = due{index: -1, fire: r.fire}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plan()
	return r.stop
}

// A repeat is a 2xx that waits for its ACK.
type repeat struct {
	s       *server
	expired func()

	due due // guarded by shard.mu

	mu        sync.Mutex // taken before shard.mu
	b         []byte     // nil when over
	interval  time.Duration
	next, end time.Time
}

func (r *repeat) plan() {
	at := r.next
	if r.end.Before(at) {
		at = r.end
	}
	r.s.shard.schedule(&r.due, at)
}

func (r *repeat) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.b = nil
	r.s.shard.schedule(&r.due, time.Time{})
}

func (r *repeat) fire(now time.Time) {
	r.mu.Lock()
	b := r.b
	switch {
	case b == nil:
	case !r.end.After(now):
		r.b = nil
		if r.expired != nil {
			r.s.layer.wg.Go(r.expired)
		}
		b = nil
	case r.next.After(now):
		r.plan()
		b = nil
	default:
		r.interval = min(2*r.interval, T2)
		r.next = now.Add(r.interval)
		r.plan()
	}
	r.mu.Unlock()
	if b != nil {
		r.s.resend(b)
	}
}
