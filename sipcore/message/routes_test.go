package message

import (
	"strings"
	"testing"

	"github.com/emiago/sipgo/sip"
)

// TestRoutes follows RFC 3261 §12.2.1.1 and the examples of §16.12.1.
func TestRoutes(t *testing.T) {
	with := func(rr string) *sip.Request {
		return accepted(t, []byte(strings.Replace(base, "Max-Forwards", "Record-Route: "+rr+"\r\nMax-Forwards", 1)))
	}
	target, _ := ParseURI("sip:callee@u2.example.com")
	for _, c := range []struct{ rr, ruri, routes, next string }{
		{"<sip:p2.example.com;lr>,<sip:p1.example.com;lr>", "sip:callee@u2.example.com", "<sip:p2.example.com;lr> <sip:p1.example.com;lr>", "p2.example.com"},
		{"<sip:p2.example.com>,<sip:p1.example.com;lr>", "sip:p2.example.com", "<sip:p1.example.com;lr> <sip:callee@u2.example.com>", "p1.example.com"},
	} {
		req := with(c.rr)
		routes := RouteSet(req)
		SetRoutes(req, target, routes)
		var got []string
		for _, h := range req.GetHeaders("route") {
			got = append(got, h.Value())
		}
		if req.Recipient.String() != c.ruri || strings.Join(got, " ") != c.routes {
			t.Errorf("%s: %s via %v", c.rr, req.Recipient.String(), got)
		}
		SetRoutes(req, target, routes) // again: nothing piles up
		if n := len(req.GetHeaders("route")); n != 2 {
			t.Errorf("%d routes", n)
		}
	}
	res := NewResponse(with("<sip:p2.example.com;lr>, <sip:p1.example.com;lr>"), 200, "", "t")
	if got := RouteSet(res); len(got) != 2 || got[0].Host != "p1.example.com" {
		t.Errorf("at the caller: %v", got)
	}
	req := with("<sip:x;lr>")
	SetRoutes(req, target, RouteSet(req))
	if got := NextHop(req).Host; got != "x" {
		t.Errorf("next hop %s", got)
	}
	SetRoutes(req, target, nil)
	if got := NextHop(req).Host; got != "u2.example.com" {
		t.Errorf("next hop %s", got)
	}
}
