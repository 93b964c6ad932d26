package trunk

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
)

// A Call is what is to be sent out through a trunk.
type Call struct {
	From      site.Party // who calls; Number or AOR.User count when they are E.164
	Number    string     // what the caller's directory entry says, E.164; "" if nothing
	Hidden    bool       // the caller does not want to be seen (RFC 3323)
	Dialled   string     // E.164 with +, or a short number: "112"
	Emergency bool
	CallBack  string // E.164 that reaches the place an emergency call comes from
}

// An Outgoing is what the first INVITE of a call through a trunk says. The
// caller of Compose owns all of it; From and To have no tag yet.
type Outgoing struct {
	Trunk   string
	URI     sip.Uri
	From    *sip.FromHeader
	To      *sip.ToHeader
	User    string       // of our Contact
	Headers []sip.Header // identity, privacy, priority
	Shown   string       // E.164 that the other end sees, "" if none: in the record, and what an emergency centre calls back
	Dests   []edge.Dest  // where to send it, best first

	// Public is the address that our Contact names instead of our own, where
	// the provider wants that; else zero. Compose leaves it so.
	Public netip.AddrPort
}

// Compose says how call leaves through t (RFC 3261 §8.1.1). dests is where t
// can be reached now. It depends on its arguments only.
//
// The number shown is the first of these that belongs to the trunk: the
// call-back number of an emergency call, the caller's own number, the trunk's.
// Others are shown only where the provider takes them (Identity.Foreign).
func Compose(t Trunk, p Plan, call Call, dests []edge.Dest) (Outgoing, error) {
	t, err := t.normal()
	if err != nil {
		return Outgoing{}, err
	}
	dialled, ok := dialUser(p.Write(call.Dialled, t.Dial))
	if !ok {
		return Outgoing{}, fmt.Errorf("call through trunk %q: %q is not a number", t.Name, call.Dialled)
	}
	if len(dests) == 0 {
		return Outgoing{}, fmt.Errorf("call through trunk %q: %w", t.Name, ErrNowhere)
	}
	shown := shownNumber(t, p, call)
	hidden := call.Hidden && !call.Emergency
	domain := bracketed(t.Domain)
	own := sip.Uri{Scheme: "sip", User: p.Write(shown, t.Identity.Format), Host: domain}
	account := sip.Uri{Scheme: "sip", User: t.User, Host: domain}
	if own.User == "" {
		own.User = orElse(account.User, "anonymous")
	}
	out := Outgoing{Trunk: t.Name, Shown: shown, User: t.User, Dests: append([]edge.Dest(nil), dests...)}
	if out.User == "" {
		out.User = own.User
	}
	out.URI = sip.Uri{Scheme: "sip", User: dialled, Host: domain}
	if t.Proxy == "" && t.Domain == t.Server {
		out.URI.Port = t.Port
	}
	if t.UserPhone {
		out.URI.UriParams = sip.HeaderParams{{K: "user", V: "phone"}}
	}
	out.To = &sip.ToHeader{Address: *out.URI.Clone()}
	out.To.Address.Port = 0

	name := ""
	if t.Identity.Name && !hidden {
		name = quoted(call.From.Display)
	}
	from := own
	switch {
	case t.Identity.Account && t.User != "":
		from = account
	case hidden:
		from = sip.Uri{Scheme: "sip", User: "anonymous", Host: "anonymous.invalid"} // RFC 3323 §4.1.1.3
	}
	out.From = &sip.FromHeader{DisplayName: name, Address: from}
	if hidden {
		out.From.DisplayName = "Anonymous"
	}
	id := "<" + own.String() + ">"
	if name != "" {
		id = `"` + name + `" ` + id
	}
	add := func(name, value string) { out.Headers = append(out.Headers, sip.NewHeader(name, value)) }
	if t.Identity.PAI {
		add("P-Asserted-Identity", id)
	}
	if t.Identity.PPI {
		add("P-Preferred-Identity", id)
	}
	if t.Identity.RPID {
		privacy := "off"
		if hidden {
			privacy = "full"
		}
		add("Remote-Party-ID", id+";party=calling;screen=yes;privacy="+privacy)
	}
	if hidden {
		add("Privacy", "id") // RFC 3325 §9.3
	}
	if call.Emergency {
		add("Priority", "emergency") // RFC 3261 §20.26
	}
	return out, nil
}

func shownNumber(t Trunk, p Plan, call Call) string {
	own := []string{call.Number, call.From.Number, call.From.AOR.User}
	if call.Emergency {
		own = append([]string{call.CallBack}, own...)
	}
	for _, n := range own {
		if isE164(n) && (t.owns(n) || t.Identity.Foreign) {
			return n
		}
	}
	return t.Number
}

// dialUser is a number as the user part of a URI (RFC 3261 §19.1.2).
func dialUser(n string) (string, bool) {
	d := strings.TrimPrefix(n, "+")
	if d == "" || len(n) > 32 {
		return "", false
	}
	for i := 0; i < len(d); i++ {
		if c := d[i]; (c < '0' || c > '9') && c != '*' && c != '#' {
			return "", false
		}
	}
	return strings.ReplaceAll(n, "#", "%23"), true
}

// quoted makes a display name that can stand between quotes: no control
// characters, and quotes and backslashes escaped (RFC 3261 §25.1).
func quoted(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r < ' ', r == 0x7f, r == 0xfffd:
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
		if b.Len() > 80 {
			break
		}
	}
	return strings.TrimSpace(b.String())
}
