package message

import (
	"errors"
	"strings"

	"github.com/emiago/sipgo/sip"
)

// ParseAddress reads a name-addr or addr-spec with its parameters, the value
// of From, To, Contact and their like (RFC 3261 §20.10). Display is what stands
// between the quotes, escapes untouched. Without angle brackets everything
// after a semicolon belongs to the header, and '?' and ',' are refused.
func ParseAddress(s string) (display string, u sip.Uri, params sip.HeaderParams, err error) {
	s = trim(s)
	rest := ""
	switch {
	case strings.HasPrefix(s, `"`):
		end := quotedEnd(s)
		if end < 0 {
			return "", u, nil, errors.New("unbalanced quotes")
		}
		display = s[1 : end-1]
		s = trim(s[end:])
		if !strings.HasPrefix(s, "<") {
			return "", u, nil, errors.New("display name without <URI>")
		}
		fallthrough
	case strings.HasPrefix(s, "<") || bracketBefore(s):
		open := strings.IndexByte(s, '<')
		if open > 0 {
			display = trim(s[:open])
			if !isDisplay(display) {
				return "", u, nil, errors.New("display name needs quotes")
			}
		}
		end := strings.IndexByte(s, '>')
		if end < open {
			return "", u, nil, errors.New("unbalanced angle brackets")
		}
		if u, err = ParseURI(s[open+1 : end]); err != nil {
			return "", u, nil, err
		}
		rest = trim(s[end+1:])
	default:
		end := strings.IndexByte(s, ';')
		if end < 0 {
			end = len(s)
		}
		spec := trim(s[:end])
		if strings.ContainsAny(spec, "?,") {
			return "", u, nil, errors.New("URI needs angle brackets")
		}
		if u, err = ParseURI(spec); err != nil {
			return "", u, nil, err
		}
		rest = s[end:]
	}
	params, err = parseParams(rest)
	return display, u, params, err
}

// bracketBefore says whether s is in name-addr form: '<' before any parameter.
func bracketBefore(s string) bool {
	i := strings.IndexAny(s, "<;\"")
	return i >= 0 && s[i] == '<'
}

// isDisplay accepts *(token LWS), and UTF-8 beyond what the grammar allows
// without quotes, because phones send it.
func isDisplay(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !tokenChar[c] && c != ' ' && c != '\t' && c < 0x80 {
			return false
		}
	}
	return true
}

// quotedEnd returns the index after the closing quote of the quoted-string at
// the beginning of s, or -1.
func quotedEnd(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// parseParams reads *( SEMI generic-param ), with LWS round every separator.
// A quoted value keeps its quotes, unless it holds LWS: then sip.HeaderParams
// adds them when it is printed. Unquote reads both.
func parseParams(s string) (sip.HeaderParams, error) {
	s = trim(s)
	if s == "" {
		return nil, nil
	}
	params := make(sip.HeaderParams, 0, 3)
	for s != "" {
		if s[0] != ';' {
			return nil, errors.New("text after the value")
		}
		s = strings.TrimLeft(s[1:], " \t")
		n := 0
		for n < len(s) && tokenChar[s[n]] {
			n++
		}
		if n == 0 {
			return nil, errors.New("empty parameter")
		}
		k, isKnown := lower(s[:n])
		if isKnown && params.Has(k) {
			return nil, errors.New("repeated parameter " + k)
		}
		v := ""
		s = strings.TrimLeft(s[n:], " \t")
		if s != "" && s[0] == '=' {
			s = strings.TrimLeft(s[1:], " \t")
			if s != "" && s[0] == '"' {
				end := quotedEnd(s)
				if end < 0 {
					return nil, errors.New("unbalanced quotes")
				}
				v = s[:end]
				if strings.ContainsAny(v, " \t") {
					v = v[1 : end-1]
				}
				s = strings.TrimLeft(s[end:], " \t")
			} else {
				n := 0
				for n < len(s) && valueChar(s[n]) {
					n++
				}
				v = s[:n]
				s = strings.TrimLeft(s[n:], " \t")
			}
		}
		params = append(params, sip.HeaderKV{K: k, V: v})
	}
	return params, nil
}

// valueChar accepts gen-value (token or host), and a little more that is
// harmless and met in the field; never a separator that could end the value.
func valueChar(c byte) bool {
	return tokenChar[c] || c >= 0x80 || c == ':' || c == '[' || c == ']' || c == '/' || c == '@' || c == '&' || c == '$' || c == '#' || c == '(' || c == ')'
}

// Unquote returns the meaning of a parameter's or header's value: without
// quotes and escapes if it is a quoted-string (RFC 3261 §25.1), else as it is.
func Unquote(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// splitList cuts a header value at its commas, outside quotes and angle
// brackets, and calls each with every part. Quotes that do not close and
// empty parts are errors.
func splitList(s string, each func(string) error) error {
	start, bracket := 0, false
	for i := 0; i <= len(s); i++ {
		if i == len(s) || s[i] == ',' && !bracket {
			part := trim(s[start:i])
			if part == "" {
				return errors.New("empty list element")
			}
			if err := each(part); err != nil {
				return err
			}
			start = i + 1
			continue
		}
		switch s[i] {
		case '<':
			bracket = true
		case '>':
			bracket = false
		case '"':
			if bracket {
				continue
			}
			end := quotedEnd(s[i:])
			if end < 0 {
				return errors.New("unbalanced quotes")
			}
			i += end - 1
		}
	}
	return nil
}

// parseVia reads one via-parm (RFC 3261 §20.42). The host of an IPv6 address
// keeps its brackets, so that it is printed byte-equal.
func parseVia(s string) (*sip.ViaHeader, error) {
	name, rest, ok1 := strings.Cut(s, "/")
	version, rest, ok2 := strings.Cut(rest, "/")
	rest = strings.TrimLeft(rest, " \t")
	n := strings.IndexAny(rest, " \t")
	if !ok1 || !ok2 || n < 0 {
		return nil, errors.New("bad sent-protocol")
	}
	v := &sip.ViaHeader{ProtocolName: trim(name), ProtocolVersion: trim(version), Transport: rest[:n]}
	if !strings.EqualFold(v.ProtocolName, "SIP") || v.ProtocolVersion != "2.0" || !isToken(v.Transport) {
		return nil, errors.New("bad sent-protocol")
	}
	rest = trim(rest[n:])
	end := strings.IndexByte(rest, ';')
	if end < 0 {
		end = len(rest)
	}
	var err error
	if v.Host, v.Port, err = hostPort(trim(rest[:end])); err != nil {
		return nil, err
	}
	v.Params, err = parseParams(rest[end:])
	return v, err
}
