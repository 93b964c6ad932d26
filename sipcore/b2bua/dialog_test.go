package b2bua_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// talk makes a call from ana to bob.
func talk(t *testing.T, ana, bob *ua) (a, b *half) {
	t.Helper()
	a = ana.call("202", "v=0 ana")
	tx := <-bob.in
	bob.answer(tx, "v=0 bob")
	if a.status() != 200 {
		t.Fatalf("no call: %v", a.res)
	}
	synctest.Wait()
	return a, bob.callee(tx)
}

func TestHoldGoesFromLegToLeg(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		a, b := talk(t, ana, bob)
		res := a.do(sip.INVITE, "v=0 ana hold")
		synctest.Wait()
		offer := string(bob.got["INVITE"].Body())
		if res.StatusCode != 200 || !strings.Contains(offer, "hold") || strings.Contains(offer, "ana") {
			t.Errorf("%d, bob was offered %q", res.StatusCode, offer)
		}
		if n.media.find("v=0 ana hold") == nil || n.media.find("v=0 rebob") == nil {
			t.Error("media was not changed on both legs")
		}
		// The same again changes nothing at the other end.
		if got := a.do(sip.INVITE, "v=0 ana hold").StatusCode; got != 200 || bob.saw() != "INVITE INVITE" {
			t.Errorf("a refresh: %d, bob saw %s", got, bob.saw())
		}
		synctest.Wait()
		// And the callee may hold too, by UPDATE.
		if got := b.do(sip.UPDATE, "v=0 bob hold").StatusCode; got != 200 || ana.saw() != "INVITE" {
			t.Errorf("callee's hold: %d, ana saw %s", got, ana.saw())
		}
		a.do(sip.BYE, "")
	})
}

func TestRefusedChangeLeavesTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		a, _ := talk(t, ana, bob)
		bob.behave(func(tx *transaction.ServerTx) bool {
			if tx.Request().Method == sip.INVITE {
				tx.Respond(tx.Response(488, ""))
				return true
			}
			return false
		})
		if got := a.do(sip.INVITE, "v=0 ana video").StatusCode; got != 488 {
			t.Errorf("got %d", got)
		}
		if n.media.find("v=0 ana") == nil || n.calls.Count() != 1 {
			t.Error("the call did not stay as it was")
		}
		if got := a.do(sip.INVITE, "nonsense").StatusCode; got < 400 || n.calls.Count() != 1 {
			t.Errorf("nonsense: %d", got)
		}
		a.do(sip.BYE, "")
	})
}

func TestGlare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		a, b := talk(t, ana, bob)
		slow := func(x *ua) func(*transaction.ServerTx) bool {
			return func(tx *transaction.ServerTx) bool {
				if tx.Request().Method != sip.INVITE {
					return false
				}
				time.Sleep(100 * time.Millisecond)
				x.answer(tx, "v=0 later")
				return true
			}
		}
		ana.behave(slow(ana))
		bob.behave(slow(bob))
		got := make(chan int, 2)
		go func() { got <- a.do(sip.INVITE, "v=0 ana two").StatusCode }()
		go func() { got <- b.do(sip.INVITE, "v=0 bob two").StatusCode }()
		x, y := <-got, <-got
		if x != 491 && y != 491 {
			t.Errorf("got %d and %d", x, y)
		}
		if n.calls.Count() != 1 {
			t.Error("the call is gone")
		}
		time.Sleep(time.Second)
		if got := a.do(sip.INVITE, "v=0 ana three").StatusCode; got != 200 {
			t.Errorf("after the glare: %d", got)
		}
		a.do(sip.BYE, "")
	})
}

func TestRequestsInTheDialog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, ana, bob, _ := shop(t)
		defer w.close()
		a, _ := talk(t, ana, bob)
		for _, m := range []sip.RequestMethod{sip.INFO, sip.MESSAGE, "DANCE"} {
			res := a.do(m, "", func(r *sip.Request) {
				r.AppendHeader(sip.NewHeader("Content-Type", "text/plain"))
				r.AppendHeader(sip.NewHeader("X-Step", "one"))
				r.SetBody([]byte("hello"))
			})
			got := bob.got[string(m)]
			if res.StatusCode != 200 || got == nil || string(got.Body()) != "hello" || message.Get(got, "X-Step") != "one" || got.CallID().Value() == a.id {
				t.Errorf("%s: %d, bob got %v", m, res.StatusCode, got)
			}
		}
		before := bob.saw()
		if res := a.do(sip.OPTIONS, ""); res.StatusCode != 200 || bob.saw() != before {
			t.Errorf("OPTIONS: %d, bob saw %s", res.StatusCode, bob.saw())
		}
		if got := a.do(sip.REFER, "").StatusCode; got != 400 { // it names nobody
			t.Errorf("REFER: %d", got)
		}
		if got := a.do(sip.PRACK, "").StatusCode; got != 481 {
			t.Errorf("PRACK: %d", got)
		}
		a.seq -= 3
		if got := a.do(sip.INFO, "").StatusCode; got != 500 {
			t.Errorf("old CSeq: %d", got)
		}
		a.seq += 10
		theirs := a.theirs
		a.theirs = "guess"
		if got := a.do(sip.BYE, "").StatusCode; got != 481 {
			t.Errorf("BYE of a stranger: %d", got)
		}
		a.theirs, a.ours = theirs, "guess"
		if got := a.do(sip.BYE, "").StatusCode; got != 481 {
			t.Errorf("BYE with a wrong tag: %d", got)
		}
		a.ours = "tana"
		if got := a.do(sip.BYE, "").StatusCode; got != 200 {
			t.Errorf("BYE: %d", got)
		}
	})
}

func TestLateOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		h := ana.callWith(func(h *half) { h.ackSDP = "v=0 ana answers" }, "202", "")
		tx := <-bob.in
		if len(tx.Request().Body()) == 0 {
			t.Error("bob got no offer")
		}
		bob.answer(tx, "v=0 bob")
		if h.status() != 200 || len(h.res.Body()) == 0 {
			t.Fatal("no offer in the 200")
		}
		synctest.Wait()
		if n.media.find("v=0 ana answers") == nil {
			t.Error("the answer in the ACK was not taken")
		}
		h.do(sip.BYE, "")

		h = ana.call("202", "")
		tx = <-bob.in
		bob.answer(tx, "v=0 bob")
		h.status()
		synctest.Wait()
		if n.calls.Count() != 0 {
			t.Error("a call without media goes on")
		}
	})
}

func TestUnacknowledgedAnswerIsRepeatedThenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		h := ana.callWith(func(h *half) { h.noAck = true }, "202", "v=0 ana")
		tx := <-bob.in
		bob.answer(tx, "v=0 bob")
		h.status()
		time.Sleep(10 * time.Second)
		if got := strings.Count(h.provisional(), "200"); got < 4 {
			t.Errorf("the 200 came %d times", got)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n.calls.Count() != 0 || !strings.Contains(bob.saw(), "BYE") || !strings.Contains(ana.saw(), "BYE") {
			t.Errorf("%d calls; ana saw %q, bob %q", n.calls.Count(), ana.saw(), bob.saw())
		}
	})
}

func TestSessionIsRefreshedAndADeadPhoneEndsTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		var dead atomic.Bool
		w.net.Fate = func(from, to netip.AddrPort, _ []byte) (bool, time.Duration) {
			return dead.Load() && to == bob.addr, 0
		}
		a := ana.call("202", "v=0 ana", func(r *sip.Request) {
			r.AppendHeader(sip.NewHeader("Supported", "timer"))
			r.AppendHeader(sip.NewHeader("Session-Expires", "600"))
		})
		tx := <-bob.in
		if got := message.Get(tx.Request(), "Session-Expires"); got != "1800;refresher=uac" {
			t.Errorf("bob is offered %q", got)
		}
		bob.answer(tx, "v=0 bob")
		a.status()
		if got := message.Get(a.res, "Session-Expires"); got != "600;refresher=uas" {
			t.Errorf("ana is answered %q", got)
		}
		n.media.mu.Lock()
		for p := range n.media.ports { // they speak, so that only signalling decides
			p.last = time.Now().Add(24 * time.Hour)
		}
		n.media.mu.Unlock()
		time.Sleep(301 * time.Second)
		synctest.Wait()
		if ana.saw() != "INVITE" || bob.saw() != "INVITE" || n.calls.Count() != 1 {
			t.Errorf("after 301 s ana saw %q, bob %q", ana.saw(), bob.saw())
		}
		dead.Store(true)
		time.Sleep(2000 * time.Second)
		synctest.Wait()
		if n.calls.Count() != 0 || !strings.HasSuffix(ana.saw(), "BYE") {
			t.Errorf("bob is dead; ana saw %q, %d calls", ana.saw(), n.calls.Count())
		}
		if got := ana.call("202", "v=0 ana", func(r *sip.Request) { r.AppendHeader(sip.NewHeader("Session-Expires", "30")) }).status(); got != 422 {
			t.Errorf("30 s: %d", got)
		}
	})
}

func TestSilentPhoneIsAskedAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		talk(t, ana, bob)
		time.Sleep(41 * time.Second)
		synctest.Wait()
		if !strings.Contains(bob.saw(), "OPTIONS") || n.calls.Count() != 1 {
			t.Errorf("bob saw %s, %d calls", bob.saw(), n.calls.Count())
		}
		bob.behave(func(tx *transaction.ServerTx) bool {
			tx.Respond(tx.Response(481, ""))
			return true
		})
		time.Sleep(41 * time.Second)
		synctest.Wait()
		if n.calls.Count() != 0 || !strings.Contains(ana.saw(), "BYE") {
			t.Errorf("ana saw %s, %d calls", ana.saw(), n.calls.Count())
		}
	})
}

func TestVoicemailTakesACallNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		bob.user.settings.NoVoicemail = false
		var heard string
		n.feature = func(ctx context.Context, name site.FeatureName, c *b2bua.Call) error {
			heard = string(name) + " for " + c.To().AOR.User + " from " + c.From().AOR.User + ": " + c.Diverted()
			if _, err := c.Early(ctx); err != nil {
				t.Error(err)
			}
			if _, err := c.Answer(ctx); err != nil {
				t.Error(err)
			}
			<-c.Context().Done()
			heard += ", " + context.Cause(c.Context()).Error()
			return nil
		}
		h := ana.call("202", "v=0 ana")
		tx := <-bob.in
		tx.Respond(tx.Response(180, ""))
		if h.status() != 200 {
			t.Fatal(h.res)
		}
		synctest.Wait()
		if got := h.do(sip.INFO, "").StatusCode; got != 200 {
			t.Errorf("INFO to a feature: %d", got)
		}
		if got := h.do(sip.INVITE, "v=0 ana hold").StatusCode; got != 200 {
			t.Errorf("hold: %d", got)
		}
		h.do(sip.BYE, "")
		synctest.Wait()
		if heard != "voicemail for 0001202 from 0001201: no answer, normal" {
			t.Error(heard)
		}
		if got := strings.Join(n.records, ", "); got != "start 0001201 0001202 feature voicemail, end 0001201 0001202 normal" {
			t.Error(got)
		}
		n.feature = func(ctx context.Context, name site.FeatureName, c *b2bua.Call) error {
			c.Answer(ctx)
			return c.Hangup(ctx, site.Normal)
		}
		h = ana.call("*97", "v=0 ana")
		h.status()
		time.Sleep(time.Second)
		if h.res.StatusCode != 200 || !strings.HasSuffix(ana.saw(), "BYE") {
			t.Errorf("%d, ana saw %s", h.res.StatusCode, ana.saw())
		}
		n.feature = func(ctx context.Context, name site.FeatureName, c *b2bua.Call) error { return site.NodeFull }
		if got := ana.call("*97", "v=0 ana").status(); got != 480 {
			t.Errorf("a feature that cannot: %d", got)
		}
	})
}

func TestDrainAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, chi := shop(t)
		defer w.close()
		a, _ := talk(t, ana, bob)
		drained := make(chan struct{})
		go func() { n.calls.Drain(context.Background()); close(drained) }()
		synctest.Wait()
		if got := chi.call("202", "v=0 chi").status(); got != 480 {
			t.Errorf("a new call while draining: %d", got)
		}
		select {
		case <-drained:
			t.Error("drained with a call on")
		default:
		}
		a.do(sip.BYE, "")
		<-drained
	})
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		talk(t, ana, bob)
		n.calls.Close()
		synctest.Wait()
		if !strings.HasSuffix(ana.saw(), "BYE") || !strings.HasSuffix(bob.saw(), "BYE") {
			t.Errorf("ana saw %q, bob %q", ana.saw(), bob.saw())
		}
	})
}

// A menu answers, then connects: the caller stays, the called phone joins.
func TestFeatureConnectsOnward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, _, chi := shop(t)
		defer w.close()
		got := make(chan error, 2)
		n.feature = func(ctx context.Context, _ site.FeatureName, c *b2bua.Call) error {
			c.Answer(ctx)
			got <- c.Connect(ctx, route.ParseURI("299"))
			got <- c.Connect(ctx, route.ParseURI("203"))
			return nil
		}
		h := ana.call("*97", "v=0 ana")
		if h.status() != 200 {
			t.Fatal(h.res)
		}
		if err := <-got; !errors.Is(err, site.NoSuchNumber) || n.calls.Count() != 1 {
			t.Errorf("nobody: %v", err)
		}
		tx := <-chi.in
		chi.answer(tx, "v=0 chi")
		synctest.Wait()
		if a, c := n.media.find("v=0 ana"), n.media.find("v=0 chi"); a == nil || c == nil || a.bridged != c {
			t.Error("not connected")
		}
		if got := h.do(sip.INFO, "").StatusCode; got != 200 || !strings.Contains(chi.saw(), "INFO") {
			t.Errorf("INFO %d, chi saw %s", got, chi.saw())
		}
		b := chi.callee(tx)
		b.do(sip.BYE, "")
		synctest.Wait()
		if err := <-got; err != nil || !strings.HasSuffix(ana.saw(), "BYE") {
			t.Errorf("%v, ana saw %s", err, ana.saw())
		}
	})
}
