package b2bua_test

import (
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/transaction"
	"carrierclass.net/ccnode/sipcore/trunk"
)

// natted is a line whose provider is told the address that it sees us at.
type natted struct{ *outside }

func (n natted) Outgoing(name string, c trunk.Call) (trunk.Outgoing, error) {
	out, err := n.outside.Outgoing(name, c)
	out.Public = netip.MustParseAddrPort("203.0.113.9:40123")
	return out, err
}

// The Contact of a call is the one of the registration: in the first INVITE and
// in every later request of the dialog.
func TestContactBehindARouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		o := &outside{at: map[string]string{"a": "10.0.9.1:5060"}}
		n := w.node("0001", "a", "10.0.0.1:5060", func(cfg *b2bua.Config) { cfg.Lines = natted{o} })
		n.lines = []route.Line{{Name: "a"}}
		ana := w.phone(w.user(n, "201", "ana"), "10.0.0.11:5060")
		u := &user{at: &node{w: w}}
		u.Name = "provider"
		provider := w.phone(u, o.at["a"])
		seen := make(chan string, 10)
		provider.behave(func(tx *transaction.ServerTx) bool {
			if tx.Request().Method != sip.INVITE {
				return false
			}
			seen <- tx.Request().Contact().Address.HostPort()
			if to, _ := tx.Request().To().Params.Get("tag"); to != "" {
				return false
			}
			provider.answer(tx, "v=0 provider")
			return true
		})
		h := ana.call("+33612345678", "v=0 ana")
		if h.status() != 200 {
			t.Fatal(h.res)
		}
		if got := <-seen; got != "203.0.113.9:40123" {
			t.Errorf("the INVITE has the contact %s", got)
		}
		synctest.Wait()
		if got := h.do(sip.INVITE, "v=0 ana other codec").StatusCode; got != 200 {
			t.Errorf("a change of the media: %d", got)
		}
		synctest.Wait()
		select {
		case got := <-seen:
			if got != "203.0.113.9:40123" {
				t.Errorf("a later INVITE has the contact %s", got)
			}
		default:
			t.Error("the provider was not told of the change")
		}
		h.do(sip.BYE, "")
	})
}
