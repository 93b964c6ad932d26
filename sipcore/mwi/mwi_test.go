package mwi

import (
	"testing"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
)

type box map[site.RecordID]site.Summary

func (b box) Summary(u site.RecordID) site.Summary { return b[u] }

func TestBodyIsWhatRFC3842Says(t *testing.T) {
	ana := sipcore.Line{AOR: site.AOR{User: "0001201", Domain: "shops.example"}, User: site.RecordID{1}}
	for _, c := range []struct {
		s    site.Summary
		want string
	}{
		{site.Summary{}, "Messages-Waiting: no\r\nMessage-Account: sip:0001201@shops.example\r\nVoice-Message: 0/0 (0/0)\r\n"},
		{site.Summary{Old: 3}, "Messages-Waiting: no\r\nMessage-Account: sip:0001201@shops.example\r\nVoice-Message: 0/3 (0/0)\r\n"},
		{site.Summary{New: 2, Old: 8}, "Messages-Waiting: yes\r\nMessage-Account: sip:0001201@shops.example\r\nVoice-Message: 2/8 (0/0)\r\n"},
	} {
		if got := string(New(box{ana.User: c.s}).State(ana)); got != c.want {
			t.Errorf("%+v: got %q, want %q", c.s, got, c.want)
		}
	}
}
