package route

import "strings"

// A URI is the part of a SIP or tel URI that says who is meant.
type URI struct {
	Scheme string // "sip", "sips", "tel", "urn"; "" means sip
	User   string // as it stands in the URI; of tel: and urn: everything
	Host   string // without port; IPv6 with or without brackets; "" means here
	Phone  bool   // user=phone
}

func (u URI) String() string {
	s := u.Scheme
	if s == "" {
		s = "sip"
	}
	s += ":" + u.User
	if u.Host != "" {
		s += "@" + u.Host
	}
	return s
}

// ParseURI reads what a person types: "201", "ana", "tel:+33472001201",
// "sip:201@s0004.shops.example". Nothing is refused: what makes no sense leads
// to no such number.
func ParseURI(s string) URI {
	s = strings.Trim(strings.TrimSpace(s), "<>")
	var u URI
	if scheme, rest, ok := strings.Cut(s, ":"); ok {
		switch strings.ToLower(scheme) {
		case "sip", "sips", "tel", "urn":
			u.Scheme, s = strings.ToLower(scheme), rest
		}
	}
	if u.Scheme == "tel" || u.Scheme == "urn" {
		u.User = s
		return u
	}
	s, _, _ = strings.Cut(s, "?")
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		u.User = s
		return u
	}
	u.User = s[:at]
	host, params, _ := strings.Cut(s[at+1:], ";")
	u.Phone = strings.Contains(strings.ToLower(params), "user=phone")
	if end := strings.IndexByte(host, ']'); strings.HasPrefix(host, "[") && end > 0 {
		host = host[:end+1]
	} else {
		host, _, _ = strings.Cut(host, ":")
	}
	u.Host = host
	return u
}

// user is what was dialled: escapes undone, parameters of the user part cut,
// and without visual separators if it is a number (RFC 3966 §5.1.1).
func (u URI) user() (s string, number bool) {
	s = unescape(u.User)
	if i := strings.IndexByte(s, ';'); i >= 0 {
		s = s[:i]
	}
	plain := make([]byte, 0, len(s))
	digits := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= '0' && c <= '9', c == '*', c == '#':
			digits++
			plain = append(plain, c)
		case c == '+' && len(plain) == 0:
			plain = append(plain, c)
		case c == '-' || c == '.' || c == '(' || c == ')' || c == ' ':
		default:
			return strings.ToLower(s), false
		}
	}
	return string(plain), digits > 0
}

func unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if h, l := hex(s[i+1]), hex(s[i+2]); h >= 0 && l >= 0 {
				b = append(b, byte(h<<4|l))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
