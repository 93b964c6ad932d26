package blf

import (
	"bytes"
	"encoding/xml"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/route"
)

// Name is the event package (RFC 4235 §3.1).
const Name = "dialog"

// RemoteTag is the remote-tag of every dialog shown. With the call's chain for
// a Call-ID and the watched line's user part for the local tag it names what
// Replaces (RFC 3891) picks up; chains are secret enough to need no more.
const RemoteTag = "c"

// A Package is the lamps as an event package: a subscribe.Package for lines
// that need not be the subscriber's own.
type Package struct {
	lamps *Table
	view  func() route.View
}

// New makes the package. Whoever changes lamps calls
// subscribe.Server.ChangedAOR(blf.Name, aor) afterwards.
func New(lamps *Table, view func() route.View) *Package { return &Package{lamps, view} }

func (*Package) Name() string { return Name }
func (*Package) Type() string { return "application/dialog-info+xml" }

// Target is whose lamp u names: anybody's of this site, a group's or an
// orbit's. Others are refused with status and reason: 403 for lines of other
// sites, whose calls are not known here, and 404 for what is nobody's.
func (*Package) Target(v route.View, u route.URI) (line sipcore.Line, status int, reason string) {
	own, aor := v.Own(), route.AOR(v, u)
	if orbit(own, aor.User) || key(own, aor.User) {
		return sipcore.Line{AOR: aor}, 0, ""
	}
	status, reason = 404, ""
	for _, e := range v.Lookup(aor.User) {
		if e.Disabled {
			continue
		}
		if e.Home == own.ID || slices.Contains(e.Serving, own.ID) {
			return sipcore.Line{AOR: e.AOR, User: e.User, Name: e.Name}, 0, ""
		}
		status, reason = 403, "Lamps Of Another Site"
	}
	return sipcore.Line{}, status, reason
}

// key says whether the name is a whole feature code, such as the night switch:
// its lamp says whether that is on.
func key(s route.Site, user string) bool {
	return slices.ContainsFunc(s.Codes, func(c route.Code) bool { return c.Digits == user && !c.Rest })
}

// orbit says whether callers are parked under that name at s.
func orbit(s route.Site, user string) bool {
	for _, c := range s.Codes {
		if c.Feature != route.Park {
			continue
		}
		if d, ok := strings.CutPrefix(user, c.Digits); ok && len(d) == 1 && d[0] >= '1' && d[0] <= '9' {
			return true
		}
	}
	return false
}

// unnumbered is where Number finds the place of the version.
const unnumbered = `version=""`

// State is the body of a NOTIFY, without its version (RFC 4235 §4): always all
// dialogs there are. Without any, the last one is shown to have ended, because
// some telephones do not take an empty list for that.
func (p *Package) State(line sipcore.Line) []byte {
	v := p.view()
	var b bytes.Buffer
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>` + "\r\n" +
		`<dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info" ` + unnumbered + ` state="full" entity="`)
	text(&b, uri(line.AOR.User, line.AOR.Domain))
	b.WriteString("\">\r\n")
	states := p.lamps.Of(line.AOR)
	for _, d := range states {
		dialog(&b, v, line, d)
	}
	if len(states) == 0 {
		id := p.lamps.last(line.AOR)
		if id == "" {
			id = line.AOR.User
		}
		b.WriteString(`<dialog id="`)
		text(&b, id)
		b.WriteString("\"><state>terminated</state></dialog>\r\n")
	}
	b.WriteString("</dialog-info>\r\n")
	return b.Bytes()
}

func dialog(b *bytes.Buffer, v route.View, line sipcore.Line, d sipcore.DialogState) {
	for _, a := range [...][2]string{{`<dialog id="`, d.Chain}, {`" call-id="`, d.Chain}, {`" local-tag="`, line.AOR.User}, {`" remote-tag="`, RemoteTag}} {
		b.WriteString(a[0])
		text(b, a[1])
	}
	b.WriteString(`" direction="` + direction(d) + `"><state>` + state(d) + "</state>\r\n")
	side(b, "local", line.Name, uri(line.AOR.User, line.AOR.Domain))
	number, host := route.Shown(v, d.Remote), v.Domain()
	if number == "" {
		number, host = "anonymous", "anonymous.invalid" // RFC 3323 §4.1.1.3
	}
	side(b, "remote", d.Remote.Display, uri(number, host))
	b.WriteString("</dialog>\r\n")
}

func direction(d sipcore.DialogState) string {
	if d.Recipient {
		return "recipient"
	}
	return "initiator"
}

// state is the dialog's in the words of RFC 4235 §3.7.1. Who calls is trying
// until answered: many telephones blink for anything early, as if it could be
// picked up.
func state(d sipcore.DialogState) string {
	switch {
	case d.Confirmed || d.Parked:
		return "confirmed"
	case d.Recipient:
		return "early"
	}
	return "trying"
}

func side(b *bytes.Buffer, name, display, uri string) {
	b.WriteString("<" + name + "><identity")
	if display != "" {
		b.WriteString(` display="`)
		text(b, display)
		b.WriteByte('"')
	}
	b.WriteByte('>')
	text(b, uri)
	b.WriteString(`</identity><target uri="`)
	text(b, uri)
	b.WriteString(`"/></` + name + ">\r\n")
}

func uri(user, host string) string {
	return "sip:" + strings.ReplaceAll(url.PathEscape(user), "%2A", "*") + "@" + host
}

// text writes s as XML text or attribute value; what XML cannot carry becomes U+FFFD.
func text(b *bytes.Buffer, s string) { _ = xml.EscapeText(b, []byte(s)) } // a Buffer takes everything

// Number is body as the n-th document of a subscription, from 0 (RFC 4235 §4.1).
func (*Package) Number(body []byte, n uint32) []byte {
	return bytes.Replace(body, []byte(unnumbered), []byte(`version="`+strconv.FormatUint(uint64(n), 10)+`"`), 1)
}

var _ sipcore.Lamps = (*Table)(nil)
