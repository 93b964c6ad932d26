package message

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"
)

// A Fault is why a message was refused.
type Fault struct {
	Status int    // what to answer; 0: nothing, drop it
	Why    string // for logs and for the Reason-Phrase of a 400; our words only
	Method string // as received, "" for a response

	fields []field
}

func (f *Fault) Error() string {
	if f.Status == 0 {
		return "drop: " + f.Why
	}
	return strconv.Itoa(f.Status) + ": " + f.Why
}

// Answer makes a stateless refusal of a malformed request from whatever could
// be read of it (RFC 3261 §8.2.6, RFC 4475 §3.1.2). src is noted in the topmost
// Via, which is returned too unless it is malformed itself, tag in a To without
// one. There is no answer to responses, to ACK, and to requests without any
// Via: nobody could match it.
func (f *Fault) Answer(src netip.AddrPort, tag string) ([]byte, *sip.ViaHeader) {
	if f.Status == 0 || f.Method == "" || f.Method == "ACK" {
		return nil, nil
	}
	var topmost *sip.ViaHeader
	var b strings.Builder
	b.Grow(512)
	b.WriteString("SIP/2.0 ")
	b.WriteString(strconv.Itoa(f.Status))
	b.WriteByte(' ')
	b.WriteString(Reason(f.Status))
	b.WriteString("\r\n")
	via, seen := false, [fSingle]bool{}
	for _, h := range f.fields {
		switch h.id {
		case fVia:
			b.WriteString("Via: ")
			if !via {
				via = true
				top, rest, more := cutTop(h.value)
				v, err := parseVia(top)
				if err != nil { // echoed as it is; whoever wrote it may know it again
					b.WriteString(h.value)
					b.WriteString("\r\n")
					continue
				}
				topmost = v
				if src.IsValid() {
					received, rport := Source(v, src)
					Received(v, received, rport)
				}
				b.WriteString(v.Value())
				if more {
					b.WriteString(", ")
					b.WriteString(rest)
				}
			} else {
				b.WriteString(h.value)
			}
			b.WriteString("\r\n")
		case fFrom, fTo, fCallID, fCSeq:
			if seen[h.id] {
				continue
			}
			seen[h.id] = true
			b.WriteString(h.name)
			b.WriteString(": ")
			b.WriteString(h.value)
			if h.id == fTo && tag != "" {
				if _, _, params, err := ParseAddress(h.value); err == nil && !params.Has("tag") {
					b.WriteString(";tag=")
					b.WriteString(tag)
				}
			}
			b.WriteString("\r\n")
		}
	}
	if !via {
		return nil, nil
	}
	b.WriteString("Warning: 399 ccnode \"")
	b.WriteString(warnText(f.Why))
	b.WriteString("\"\r\nContent-Length: 0\r\n\r\n")
	return []byte(b.String()), topmost
}

// cutTop cuts the first element off a Via list.
func cutTop(s string) (top, rest string, more bool) {
	n := 0
	_ = splitList(s, func(part string) error {
		if n == 0 {
			top = part
		} else if n == 1 {
			more = true
			rest = s[strings.Index(s[len(top):], part)+len(top):]
		}
		n++
		return nil
	})
	return
}

// warnText keeps what a sender wrote from breaking out of a quoted-string.
func warnText(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '"' || r == '\\' || r < ' ' || r > '~' {
			return '\''
		}
		return r
	}, s)
}
