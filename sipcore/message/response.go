package message

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"
)

// NewResponse makes a response to req (RFC 3261 §8.2.6): Via, From, To, Call-ID
// and CSeq are copied, Record-Route where a dialog can come of it (§12.1.1).
// tag goes into a To that has none, except in 100. Reason "" means the usual
// phrase. The response shares no memory with req that either may change.
func NewResponse(req *sip.Request, status int, reason, tag string) *sip.Response {
	if reason == "" {
		reason = Reason(status)
	}
	res := sip.NewResponse(status, reason)
	for _, h := range req.Headers() {
		switch h := h.(type) {
		case *sip.ViaHeader:
			res.AppendHeader(h.Clone())
		case *sip.RecordRouteHeader:
			if status > 100 && status < 300 && req.Method != sip.REGISTER {
				res.AppendHeader(h.Clone())
			}
		}
	}
	if h := req.From(); h != nil {
		res.AppendHeader(sip.HeaderClone(h))
	}
	if h := req.To(); h != nil {
		to := sip.HeaderClone(h).(*sip.ToHeader)
		if status > 100 && tag != "" && !to.Params.Has("tag") {
			to.Params = append(to.Params, sip.HeaderKV{K: "tag", V: tag})
		}
		res.AppendHeader(to)
	}
	if h := req.CallID(); h != nil {
		c := *h
		res.AppendHeader(&c)
	}
	if h := req.CSeq(); h != nil {
		res.AppendHeader(&sip.CSeqHeader{SeqNo: h.SeqNo, MethodName: h.MethodName})
	}
	if status == 100 {
		if h := Get(req, "Timestamp"); h != "" {
			res.AppendHeader(sip.NewHeader("Timestamp", h))
		}
	}
	res.SetBody(nil)
	return res
}

// Received notes in a topmost Via where the request really came from (RFC 3261
// §18.2.1, RFC 3581 §4). received and rport are "" when they are not to be noted.
func Received(v *sip.ViaHeader, received, rport string) {
	set := func(k, val string) {
		for i := range v.Params {
			if v.Params[i].K == k {
				v.Params[i].V = val
				return
			}
		}
		v.Params = append(v.Params, sip.HeaderKV{K: k, V: val})
	}
	if received != "" {
		set("received", received)
	}
	if rport != "" {
		set("rport", rport)
	}
}

// Source works out received and rport for a request from src whose topmost Via
// is v. rport is noted only when it was asked for; received whenever sent-by
// does not name src, and always together with rport.
func Source(v *sip.ViaHeader, src netip.AddrPort) (received, rport string) {
	if v.Params.Has("rport") {
		rport = strconv.Itoa(int(src.Port()))
	}
	addr, ok := Addr(v.Host)
	if ip := src.Addr().Unmap().WithZone(""); rport != "" || !ok || addr != ip || v.Params.Has("received") {
		received = ip.String()
	}
	return
}

// headers lists what msg has; sip.Message itself does not say.
func headers(msg any) []sip.Header {
	switch m := msg.(type) {
	case *sip.Request:
		return m.Headers()
	case *sip.Response:
		return m.Headers()
	case interface{ Headers() []sip.Header }:
		return m.Headers()
	}
	return nil
}

// Get returns the value of the first header of that name in msg, a request or
// response; "" when there is none. Unlike sipgo's GetHeader it allocates nothing
// for headers kept as text.
func Get(msg any, name string) string {
	for _, h := range headers(msg) {
		if strings.EqualFold(h.Name(), name) {
			return h.Value()
		}
	}
	return ""
}

// Values returns the elements of a comma-separated header of plain tokens, over
// all its lines: Require, Supported, Allow, Allow-Events.
func Values(msg any, name string) []string {
	var out []string
	for _, h := range headers(msg) {
		if !strings.EqualFold(h.Name(), name) {
			continue
		}
		for v := range strings.SplitSeq(h.Value(), ",") {
			if v = trim(v); v != "" {
				out = append(out, v)
			}
		}
	}
	return out
}

// Remove takes away every header of that name.
func Remove(msg interface {
	Headers() []sip.Header
	RemoveHeader(string) bool
}, name string) {
	for again := true; again; {
		again = false
		for _, h := range msg.Headers() {
			if strings.EqualFold(h.Name(), name) {
				again = msg.RemoveHeader(h.Name())
				break
			}
		}
	}
}

// Reason returns the usual Reason-Phrase of a status.
func Reason(status int) string {
	if r, ok := reasons[status]; ok {
		return r
	}
	switch status / 100 {
	case 1:
		return "Progress"
	case 2:
		return "OK"
	case 3:
		return "Redirected"
	case 4:
		return "Request Failure"
	case 5:
		return "Server Failure"
	}
	return "Global Failure"
}

var reasons = map[int]string{
	100: "Trying", 180: "Ringing", 181: "Call Is Being Forwarded", 182: "Queued", 183: "Session Progress", 199: "Early Dialog Terminated",
	200: "OK", 202: "Accepted", 204: "No Notification", 300: "Multiple Choices", 301: "Moved Permanently", 302: "Moved Temporarily",
	305: "Use Proxy", 400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
	405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required", 408: "Request Timeout",
	410: "Gone", 412: "Conditional Request Failed", 413: "Request Entity Too Large", 414: "Request-URI Too Long", 415: "Unsupported Media Type",
	416: "Unsupported URI Scheme", 420: "Bad Extension", 421: "Extension Required", 422: "Session Interval Too Small", 423: "Interval Too Brief",
	480: "Temporarily Unavailable", 481: "Call/Transaction Does Not Exist", 482: "Loop Detected", 483: "Too Many Hops", 484: "Address Incomplete",
	485: "Ambiguous", 486: "Busy Here", 487: "Request Terminated", 488: "Not Acceptable Here", 489: "Bad Event", 491: "Request Pending",
	500: "Server Internal Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Server Time-out",
	505: "Version Not Supported", 513: "Message Too Large", 600: "Busy Everywhere", 603: "Decline", 604: "Does Not Exist Anywhere", 606: "Not Acceptable",
}
