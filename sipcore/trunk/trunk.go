// Package trunk owns the lines of one site to the outside: accounts at
// providers, which this node registers, and gateways and foreign PBXs, which
// it knows by address. It says what a call through a line looks like, whose
// call an incoming request is, and in words how each line is.
//
// Its laws: who calls in is known by where the request came from, never by
// what it says alone; a provider hears nothing it did not ask for beyond the
// registration; a wrong password is not repeated until somebody has changed
// something; an emergency call is never refused a channel.
//
// RFC 3261 §10.2 and §22, RFC 3323, RFC 3325, RFC 3581, RFC 5626 §4.4.1,
// RFC 7315 §4.2, RFC 8760.
//
// In use:
//
//	t, err := trunk.New(trunk.Config{Layer: l, Edge: e, Resolver: r, Plan: plan})
//	err = t.Set(trunks)                          // again after each change
//	in, ok := t.Inbound(req, flow)               // whose INVITE is this?
//	lease, drop, ok := t.Take("provider", trunk.Claim{Call: id, Emergency: true})
//	out, err := t.Outgoing("provider", trunk.Call{…})
//	…                                            // send; on 401 or 407:
//	h, err := t.Authorize("provider", req, res)
//	lease.Release()
//	t.Close(ctx)                                 // unregisters
package trunk

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/message"
)

// Kind is how the other end of a trunk knows us.
type Kind string

const (
	Register Kind = "register" // by an account that this node registers
	Peer     Kind = "peer"     // by our address
)

// Way is what the way to the other end depends on.
type Way string

const (
	WAN Way = "wan" // gone when the Internet is cut
	LAN Way = "lan" // a gateway in the shop
)

// A Secret is a password. It prints as nothing but the fact that it is there.
type Secret string

func (s Secret) String() string {
	if s == "" {
		return "(none)"
	}
	return "(set)"
}

// GoString keeps a Secret out of %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue keeps a Secret out of logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Format is how a telephone number is written.
type Format string

const (
	Plus     Format = "e164"     // +33472001201
	Bare     Format = "bare"     // 33472001201
	National Format = "national" // 0472001201, and 0049… for other countries
)

// Where is the place in an incoming request where the number called stands.
type Where string

const (
	Anywhere      Where = ""                  // the first of the three that holds a number of the trunk
	InRequestURI  Where = "request-uri"       //
	InTo          Where = "to"                //
	InCalledParty Where = "p-called-party-id" // RFC 7315 §4.2
)

// Alive is what the provider wants to see between registrations, so that the
// way back through a NAT stays open.
type Alive string

const (
	Silent  Alive = ""        // nothing
	CRLF    Alive = "crlf"    // RFC 5626 §4.4.1; over UDP the same four octets
	Options Alive = "options" // answered with anything: alive
)

// Identity is where a provider looks for the number of the caller.
type Identity struct {
	Account bool   // the From is always the account, the number stands in the other headers only
	PAI     bool   // P-Asserted-Identity, RFC 3325 §9.1
	PPI     bool   // P-Preferred-Identity, RFC 3325 §9.2
	RPID    bool   // Remote-Party-ID, as some still want it
	Format  Format // default Plus
	Foreign bool   // numbers that are not this trunk's may be shown: of a call forwarded out again
	Name    bool   // the caller's name is sent too
}

// A Trunk is how one line is set up. Server and Name are needed.
type Trunk struct {
	Name string
	Kind Kind // default Peer without a User, else Register
	Via  Way  // default WAN

	Server    string         // registrar, gateway or PBX: a name or an address, without port
	Port      int            // 0: what the resolver finds, else 5060
	Transport site.Transport // site.UDP (default) or site.TCP
	Proxy     string         // where requests go instead of to Server: host or host:port
	Domain    string         // of the account, in From, To and Request-URI; default Server
	Realms    []string       // that may ask for the password; none: any

	User     string // of the account; in Contact
	AuthUser string // in credentials; default User
	Password Secret

	Identity  Identity
	Dial      Format   // of the number called; default Plus
	UserPhone bool     // user=phone in the Request-URI (RFC 3261 §19.1.1)
	Number    string   // E.164: shown where the caller has none of this trunk's
	Numbers   []string // E.164 numbers that ring here; "+3347200120*" for a block
	Called    Where    // where the number called stands
	Incoming  Format   // how numbers are written there; "": guessed

	Alive         Alive
	Every         time.Duration // between keep-alives; default 30 s
	Expires       time.Duration // of the registration as we ask for it; default 120 s
	PublicContact bool          // Contact is the address the provider sees, not ours
	Channels      int           // calls at once; 0: no limit of ours
	Allowed       []netip.Prefix
	Hold          bool // not registered from here: the pair's other node does
}

// Defaults and bounds.
const (
	defaultExpires = 120 * time.Second
	defaultEvery   = 30 * time.Second
	minEvery       = 5 * time.Second
	maxExpires     = 24 * time.Hour
)

// normal checks t and fills in what is not said.
func (t Trunk) normal() (Trunk, error) {
	bad := func(format string, args ...any) (Trunk, error) {
		return t, fmt.Errorf("trunk %q: "+format, append([]any{t.Name}, args...)...)
	}
	if t.Name == "" {
		return t, errors.New("a trunk needs a name")
	}
	if t.Kind == "" {
		t.Kind = Peer
		if t.User != "" {
			t.Kind = Register
		}
	}
	if t.Via == "" {
		t.Via = WAN
	}
	if t.Transport == "" {
		t.Transport = site.UDP
	}
	if t.AuthUser == "" {
		t.AuthUser = t.User
	}
	t.Domain = orElse(t.Domain, t.Server)
	t.Identity.Format = orElse(t.Identity.Format, Plus)
	t.Dial = orElse(t.Dial, Plus)
	if t.Every == 0 {
		t.Every = defaultEvery
	}
	if t.Expires == 0 {
		t.Expires = defaultExpires
	}
	switch {
	case t.Kind != Register && t.Kind != Peer:
		return bad("kind %q: say register or peer", t.Kind)
	case t.Via != WAN && t.Via != LAN:
		return bad("via %q: say wan or lan", t.Via)
	case t.Transport != site.UDP && t.Transport != site.TCP:
		return bad("transport %q: say udp or tcp", t.Transport)
	case !isHost(t.Server):
		return bad("server %q: a name or an address is needed, without port", t.Server)
	case !isHost(t.Domain):
		return bad("domain %q: not a host name", t.Domain)
	case t.Port < 0 || t.Port > 65535:
		return bad("port %d: 1 to 65535", t.Port)
	case t.Kind == Register && t.User == "":
		return bad("an account needs a user")
	case !isUser(t.User):
		return bad("user %q: letters, digits and - _ . + ~ only, or escaped as %%xx", t.User)
	case strings.ContainsAny(t.AuthUser+string(t.Password), "\r\n\x00"):
		return bad("user or password has a line break in it")
	case t.Every < minEvery:
		return bad("keep-alive every %s: not more often than every %s", t.Every, minEvery)
	case t.Expires < 10*time.Second || t.Expires > maxExpires:
		return bad("expiry %s: 10s to %s", t.Expires, maxExpires)
	case t.Channels < 0:
		return bad("%d channels", t.Channels)
	}
	for _, f := range []Format{t.Dial, t.Identity.Format, t.Incoming} {
		if f != "" && f != Plus && f != Bare && f != National {
			return bad("number format %q: say e164, bare or national", f)
		}
	}
	switch t.Called {
	case Anywhere, InRequestURI, InTo, InCalledParty:
	default:
		return bad("called number in %q: say request-uri, to or p-called-party-id", t.Called)
	}
	switch t.Alive {
	case Silent, CRLF, Options:
	default:
		return bad("keep-alive %q: say crlf or options, or nothing", t.Alive)
	}
	if t.Proxy != "" {
		if _, _, err := hostPort(t.Proxy); err != nil {
			return bad("proxy: %w", err)
		}
	}
	for _, n := range append([]string{t.Number}, t.Numbers...) {
		if n = strings.TrimSuffix(n, "*"); n != "" && !isE164(n) {
			return bad("number %q: write it as +33472001201", n)
		}
	}
	return t, nil
}

// hop is where requests go first.
func (t Trunk) hop() (host string, port int) {
	if t.Proxy == "" {
		return t.Server, t.Port
	}
	host, port, _ = hostPort(t.Proxy)
	return host, port
}

// owns says whether an E.164 number is listed for t.
func (t Trunk) owns(number string) bool {
	if number == "" {
		return false
	}
	for _, n := range t.Numbers {
		if block, ok := strings.CutSuffix(n, "*"); ok && strings.HasPrefix(number, block) && block != "" || n == number {
			return true
		}
	}
	return number == t.Number
}

func orElse[T comparable](v, or T) T {
	var zero T
	if v == zero {
		return or
	}
	return v
}

// isHost accepts a host name or an address, IPv6 with or without brackets.
func isHost(s string) bool {
	if _, ok := message.Addr(s); ok {
		return true
	}
	if s == "" || len(s) > 253 || s[0] == '-' || s[0] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return true
}

// isUser accepts what may stand before the @ without further escaping.
func isUser(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_.!~*'()&=+$,/", c) >= 0:
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			i += 2
		default:
			return false
		}
	}
	return true
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' }

// hostPort reads host, host:port, or an IPv6 address in brackets with or
// without port.
func hostPort(s string) (host string, port int, err error) {
	u, err := message.ParseURI("sip:" + s)
	if err != nil || u.User != "" || len(u.UriParams) > 0 || len(u.Headers) > 0 || !isHost(u.Host) {
		return "", 0, fmt.Errorf("%q is not a host with or without port", s)
	}
	return u.Host, u.Port, nil
}
