package edge_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
)

type book map[string]string

func (b book) Resolve(_ context.Context, host string, port int, t site.Transport) ([]edge.Dest, error) {
	if b[host] == "" {
		return nil, errors.New("unknown")
	}
	u, err := message.ParseURI("sip:" + b[host])
	if err != nil {
		return nil, err
	}
	return edge.Target(context.Background(), &u, nil)
}

func TestTarget(t *testing.T) {
	for uri, want := range map[string]string{
		"sip:a@192.0.2.1":                    "udp 192.0.2.1:5060",
		"sip:a@192.0.2.1:5070;transport=TCP": "tcp 192.0.2.1:5070",
		"sip:a@[2001:db8::10:5070]":          "udp [2001:db8::10:5070]:5060",
		"sip:a@[2001:db8::10]:5070":          "udp [2001:db8::10]:5070",
		"sip:a@[::ffff:192.0.2.1]":           "udp 192.0.2.1:5060",
		"sips:a@192.0.2.1":                   "tls 192.0.2.1:5061",
		"sip:a@192.0.2.1;maddr=198.51.100.1": "udp 192.0.2.1:5060",
		"sip:a@proxy.example":                "udp 192.0.2.9:5062",
		"sip:a@nowhere.example":              "",
		"sip:a@255.255.255.255":              "",
		"sip:a@224.0.1.75":                   "",
		"sip:a@0.0.0.0":                      "",
		"sip:a@192.0.2.1;transport=sctp":     "",
		"tel:+33472001201":                   "",
	} {
		u, err := message.ParseURI(uri)
		if err != nil {
			t.Fatal(uri, err)
		}
		got := ""
		if d, err := edge.Target(t.Context(), &u, book{"proxy.example": "192.0.2.9:5062"}); err == nil {
			got = fmt.Sprint(d[0])
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", uri, got, want)
		}
	}
}
