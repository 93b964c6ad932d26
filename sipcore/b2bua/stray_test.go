package b2bua_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"
)

// Ending the second answer to an INVITE leaves the first one's dialog findable:
// who won can still hang up.
func TestDialogOutlivesASecondAnswer(t *testing.T) {
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
		if got := bob.callee(tx).do(sip.BYE, "").StatusCode; got != 200 {
			t.Errorf("who answered first hangs up: %d", got)
		}
		synctest.Wait()
		if n.calls.Count() != 0 {
			t.Error("the call is stuck")
		}
	})
}

// The network may double a datagram: a 200 that comes twice at once is one answer.
func TestDoubledAnswerIsOneAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		h := ana.call("202", "v=0 ana")
		tx := <-bob.in
		for range 3 {
			bob.answer(tx, "v=0 bob")
		}
		h.status()
		synctest.Wait()
		if n.calls.Count() != 1 || strings.Contains(bob.saw(), "BYE") {
			t.Fatalf("bob saw %q, %d calls", bob.saw(), n.calls.Count())
		}
		if got := bob.callee(tx).do(sip.BYE, "").StatusCode; got != 200 {
			t.Errorf("bob hangs up: %d", got)
		}
	})
}

// Closing does not wait for the ACK of a caller who is gone.
func TestCloseWithAnAnswerUnacknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		h := ana.callWith(func(h *half) { h.noAck = true }, "202", "v=0 ana")
		bob.answer(<-bob.in, "v=0 bob")
		h.status()
		synctest.Wait()
		begun := time.Now()
		n.calls.Close()
		if took := time.Since(begun); took > time.Second {
			t.Errorf("closing took %s", took)
		}
		synctest.Wait()
		if !strings.Contains(ana.saw(), "BYE") || !strings.Contains(bob.saw(), "BYE") {
			t.Errorf("ana saw %q, bob %q", ana.saw(), bob.saw())
		}
	})
}
