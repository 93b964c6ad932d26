package message

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"
)

// maxCSeq bounds CSeq numbers (RFC 3261 §8.1.1.5).
const maxCSeq = 1<<31 - 1

// build makes the message from the fields, checking each as it goes.
func (p *parser) build(body []byte) sip.Message {
	var msg sip.Message
	if p.method != "" {
		u, err := ParseURI(p.uri)
		if err != nil {
			p.refuse(400, "bad Request-URI: "+err.Error())
			return nil
		}
		if len(u.Headers) > 0 { // RFC 4475 §3.1.2.11
			p.refuse(400, "headers in Request-URI")
			return nil
		}
		msg = sip.NewRequest(sip.RequestMethod(p.method), u)
	} else {
		msg = sip.NewResponse(p.status, p.reason)
	}
	length := -1
	for _, f := range p.fields {
		switch f.id {
		case fVia, fContact, fRoute, fRecordRoute, fOther:
		default:
			if p.repeats(f) {
				p.refuse(400, "repeated "+f.name)
				return nil
			}
		}
		if why := p.add(msg, f, &length); why != "" {
			p.refuse(400, f.name+": "+why)
			return nil
		}
	}
	for _, missing := range [...]struct {
		is   bool
		name string
	}{{msg.Via() == nil, "Via"}, {msg.From() == nil, "From"}, {msg.To() == nil, "To"},
		{msg.CallID() == nil, "Call-ID"}, {msg.CSeq() == nil, "CSeq"}} {
		if missing.is {
			p.refuse(400, "no "+missing.name)
			return nil
		}
	}
	if p.method != "" && string(msg.CSeq().MethodName) != p.method {
		p.refuse(400, "method differs from CSeq")
		return nil
	}
	switch {
	case length < 0 && p.stream:
		p.refuse(400, "no Content-Length on a stream")
		return nil
	case length < 0:
		length = len(body)
	case length > len(body):
		p.refuse(400, "body shorter than Content-Length")
		return nil
	}
	// RFC 3261 §18.3: in a datagram, octets after the body are discarded.
	if length > 0 {
		msg.SetBody(bytes.Clone(body[:length]))
	} else {
		msg.SetBody(nil)
	}
	if req, ok := msg.(*sip.Request); ok && !served(req.Recipient.Scheme) {
		p.refuse(416, "scheme "+strconv.Quote(req.Recipient.Scheme))
		return nil
	}
	return msg
}

// served says which schemes a Request-URI may have here: SIP, and the two that
// name a telephone number (RFC 3966) or an emergency service (RFC 5031).
func served(scheme string) bool {
	return scheme == "sip" || scheme == "sips" || scheme == "tel" || scheme == "urn"
}

func (p *parser) repeats(f field) bool {
	n := 0
	for i := range p.fields {
		if p.fields[i].id == f.id && (f.id != fSingle || p.fields[i].name == f.name) {
			n++
		}
	}
	return n > 1
}

// add appends f to msg in its parsed form. It returns what is wrong with it.
func (p *parser) add(msg sip.Message, f field, length *int) string {
	var err error
	switch f.id {
	case fVia:
		err = splitList(f.value, func(s string) error {
			v, err := parseVia(s)
			if err == nil {
				msg.AppendHeader(v)
			}
			return err
		})
	case fFrom:
		h := &sip.FromHeader{}
		h.DisplayName, h.Address, h.Params, err = ParseAddress(f.value)
		msg.AppendHeader(h)
	case fTo:
		h := &sip.ToHeader{}
		h.DisplayName, h.Address, h.Params, err = ParseAddress(f.value)
		msg.AppendHeader(h)
	case fContact:
		if f.value == "*" {
			msg.AppendHeader(&sip.ContactHeader{Address: sip.Uri{Wildcard: true, Host: "*"}})
			return ""
		}
		err = splitList(f.value, func(s string) (err error) {
			h := &sip.ContactHeader{}
			h.DisplayName, h.Address, h.Params, err = ParseAddress(s)
			msg.AppendHeader(h)
			return err
		})
	case fRoute, fRecordRoute:
		err = splitList(f.value, func(s string) error {
			_, u, params, err := ParseAddress(s)
			if err != nil {
				return err
			}
			// Loose routers that forget the brackets mean URI parameters.
			if strings.IndexByte(s, '<') < 0 {
				u.UriParams = append(u.UriParams, params...)
			}
			if f.id == fRoute {
				msg.AppendHeader(&sip.RouteHeader{Address: u})
			} else {
				msg.AppendHeader(&sip.RecordRouteHeader{Address: u})
			}
			return nil
		})
	case fCallID:
		if f.value == "" || strings.ContainsAny(f.value, " \t,;") {
			return "not one word"
		}
		h := sip.CallIDHeader(f.value)
		msg.AppendHeader(&h)
	case fCSeq:
		num, method, _ := strings.Cut(strings.ReplaceAll(f.value, "\t", " "), " ")
		n, e := strconv.ParseUint(num, 10, 32)
		method = trim(method)
		if e != nil || !isDigits(num) || n > maxCSeq || !isToken(method) {
			return "bad number or method"
		}
		msg.AppendHeader(&sip.CSeqHeader{SeqNo: uint32(n), MethodName: sip.RequestMethod(method)})
	case fMaxForwards:
		n, e := strconv.ParseUint(f.value, 10, 16)
		if e != nil || !isDigits(f.value) || n > 255 {
			return "not 0 to 255"
		}
		h := sip.MaxForwardsHeader(n)
		msg.AppendHeader(&h)
	case fContentLength:
		n, e := strconv.ParseUint(f.value, 10, 31)
		if e != nil || !isDigits(f.value) {
			return "not a number of octets"
		}
		*length = int(n)
	case fContentType:
		if f.value == "" {
			return "empty"
		}
		h := sip.ContentTypeHeader(f.value)
		msg.AppendHeader(&h)
	default:
		msg.AppendHeader(sip.NewHeader(f.name, f.value))
	}
	if err != nil {
		return err.Error()
	}
	return ""
}
