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
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
)

// A lame socket fails to send what the test says.
type lame struct {
	edge.PacketConn
	fails func(to netip.AddrPort, b []byte) bool
}

func (l *lame) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if l.fails != nil && l.fails(to, b) {
		return 0, errors.New("network is unreachable")
	}
	return l.PacketConn.WriteToUDPAddrPort(b, to)
}

// speak makes all ports look as if they heard something, so that only
// signalling decides.
func (n *node) speak() {
	n.media.mu.Lock()
	defer n.media.mu.Unlock()
	for p := range n.media.ports {
		p.last = time.Now().Add(240 * time.Hour)
	}
}

// Requests go to the Contact of the 200, wherever the INVITE went (RFC 3261 §12.2.1.1).
func TestRequestsGoToTheContactOfTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, ana, bob, chi := shop(t)
		defer w.close()
		h := ana.call("202", "v=0 ana")
		tx := <-bob.in
		res := tx.Response(200, "")
		res.AppendHeader(chi.contact())
		body(res, "v=0 bob")
		tx.Respond(res)
		h.status()
		synctest.Wait()
		h.do(sip.BYE, "")
		synctest.Wait()
		if chi.saw() != "BYE" || strings.Contains(bob.saw(), "BYE") {
			t.Errorf("bob saw %q, where his contact is saw %q", bob.saw(), chi.saw())
		}
	})
}

// A change that comes from the other leg keeps the session timer alive: a
// re-INVITE without one would switch the phone's refreshes off (RFC 4028 §7.1).
func TestSessionTimerSurvivesTheOthersHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		h := ana.call("202", "v=0 ana", func(r *sip.Request) {
			r.AppendHeader(sip.NewHeader("Supported", "timer"))
			r.AppendHeader(sip.NewHeader("Session-Expires", "300;refresher=uac"))
		})
		tx := <-bob.in
		bob.answer(tx, "v=0 bob")
		h.status()
		synctest.Wait()
		n.speak()
		bob.callee(tx).do(sip.INVITE, "v=0 bob hold")
		if got := message.Get(ana.got["INVITE"], "Session-Expires"); got != "300;refresher=uac" {
			t.Errorf("ana was offered %q", got)
		}
		time.Sleep(400 * time.Second)
		synctest.Wait()
		if n.calls.Count() != 1 {
			t.Errorf("the call was ended; ana saw %q", ana.saw())
		}
		h.do(sip.BYE, "")
	})
}

// What a phone answers to our refresh counts: it may have moved.
func TestAnswerToARefreshIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		a, _ := talk(t, ana, bob)
		n.speak()
		time.Sleep(901 * time.Second)
		synctest.Wait()
		if bob.saw() != "INVITE INVITE" || n.media.find("v=0 rebob") == nil {
			t.Errorf("bob saw %q, and what he answered was not taken", bob.saw())
		}
		a.do(sip.BYE, "")
	})
}

// An answer that could not be sent does not close the dialog to changes.
func TestChangeAfterAnAnswerWasNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		a, _ := talk(t, ana, bob)
		n.speak()
		var broken atomic.Bool
		n.socket.fails = func(to netip.AddrPort, b []byte) bool {
			return broken.Load() && to == ana.addr && strings.HasPrefix(string(b), "SIP/2.0 200")
		}
		broken.Store(true)
		done := make(chan struct{})
		a.seq++
		req := a.request(sip.INVITE)
		body(req, "v=0 ana hold")
		tx := ana.layer.Request(context.Background(), req, a.server())
		go func() {
			defer close(done)
			for range tx.Responses() {
			}
		}()
		time.Sleep(time.Second)
		broken.Store(false)
		if got := a.do(sip.INVITE, "v=0 ana again").StatusCode; got != 200 {
			t.Errorf("the next change: %d", got)
		}
		a.do(sip.BYE, "")
		<-done
	})
}

// Whoever gave up does not ring the second flow of a phone when the first one
// turns out to be dead.
func TestNoGhostRingsOnTheSecondFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		dev := n.bindings[1].Device
		n.Bind(context.Background(), site.Binding{AOR: bob.user.AOR, User: bob.user.User, Device: dev, Contact: "sip:202@10.0.0.99:5060",
			Node: n.id, Transport: site.UDP, Source: netip.MustParseAddrPort("10.0.0.99:5060"), Updated: time.Now()})
		h := ana.call("202", "v=0 ana")
		time.Sleep(5 * time.Second)
		h.cancel()
		h.status()
		time.Sleep(90 * time.Second)
		synctest.Wait()
		if got := bob.saw(); got != "" {
			t.Errorf("long after ana gave up bob saw %q", got)
		}
	})
}

// An emergency call may carry where the phone is beside its offer (RFC 6442, RFC 5621).
func TestOfferAmongOtherBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		h := ana.call("202", "", func(r *sip.Request) {
			r.AppendHeader(sip.NewHeader("Content-Type", `multipart/mixed; boundary="b1"`))
			r.SetBody([]byte("--b1\r\nContent-Type: application/pidf+xml\r\nContent-ID: <loc@x>\r\n\r\n<presence/>\r\n" +
				"--b1\r\nContent-Type: application/sdp\r\n\r\nv=0 ana\r\n--b1--\r\n"))
		})
		tx := <-bob.in
		bob.answer(tx, "v=0 bob")
		if h.status() != 200 {
			t.Fatalf("%v", h.res)
		}
		if n.media.find("v=0 ana") == nil {
			t.Error("the offer was not taken")
		}
		h.do(sip.BYE, "")
	})
}

// Who a caller says he is in other headers is not passed on.
func TestSpoofedIdentityStaysOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, ana, bob, _ := shop(t)
		defer w.close()
		h := ana.call("202", "v=0 ana", func(r *sip.Request) {
			r.AppendHeader(sip.NewHeader("Remote-Party-ID", `"Head Office" <sip:100@shops.example>;party=calling`))
			r.AppendHeader(sip.NewHeader("P-Asserted-Identity", `<sip:100@shops.example>`))
		})
		tx := <-bob.in
		for _, name := range []string{"Remote-Party-ID", "P-Asserted-Identity"} {
			if got := message.Get(tx.Request(), name); got != "" {
				t.Errorf("bob is shown %s: %s", name, got)
			}
		}
		tx.Respond(tx.Response(486, ""))
		h.status()
	})
}

// A caller may end a dialog that is still early with BYE (RFC 3261 §15.1.2).
func TestByeBeforeTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		tag := make(chan string, 1)
		w.net.Tap = func(_, to netip.AddrPort, b []byte) {
			if to == ana.addr && strings.HasPrefix(string(b), "SIP/2.0 180") {
				_, rest, _ := strings.Cut(string(b), ";tag=t")
				_, rest, _ = strings.Cut(rest, ";tag=")
				rest, _, _ = strings.Cut(rest, "\r\n")
				select {
				case tag <- rest:
				default:
				}
			}
		}
		h := ana.callWith(func(h *half) { h.noAck = true }, "202", "v=0 ana")
		tx := <-bob.in
		tx.Respond(tx.Response(180, ""))
		h.theirs = <-tag
		if got := h.do(sip.BYE, "").StatusCode; got != 200 {
			t.Errorf("BYE: %d", got)
		}
		if got := h.status(); got != 487 {
			t.Errorf("the INVITE: %d", got)
		}
		synctest.Wait()
		if n.calls.Count() != 0 || !strings.Contains(bob.saw(), "CANCEL") {
			t.Errorf("%d calls, bob saw %q", n.calls.Count(), bob.saw())
		}
	})
}

// A phone whose answer could not be joined is not the caller's partner.
func TestVoicemailAfterAFailedJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		bob.user.settings.NoVoicemail = false
		n.feature = func(ctx context.Context, _ site.FeatureName, c *b2bua.Call) error {
			_, err := c.Answer(ctx)
			<-c.Context().Done()
			return err
		}
		n.media.jammed = true
		h := ana.call("202", "v=0 ana")
		bob.answer(<-bob.in, "v=0 bob")
		if h.status() != 200 {
			t.Fatalf("%v", h.res)
		}
		synctest.Wait()
		if got := h.do(sip.INVITE, "v=0 ana hold").StatusCode; got != 200 {
			t.Errorf("hold while talking to voicemail: %d", got)
		}
		h.do(sip.BYE, "")
	})
}

// The node that had the call is lost, and its pair is silent: that too is
// waited for no longer than a site's budget.
func TestPairIsNotWaitedForLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, _, _, ana, zoe := chain(t)
		defer w.close()
		h := ana.call("80002201", "v=0 ana")
		<-zoe.in
		time.Sleep(5 * time.Second)
		begun := time.Now()
		w.cut()
		w.mu.Lock()
		w.streams[0].Close()
		w.mu.Unlock()
		if got := h.status(); got != 200 {
			t.Errorf("voicemail: %d", got)
		}
		if took := time.Since(begun); took > 4*time.Second {
			t.Errorf("voicemail came after %v", took)
		}
		if len(a.notes) == 0 {
			t.Error("nobody took the call")
		}
		h.do(sip.BYE, "")
	})
}

// Who drains first is told too when somebody else drains as well.
func TestDrainTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, bob, _ := shop(t)
		defer w.close()
		a, _ := talk(t, ana, bob)
		n.speak()
		begun := time.Now()
		done := make(chan struct{})
		for range 2 {
			go func() { n.calls.Drain(context.Background()); done <- struct{}{} }()
			synctest.Wait()
		}
		a.do(sip.BYE, "")
		<-done
		<-done
		if took := time.Since(begun); took > time.Second {
			t.Errorf("draining took %s", took)
		}
	})
}

// Requests in a dialog need an address: a call from a Contact that is none is
// not taken.
func TestContactMustBeSIP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _, ana, _, _ := shop(t)
		defer w.close()
		got := ana.call("202", "v=0 ana", func(r *sip.Request) {
			message.Remove(r, "Contact")
			r.AppendHeader(sip.NewHeader("Contact", "<tel:+33472001201>"))
		}).status()
		if got != 400 {
			t.Errorf("got %d", got)
		}
	})
}

// A phone whose connection broke during the talk, and who is back on another
// one, still hears that the other end has hung up.
func TestPhoneOnANewConnection(t *testing.T) {
	for _, how := range []string{"spoke in the dialog", "registered"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, n, ana, bob, _ := shop(t)
				defer w.close()
				ana.tcp = true
				h := ana.call("202", "v=0 ana")
				tx := <-bob.in
				bob.answer(tx, "v=0 bob")
				h.status()
				synctest.Wait()
				ana.cutOff()
				synctest.Wait()
				if how == "registered" {
					req := h.request(sip.OPTIONS)
					message.Remove(req, "To")
					req.AppendHeader(&sip.ToHeader{Address: h.peer})
					body(req, "")
					for range ana.layer.Request(t.Context(), req, h.server()).Responses() {
					}
					n.Bind(context.Background(), site.Binding{AOR: ana.user.AOR, User: ana.user.User, Device: ana.user.User, Node: n.id,
						Contact: "sip:0001201@10.0.0.11:49152", Transport: site.TCP, Flow: n.flow, Source: netip.MustParseAddrPort("10.0.0.11:49152")})
				} else if got := h.do(sip.INVITE, "v=0 ana again").StatusCode; got != 200 {
					t.Errorf("re-INVITE: %d", got)
				}
				synctest.Wait()
				bob.callee(tx).do(sip.BYE, "")
				synctest.Wait()
				if got := ana.saw(); got != "BYE" {
					t.Errorf("ana saw %q", got)
				}
			})
		})
	}
}

// A telephone that dies while it listens to a feature ends its call, like any other.
func TestSilentCallerOfAFeature(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, n, ana, _, _ := shop(t)
		defer w.close()
		n.feature = func(ctx context.Context, _ site.FeatureName, c *b2bua.Call) error {
			_, err := c.Answer(ctx)
			<-c.Context().Done()
			return err
		}
		var dead atomic.Bool
		w.net.Fate = func(_, to netip.AddrPort, _ []byte) (bool, time.Duration) {
			return dead.Load() && to == ana.addr, 0
		}
		h := ana.call("*97", "v=0 ana")
		if h.status() != 200 {
			t.Fatalf("%v", h.res)
		}
		time.Sleep(50 * time.Second)
		if n.calls.Count() != 1 {
			t.Error("a silent phone that answers lost its call")
		}
		dead.Store(true)
		time.Sleep(60 * time.Second)
		synctest.Wait()
		if n.calls.Count() != 0 {
			t.Error("the phone is dead, its call is not")
		}
	})
}
