package trunk_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge/edgetest"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
	"carrierclass.net/ccnode/sipcore/trunk"
)

// build makes the INVITE that an Outgoing asks for, as its user would.
func build(o trunk.Outgoing, seq uint32, more ...sip.Header) *sip.Request {
	req := sip.NewRequest(sip.INVITE, *o.URI.Clone())
	mf := sip.MaxForwardsHeader(70)
	req.AppendHeader(&mf)
	from := *o.From
	from.Params = sip.HeaderParams{{K: "tag", V: "ours"}}
	req.AppendHeader(&from)
	req.AppendHeader(sip.HeaderClone(o.To))
	id := sip.CallIDHeader("call-1")
	req.AppendHeader(&id)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: seq, MethodName: sip.INVITE})
	req.AppendHeader(&sip.ContactHeader{Address: sip.Uri{Scheme: "sip", User: o.User, Host: "192.168.1.2", Port: 5060}})
	for _, h := range append(o.Headers, more...) {
		req.AppendHeader(h)
	}
	req.SetBody(nil)
	return req
}

// place sends a call through the trunks in order, as the call model says, and
// returns the trunk that took it.
func place(ctx context.Context, w *world, names []string, call trunk.Call) (by string, status int, tried []string) {
	for _, name := range names {
		o, err := w.tr.Outgoing(name, call)
		if err != nil {
			continue
		}
		tried = append(tried, name)
		req := build(o, 1)
		for seq := uint32(2); ; seq++ {
			res, err := final(ctx, w, req, o)
			if res != nil {
				status = res.StatusCode
			}
			what := trunk.Next
			if err == nil {
				what = trunk.Classify(status, nil, call.Emergency)
			}
			if what == trunk.Challenge {
				if h, err := w.tr.Authorize(name, req, res); err == nil {
					req = build(o, seq, h)
					continue
				}
				what = trunk.Next
			}
			if what == trunk.Answered || what == trunk.Final {
				return name, status, tried
			}
			break
		}
	}
	return "", status, tried
}

func final(ctx context.Context, w *world, req *sip.Request, o trunk.Outgoing) (*sip.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, trunk.ReplyWithin)
	defer cancel()
	tx := w.shop.l.Request(ctx, req, o.Dests[0])
	for {
		select {
		case res, ok := <-tx.Responses():
			if !ok {
				return nil, tx.Err()
			}
			if !res.IsProvisional() {
				return res, nil
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// A call goes past a silent trunk and one that is out of order to the provider
// that takes it; a busy telephone is the end of it, except for 112.
func TestCallGoesToTheNextTrunk(t *testing.T) {
	within(t, nil, func(w *world) {
		status := 200
		var got *sip.Request
		w.p.intercept = func(tx *transaction.ServerTx) bool {
			req := tx.Request()
			if req.Method != sip.INVITE {
				return false
			}
			v := message.Get(req, "Proxy-Authorization")
			c, err := digest.ParseCredentials(v)
			if err != nil {
				res := tx.Response(407, "")
				res.AppendHeader(sip.NewHeader("Proxy-Authenticate", digest.Challenge{Realm: "sip.example", Nonce: "inv", Algorithm: "MD5", QOPAuth: true}.Header()))
				tx.Respond(res)
				return true
			}
			if c.Nonce != "inv" || c.URI != req.Recipient.String() {
				t.Errorf("credentials %s", v)
			}
			got = req
			tx.Respond(tx.Response(status, ""))
			return true
		}
		broken := newEnd(t, w.net, "203.0.113.6:5060", func(tx *transaction.ServerTx) { tx.Respond(tx.Response(503, "")) })
		defer broken.stop()
		w.use(account(), trunk.Trunk{Name: "silent", Server: "203.0.113.7"}, trunk.Trunk{Name: "broken", Server: "203.0.113.6"},
			trunk.Trunk{Name: "refused", Server: "203.0.113.8", Transport: site.TCP}, trunk.Trunk{Name: "gateway", Via: trunk.LAN, Server: "203.0.113.6"})
		names := []string{"silent", "broken", "refused", "nobody", "provider", "gateway"}
		begin := time.Now()
		by, code, tried := place(w.t.Context(), w, names, trunk.Call{Dialled: "+33612345678", Number: "+33472001305"})
		if by != "provider" || code != 200 || strings.Join(tried, " ") != "silent broken refused provider" {
			t.Errorf("%s %d %v", by, code, tried)
		}
		if d := time.Since(begin); d > 4100*time.Millisecond {
			t.Errorf("took %s", d)
		}
		if got == nil || got.From().Address.User != "+33472001305" || got.CSeq().SeqNo != 2 {
			t.Errorf("%v", got)
		}
		status = 486
		if by, code, tried := place(w.t.Context(), w, names[4:], trunk.Call{Dialled: "+33612345678"}); by != "provider" || code != 486 || len(tried) != 1 {
			t.Errorf("busy: %s %d %v", by, code, tried)
		}
		if by, _, tried := place(w.t.Context(), w, names[4:], trunk.Call{Dialled: "112", Emergency: true}); by != "" || len(tried) != 2 {
			t.Errorf("112 while busy: %s %v", by, tried)
		}
	})
}

// A proxy that asks for a password of its own, before the registrar does.
func TestTwoChallenges(t *testing.T) {
	within(t, func(w *world) {
		w.p.oneTime = true
		n := 0
		w.p.intercept = func(tx *transaction.ServerTx) bool {
			if c, err := digest.ParseCredentials(message.Get(tx.Request(), "Proxy-Authorization")); err == nil && c.Realm == "proxy" {
				return false
			}
			n++
			res := tx.Response(407, "")
			res.AppendHeader(sip.NewHeader("Proxy-Authenticate", digest.Challenge{Realm: "proxy", Nonce: "p", Algorithm: "MD5", QOPAuth: true}.Header()))
			tx.Respond(res)
			return true
		}
	}, func(w *world) {
		w.use(account())
		w.want(trunk.Registered)
		sleep(10 * time.Minute)
		w.want(trunk.Registered)
	})
}

// A fifth of all datagrams is lost, and the shop stays registered nearly all
// the time.
func TestLoss(t *testing.T) {
	within(t, func(w *world) { w.net.Fate = edgetest.Random(7, 0.2, 200*time.Millisecond) }, func(w *world) {
		w.use(account())
		up := 0
		const steps = 360
		for range steps {
			sleep(10 * time.Second)
			if w.state().Usable(time.Now()) {
				up++
			}
		}
		if up < steps*99/100 {
			t.Errorf("registered %d of %d times looked at", up, steps)
		}
		if n := len(w.p.bindings); n != 1 {
			t.Errorf("%d bindings", n)
		}
	})
}

// Both nodes of a pair register one account; each minds its own contact.
func TestPair(t *testing.T) {
	within(t, func(w *world) {
		w.p.listing = func(_ *sip.Request, own *sip.ContactHeader) (all []*sip.ContactHeader) {
			for uri, expires := range w.p.bindings {
				_, u, _, _ := message.ParseAddress("<" + uri + ">")
				if uri != own.Address.String() {
					expires = 3600
				}
				all = append(all, &sip.ContactHeader{Address: u, Params: sip.HeaderParams{{K: "expires", V: strconv.Itoa(expires)}}})
			}
			return all
		}
	}, func(w *world) {
		other := newEnd(t, w.net, "192.168.1.3:5060", func(tx *transaction.ServerTx) { tx.Respond(tx.Response(501, "")) })
		defer other.stop()
		tr, err := trunk.New(trunk.Config{Layer: other.l, Edge: other.e, Plan: france, Node: "b"})
		if err != nil {
			t.Fatal(err)
		}
		w.use(account())
		if err := tr.Set([]trunk.Trunk{account()}); err != nil {
			t.Fatal(err)
		}
		sleep(5 * time.Minute)
		for _, tr := range []*trunk.Trunks{w.tr, tr} {
			s, _ := tr.State("provider")
			if s.Phase != trunk.Registered || s.Others != 1 || s.ALG || time.Until(s.Until) > 120*time.Second {
				t.Errorf("%+v", s)
			}
		}
		if err := tr.Close(w.t.Context()); err != nil {
			t.Error(err)
		}
		if len(w.p.bindings) != 1 {
			t.Errorf("%v", w.p.bindings)
		}
		w.want(trunk.Registered)
	})
}

func TestSetRefuses(t *testing.T) {
	within(t, nil, func(w *world) {
		w.use(account())
		for name, change := range map[string]func(*trunk.Trunk){
			"no name":         func(t *trunk.Trunk) { t.Name = "" },
			"no server":       func(t *trunk.Trunk) { t.Server = "" },
			"server and port": func(t *trunk.Trunk) { t.Server = "a:5060" },
			"no account":      func(t *trunk.Trunk) { t.Kind, t.User = trunk.Register, "" },
			"user@host":       func(t *trunk.Trunk) { t.User = "a@b" },
			"line break":      func(t *trunk.Trunk) { t.Password = "a\r\nb" },
			"transport":       func(t *trunk.Trunk) { t.Transport = site.TLS },
			"number":          func(t *trunk.Trunk) { t.Numbers = []string{"0472"} },
			"format":          func(t *trunk.Trunk) { t.Dial = "x" },
			"way":             func(t *trunk.Trunk) { t.Via = "lte" },
			"kind":            func(t *trunk.Trunk) { t.Kind = "x" },
			"keep-alive":      func(t *trunk.Trunk) { t.Alive = "stun" },
			"too often":       func(t *trunk.Trunk) { t.Alive, t.Every = trunk.CRLF, time.Second },
			"expiry":          func(t *trunk.Trunk) { t.Expires = time.Second },
			"proxy":           func(t *trunk.Trunk) { t.Proxy = "sip:x;y" },
			"place":           func(t *trunk.Trunk) { t.Called = "subject" },
		} {
			a := account()
			change(&a)
			if err := w.tr.Set([]trunk.Trunk{a}); err == nil {
				t.Errorf("%s was taken", name)
			}
		}
		if err := w.tr.Set([]trunk.Trunk{account(), account()}); err == nil {
			t.Error("one trunk twice")
		}
		w.want(trunk.Registered) // and nothing changed
		if w.p.count() != 2 {
			t.Errorf("%v", w.p.registers())
		}
		if s := account().Password; s.String() != "(set)" || strings.Contains(fmt.Sprintf("%v %+v %#v", account(), account(), account()), "secret") {
			t.Error("a password is shown")
		}
	})
}

func TestIPv6(t *testing.T) {
	tr := trunk.Trunk{Name: "gw", Server: "2001:db8::5", Number: "+33472001201"}
	o, err := trunk.Compose(tr, france, trunk.Call{Dialled: "112"}, toProvider)
	if err != nil || o.URI.String() != "sip:112@[2001:db8::5]" || o.From.Address.String() != "sip:+33472001201@[2001:db8::5]" {
		t.Errorf("%s %s %v", o.URI.String(), o.From, err)
	}
}
