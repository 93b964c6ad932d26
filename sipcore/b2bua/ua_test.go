package b2bua_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// A ua is a bare SIP endpoint that does what the test says.
type ua struct {
	w     *world
	user  *user
	addr  netip.AddrPort
	layer *transaction.Layer
	in    chan *transaction.ServerTx // every INVITE without To tag
	serve func(tx *transaction.ServerTx) bool
	tcp   bool // it calls over TCP

	mu    sync.Mutex
	conns []net.Conn
	log   []string
	acks  []*sip.Request
	seq   uint32
	got   map[string]*sip.Request // last request by method
}

// phone adds an endpoint for u, registered at its node over UDP.
func (w *world) phone(u *user, addr string) *ua {
	x := &ua{w: w, user: u, addr: netip.MustParseAddrPort(addr), in: make(chan *transaction.ServerTx, 8), got: map[string]*sip.Request{}}
	e, err := edge.New(edge.Config{Limits: quiet, Dial: func(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
		c, err := w.net.Dialer(x.addr.Addr().String())(ctx, to)
		x.mu.Lock()
		defer x.mu.Unlock()
		x.conns = append(x.conns, c)
		return c, err
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	e.AddPacket(w.net.UDP(addr))
	x.layer = transaction.New(transaction.Config{Edge: e, OnRequest: x.request, OnAck: func(a *sip.Request, _ *edge.Flow) {
		x.mu.Lock()
		x.acks = append(x.acks, a)
		x.mu.Unlock()
	}})
	w.run(e, x.layer)
	u.at.Bind(context.Background(), site.Binding{AOR: u.AOR, User: u.User, Device: site.RecordID{byte(x.addr.Port()), x.addr.Addr().As4()[3]},
		Contact: "sip:" + u.AOR.User + "@" + addr, Node: u.at.id, Transport: site.UDP, Source: x.addr})
	return x
}

func (x *ua) request(tx *transaction.ServerTx) {
	req := tx.Request()
	x.mu.Lock()
	x.log = append(x.log, string(req.Method))
	x.got[string(req.Method)] = req
	serve := x.serve
	x.mu.Unlock()
	tag, _ := req.To().Params.Get("tag")
	switch {
	case serve != nil && serve(tx):
	case req.Method == sip.INVITE && tag == "":
		go func() {
			select {
			case <-tx.Cancelled():
			case <-tx.Done():
				return
			case <-x.w.off:
				return
			}
			x.mu.Lock()
			x.log = append(x.log, "CANCEL "+tx.CancelReason())
			x.mu.Unlock()
		}()
		x.in <- tx
	case req.Method == sip.INVITE:
		x.answer(tx, "v=0 re"+x.user.Name)
	default:
		tx.Respond(tx.Response(200, ""))
	}
}

// behave replaces what the endpoint does with requests.
func (x *ua) behave(f func(tx *transaction.ServerTx) bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.serve = f
}

func (x *ua) saw() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return strings.Join(x.log, " ")
}

func (x *ua) contact() sip.Header {
	return &sip.ContactHeader{Address: sip.Uri{Scheme: "sip", User: x.user.AOR.User, Host: x.addr.Addr().String(), Port: int(x.addr.Port())}}
}

// answer sends a 200 with a description, or none.
func (x *ua) answer(tx *transaction.ServerTx, sdp string) {
	res := tx.Response(200, "")
	res.AppendHeader(x.contact())
	res.AppendHeader(sip.NewHeader("X-From-Callee", "kept"))
	body(res, sdp)
	if err := tx.Respond(res); err != nil {
		x.w.t.Log(x.user.Name, "cannot answer:", err)
	}
}

func body(msg sip.Message, sdp string) {
	if sdp == "" {
		msg.SetBody(nil)
		return
	}
	msg.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	msg.SetBody([]byte(sdp))
}

// A half is an endpoint's side of one call.
type half struct {
	x          *ua
	tx         *transaction.ClientTx
	req        *sip.Request
	res        *sip.Response // final
	statuses   []int
	id         string
	ours       string
	theirs     string
	target     sip.Uri
	self, peer sip.Uri
	seq        uint32
	over       chan struct{} // final response came
	mu         sync.Mutex
	noAck      bool
	ackSDP     string
}

// call sends an INVITE with sdp to a number, as the phone's user.
func (x *ua) call(number, sdp string, more ...func(*sip.Request)) *half {
	return x.callWith(nil, number, sdp, more...)
}

// callWith lets set change the half before anything is sent.
func (x *ua) callWith(set func(*half), number, sdp string, more ...func(*sip.Request)) *half {
	x.mu.Lock()
	x.seq++
	h := &half{x: x, id: fmt.Sprintf("%s-%d", x.user.Name, x.seq), ours: "t" + x.user.Name, over: make(chan struct{}), seq: 1}
	x.mu.Unlock()
	h.self = sip.Uri{Scheme: "sip", User: x.user.AOR.User, Host: domain}
	h.peer = sip.Uri{Scheme: "sip", User: number, Host: domain}
	h.target = h.peer
	req := h.request(sip.INVITE)
	body(req, sdp)
	for _, m := range more {
		m(req)
	}
	if set != nil {
		set(h)
	}
	h.send(req)
	return h
}

func (h *half) request(method sip.RequestMethod) *sip.Request {
	req := sip.NewRequest(method, h.target)
	req.AppendHeader(&sip.FromHeader{Address: h.self, Params: sip.HeaderParams{{K: "tag", V: h.ours}}})
	to := &sip.ToHeader{Address: h.peer}
	if h.theirs != "" {
		to.Params = sip.HeaderParams{{K: "tag", V: h.theirs}}
	}
	id := sip.CallIDHeader(h.id)
	mf := sip.MaxForwardsHeader(70)
	req.AppendHeader(to)
	req.AppendHeader(&id)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: h.seq, MethodName: method})
	req.AppendHeader(&mf)
	req.AppendHeader(h.x.contact())
	return req
}

func (h *half) server() edge.Dest {
	if h.x.tcp {
		return edge.Dest{Transport: site.TCP, Addr: h.x.user.at.addr}
	}
	return edge.Dest{Transport: site.UDP, Addr: h.x.user.at.addr}
}

// cutOff breaks the connections of an endpoint.
func (x *ua) cutOff() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.conns {
		c.Close()
	}
	x.conns = nil
}

// send runs the INVITE, answering one challenge, in the background.
func (h *half) send(req *sip.Request) {
	try := func(req *sip.Request) *sip.Response {
		h.mu.Lock()
		h.req, h.tx = req, h.x.layer.Request(context.Background(), req, h.server())
		tx := h.tx
		h.mu.Unlock()
		var final *sip.Response
		for res := range tx.Responses() {
			h.mu.Lock()
			h.statuses = append(h.statuses, res.StatusCode)
			h.mu.Unlock()
			if res.StatusCode < 200 || final != nil {
				continue
			}
			if final = res; res.IsSuccess() {
				h.established(tx, res)
				close(h.over)
			}
		}
		return final
	}
	go func() {
		res := try(req)
		if res != nil && res.StatusCode == 407 {
			c, err := digest.ParseChallenge(message.Get(res, "Proxy-Authenticate"))
			if err != nil {
				h.x.w.t.Error(err)
			}
			a, _ := c.Answer("INVITE", req.Recipient.String(), h.x.user.AOR.User, "pw", "c", 1)
			next := req.Clone()
			message.Remove(next, "Via")
			h.seq++
			next.CSeq().SeqNo = h.seq
			next.AppendHeader(sip.NewHeader("Proxy-Authorization", a))
			res = try(next)
		}
		if res == nil || !res.IsSuccess() {
			h.mu.Lock()
			h.res = res
			h.mu.Unlock()
			close(h.over)
		}
	}()
}

func (h *half) established(tx *transaction.ClientTx, res *sip.Response) {
	h.mu.Lock()
	h.res = res
	h.theirs, _ = res.To().Params.Get("tag")
	h.target = *res.Contact().Address.Clone()
	no, sdp := h.noAck, h.ackSDP
	h.mu.Unlock()
	if no {
		return
	}
	ack := h.request(sip.ACK)
	ack.CSeq().SeqNo = res.CSeq().SeqNo
	body(ack, sdp)
	tx.Ack(context.Background(), ack, h.server())
}

// status is the final one, waiting for it; 0 when there was none.
func (h *half) status() int {
	<-h.over
	if h.res == nil {
		return 0
	}
	return h.res.StatusCode
}

func (h *half) provisional() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprint(h.statuses)
}

// do sends a request in the dialog and returns the final response.
func (h *half) do(method sip.RequestMethod, sdp string, more ...func(*sip.Request)) *sip.Response {
	h.seq++
	req := h.request(method)
	for _, m := range more {
		m(req)
	}
	if req.Body() == nil {
		body(req, sdp)
	}
	tx := h.x.layer.Request(context.Background(), req, h.server())
	for res := range tx.Responses() {
		if res.StatusCode >= 200 {
			if method == sip.INVITE && res.IsSuccess() {
				h.established(tx, res)
			}
			return res
		}
	}
	h.x.w.t.Errorf("%s got no answer: %v", method, tx.Err())
	return sip.NewResponse(999, "none")
}

// callee is an endpoint's side of a call it has answered.
func (x *ua) callee(tx *transaction.ServerTx) *half {
	req := tx.Request()
	h := &half{x: x, id: req.CallID().Value(), ours: tx.Tag(), seq: 100, self: req.To().Address, peer: req.From().Address, target: req.Contact().Address}
	h.theirs, _ = req.From().Params.Get("tag")
	return h
}

func (h *half) cancel() {
	h.mu.Lock()
	tx := h.tx
	h.mu.Unlock()
	if tx != nil {
		tx.Cancel("")
	}
}
