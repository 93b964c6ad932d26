package trunk_test

import (
	"crypto/md5"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/trunk"
)

var toProvider = []edge.Dest{{Transport: site.UDP, Addr: netip.MustParseAddrPort(providerAddr)}}

// say prints what an Outgoing puts into the INVITE.
func say(o trunk.Outgoing) string {
	lines := []string{o.URI.String(), o.From.String(), o.To.String()}
	for _, h := range o.Headers {
		lines = append(lines, h.String())
	}
	return strings.Join(lines, "\n")
}

func TestCompose(t *testing.T) {
	ana := trunk.Call{From: site.Party{AOR: site.AOR{User: "0017203", Domain: "shops.example"}, Display: `Ana "A" Lima`, Number: "203"},
		Number: "+33472001305", Dialled: "+33612345678"}
	with := func(change func(*trunk.Call)) trunk.Call { c := ana; change(&c); return c }
	hidden := with(func(c *trunk.Call) { c.Hidden = true })
	for _, c := range []struct {
		name   string
		change func(*trunk.Trunk)
		call   trunk.Call
		want   string
		shown  string
	}{
		{"number in From", func(*trunk.Trunk) {}, ana,
			"sip:+33612345678@sip.example\nFrom: <sip:+33472001305@sip.example>\nTo: <sip:+33612345678@sip.example>", "+33472001305"},
		{"account in From, number asserted, national", func(t *trunk.Trunk) {
			t.Identity = trunk.Identity{Account: true, PAI: true, Format: trunk.National, Name: true}
			t.Dial, t.UserPhone = trunk.National, true
		}, ana, `sip:0612345678@sip.example;user=phone
From: "Ana \"A\" Lima" <sip:0472001201@sip.example>
To: <sip:0612345678@sip.example;user=phone>
P-Asserted-Identity: "Ana \"A\" Lima" <sip:0472001305@sip.example>`, "+33472001305"},
		{"abroad, national", func(t *trunk.Trunk) { t.Dial = trunk.National }, with(func(c *trunk.Call) { c.Dialled = "+4930123456" }),
			"sip:004930123456@sip.example\nFrom: <sip:+33472001305@sip.example>\nTo: <sip:004930123456@sip.example>", "+33472001305"},
		{"without plus, preferred identity and Remote-Party-ID", func(t *trunk.Trunk) {
			t.Identity = trunk.Identity{PPI: true, RPID: true, Format: trunk.Bare}
			t.Dial = trunk.Bare
		}, ana, `sip:33612345678@sip.example
From: <sip:33472001305@sip.example>
To: <sip:33612345678@sip.example>
P-Preferred-Identity: <sip:33472001305@sip.example>
Remote-Party-ID: <sip:33472001305@sip.example>;party=calling;screen=yes;privacy=off`, "+33472001305"},
		{"hidden", func(t *trunk.Trunk) { t.Identity = trunk.Identity{PAI: true, RPID: true, Name: true} }, hidden, `sip:+33612345678@sip.example
From: "Anonymous" <sip:anonymous@anonymous.invalid>
To: <sip:+33612345678@sip.example>
P-Asserted-Identity: <sip:+33472001305@sip.example>
Remote-Party-ID: <sip:+33472001305@sip.example>;party=calling;screen=yes;privacy=full
Privacy: id`, "+33472001305"},
		{"hidden, account in From", func(t *trunk.Trunk) { t.Identity.Account = true }, hidden, `sip:+33612345678@sip.example
From: "Anonymous" <sip:0472001201@sip.example>
To: <sip:+33612345678@sip.example>
Privacy: id`, "+33472001305"},
		{"emergency is never hidden; a call-back number of another trunk is not shown", func(*trunk.Trunk) {}, with(func(c *trunk.Call) {
			c.Hidden, c.Emergency, c.Dialled, c.CallBack = true, true, "112", "+33472001399"
		}), "sip:112@sip.example\nFrom: <sip:+33472001305@sip.example>\nTo: <sip:112@sip.example>\nPriority: emergency", "+33472001305"},
		{"call-back number of the trunk", func(t *trunk.Trunk) { t.Numbers = append(t.Numbers, "+33472001399") }, with(func(c *trunk.Call) {
			c.Emergency, c.Dialled, c.CallBack = true, "112", "+33472001399"
		}), "sip:112@sip.example\nFrom: <sip:+33472001399@sip.example>\nTo: <sip:112@sip.example>\nPriority: emergency", "+33472001399"},
		{"a number that is not ours is not shown", func(*trunk.Trunk) {}, with(func(c *trunk.Call) { c.Number = ""; c.From.Number = "+491701234567" }),
			"sip:+33612345678@sip.example\nFrom: <sip:+33472001201@sip.example>\nTo: <sip:+33612345678@sip.example>", "+33472001201"},
		{"unless the provider takes it", func(t *trunk.Trunk) { t.Identity.Foreign = true }, with(func(c *trunk.Call) { c.Number = ""; c.From.AOR.User = "+491701234567" }),
			"sip:+33612345678@sip.example\nFrom: <sip:+491701234567@sip.example>\nTo: <sip:+33612345678@sip.example>", "+491701234567"},
		{"a gateway without account", func(t *trunk.Trunk) {
			*t = trunk.Trunk{Name: "gw", Via: trunk.LAN, Server: "192.168.1.9", Port: 5062, Dial: trunk.National}
		}, ana, "sip:0612345678@192.168.1.9:5062\nFrom: <sip:anonymous@192.168.1.9>\nTo: <sip:0612345678@192.168.1.9>", ""},
		{"short codes stay", func(t *trunk.Trunk) { t.Dial = trunk.Bare }, with(func(c *trunk.Call) { c.Dialled = "#31#" }),
			"sip:%2331%23@sip.example\nFrom: <sip:+33472001305@sip.example>\nTo: <sip:%2331%23@sip.example>", "+33472001305"},
	} {
		tr := account()
		c.change(&tr)
		got, err := trunk.Compose(tr, france, c.call, toProvider)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if say(got) != c.want || got.Shown != c.shown || len(got.Dests) != 1 {
			t.Errorf("%s:\n%s\nshown %q, want:\n%s\nshown %q", c.name, say(got), got.Shown, c.want, c.shown)
		}
	}
}

func TestComposeRefuses(t *testing.T) {
	for _, dialled := range []string{"", "+", "ana", "12 34", "1@evil.example", "12\r\nX: y", "+1;phone-context=x", strings.Repeat("1", 40)} {
		if o, err := trunk.Compose(account(), france, trunk.Call{Dialled: dialled}, toProvider); err == nil {
			t.Errorf("%q became %s", dialled, o.URI.String())
		}
	}
	if _, err := trunk.Compose(account(), france, trunk.Call{Dialled: "112"}, nil); !errors.Is(err, trunk.ErrNowhere) {
		t.Error(err)
	}
}

// Whatever a caller is called, what leaves is one message with one meaning.
func TestNamesDoNotBreakHeaders(t *testing.T) {
	for _, name := range []string{`a" <sip:x@y>;q="`, "a\r\nX-Evil: 1", `back\`, strings.Repeat("é", 200), "\x00\x7f", `\"`} {
		tr := account()
		tr.Identity = trunk.Identity{PAI: true, RPID: true, Name: true}
		o, err := trunk.Compose(tr, france, trunk.Call{Dialled: "112", From: site.Party{Display: name}}, toProvider)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []string{o.From.Value(), o.Headers[0].Value(), o.Headers[1].Value()} {
			_, u, _, err := message.ParseAddress(v)
			if err != nil || u.String() != "sip:+33472001201@sip.example" || strings.ContainsAny(v, "\r\n\x00") {
				t.Errorf("%q: %s: %v, %v", name, v, u.String(), err)
			}
		}
	}
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		status    int
		err       error
		want, sos trunk.Answer
	}{
		{0, errors.New("no answer"), trunk.Next, trunk.Next},
		{100, nil, trunk.Wait, trunk.Wait}, {183, nil, trunk.Wait, trunk.Wait},
		{200, nil, trunk.Answered, trunk.Answered},
		{302, nil, trunk.Final, trunk.Next},
		{401, nil, trunk.Challenge, trunk.Challenge}, {407, nil, trunk.Challenge, trunk.Challenge},
		{403, nil, trunk.Final, trunk.Next}, {404, nil, trunk.Final, trunk.Next},
		{408, nil, trunk.Next, trunk.Next},
		{480, nil, trunk.Final, trunk.Next}, {484, nil, trunk.Final, trunk.Next}, {486, nil, trunk.Final, trunk.Next},
		{487, nil, trunk.Final, trunk.Final},
		{500, nil, trunk.Next, trunk.Next}, {503, nil, trunk.Next, trunk.Next}, {599, nil, trunk.Next, trunk.Next},
		{600, nil, trunk.Final, trunk.Next}, {603, nil, trunk.Final, trunk.Next},
	} {
		if got := trunk.Classify(c.status, c.err, false); got != c.want {
			t.Errorf("%d %v: %s, want %s", c.status, c.err, got, c.want)
		}
		if got := trunk.Classify(c.status, c.err, true); got != c.sos {
			t.Errorf("emergency, %d %v: %s, want %s", c.status, c.err, got, c.sos)
		}
	}
}

func invite(uri string, headers ...string) *sip.Request {
	raw := "INVITE " + uri + " SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.5:5060;branch=z9hG4bK1\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\n"
	all := strings.Join(headers, "\r\n") + "\r\n"
	for _, h := range []string{"From: <sip:+33612345678@sip.example>;tag=1", "To: <sip:x@sip.example>"} {
		name, _, _ := strings.Cut(h, ":")
		if !strings.Contains("\r\n"+all, "\r\n"+name+":") {
			raw += h + "\r\n"
		}
	}
	msg, fault := message.Parse([]byte(raw+all+"\r\n"), false)
	if fault != nil {
		return nil
	}
	return msg.(*sip.Request)
}

// A challenge to an INVITE is answered once; the second is a wrong password.
func TestAuthorization(t *testing.T) {
	req := invite("sip:+33612345678@sip.example")
	res := message.NewResponse(req, 407, "", "t")
	c := digest.Challenge{Realm: "sip.example", Nonce: "n1", Algorithm: "MD5", QOPAuth: true, Stale: false}
	res.AppendHeader(sip.NewHeader("Proxy-Authenticate", c.Header()))
	h, err := trunk.Authorization(account(), req, res, "cn")
	if err != nil {
		t.Fatal(err)
	}
	md5hex := func(s string) string { return fmt.Sprintf("%x", md5.Sum([]byte(s))) }
	want := md5hex("5065a7d4d110fd689978a204b589cceb:n1:00000001:cn:auth:" + md5hex("INVITE:sip:+33612345678@sip.example")) // md5sum of 0472001201:sip.example:secret
	got, err := digest.ParseCredentials(h.Value())
	if err != nil || h.Name() != "Proxy-Authorization" || got.URI != "sip:+33612345678@sip.example" || got.Response != want {
		t.Fatalf("%s %v", h, err)
	}
	again := req.Clone()
	again.AppendHeader(h)
	if _, err := trunk.Authorization(account(), again, res, "cn"); !errors.Is(err, trunk.ErrPassword) {
		t.Errorf("refused credentials were repeated: %v", err)
	}
	c.Nonce, c.Stale = "n2", true
	stale := message.NewResponse(again, 407, "", "t")
	stale.AppendHeader(sip.NewHeader("Proxy-Authenticate", c.Header()))
	if h, err := trunk.Authorization(account(), again, stale, "cn"); err != nil || !strings.Contains(h.Value(), `"n2"`) {
		t.Errorf("stale nonce: %v %v", h, err)
	}
	a := account()
	a.Realms = []string{"other"}
	if _, err := trunk.Authorization(a, req, res, "cn"); !errors.Is(err, trunk.ErrRealm) {
		t.Error(err)
	}
	if _, err := trunk.Authorization(account(), req, message.NewResponse(req, 401, "", "t"), "cn"); !errors.Is(err, trunk.ErrMethod) {
		t.Error(err)
	}
}
