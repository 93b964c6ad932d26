package message

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"
)

// ParseURI reads a URI as it stands between angle brackets or in a Request-Line
// (RFC 3261 §19.1.1). SIP and SIPS URIs are taken apart, the host of an IPv6
// address keeping its brackets; any other scheme is kept whole (sip.Uri.Raw).
func ParseURI(s string) (sip.Uri, error) {
	var u sip.Uri
	i := strings.IndexByte(s, ':')
	if i < 1 || !isScheme(s[:i]) {
		return u, errors.New("no URI scheme")
	}
	scheme := strings.ToLower(s[:i])
	if scheme != "sip" && scheme != "sips" {
		if i+1 == len(s) || !isURIText(s[i+1:]) {
			return u, errors.New("bad URI")
		}
		if sip.ParseUri(s, &u) != nil {
			// sipgo knows no digits and dots in schemes; printed, this is the same.
			if _, err := netip.ParseAddr(s[i+1:]); err == nil {
				return u, errors.New("bad URI")
			}
			u = sip.Uri{Scheme: scheme, Host: s[i+1:]}
		}
		return u, nil
	}
	u.Scheme = scheme
	s = s[i+1:]

	if at := strings.IndexByte(s, '@'); at >= 0 {
		user := s[:at]
		s = s[at+1:]
		if strings.IndexByte(s, '@') >= 0 {
			return u, errors.New("two @ in URI")
		}
		u.User, u.Password, _ = strings.Cut(user, ":")
		if u.User == "" || !isURIText(user) || strings.ContainsAny(user, "[]") {
			return u, errors.New("bad user in URI")
		}
	}
	end := strings.IndexAny(s, ";?")
	if end < 0 {
		end = len(s)
	}
	var err error
	if u.Host, u.Port, err = hostPort(s[:end]); err != nil {
		return u, err
	}
	s = s[end:]
	if q := strings.IndexByte(s, '?'); q >= 0 {
		for _, h := range strings.Split(s[q+1:], "&") {
			k, v, _ := strings.Cut(h, "=")
			if k == "" || !isURIText(h) {
				return u, errors.New("bad header in URI")
			}
			u.Headers = append(u.Headers, sip.HeaderKV{K: k, V: v})
		}
		s = s[:q]
	}
	for s != "" {
		s = s[1:] // the semicolon
		end := strings.IndexByte(s, ';')
		if end < 0 {
			end = len(s)
		}
		k, v, _ := strings.Cut(s[:end], "=")
		if k == "" || !isURIText(s[:end]) || strings.IndexByte(v, '=') >= 0 {
			return u, errors.New("bad parameter in URI")
		}
		k, isKnown := lower(k)
		if isKnown && u.UriParams.Has(k) {
			return u, errors.New("repeated parameter in URI")
		}
		u.UriParams = append(u.UriParams, sip.HeaderKV{K: k, V: v})
		s = s[end:]
	}
	return u, nil
}

func isScheme(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && (i == 0 || (s[i] < '0' || s[i] > '9') && s[i] != '+' && s[i] != '-' && s[i] != '.') {
			return false
		}
	}
	return true
}

// isURIText says whether s holds only characters that can stand in a URI, and
// whether every % starts an escape. '#' is let through: phones dial it bare.
func isURIText(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c <= ' ' || c >= 0x7f, c == '"', c == '<', c == '>', c == '\\', c == '^', c == '`', c == '{', c == '|', c == '}':
			return false
		case c == '%':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return false
			}
			i += 2
		}
	}
	return true
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

// hostPort reads host [":" port]. Port is 0 when absent. LWS round the colon
// is allowed, because Via allows it (RFC 3261 §25.1, COLON).
func hostPort(s string) (host string, port int, err error) {
	rest := ""
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", 0, errors.New("IPv6 address without closing bracket")
		}
		host, rest = s[:end+1], s[end+1:]
		if !isIPv6(host[1:end]) {
			return "", 0, errors.New("bad IPv6 address")
		}
	} else {
		end := strings.IndexByte(s, ':')
		if end < 0 {
			end = len(s)
		}
		host, rest = trim(s[:end]), s[end:]
		if !isHostname(host) {
			return "", 0, errors.New("bad host")
		}
	}
	if rest = trim(rest); rest == "" {
		return host, 0, nil
	}
	digits := trim(rest[1:])
	n, err := strconv.ParseUint(digits, 10, 16)
	if rest[0] != ':' || !isDigits(digits) || err != nil || n == 0 {
		return "", 0, errors.New("bad port")
	}
	return host, int(n), nil
}

func isHostname(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && s[0] != '.' && s[0] != '-'
}

// isIPv6 accepts an IPv6 address without brackets, and the three colons that
// the grammar of RFC 3261 once produced (RFC 5118 §4.10).
func isIPv6(s string) bool {
	if strings.IndexByte(s, '%') >= 0 {
		return false
	}
	a, err := netip.ParseAddr(strings.Replace(s, ":::", "::", 1))
	return err == nil && a.Is6()
}

// Addr returns the address that host stands for, without brackets and with
// IPv4-mapped addresses unmapped (RFC 5118 §4.9). It is false for a name.
func Addr(host string) (netip.Addr, bool) {
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	a, err := netip.ParseAddr(host)
	return a.Unmap(), err == nil
}

// Host prints a for use in a URI or Via: IPv6 in brackets.
func Host(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// lower gives well-known parameters their usual case, so that they are found
// however a phone spells them; others stay as received.
func lower(k string) (string, bool) {
	switch len(k) {
	case 1, 2, 3, 4, 5, 6, 7, 8, 9:
	default:
		if strings.EqualFold(k, "+sip.instance") {
			return "+sip.instance", true
		}
		return k, false
	}
	for _, p := range [...]string{"branch", "rport", "tag", "received", "lr", "transport", "expires", "q", "maddr", "ttl", "user", "method", "reg-id", "ob"} {
		if k == p || len(k) == len(p) && strings.EqualFold(k, p) {
			return p, true
		}
	}
	return k, false
}
