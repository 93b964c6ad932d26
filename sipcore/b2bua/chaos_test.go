package b2bua_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/edge/edgetest"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// Whatever people do at whatever instant on whatever network, every call ends
// and gives everything back (calls.md: no stuck call, no port, no goroutine).
func TestChaosLeavesNothingBehind(t *testing.T) {
	seeds := uint64(25)
	if os.Getenv("CCNODE_LONG") != "" {
		seeds = 1000
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) { chaos(t, seed) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func chaos(t *testing.T, seed uint64) {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 1))
	dice := func(n int) int { mu.Lock(); defer mu.Unlock(); return r.IntN(n) }
	nap := func(ms int) { time.Sleep(time.Duration(dice(ms)) * time.Millisecond) }
	w, n, ana, bob, chi, lit := midcall(t)
	other := w.node("0002", "a", "10.0.2.1:5060", func(c *b2bua.Config) { c.Sound = c.Anchor.(*anchor).sound })
	other.site.Codes = n.site.Codes
	var talking sync.Map // what each phone talks in: half to its phone
	refer := func(h *half) {
		to := "<sip:" + []string{"201", "202", "203", "80002201", "*71", "*70", "*97", "299"}[dice(8)] + "@" + domain
		if dice(2) == 0 {
			talking.Range(func(k, v any) bool {
				o := k.(*half)
				if o == h || v != h.x || dice(2) == 0 {
					return true
				}
				o.mu.Lock()
				to += "?Replaces=" + o.id + "%3Bto-tag%3D" + o.theirs + "%3Bfrom-tag%3D" + o.ours
				o.mu.Unlock()
				return false
			})
		}
		h.try(sip.REFER, "", referTo(to+">"))
	}
	zoe := w.phone(w.user(other, "201", "zoe"), "10.0.2.11:5060")
	rough, calm := edgetest.Random(seed, float64(seed%4)/10, 30*time.Millisecond), atomic.Bool{}
	w.net.Fate = func(from, to netip.AddrPort, b []byte) (bool, time.Duration) {
		if calm.Load() {
			return false, 0
		}
		return rough(from, to, b)
	}
	for _, x := range []*node{n, other} {
		x.feature = func(ctx context.Context, _ site.FeatureName, c *b2bua.Call) error {
			nap(2000)
			if dice(3) > 0 {
				c.Early(ctx)
			}
			nap(2000)
			switch dice(4) {
			case 0:
				return site.NodeFull
			case 1:
				c.Answer(ctx)
				nap(5000)
				return c.Hangup(ctx, site.Normal)
			}
			c.Answer(ctx)
			select {
			case <-c.Context().Done():
			case <-time.After(time.Duration(dice(60)) * time.Second):
			}
			return nil
		}
	}
	phones := []*ua{ana, bob, chi, zoe}
	for _, x := range phones {
		x.user.settings.NoVoicemail = dice(2) == 0
		x.behave(func(tx *transaction.ServerTx) bool {
			req := tx.Request()
			nap(50)
			switch {
			case req.Method == sip.INVITE && !req.To().Params.Has("tag"):
				go func() {
					if dice(4) > 0 {
						tx.Respond(tx.Response(180, ""))
					}
					nap(8000)
					switch dice(6) {
					case 0:
						tx.Respond(tx.Response(486, ""))
					case 1: // never
					case 2:
						x.answer(tx, "nonsense")
					default:
						x.answer(tx, "v=0 x")
						nap(20000)
						h := x.callee(tx)
						talking.Store(h, x)
						defer talking.Delete(h)
						for range dice(3) {
							if dice(2) == 0 {
								refer(h)
							} else {
								h.try(sip.INVITE, "v=0 x\r\nm=audio 9 RTP/AVP 0\r\na="+[]string{"sendonly", "inactive", "sendrecv"}[dice(3)]+"\r\n")
							}
							nap(9000)
						}
						if dice(2) == 0 {
							x.layer.Request(context.Background(), bye(x, tx), n2dest(tx))
						}
					}
				}()
			case req.Method == sip.INVITE:
				switch dice(4) {
				case 0:
					tx.Respond(tx.Response(491, ""))
				case 1: // silent
				default:
					x.answer(tx, "v=0 re")
				}
			default:
				tx.Respond(tx.Response(200, ""))
			}
			return true
		})
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			nap(30000)
			x := phones[dice(len(phones))]
			number := []string{"201", "202", "203", "80002201", "80001202", "*97", "299", "0001201", "**202", "**203", "*8", "*71", "*72"}[dice(13)]
			sdp := []string{"v=0 a", "v=0 a", ""}[dice(3)]
			name := fmt.Sprintf("%s-%d-%d", x.user.Name, seed, i)
			h := x.callWith(func(h *half) {
				h.id, h.noAck = name, dice(5) == 0
				if sdp == "" {
					h.ackSDP = []string{"v=0 late", ""}[dice(2)]
				}
			}, number, sdp, func(r *sip.Request) {
				id := sip.CallIDHeader(name)
				message.Remove(r, "Call-ID")
				r.AppendHeader(&id)
			})
			if dice(3) == 0 {
				nap(10000)
				h.cancel()
			}
			if h.status() != 200 {
				return
			}
			talking.Store(h, x)
			defer talking.Delete(h)
			for range dice(4) {
				nap(5000)
				switch dice(4) {
				case 0:
					refer(h)
				case 1:
					h.try(sip.INVITE, "v=0 a\r\nm=audio 9 RTP/AVP 0\r\na="+[]string{"sendonly", "inactive", "sendrecv"}[dice(3)]+"\r\n")
				default:
					h.try(sip.INVITE, "v=0 hold")
				}
			}
			if dice(3) > 0 {
				nap(20000)
				h.try(sip.BYE, "")
			}
		})
	}
	wg.Wait()
	calm.Store(true)
	time.Sleep(3 * time.Hour) // longer than any session
	synctest.Wait()
	for _, x := range []*node{n, other} {
		if c, p := x.calls.Count(), x.media.open(); c != 0 || p != 0 {
			t.Errorf("site %s: %d calls and %d ports are left: %+v", x.site.Code, c, p, x.calls.Calls())
		}
		if s, c := x.layer.Open(); s != 0 || c != 0 {
			t.Errorf("site %s: %d and %d transactions are left", x.site.Code, s, c)
		}
	}
	if lit.calls() != 0 {
		t.Errorf("lamps of %d calls are lit", lit.calls())
	}
	w.close()
}

// try is do for a network on which no answer may come.
func (h *half) try(method sip.RequestMethod, sdp string, more ...func(*sip.Request)) {
	h.seq++
	req := h.request(method)
	body(req, sdp)
	for _, m := range more {
		m(req)
	}
	tx := h.x.layer.Request(context.Background(), req, h.server())
	for res := range tx.Responses() {
		if method == sip.INVITE && res.IsSuccess() {
			h.established(tx, res)
		}
		if res.StatusCode >= 200 {
			return
		}
	}
}

func bye(x *ua, tx *transaction.ServerTx) *sip.Request {
	h := x.callee(tx)
	req := h.request(sip.BYE)
	req.SetBody(nil)
	return req
}

func n2dest(tx *transaction.ServerTx) edge.Dest { return tx.Flow().Dest() }
