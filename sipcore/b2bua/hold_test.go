package b2bua

import (
	"strings"
	"testing"
)

func TestHolds(t *testing.T) {
	const head = "v=0\r\no=- 1 1 IN IP4 10.0.0.9\r\ns=-\r\nc=IN IP4 10.0.0.9\r\nt=0 0\r\n"
	for what, c := range map[string]struct {
		sdp  string
		want bool
	}{
		"plain":                     {head + "m=audio 4000 RTP/AVP 0\r\n", false},
		"sendrecv":                  {head + "m=audio 4000 RTP/AVP 0\r\na=sendrecv\r\n", false},
		"sendonly":                  {head + "m=audio 4000 RTP/AVP 0\r\na=sendonly\r\n", true},
		"inactive":                  {head + "m=audio 4000 RTP/AVP 0\r\na=inactive\r\n", true},
		"recvonly":                  {head + "m=audio 4000 RTP/AVP 0\r\na=recvonly\r\n", false},
		"for the session":           {head + "a=sendonly\r\nm=audio 4000 RTP/AVP 0\r\n", true},
		"the stream says otherwise": {head + "a=sendonly\r\nm=audio 4000 RTP/AVP 0\r\na=sendrecv\r\n", false},
		"as in RFC 2543":            {strings.Replace(head, "c=IN IP4 10.0.0.9", "c=IN IP4 0.0.0.0", 1) + "m=audio 4000 RTP/AVP 0\r\n", true},
		"0.0.0.0 for the stream":    {head + "m=audio 4000 RTP/AVP 0\r\nc=IN IP4 0.0.0.0\r\n", true},
		"another stream is refused": {head + "m=video 0 RTP/AVP 99\r\na=inactive\r\nm=audio 4000 RTP/AVP 0\r\n", false},
		"another stream is held":    {head + "m=audio 4000 RTP/AVP 0\r\nm=video 4002 RTP/AVP 99\r\na=inactive\r\n", false},
		"no stream":                 {head, false},
		"only line feeds":           {strings.ReplaceAll(head+"m=audio 4000 RTP/AVP 0\r\na=sendonly\r\n", "\r", ""), true},
	} {
		if got := holds([]byte(c.sdp)); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func TestParseReplaces(t *testing.T) {
	for v, want := range map[string]replaces{
		"98732@sip.example;from-tag=r33th4x0r;to-tag=ff87ff": {callID: "98732@sip.example", from: "r33th4x0r", to: "ff87ff"},
		" a ; To-Tag = b ; FROM-TAG= c ;early-only;x=y":      {callID: "a", to: "b", from: "c", early: true},
		"a;to-tag=b":           {},
		";to-tag=b;from-tag=c": {},
		"":                     {},
	} {
		got, ok := parseReplaces(v)
		if ok != (want.callID != "") || ok && got != want {
			t.Errorf("%q: %+v %v", v, got, ok)
		}
	}
}

func FuzzMidCall(f *testing.F) {
	f.Add("v=0\r\nm=audio 4000 RTP/AVP 0\r\na=sendonly\r\n")
	f.Add("98732@sip.example;from-tag=r33th4x0r;to-tag=ff87ff")
	f.Add("c=\r\nm=\r\na=\r\n;;=;")
	f.Fuzz(func(_ *testing.T, s string) {
		holds([]byte(s))
		if r, ok := parseReplaces(s); ok && (r.callID == "" || r.to == "" || r.from == "") {
			panic("half a dialog")
		}
	})
}
