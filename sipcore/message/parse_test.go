package message

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emiago/sipgo/sip"
	"github.com/google/go-cmp/cmp"
)

func torture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "edge", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func accepted(t *testing.T, raw []byte) *sip.Request {
	t.Helper()
	m, fault := Parse(raw, false)
	if fault != nil {
		t.Fatal(fault)
	}
	return m.(*sip.Request)
}

func TestWhitespaceTorture(t *testing.T) {
	req := accepted(t, torture(t, "rfc4475/wsinv.dat"))
	vias := req.GetHeaders("via")
	got := []string{
		req.To().Params.GetOr("tag", ""), req.From().Params.GetOr("tag", ""), req.CSeq().Value(), req.MaxForwards().Value(),
		fmt.Sprint(len(vias)), vias[0].Value(), vias[1].Value(), vias[2].Value(), "[" + Get(req, "subject") + "]",
		req.From().DisplayName, req.Contact().Params.GetOr("q", ""), req.Contact().Params.GetOr("newparam", ""), Get(req, "NewFangledHeader"),
		Get(req, "UnknownHeaderWithUnusualValue"), fmt.Sprint(len(req.Body())),
	}
	want := []string{"1918181833n", "98asjd8", "9 INVITE", "68", "3", "SIP/2.0/UDP 192.0.2.2;branch=390skdjuw",
		"SIP/2.0/TCP spindle.example.com;branch=z9hG4bK9ikj8", "SIP/2.0/UDP 192.168.255.111;branch=z9hG4bK30239", "[]",
		`J Rosenberg \\\"`, "0.33", "newvalue", "newfangled value continued newfangled value", ";;,,;;,;", "150"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestTortureMeanings(t *testing.T) {
	semi := accepted(t, torture(t, "rfc4475/semiuri.dat")).Recipient
	if semi.User != "user;par=u%40example.net" || semi.Host != "example.com" || len(semi.UriParams) != 0 {
		t.Errorf("semiuri: %+v", semi)
	}
	if m := accepted(t, torture(t, "rfc4475/intmeth.dat")).Method; m != "!interesting-Method0123456789_*+`.%indeed'~" {
		t.Errorf("intmeth: method %q", m)
	}
	if m := accepted(t, torture(t, "rfc4475/esc02.dat")).Method; m != "RE%47IST%45R" {
		t.Errorf("esc02: method %q", m)
	}
	if c := accepted(t, torture(t, "rfc4475/cparam01.dat")).Contact(); !c.Params.Has("unknownparam") || len(c.Address.UriParams) != 0 {
		t.Errorf("cparam01: %s", c.Value())
	}
	if c := accepted(t, torture(t, "rfc4475/cparam02.dat")).Contact(); c.Params.Has("unknownparam") || !c.Address.UriParams.Has("unknownparam") {
		t.Errorf("cparam02: %s", c.Value())
	}
	if c := accepted(t, torture(t, "rfc4475/regescrt.dat")).Contact(); len(c.Address.Headers) != 1 {
		t.Errorf("regescrt: %s", c.Value())
	}
	if n := len(accepted(t, torture(t, "rfc4475/longreq.dat")).GetHeaders("via")); n != 34 {
		t.Errorf("longreq: %d Via", n)
	}
	if b := accepted(t, torture(t, "rfc4475/dblreq.dat")); len(b.Body()) != 0 || b.Method != "REGISTER" {
		t.Errorf("dblreq: %s with %d octets", b.Method, len(b.Body()))
	}
	for name, port := range map[string]int{"port-ambiguous": 0, "port-unambiguous": 5070} {
		u := accepted(t, torture(t, "rfc5118/wire/"+name+".dat")).Recipient
		if u.Port != port {
			t.Errorf("%s: port %d", name, u.Port)
		}
	}
	if status, _ := Acceptable(accepted(t, torture(t, "rfc4475/invut.dat")), "application/sdp"); status != 415 {
		t.Errorf("invut: %d", status)
	}
	if status, _ := Acceptable(accepted(t, torture(t, "rfc4475/sdp01.dat")), "application/sdp"); status != 406 {
		t.Errorf("sdp01: %d", status)
	}
	if status, _ := Acceptable(accepted(t, torture(t, "rfc4475/wsinv.dat")), "application/sdp"); status != 0 {
		t.Errorf("wsinv: %d", status)
	}
}

// TestViaGoesBackAsItCame is RFC 5118: the host of each Via is byte-equal in the answer.
func TestViaGoesBackAsItCame(t *testing.T) {
	files, _ := filepath.Glob("../edge/testdata/rfc5118/wire/*.dat")
	n := 0
	for _, f := range files {
		raw, _ := os.ReadFile(f)
		m, fault := Parse(raw, false)
		req, ok := m.(*sip.Request)
		if fault != nil || !ok {
			continue
		}
		n++
		var want []string
		for _, h := range req.GetHeaders("via") {
			want = append(want, h.Value())
		}
		res := NewResponse(req, 200, "", "tag")
		Received(res.Via(), "", "")
		var got []string
		for _, line := range strings.Split(res.String(), "\r\n") {
			if v, ok := strings.CutPrefix(line, "Via: "); ok {
				got = append(got, v)
				if !strings.Contains(string(raw), strings.Fields(v)[1][:min(len(strings.Fields(v)[1]), 12)]) {
					t.Errorf("%s: %s is not in the request", f, v)
				}
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", f, d)
		}
	}
	if n < 8 {
		t.Errorf("only %d requests seen", n)
	}
}

const base = "OPTIONS sip:a@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKx;rport\r\nFrom: <sip:b@example.com>;tag=1\r\n" +
	"To: <sip:a@example.com>\r\nCall-ID: 1@x\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"

// TestNeverGuess: each of these once fooled somebody's parser.
func TestNeverGuess(t *testing.T) {
	ok := func(old, new string) string {
		if !strings.Contains(base, old) {
			t.Fatalf("%q is not in the message", old)
		}
		return strings.Replace(base, old, new, 1)
	}
	for name, c := range map[string]struct {
		raw  string
		want int
	}{
		"as it is":                      {base, 0},
		"lower-case method":             {ok("OPTIONS sip", "options sip"), 400},
		"bare LF in a header":           {ok("Call-ID: 1@x", "Call-ID: 1@x\nX: y"), 400},
		"bare CR in a header":           {ok("Call-ID: 1@x", "Call-ID: 1@x\rX: y"), 400},
		"NUL in a header":               {ok("1@x", "1@\x00x"), 400},
		"space in a header name":        {ok("Call-ID:", "Call ID:"), 400},
		"second Call-ID, compact":       {ok("Call-ID: 1@x", "Call-ID: 1@x\r\ni: 2@x"), 400},
		"second From":                   {ok("Call-ID: 1@x", "Call-ID: 1@x\r\nf: <sip:c@x>;tag=2"), 400},
		"equal Content-Length twice":    {ok("Content-Length: 0", "Content-Length: 0\r\nl: 0"), 400},
		"Content-Length with plus":      {ok("Content-Length: 0", "Content-Length: +0"), 400},
		"Content-Length in hex":         {ok("Content-Length: 0", "Content-Length: 0x0"), 400},
		"Content-Length empty":          {ok("Content-Length: 0", "Content-Length: "), 400},
		"Content-Length too large":      {ok("Content-Length: 0", "Content-Length: 4294967296"), 400},
		"Max-Forwards 256":              {ok("Max-Forwards: 70", "Max-Forwards: 256"), 400},
		"Max-Forwards negative":         {ok("Max-Forwards: 70", "Max-Forwards: -1"), 400},
		"CSeq 2^31":                     {ok("CSeq: 1", "CSeq: 2147483648"), 400},
		"CSeq 2^31-1":                   {ok("CSeq: 1", "CSeq: 2147483647"), 0},
		"two tags":                      {ok("tag=1", "tag=1;TAG=2"), 400},
		"two branches":                  {ok("branch=z9hG4bKx", "branch=z9hG4bKx;branch=z9hG4bKy"), 400},
		"odd case of a tag":             {ok("tag=1", "TaG=1"), 0},
		"port 0":                        {ok("192.0.2.1:5060", "192.0.2.1:0"), 400},
		"port 65536":                    {ok("192.0.2.1:5060", "192.0.2.1:65536"), 400},
		"IPv6 without brackets":         {ok("192.0.2.1:5060", "2001:db8::1:5060"), 400},
		"IPv6 with a zone":              {ok("192.0.2.1:5060", "[fe80::1%eth0]:5060"), 400},
		"two at signs":                  {ok("sip:a@example.com SIP", "sip:a@b@example.com SIP"), 400},
		"no host":                       {ok("sip:a@example.com SIP", "sip:a@ SIP"), 400},
		"no user before @":              {ok("sip:a@example.com SIP", "sip:@example.com SIP"), 400},
		"bad escape":                    {ok("sip:a@example.com SIP", "sip:a%4@example.com SIP"), 400},
		"bare hash dialled":             {ok("sip:a@example.com SIP", "sip:#31#0123@example.com SIP"), 0},
		"wildcard Request-URI":          {ok("sip:a@example.com SIP", "* SIP"), 400},
		"header in Request-URI":         {ok("sip:a@example.com SIP", "sip:a@example.com?X=y SIP"), 400},
		"telephone":                     {ok("sip:a@example.com SIP", "tel:+33472001201 SIP"), 0},
		"emergency service":             {ok("sip:a@example.com SIP", "urn:service:sos SIP"), 0},
		"version 2.00":                  {ok("SIP/2.0\r\nVia", "SIP/2.00\r\nVia"), 505},
		"version sip/2.0":               {ok("SIP/2.0\r\nVia", "sip/2.0\r\nVia"), 0},
		"Via without transport":         {ok("SIP/2.0/UDP", "SIP/2.0"), 400},
		"Via of version 3":              {ok("SIP/2.0/UDP", "SIP/3.0/UDP"), 400},
		"Via without parameters, list":  {ok("192.0.2.1:5060;branch=z9hG4bKx;rport", "a.example, SIP/2.0/UDP b.example"), 0},
		"quote in a URI":                {ok("<sip:a@example.com>", `<sip:a"b@example.com>`), 400},
		"unclosed bracket":              {ok("<sip:a@example.com>\r\nCall", "<sip:a@example.com\r\nCall"), 400},
		"text after the address":        {ok("<sip:a@example.com>\r\nCall", "<sip:a@example.com> x\r\nCall"), 400},
		"comma in To":                   {ok("<sip:a@example.com>\r\nCall", "<sip:a@example.com>, <sip:x@y>\r\nCall"), 400},
		"folded first header":           {ok("SIP/2.0\r\nVia", "SIP/2.0\r\n Via"), 400},
		"Call-ID of two words":          {ok("1@x", "1 @x"), 400},
		"From without tag (RFC 2543)":   {ok(";tag=1", ""), 0},
		"no Max-Forwards (RFC 2543)":    {ok("Max-Forwards: 70\r\n", ""), 0},
		"no CSeq":                       {ok("CSeq: 1 OPTIONS\r\n", ""), 400},
		"CSeq of another method":        {ok("1 OPTIONS", "1 INVITE"), 400},
		"unknown header of all octets":  {ok("Max-Forwards: 70", "X-Y: \"\\\x01\" \xff\xfe ;;,,"), 0},
		"header without colon":          {ok("Max-Forwards: 70", "Max-Forwards"), 400},
		"display name with a semicolon": {ok("<sip:a@example.com>\r\nCall", "a;b <sip:a@example.com>\r\nCall"), 400},
	} {
		_, fault := Parse([]byte(c.raw), false)
		got := 0
		if fault != nil {
			got = fault.Status
		}
		if got != c.want {
			t.Errorf("%s: got %d (%v), want %d", name, got, fault, c.want)
		}
	}
}

func TestRefusalIsSafeToSend(t *testing.T) {
	raw := strings.Replace(base, "Max-Forwards: 70", "Max-Forwards: x", 1)
	_, fault := Parse([]byte(raw), false)
	b, via := fault.Answer(netip.MustParseAddrPort("198.51.100.7:4711"), "t0")
	got := string(b)
	for _, want := range []string{"SIP/2.0 400 Bad Request\r\n", "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKx;rport=4711;received=198.51.100.7\r\n",
		"To: <sip:a@example.com>;tag=t0\r\n", "Call-ID: 1@x\r\n", "CSeq: 1 OPTIONS\r\n", "Content-Length: 0\r\n\r\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if via == nil {
		t.Error("no Via to reply by")
	}
	if _, fault := Parse(b, false); fault != nil {
		t.Errorf("our own answer is refused: %v", fault)
	}
	_, fault = Parse([]byte(strings.ReplaceAll(raw, "OPTIONS", "ACK")), false)
	if b, _ := fault.Answer(netip.AddrPort{}, ""); b != nil {
		t.Error("an ACK was answered")
	}
}

// TestStreamCutsMakeNoDifference frames a stream of several messages, pings and
// a broken end, cut everywhere.
func TestStreamCutsMakeNoDifference(t *testing.T) {
	folded := strings.Replace(base, "Content-Length: 0\r\n\r\n", "Content-Length :\r\n\t 3\r\n\r\nabc", 1)
	stream := "\r\n\r\n" + base + "\r\n" + folded + "\r\n\r\n" + base + "\r\n\r\n\r\n" + base + "\x16\x03\x01"
	frames := func(segments ...string) (out []string) {
		f := Framer{Max: 4096}
		for _, s := range segments {
			f.Write([]byte(s))
			for {
				fr := f.Next()
				if fr.Ping {
					out = append(out, "ping")
				} else if fr.Broken {
					return append(out, "broken")
				} else if fr.Raw != nil {
					out = append(out, string(fr.Raw))
				} else {
					break
				}
			}
		}
		return out
	}
	want := []string{"ping", base, folded, "ping", base, "ping", base, "broken"}
	if d := cmp.Diff(want, frames(stream)); d != "" {
		t.Fatal(d)
	}
	for i := range stream {
		if d := cmp.Diff(want, frames(stream[:i], stream[i:])); d != "" {
			t.Fatalf("cut at %d: %s", i, d)
		}
	}
	if d := cmp.Diff(want, frames(strings.Split(stream, "")...)); d != "" {
		t.Error(d)
	}
}

// FuzzParse: nothing panics, and what is accepted prints and reads back equal.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("../edge/testdata/rfc*/*.dat")
	more, _ := filepath.Glob("../edge/testdata/rfc5118/wire/*.dat")
	for _, name := range append(files, more...) {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
		f.Add(b, true)
	}
	f.Add([]byte(base), true)
	f.Fuzz(func(t *testing.T, raw []byte, stream bool) {
		m, fault := Parse(raw, stream)
		if fault != nil {
			if b, _ := fault.Answer(netip.MustParseAddrPort("192.0.2.9:5060"), "t"); b != nil && strings.Count(string(b), "\r\n\r\n") != 1 {
				t.Fatalf("answer has a body: %q", b)
			}
			return
		}
		text := m.String()
		again, fault := Parse([]byte(text), true)
		if fault != nil {
			t.Fatalf("printed form is refused: %v\n%q\n%q", fault, raw, text)
		}
		if text2 := again.String(); text2 != text {
			t.Fatalf("does not read back equal:\n%q\n%q", text, text2)
		}
		if req, ok := m.(*sip.Request); ok {
			if res := NewResponse(req, 200, "", "tag"); res.Via().Value() != req.Via().Value() {
				t.Fatal("Via differs in the response")
			}
		}
		framer := Framer{Max: MaxSize}
		framer.Write([]byte(text))
		if fr := framer.Next(); string(fr.Raw) != text {
			t.Fatalf("framed differently: %q", fr.Raw)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	raw := []byte(strings.Replace(base, "Max-Forwards: 70", "Contact: <sip:201@192.0.2.1:5060>;expires=120\r\nAuthorization: Digest username=\"201\", realm=\"x\"\r\nUser-Agent: phone\r\nMax-Forwards: 70", 1))
	b.ReportAllocs()
	for b.Loop() {
		if _, fault := Parse(raw, false); fault != nil {
			b.Fatal(fault)
		}
	}
}
