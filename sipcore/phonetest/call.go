package phonetest

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"sync"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// An End says how a call ended.
type End struct {
	Here   bool   // this phone ended it
	Status int    // of the refusal, 487 when the caller gave up; 0: it had been answered
	Reason string // Reason header of the BYE, CANCEL or refusal (RFC 3326)
	Err    error  // what went wrong, nil if nothing did
}

// A Call is one call of a Phone, in either direction.
type Call struct {
	// set when made, then constant
	p      *Phone
	audio  *audio
	caller string
	name   string
	out    bool
	old    *Call                 // that this one replaces
	begun  *sip.Request          // what came, or was sent first
	server *transaction.ServerTx // incoming: the INVITE

	ringing  chan struct{} // closed at 180 or 183
	answered chan struct{} // closed when answered
	done     chan struct{} // closed when over
	turn     chan struct{} // holds one token: one re-INVITE at a time

	mu       sync.Mutex
	dlg      dialog
	early    dialog // outgoing: what the last provisional response with a tag began
	sdp      sdpWriter
	theirs   description
	mine     direction // wanted here
	offered  bool      // their first INVITE brought an offer
	isUp     bool
	isOver   bool
	ringer   bool
	serving  bool                  // a re-INVITE of theirs is open
	inviting bool                  // one of ours is
	client   *transaction.ClientTx // outgoing: the INVITE
	hungUp   bool                  // before it was answered
	accepted map[uint32]*accepted  // 2xx that wait for their ACK, by CSeq
	end1     End
}

// An accepted is a 2xx of ours that is repeated until its ACK.
type accepted struct {
	stop  func()
	offer bool // the ACK brings the answer
	acked chan struct{}
}

func (p *Phone) newCall(d dialog) (*Call, error) {
	a, err := openAudio(p.cfg.Listen, p.cfg.Local, &p.tone, p.cfg.Now, p.cfg.Rand)
	if err != nil {
		return nil, err
	}
	id, _ := hex.DecodeString(p.token(8))
	c := &Call{p: p, audio: a, dlg: d, ringing: make(chan struct{}), answered: make(chan struct{}), done: make(chan struct{}), turn: make(chan struct{}, 1),
		accepted: map[uint32]*accepted{}, sdp: sdpWriter{id: binary.BigEndian.Uint64(id) >> 2, host: p.cfg.Local, port: a.port()}}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		a.close()
		return nil, errClosed
	}
	p.calls[d.callID] = c
	return c, nil
}

// lockedRand makes a random source fit for several goroutines.
type lockedRand struct {
	mu sync.Mutex
	r  io.Reader
}

func (r *lockedRand) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.Read(b)
}

// ID is the call's Call-ID.
func (c *Call) ID() string { return c.dlg.callID }

// Caller is the user part of who calls, and the name shown with it; for an
// outgoing call, who is called.
func (c *Call) Caller() (user, name string) { return c.caller, c.name }

// Request is the first INVITE, to look at; nil while an outgoing one is not sent.
func (c *Call) Request() *sip.Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.begun
}

// Done is closed when the call is over.
func (c *Call) Done() <-chan struct{} { return c.done }

// Cause says how the call ended; the zero End while it lasts.
func (c *Call) Cause() End {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end1
}

// WaitRinging returns when the other phone rings (180 or 183 came), or, for an
// incoming call, when Ring was called.
func (c *Call) WaitRinging(ctx context.Context) error { return c.wait(ctx, c.ringing, "ringing") }

// WaitAnswered returns when the call is answered. The error is a *Refusal if
// it was refused.
func (c *Call) WaitAnswered(ctx context.Context) error { return c.wait(ctx, c.answered, "an answer") }

func (c *Call) wait(ctx context.Context, what <-chan struct{}, name string) error {
	select {
	case <-what:
		return nil
	default:
	}
	select {
	case <-what:
		return nil
	case <-c.done:
		if e := c.Cause(); e.Err != nil {
			return e.Err
		}
		return errOver
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", name, context.Cause(ctx))
	}
}

// end ends the call here, without a word to the other end.
func (c *Call) end(e End) {
	c.mu.Lock()
	if c.isOver {
		c.mu.Unlock()
		return
	}
	c.isOver, c.end1 = true, e
	for _, a := range c.accepted {
		a.stop()
	}
	c.mu.Unlock()
	c.p.mu.Lock()
	if c.p.calls[c.dlg.callID] == c {
		delete(c.p.calls, c.dlg.callID)
	}
	c.p.mu.Unlock()
	close(c.done)
	c.audio.close()
}

// rings and up mark the two steps of a call. c.mu is held.
func (c *Call) rings() {
	if !c.ringer {
		c.ringer = true
		close(c.ringing)
	}
}

func (c *Call) up() {
	if !c.isUp && !c.isOver {
		c.isUp = true
		close(c.answered)
	}
}

// media makes the audio follow what was agreed. c.mu is held.
func (c *Call) media() {
	d := between(c.mine, c.theirs.dir)
	c.audio.set(c.theirs.addr, c.theirs.event, d.sends() && c.mine == sendrecv, d.hears())
}

// Hangup ends the call in whatever state it is: BYE, CANCEL, or a refusal. For
// an answered call it returns when the other end has confirmed.
func (c *Call) Hangup(ctx context.Context) error {
	c.mu.Lock()
	switch {
	case c.isOver:
		c.mu.Unlock()
		return nil
	case !c.isUp && c.out:
		c.hungUp = true
		tx := c.client
		c.mu.Unlock()
		if tx != nil {
			tx.Cancel("")
		}
		select {
		case <-c.done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("cancel: %w", context.Cause(ctx))
		}
	case !c.isUp:
		c.mu.Unlock()
		return c.Reject(480)
	}
	var waits []chan struct{}
	for _, a := range c.accepted { // no BYE before the ACK (RFC 3261 §15)
		waits = append(waits, a.acked)
	}
	c.mu.Unlock()
	for _, w := range waits {
		select {
		case <-w:
		case <-c.done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("hang up: no ACK: %w", context.Cause(ctx))
		}
	}
	c.mu.Lock()
	if c.isOver {
		c.mu.Unlock()
		return nil
	}
	d := c.dlg.dest
	c.mu.Unlock()
	// The call is over for this phone; only the BYE is still on its way.
	w := wish{build: func() *sip.Request { return c.next(sip.BYE) }}
	c.end(End{Here: true})
	a, err := c.p.ask(ctx, w, d, 0)
	switch {
	case err != nil:
		return fmt.Errorf("hang up: %w", err)
	case a.StatusCode >= 300 && a.StatusCode != 481 && a.StatusCode != 408:
		return fmt.Errorf("hang up: %w", refusal(a.Response))
	}
	return nil
}

// next makes the next request in the dialog.
func (c *Call) next(method sip.RequestMethod) *sip.Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dlg.next(method)
}

// acknowledge sends the ACK for a 2xx to our INVITE with number seq.
func (c *Call) acknowledge(a answer, sdp []byte) {
	c.mu.Lock()
	ack, d := c.dlg.request(sip.ACK, a.CSeq().SeqNo), c.dlg.dest
	c.mu.Unlock()
	for _, n := range [...]string{"Authorization", "Proxy-Authorization"} { // RFC 3261 §13.2.2.4
		if v := message.Get(a.tx.Request(), n); v != "" {
			ack.AppendHeader(sip.NewHeader(n, v))
		}
	}
	setSDP(ack, sdp)
	if err := a.tx.Ack(c.p.ctx, ack, d); err != nil {
		c.p.log.Debug("ACK not sent", "user", c.p.cfg.User, "to", d.String(), "err", err)
	}
}
