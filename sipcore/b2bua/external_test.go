package b2bua_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/transaction"
	"carrierclass.net/ccnode/sipcore/trunk"
)

// outside is lines to the outside: a name and where it ends.
type outside struct {
	b2bua.Lines // what these calls do not ask for

	at   map[string]string
	full map[string]bool
}

func (o *outside) Inbound(*sip.Request, *edge.Flow) (trunk.Inbound, bool) {
	return trunk.Inbound{}, false
}
func (o *outside) Authorize(string, *sip.Request, *sip.Response) (sip.Header, error) {
	return nil, errors.New("no password")
}
func (o *outside) Take(name string, _ trunk.Claim) (*trunk.Lease, string, bool) {
	return nil, "", !o.full[name]
}
func (o *outside) CallBack(site.Party) string { return "" }
func (o *outside) Place() string              { return "Lyon" }
func (o *outside) Neighbours() []route.Branch { return nil }
func (o *outside) Urgent(b2bua.Emergency)     {}
func (o *outside) Settle(context.Context, b2bua.Arrival) (func(), bool) {
	return func() {}, true
}

func (o *outside) Outgoing(name string, c trunk.Call) (trunk.Outgoing, error) {
	at := netip.MustParseAddrPort(o.at[name])
	to := sip.Uri{Scheme: "sip", User: c.Dialled, Host: at.Addr().String()}
	return trunk.Outgoing{Trunk: name, URI: to, From: &sip.FromHeader{Address: sip.Uri{Scheme: "sip", User: "+33472001200", Host: "x.example"}},
		To: &sip.ToHeader{Address: to}, Dests: []edge.Dest{{Transport: site.UDP, Addr: at}}}, nil
}

// ways makes a site with ana and two lines: what each says to an INVITE, 0 is
// nothing at all, -1 that it has no channel.
func ways(t *testing.T, first, second int) (w *world, n *node, s *speaker, ana *ua) {
	w = newWorld(t)
	s = &speaker{last: time.Second}
	o := &outside{at: map[string]string{"a": "10.0.9.1:5060", "b": "10.0.9.2:5060"}, full: map[string]bool{"a": first < 0, "b": second < 0}}
	n = w.node("0001", "a", "10.0.0.1:5060", s.config, func(cfg *b2bua.Config) { cfg.Lines = o })
	n.lines = []route.Line{{Name: "a"}, {Name: "b"}}
	ana = w.phone(w.user(n, "201", "ana"), "10.0.0.11:5060")
	for name, status := range map[string]int{"a": first, "b": second} {
		if status == 0 { // nobody is there
			continue
		}
		u := &user{at: &node{w: w}}
		u.Name = name
		x := w.phone(u, o.at[name])
		x.behave(func(tx *transaction.ServerTx) bool {
			switch {
			case tx.Request().Method != sip.INVITE:
				return false
			case status == 200:
				x.answer(tx, "v=0 "+name)
			case status > 0:
				tx.Respond(tx.Response(status, ""))
			}
			return true
		})
	}
	return
}

// What a broken line says is not what the called party says.
func TestLinesThatFail(t *testing.T) {
	for _, c := range []struct {
		first, second, want int
		reason              string
		told                site.Cause
	}{
		{503, 200, 200, "", 0},
		{-1, 200, 200, "", 0},
		{0, 200, 200, "", 0},
		{503, 500, 480, "cause=38;", site.LineDown},
		{0, 0, 480, "cause=38;", site.LineDown},
		{401, 503, 480, "cause=38;", site.LineDown},
		{-1, -1, 480, "cause=34;", site.NoLine},
		{503, -1, 480, "cause=34;", site.NoLine},
		{404, 200, 404, "cause=1;", site.NoSuchNumber},
		{503, 486, 486, "cause=17;", site.Busy},
		{480, 200, 480, "cause=19;", site.NoAnswer},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, _, s, ana := ways(t, c.first, c.second)
			defer w.close()
			h := ana.call("+33612345678", "v=0 ana")
			if got := h.status(); got != c.want || !strings.Contains(message.Get(h.res, "Reason"), c.reason) {
				t.Errorf("%d, %d: got %d %q", c.first, c.second, got, message.Get(h.res, "Reason"))
			}
			if c.want == 200 {
				if len(s.said) != 0 {
					t.Errorf("%d, %d: told %v", c.first, c.second, s.said)
				}
				h.do(sip.BYE, "")
			} else if len(s.said) != 1 || s.said[0] != c.told {
				t.Errorf("%d, %d: told %v, want %v", c.first, c.second, s.said, c.told)
			}
			synctest.Wait()
		})
	}
}

// Who calls a site that is gone sees that he talks over the public network; the
// record says it.
func TestPublicLineIsSeen(t *testing.T) {
	for _, c := range []struct {
		line, want   int
		name, reason string
		record       string
	}{
		{200, 200, `"zoe via public line" <sip:80002301@shops.example>`, "", "end 0001201 0002301 normal"},
		{503, 480, "", "cause=27;", "end 0001201 0002301 store unreachable"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, n, s, ana := ways(t, c.line, c.line)
			defer w.close()
			b := w.node("0002", "a", "10.0.1.1:5060")
			zoe := w.user(b, "301", "zoe")
			zoe.E164, zoe.NoVoicemail = "+33472002301", true
			w.hole[b.id] = true
			h := ana.call("80002301", "v=0 ana")
			if got := h.status(); got != c.want || message.Get(h.res, "P-Asserted-Identity") != c.name || !strings.Contains(message.Get(h.res, "Reason"), c.reason) {
				t.Errorf("got:\n%s", h.res)
			}
			if c.want == 200 {
				h.do(sip.BYE, "")
			} else if len(s.said) != 1 || s.said[0] != site.Unreachable {
				t.Errorf("told %v", s.said)
			}
			synctest.Wait()
			if got := n.records[len(n.records)-1]; got != c.record {
				t.Errorf("record %q", got)
			}
		})
	}
}

// Who transfers a call outside answers for it: with his class, not that of whom
// he transfers.
func TestTransferOutsideNeedsTheClassOfWhoTransfers(t *testing.T) {
	for _, c := range []struct {
		ana, bob route.Class
		want     string
	}{
		{route.Internal, route.National, "200 terminated"},
		{route.National, route.Internal, "403 terminated"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w, n, _, ana := ways(t, 200, 200)
			defer w.close()
			u := w.user(n, "202", "bob")
			ana.user.class, u.class = c.ana, c.bob
			bob := w.phone(u, "10.0.0.12:5060")
			_, b := speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
			told := frags(bob)
			if res := b.do(sip.REFER, "", referTo("<sip:+33612345678@"+domain+">")); res.StatusCode != 202 {
				t.Fatalf("REFER: %d", res.StatusCode)
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if got := told(); !strings.HasSuffix(got, c.want) {
				t.Errorf("ana %s, bob %s: bob was told %q, want %q", c.ana, c.bob, got, c.want)
			}
		})
	}
}

// With the Internet cut an emergency call leaves by the other line within 2 s;
// when no line says anything, a slow one still gets its time.
func TestEmergencyDoesNotWaitForASilentLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _, ana := ways(t, 0, 200)
		defer w.close()
		began := time.Now()
		h := ana.call("112", "v=0 ana")
		if got := h.status(); got != 200 {
			t.Fatalf("got %d", got)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it left after %v", took)
		}
		h.do(sip.BYE, "")
	})
	synctest.Test(t, func(t *testing.T) {
		w, n, _, ana := ways(t, 0, 0)
		defer w.close()
		u := &user{at: n}
		u.Name = "slow"
		x := w.phone(u, "10.0.9.2:5060")
		x.behave(func(tx *transaction.ServerTx) bool {
			if tx.Request().Method != sip.INVITE {
				return false
			}
			go func() {
				time.Sleep(1500 * time.Millisecond)
				x.answer(tx, "v=0 slow")
			}()
			return true
		})
		h := ana.call("112", "v=0 ana")
		if got := h.status(); got != 200 {
			t.Fatalf("a slow line: %d", got)
		}
		h.do(sip.BYE, "")
	})
}
