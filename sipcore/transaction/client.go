package transaction

import (
	"context"
	"errors"
	"fmt"

	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
)

// A ClientTx is one request of ours on its way. It may be used from any goroutine.
type ClientTx struct{ *client }

// queue is how many responses wait for a slow user. Provisional ones are
// dropped when only reserve places are left.
const (
	queue   = 16
	reserve = 4
)

type client struct {
	layer     *Layer
	invite    bool
	responses chan *sip.Response
	done      chan struct{}
	stop      func() bool // of ctx

	// Set before the transaction is in its shard's table, then constant.
	shard *shard
	key   key
	dest  edge.Dest
	req   *sip.Request

	due due // guarded by shard.mu

	mu         sync.Mutex // taken before shard.mu
	state      state
	sent       []byte // the request, until a final response; then the ACK of a refusal
	written    bool   // to a stream of the mesh, where a CANCEL cannot overtake it
	wantCancel bool
	sentCancel bool
	reason     string            // for the CANCEL
	acks       map[string][]byte // of 2xx, by To tag
	ackDest    edge.Dest
	interval   time.Duration // timer A or E
	next       time.Time     // of it; zero: none
	end        time.Time     // timer B, C, D, F, K or M
	closed     bool          // responses is
	err        error
}

// Request sends req to d in a transaction of its own and returns at once; our
// Via is put on top. req must not be changed afterwards. When ctx ends before a
// final response, an INVITE is cancelled with ctx's cause as reason, and
// anything else is given up.
func (l *Layer) Request(ctx context.Context, req *sip.Request, d edge.Dest) *ClientTx {
	c := &client{layer: l, invite: req.Method == sip.INVITE, req: req,
		responses: make(chan *sip.Response, queue), done: make(chan struct{})}
	c.due = due{index: -1, fire: c.fire}
	tx := &ClientTx{c}
	if d.Flow != nil || d.Peer.IsZero() && !d.Transport.Reliable() && !d.TCP {
		c.begin(ctx, d)
	} else {
		l.wg.Go(func() { c.begin(ctx, d) }) // waits for a connection
	}
	return tx
}

// mtu is where a request prefers a stream (RFC 3261 §18.1.1).
const mtu = 1300

func (c *client) begin(ctx context.Context, d edge.Dest) {
	l := c.layer
	if d.Flow == nil && d.Peer.IsZero() && d.TCP && !d.Transport.Reliable() && len(c.req.String()) > mtu-100 {
		over := d
		over.Transport = "tcp"
		if to, err := l.edge.Connect(ctx, over); err == nil {
			d = to
		}
	}
	to, branch, err := l.via(ctx, c.req, d)
	if err != nil {
		c.fail(fmt.Errorf("%w: %w", ErrTransport, err))
		return
	}
	b := edge.Marshal(c.req)
	ip, peer := to.Addr.Addr(), to.Peer
	if to.Flow != nil {
		ip, peer = to.Flow.Remote.Addr(), to.Flow.Peer
	}
	c.mu.Lock()
	if c.closed { // given up while connecting
		c.mu.Unlock()
		return
	}
	c.dest = to
	c.key = key{branch: branch, method: c.req.Method, client: true, ip: ip.Unmap(), peer: peer}
	c.shard = l.shard(c.key)
	c.shard.addClient(c)
	now := l.cfg.Now()
	c.sent = b
	c.end = now.Add(64 * T1) // timer B or F
	if !to.Reliable() {
		c.interval = T1
		c.next = now.Add(T1) // timer A or E
	}
	c.plan()
	c.mu.Unlock()

	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { c.giveUp(context.Cause(ctx)) })
		c.mu.Lock()
		c.stop = stop
		over := c.closed
		c.mu.Unlock()
		if over {
			stop()
		}
	}
	if err := l.edge.Write(b, to); err != nil {
		c.fail(fmt.Errorf("%w: %w", ErrTransport, err))
		return
	}
	if to.Flow != nil && to.Flow.Transport == site.Mesh {
		c.mu.Lock()
		c.written = true
		c.mu.Unlock()
		c.sendCancel()
	}
}

// Responses delivers what comes, provisional and final, in order. It is closed
// after the final response, or when there will be none and Err says why. After
// a 2xx to an INVITE it stays open for 64×T1, in case another branch answers
// too. A user that does not read loses provisional responses first; it holds
// up nobody.
func (c *client) Responses() <-chan *sip.Response { return c.responses }

// Done is closed when the transaction has ended.
func (c *client) Done() <-chan struct{} { return c.done }

// Err says why there was no final response: ErrTimeout, ErrTransport or the
// cause of ctx. nil while there may be one and after one came.
func (c *client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Request is the request as sent, with our Via on top.
func (c *client) Request() *sip.Request { return c.req }

// Dest is where the request went; it is known when the first response comes.
func (c *client) Dest() edge.Dest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dest
}

// Cancel asks the other end to stop an INVITE (RFC 3261 §9.1): at once when it
// has shown a sign of life, otherwise as soon as it does. reason becomes a
// Reason header (RFC 3326), like `SIP;cause=200;text="Call completed elsewhere"`;
// "" sends none. A final response still comes, 487 as a rule, or a 2xx that was
// on its way and must be acknowledged and ended; or ErrTimeout 64×T1 later. For
// other requests it does nothing.
func (c *client) Cancel(reason string) {
	c.mu.Lock()
	if !c.invite || c.wantCancel || c.state >= completed {
		c.mu.Unlock()
		return
	}
	c.wantCancel, c.reason = true, reason
	c.mu.Unlock()
	c.sendCancel()
}

// giveUp is Cancel by way of ctx.
func (c *client) giveUp(cause error) {
	if !c.invite {
		c.fail(cause)
		return
	}
	c.Cancel("")
}

// sendCancel sends the CANCEL if it is wanted and allowed now: after a sign of
// life (RFC 3261 §9.1), or, to another node of the fleet, right behind the
// INVITE in its stream, so that a link that comes back after minutes does not
// ring a phone for a caller long gone.
func (c *client) sendCancel() {
	c.mu.Lock()
	if !c.wantCancel || c.sentCancel || c.state != proceeding && !(c.state == trying && c.written) {
		c.mu.Unlock()
		return
	}
	c.sentCancel = true
	c.end = c.layer.cfg.Now().Add(64 * T1)
	c.plan()
	dest, reason := c.dest, c.reason
	c.mu.Unlock()

	req := c.req
	cancel := sip.NewRequest(sip.CANCEL, *req.Recipient.Clone())
	copyFrom(cancel, req, sip.CANCEL, req.To())
	if reason != "" {
		cancel.AppendHeader(sip.NewHeader("Reason", reason))
	}
	cancel.SetBody(nil)
	l := c.layer
	k := &client{layer: l, req: cancel, dest: dest, responses: make(chan *sip.Response, queue), done: make(chan struct{})}
	k.key = c.key
	k.key.method = sip.CANCEL
	k.shard, k.due = c.shard, due{index: -1, fire: k.fire}
	k.sent = edge.Marshal(cancel)
	now := l.cfg.Now()
	k.mu.Lock()
	k.end = now.Add(64 * T1)
	if !dest.Reliable() {
		k.interval, k.next = T1, now.Add(T1)
	}
	k.shard.addClient(k)
	k.plan()
	k.mu.Unlock()
	if err := l.edge.Write(k.sent, dest); err != nil {
		k.fail(fmt.Errorf("%w: %w", ErrTransport, err))
	}
}

// copyFrom fills a CANCEL or the ACK of a refusal (RFC 3261 §9.1, §17.1.1.3):
// the INVITE's topmost Via, Route, From, Call-ID and CSeq number.
func copyFrom(to, req *sip.Request, method sip.RequestMethod, toHeader *sip.ToHeader) {
	to.AppendHeader(req.Via().Clone())
	for _, h := range req.Headers() {
		if r, ok := h.(*sip.RouteHeader); ok {
			to.AppendHeader(r.Clone())
		}
	}
	mf := sip.MaxForwardsHeader(70)
	to.AppendHeader(&mf)
	to.AppendHeader(sip.HeaderClone(req.From()))
	to.AppendHeader(sip.HeaderClone(toHeader))
	id := *req.CallID()
	to.AppendHeader(&id)
	to.AppendHeader(&sip.CSeqHeader{SeqNo: req.CSeq().SeqNo, MethodName: method})
}

// Ack acknowledges a 2xx of this INVITE (RFC 3261 §13.2.2.4): ack gets a Via of
// its own, goes to d, and is sent again by itself whenever that 2xx comes again.
func (c *ClientTx) Ack(ctx context.Context, ack *sip.Request, d edge.Dest) error {
	l := c.layer
	to, _, err := l.via(ctx, ack, d)
	if err != nil {
		return fmt.Errorf("acknowledge: %w: %w", ErrTransport, err)
	}
	b := edge.Marshal(ack)
	tag, _ := ack.To().Params.Get("tag")
	c.mu.Lock()
	if c.acks == nil {
		c.acks = map[string][]byte{}
	}
	c.acks[tag] = b
	c.ackDest = to
	c.mu.Unlock()
	return l.edge.Write(b, to)
}

// receive takes a response that matched.
func (c *client) receive(res *sip.Response) {
	c.mu.Lock()
	now := c.layer.cfg.Now()
	var again []byte
	dest := c.dest
	final := !res.IsProvisional()
	switch {
	case c.state == terminated:
	case c.state == accepted:
		// RFC 6026 §7.2: further 2xx are the user's.
		if !res.IsSuccess() {
			break
		}
		tag, _ := res.To().Params.Get("tag")
		if again = c.acks[tag]; again != nil {
			dest = c.ackDest
		} else {
			c.deliver(res)
		}
	case c.state == completed:
		if final {
			again = c.sent // the ACK; nil if not an INVITE
		}
	case !final:
		first := c.state == trying
		c.state = proceeding
		c.deliver(res)
		if c.invite {
			c.next = time.Time{}
			// Timer C (RFC 3261 §16.6 step 11), moved by each 101-199.
			if !c.sentCancel && (first || res.StatusCode > 100) {
				c.end = now.Add(c.layer.cfg.TimerC)
			}
		} else if !c.next.IsZero() {
			c.interval = T2
		}
	case c.invite && res.IsSuccess():
		c.state, c.next, c.sent = accepted, time.Time{}, nil
		c.end = now.Add(64 * T1) // timer M
		c.deliver(res)
	default:
		c.state, c.next, c.sent = completed, time.Time{}, nil
		c.end = now // timer D or K
		if c.invite {
			c.sent = c.ackFor(res)
			again = c.sent
			if !c.dest.Reliable() {
				c.end = now.Add(64 * T1)
			}
		} else if !c.dest.Reliable() {
			c.end = now.Add(T4)
		}
		c.deliver(res)
		c.closeResponses()
	}
	if c.state != terminated {
		c.plan()
	}
	c.mu.Unlock()
	if again != nil {
		if err := c.layer.edge.Write(again, dest); err != nil {
			c.layer.log.Debug("ACK not sent", "to", dest.String(), "err", err)
		}
	}
	if !final {
		c.sendCancel()
	}
}

func (c *client) ackFor(res *sip.Response) []byte {
	ack := sip.NewRequest(sip.ACK, *c.req.Recipient.Clone())
	copyFrom(ack, c.req, sip.ACK, res.To())
	ack.SetBody(nil)
	return edge.Marshal(ack)
}

// deliver hands res to the user without waiting. c.mu is held.
func (c *client) deliver(res *sip.Response) {
	if c.closed || res.IsProvisional() && len(c.responses) >= queue-reserve {
		return
	}
	select {
	case c.responses <- res:
	default:
		c.layer.log.Warn("A SIP response was dropped: nobody reads", "status", res.StatusCode, "method", c.key.method)
	}
}

// closeResponses ends the user's wait. c.mu is held.
func (c *client) closeResponses() {
	if !c.closed {
		c.closed = true
		close(c.responses)
		if c.stop != nil {
			c.stop()
		}
	}
}

// plan puts the next thing to do into the shard's heap. c.mu is held.
func (c *client) plan() {
	at := c.next
	if at.IsZero() || c.end.Before(at) {
		at = c.end
	}
	c.shard.schedule(&c.due, at)
}

// fire does what is due: a retransmission, timer C, or the end.
func (c *client) fire(now time.Time) {
	c.mu.Lock()
	if c.state == terminated {
		c.mu.Unlock()
		return
	}
	if !c.end.After(now) {
		if c.invite && c.state == proceeding && !c.sentCancel { // timer C
			c.end = now.Add(64 * T1)
			c.plan()
			c.mu.Unlock()
			c.Cancel("")
			return
		}
		waiting := c.state < completed
		c.mu.Unlock()
		if waiting {
			c.fail(ErrTimeout)
		} else {
			c.fail(nil)
		}
		return
	}
	var b []byte
	if !c.next.IsZero() && !c.next.After(now) {
		b = c.sent
		switch {
		case c.invite: // timer A
			c.interval *= 2
		case c.state == proceeding: // timer E
			c.interval = T2
		default:
			c.interval = min(2*c.interval, T2)
		}
		c.next = now.Add(c.interval)
	}
	c.plan()
	c.mu.Unlock()
	if b != nil {
		if err := c.layer.edge.Write(b, c.dest); err != nil {
			c.fail(fmt.Errorf("%w: %w", ErrTransport, err))
		}
	}
}

// fail ends the transaction; err is for the user who still waits.
func (c *client) fail(err error) {
	c.mu.Lock()
	if c.state == terminated {
		c.mu.Unlock()
		return
	}
	if c.state >= completed && errors.Is(err, ErrTransport) {
		c.mu.Unlock()
		return // a response came; the rest is only for absorbing retransmissions
	}
	if !c.closed {
		if c.state < completed {
			c.err = err
		}
		c.closeResponses()
	}
	c.state = terminated
	if c.shard != nil {
		c.shard.dropClient(c)
	}
	c.mu.Unlock()
	close(c.done)
}
