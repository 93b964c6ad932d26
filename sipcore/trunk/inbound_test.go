package trunk_test

import (
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/transaction"
	"carrierclass.net/ccnode/sipcore/trunk"
)

var provider5 = netip.MustParseAddr("203.0.113.5")

func known(change ...func(*trunk.Known)) trunk.Known {
	k := trunk.Known{Trunk: account(), Addrs: []netip.Addr{provider5}, Token: "abcd1234"}
	for _, c := range change {
		c(&k)
	}
	return k
}

func TestNumbers(t *testing.T) {
	usa := trunk.Plan{Country: "1", Trunk: "1", Abroad: "011"}
	spain := trunk.Plan{Country: "34", Abroad: "00"}
	italy := trunk.Plan{Country: "39", Abroad: "00"}
	for _, c := range []struct {
		plan trunk.Plan
		in   string
		f    trunk.Format
		want string
		ok   bool
	}{
		{france, "+33472001201", "", "+33472001201", true},
		{france, "+33 (4) 72-00.12.01", "", "+33472001201", true},
		{france, "%2B33472001201", "", "+33472001201", true},
		{france, "0033472001201", "", "+33472001201", true},
		{france, "33472001201", "", "+33472001201", true},
		{france, "0472001201", "", "+33472001201", true},
		{france, "472001201", "", "+33472001201", true},
		{france, "472001201", trunk.National, "+33472001201", true},
		{france, "4930123456", trunk.Bare, "+4930123456", true},
		{france, "00491701234567", "", "+491701234567", true},
		{france, "00491701234567", trunk.National, "+491701234567", true},
		{france, "491701234567", "", "+491701234567", true},
		{france, "112", "", "112", false},
		{france, "3949", "", "3949", false},
		{france, "+112", "", "+112", true},
		{france, "ana", "", "", false},
		{france, "", "", "", false},
		{france, "+", "", "", false},
		{france, "+0123456789", "", "+0123456789", false},
		{france, "++33472001201", "", "", false},
		{france, "0472001201;npdi", "", "+33472001201", true},
		{france, "123456789012345678901234567890", "", "", false},
		{france, "%2", "", "", false},
		{usa, "2125551234", "", "+12125551234", true},
		{usa, "12125551234", "", "+12125551234", true},
		{usa, "01133472001201", "", "+33472001201", true},
		{spain, "911222333", "", "+34911222333", true},
		{spain, "34911222333", "", "+34911222333", true},
		{italy, "0612345678", "", "+390612345678", true},
		{trunk.Plan{}, "33472001201", "", "+33472001201", true},
		{trunk.Plan{}, "0472", "", "0472", false},
	} {
		got, ok := c.plan.E164(c.in, c.f)
		if got != c.want || ok != c.ok {
			t.Errorf("%q as %q: %q %v, want %q %v", c.in, c.f, got, ok, c.want, c.ok)
		}
	}
	for _, f := range []trunk.Format{trunk.Plus, trunk.Bare, trunk.National} {
		for _, n := range []string{"+33472001201", "+491701234567", "+12125551234"} {
			if got, ok := france.E164(france.Write(n, f), f); !ok || got != n {
				t.Errorf("%s written %s reads as %s", n, france.Write(n, f), got)
			}
		}
	}
}

func TestIdentifyNumbers(t *testing.T) {
	for _, c := range []struct {
		name    string
		uri     string
		headers []string
		change  func(*trunk.Known)
		want    trunk.Inbound
	}{
		{"number in the Request-URI", "sip:+33472001305@192.168.1.2:5060", nil, nil,
			trunk.Inbound{Called: "+33472001305", Listed: true, Caller: "+33612345678"}},
		{"account in the Request-URI, number in To", "sip:0472001201@192.168.1.2;line=abcd1234", []string{"To: <sip:0472001305@sip.example>"},
			func(k *trunk.Known) { k.User = "acct77"; k.Called = trunk.InTo },
			trunk.Inbound{Called: "+33472001305", Listed: true, Caller: "+33612345678"}},
		{"found anywhere", "sip:acct77@192.168.1.2", []string{"To: <tel:0472001305;phone-context=+33>"}, func(k *trunk.Known) { k.User = "acct77" },
			trunk.Inbound{Called: "+33472001305", Listed: true, Caller: "+33612345678"}},
		{"P-Called-Party-ID", "sip:acct77@192.168.1.2", []string{"P-Called-Party-ID: <sip:33472001307@sip.example;user=phone>"},
			func(k *trunk.Known) { k.Called = trunk.InCalledParty }, trunk.Inbound{Called: "+33472001307", Listed: true, Caller: "+33612345678"}},
		{"the account alone", "sip:acct77@192.168.1.2", []string{"To: <sip:acct77@sip.example>"}, func(k *trunk.Known) { k.User = "acct77" },
			trunk.Inbound{Called: "+33472001201", Listed: true, Caller: "+33612345678"}},
		{"a number that is not listed", "sip:+33472009999@192.168.1.2", nil, nil, trunk.Inbound{Called: "+33472009999", Caller: "+33612345678"}},
		{"an extension is nobody's", "sip:201@192.168.1.2", nil, nil, trunk.Inbound{Called: "201", Caller: "+33612345678"}},
		{"a name", "sip:ana@192.168.1.2", nil, nil, trunk.Inbound{Called: "ana", Caller: "+33612345678"}},
		{"named caller, national", "sip:+33472001201@192.168.1.2", []string{`From: "Bob \"B\"" <sip:0612345678@x;user=phone>;tag=1`}, nil,
			trunk.Inbound{Called: "+33472001201", Listed: true, Caller: "+33612345678", Name: `Bob "B"`}},
		{"asserted identity wins over From", "sip:+33472001201@192.168.1.2",
			[]string{"From: <sip:112@x>;tag=1", `P-Asserted-Identity: "Bob" <sip:+33698765432@x>, <tel:+33698765432>`}, nil,
			trunk.Inbound{Called: "+33472001201", Listed: true, Caller: "+33698765432", Name: "Bob", Proven: true}},
		{"anonymous", "sip:+33472001201@192.168.1.2", []string{`From: "Anonymous" <sip:anonymous@anonymous.invalid>;tag=1`}, nil,
			trunk.Inbound{Called: "+33472001201", Listed: true, Hidden: true}},
		{"anonymous with asserted identity", "sip:+33472001201@192.168.1.2",
			[]string{`From: "Anonymous" <sip:anonymous@anonymous.invalid>;tag=1`, "P-Asserted-Identity: Bob <sip:+33698765432@x>", "Privacy: id;critical"}, nil,
			trunk.Inbound{Called: "+33472001201", Listed: true, Hidden: true, Caller: "+33698765432", Proven: true}},
		{"Remote-Party-ID, hidden", "sip:+33472001201@192.168.1.2",
			[]string{"Remote-Party-ID: <sip:0698765432@x>;party=calling;privacy=full"}, nil,
			trunk.Inbound{Called: "+33472001201", Listed: true, Hidden: true, Caller: "+33698765432", Proven: true}},
		{"broken asserted identity", "sip:+33472001201@192.168.1.2", []string{`P-Asserted-Identity: "x <<`}, nil,
			trunk.Inbound{Called: "+33472001201", Listed: true, Caller: "+33612345678"}},
		{"no phone calls with an emergency's authority", "sip:+33472001201@192.168.1.2", []string{"From: <sip:ana@x>;tag=1"}, nil,
			trunk.Inbound{Called: "+33472001201", Listed: true, Caller: "ana"}},
	} {
		k := known()
		if c.change != nil {
			c.change(&k)
		}
		req := invite(c.uri, c.headers...)
		if req == nil {
			t.Fatalf("%s: does not parse", c.name)
		}
		c.want.Trunk = "provider"
		k.Via, c.want.Via = trunk.WAN, trunk.WAN
		got, ok := trunk.Identify([]trunk.Known{k}, france, req, trunk.Source{Addr: provider5})
		if !ok || got != c.want {
			t.Errorf("%s:\ngot  %+v %v\nwant %+v", c.name, got, ok, c.want)
		}
	}
}

// Nothing that a request says makes a stranger a provider.
func TestStrangers(t *testing.T) {
	k := known(func(k *trunk.Known) {
		k.Flow = "flow-1"
		k.Allowed = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/28")}
	})
	req := invite("sip:0472001201@192.168.1.2:5060;line=abcd1234", "From: <sip:+33472001201@sip.example>;tag=1", "P-Asserted-Identity: <sip:+33472001201@sip.example>",
		"Contact: <sip:203.0.113.5>", "Record-Route: <sip:203.0.113.5;lr>")
	for _, c := range []struct {
		src trunk.Source
		ok  bool
	}{
		{trunk.Source{Addr: provider5}, true},
		{trunk.Source{Addr: netip.MustParseAddr("::ffff:203.0.113.5")}, true},
		{trunk.Source{Addr: netip.MustParseAddr("198.51.100.15")}, true},
		{trunk.Source{Addr: netip.MustParseAddr("192.0.2.1"), Flow: "flow-1"}, true},
		{trunk.Source{Addr: netip.MustParseAddr("198.51.100.16")}, false},
		{trunk.Source{Addr: netip.MustParseAddr("192.168.1.50")}, false},
		{trunk.Source{Addr: netip.MustParseAddr("192.0.2.1"), Flow: "flow-2"}, false},
		{trunk.Source{Flow: ""}, false},
	} {
		if _, ok := trunk.Identify([]trunk.Known{k}, france, req, c.src); ok != c.ok {
			t.Errorf("%+v: %v", c.src, ok)
		}
	}
}

// Two accounts at one provider are told apart by token, account and number.
func TestTwoAccounts(t *testing.T) {
	a := known()
	b := known(func(k *trunk.Known) {
		k.Name, k.User, k.Token, k.Number, k.Numbers = "second", "0472001400", "ffff0000", "+33472001400", []string{"+33472001400"}
	})
	for uri, want := range map[string]string{
		"sip:0472001201@192.168.1.2;line=abcd1234":   "provider",
		"sip:0472001400@192.168.1.2;line=ffff0000":   "second",
		"sip:+33472001400@192.168.1.2;line=abcd1234": "provider",
		"sip:0472001400@192.168.1.2":                 "second",
		"sip:+33472001400@192.168.1.2":               "second",
		"sip:+33472001305@192.168.1.2":               "provider",
	} {
		for _, both := range [][]trunk.Known{{a, b}, {b, a}} {
			got, _ := trunk.Identify(both, france, invite(uri), trunk.Source{Addr: provider5})
			if got.Trunk != want {
				t.Errorf("%s: %s, want %s", uri, got.Trunk, want)
			}
		}
	}
}

func TestTwoAccountsByName(t *testing.T) {
	a := known(func(k *trunk.Known) { k.User = "acct76" })
	b := known(func(k *trunk.Known) { k.Name, k.User, k.Number, k.Numbers = "second", "acct77", "+33472001400", nil })
	for _, both := range [][]trunk.Known{{a, b}, {b, a}} {
		in, _ := trunk.Identify(both, france, invite("sip:acct77@192.168.1.2", "To: <sip:acct77@sip.example>"), trunk.Source{Addr: provider5})
		if in.Trunk != "second" || in.Called != "+33472001400" || !in.Listed {
			t.Errorf("%+v", in)
		}
		// A's number in To does not make a call to B's account one to A's.
		in, _ = trunk.Identify(both, france, invite("sip:acct77@192.168.1.2", "To: <sip:+33472001201@sip.example>"), trunk.Source{Addr: provider5})
		if in.Trunk != "second" || in.Listed {
			t.Errorf("%+v", in)
		}
	}
}

// A provider calls in over the connection we registered on.
func TestInboundByRegisteredFlow(t *testing.T) {
	var came *edge.Flow
	within(t, nil, func(w *world) {
		w.serve = func(tx *transaction.ServerTx) {
			came = tx.Flow()
			in, ok := w.tr.Inbound(tx.Request(), came)
			if !ok || in.Called != "+33472001201" || !in.Listed {
				t.Errorf("%+v %v", in, ok)
			}
			tx.Respond(tx.Response(486, ""))
		}
		a := account()
		a.Transport = site.TCP
		w.use(a)
		s := w.want(trunk.Registered)
		req := invite(s.Contact)
		req.RemoveHeader("Via")
		tx := w.p.l.Request(w.t.Context(), req, w.p.last().flow.Dest())
		res := <-tx.Responses()
		if res == nil || res.StatusCode != 486 || came == nil || came.Transport != site.TCP {
			t.Fatalf("%v %v", res, tx.Err())
		}
		elsewhere := netip.MustParseAddrPort("192.0.2.44:5060")
		if _, ok := w.tr.Inbound(req, &edge.Flow{Transport: site.TCP, Remote: elsewhere, Name: came.Name}); !ok {
			t.Error("the registered connection is not known")
		}
		for _, f := range []*edge.Flow{nil, {Transport: site.TCP, Remote: elsewhere, Name: came.Name + "x"}, {Transport: site.UDP, Remote: elsewhere},
			{Transport: site.Mesh, Remote: came.Remote}} {
			if in, ok := w.tr.Inbound(req, f); ok {
				t.Errorf("%+v was taken for the provider: %+v", f, in)
			}
		}
	})
}

func FuzzInbound(f *testing.F) {
	for _, s := range []string{"+33472001201", "0472001201;npdi", "%2b33", "anonymous", "tel:+1", `"a" <sip:b@c>, <tel:1>`} {
		f.Add(s, "Privacy: id", uint8(0))
		f.Add("201", "P-Asserted-Identity: "+s, uint8(1))
		f.Add("201", "P-Called-Party-ID: <sip:"+s+"@x>", uint8(2))
	}
	formats := []trunk.Format{"", trunk.Plus, trunk.Bare, trunk.National}
	f.Fuzz(func(t *testing.T, user, header string, format uint8) {
		inc := formats[int(format)%len(formats)]
		if n, ok := france.E164(user, inc); ok {
			if len(n) < 4 || len(n) > 16 || n[0] != '+' || strings.Trim(n[1:], "0123456789") != "" {
				t.Errorf("%q is no E.164 number", n)
			}
			if again, ok := france.E164(n, inc); !ok || again != n {
				t.Errorf("%q read again is %q", n, again)
			}
		}
		req := invite("sip:"+user+"@192.168.1.2", header)
		if req == nil {
			return
		}
		k := known(func(k *trunk.Known) { k.Incoming = inc })
		in, ok := trunk.Identify([]trunk.Known{k}, france, req, trunk.Source{Addr: provider5})
		if !ok || !utf8.ValidString(in.Name) && utf8.ValidString(header) || len(in.Name) > 70 || len(in.Called) > 70 || len(in.Caller) > 70 {
			t.Errorf("%+v %v", in, ok)
		}
		if strings.ContainsAny(in.Name+in.Called+in.Caller, "\r\n\x00") {
			t.Errorf("control characters in %+v", in)
		}
		if in.Hidden && in.Name != "" {
			t.Errorf("the name of a hidden caller: %+v", in)
		}
		if _, ok := trunk.Identify([]trunk.Known{k}, france, req, trunk.Source{Addr: netip.MustParseAddr("192.0.2.9")}); ok {
			t.Error("a stranger became a provider")
		}
	})
}
