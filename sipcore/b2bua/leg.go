package b2bua

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// legState is how far a dialog has come.
type legState uint8

const (
	early legState = iota // no final response to the first INVITE
	confirmed
	ended
)

func (s legState) String() string { return [...]string{"early", "confirmed", "ended"}[s] }

// A Leg is one dialog of a call (RFC 3261 §12), between this node and one
// phone or one other node, with its media port.
type Leg struct {
	// set when made, then constant
	srv         *Server
	of          atomic.Pointer[Call] // whose it is; a transfer moves it
	caller      bool                 // the first INVITE came from there
	peer        site.NodeID
	line        site.AOR      // whose phone it is, to find it again
	device      site.RecordID // which phone of theirs, zero if unknown
	nat         bool          // its contacts are not to be believed
	callID      string
	localTag    string
	local       sip.Uri        // our end in From or To
	name        string         // shown with it
	trunk       string         // it is a call to the outside by that trunk
	contactUser string         // in our Contact, if it is not local's
	public      netip.AddrPort // in our Contact, where the provider wants the address it sees; else zero
	remote      sip.Uri
	tx          *transaction.ServerTx // caller: the first INVITE

	port sipcore.Port // media; set before the leg is used, closed by the call

	sound     sync.Mutex // guards the next two; nothing else is taken under it
	hears     Sound
	stopSound func() // ends what the other end hears, nil if nothing of ours

	mu        sync.Mutex // guards what follows; only Server.mu is taken under it
	state     legState
	flow      *edge.Flow // how it speaks to us, nil if we go by its address
	remoteTag string
	target    sip.Uri   // Contact of the other end
	routes    []sip.Uri // route set
	dest      edge.Dest
	localSeq  uint32
	remoteSeq uint32
	inviting  bool // an INVITE of ours is open (glare: 491)
	invited   bool // one of theirs is
	said      []byte
	heard     []byte // newest session descriptions, ours and theirs
	updates   bool   // the other end takes UPDATE
	session   session
	unacked   map[uint32]*unacked // 2xx of ours waiting for ACK
	acks      map[uint32]*sip.Request
	closing   bool // a BYE waits for an ACK
	refers    int  // how many REFER came
	holding   bool // the other end does not want to hear, nor to be heard
}

// call is the call that the leg belongs to now.
func (l *Leg) call() *Call { return l.of.Load() }

// own makes l a leg of c.
func (l *Leg) own(c *Call) *Leg {
	l.of.Store(c)
	return l
}

// unacked is a 2xx to an INVITE that is repeated until it is acknowledged
// (RFC 3261 §13.3.1.4).
type unacked struct {
	tx    *transaction.ServerTx
	res   *sip.Response
	timer *time.Timer
	pause time.Duration
	since time.Time
	ack   chan []byte // gets the body of the ACK, or is closed
}

// learn takes the dialog state from a request or response of the other end
// (RFC 3261 §12.1, §12.2.1.2). l.mu is held.
func (l *Leg) learn(msg sip.Message, first bool) {
	headers := msg.(interface{ Headers() []sip.Header }).Headers()
	if first {
		l.routes = nil
	}
	for _, h := range headers {
		switch h := h.(type) {
		case *sip.ContactHeader:
			if !h.Address.Wildcard && (h.Address.Scheme == "sip" || h.Address.Scheme == "sips") {
				l.target = *h.Address.Clone()
			}
		case *sip.RecordRouteHeader:
			if first {
				l.routes = append(l.routes, *h.Address.Clone())
			}
		}
	}
	if _, isResponse := msg.(*sip.Response); isResponse && first {
		for i, j := 0, len(l.routes)-1; i < j; i, j = i+1, j-1 {
			l.routes[i], l.routes[j] = l.routes[j], l.routes[i]
		}
	}
	for _, m := range message.Values(msg.(interface{ Headers() []sip.Header }), "Allow") {
		if strings.EqualFold(m, "UPDATE") {
			l.updates = true
		}
	}
	l.dest = l.destination()
}

// destination is where requests in the dialog go: over the connection it uses,
// or to the next hop's address. l.mu is held.
func (l *Leg) destination() edge.Dest {
	if !l.peer.IsZero() {
		return edge.Dest{Peer: l.peer}
	}
	hop := l.target
	if len(l.routes) > 0 {
		hop = l.routes[0]
	}
	switch {
	case l.flow == nil && l.nat:
		return l.dest
	case l.flow == nil:
		return destOf(hop, l.dest, l.dest.Local)
	case l.flow.Transport != site.UDP || l.nat:
		return l.flow.Dest()
	}
	return destOf(hop, l.flow.Dest(), l.flow.Local)
}

// destOf is where the URI of a phone on the LAN points; or, if it names no
// address, or.
func destOf(u sip.Uri, or edge.Dest, local netip.AddrPort) edge.Dest {
	addr, ok := message.Addr(u.Host)
	if !ok || addr.IsUnspecified() || addr.IsMulticast() || u.Scheme != "sip" {
		return or
	}
	port := u.Port
	if port == 0 {
		port = 5060
	}
	d := edge.Dest{Transport: site.UDP, Addr: netip.AddrPortFrom(addr, uint16(port)), Local: local}
	if t, _ := u.UriParams.Get("transport"); strings.EqualFold(t, "tcp") {
		d.Transport, d.Local = site.TCP, netip.AddrPort{}
	}
	return d
}

// contact is our Contact on this leg.
func (l *Leg) contact(d edge.Dest) sip.Header {
	at, err := l.srv.cfg.Edge.Local(d)
	if err != nil {
		at = edge.Local{Transport: site.UDP, Host: "invalid"}
	}
	u := at.URI(escapeUser(cmp.Or(l.contactUser, l.local.User)))
	if l.public.IsValid() { // as in the registration of the trunk
		u.Host, u.Port = message.Host(l.public.Addr()), int(l.public.Port())
	}
	return &sip.ContactHeader{Address: u}
}

// request makes the next request in the dialog (RFC 3261 §12.2.1.1). l.mu is held.
func (l *Leg) request(method sip.RequestMethod, seq uint32) *sip.Request {
	req := sip.NewRequest(method, *l.target.Clone())
	routes := l.routes
	if len(routes) > 0 {
		if !routes[0].UriParams.Has("lr") { // a strict router
			req.Recipient = *routes[0].Clone()
			routes = append(append([]sip.Uri(nil), routes[1:]...), l.target)
		}
		for _, r := range routes {
			req.AppendHeader(&sip.RouteHeader{Address: *r.Clone()})
		}
	}
	mf := sip.MaxForwardsHeader(70)
	req.AppendHeader(&mf)
	from := &sip.FromHeader{DisplayName: l.name, Address: *l.local.Clone(), Params: sip.HeaderParams{{K: "tag", V: l.localTag}}}
	to := &sip.ToHeader{Address: *l.remote.Clone()}
	if l.remoteTag != "" {
		to.Params = sip.HeaderParams{{K: "tag", V: l.remoteTag}}
	}
	id := sip.CallIDHeader(l.callID)
	req.AppendHeader(from)
	req.AppendHeader(to)
	req.AppendHeader(&id)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: seq, MethodName: method})
	req.AppendHeader(sip.NewHeader("User-Agent", userAgent))
	return req
}

// moved notes that the other end speaks to us by f now: a phone whose
// connection broke comes back on another one.
func (l *Leg) moved(f *edge.Flow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peer.IsZero() && (l.nat || l.flow != nil && l.flow.Transport != site.UDP && f.Transport != site.UDP) {
		l.flow = f
		l.dest = l.destination()
	}
}

// reconnect looks for the connection by which a phone has registered since the
// one of the dialog broke.
func (l *Leg) reconnect() {
	l.mu.Lock()
	f, target := l.flow, l.target.String()
	l.mu.Unlock()
	if f == nil || f.Closed() == nil {
		return
	}
	select {
	case <-f.Closed():
	default:
		return
	}
	for _, b := range l.srv.cfg.Location.Bindings(l.line) {
		if b.Contact != target && (l.device.IsZero() || b.Device != l.device) || b.Flow == "" || b.Node != l.srv.cfg.Node {
			continue
		}
		if f := l.srv.cfg.Edge.Flow(b.Flow); f != nil {
			l.moved(f)
			return
		}
	}
}

// next makes the next request and says where it goes; not for INVITE.
func (l *Leg) next(method sip.RequestMethod) (*sip.Request, edge.Dest, error) {
	l.reconnect()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != confirmed {
		return nil, edge.Dest{}, ErrOver
	}
	l.localSeq++
	return l.request(method, l.localSeq), l.dest, nil
}

// maxAcks is how many ACKs a leg keeps for 2xx that come again.
const maxAcks = 4

// ack acknowledges a 2xx to our INVITE with number seq.
func (l *Leg) ack(tx *transaction.ClientTx, res *sip.Response, sdp []byte) {
	l.mu.Lock()
	seq := res.CSeq().SeqNo
	ack := l.request(sip.ACK, seq)
	if tag, ok := res.To().Params.Get("tag"); ok {
		to := ack.To()
		to.Params = sip.HeaderParams{{K: "tag", V: tag}}
	}
	setSDP(ack, sdp)
	d := l.dest
	if l.acks == nil {
		l.acks = map[uint32]*sip.Request{}
	}
	l.acks[seq] = ack
	for len(l.acks) > maxAcks {
		delete(l.acks, slices.Min(slices.Collect(maps.Keys(l.acks))))
	}
	l.mu.Unlock()
	if err := tx.Ack(context.Background(), ack, d); err != nil {
		l.srv.log.Warn("ACK not sent", "call", l.call().Chain(), "to", d.String(), "err", err)
	}
}

// bye ends the dialog. It does not wait; what becomes of the BYE changes
// nothing. An answer of ours that waits for its ACK keeps the BYE back
// (RFC 3261 §15).
func (l *Leg) bye(c site.Cause) {
	l.reconnect()
	l.mu.Lock()
	if l.state != confirmed || l.closing {
		l.mu.Unlock()
		return
	}
	l.session.stop()
	for _, u := range l.unacked {
		l.closing = true
		l.mu.Unlock()
		l.srv.spawn(func() { // ends with the ACK, with the last repetition, or with the server
			closing := false
			select {
			case <-u.ack:
			case <-l.srv.done:
				closing = true
			}
			l.mu.Lock()
			l.closing = false
			if closing && l.state != ended { // nobody will be here for the ACK
				l.forgive()
			}
			l.mu.Unlock()
			l.bye(c)
		})
		return
	}
	l.localSeq++
	req, d := l.request(sip.BYE, l.localSeq), l.dest
	l.over()
	l.mu.Unlock()
	req.AppendHeader(sip.NewHeader("Reason", reason(c)))
	req.SetBody(nil)
	l.srv.send(req, d)
}

// over marks the leg as ended and stops its timers. l.mu is held.
func (l *Leg) over() {
	l.state = ended
	l.session.stop()
	l.forgive()
	l.srv.forget(l)
}

// forgive waits for no ACK any more. l.mu is held.
func (l *Leg) forgive() {
	for _, u := range l.unacked {
		u.timer.Stop()
		close(u.ack)
	}
	l.unacked = nil
}

// gone is over for a dialog that the other end has ended, or that never was.
func (l *Leg) gone() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != ended {
		l.over()
	}
}

// answer sends a 2xx to an INVITE of the other end and repeats it until it is
// acknowledged; if it never is, the call ends. l.mu is held.
func (l *Leg) answer(tx *transaction.ServerTx, res *sip.Response) (*unacked, error) {
	if err := tx.Respond(res); err != nil {
		return nil, err
	}
	u := &unacked{tx: tx, res: res, pause: transaction.T1, since: l.srv.cfg.Now(), ack: make(chan []byte, 1)}
	seq := res.CSeq().SeqNo
	u.timer = time.AfterFunc(u.pause, func() { l.again(seq, u) })
	if l.unacked == nil {
		l.unacked = map[uint32]*unacked{}
	}
	l.unacked[seq] = u
	return u, nil
}

func (l *Leg) again(seq uint32, u *unacked) {
	l.mu.Lock()
	if l.unacked[seq] != u {
		l.mu.Unlock()
		return
	}
	late := l.srv.cfg.Now().Sub(u.since) >= 64*transaction.T1
	if late {
		delete(l.unacked, seq)
		close(u.ack)
	} else {
		u.pause = min(2*u.pause, transaction.T2)
		u.timer.Reset(u.pause)
	}
	l.mu.Unlock()
	if late {
		l.srv.log.Info("Call ended: the answer was never acknowledged", "call", l.call().Chain(), "leg", l.remote.User)
		l.call().end(site.Failure)
		return
	}
	if err := u.tx.Respond(u.res); err != nil {
		l.srv.log.Debug("Answer not repeated", "call", l.call().Chain(), "err", err)
	}
}

// acknowledged takes an ACK of the other end.
func (l *Leg) acknowledged(ack *sip.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seq := ack.CSeq().SeqNo
	u := l.unacked[seq]
	if u == nil {
		return
	}
	delete(l.unacked, seq)
	u.timer.Stop()
	sdp, _ := sdpOf(ack)
	u.ack <- append([]byte(nil), sdp...)
	close(u.ack)
	l.invited = false
}
