package b2bua

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
)

// own are the headers that belong to one leg; everything else is copied from
// leg to leg (calls.md §4). What makes a phone answer by itself (RFC 5373, and
// what vendors put into Alert-Info and Call-Info) is among them: a caller could
// listen to a room with it.
var own = map[string]bool{}

func init() {
	for _, h := range strings.Fields(`Via From To Call-ID CSeq Contact Route Record-Route Max-Forwards Content-Length
		Authorization Proxy-Authorization WWW-Authenticate Proxy-Authenticate Authentication-Info Proxy-Authentication-Info
		Session-Expires Min-SE Supported Unsupported Require Proxy-Require Allow Allow-Events Accept
		P-Charging-Vector Remote-Party-ID P-Asserted-Identity P-Preferred-Identity P-Served-User P-Access-Network-Info Path Service-Route
		User-Agent Server RSeq RAck Replaces Join Timestamp Date Expires Event Subscription-State Refer-To Referred-By
		Security-Client Security-Server Security-Verify Reason Retry-After Identity MIME-Version Target-Dialog
		Answer-Mode Priv-Answer-Mode Alert-Info Call-Info
		Content-Type Content-Encoding Content-Disposition`) {
		own[strings.ToLower(h)] = true
	}
}

// copyHeaders adds to to what from has and no leg owns.
func copyHeaders(to, from sip.Message) {
	for _, h := range from.(interface{ Headers() []sip.Header }).Headers() {
		if !own[strings.ToLower(h.Name())] {
			to.AppendHeader(sip.NewHeader(h.Name(), strings.Clone(h.Value())))
		}
	}
}

// copyBody adds the body of from to to, with its headers.
func copyBody(to, from sip.Message) {
	if len(from.Body()) == 0 {
		to.SetBody(nil)
		return
	}
	for _, n := range [...]string{"Content-Type", "Content-Encoding", "Content-Disposition", "MIME-Version"} {
		if v := message.Get(from.(interface{ Headers() []sip.Header }), n); v != "" {
			to.AppendHeader(sip.NewHeader(n, strings.Clone(v)))
		}
	}
	to.SetBody(append([]byte(nil), from.Body()...))
}

// setSDP gives msg a session description, none if sdp is nil.
func setSDP(msg sip.Message, sdp []byte) {
	if sdp == nil {
		msg.SetBody(nil)
		return
	}
	msg.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	msg.SetBody(sdp)
}

// sdpOf returns the session description of msg, nil if it has no body, or
// several and none of them is one (RFC 5621 §3.1); ok is false if the body is
// something else.
func sdpOf(msg sip.Message) (sdp []byte, ok bool) {
	b := msg.Body()
	if len(b) == 0 {
		return nil, true
	}
	all := message.Get(msg.(interface{ Headers() []sip.Header }), "Content-Type")
	t, _, _ := strings.Cut(all, ";")
	if t := strings.TrimSpace(t); len(t) > 10 && strings.EqualFold(t[:10], "multipart/") {
		return sdpAmong(b, all)
	}
	if !strings.EqualFold(strings.TrimSpace(t), "application/sdp") {
		return nil, false
	}
	return b, true
}

// sdpAmong returns the first session description of a multipart body.
func sdpAmong(b []byte, contentType string) (sdp []byte, ok bool) {
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil || params["boundary"] == "" {
		return nil, false
	}
	parts := multipart.NewReader(bytes.NewReader(b), params["boundary"])
	for range maxParts {
		part, err := parts.NextPart()
		if err != nil {
			return nil, err == io.EOF
		}
		t, _, _ := strings.Cut(part.Header.Get("Content-Type"), ";")
		if strings.EqualFold(strings.TrimSpace(t), "application/sdp") {
			sdp, err := io.ReadAll(part)
			return sdp, err == nil && len(sdp) > 0
		}
	}
	return nil, false
}

// maxParts is how many bodies of one message are looked at.
const maxParts = 16

const (
	allow     = "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, INFO, MESSAGE, REFER, NOTIFY"
	userAgent = "ccnode"
)

// Supported are the option-tags that requests of a call may require.
var Supported = []string{"timer", "replaces", "norefersub"}

// about adds what every INVITE, re-INVITE and 2xx says of us.
func about(msg sip.Message) {
	msg.AppendHeader(sip.NewHeader("Allow", allow))
	msg.AppendHeader(sip.NewHeader("Supported", strings.Join(Supported, ", ")))
}

// A vector is what nodes tell each other of a call, in P-Charging-Vector
// (RFC 7315 §4.6): the chain id, and how far routing has come. It never goes
// to a phone.
type vector struct {
	chain      string
	applied    bool // the user's settings were applied: only ring
	flows      bool // ring only phones whose connection is yours
	diversions int
	sos        sos // of an emergency call whose own site has no line
}

func (v vector) String() string {
	s := "icid-value=" + v.chain
	if v.applied {
		s += ";settings=applied"
	}
	if v.flows {
		s += ";phones=own"
	}
	if v.diversions > 0 {
		s += ";diversions=" + strconv.Itoa(v.diversions)
	}
	return s + v.sos.String()
}

// parseVector reads what another node said. Unknown parameters are left alone.
func parseVector(s string) (v vector) {
	for p := range strings.SplitSeq(s, ";") {
		k, val, _ := strings.Cut(strings.TrimSpace(p), "=")
		val = message.Unquote(val)
		switch strings.ToLower(k) {
		case "icid-value":
			if len(val) <= 64 && !strings.ContainsAny(val, " \t\"<>;,\\") {
				v.chain = strings.Clone(val)
			}
		case "settings":
			v.applied = val == "applied"
		case "phones":
			v.flows = val == "own"
		case "diversions":
			if n, err := strconv.ParseUint(val, 10, 8); err == nil {
				v.diversions = int(n)
			}
		case "sos", "place":
			v.sos.read(strings.ToLower(k), val)
		}
	}
	return v
}

// routeURI is the part of u that routing looks at.
func routeURI(u sip.Uri) route.URI {
	if u.Scheme == "tel" || u.Scheme == "urn" {
		_, rest, _ := strings.Cut(u.String(), ":")
		return route.URI{Scheme: u.Scheme, User: strings.Clone(rest)}
	}
	phone, _ := u.UriParams.Get("user")
	return route.URI{Scheme: u.Scheme, User: strings.Clone(u.User), Host: strings.Clone(u.Host), Phone: strings.EqualFold(phone, "phone")}
}

// aorURI is an AOR as a Request-URI or in From and To.
func aorURI(a site.AOR) sip.Uri {
	return sip.Uri{Scheme: "sip", User: escapeUser(a.User), Host: a.Domain}
}

// escapeUser keeps what may stand in the user part of a URI (RFC 3261 §25.1).
func escapeUser(s string) string {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"#%<>@[\]^{|}:;?`, c) >= 0 || c == '`' {
			return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
		}
	}
	return s
}

// display makes a name fit to stand between quotes.
func display(s string) string {
	if !strings.ContainsAny(s, "\"\\\r\n\x00") {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r < ' ' {
			continue
		}
		if r == '"' || r == '\\' {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}
