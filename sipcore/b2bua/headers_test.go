package b2bua

import (
	"strings"
	"testing"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
)

func TestVectorRoundTrip(t *testing.T) {
	for _, v := range []vector{{chain: "a-b"}, {chain: "x", applied: true, diversions: 4}, {chain: "y", applied: true, flows: true},
		{chain: "z", sos: sos{set: true, callBack: "+33472001200", place: "Shop A, 1 rue de l'Été; au fond"}}} {
		if got := parseVector(v.String()); got != v {
			t.Errorf("got %+v, want %+v", got, v)
		}
	}
	if v := parseVector(`icid-value="quoted";icid-generated-at=1.2.3.4;orig-ioi=x`); v != (vector{chain: "quoted"}) {
		t.Errorf("foreign parameters: %+v", v)
	}
}

// Each cause that can cross between sites means the same on the other side.
func TestCausesSurviveTheTripBetweenNodes(t *testing.T) {
	for _, c := range []site.Cause{site.NoSuchNumber, site.Incomplete, site.Busy, site.Refused, site.NoAnswer, site.Offline, site.Unreachable,
		site.NoLine, site.Forbidden, site.NodeFull, site.NotAcceptable, site.BadRequest, site.TooManyHops} {
		k := codes[c]
		res := sip.NewResponse(k.status, "")
		res.AppendHeader(sip.NewHeader("Reason", `SIP;cause=200;text="x, y", `+reason(c)))
		if got := causeOf(res); got != c {
			t.Errorf("%v became %v", c, got)
		}
	}
	for c := site.Normal; c <= site.Failure; c++ {
		if k, ok := codes[c]; !ok || k.status < 400 || k.status > 699 || k.q850 < 1 || k.q850 > 127 || k.status == 503 {
			t.Errorf("%v has %+v", c, k)
		}
	}
}

// A caller does not choose that the other phone answers by itself.
func TestNobodyIsMadeToAnswer(t *testing.T) {
	from, to := sip.NewRequest(sip.INVITE, sip.Uri{}), sip.NewRequest(sip.INVITE, sip.Uri{})
	for name, value := range map[string]string{"Answer-Mode": "Auto;require", "Priv-Answer-Mode": "Auto", "alert-info": "info=alert-autoanswer",
		"Call-Info": "<sip:x>;answer-after=0", "X-Shop": "kept"} {
		from.AppendHeader(sip.NewHeader(name, value))
	}
	copyHeaders(to, from)
	if hs := to.Headers(); len(hs) != 1 || hs[0].Name() != "X-Shop" {
		t.Errorf("copied %v", hs)
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add("icid-value=a;settings=applied;diversions=3")
	f.Add(`Q.850;cause=17;text="User busy"`)
	f.Add("1800;refresher=uac")
	f.Add("icid-value=a;sos=%2B33472001200;place=Lyon%2C+1+rue")
	f.Add(`na"me\`)
	f.Fuzz(func(t *testing.T, s string) {
		v := parseVector(s)
		if strings.ContainsAny(v.chain, " \t\"<>;,\\") || len(v.chain) > 64 {
			t.Errorf("chain %q would break a header", v.chain)
		}
		if again := parseVector(v.String()); again != v {
			t.Errorf("%+v became %+v", v, again)
		}
		q850(s)
		res := sip.NewResponse(200, "")
		res.AppendHeader(sip.NewHeader("Session-Expires", s))
		if d, _ := expires(res); d < 0 {
			t.Errorf("expires %v", d)
		}
		d := display(s)
		if strings.ContainsAny(strings.ReplaceAll(strings.ReplaceAll(d, `\\`, ""), `\"`, ""), "\"\r\n\x00") {
			t.Errorf("display name %q breaks out", d)
		}
		if u := escapeUser(s); strings.ContainsAny(u, "@<> \r\n\"") {
			t.Errorf("user %q breaks out", u)
		}
	})
}
