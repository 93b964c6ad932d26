package b2bua_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/transaction"
)

// BenchmarkCall is one whole call within a site, INVITE to BYE, authenticated,
// both telephones included, without media.
func BenchmarkCall(b *testing.B) {
	t := &testing.T{}
	w := newWorld(t)
	n := w.node("0001", "a", "10.0.0.1:5060")
	ana := w.phone(w.user(n, "201", "ana"), "10.0.0.11:5060")
	bob := w.phone(w.user(n, "202", "bob"), "10.0.0.12:5060")
	bob.behave(func(tx *transaction.ServerTx) bool {
		if tx.Request().Method == sip.INVITE {
			tx.Respond(tx.Response(180, ""))
			bob.answer(tx, "v=0 bob")
			return true
		}
		return false
	})
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		h := ana.call("202", "v=0 ana")
		if h.status() != 200 {
			b.Fatal(h.res)
		}
		h.do(sip.BYE, "")
	}
	b.StopTimer()
	for n.calls.Count() > 0 {
		runtime.Gosched()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	<-ctx.Done()
}
