package b2bua_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/message"
)

// shop is one site with three phones: 201 ana, 202 bob, 203 chi.
func shop(t *testing.T) (w *world, n *node, ana, bob, chi *ua) {
	w = newWorld(t)
	n = w.node("0001", "a", "10.0.0.1:5060")
	ana = w.phone(w.user(n, "201", "ana"), "10.0.0.11:5060")
	bob = w.phone(w.user(n, "202", "bob"), "10.0.0.12:5060")
	chi = w.phone(w.user(n, "203", "chi"), "10.0.0.13:5060")
	return
}

func TestCallWithinASite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		h := ana.call("202", "v=0 ana", func(r *sip.Request) { r.AppendHeader(sip.NewHeader("X-From-Caller", "kept")) })
		tx := <-bob.in
		ring := tx.Response(180, "")
		tx.Respond(ring)
		synctest.Wait()
		req := tx.Request()
		if got := req.From().Address.User; got != "201" || req.From().DisplayName != "ana" {
			t.Errorf("bob sees %q %q", req.From().DisplayName, got)
		}
		for what, bad := range map[string]string{"Call-ID": h.id, "From tag": h.ours, "Contact": "10.0.0.11"} {
			if strings.Contains(req.String(), bad) {
				t.Errorf("bob sees ana's %s", what)
			}
		}
		if message.Get(req, "X-From-Caller") != "kept" || message.Get(req, "Proxy-Authorization") != "" || message.Get(req, "P-Charging-Vector") != "" {
			t.Errorf("headers to bob:\n%s", req)
		}
		bob.answer(tx, "v=0 bob")
		if h.status() != 200 {
			t.Fatalf("got %d", h.res.StatusCode)
		}
		synctest.Wait()
		if got := h.provisional(); got != "[407 100 180 200]" {
			t.Errorf("ana saw %s", got)
		}
		if a, b := n.media.find("v=0 ana"), n.media.find("v=0 bob"); a == nil || b == nil || a.bridged != b {
			t.Error("media is not joined")
		}
		if message.Get(h.res, "X-From-Callee") != "kept" || strings.Contains(h.res.String(), "10.0.0.12") {
			t.Errorf("answer to ana:\n%s", h.res)
		}
		if len(bob.acks) != 1 {
			t.Errorf("bob got %d ACKs", len(bob.acks))
		}
		if got := h.do(sip.BYE, "").StatusCode; got != 200 {
			t.Errorf("BYE: %d", got)
		}
		synctest.Wait()
		if got := bob.saw(); got != "INVITE BYE" {
			t.Errorf("bob saw %s", got)
		}
		if n.media.open() != 0 || n.calls.Count() != 0 {
			t.Error("the call is not over")
		}
		if got := strings.Join(n.records, ", "); got != "start 0001201 0001202 phone, end 0001201 0001202 normal" {
			t.Errorf("records: %s", got)
		}
	})
}

func TestCalleeHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		h := ana.call("202", "v=0 ana")
		tx := <-bob.in
		bob.answer(tx, "v=0 bob")
		h.status()
		synctest.Wait()
		b := bob.callee(tx)
		if got := b.do(sip.BYE, "").StatusCode; got != 200 {
			t.Errorf("BYE: %d", got)
		}
		synctest.Wait()
		if ana.saw() != "BYE" || n.calls.Count() != 0 {
			t.Errorf("ana saw %q, %d calls", ana.saw(), n.calls.Count())
		}
	})
}

func TestRefusalsAreToldInOneTable(t *testing.T) {
	for _, c := range []struct {
		phone, caller int
		reason        string
	}{{486, 486, "cause=17"}, {603, 486, "cause=21"}, {480, 480, "cause=19"}, {404, 404, "cause=1;"}, {488, 488, "cause=88"}, {302, 486, "cause=21"}, {503, 500, "cause=41"}, {401, 500, "cause=41"}} {
		synctest.Test(t, func(t *testing.T) {
			w, _, ana, bob, _ := shop(t)
			defer w.close()
			h := ana.call("202", "v=0 ana")
			tx := <-bob.in
			res := tx.Response(c.phone, "")
			res.AppendHeader(&sip.ContactHeader{Address: sip.Uri{Scheme: "sip", User: "9001234", Host: "evil.example"}})
			tx.Respond(res)
			if got := h.status(); got != c.caller || !strings.Contains(message.Get(h.res, "Reason"), c.reason) {
				t.Errorf("phone says %d: caller gets %d %q, want %d %s", c.phone, got, message.Get(h.res, "Reason"), c.caller, c.reason)
			}
		})
	}
}

func TestForkFirstAnswerWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		second := w.phone(bob.user, "10.0.0.22:5060")
		third := w.phone(bob.user, "10.0.0.23:5060")
		h := ana.call("202", "v=0 ana")
		a, b, c := <-bob.in, <-second.in, <-third.in
		a.Respond(a.Response(180, ""))
		b.Respond(b.Response(180, ""))
		c.Respond(c.Response(486, "")) // busy at one phone says nothing of the others
		synctest.Wait()
		second.answer(b, "v=0 second")
		if h.status() != 200 {
			t.Fatal(h.res)
		}
		synctest.Wait()
		if got := bob.saw(); !strings.Contains(got, `CANCEL SIP;cause=200;text="Call completed elsewhere"`) {
			t.Errorf("bob's first phone saw %s", got)
		}
		// It had been picked up at the same instant: the late 200 is ended.
		bob.answer(a, "v=0 late")
		synctest.Wait()
		if got := bob.saw(); !strings.HasSuffix(got, " BYE") || len(bob.acks) != 1 {
			t.Errorf("late answer: saw %s, %d ACKs", got, len(bob.acks))
		}
		if n.media.open() != 2 {
			t.Errorf("%d ports open, want 2", n.media.open())
		}
		h.do(sip.BYE, "")
	})
}

func TestDeclineStopsAllPhonesOfAUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, ana, bob, _ := shop(t)
		defer w.close()
		second := w.phone(bob.user, "10.0.0.22:5060")
		h := ana.call("202", "v=0 ana")
		a, b := <-bob.in, <-second.in
		a.Respond(a.Response(180, ""))
		synctest.Wait()
		b.Respond(b.Response(603, ""))
		if h.status() != 486 {
			t.Errorf("got %d", h.status())
		}
		synctest.Wait()
		if !strings.Contains(bob.saw(), "CANCEL") {
			t.Error("the other phone still rings")
		}
	})
}

func TestNoAnswerAfterRingTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, ana, bob, _ := shop(t)
		defer w.close()
		begun := time.Now()
		h := ana.call("202", "v=0 ana")
		tx := <-bob.in
		tx.Respond(tx.Response(180, ""))
		if h.status() != 480 || time.Since(begun) != 20*time.Second {
			t.Errorf("%d after %v", h.status(), time.Since(begun))
		}
		synctest.Wait()
		if !strings.Contains(bob.saw(), "CANCEL") {
			t.Error("bob still rings")
		}
	})
}

func TestCallerGivesUpAtAnyInstant(t *testing.T) {
	for _, ms := range []int{0, 1, 50, 250, 1000, 5000, 19999, 20000, 20001} {
		synctest.Test(t, func(t *testing.T) {
			w, n, ana, bob, _ := shop(t)
			defer w.close()
			h := ana.call("202", "v=0 ana")
			tx := <-bob.in
			if ms > 100 {
				tx.Respond(tx.Response(180, ""))
			}
			time.Sleep(time.Duration(ms) * time.Millisecond)
			h.cancel()
			if got := h.status(); got != 487 && got != 480 {
				t.Errorf("after %d ms: %d", ms, got)
			}
			synctest.Wait()
			if ms > 100 && !strings.Contains(bob.saw(), "CANCEL") {
				t.Errorf("after %d ms bob saw %s", ms, bob.saw())
			}
			time.Sleep(40 * time.Second)
			if n.calls.Count() != 0 || n.media.open() != 0 {
				t.Errorf("after %d ms: stuck", ms)
			}
		})
	}
}

// Answer and CANCEL cross: whatever wins, nobody is left talking alone.
func TestCancelCrossesAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		h := ana.call("202", "v=0 ana")
		tx := <-bob.in
		tx.Respond(tx.Response(180, ""))
		synctest.Wait()
		go bob.answer(tx, "v=0 bob")
		go h.cancel()
		got := h.status()
		synctest.Wait()
		if got == 200 {
			h.do(sip.BYE, "")
			synctest.Wait()
		}
		if s := bob.saw(); !strings.Contains(s, "BYE") && !strings.Contains(s, "CANCEL") || n.calls.Count() != 0 {
			t.Errorf("ana got %d, bob saw %s, %d calls", got, s, n.calls.Count())
		}
	})
}

func TestFalseCallersAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		// ana's password, bob's number
		h := ana.call("203", "v=0 ana", func(r *sip.Request) { r.From().Address.User = "0001202" })
		if got := h.status(); got != 407 && got != 403 {
			t.Errorf("got %d", got)
		}
		ana.user.at.w.users[0].AOR = bob.user.AOR // now the device has no such line
		h = ana.call("203", "v=0 ana", func(r *sip.Request) { r.From().Address.User = "0001299" })
		if got := h.status(); got == 200 {
			t.Errorf("got %d", got)
		}
		if n.calls.Count() != 0 {
			t.Error("a call was made")
		}
	})
}

func TestEmergencyNeedsNoPassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, ana, _, _ := shop(t)
		defer w.close()
		h := ana.call("112", "v=0 ana")
		if got := h.status(); got != 480 || !strings.Contains(message.Get(h.res, "Reason"), "cause=34") {
			t.Errorf("got %d %s", got, message.Get(h.res, "Reason"))
		}
		if h.provisional() != "[100 480]" {
			t.Errorf("saw %s", h.provisional())
		}
	})
}

func TestBadDescriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		if got := ana.call("202", "nonsense").status(); got != 400 {
			t.Errorf("bad offer: %d", got)
		}
		h := ana.call("202", "", func(r *sip.Request) {
			r.AppendHeader(sip.NewHeader("Content-Type", "text/plain"))
			r.SetBody([]byte("hello"))
		})
		if got := h.status(); got != 488 {
			t.Errorf("text for an offer: %d", got)
		}
		h = ana.call("202", "v=0 ana")
		tx := <-bob.in
		bob.answer(tx, "nonsense")
		if got := h.status(); got != 488 {
			t.Errorf("bad answer: %d", got)
		}
		synctest.Wait()
		if got := bob.saw(); !strings.HasSuffix(got, "BYE") {
			t.Errorf("bob saw %s", got)
		}
		time.Sleep(time.Minute)
		if n.calls.Count() != 0 {
			t.Error("stuck")
		}
	})
}

func TestFullNodeSaysSoPolitely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, _, _ := shop(t)
		defer w.close()
		n.media.full = true
		if got := ana.call("202", "v=0 ana").status(); got != 480 {
			t.Errorf("got %d", got)
		}
	})
}

func TestPanicInAFeatureEndsOnlyItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, _, _ := shop(t)
		defer w.close()
		n.feature = func(context.Context, site.FeatureName, *b2bua.Call) error { panic("bug") }
		if got := ana.call("*97", "v=0 ana").status(); got != 480 && got != 500 {
			t.Errorf("got %d", got)
		}
		synctest.Wait()
		if n.calls.Count() != 0 || n.media.open() != 0 {
			t.Error("the call is stuck")
		}
	})
}

func TestOneCallTooManyIsRefusedEmergenciesAreNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		n := w.node("0001", "a", "10.0.0.1:5060", func(c *b2bua.Config) { c.MaxCalls = 1 })
		ana := w.phone(w.user(n, "201", "ana"), "10.0.0.11:5060")
		bob := w.phone(w.user(n, "202", "bob"), "10.0.0.12:5060")
		chi := w.phone(w.user(n, "203", "chi"), "10.0.0.13:5060")
		a, _ := talk(t, ana, bob)
		h := chi.call("202", "v=0 chi")
		if got := h.status(); got != 480 || !strings.Contains(message.Get(h.res, "Reason"), "cause=42") || message.Get(h.res, "Retry-After") != "" {
			t.Errorf("got %v", h.res)
		}
		h = chi.call("112", "v=0 chi") // let in, and then there is no line
		if h.status(); !strings.Contains(message.Get(h.res, "Reason"), "cause=34") {
			t.Errorf("emergency: %v", h.res)
		}
		a.do(sip.BYE, "")
	})
}

func TestNamesCannotBreakOutOfHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, _, _, ana, zoe := chain(t)
		defer w.close()
		evil := "An\"a\r\nX-Evil: 1\\"
		h := ana.callWith(func(*half) { ana.user.Name = evil }, "80002201", "v=0 ana")
		tx := <-zoe.in
		if got := message.Unquote(tx.Request().From().DisplayName); got != "An\"aX-Evil: 1\\" || message.Get(tx.Request(), "X-Evil") != "" {
			t.Errorf("zoe sees %q", got)
		}
		tx.Respond(tx.Response(486, ""))
		h.status()
	})
}

// Behind one contact are two telephones, and both pick up: the second answer
// is acknowledged and ended, the talk with the first goes on.
func TestSecondAnswerToOneInviteIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		h := ana.call("202", "v=0 ana")
		tx := <-bob.in
		bob.answer(tx, "v=0 bob")
		h.status()
		synctest.Wait()
		res := tx.Response(200, "")
		res.To().Params = sip.HeaderParams{{K: "tag", V: "second"}}
		res.AppendHeader(bob.contact())
		body(res, "v=0 second")
		tx.Respond(res)
		synctest.Wait()
		bob.mu.Lock()
		acks, bye := len(bob.acks), bob.got["BYE"]
		bob.mu.Unlock()
		if acks != 2 || bye == nil || n.calls.Count() != 1 {
			t.Fatalf("%d ACKs, BYE %v, %d calls", acks, bye, n.calls.Count())
		}
		if tag, _ := bye.To().Params.Get("tag"); tag != "second" {
			t.Errorf("the wrong dialog was ended: %s", tag)
		}
		h.do(sip.BYE, "")
	})
}
