package invite

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
)

// Prefix of a token's text. The text is upper-case letters, digits and "-",
// the alphanumeric mode of a QR code (ISO/IEC 18004), and may be typed in
// either case, with blanks and line breaks anywhere.
const Prefix = "CCNODE1-"

// Letters that are easily confused with digits are not in the alphabet of
// RFC 4648 §6: 0, 1 and 8 are absent, so they can be read as O, I and B.
var (
	text   = base32.StdEncoding.WithPadding(base32.NoPadding)
	typist = strings.NewReplacer("0", "O", "1", "I", "8", "B", "-", "", " ", "", "\t", "", "\r", "", "\n", "", "\u00a0", "")
)

const sumSize = 5

func checksum(b []byte) []byte {
	sum := sha256.Sum256(append([]byte("ccnode invite text 1"), b...))
	return sum[:sumSize]
}

// String is the token's text. It is a secret: do not log it.
func (t *Token) String() string {
	b := t.encode(t.Secret[:], t.Sig)
	return Prefix + text.EncodeToString(append(b, checksum(b)...))
}

// Parse reads a token's text and checks its checksum and signature. Its errors
// are ErrMalformed, ErrChecksum, ErrVersion and ErrSignature, with details.
func Parse(s string) (*Token, error) {
	s = strings.TrimSpace(s)
	if len(s) > maxText {
		return nil, fmt.Errorf("%w: %d characters; copy the token alone", ErrMalformed, len(s))
	}
	if len(s) < len(Prefix) || !strings.EqualFold(s[:len(Prefix)], Prefix) {
		if up := strings.ToUpper(s); strings.HasPrefix(up, "CCNODE") {
			return nil, fmt.Errorf("%w: it starts with %q, this program reads %q", ErrVersion, head(s), Prefix)
		}
		return nil, fmt.Errorf("%w: it starts with %q; a token starts with %q", ErrMalformed, head(s), Prefix)
	}
	body := typist.Replace(strings.ToUpper(s[len(Prefix):]))
	if i := strings.IndexFunc(body, func(r rune) bool { return !(r >= 'A' && r <= 'Z' || r >= '2' && r <= '7') }); i >= 0 {
		return nil, fmt.Errorf("%w: %q is not a letter of a token; copy it again", ErrMalformed, []rune(body[i:])[0])
	}
	b, err := text.DecodeString(body)
	if err != nil || text.EncodeToString(b) != body {
		return nil, fmt.Errorf("%w: a character is missing or too many; copy it again, whole", ErrChecksum)
	}
	if len(b) <= sumSize || string(checksum(b[:len(b)-sumSize])) != string(b[len(b)-sumSize:]) {
		return nil, fmt.Errorf("%w; copy it again, whole", ErrChecksum)
	}
	c, key, err := decode(b[:len(b)-sumSize], SecretSize)
	if err != nil {
		return nil, err
	}
	t := &Token{Claim: *c}
	copy(t.Secret[:], key)
	t.Verifier = t.key().Public().(ed25519.PublicKey)
	return t, t.verify()
}

func head(s string) string {
	r := []rune(s)
	return string(r[:min(len(r), len(Prefix))])
}
