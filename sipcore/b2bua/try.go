package b2bua

import (
	"context"
	"sync"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/transaction"
	"carrierclass.net/ccnode/sipcore/trunk"
)

// event is what a branch tells the fork it belongs to.
type event struct {
	from   int // which branch
	leg    *Leg
	res    *sip.Response
	sdp    []byte // its description, if any
	answer bool   // a 2xx; leg is the fork's now, if it takes it
	final  bool   // the branch has failed
	all    bool   // and wants all others to stop (6xx)
	lost   bool   // nobody was reached at all
	cause  site.Cause
	err    error
}

// A halt stops branches, once, with a reason for their CANCEL.
type halt struct {
	once   sync.Once
	ch     chan struct{}
	reason string
}

func newHalt() *halt { return &halt{ch: make(chan struct{})} }

func (h *halt) stop(reason string) {
	h.once.Do(func() { h.reason = reason; close(h.ch) })
}

func (h *halt) stopped() bool {
	select {
	case <-h.ch:
		return true
	default:
		return false
	}
}

// outgoing describes a leg to be made.
type outgoing struct {
	uri    sip.Uri
	dest   edge.Dest
	flow   *edge.Flow
	device site.RecordID
	nat    bool
	peer   site.NodeID
	vector vector          // to another node
	line   *trunk.Outgoing // by a trunk
	to     route.Entry
}

// dial makes a leg and its INVITE (RFC 3261 §8.1.1, §13.2.1).
func (c *Call) dial(o outgoing) (*Leg, *sip.Request, error) {
	s := c.srv
	l := &Leg{srv: s, peer: o.peer, line: o.to.AOR, device: o.device, flow: o.flow, nat: o.nat, callID: s.token(), localTag: s.token(),
		dest: o.dest, target: o.uri, localSeq: 1}
	l.own(c)
	from := c.From()
	l.remote = aorURI(o.to.AOR)
	l.name = display(from.Display)
	if o.peer.IsZero() {
		view := s.cfg.View()
		l.local = sip.Uri{Scheme: "sip", User: escapeUser(route.Shown(view, from)), Host: view.Domain()}
	} else {
		l.local = aorURI(from.AOR)
	}
	if o.line != nil {
		l.dialLine(o)
	}
	var err error
	if l.port, err = s.cfg.Anchor.NewPort(sipcore.PortParams{Chain: c.chain, Local: s.mediaAddr(o.dest), Peer: !o.peer.IsZero()}); err != nil {
		return nil, nil, err
	}
	offer, err := l.port.Local(c.template())
	if err != nil {
		l.port.Close()
		return nil, nil, err
	}
	l.said = offer
	req := l.request(sip.INVITE, 1)
	hops := sip.MaxForwardsHeader(69)
	first := c.first()
	if first != nil {
		if mf := first.MaxForwards(); mf != nil {
			hops = *mf - 1
		}
	}
	message.Remove(req, "Max-Forwards")
	req.AppendHeader(&hops)
	req.AppendHeader(l.contact(o.dest))
	about(req)
	propose(req, sessionExpires)
	if first != nil {
		copyHeaders(req, first)
	}
	if !o.peer.IsZero() {
		o.vector.chain = c.chain
		req.AppendHeader(sip.NewHeader("P-Charging-Vector", o.vector.String()))
		req.AppendHeader(sip.NewHeader("P-Asserted-Identity", `"`+l.name+`" <`+l.local.String()+`>`))
	}
	if o.line != nil {
		for _, h := range o.line.Headers {
			req.AppendHeader(h)
		}
	}
	setSDP(req, offer)
	s.register(l)
	return l, req, nil
}

// template is the description whose codecs the next leg is offered.
func (c *Call) template() []byte {
	c.mu.Lock()
	answered, l := c.answered, c.caller
	c.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if answered && l.said != nil {
		return l.said
	}
	return l.heard
}

// close gives back the leg's port.
func (l *Leg) close() {
	l.mu.Lock()
	if l.state != ended && !l.closing {
		l.over()
	}
	l.mu.Unlock()
	l.hush()
	if l.port != nil {
		if err := l.port.Close(); err != nil {
			l.srv.log.Debug("Media port not closed", "call", l.call().Chain(), "err", err)
		}
	}
}

// try sends one INVITE and tells tell what comes, until the branch has failed
// or was answered. After h it is cancelled; an answer that comes nevertheless,
// or that tell does not take, is acknowledged and ended.
func (c *Call) try(id int, o outgoing, h *halt, tell func(event) bool) {
	l, req, err := c.dial(o)
	if err != nil {
		c.srv.log.Warn("A leg could not be made", "call", c.chain, "err", err)
		tell(event{from: id, final: true, cause: failure(err), err: err})
		return
	}
	won := false
	defer func() {
		if !won {
			l.close()
		}
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tx := c.srv.layer.Request(ctx, req, o.dest)
	halted := h.ch
	challenges := 0
	for {
		select {
		case <-halted:
			halted = nil
			tx.Cancel(h.reason)
			cancel() // stops connecting
		case <-c.srv.done:
			tx.Cancel("")
			return
		case res, ok := <-tx.Responses():
			switch {
			case !ok:
				if err := tx.Err(); err != nil {
					tell(event{from: id, final: true, lost: true, cause: site.Offline, err: err})
				}
				return
			case res.IsProvisional():
				if halted != nil {
					l.provisional(res)
					sdp, _ := sdpOf(res)
					tell(event{from: id, leg: l, res: res, sdp: sdp})
				}
			case res.IsSuccess():
				won = l.established(tx, res)
				if !won {
					tell(event{from: id, final: true, cause: site.NotAcceptable})
					return
				}
				l.mu.Lock()
				s, d, tag, heard := c.srv, l.dest, l.remoteTag, l.heard
				l.mu.Unlock()
				s.spawn(func() { s.others(tx, d, tag) })
				if halted == nil || !tell(event{from: id, leg: l, res: res, sdp: heard, answer: true}) {
					l.bye(site.Elsewhere)
					l.close()
				}
				return
			default:
				if s := res.StatusCode; o.line != nil && (s == 401 || s == 407) && challenges < 2 && halted != nil {
					challenges++ // a second one is answered if it says that the nonce was stale
					auth, err := c.srv.cfg.Lines.Authorize(o.line.Trunk, req, res)
					if err == nil {
						req = l.answering(req, auth)
						tx = c.srv.layer.Request(ctx, req, o.dest)
						continue
					}
					c.srv.log.Warn("A trunk's challenge cannot be answered", "call", c.chain, "trunk", o.line.Trunk, "err", err)
				}
				e := event{from: id, res: res, final: true, cause: causeOf(res), all: res.StatusCode >= 600}
				if res.StatusCode/100 == 3 {
					e.cause = site.Refused // where to is ours to say
				}
				tell(e)
				return
			}
		}
	}
}

// others ends what further phones behind one INVITE answer after the first,
// which has the To tag first (RFC 3261 §13.2.2.4). It returns when no response
// can come any more.
func (s *Server) others(tx *transaction.ClientTx, d edge.Dest, first string) {
	for {
		select {
		case res, ok := <-tx.Responses():
			if !ok {
				return
			}
			if tag, _ := res.To().Params.Get("tag"); res.IsSuccess() && tag != first { // the same one doubled is no other
				s.dismiss(res, d)
			}
		case <-s.done:
			return
		}
	}
}

// provisional notes an early dialog.
func (l *Leg) provisional(res *sip.Response) {
	tag, _ := res.To().Params.Get("tag")
	if tag == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remoteTag = tag
	l.learn(res, true)
}

// established takes a 2xx: the dialog is there and acknowledged. Without media
// that fits it is ended at once, and false.
func (l *Leg) established(tx *transaction.ClientTx, res *sip.Response) bool {
	tag, _ := res.To().Params.Get("tag")
	sdp, ok := sdpOf(res)
	l.mu.Lock()
	l.remoteTag, l.state = tag, confirmed
	l.learn(res, true)
	if sdp != nil {
		l.heard = append([]byte(nil), sdp...)
	}
	l.agreed(res)
	heard := l.heard
	l.mu.Unlock()
	l.ack(tx, res, nil)
	if ok && heard != nil {
		err := l.port.SetRemote(heard)
		if err == nil {
			return true
		}
		l.srv.log.Info("An answer was given up: its media cannot be used", "call", l.call().Chain(), "leg", l.remote.User, "err", err)
	}
	l.bye(site.NotAcceptable)
	return false
}
