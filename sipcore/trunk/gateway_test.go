package trunk_test

import (
	"net/netip"
	"testing"

	"carrierclass.net/ccnode/sipcore/trunk"
)

// A line of the shop's own behind a gateway on the LAN that has no account:
// an analogue one forwards every call to the number typed into its page, and
// says of the caller what the line told it.
func gateway(f trunk.Format) trunk.Known {
	return trunk.Known{Addrs: []netip.Addr{netip.MustParseAddr("192.168.1.9")}, Trunk: trunk.Trunk{
		Name: "fxo", Via: trunk.LAN, Server: "192.168.1.9", Number: "+33472001200", Numbers: []string{"+33472001200"},
		Dial: f, Incoming: f, Identity: trunk.Identity{Format: f}}}
}

func TestCallFromGateway(t *testing.T) {
	for _, f := range []trunk.Format{"", trunk.Plus, trunk.Bare, trunk.National} {
		for _, typed := range []string{"33472001200", "+33472001200", "0472001200"} {
			for from, want := range map[string]trunk.Inbound{
				"<sip:0612345678@192.168.1.9>":                       {Caller: "+33612345678"},
				`"0612345678" <sip:0612345678@192.168.1.9>`:          {Caller: "+33612345678"},
				`"Anonymous" <sip:anonymous@192.168.1.9>`:            {Hidden: true},
				`"unknown" <sip:unknown@192.168.1.9>`:                {Hidden: true},
				`"Anonymous" <sip:anonymous@anonymous.invalid>`:      {Hidden: true},
				"<sip:" + typed + "@192.168.1.9>":                    {Caller: "+33472001200"}, // the line told nothing
				`"Unavailable" <sip:unavailable@192.168.1.9;user=x>`: {Hidden: true},
			} {
				if f == trunk.Bare && want.Caller == "+33612345678" {
					continue // such a line would not write it so
				}
				want.Trunk, want.Via, want.Called, want.Listed = "fxo", trunk.LAN, "+33472001200", true
				req := invite("sip:"+typed+"@192.168.1.11:5060", "From: "+from+";tag=1", "To: <sip:"+typed+"@192.168.1.11>")
				got, ok := trunk.Identify([]trunk.Known{gateway(f)}, france, req, trunk.Source{Addr: netip.MustParseAddr("192.168.1.9")})
				if !ok || got != want {
					t.Errorf("format %q, called %s, from %s:\ngot  %+v %v\nwant %+v", f, typed, from, got, ok, want)
				}
			}
		}
	}
}

// What a gateway gets is what its line dials.
func TestCallToGateway(t *testing.T) {
	for dialled, want := range map[string]string{
		"112": "112", "15": "15", "3949": "3949", "+33612345678": "0612345678", "+4930123456": "004930123456",
	} {
		o, err := trunk.Compose(gateway(trunk.National).Trunk, france, trunk.Call{Dialled: dialled, Emergency: len(dialled) < 4, CallBack: "+33472001200"}, toProvider)
		if err != nil || o.URI.User != want || o.To.Address.User != want || o.From.Address.User != "0472001200" {
			t.Errorf("%s: %s, want %s; %s, %s: %v", dialled, o.URI.User, want, o.From, o.To, err)
		}
	}
}
