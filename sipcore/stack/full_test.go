package stack

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/edge/edgetest"
	"carrierclass.net/ccnode/sipcore/mwi"
	"carrierclass.net/ccnode/sipcore/route"
)

// house is a site without users, whose media are slow.
type house struct {
	route.View
	slow chan struct{} // NewPort waits for it
	net  *edgetest.Net
}

func (h *house) Own() route.Site                        { return route.Site{Code: "0001", Emergency: []string{"112"}} }
func (h *house) Domain() string                         { return "shops.example" }
func (h *house) Local(string) bool                      { return true }
func (h *house) Lines() []route.Line                    { return nil }
func (h *house) Returns(string) bool                    { return false }
func (h *house) Class(site.RecordID) route.Class        { return "" }
func (h *house) Lookup(string) []route.Entry            { return nil }
func (h *house) CodeBegins(string) bool                 { return false }
func (h *house) SiteByCode(string) (route.Site, bool)   { return route.Site{}, false }
func (h *house) Bindings(site.AOR) []site.Binding       { return nil }
func (h *house) Unbind(context.Context, string) error   { return nil }
func (h *house) Summary(site.RecordID) (s site.Summary) { return }
func (h *house) Bridge(_, _ sipcore.Port) error         { return nil }
func (h *house) Bind(context.Context, site.Binding) error {
	return nil
}
func (h *house) Credentials(string, string) []sipcore.Credential { return nil }
func (h *house) NewPort(sipcore.PortParams) (sipcore.Port, error) {
	<-h.slow
	return nil, site.NodeFull
}

type location struct{ *house }

type routes struct{ *house }

func (r routes) Bindings(site.AOR) int { return 0 }

var _ mwi.Summaries = (*house)(nil)

// open starts a Stack at 10.0.0.1 and returns a socket of somebody at 10.0.0.2.
func open(t *testing.T, h *house) (phone *edgetest.Socket, stop func()) {
	t.Helper()
	n := edgetest.New()
	h.net = n
	s, err := New(Config{View: routes{h}, Location: location{h}, Credentials: h, Anchor: h, Summaries: h, MaxCalls: 100,
		Bind:    func(e *edge.Edge) error { e.AddPacket(n.UDP("10.0.0.1:5060")); return nil },
		Feature: func(context.Context, site.FeatureName, *b2bua.Call) error { return nil },
		Log:     slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(func(error) {})
	phone = n.UDP("10.0.0.2:5060")
	return phone, func() { s.Close(); phone.Close() }
}

// say sends a request and returns the status of the newest answer a moment later.
func say(phone *edgetest.Socket, method, user string, n int, more ...string) string {
	msg := fmt.Sprintf("%s sip:%s@shops.example SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.2:5060;branch=z9hG4bK%s%d\r\nMax-Forwards: 70\r\n"+
		"From: <sip:201@shops.example>;tag=a\r\nTo: <sip:%s@shops.example>\r\nCall-ID: %s%d\r\nCSeq: 1 %s\r\nContact: <sip:201@10.0.0.2:5060>\r\n%sContent-Length: 0\r\n\r\n",
		method, user, method, n, user, method, n, method, strings.Join(more, ""))
	answer := make(chan string, 1)
	go func() {
		b := make([]byte, 4096)
		n, _, err := phone.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		answer <- string(b[:min(n, 11)])
	}()
	phone.WriteToUDPAddrPort([]byte(msg), netip.MustParseAddrPort("10.0.0.1:5060"))
	return <-answer
}

// One address has four emergency calls at once, those of others pass; and the
// transaction layer knows emergency calls too: however many requests of one
// address wait, they are taken.
func TestEmergencyCallsPassAFullTransactionLayer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &house{slow: make(chan struct{})}
		phone, stop := open(t, h)
		final := func() string {
			b := make([]byte, 4096)
			n, _, err := phone.ReadFromUDPAddrPort(b)
			if err != nil {
				t.Fatal(err)
			}
			return string(b[:min(n, 11)])
		}
		for i := range 1100 { // each that is refused waits for its ACK
			if got := say(phone, "INVITE", "112", i); got != "SIP/2.0 100" {
				t.Fatalf("emergency call %d: %s", i, got)
			}
			if i < 4 {
				continue
			}
			if got := final(); got != "SIP/2.0 480" {
				t.Fatalf("emergency call %d, while four others last: %s", i, got)
			}
		}
		other := h.net.UDP("10.0.0.3:5060")
		if got := say(other, "INVITE", "112", 2000); got != "SIP/2.0 100" {
			t.Errorf("an emergency call from another address: %s", got)
		}
		close(h.slow)
		synctest.Wait()
		for range 4 {
			final()
		}
		if got := say(phone, "INVITE", "112", 1100); got != "SIP/2.0 100" {
			t.Errorf("an emergency call when four have ended: %s", got)
		}
		time.Sleep(time.Minute)
		other.Close()
		stop()
	})
}

// Whoever requires what we offer is served (RFC 4028 §7.1).
func TestSessionTimersMayBeRequired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		phone, stop := open(t, &house{})
		if got := say(phone, "OPTIONS", "201", 1, "Require: timer\r\n"); got != "SIP/2.0 200" {
			t.Errorf("Require: timer: %s", got)
		}
		if got := say(phone, "OPTIONS", "201", 2, "Require: foo\r\n"); got != "SIP/2.0 420" {
			t.Errorf("Require: foo: %s", got)
		}
		time.Sleep(time.Minute)
		stop()
	})
}
