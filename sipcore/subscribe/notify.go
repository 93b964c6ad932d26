package subscribe

import (
	"bytes"
	"context"
	"fmt"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// A subscription is one dialog of a phone (RFC 6665 §4.2).
type subscription struct {
	// set when made, then constant
	pkg       Package
	device    site.RecordID
	line      sipcore.Line
	id        dialog
	event     string // Event header as asked, with its id
	remoteTag string
	local     sip.Uri
	remote    sip.Uri
	flow      *edge.Flow
	nat       bool
	timer     *time.Timer

	mu      sync.Mutex // guards what follows; taken after Server.mu
	seq     uint32     // of ours
	theirs  uint32
	target  sip.Uri
	routes  []sip.Uri
	until   time.Time
	busy    bool // a NOTIFY is under way
	again   bool // and another is due
	force   bool // even if nothing changed
	over    string
	ended   bool // the last NOTIFY was sent
	sent    []byte
	sentAny bool
	left    int       // NOTIFYs of changes that may go at once
	filled  time.Time // when left was worked out

	wake chan struct{} // holds a token when a SUBSCRIBE must be answered now
}

// burst is how many changes in a row are told at once; later ones are told
// together, once each refill (RFC 3842 §3.10, RFC 6665 §4.2.2: a bound on rate).
const (
	burst  = 5
	refill = time.Second
)

// pace waits until a change may be told, and takes one from left. It returns
// false when the server closes.
func (s *Server) pace(x *subscription) bool {
	for {
		now := s.cfg.Now()
		x.mu.Lock()
		if n := int(now.Sub(x.filled) / refill); n > 0 {
			x.left, x.filled = min(burst, x.left+n), x.filled.Add(time.Duration(n)*refill)
		}
		if x.force || x.left > 0 {
			if !x.force {
				x.left--
			}
			x.mu.Unlock()
			return true
		}
		wait := x.filled.Add(refill).Sub(now)
		x.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-x.wake:
			t.Stop()
		case <-s.done:
			t.Stop()
			return false
		}
	}
}

// subscribe makes a subscription and answers with 200 and a NOTIFY.
func (s *Server) subscribe(tx *transaction.ServerTx, pkg Package, who sipcore.Credential) {
	req := tx.Request()
	line, status, reason := s.line(req, pkg, who)
	if status != 0 {
		tx.Respond(tx.Response(status, reason))
		return
	}
	c := req.Contact()
	if c == nil || c.Address.Wildcard {
		tx.Respond(tx.Response(400, "Contact Missing"))
		return
	}
	d, ok := s.wish(tx)
	if !ok {
		return
	}
	f := tx.Flow()
	at, isAddr := message.Addr(c.Address.Host)
	x := &subscription{pkg: pkg, device: who.Device, line: line, id: dialog{strings.Clone(req.CallID().Value()), tx.Tag()},
		event: strings.Clone(message.Get(req, "Event")), local: *req.To().Address.Clone(), remote: *req.From().Address.Clone(),
		flow: f, nat: !isAddr || at != f.Remote.Addr().Unmap(), theirs: req.CSeq().SeqNo, target: *c.Address.Clone(), routes: message.RouteSet(req),
		left: burst, filled: s.cfg.Now(), wake: make(chan struct{}, 1)}
	x.remoteTag, _ = req.From().Params.Get("tag")
	x.timer = time.AfterFunc(time.Hour, func() { s.expire(x) })
	x.timer.Stop()
	if !s.keep(x) {
		tx.Respond(tx.Response(403, "Too Many Subscriptions"))
		return
	}
	f.Keep()
	s.grant(tx, x, d)
}

// keep stores x unless the device or the node has too many. A phone that lost
// its memory subscribes anew: its oldest subscription of that kind gives way.
func (s *Server) keep(x *subscription) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.subs) >= s.cfg.Total {
		return false
	}
	n := 0
	var oldest *subscription
	var first time.Time
	for _, y := range s.subs {
		if y.device != x.device {
			continue
		}
		n++
		if y.pkg != x.pkg || y.line.AOR != x.line.AOR {
			continue
		}
		y.mu.Lock()
		until := y.until
		y.mu.Unlock()
		if oldest == nil || until.Before(first) {
			oldest, first = y, until
		}
	}
	if n >= s.cfg.PerDevice {
		if oldest == nil {
			return false
		}
		oldest.timer.Stop()
		s.remove(oldest)
	}
	s.add(x)
	return true
}

// refresh takes a SUBSCRIBE in the dialog; with Expires 0 it is the last.
func (s *Server) refresh(tx *transaction.ServerTx, x *subscription, who sipcore.Credential) {
	req := tx.Request()
	if who.Device != x.device {
		tx.Respond(tx.Response(403, ""))
		return
	}
	d, ok := s.wish(tx)
	if !ok {
		return
	}
	x.mu.Lock()
	seq := req.CSeq().SeqNo
	if seq <= x.theirs {
		x.mu.Unlock()
		tx.Respond(tx.Response(500, "CSeq Out Of Order"))
		return
	}
	x.theirs = seq
	if c := req.Contact(); c != nil && !c.Address.Wildcard {
		x.target = *c.Address.Clone()
	}
	x.mu.Unlock()
	s.grant(tx, x, d)
}

// grant answers 200 and sends the state; an expiry of 0 ends it.
func (s *Server) grant(tx *transaction.ServerTx, x *subscription, d time.Duration) {
	x.mu.Lock()
	x.until = s.cfg.Now().Add(d)
	if d == 0 {
		x.over = "timeout" // RFC 6665 §4.2.1.4
	}
	x.timer.Stop()
	if d > 0 {
		x.timer.Reset(d)
	}
	x.mu.Unlock()
	res := tx.Response(200, "")
	res.AppendHeader(sip.NewHeader("Expires", strconv.Itoa(int(d/time.Second))))
	if at, err := s.cfg.Edge.Local(tx.Flow().Dest()); err == nil {
		res.AppendHeader(&sip.ContactHeader{Address: at.URI(x.local.User)})
	}
	if err := tx.Respond(res); err != nil {
		s.log.Debug("Subscription not confirmed", "err", err)
	}
	s.notify(x, true)
}

// expire ends a subscription that was not refreshed.
func (s *Server) expire(x *subscription) {
	x.mu.Lock()
	x.over = "timeout"
	x.mu.Unlock()
	s.notify(x, true)
}

func (s *Server) forget(x *subscription) {
	x.timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(x)
}

// notify sends the state as soon as no other NOTIFY is under way. force sends
// it though the phone was told the same before.
func (s *Server) notify(x *subscription, force bool) {
	x.mu.Lock()
	x.force = x.force || force
	if force {
		select {
		case x.wake <- struct{}{}:
		default:
		}
	}
	if x.busy || x.ended {
		x.again = true
		x.mu.Unlock()
		return
	}
	x.busy = true
	x.mu.Unlock()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.running++
	s.mu.Unlock()
	go func() { // ends when the phone has been told everything, or with the server
		defer func() {
			if r := recover(); r != nil {
				s.log.Error("A subscription panicked and is forgotten", "aor", x.line.AOR.String(), "err", fmt.Sprint(r), "stack", string(debug.Stack()))
				s.forget(x)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.running--; s.running == 0 {
				s.idle.Broadcast()
			}
		}()
		for s.send(x) {
		}
	}()
}

// send sends one NOTIFY if one is due, and says whether another is.
func (s *Server) send(x *subscription) bool {
	if !s.pace(x) {
		return false
	}
	x.mu.Lock()
	x.again = false // before State is asked, so that no change is missed
	x.mu.Unlock()
	body := x.pkg.State(x.line)
	x.mu.Lock()
	if x.sentAny && !x.force && bytes.Equal(body, x.sent) {
		defer x.mu.Unlock()
		x.busy = x.again && !x.ended // it changed while State was asked
		return x.busy
	}
	x.force = false
	x.seq++
	left := max(0, int(x.until.Sub(s.cfg.Now())/time.Second))
	state := "active;expires=" + strconv.Itoa(left)
	last := x.over != ""
	if last {
		state = "terminated;reason=" + x.over
	}
	req := sip.NewRequest(sip.NOTIFY, *x.target.Clone())
	message.SetRoutes(req, *x.target.Clone(), x.routes)
	mf := sip.MaxForwardsHeader(70)
	id := sip.CallIDHeader(x.id.callID)
	req.AppendHeader(&mf)
	req.AppendHeader(&sip.FromHeader{Address: *x.local.Clone(), Params: sip.HeaderParams{{K: "tag", V: x.id.localTag}}})
	req.AppendHeader(&sip.ToHeader{Address: *x.remote.Clone(), Params: sip.HeaderParams{{K: "tag", V: x.remoteTag}}})
	req.AppendHeader(&id)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: x.seq, MethodName: sip.NOTIFY})
	d := x.dest()
	x.ended = last
	x.sent, x.sentAny = body, true
	x.mu.Unlock()
	if at, err := s.cfg.Edge.Local(d); err == nil {
		req.AppendHeader(&sip.ContactHeader{Address: at.URI(x.local.User)})
	}
	req.AppendHeader(sip.NewHeader("Event", x.event))
	req.AppendHeader(sip.NewHeader("Subscription-State", state))
	req.AppendHeader(sip.NewHeader("User-Agent", "ccnode"))
	req.AppendHeader(sip.NewHeader("Content-Type", x.pkg.Type()))
	if n, ok := x.pkg.(Numbered); ok {
		body = n.Number(body, req.CSeq().SeqNo-1)
	}
	req.SetBody(body)
	if last {
		s.forget(x)
	}
	if !s.deliver(x, req, d) {
		s.forget(x)
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.busy = x.again && !x.ended
	return x.busy
}

// deliver sends a NOTIFY and says whether the phone still wants more
// (RFC 6665 §4.2.2: failures end the subscription).
func (s *Server) deliver(x *subscription, req *sip.Request, d edge.Dest) bool {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tx := s.layer.Request(ctx, req, d)
	for {
		select {
		case <-s.done:
			return false
		case res, ok := <-tx.Responses():
			switch {
			case !ok:
				s.log.Info("A phone was not told and is forgotten", "aor", x.line.AOR.String(), "to", d.String(), "err", tx.Err())
				return false
			case res.IsProvisional():
			case res.IsSuccess(), res.StatusCode >= 500 && message.Get(res, "Retry-After") != "":
				return true
			default:
				return false
			}
		}
	}
}

// dest is where the phone is. x.mu is held.
func (x *subscription) dest() edge.Dest {
	if x.flow.Transport != site.UDP || x.nat {
		return x.flow.Dest()
	}
	hop := x.target
	if len(x.routes) > 0 {
		hop = x.routes[0]
	}
	if to, err := edge.Target(context.Background(), &hop, nil); err == nil {
		if to[0].Transport == site.UDP {
			to[0].Local = x.flow.Local
		}
		return to[0]
	}
	return x.flow.Dest()
}
