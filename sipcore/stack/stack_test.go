package stack

import (
	"testing"
	"time"

	"carrierclass.net/ccnode/sipcore/route"
)

type view struct {
	route.View
	asked int
	own   route.Site
}

func (v *view) Own() route.Site { v.asked++; return v.own }

func TestEmergencyCallsAreKnownInAFlood(t *testing.T) {
	now := time.Now()
	v := &view{own: route.Site{Emergency: []string{"112", "911"}, Outside: "0"}}
	c := &Stack{cfg: Config{View: v, Now: func() time.Time { return now }}}
	for line, want := range map[string]bool{
		"INVITE sip:112@shops.example SIP/2.0\r\n":          true,
		"INVITE sip:0911@192.0.2.1 SIP/2.0\r\n":             true,
		"ACK tel:112 SIP/2.0\r\n":                           true,
		"INVITE urn:service:sos.fire SIP/2.0\r\n":           true,
		"INVITE sip:1120@shops.example SIP/2.0\r\n":         false,
		"REGISTER sip:112@shops.example SIP/2.0\r\n":        false,
		"INVITE sip:201@shops.example;x=112 SIP/2.0\r\n":    false,
		"SIP/2.0 200 OK\r\nTo: <sip:112@shops.example>\r\n": false,
	} {
		for range 1000 {
			if got := c.emergency([]byte(line)); got != want {
				t.Fatalf("%q: %v", line, got)
			}
		}
	}
	if v.asked != 1 {
		t.Errorf("the site was looked up %d times for a flood", v.asked)
	}
	v.own.Emergency = []string{"999"}
	now = now.Add(time.Minute)
	if !c.emergency([]byte("INVITE sip:999@shops.example SIP/2.0\r\n")) {
		t.Error("a changed number is not known a minute later")
	}
}
