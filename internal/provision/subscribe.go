package provision

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A subscription is what we need of a phone's SUBSCRIBE for ua-profile. The
// dialect that phones speak on the multicast address is older than RFC 6080
// and looser than RFC 3261: a Via without branch, no Max-Forwards, a From
// without tag. So this reader is lenient where the strict one of the SIP side
// is not; it takes only what comes back in our answer or names the device.
type subscription struct {
	via, from, to, callID, cseq, event string // as sent, checked to be harmless

	port                   uint16 // of the sent-by in Via
	rport                  bool   // it wants its source port
	user                   string // of its Contact
	contact                uint16 // port of its Contact, 0 if none
	mac                    MAC
	named                  bool // it named a MAC
	vendor, model, version string
}

const (
	maxMessage = 4096
	maxHeaders = 64
	maxHeader  = 512
)

// parseSubscribe reads a datagram from the multicast group.
func parseSubscribe(b []byte) (*subscription, error) {
	start, headers, err := splitMessage(b)
	if err != nil {
		return nil, err
	}
	method, rest, _ := strings.Cut(start, " ")
	uri, version, ok := strings.Cut(rest, " ")
	if method != "SUBSCRIBE" || !ok || version != "SIP/2.0" {
		return nil, errors.New("no SUBSCRIBE")
	}
	s := &subscription{}
	var contact, agent string
	for _, h := range headers {
		to := map[string]*string{
			"via": &s.via, "v": &s.via, "from": &s.from, "f": &s.from, "to": &s.to, "t": &s.to,
			"call-id": &s.callID, "i": &s.callID, "cseq": &s.cseq, "event": &s.event, "o": &s.event,
			"contact": &contact, "m": &contact, "user-agent": &agent,
		}[strings.ToLower(h.key)]
		switch {
		case to == nil:
		case *to == "":
			*to = h.value
		case to == &s.via:
			return nil, errors.New("it came through a proxy")
		default:
			return nil, fmt.Errorf("two of %s", h.key)
		}
	}
	event, params, _ := strings.Cut(s.event, ";")
	if strings.TrimSpace(strings.ToLower(event)) != "ua-profile" {
		return nil, errors.New("another event")
	}
	n, m, _ := strings.Cut(s.cseq, " ")
	if _, err := strconv.ParseUint(n, 10, 31); err != nil || strings.TrimSpace(m) != "SUBSCRIBE" {
		return nil, errors.New("a broken CSeq")
	}
	if s.from == "" || s.to == "" || s.callID == "" {
		return nil, errors.New("no From, To or Call-ID")
	}
	if err := s.readVia(); err != nil {
		return nil, err
	}
	s.readContact(contact)
	for _, p := range strings.Split(params, ";") {
		key, v, _ := strings.Cut(strings.TrimSpace(p), "=")
		v = strings.Trim(v, `"`)
		switch strings.ToLower(key) {
		case "vendor":
			s.vendor = v
		case "model":
			s.model = v
		case "version":
			s.version = v
		}
	}
	for _, where := range []string{uri, s.from, s.to} {
		if s.mac, s.named = uriMAC(where); s.named {
			return s, nil
		}
	}
	s.mac, s.named = agentMAC(agent)
	return s, nil
}

type header struct{ key, value string }

// splitMessage returns the start line and the headers, unfolded.
func splitMessage(b []byte) (start string, headers []header, err error) {
	if len(b) > maxMessage {
		return "", nil, errors.New("too long")
	}
	head, _, ok := bytes.Cut(b, []byte("\r\n\r\n"))
	if !ok {
		return "", nil, errors.New("no end of the headers")
	}
	for i, line := range strings.Split(string(head), "\r\n") {
		for j := range len(line) {
			if c := line[j]; c < ' ' && c != '\t' || c == 0x7f {
				return "", nil, errors.New("a control character")
			}
		}
		switch {
		case i == 0:
			start = line
		case len(headers) >= maxHeaders:
			return "", nil, errors.New("too many headers")
		case line == "":
			return "", nil, errors.New("an empty line")
		case line[0] == ' ' || line[0] == '\t':
			if len(headers) == 0 {
				return "", nil, errors.New("a fold of nothing")
			}
			headers[len(headers)-1].value += " " + strings.TrimSpace(line)
		default:
			key, v, ok := strings.Cut(line, ":")
			if !ok {
				return "", nil, errors.New("a line without colon")
			}
			headers = append(headers, header{strings.TrimSpace(key), strings.TrimSpace(v)})
		}
		if len(headers) > 0 && len(headers[len(headers)-1].value) > maxHeader {
			return "", nil, errors.New("a header too long")
		}
	}
	return start, headers, nil
}

func (s *subscription) readVia() error {
	proto, rest, ok := strings.Cut(s.via, " ")
	if !ok || !strings.EqualFold(proto, "SIP/2.0/UDP") || strings.Contains(s.via, ",") {
		return errors.New("a broken Via")
	}
	sentBy, params, _ := strings.Cut(strings.TrimSpace(rest), ";")
	for _, p := range strings.Split(params, ";") {
		key, v, has := strings.Cut(strings.TrimSpace(p), "=")
		if strings.EqualFold(key, "rport") && (!has || v == "") {
			s.rport = true
		}
	}
	s.port = 5060
	if p, ok := portOf(strings.TrimSpace(sentBy)); ok {
		s.port = p
	}
	return nil
}

// readContact takes the user and port; the host is where the message came
// from, whatever the Contact says.
func (s *subscription) readContact(c string) {
	if _, in, ok := strings.Cut(c, "<"); ok {
		c, _, _ = strings.Cut(in, ">")
	}
	c, _, _ = strings.Cut(c, ";")
	scheme, rest, ok := strings.Cut(c, ":")
	if !ok || !strings.EqualFold(scheme, "sip") {
		return
	}
	if user, h, ok := strings.Cut(rest, "@"); ok {
		if dialable(user) {
			s.user = user
		}
		rest = h
	}
	s.contact = 5060
	if p, ok := portOf(rest); ok {
		s.contact = p
	}
}

// portOf reads the port of host:port.
func portOf(hostport string) (uint16, bool) {
	i := strings.LastIndexByte(hostport, ':')
	if i < 0 || strings.HasSuffix(hostport, "]") {
		return 0, false
	}
	p, err := strconv.ParseUint(hostport[i+1:], 10, 16)
	return uint16(p), err == nil && p != 0
}

// uriMAC finds the MAC in a user part: MAC%3A001565AABBCC and what other
// vendors make of it.
func uriMAC(s string) (MAC, bool) {
	i := strings.Index(strings.ToLower(s), "sip:")
	if i < 0 {
		return MAC{}, false
	}
	user, _, ok := strings.Cut(s[i+len("sip:"):], "@")
	if !ok {
		return MAC{}, false
	}
	user = strings.ToLower(user)
	for _, prefix := range []string{"mac%3a", "mac:", "mac=", "mac%3d", "mac"} {
		if rest, ok := strings.CutPrefix(user, prefix); ok {
			user = rest
			break
		}
	}
	m, err := ParseMAC(user)
	return m, err == nil
}

// A notice is what we say to one phone: 200 to its SUBSCRIBE and the NOTIFY
// that ends the subscription at once (RFC 6665 §4.2.1).
type notice struct {
	to       netip.AddrPort // where the answer goes: always the sender's address
	notifyTo netip.AddrPort
	accept   []byte
	notify   []byte
}

func (s *subscription) answer(src, own netip.AddrPort, tag, branch, url string) notice {
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(src.Addr(), port) }
	n := notice{to: at(s.port), notifyTo: src}
	via := s.via + ";received=" + src.Addr().String()
	if s.rport {
		n.to = src
		via = replaceRport(s.via, src.Port()) + ";received=" + src.Addr().String()
	}
	if s.contact != 0 {
		n.notifyTo = at(s.contact)
	}
	to := s.to
	if !strings.Contains(strings.ToLower(to), ";tag=") {
		to += ";tag=" + tag
	}
	contact := "<sip:" + host(own.Addr()) + ":" + strconv.Itoa(int(own.Port())) + ">"
	n.accept = []byte("SIP/2.0 200 OK\r\nVia: " + via + "\r\nFrom: " + s.from + "\r\nTo: " + to +
		"\r\nCall-ID: " + s.callID + "\r\nCSeq: " + s.cseq + "\r\nContact: " + contact +
		"\r\nExpires: 0\r\nContent-Length: 0\r\n\r\n")
	target := "sip:"
	if s.user != "" {
		target += s.user + "@"
	}
	target += host(n.notifyTo.Addr()) + ":" + strconv.Itoa(int(n.notifyTo.Port()))
	n.notify = []byte("NOTIFY " + target + " SIP/2.0\r\nVia: SIP/2.0/UDP " + host(own.Addr()) + ":" + strconv.Itoa(int(own.Port())) +
		";rport;branch=z9hG4bK" + branch + "\r\nMax-Forwards: 70\r\nFrom: " + to + "\r\nTo: " + s.from +
		"\r\nCall-ID: " + s.callID + "\r\nCSeq: 1 NOTIFY\r\nContact: " + contact +
		"\r\nEvent: " + s.event + "\r\nSubscription-State: terminated;reason=timeout" +
		"\r\nContent-Type: application/url\r\nContent-Length: " + strconv.Itoa(len(url)) + "\r\n\r\n" + url)
	return n
}

// replaceRport fills an empty rport parameter in (RFC 3581 §4).
func replaceRport(via string, port uint16) string {
	parts := strings.Split(via, ";")
	for i, p := range parts {
		if key, _, _ := strings.Cut(strings.TrimSpace(p), "="); i > 0 && strings.EqualFold(key, "rport") {
			parts[i] = "rport=" + strconv.Itoa(int(port))
		}
	}
	return strings.Join(parts, ";")
}

// acknowledged reads the phone's answer to a NOTIFY: the Call-ID it is for.
func acknowledged(b []byte) (callID string, ok bool) {
	start, headers, err := splitMessage(b)
	if err != nil || !strings.HasPrefix(start, "SIP/2.0 ") || len(start) < 11 || start[8] < '2' || start[8] > '6' {
		return "", false
	}
	cseq := ""
	for _, h := range headers {
		switch strings.ToLower(h.key) {
		case "call-id", "i":
			callID = h.value
		case "cseq":
			cseq = h.value
		}
	}
	return callID, callID != "" && strings.HasSuffix(cseq, " NOTIFY")
}
