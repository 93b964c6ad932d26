package phonetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// A peer is the other end of a phone, played by the test message by message.
type peer struct {
	t    *testing.T
	l    *transaction.Layer
	at   edge.Local
	addr netip.AddrPort
	reqs chan *transaction.ServerTx
	acks chan *sip.Request
	seq  uint32
}

func newPeer(t *testing.T) *peer {
	e, err := edge.New(edge.Config{Listen: []edge.Listen{{Transport: site.UDP, Addr: netip.MustParseAddrPort("127.0.0.1:0")}}})
	ok(t, err)
	ok(t, e.Listen())
	p := &peer{t: t, reqs: make(chan *transaction.ServerTx, 16), acks: make(chan *sip.Request, 16)}
	p.l = transaction.New(transaction.Config{Edge: e, OnRequest: func(tx *transaction.ServerTx) { p.reqs <- tx }, OnAck: func(a *sip.Request, _ *edge.Flow) { p.acks <- a }})
	p.addr = e.Addrs()[0].Addr
	p.at = edge.Local{Transport: site.UDP, Host: "127.0.0.1", Port: int(p.addr.Port())}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); e.Serve(ctx, p.l) }()
	t.Cleanup(func() { cancel(); <-over; p.l.Wait() })
	return p
}

func (p *peer) uri() string { u := p.at.URI("peer"); return u.String() }

func (p *peer) next(method sip.RequestMethod) *transaction.ServerTx {
	p.t.Helper()
	select {
	case tx := <-p.reqs:
		if tx.Request().Method != method {
			p.t.Fatalf("got %s, want %s", tx.Request().Method, method)
		}
		return tx
	case <-time.After(5 * time.Second):
		p.t.Fatalf("no %s comes", method)
		return nil
	}
}

func (p *peer) ack() *sip.Request {
	p.t.Helper()
	select {
	case a := <-p.acks:
		return a
	case <-time.After(5 * time.Second):
		p.t.Fatal("no ACK comes")
		return nil
	}
}

// answer is a 200 with a session description.
func (p *peer) answer(tx *transaction.ServerTx, sdp string) *sip.Response {
	res := tx.Response(200, "")
	res.AppendHeader(&sip.ContactHeader{Address: p.at.URI("peer")})
	setSDP(res, []byte(sdp))
	return res
}

func sdpAt(port int, more string) string {
	return fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio %d RTP/AVP 0\r\n%s", port, more)
}

// send sends a request to ph: in the dialog of c, if it is not nil.
func (p *peer) send(ph *Phone, c *Call, method sip.RequestMethod, sdp string, more ...sip.Header) *transaction.ClientTx {
	p.seq++
	to := ph.contact()
	req := sip.NewRequest(method, to)
	from, toH := &sip.FromHeader{Address: p.at.URI("peer"), Params: sip.HeaderParams{{K: "tag", V: "p"}}}, &sip.ToHeader{Address: to}
	id := sip.CallIDHeader(fmt.Sprintf("raw-%d", p.seq))
	if c != nil {
		c.mu.Lock()
		id = sip.CallIDHeader(c.dlg.callID)
		from.Params[0].V = c.dlg.remoteTag
		toH.Params = sip.HeaderParams{{K: "tag", V: c.dlg.localTag}}
		p.seq = max(p.seq, c.dlg.remoteSeq+1)
		c.mu.Unlock()
	}
	mf := sip.MaxForwardsHeader(70)
	for _, h := range []sip.Header{from, toH, &id, &sip.CSeqHeader{SeqNo: p.seq, MethodName: method}, &mf, &sip.ContactHeader{Address: p.at.URI("peer")}} {
		req.AppendHeader(h)
	}
	for _, h := range more {
		req.AppendHeader(h)
	}
	if sdp == "" {
		req.SetBody(nil)
	} else {
		setSDP(req, []byte(sdp))
	}
	return p.l.Request(p.t.Context(), req, edge.Dest{Transport: site.UDP, Addr: ph.Addr()})
}

func (p *peer) final(tx *transaction.ClientTx) *sip.Response {
	p.t.Helper()
	for {
		select {
		case res, open := <-tx.Responses():
			if !open {
				p.t.Fatal(tx.Err())
			}
			if res.StatusCode >= 200 {
				return res
			}
		case <-time.After(5 * time.Second):
			p.t.Fatal("no answer")
		}
	}
}

// called is a call from ph that p has answered.
func called(t *testing.T, ph *Phone, p *peer) *Call {
	t.Helper()
	c, err := ph.DialStart(within(t, 5*time.Second), p.uri())
	ok(t, err)
	tx := p.next(sip.INVITE)
	stop := tx.Accept(p.answer(tx, sdpAt(9, "")), nil)
	p.ack()
	stop()
	ok(t, c.WaitAnswered(within(t, 5*time.Second)))
	return c
}

func TestEveryMethodIsAnswered(t *testing.T) {
	t.Parallel()
	ph, p := phone(t, Config{User: "201"}), newPeer(t)
	c := called(t, ph, p)
	for _, x := range []struct {
		method sip.RequestMethod
		in     *Call
		want   int
	}{{sip.OPTIONS, nil, 200}, {sip.OPTIONS, c, 200}, {sip.INFO, c, 200}, {sip.UPDATE, c, 200}, {sip.INFO, nil, 481}, {sip.BYE, nil, 481},
		{sip.NOTIFY, nil, 481}, {sip.REFER, c, 400}, {sip.SUBSCRIBE, c, 405}, {sip.MESSAGE, nil, 200}, {sip.MESSAGE, c, 405}, {sip.PRACK, c, 405}} {
		res := p.final(p.send(ph, x.in, x.method, "", sip.NewHeader("Event", "message-summary")))
		if res.StatusCode != x.want {
			t.Errorf("%s, in a call: %v: got %d, want %d", x.method, x.in != nil, res.StatusCode, x.want)
		}
		if x.want == 405 && message.Get(res, "Allow") == "" {
			t.Errorf("%s: 405 without Allow", x.method)
		}
	}
	if res := p.final(p.send(ph, c, sip.BYE, "")); res.StatusCode != 200 {
		t.Errorf("BYE: %d", res.StatusCode)
	}
	<-c.Done()
	if res := p.final(p.send(ph, c, sip.BYE, "")); res.StatusCode != 481 {
		t.Errorf("a second BYE: %d", res.StatusCode)
	}
}

func TestOffersAndAnswers(t *testing.T) {
	t.Parallel()
	ph, p := phone(t, Config{User: "201"}), newPeer(t)
	c := called(t, ph, p)
	ack := func(tx *transaction.ClientTx, res *sip.Response, sdp string) {
		a := sip.NewRequest(sip.ACK, ph.contact())
		id := sip.CallIDHeader(res.CallID().Value())
		for _, h := range []sip.Header{res.From(), res.To(), &id, &sip.CSeqHeader{SeqNo: res.CSeq().SeqNo, MethodName: sip.ACK}} {
			a.AppendHeader(sip.HeaderClone(h))
		}
		a.SetBody(nil)
		if sdp != "" {
			setSDP(a, []byte(sdp))
		}
		ok(t, tx.Ack(t.Context(), a, edge.Dest{Transport: site.UDP, Addr: ph.Addr()}))
	}
	for _, x := range []struct{ offer, want string }{
		{sdpAt(9, "a=sendonly\r\n"), "a=recvonly"},
		{sdpAt(9, "a=recvonly\r\n"), "a=sendonly"},
		{sdpAt(9, "a=inactive\r\n"), "a=inactive"},
		{strings.Replace(sdpAt(9, ""), "c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0", 1), "a=inactive"},
		{sdpAt(9, "m=video 8 RTP/AVP 96\r\na=sendonly\r\n"), "m=video 0 RTP/AVP 96"},
		{sdpAt(9, ""), "a=sendrecv"},
	} {
		tx := p.send(ph, c, sip.INVITE, x.offer)
		res := p.final(tx)
		if res.StatusCode != 200 || !strings.Contains(string(res.Body()), x.want+"\r\n") {
			t.Errorf("%q answered %d %q", x.offer, res.StatusCode, res.Body())
		}
		// Not acknowledged yet: a new offer must wait.
		if r := p.final(p.send(ph, c, sip.INVITE, x.offer)); r.StatusCode != 500 || message.Get(r, "Retry-After") == "" {
			t.Errorf("a new offer before the ACK: %d", r.StatusCode)
		}
		ack(tx, res, "")
		for waiting := true; waiting; {
			c.mu.Lock()
			waiting = len(c.accepted) > 0
			c.mu.Unlock()
			runtime.Gosched()
		}
	}
	if res := p.final(p.send(ph, c, sip.INVITE, strings.Replace(sdpAt(9, ""), "AVP 0", "AVP 9", 1))); res.StatusCode != 488 {
		t.Errorf("no common codec: %d", res.StatusCode)
	}
	if res := p.final(p.send(ph, c, sip.UPDATE, sdpAt(9, "a=sendonly\r\n"))); res.StatusCode != 200 || !strings.Contains(string(res.Body()), "a=recvonly") {
		t.Errorf("UPDATE: %d %q", res.StatusCode, res.Body())
	}
	// Without an offer: the 200 brings ours, the ACK their answer.
	tx := p.send(ph, c, sip.INVITE, "")
	res := p.final(tx)
	if !strings.Contains(string(res.Body()), "telephone-event") {
		t.Fatalf("no offer in the answer: %q", res.Body())
	}
	ack(tx, res, sdpAt(4321, ""))
	for deadline := time.Now().Add(5 * time.Second); c.RemoteMedia().Port() != 4321; {
		if time.Now().After(deadline) {
			t.Fatalf("media goes to %v", c.RemoteMedia())
		}
	}
	// Glare (RFC 3261 §14.1): an offer while theirs is open, and the other way.
	done := make(chan error, 1)
	go func() { done <- c.Hold(within(t, 10*time.Second)) }()
	mine := p.next(sip.INVITE)
	if res := p.final(p.send(ph, c, sip.INVITE, sdpAt(9, ""))); res.StatusCode != 491 {
		t.Errorf("glare: %d", res.StatusCode)
	}
	mine.Respond(mine.Response(491, ""))
	mine = p.next(sip.INVITE)
	stop := mine.Accept(p.answer(mine, sdpAt(9, "a=recvonly\r\n")), nil)
	defer stop()
	ok(t, <-done)
}

func TestAnswersAreRepeatedUntilAcknowledged(t *testing.T) {
	t.Parallel()
	ph, p := phone(t, Config{User: "201"}), newPeer(t)
	tx := p.send(ph, nil, sip.INVITE, sdpAt(9, ""))
	in := call(t, ph)
	go in.Answer(within(t, 8*time.Second))
	repeats := 0
	p.final(tx)
	for repeats < 2 {
		select {
		case r, open := <-tx.Responses():
			if !open {
				t.Fatal("the transaction ended")
			}
			if r.StatusCode == 200 {
				repeats++
			}
		case <-time.After(4 * time.Second):
			t.Fatal("the 200 is not repeated")
		}
	}
}

// A proxy may have rung several phones, and two may answer: the second is
// acknowledged and ended (RFC 3261 §13.2.2.4).
func TestSecondAnswerIsEnded(t *testing.T) {
	t.Parallel()
	ph, p := phone(t, Config{User: "201"}), newPeer(t)
	c, err := ph.DialStart(t.Context(), p.uri())
	ok(t, err)
	tx := p.next(sip.INVITE)
	first := p.answer(tx, sdpAt(9, ""))
	ok(t, tx.Respond(first))
	p.ack()
	second := p.answer(tx, sdpAt(11, ""))
	second.To().Params = sip.HeaderParams{{K: "tag", V: "other"}}
	ok(t, tx.Respond(second))
	if tag := p.ack().To().Params.GetOr("tag", ""); tag != "other" {
		t.Errorf("acknowledged %q", tag)
	}
	bye := p.next(sip.BYE)
	if tag := bye.Request().To().Params.GetOr("tag", ""); tag != "other" {
		t.Errorf("ended %q", tag)
	}
	bye.Respond(bye.Response(200, ""))
	select {
	case <-c.Done():
		t.Error("the first call ended")
	default:
	}
}

// A call that is answered in the moment the caller hangs up is acknowledged
// and ended.
func TestAnswerAndCancelCross(t *testing.T) {
	t.Parallel()
	ph, p := phone(t, Config{User: "201"}), newPeer(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	lost := errors.New("patience lost")
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := ph.Dial(ctx, p.uri()); !errors.Is(err, lost) {
			t.Errorf("dial: %v", err)
		}
	})
	tx := p.next(sip.INVITE)
	ok(t, tx.Respond(tx.Response(180, "")))
	cancel(lost)
	<-tx.Cancelled()
	wg.Wait()
	ok(t, tx.Respond(p.answer(tx, sdpAt(9, ""))))
	p.ack()
	bye := p.next(sip.BYE)
	bye.Respond(bye.Response(200, ""))
}
