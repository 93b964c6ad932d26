package trunk

import "strings"

// A Plan is how numbers are written where the site is.
type Plan struct {
	Country string // without +: "33"
	Trunk   string // before a national number: "0"; "" where there is none
	Abroad  string // before an international one: "00"
}

// isE164 accepts + and 3 to 15 digits (ITU-T E.164 §6.1).
func isE164(s string) bool {
	return len(s) >= 4 && len(s) <= 16 && s[0] == '+' && s[1] != '0' && allDigits(s[1:])
}

func allDigits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// bare takes separators (RFC 3966 §5.1.1) and escapes out of a number. What
// is left is + and digits, or ok is false.
func bare(s string) (string, bool) {
	var b [24]byte
	n := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '%' {
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return "", false
			}
			c = unhex(s[i+1])<<4 | unhex(s[i+2])
			i += 2
		}
		switch {
		case c >= '0' && c <= '9', c == '+' && n == 0:
			if n == len(b) {
				return "", false
			}
			b[n] = c
			n++
		case c == '-' || c == '.' || c == '(' || c == ')' || c == ' ':
		case c == ';': // parameters of a telephone number follow
			return string(b[:n]), n > 0 && !(n == 1 && b[0] == '+')
		default:
			return "", false
		}
	}
	return string(b[:n]), n > 0 && !(n == 1 && b[0] == '+')
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

// E164 reads a number as a provider writes it: in the given format, or in any
// of them, guessed by its beginning and length. ok is false for short codes,
// names and what is no number; then the digits come back, if there are any.
func (p Plan) E164(s string, f Format) (number string, ok bool) {
	d, ok := bare(s)
	if !ok {
		return "", false
	}
	e := p.guess(d, f)
	if !isE164(e) || len(e) < 8 && d[0] != '+' {
		return d, false
	}
	return e, true
}

func (p Plan) guess(d string, f Format) string {
	if d[0] == '+' {
		return d
	}
	if p.Abroad != "" && f != Bare {
		if rest, ok := strings.CutPrefix(d, p.Abroad); ok && len(rest) >= 7 {
			return "+" + rest
		}
	}
	if f == Bare {
		return "+" + d
	}
	if p.Country == "" {
		if len(d) >= 10 {
			return "+" + d
		}
		return d
	}
	if len(d) < 7 {
		return d // a short code
	}
	if p.Trunk != "" {
		if rest, ok := strings.CutPrefix(d, p.Trunk); ok {
			return "+" + p.Country + rest
		}
	}
	switch {
	case f == National:
		return "+" + p.Country + d
	case strings.HasPrefix(d, p.Country) && len(d) >= len(p.Country)+8:
		return "+" + d
	case p.Trunk != "" && len(d) >= 11:
		return "+" + d
	}
	return "+" + p.Country + d
}

// Write writes an E.164 number in a format. Short codes stay as they are.
func (p Plan) Write(number string, f Format) string {
	d, ok := strings.CutPrefix(number, "+")
	if !ok || f == Plus || f == "" {
		return number
	}
	if f == Bare || p.Country == "" {
		return d
	}
	if n, ok := strings.CutPrefix(d, p.Country); ok {
		return p.Trunk + n
	}
	return p.Abroad + d
}
