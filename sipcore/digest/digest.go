// Package digest proves who sends a request (RFC 3261 §22, RFC 7616, RFC 8760).
//
// Its laws: a nonce is stateless until it has been used successfully, so a
// flood of requests without credentials costs no memory; nobody learns from an
// answer or its time whether a user exists; what was used once is not accepted
// again. One challenge per response: MD5, or SHA-256 where the device can.
//
// Answers without qop (RFC 2069) are taken from old telephones, once per nonce.
// qop=auth-int and the -sess algorithms are neither offered nor taken.
package digest

import (
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
)

// Algorithms by their registered names (RFC 7616 §6.1).
const (
	MD5       = "MD5"
	SHA256    = "SHA-256"
	SHA512256 = "SHA-512-256" // client side only
)

// sum appends the lower-case hex digest of the parts, joined by colons.
func sum(dst []byte, algorithm string, parts ...string) []byte {
	var scratch [256]byte
	b := scratch[:0]
	for i, p := range parts {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, p...)
	}
	switch algorithm {
	case SHA256:
		h := sha256.Sum256(b)
		return hex.AppendEncode(dst, h[:])
	case SHA512256:
		h := sha512.Sum512_256(b)
		return hex.AppendEncode(dst, h[:])
	}
	h := md5.Sum(b)
	return hex.AppendEncode(dst, h[:])
}

// HA1 is H(username:realm:password), which the credential store keeps.
func HA1(algorithm, username, realm, password string) string {
	return string(sum(nil, algorithm, username, realm, password))
}

// response computes request-digest (RFC 7616 §3.4.1; without qop, RFC 2069).
func response(dst []byte, algorithm, ha1, method, uri, nonce, nc, cnonce, qop string) []byte {
	var a, b [64]byte
	ha2 := string(sum(a[:0], algorithm, method, uri))
	if qop == "" {
		return sum(append(dst, b[:0]...), algorithm, ha1, nonce, ha2)
	}
	return sum(dst, algorithm, ha1, nonce, nc, cnonce, qop, ha2)
}

// Credentials are the parameters of one Authorization or Proxy-Authorization
// header (RFC 7616 §3.4), unquoted.
type Credentials struct {
	Username, Realm, Nonce, URI, Response string
	Algorithm, CNonce, Opaque, QOP, NC    string
	Userhash                              bool
}

var (
	errScheme = errors.New("not Digest")
	errSyntax = errors.New("malformed Digest credentials")
)

// ParseCredentials reads an Authorization header. Other schemes, unbalanced
// quotes, repeated parameters and missing ones are errors. Unknown parameters
// are ignored. It allocates only where a value has escapes.
func ParseCredentials(s string) (c Credentials, err error) {
	var uh string
	err = params(s, func(name, value string) bool {
		var p *string
		switch {
		case strings.EqualFold(name, "username"):
			p = &c.Username
		case strings.EqualFold(name, "realm"):
			p = &c.Realm
		case strings.EqualFold(name, "nonce"):
			p = &c.Nonce
		case strings.EqualFold(name, "uri"):
			p = &c.URI
		case strings.EqualFold(name, "response"):
			p = &c.Response
		case strings.EqualFold(name, "algorithm"):
			p = &c.Algorithm
		case strings.EqualFold(name, "cnonce"):
			p = &c.CNonce
		case strings.EqualFold(name, "opaque"):
			p = &c.Opaque
		case strings.EqualFold(name, "qop"):
			p = &c.QOP
		case strings.EqualFold(name, "nc"):
			p = &c.NC
		case strings.EqualFold(name, "userhash"):
			p = &uh
		default:
			return true
		}
		if *p != "" {
			return false
		}
		*p = value
		return true
	})
	if err != nil {
		return Credentials{}, err
	}
	c.Userhash = strings.EqualFold(uh, "true")
	if c.Username == "" || c.Realm == "" || c.Nonce == "" || c.URI == "" || c.Response == "" {
		return Credentials{}, errSyntax
	}
	if c.QOP != "" && (len(c.NC) != 8 || c.CNonce == "") {
		return Credentials{}, errSyntax
	}
	return c, nil
}

// A Challenge is a WWW-Authenticate or Proxy-Authenticate header (RFC 7616 §3.3).
type Challenge struct {
	Realm, Nonce, Opaque, Algorithm string
	QOPAuth                         bool // qop=auth is offered
	Stale                           bool
}

// ParseChallenge reads a challenge, as a client does.
func ParseChallenge(s string) (Challenge, error) {
	var c Challenge
	err := params(s, func(name, value string) bool {
		switch {
		case strings.EqualFold(name, "realm"):
			c.Realm = value
		case strings.EqualFold(name, "nonce"):
			c.Nonce = value
		case strings.EqualFold(name, "opaque"):
			c.Opaque = value
		case strings.EqualFold(name, "algorithm"):
			c.Algorithm = strings.ToUpper(value)
		case strings.EqualFold(name, "stale"):
			c.Stale = strings.EqualFold(value, "true")
		case strings.EqualFold(name, "qop"):
			for q := range strings.SplitSeq(value, ",") {
				c.QOPAuth = c.QOPAuth || strings.EqualFold(strings.TrimSpace(q), "auth")
			}
		}
		return true
	})
	if err == nil && c.Nonce == "" {
		err = errSyntax
	}
	return c, err
}

// Header prints the challenge. It is sent in WWW-Authenticate with 401, in
// Proxy-Authenticate with 407.
func (c Challenge) Header() string {
	var b strings.Builder
	b.Grow(160)
	b.WriteString(`Digest realm="`)
	b.WriteString(c.Realm)
	b.WriteString(`", nonce="`)
	b.WriteString(c.Nonce)
	b.WriteString(`", algorithm=`)
	b.WriteString(c.Algorithm)
	if c.QOPAuth {
		b.WriteString(`, qop="auth"`)
	}
	if c.Stale {
		b.WriteString(`, stale=true`)
	}
	return b.String()
}

// Known says whether Answer can answer it.
func (c Challenge) Known() bool {
	return c.Algorithm == "" || c.Algorithm == MD5 || c.Algorithm == SHA256 || c.Algorithm == SHA512256
}

// Answer makes the Authorization header that answers c (RFC 7616 §3.4). nc
// counts the requests sent with this nonce, from 1; cnonce is fresh randomness.
func (c Challenge) Answer(method, uri, username, password, cnonce string, nc uint32) (string, error) {
	if !c.Known() {
		return "", errors.New("answer digest challenge: unknown algorithm " + strconv.Quote(c.Algorithm))
	}
	algorithm := c.Algorithm
	if algorithm == "" {
		algorithm = MD5
	}
	ncText, qop := "", ""
	if c.QOPAuth {
		qop = "auth"
		ncText = strconv.FormatUint(uint64(nc)|1<<32, 16)[1:]
	}
	res := response(nil, algorithm, HA1(algorithm, username, c.Realm, password), method, uri, c.Nonce, ncText, cnonce, qop)
	var b strings.Builder
	b.WriteString(`Digest username="` + quote(username) + `", realm="` + quote(c.Realm) + `", nonce="` + quote(c.Nonce) +
		`", uri="` + quote(uri) + `", response="` + string(res) + `"`)
	if c.Algorithm != "" {
		b.WriteString(", algorithm=" + c.Algorithm)
	}
	if qop != "" {
		b.WriteString(`, cnonce="` + quote(cnonce) + `", qop=auth, nc=` + ncText)
	}
	if c.Opaque != "" {
		b.WriteString(`, opaque="` + quote(c.Opaque) + `"`)
	}
	return b.String(), nil
}

// Choose returns the first of several challenge headers that can be answered
// (RFC 8760 §2.4: the topmost one known).
func Choose(headers []string) (Challenge, error) {
	for _, h := range headers {
		if c, err := ParseChallenge(h); err == nil && c.Known() {
			return c, nil
		}
	}
	return Challenge{}, errors.New("no digest challenge that can be answered")
}

func quote(s string) string {
	if !strings.ContainsAny(s, `"\`) {
		return s
	}
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
}

// params calls each with every auth-param of a Digest header; each returns
// false to refuse it.
func params(s string, each func(name, value string) bool) error {
	s = strings.TrimLeft(s, " \t")
	if len(s) < 7 || !strings.EqualFold(s[:6], "Digest") || s[6] != ' ' && s[6] != '\t' {
		return errScheme
	}
	s = s[7:]
	for {
		s = strings.TrimLeft(s, " \t,")
		if s == "" {
			return nil
		}
		n := 0
		for n < len(s) && s[n] != '=' && s[n] != ' ' && s[n] != '\t' && s[n] != ',' && s[n] != '"' {
			n++
		}
		name := s[:n]
		s = strings.TrimLeft(s[n:], " \t")
		if name == "" || s == "" || s[0] != '=' {
			return errSyntax
		}
		s = strings.TrimLeft(s[1:], " \t")
		var value string
		if s != "" && s[0] == '"' {
			end, escaped := 1, false
			for end < len(s) && s[end] != '"' {
				if s[end] == '\\' {
					escaped = true
					end++
				}
				end++
			}
			if end >= len(s) {
				return errSyntax
			}
			value = s[1:end]
			if escaped {
				value = unescape(value)
			}
			s = strings.TrimLeft(s[end+1:], " \t")
		} else {
			n := 0
			for n < len(s) && s[n] != ',' && s[n] != ' ' && s[n] != '\t' && s[n] != '"' {
				n++
			}
			value = s[:n]
			s = strings.TrimLeft(s[n:], " \t")
		}
		if s != "" && s[0] != ',' || !each(name, value) {
			return errSyntax
		}
	}
}

func unescape(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}
