package core_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/core"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/edge/edgetest"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// rooms serve INVITE, the event "lamp", and REGISTER.
type rooms struct{ e *edge.Edge }

func (r *rooms) Quick(req *sip.Request, f *edge.Flow) func() {
	r.e.Respond(req, f, 423, "")
	return nil
}
func (r *rooms) Serve(tx *transaction.ServerTx) bool {
	if tx.Request().IsInvite() {
		tx.Respond(tx.Response(603, ""))
	}
	return tx.Request().IsInvite()
}
func (r *rooms) Ack(*sip.Request, *edge.Flow)    {}
func (r *rooms) Stray(*sip.Response, *edge.Flow) {}
func (r *rooms) ServeSubscribe(tx *transaction.ServerTx) bool {
	ok := message.Get(tx.Request(), "Event") == "lamp"
	if ok {
		tx.Respond(tx.Response(202, ""))
	}
	return ok
}

func TestEachMethodFindsItsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := edgetest.New()
		start := func(addr string) (*core.Core, func()) {
			e, err := edge.New(edge.Config{})
			if err != nil {
				t.Fatal(err)
			}
			e.AddPacket(n.UDP(addr))
			r := &rooms{e}
			c := core.New(core.Config{Edge: e, Registrar: r, Calls: r, Events: []string{"lamp"}})
			c.Use(r)
			ctx, cancel := context.WithCancel(t.Context())
			over := make(chan error)
			go func() { over <- c.Serve(ctx) }()
			return c, func() {
				cancel()
				if err := <-over; err != nil {
					t.Error(err)
				}
			}
		}
		a, stopA := start("10.0.0.1:5060")
		defer stopA()
		_, stopB := start("10.0.0.2:5060")
		defer stopB()
		for i, x := range []struct{ method, extra, want string }{
			{"INVITE", "", "603  "}, {"REGISTER", "", "423  "}, {"SUBSCRIBE", "Event: lamp\r\n", "202  "},
			{"SUBSCRIBE", "Event: presence\r\n", "489  lamp"}, {"OPTIONS", "", "200 Allow lamp"},
			{"BYE", "", "481  "}, {"NOTIFY", "", "481  "}, {"PUBLISH", "", "405 Allow "}, {"FLY", "", "405 Allow "},
			{"OPTIONS", "in", "481  "},
		} {
			tag := ""
			if x.extra == "in" {
				tag, x.extra = ";tag=gone", ""
			}
			m, fault := message.Parse(fmt.Appendf(nil, "%s sip:x@10.0.0.2 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:x@b>%s\r\nCall-ID: %d\r\nCSeq: 1 %s\r\n%s\r\n",
				x.method, tag, i, x.method, x.extra), false)
			if fault != nil {
				t.Fatal(fault)
			}
			req := m.(*sip.Request)
			message.Remove(req, "Via")
			res := <-a.Layer().Request(t.Context(), req, edge.Dest{Transport: site.UDP, Addr: netip.MustParseAddrPort("10.0.0.2:5060")}).Responses()
			allow := ""
			if message.Get(res, "Allow") != "" {
				allow = "Allow"
			}
			if got := fmt.Sprintf("%d %s %s", res.StatusCode, allow, message.Get(res, "Allow-Events")); got != x.want {
				t.Errorf("%s: got %q, want %q", x.method, got, x.want)
			}
		}
	})
}

func TestAOR(t *testing.T) {
	aor := core.AOR(func(u route.URI) site.AOR {
		return site.AOR{User: u.Scheme + "|" + u.User, Domain: fmt.Sprint(u.Host, u.Phone)}
	})
	for in, want := range map[string]site.AOR{
		"sip:0017201@F.example:5060;user=PHONE": {User: "sip|0017201", Domain: "F.exampletrue"},
		"tel:+33-4;ext=2":                       {User: "tel|+33-4;ext=2", Domain: "false"},
		"urn:service:sos":                       {User: "urn|service:sos", Domain: "false"},
	} {
		u, err := message.ParseURI(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := aor(&u); got != want {
			t.Errorf("%s: %+v", in, got)
		}
	}
}
