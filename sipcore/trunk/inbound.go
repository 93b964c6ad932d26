package trunk

import (
	"net/netip"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
)

// A Known is a trunk with where it is known to be: what an incoming request is
// compared with.
type Known struct {
	Trunk
	Addrs []netip.Addr // its server's addresses
	Flow  string       // name of the connection we registered over, "" if none
	Token string       // the line parameter of our Contact there
}

// A Source is where a request came from.
type Source struct {
	Addr netip.Addr
	Flow string // name of the connection, "" for UDP
}

// An Inbound is what a request from a trunk says.
type Inbound struct {
	Trunk  string
	Via    Way
	Called string // E.164 where the plan could tell, else the digits or name as they stood
	Listed bool   // Called is one of the trunk's numbers; others are not for us
	Caller string // E.164 where the plan could tell, else as it stood; "" if not said
	Name   string // display name; "" if none or hidden
	Hidden bool   // the caller is not to be shown (RFC 3323): Caller is for records only
	Proven bool   // Caller is the provider's word (P-Asserted-Identity), not the caller's
}

// Identify says which trunk a request is from, which number was called and who
// calls. Whose it is depends on where it came from: over the connection that
// we registered on, or from an address of the trunk's server or listed for it.
// What the request says chooses between several trunks of one provider, never
// more. ok is false for strangers.
func Identify(trunks []Known, p Plan, req *sip.Request, src Source) (in Inbound, ok bool) {
	var best *Known
	score := 0
	for i := range trunks {
		k := &trunks[i]
		if !k.from(src) {
			continue
		}
		s := 1
		number, listed := k.called(p, req)
		if listed && number != "" {
			s++
		}
		if k.User != "" && req.Recipient.User == k.User {
			s += 2
		}
		if t, _ := req.Recipient.UriParams.Get(tokenParam); t != "" && t == k.Token {
			s += 4
		}
		if src.Flow != "" && src.Flow == k.Flow {
			s += 8
		}
		if s > score {
			best, score = k, s
		}
	}
	if best == nil {
		return Inbound{}, false
	}
	in = Inbound{Trunk: best.Name, Via: best.Via}
	in.Called, in.Listed = best.called(p, req)
	best.caller(p, req, &in)
	return in, true
}

func (k *Known) from(src Source) bool {
	if src.Flow != "" && src.Flow == k.Flow {
		return true
	}
	a := src.Addr.Unmap().WithZone("")
	if !a.IsValid() {
		return false
	}
	for _, known := range k.Addrs {
		if known.Unmap() == a {
			return true
		}
	}
	for _, net := range k.Allowed {
		if net.Contains(a) {
			return true
		}
	}
	return false
}

// called finds the number called.
func (k *Known) called(p Plan, req *sip.Request) (number string, listed bool) {
	places := []Where{k.Called}
	if k.Called == Anywhere {
		places = []Where{InRequestURI, InCalledParty, InTo}
	}
	first := ""
	for _, w := range places {
		user := ""
		switch w {
		case InRequestURI:
			user = userOf(&req.Recipient)
		case InTo:
			if to := req.To(); to != nil {
				user = userOf(&to.Address)
			}
		case InCalledParty:
			if _, u, ok := address(message.Get(req, "P-Called-Party-ID")); ok {
				user = userOf(u)
			}
		}
		if user == "" {
			continue
		}
		n, ok := k.number(p, user)
		if ok && k.owns(n) {
			return n, true
		}
		if first == "" && user != k.User {
			first = n
		}
	}
	if first == "" && k.User != "" { // called by our account's name alone
		n, _ := k.number(p, k.User)
		return orElse(k.Number, n), true
	}
	return first, false
}

// number reads a number as k writes them; what is none stays as it is.
func (k *Known) number(p Plan, user string) (string, bool) {
	n, ok := p.E164(user, k.Incoming)
	if !ok && n == "" {
		return clip(user), false
	}
	if ok && k.owns(n) {
		return n, ok
	}
	// Not ours as it is read: perhaps one of ours was meant that is written in
	// another way. A gateway's own page may hold the line's number in one form,
	// whatever form the line dials in.
	for _, f := range []Format{Bare, National} {
		if m, ok := p.E164(user, f); ok && k.owns(m) {
			return m, true
		}
	}
	return n, ok
}

// caller finds who calls (RFC 3325 §9.1: the provider's word counts, because
// the request came from the provider; else the From).
func (k *Known) caller(p Plan, req *sip.Request, in *Inbound) {
	from := req.From()
	for v := range strings.SplitSeq(message.Get(req, "Privacy"), ";") {
		switch strings.ToLower(strings.TrimSpace(v)) {
		case "id", "user", "header":
			in.Hidden = true
		}
	}
	name, number := "", ""
	if from != nil {
		number, name = userOf(&from.Address), from.DisplayName
		if isAnonymous(number) || strings.EqualFold(from.Address.Host, "anonymous.invalid") {
			in.Hidden, number = true, ""
		}
	}
	for _, h := range [...]string{"P-Asserted-Identity", "Remote-Party-ID"} {
		display, u, ok := address(message.Get(req, h))
		if !ok || userOf(u) == "" || isAnonymous(userOf(u)) {
			continue
		}
		number, in.Proven = userOf(u), true
		name = orElse(display, name)
		if h == "Remote-Party-ID" && strings.Contains(strings.ToLower(message.Get(req, h)), "privacy=full") {
			in.Hidden = true
		}
		break
	}
	if number != "" {
		in.Caller, _ = k.number(p, number)
	}
	if name = clip(message.Unquote(name)); !in.Hidden && name != number && !isAnonymous(name) {
		in.Name = name
	}
}

func isAnonymous(user string) bool {
	switch strings.ToLower(user) {
	case "anonymous", "restricted", "unavailable", "unknown", "private":
		return true
	}
	return false
}

// userOf is the user of a SIP URI or the number of a tel URI (RFC 3966).
func userOf(u *sip.Uri) string {
	if u == nil {
		return ""
	}
	if u.Scheme == "tel" {
		n, _, _ := strings.Cut(u.Raw(), ";")
		return n
	}
	n, _, _ := strings.Cut(u.User, ";")
	return n
}

// address reads the first address of a header value. In RFC 3325 there may be
// two, a SIP and a tel URI of one person.
func address(v string) (display string, u *sip.Uri, ok bool) {
	if v == "" {
		return "", nil, false
	}
	d, a, _, err := message.ParseAddress(v)
	if err != nil {
		end := -1
		if i := strings.IndexByte(v, '>'); i >= 0 {
			end = i + 1
		}
		if d, a, _, err = message.ParseAddress(v[:max(end, 0)]); err != nil {
			return "", nil, false
		}
	}
	return d, &a, true
}

// clip bounds a text from outside that is shown to people.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, s)
	for n := range s {
		if n >= 64 {
			return s[:n]
		}
	}
	return s
}

// Inbound is Identify for a request that came with f, by what is known now.
// Requests from other nodes of the fleet are never from a trunk.
func (t *Trunks) Inbound(req *sip.Request, f *edge.Flow) (Inbound, bool) {
	if f == nil || f.Transport == site.Mesh {
		return Inbound{}, false
	}
	var known []Known
	for _, l := range t.all() {
		l.mu.Lock()
		k := Known{Trunk: l.cfg, Token: l.token}
		dests := l.dests
		if l.at.Addr.IsValid() {
			k.Addrs = append(k.Addrs, l.at.Addr.Addr())
		}
		if l.flow != nil {
			k.Flow = l.flow.Name
		}
		l.mu.Unlock()
		if len(dests) == 0 {
			dests = literal(k.Trunk)
		}
		for _, d := range dests {
			k.Addrs = append(k.Addrs, d.Addr.Addr())
		}
		known = append(known, k)
	}
	return Identify(known, *t.plan.Load(), req, Source{Addr: f.Remote.Addr(), Flow: f.Name})
}
