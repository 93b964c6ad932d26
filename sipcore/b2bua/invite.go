package b2bua

import (
	"context"
	"net/netip"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// invite takes a first INVITE: who it is, whether there is room, and off.
func (s *Server) invite(tx *transaction.ServerTx) {
	req, f := tx.Request(), tx.Flow()
	peer := f.Transport == site.Mesh && !f.Peer.IsZero()
	if mf := req.MaxForwards(); mf != nil && *mf == 0 {
		tx.Respond(s.refusal(tx, site.TooManyHops))
		return
	}
	if at := req.Contact(); at == nil || at.Address.Wildcard || at.Address.Scheme != "sip" && at.Address.Scheme != "sips" { // RFC 3261 §8.1.1.8
		tx.Respond(tx.Response(400, "Contact Missing"))
		return
	}
	if tooShort(req) {
		res := tx.Response(422, "")
		res.AppendHeader(sip.NewHeader("Min-SE", seconds(minSE)))
		tx.Respond(res)
		return
	}
	view := s.cfg.View()
	to := routeURI(req.Recipient)
	in, caller, where, line := s.fromTrunk(view, req, f)
	if line {
		to = where
	}
	urgent := !line && route.Urgent(view, to)
	var from site.Party
	var ok bool
	switch {
	case peer:
		from = s.asserted(view, req)
	case line:
		if in.Listed && to.User != "" {
			from = caller
			break
		}
		s.log.Info("A call to a number that is not ours was refused", "trunk", in.Trunk, "called", in.Called)
		tx.Respond(s.refusal(tx, site.NoSuchNumber))
		return
	default:
		if from, ok = s.authenticate(tx, view, urgent); !ok {
			return
		}
		f.Keep()
	}
	tx.Respond(tx.Response(100, ""))

	c := &Call{srv: s, tx: tx, moves: make(chan func()), picks: make(chan pick), origin: from, from: from, peer: peer, incoming: line, began: s.cfg.Now(), to: site.Party{AOR: route.AOR(view, to)}}
	if peer {
		c.vector = parseVector(message.Get(req, "P-Charging-Vector"))
		c.chain = c.vector.chain
	}
	if c.chain == "" {
		c.chain = s.newChain()
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	if cause, full := s.full(urgent); full {
		s.turnAway(tx, cause, peer)
		return
	}
	if urgent && !peer && !s.urgentFrom(c, f.Remote.Addr().Unmap()) {
		c.cancel(nil)
		s.turnAway(tx, site.NodeFull, false)
		return
	}
	release := func() {}
	if line {
		var mine bool
		if release, mine = s.cfg.Lines.Settle(c.ctx, arrival(in, req)); !mine {
			s.log.Info("A call is left to the other node of the pair", "trunk", in.Trunk, "callid", req.CallID().Value())
			tx.Respond(s.refusal(tx, site.Twice))
			return
		}
	}
	l, cause := s.callerLeg(c, tx)
	if l == nil {
		release()
		c.cancel(nil)
		tx.Respond(s.refusal(tx, cause))
		return
	}
	c.caller, c.legs = l, []*Leg{l}
	if cause, ok := s.begin(c, urgent); !ok {
		release()
		c.cancel(nil)
		l.close()
		s.turnAway(tx, cause, peer)
		return
	}
	if line {
		c.rescue = s.cfg.Lines.Rescued(in.Called)
		context.AfterFunc(c.ctx, release)
		c.leaseFor(in.Trunk)
	}
	s.register(l)
	s.log.Info("Call", "call", c.chain, "from", from.AOR.User, "to", to.String(), "via", f.String())
	s.spawn(func() { c.run(to) })
	s.spawn(func() { // ends with the call, or when the node that asked is gone
		var gone <-chan struct{}
		if peer {
			gone = f.Closed()
		}
		select {
		case <-tx.Cancelled():
			if c.near() == l { // not when somebody else took the caller's place
				c.end(site.Cancelled)
			}
		case <-gone:
			c.mu.Lock()
			answered := c.answered
			c.mu.Unlock()
			if !answered { // one that talks goes on: requests in its dialogs open a new stream
				c.end(site.NodeLost)
			}
		case <-c.ctx.Done():
		}
	})
}

// turnAway refuses a call for want of room. Phones are never told to leave the
// node; other nodes are.
func (s *Server) turnAway(tx *transaction.ServerTx, cause site.Cause, peer bool) {
	s.log.Warn("A call was refused", "cause", cause.String(), "from", tx.Flow().String())
	res := s.refusal(tx, cause)
	if peer {
		res = tx.Response(503, "")
		res.AppendHeader(sip.NewHeader("Retry-After", "5"))
	}
	tx.Respond(res)
}

// callerLeg makes the dialog of the caller and opens its media.
func (s *Server) callerLeg(c *Call, tx *transaction.ServerTx) (*Leg, site.Cause) {
	req, f := tx.Request(), tx.Flow()
	sdp, ok := sdpOf(req)
	if !ok {
		return nil, site.NotAcceptable
	}
	l := &Leg{srv: s, caller: true, line: c.origin.AOR, device: c.origin.Device, flow: f, tx: tx, callID: strings.Clone(req.CallID().Value()), localTag: tx.Tag(),
		local: *req.To().Address.Clone(), remote: *req.From().Address.Clone(), remoteSeq: req.CSeq().SeqNo}
	l.own(c)
	l.remoteTag, _ = req.From().Params.Get("tag")
	if c.peer {
		l.peer = f.Peer
	} else {
		at, isAddr := message.Addr(req.Contact().Address.Host)
		l.nat = !isAddr || at != f.Remote.Addr().Unmap()
	}
	l.learn(req, true)
	c.late = sdp == nil
	port, err := s.cfg.Anchor.NewPort(sipcore.PortParams{Chain: c.chain, Local: s.mediaAddr(f.Dest()), Peer: c.peer})
	if err != nil {
		s.log.Error("No media port for a call", "call", c.chain, "err", err)
		return nil, site.NodeFull
	}
	l.port = port
	if sdp != nil {
		if err := port.SetRemote(sdp); err != nil {
			port.Close()
			s.log.Debug("Offer refused", "call", c.chain, "err", err)
			if cause := failure(err); cause != site.Failure {
				return nil, cause
			}
			return nil, site.NotAcceptable
		}
		l.heard = append([]byte(nil), sdp...)
	}
	return l, 0
}

// mediaAddr is the address at which the other end of d sees us.
func (s *Server) mediaAddr(d edge.Dest) netip.Addr {
	if at, err := s.cfg.Edge.Local(d); err == nil && at.Transport != site.Mesh {
		if a, ok := message.Addr(at.Host); ok && !a.IsUnspecified() {
			return a
		}
	}
	return s.cfg.MediaAddr()
}

// asserted is the caller as the other node says (RFC 3325): nodes of the fleet
// are believed.
func (s *Server) asserted(view route.View, req *sip.Request) site.Party {
	name, u := req.From().DisplayName, req.From().Address
	if v := message.Get(req, "P-Asserted-Identity"); v != "" {
		if n, a, _, err := message.ParseAddress(v); err == nil {
			name, u = n, a
		}
	}
	p := route.Who(view, route.AOR(view, routeURI(u)))
	if n := message.Unquote(name); n != "" {
		p.Display = strings.Clone(n)
	}
	return p
}

// authenticate finds out which line of which device calls. When it returns
// false the request has been answered. An emergency call is taken from anybody.
func (s *Server) authenticate(tx *transaction.ServerTx, view route.View, urgent bool) (site.Party, bool) {
	req, f := tx.Request(), tx.Flow()
	aor := route.AOR(view, routeURI(req.From().Address))
	realm := route.Realm(view, aor)
	if urgent {
		return route.Who(view, aor), true
	}
	source := f.Remote.Addr().String()
	who := s.cfg.Digest.Verify(req, "Proxy-Authorization", realm, source, aor.User, 0)
	if who.Verdict != digest.OK {
		res := tx.Response(407, "")
		res.AppendHeader(sip.NewHeader("Proxy-Authenticate", s.cfg.Digest.Challenge(realm, who)))
		tx.Respond(res)
		return site.Party{}, false
	}
	for _, line := range who.Credential.Lines {
		if strings.EqualFold(line.AOR.User, aor.User) && strings.EqualFold(line.AOR.Domain, aor.Domain) && !who.Credential.Disabled {
			p := route.Who(view, line.AOR)
			p.User, p.Device = line.User, who.Credential.Device
			if line.Name != "" {
				p.Display = line.Name
			}
			return p, true
		}
	}
	s.log.Info("A call was refused: the caller's number is not a line of this device", "device", who.Credential.Device.String(), "from", aor.User)
	tx.Respond(s.refusal(tx, site.Forbidden))
	return site.Party{}, false
}
