package b2bua_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// board is the lamps of one site, without a pair.
type board struct {
	mu sync.Mutex
	of map[string][]sipcore.DialogState
}

func (b *board) Set(chain string, s []sipcore.DialogState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.of, chain)
	if len(s) > 0 {
		b.of[chain] = s
	}
}

func (b *board) calls() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.of)
}

func (b *board) Of(a site.AOR) (out []sipcore.DialogState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.of {
		for _, d := range s {
			if d.AOR == a {
				out = append(out, d)
			}
		}
	}
	return out
}

// midcall is a shop with sounds, lamps and codes.
func midcall(t *testing.T) (w *world, n *node, ana, bob, chi *ua, lit *board) {
	w, lit = newWorld(t), &board{of: map[string][]sipcore.DialogState{}}
	n = w.node("0001", "a", "10.0.0.1:5060", func(c *b2bua.Config) {
		c.Sound, c.Lamps = c.Anchor.(*anchor).sound, lit
		c.Announce = (&speaker{last: time.Second}).announce
	})
	n.site.Codes = append(n.site.Codes, route.MidCall...)
	ana = w.phone(w.user(n, "201", "ana"), "10.0.0.11:5060")
	bob = w.phone(w.user(n, "202", "bob"), "10.0.0.12:5060")
	chi = w.phone(w.user(n, "203", "chi"), "10.0.0.13:5060")
	return
}

// speak makes a call from one phone to another that is answered.
func speak(t *testing.T, from *ua, number, sdp string, to *ua, theirs string) (caller, callee *half) {
	t.Helper()
	caller = from.call(number, sdp)
	tx := <-to.in
	to.answer(tx, theirs)
	if caller.status() != 200 {
		t.Fatalf("call to %s: %d", number, caller.res.StatusCode)
	}
	synctest.Wait()
	return caller, to.callee(tx)
}

// frags lists what a phone was told about its transfer.
func frags(x *ua) func() string {
	var told []string
	x.behave(func(tx *transaction.ServerTx) bool {
		req := tx.Request()
		if req.Method != sip.NOTIFY {
			return false
		}
		first, _, _ := strings.Cut(strings.TrimPrefix(string(req.Body()), "SIP/2.0 "), " ")
		state, _, _ := strings.Cut(message.Get(req, "Subscription-State"), ";")
		told = append(told, first+" "+state)
		tx.Respond(tx.Response(200, ""))
		return true
	})
	return func() string { return strings.Join(told, ", ") }
}

func referTo(to string) func(*sip.Request) {
	return func(r *sip.Request) { r.AppendHeader(sip.NewHeader("Refer-To", to)) }
}

func hears(t *testing.T, n *node, want map[string]string) {
	t.Helper()
	synctest.Wait()
	for who, what := range want {
		if got := n.media.hears(who); got != what {
			t.Errorf("%s hears %q, want %q", who, got, what)
		}
	}
}

func TestHoldPlaysMusic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _, _ := midcall(t)
		defer w.close()
		a, b := speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
		hears(t, n, map[string]string{"v=0 ana": "v=0 bob", "v=0 bob": "v=0 ana"})
		before := ana.saw()
		const hold = "v=0 bob\r\nm=audio 4000 RTP/AVP 0\r\na=sendonly\r\n"
		if res := b.do(sip.INVITE, hold); res.StatusCode != 200 {
			t.Fatalf("hold: %d", res.StatusCode)
		}
		hears(t, n, map[string]string{"v=0 ana": "music"})
		if ana.saw() != before {
			t.Errorf("ana saw %s: a hold is nobody else's affair", ana.saw())
		}
		// The session is refreshed while it is on hold.
		if res := b.do(sip.INVITE, hold); res.StatusCode != 200 {
			t.Errorf("the same again: %d", res.StatusCode)
		}
		hears(t, n, map[string]string{"v=0 ana": "music"})
		const back = "v=0 bob\r\nm=audio 4000 RTP/AVP 0\r\na=sendrecv\r\n"
		if res := b.do(sip.INVITE, back); res.StatusCode != 200 {
			t.Errorf("resume: %d", res.StatusCode)
		}
		hears(t, n, map[string]string{"v=0 ana": back, back: "v=0 ana"})
		if ana.saw() != before {
			t.Errorf("ana saw %s", ana.saw())
		}
		a.do(sip.BYE, "")
	})
}

// A phone that agreed to a codec the node cannot speak is brought to one that
// it can, and back.
func TestMusicForAPhoneThatSpeaksWide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _, _ := midcall(t)
		defer w.close()
		a, b := speak(t, ana, "202", "v=0 ana wide", bob, "v=0 bob wide")
		b.do(sip.INVITE, "v=0 bob\r\nm=audio 4000 RTP/AVP 0\r\na=sendonly\r\n")
		hears(t, n, map[string]string{"v=0 reana": "music"})
		n.media.mu.Lock()
		n.media.narrow = true
		n.media.mu.Unlock()
		const back = "v=0 bob only wide\r\nm=audio 4000 RTP/AVP 9\r\na=sendrecv\r\n"
		if res := b.do(sip.INVITE, back); res.StatusCode != 200 {
			t.Fatalf("resume: %d", res.StatusCode)
		}
		hears(t, n, map[string]string{"v=0 reana": back, back: "v=0 reana"})
		if got := strings.Count(ana.saw(), "INVITE"); got != 2 {
			t.Errorf("ana saw %s", ana.saw())
		}
		a.do(sip.BYE, "")
	})
}

func TestBlindTransfer(t *testing.T) {
	for _, by := range []string{"callee", "caller"} {
		t.Run(by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, n, ana, bob, chi, lit := midcall(t)
				defer w.close()
				a, b := speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
				who, stays, shown := b, "v=0 ana", "201"
				told := frags(bob)
				if by == "caller" {
					who, stays, shown = a, "v=0 bob", "202"
					bob.behave(nil)
					told = frags(ana)
				}
				res := who.do(sip.REFER, "", referTo("<sip:203@"+domain+">"))
				if res.StatusCode != 202 {
					t.Fatalf("REFER: %d", res.StatusCode)
				}
				tx := <-chi.in
				if got := tx.Request().From().Address.User; got != shown {
					t.Errorf("chi sees %s call", got)
				}
				hears(t, n, map[string]string{stays: "ring-back"})
				tx.Respond(tx.Response(180, ""))
				synctest.Wait()
				chi.answer(tx, "v=0 chi")
				hears(t, n, map[string]string{stays: "v=0 chi", "v=0 chi": stays})
				if got := told(); got != "100 active, 180 active, 200 terminated" {
					t.Errorf("told %s", got)
				}
				if by == "callee" {
					who.do(sip.BYE, "")
				} else {
					time.Sleep(3 * time.Second) // it is ended by the node
					if !strings.HasSuffix(ana.saw(), "BYE") {
						t.Errorf("ana saw %s", ana.saw())
					}
				}
				hears(t, n, map[string]string{stays: "v=0 chi", "v=0 chi": stays})
				if n.calls.Count() != 1 || lit.calls() != 1 {
					t.Errorf("%d calls, lamps of %d", n.calls.Count(), lit.calls())
				}
				chi.callee(tx).do(sip.BYE, "")
				synctest.Wait()
				if n.calls.Count() != 0 || lit.calls() != 0 {
					t.Errorf("%d calls, lamps of %d", n.calls.Count(), lit.calls())
				}
				if r := n.last; r.From.AOR.User != "0001201" || r.To.AOR.User != "0001203" || len(r.Also) != 1 || r.Also[0].User != "0001202" || len(r.By) != 1 {
					t.Errorf("record: %s to %s, also %v, by %v", r.From.AOR.User, r.To.AOR.User, r.Also, r.By)
				}
			})
		})
	}
}

func TestFailedBlindTransferComesBack(t *testing.T) {
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprintf("gone=%v", gone), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, n, ana, bob, chi, _ := midcall(t)
				defer w.close()
				a, b := speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
				told := frags(bob)
				b.do(sip.REFER, "", referTo("<sip:203@"+domain+">"))
				tx := <-chi.in
				if gone {
					b.do(sip.BYE, "")
				}
				tx.Respond(tx.Response(486, ""))
				synctest.Wait()
				if !gone {
					if got := told(); got != "100 active, 486 terminated" {
						t.Errorf("told %s", got)
					}
					hears(t, n, map[string]string{"v=0 ana": "v=0 bob", "v=0 bob": "v=0 ana"})
				} else {
					bob.answer(<-bob.in, "v=0 bob2") // the phone that sent it there rings
					hears(t, n, map[string]string{"v=0 ana": "v=0 bob2", "v=0 bob2": "v=0 ana"})
				}
				a.do(sip.BYE, "")
			})
		})
	}
}

// Some phones (baresip 1.0.0) hang up by themselves when their transfer fails:
// they are rung, and who was to be transferred waits. Later it is a hang-up.
func TestAPhoneHangsUpAsItsTransferFails(t *testing.T) {
	for _, by := range []string{"callee", "caller"} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s late=%v", by, late), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, n, ana, bob, _, lit := midcall(t)
					defer w.close()
					a, b := speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
					who, back, kept, stays := b, bob, a, "v=0 ana"
					if by == "caller" {
						who, back, kept, stays = a, ana, b, "v=0 bob"
						frags(ana) // answers NOTIFYs
					} else {
						frags(bob)
					}
					who.do(sip.REFER, "", referTo("<sip:299@"+domain+">"))
					synctest.Wait()
					hears(t, n, map[string]string{"v=0 ana": "v=0 bob", "v=0 bob": "v=0 ana"})
					if late {
						time.Sleep(2 * time.Second)
					}
					who.do(sip.BYE, "")
					synctest.Wait()
					if late {
						if n.calls.Count() != 0 || lit.calls() != 0 {
							t.Errorf("%d calls, lamps of %d", n.calls.Count(), lit.calls())
						}
						if got := n.records[len(n.records)-1]; got != "end 0001201 0001202 normal" {
							t.Errorf("record %q", got)
						}
						return
					}
					back.answer(<-back.in, "v=0 again")
					hears(t, n, map[string]string{stays: "v=0 again", "v=0 again": stays})
					kept.do(sip.BYE, "")
					synctest.Wait()
					if n.calls.Count() != 0 || lit.calls() != 0 {
						t.Errorf("%d calls, lamps of %d", n.calls.Count(), lit.calls())
					}
				})
			})
		}
	}
}

// Who called the outside and hands the call to a colleague is still paid for:
// the record keeps the trunk, by which its minutes are counted.
func TestATransferredCallToTheOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, _, ana := ways(t, 200, 200)
		defer w.close()
		bob := w.phone(w.user(n, "202", "bob"), "10.0.0.12:5060")
		h := ana.call("+33612345678", "v=0 ana")
		if h.status() != 200 {
			t.Fatalf("call: %d", h.res.StatusCode)
		}
		synctest.Wait()
		frags(ana)
		h.do(sip.REFER, "", referTo("<sip:202@"+domain+">"))
		tx := <-bob.in
		bob.answer(tx, "v=0 bob")
		time.Sleep(3 * time.Second)
		bob.callee(tx).do(sip.BYE, "")
		synctest.Wait()
		if r := n.last; r.Answered != "trunk a" || r.To.AOR.User != "0001202" || len(r.Also) != 1 || r.Also[0].User != "+33612345678" {
			t.Errorf("record: %s to %s, also %v, answered by %q", r.From.AOR.User, r.To.AOR.User, r.Also, r.Answered)
		}
	})
}

// replacesURI names the other dialog of a phone as the phone sees it.
func replacesURI(number string, h *half) string {
	return "<sip:" + number + "@" + domain + "?Replaces=" + h.id + "%3Bto-tag%3D" + h.theirs + "%3Bfrom-tag%3D" + h.ours + ">"
}

func TestAttendedTransfer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, chi, _ := midcall(t)
		defer w.close()
		a, b := speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
		b.do(sip.INVITE, "v=0 bob\r\nm=audio 4000 RTP/AVP 0\r\na=sendonly\r\n")
		b2, c := speak(t, bob, "203", "v=0 bob2", chi, "v=0 chi")
		told := frags(bob)
		if res := b.do(sip.REFER, "", referTo(replacesURI("203", b2))); res.StatusCode != 202 {
			t.Fatalf("REFER: %d", res.StatusCode)
		}
		hears(t, n, map[string]string{"v=0 ana": "v=0 chi", "v=0 chi": "v=0 ana"})
		if got := told(); got != "100 active, 200 terminated" {
			t.Errorf("told %s", got)
		}
		time.Sleep(3 * time.Second)
		if got := strings.Count(bob.saw(), "BYE"); got != 2 {
			t.Errorf("bob saw %s", bob.saw())
		}
		if n.calls.Count() != 1 {
			t.Errorf("%d calls", n.calls.Count())
		}
		c.do(sip.BYE, "")
		synctest.Wait()
		if !strings.HasSuffix(ana.saw(), "BYE") {
			t.Errorf("ana saw %s", ana.saw())
		}
		_ = a
	})
}

func TestSemiAttendedTransfer(t *testing.T) {
	for _, answers := range []bool{true, false} {
		t.Run(fmt.Sprintf("answers=%v", answers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, n, ana, bob, chi, _ := midcall(t)
				defer w.close()
				a, b := speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
				b2 := bob.call("203", "v=0 bob2")
				tx := <-chi.in
				tx.Respond(tx.Response(180, ""))
				synctest.Wait()
				b2.theirs = tagOf(b2)
				told := frags(bob)
				b.do(sip.REFER, "", referTo(replacesURI("203", b2)))
				if got := b2.status(); got != 487 {
					t.Errorf("the consultation ended with %d", got)
				}
				hears(t, n, map[string]string{"v=0 ana": "ring-back"})
				if got := told(); got != "100 active, 200 terminated" {
					t.Errorf("told %s", got)
				}
				if answers {
					chi.answer(tx, "v=0 chi")
					hears(t, n, map[string]string{"v=0 ana": "v=0 chi", "v=0 chi": "v=0 ana"})
				} else {
					tx.Respond(tx.Response(486, ""))
					bob.answer(<-bob.in, "v=0 bob3")
					hears(t, n, map[string]string{"v=0 ana": "v=0 bob3"})
				}
				a.do(sip.BYE, "")
			})
		})
	}
}

// tagOf is the tag the node gave a call that rings.
func tagOf(h *half) string {
	for _, c := range h.x.user.at.calls.Calls() {
		for _, l := range c.Legs {
			if l.CallID == h.id {
				return l.LocalTag
			}
		}
	}
	return ""
}

func TestParkAndFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, chi, lit := midcall(t)
		defer w.close()
		a, b := speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
		told := frags(bob)
		b.do(sip.REFER, "", referTo("<sip:*71@"+domain+">"))
		hears(t, n, map[string]string{"v=0 ana": "music"})
		orbit := site.AOR{User: "*71", Domain: domain}
		if s := lit.Of(orbit); len(s) != 1 || !s[0].Parked || s[0].Remote.AOR.User != "0001201" {
			t.Errorf("the lamp of the orbit: %+v", s)
		}
		if got := told(); got != "100 active, 200 terminated" {
			t.Errorf("told %s", got)
		}
		time.Sleep(3 * time.Second)
		if !strings.Contains(bob.saw(), "MESSAGE") || !strings.Contains(bob.saw(), "BYE") {
			t.Errorf("bob saw %s", bob.saw())
		}
		// Nobody else fits in.
		if h := chi.call("*72", "v=0 chi"); h.status() != 480 {
			t.Errorf("an empty orbit: %d", h.status())
		}
		// After a minute the one who parked him is rung, in vain.
		time.Sleep(time.Minute)
		back := <-bob.in
		if got := back.Request().From().DisplayName; got != "*71 ana" {
			t.Errorf("bob sees %q", got)
		}
		back.Respond(back.Response(180, ""))
		hears(t, n, map[string]string{"v=0 ana": "music"})
		back.Respond(back.Response(486, ""))
		hears(t, n, map[string]string{"v=0 ana": "music"})
		h := chi.call("*71", "v=0 chi2")
		if h.status() != 200 {
			t.Fatalf("fetch: %d", h.status())
		}
		hears(t, n, map[string]string{"v=0 ana": "v=0 chi2", "v=0 chi2": "v=0 ana"})
		if s := lit.Of(orbit); len(s) != 0 {
			t.Errorf("the lamp of the orbit: %+v", s)
		}
		if n.calls.Count() != 1 {
			t.Errorf("%d calls", n.calls.Count())
		}
		a.do(sip.BYE, "")
		synctest.Wait()
		if !strings.HasSuffix(chi.saw(), "BYE") {
			t.Errorf("chi saw %s", chi.saw())
		}
	})
}

func TestRecallOfAParkedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _, _ := midcall(t)
		defer w.close()
		a, b := speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
		b.do(sip.REFER, "", referTo("<sip:*70@"+domain+">"))
		time.Sleep(time.Minute + time.Second)
		bob.answer(<-bob.in, "v=0 again")
		hears(t, n, map[string]string{"v=0 ana": "v=0 again", "v=0 again": "v=0 ana"})
		a.do(sip.BYE, "")
	})
}

func TestAFullOrbit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, chi, _ := midcall(t)
		defer w.close()
		a, b := speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
		b.do(sip.REFER, "", referTo("<sip:*71@"+domain+">"))
		hears(t, n, map[string]string{"v=0 ana": "music"})
		c, b2 := speak(t, chi, "202", "v=0 chi", bob, "v=0 bob2")
		told := frags(bob)
		b2.do(sip.REFER, "", referTo("<sip:*71@"+domain+">"))
		hears(t, n, map[string]string{"v=0 ana": "music", "v=0 chi": "v=0 bob2"})
		if got := told(); got != "100 active, 486 terminated" {
			t.Errorf("told %s", got)
		}
		a.do(sip.BYE, "")
		c.do(sip.BYE, "")
	})
}

func TestPickUp(t *testing.T) {
	for _, how := range []string{"**202", "*8", "Replaces"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, n, ana, bob, chi, lit := midcall(t)
				defer w.close()
				a := ana.call("202", "v=0 ana")
				tx := <-bob.in
				tx.Respond(tx.Response(180, ""))
				synctest.Wait()
				s := lit.Of(bob.user.AOR)
				if len(s) != 1 || s[0].Confirmed || !s[0].Recipient {
					t.Fatalf("bob's lamp: %+v", s)
				}
				var h *half
				if how == "Replaces" {
					h = chi.call("202", "v=0 chi", func(r *sip.Request) {
						r.AppendHeader(sip.NewHeader("Replaces", s[0].Chain+";to-tag=0001202;from-tag=c;early-only"))
					})
				} else {
					h = chi.call(how, "v=0 chi")
				}
				if h.status() != 200 || a.status() != 200 {
					t.Fatalf("chi %d, ana %d", h.status(), a.status())
				}
				hears(t, n, map[string]string{"v=0 ana": "v=0 chi", "v=0 chi": "v=0 ana"})
				if s := lit.Of(bob.user.AOR); len(s) != 0 {
					t.Errorf("bob's lamp: %+v", s)
				}
				if !strings.Contains(bob.saw(), `CANCEL SIP;cause=200;text="Call completed elsewhere"`) {
					t.Errorf("bob saw %s", bob.saw())
				}
				if n.calls.Count() != 1 {
					t.Errorf("%d calls", n.calls.Count())
				}
				h.do(sip.BYE, "")
				synctest.Wait()
				if !strings.HasSuffix(ana.saw(), "BYE") {
					t.Errorf("ana saw %s", ana.saw())
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // nothing rings
		w, _, _, _, chi, _ := midcall(t)
		defer w.close()
		if h := chi.call("**202", "v=0 chi"); h.status() != 480 {
			t.Errorf("got %d", h.status())
		}
		if h := chi.call("202", "v=0 chi", func(r *sip.Request) { r.AppendHeader(sip.NewHeader("Replaces", "x;to-tag=1;from-tag=2")) }); h.status() != 481 {
			t.Errorf("Replaces of nothing: %d", h.status())
		}
	})
}

// A phone that was told to take a call with Replaces takes it itself.
func TestReplacesOfATalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, chi, _ := midcall(t)
		defer w.close()
		a, b := speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
		with := func(more string) func(r *sip.Request) {
			return func(r *sip.Request) {
				r.AppendHeader(sip.NewHeader("Replaces", b.id+";to-tag="+b.theirs+";from-tag="+b.ours+more))
			}
		}
		if h := chi.call("202", "v=0 chi", with(";early-only")); h.status() != 486 {
			t.Errorf("early-only: %d", h.status())
		}
		h := chi.call("202", "v=0 chi2", with(""))
		if h.status() != 200 {
			t.Fatalf("got %d", h.status())
		}
		hears(t, n, map[string]string{"v=0 ana": "v=0 chi2", "v=0 chi2": "v=0 ana"})
		if !strings.HasSuffix(bob.saw(), "BYE") {
			t.Errorf("bob saw %s", bob.saw())
		}
		a.do(sip.BYE, "")
	})
}

func TestBadTransfers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _, _ := midcall(t)
		defer w.close()
		a, b := speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
		for _, to := range []string{"nonsense", "<tel:", "<sip:203@x?Replaces=abc>", "<sip:203@" + domain + ";method=BYE>"} {
			if res := b.do(sip.REFER, "", referTo(to)); res.StatusCode != 400 {
				t.Errorf("%s: %d", to, res.StatusCode)
			}
		}
		told := frags(bob)
		b.do(sip.REFER, "", referTo("<sip:203@"+domain+"?Replaces=x%3Bto-tag%3Dy%3Bfrom-tag%3Dz>"))
		synctest.Wait()
		if got := told(); !strings.HasSuffix(got, "481 terminated") {
			t.Errorf("told %s", got)
		}
		told = frags(bob)
		b.do(sip.REFER, "", referTo("<sip:299@"+domain+">"))
		synctest.Wait()
		if got := told(); !strings.HasSuffix(got, "404 terminated") {
			t.Errorf("told %s", got)
		}
		hears(t, n, map[string]string{"v=0 ana": "v=0 bob", "v=0 bob": "v=0 ana"})
		a.do(sip.BYE, "")
	})
}

// Whoever hangs up at whatever moment, nothing is left (close checks it).
func TestHangUpInATransfer(t *testing.T) {
	for _, who := range []string{"ana", "bob", "both"} {
		for _, to := range []string{"203", "*71"} {
			t.Run(who+" "+to, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w, n, ana, bob, chi, lit := midcall(t)
					defer w.close()
					a, b := speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
					b.do(sip.REFER, "", referTo("<sip:"+to+"@"+domain+">"))
					synctest.Wait()
					if who != "ana" {
						b.do(sip.BYE, "")
						synctest.Wait()
						if n.calls.Count() != 1 {
							t.Errorf("%d calls", n.calls.Count())
						}
					}
					if who == "bob" && to == "203" {
						chi.answer(<-chi.in, "v=0 chi")
						hears(t, n, map[string]string{"v=0 ana": "v=0 chi"})
					}
					a.do(sip.BYE, "")
					synctest.Wait()
					if n.calls.Count() != 0 || lit.calls() != 0 {
						t.Errorf("%d calls, lamps of %d", n.calls.Count(), lit.calls())
					}
				})
			})
		}
	}
}

// shared is one node's side of a board that a pair shares.
type shared struct {
	*board
	node site.NodeID
}

func (s shared) Set(chain string, states []sipcore.DialogState) {
	for i := range states {
		states[i].Node = s.node
	}
	s.board.Set(s.node.String()+chain, states)
}

// What rings or is parked at one node of a pair is taken by a phone of the other.
func TestPickUpAndFetchAtThePair(t *testing.T) {
	for _, how := range []string{"**202", "Replaces", "*71"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, lit := newWorld(t), &board{of: map[string][]sipcore.DialogState{}}
				defer w.close()
				node := func(letter, addr string) *node {
					n := w.node("0001", letter, addr, func(c *b2bua.Config) {
						c.Sound, c.Lamps = c.Anchor.(*anchor).sound, shared{lit, c.Node}
					})
					n.site.Codes = append(n.site.Codes, route.MidCall...)
					return n
				}
				na, nb := node("a", "10.0.0.1:5060"), node("b", "10.0.0.2:5060")
				ana := w.phone(w.user(na, "201", "ana"), "10.0.0.11:5060")
				bob := w.phone(w.user(na, "202", "bob"), "10.0.0.12:5060")
				chi := w.phone(w.user(nb, "203", "chi"), "10.0.0.13:5060")
				var a, h *half
				if how == "*71" {
					var b *half
					a, b = speak(t, ana, "202", "v=0 ana", bob, "v=0 bob")
					b.do(sip.REFER, "", referTo("<sip:*71@"+domain+">"))
					time.Sleep(3 * time.Second)
					h = chi.call("*71", "v=0 chi")
				} else {
					a = ana.call("202", "v=0 ana")
					tx := <-bob.in
					tx.Respond(tx.Response(180, ""))
					synctest.Wait()
					s := lit.Of(bob.user.AOR)
					if len(s) != 1 || s[0].Node != na.id {
						t.Fatalf("bob's lamp: %+v", s)
					}
					if how == "Replaces" {
						h = chi.call("0001202", "v=0 chi", func(r *sip.Request) {
							r.AppendHeader(sip.NewHeader("Replaces", s[0].Chain+";to-tag=0001202;from-tag=c"))
						})
					} else {
						h = chi.call(how, "v=0 chi")
					}
				}
				if h.status() != 200 || a.status() != 200 {
					t.Fatalf("chi %d, ana %d", h.status(), a.status())
				}
				synctest.Wait()
				if got := na.media.hears("v=0 ana"); !strings.HasPrefix(got, "v=0 port") {
					t.Errorf("ana hears %s", got)
				}
				if got := nb.media.hears("v=0 chi"); !strings.HasPrefix(got, "v=0 port") {
					t.Errorf("chi hears %s", got)
				}
				if na.calls.Count() != 1 || nb.calls.Count() != 1 {
					t.Errorf("%d and %d calls", na.calls.Count(), nb.calls.Count())
				}
				a.do(sip.BYE, "")
				synctest.Wait()
				if !strings.HasSuffix(chi.saw(), "BYE") || lit.calls() != 0 {
					t.Errorf("chi saw %s, lamps of %d", chi.saw(), lit.calls())
				}
			})
		})
	}
}
