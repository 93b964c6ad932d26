package b2bua_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

func TestPhonesAreAskedToFetchTheirSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		b := n.Bindings(ana.user.AOR)[0]
		const event = "check-sync;reboot=false"
		if err := n.calls.Resync(t.Context(), b, event); err != nil {
			t.Fatal(err)
		}
		if got := ana.got["NOTIFY"]; got == nil || message.Get(got, "Event") != event || message.Get(got, "Subscription-State") == "" || len(got.Body()) > 0 {
			t.Errorf("the phone got %v", got)
		}
		ana.behave(func(tx *transaction.ServerTx) bool { tx.Respond(tx.Response(489, "")); return true })
		if err := n.calls.Resync(t.Context(), b, event); err == nil || !strings.Contains(err.Error(), "489") {
			t.Errorf("a refusal: %v", err)
		}
		ana.behave(func(*transaction.ServerTx) bool { return true })
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := n.calls.Resync(ctx, b, event); err == nil || ctx.Err() == nil {
			t.Errorf("a dead phone: %v", err)
		}
		if bob.saw() != "" {
			t.Errorf("another phone saw %s", bob.saw())
		}
	})
}
