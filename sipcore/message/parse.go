// Package message reads SIP messages strictly and helps to build them, on the
// message types of sipgo. Everything that arrives from outside passes Parse
// first: what it accepts has one meaning, and prints and reads back the same;
// what it refuses comes back as a Fault that knows whether and how to answer.
// It never panics and never guesses at what a sender may have meant.
//
// RFC 3261 §7, §18.3, §19.1, §20 and §25; RFC 4475 and RFC 5118 are its tests.
package message

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"
)

// Bounds on one message. A longer one is refused, whatever its Content-Length says.
const (
	MaxSize    = 65535 // octets, head and body
	MaxHeaders = 256   // header fields after splitting lists
)

// A field is one header line as received: unfolded, trimmed, name expanded
// from its compact form.
type field struct {
	id    fieldID
	name  string
	value string
}

type fieldID uint8

const (
	fOther fieldID = iota
	fVia
	fFrom
	fTo
	fCallID
	fCSeq
	fMaxForwards
	fContentLength
	fContentType
	fContact
	fRoute
	fRecordRoute
	fSingle // must not repeat, otherwise opaque
)

var errCut = errors.New("headers are cut off")

// Parse reads one whole message: a datagram, or what a Framer cut from a
// stream. With stream set, Content-Length is mandatory (RFC 3261 §18.3). The
// result does not alias raw. The Fault, when there is one, says what to answer.
func Parse(raw []byte, stream bool) (sip.Message, *Fault) {
	if len(raw) > MaxSize {
		return nil, &Fault{Status: 513, Why: "message too large"}
	}
	for len(raw) >= 2 && raw[0] == '\r' && raw[1] == '\n' { // RFC 3261 §7.5
		raw = raw[2:]
	}
	p := parser{stream: stream}
	msg := p.parse(raw)
	if p.fault != nil {
		p.fault.fields = p.fields
		p.fault.Method = p.method
		return nil, p.fault
	}
	return msg, nil
}

type parser struct {
	stream bool
	method string // "" for a response
	status int
	reason string
	uri    string
	fields []field
	buf    [24]field
	fault  *Fault
}

func (p *parser) refuse(status int, why string) {
	if p.fault == nil {
		p.fault = &Fault{Status: status, Why: why}
	}
}

func (p *parser) parse(raw []byte) sip.Message {
	end := bytes.Index(raw, []byte("\r\n\r\n"))
	cut := end < 0
	var head string
	var body []byte
	if cut {
		head = string(raw)
	} else {
		head, body = string(raw[:end]), raw[end+4:]
	}
	start, rest, _ := strings.Cut(head, "\r\n")
	if !p.startLine(start) {
		p.scan(rest)
		return nil
	}
	if err := p.scan(rest); err != nil {
		p.refuse(400, err.Error())
		return nil
	}
	if cut {
		p.refuse(400, errCut.Error())
		return nil
	}
	return p.build(body)
}

// startLine reads the first line. It returns false when nothing more needs
// to be understood: the message is to be refused, and the fault says how.
func (p *parser) startLine(s string) bool {
	if len(s) >= 4 && strings.EqualFold(s[:4], "SIP/") {
		return p.statusLine(s)
	}
	method, rest, ok := strings.Cut(s, " ")
	if !ok || !isToken(method) {
		p.refuse(0, "no SIP message") // nothing says that a SIP element sent it
		return false
	}
	p.method = method
	i := strings.LastIndexByte(rest, ' ')
	if i < 0 {
		p.refuse(400, "Request-Line without version")
		return false
	}
	uri, version := rest[:i], rest[i+1:]
	if !isVersion(version) {
		p.refuse(400, "bad version in Request-Line")
		return false
	}
	if !strings.EqualFold(version, "SIP/2.0") {
		p.refuse(505, "version "+strconv.Quote(version))
		return false
	}
	if uri == "" || strings.ContainsAny(uri, " \t<>\"") {
		p.refuse(400, "bad Request-URI")
		return false
	}
	p.uri = uri
	return true
}

func (p *parser) statusLine(s string) bool {
	version, rest, _ := strings.Cut(s, " ")
	code, reason, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(code, 10, 16)
	if !strings.EqualFold(version, "SIP/2.0") || len(code) != 3 || err != nil || n < 100 || n > 699 || !cleanText(reason) {
		p.refuse(0, "bad Status-Line")
		return false
	}
	p.status, p.reason = int(n), reason
	return true
}

func isVersion(s string) bool {
	if len(s) < 7 || !strings.EqualFold(s[:4], "SIP/") {
		return false
	}
	major, minor, ok := strings.Cut(s[4:], ".")
	return ok && isDigits(major) && isDigits(minor)
}

// scan cuts the header section into fields, unfolding continued lines. It goes
// on after a bad line, so that a refusal can still copy Via, From and the like.
func (p *parser) scan(head string) error {
	var firstErr error
	p.fields = p.buf[:0]
	for head != "" {
		line, rest, _ := strings.Cut(head, "\r\n")
		if len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t') {
			var b strings.Builder
			b.WriteString(trim(line))
			for len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t') {
				line, rest, _ = strings.Cut(rest, "\r\n")
				if line = trim(line); line != "" {
					b.WriteByte(' ')
					b.WriteString(line)
				}
			}
			line = b.String()
		}
		head = rest
		name, value, ok := strings.Cut(line, ":")
		name = strings.TrimRight(name, " \t")
		value = trim(value)
		switch {
		case !ok || !isToken(name):
			firstErr = first(firstErr, "bad header line")
			continue
		case !cleanText(value):
			firstErr = first(firstErr, "control characters in "+name)
			continue
		case len(p.fields) >= MaxHeaders:
			return errors.New("too many header fields")
		}
		id, full := known(name)
		p.fields = append(p.fields, field{id, full, value})
	}
	return firstErr
}

func first(err error, s string) error {
	if err != nil {
		return err
	}
	return errors.New(s)
}

// cleanText refuses control characters other than TAB, except as the second
// half of a quoted-pair (RFC 3261 §25.1). CR and LF never pass.
func cleanText(s string) bool {
	quoted := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted && i+1 < len(s):
			i++
			if s[i] == '\r' || s[i] == '\n' {
				return false
			}
		case c < ' ' && c != '\t', c == 0x7f:
			return false
		}
	}
	return true
}

// known finds a header's identity and expands compact names (RFC 3261 §7.3.3
// and the registry of RFC 3968).
func known(name string) (fieldID, string) {
	if len(name) == 1 {
		switch name[0] | 0x20 {
		case 'v':
			return fVia, "Via"
		case 'f':
			return fFrom, "From"
		case 't':
			return fTo, "To"
		case 'i':
			return fCallID, "Call-ID"
		case 'l':
			return fContentLength, "Content-Length"
		case 'c':
			return fContentType, "Content-Type"
		case 'm':
			return fContact, "Contact"
		case 'a':
			return fOther, "Accept-Contact"
		case 'b':
			return fSingle, "Referred-By"
		case 'd':
			return fOther, "Request-Disposition"
		case 'e':
			return fOther, "Content-Encoding"
		case 'j':
			return fOther, "Reject-Contact"
		case 'k':
			return fOther, "Supported"
		case 'o':
			return fSingle, "Event"
		case 'r':
			return fSingle, "Refer-To"
		case 's':
			return fOther, "Subject"
		case 'u':
			return fOther, "Allow-Events"
		case 'x':
			return fSingle, "Session-Expires"
		case 'y':
			return fOther, "Identity"
		}
		return fOther, name
	}
	eq := func(full string) bool { return name == full || strings.EqualFold(name, full) }
	switch len(name) {
	case 2:
		if eq("To") {
			return fTo, "To"
		}
	case 3:
		if eq("Via") {
			return fVia, "Via"
		}
	case 4:
		switch {
		case eq("From"):
			return fFrom, "From"
		case eq("CSeq"):
			return fCSeq, "CSeq"
		}
	case 5:
		switch {
		case eq("Route"):
			return fRoute, "Route"
		case eq("Event"):
			return fSingle, "Event"
		}
	case 7:
		switch {
		case eq("Call-ID"):
			return fCallID, "Call-ID"
		case eq("Contact"):
			return fContact, "Contact"
		case eq("Expires"):
			return fSingle, "Expires"
		}
	case 8:
		switch {
		case eq("Refer-To"):
			return fSingle, "Refer-To"
		case eq("Replaces"):
			return fSingle, "Replaces"
		}
	case 11:
		if eq("Referred-By") {
			return fSingle, "Referred-By"
		}
	case 12:
		switch {
		case eq("Max-Forwards"):
			return fMaxForwards, "Max-Forwards"
		case eq("Content-Type"):
			return fContentType, "Content-Type"
		case eq("Record-Route"):
			return fRecordRoute, "Record-Route"
		}
	case 14:
		if eq("Content-Length") {
			return fContentLength, "Content-Length"
		}
	case 15:
		if eq("Session-Expires") {
			return fSingle, "Session-Expires"
		}
	}
	return fOther, name
}

// trim cuts LWS off both ends.
func trim(s string) string { return strings.Trim(s, " \t") }

func isDigits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// Token characters of RFC 3261 §25.1.
var tokenChar = func() (t [256]bool) {
	for c := '0'; c <= '9'; c++ {
		t[c] = true
	}
	for c := 'a'; c <= 'z'; c++ {
		t[c], t[c-32] = true, true
	}
	for _, c := range "-.!%*_+`'~" {
		t[c] = true
	}
	return
}()

func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if !tokenChar[s[i]] {
			return false
		}
	}
	return s != ""
}
