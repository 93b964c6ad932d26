package trunk

import (
	"fmt"
	"strings"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/message"
)

// strength orders what we can answer. A challenge without algorithm means MD5.
var strength = map[string]int{"": 1, digest.MD5: 1, digest.SHA256: 2, digest.SHA512256: 3}

// strongest picks from a 401 or 407 the challenge to answer: for a realm that
// may ask, the strongest algorithm we know; the topmost of equals. A weaker
// one is never better for us, whatever the order (RFC 8760 §2.4 lets us
// choose).
func strongest(res *sip.Response, realms []string) (digest.Challenge, error) {
	name := "WWW-Authenticate"
	if res.StatusCode == 407 {
		name = "Proxy-Authenticate"
	}
	var best digest.Challenge
	found, other := false, ""
	for _, h := range res.Headers() {
		if !strings.EqualFold(h.Name(), name) {
			continue
		}
		c, err := digest.ParseChallenge(h.Value())
		if err != nil || !c.Known() {
			continue
		}
		if !realmAllowed(realms, c.Realm) {
			other = c.Realm
			continue
		}
		if !found || strength[c.Algorithm] > strength[best.Algorithm] {
			best, found = c, true
		}
	}
	switch {
	case found:
		return best, nil
	case other != "":
		return best, fmt.Errorf("%w: %q", ErrRealm, other)
	}
	return best, ErrMethod
}

func realmAllowed(realms []string, realm string) bool {
	for _, r := range realms {
		if strings.EqualFold(r, realm) {
			return true
		}
	}
	return len(realms) == 0
}

// credentialsFor answers c for req. status tells 401 from 407.
func (t Trunk) credentialsFor(c digest.Challenge, status int, req *sip.Request, cnonce string, nc uint32) (sip.Header, error) {
	v, err := c.Answer(string(req.Method), req.Recipient.String(), t.AuthUser, string(t.Password), cnonce, nc)
	if err != nil {
		return nil, err
	}
	name := "Authorization"
	if status == 407 {
		name = "Proxy-Authorization"
	}
	return sip.NewHeader(name, v), nil
}

// Authorization makes the header that answers the 401 or 407 that req got
// (RFC 3261 §22). The request that carries it is a new one: CSeq one higher, no
// Via yet, without an older header of that name. cnonce is fresh randomness. It returns ErrPassword when req had
// answered such a challenge already and the new one is not stale, ErrRealm and
// ErrMethod when nothing may or can be answered.
func Authorization(t Trunk, req *sip.Request, res *sip.Response, cnonce string) (sip.Header, error) {
	t, err := t.normal()
	if err != nil {
		return nil, err
	}
	c, err := strongest(res, t.Realms)
	if err != nil {
		return nil, fmt.Errorf("answer %d of trunk %q: %w", res.StatusCode, t.Name, err)
	}
	said := "Authorization"
	if res.StatusCode == 407 {
		said = "Proxy-Authorization"
	}
	if old, err := digest.ParseCredentials(message.Get(req, said)); err == nil && strings.EqualFold(old.Realm, c.Realm) && (!c.Stale || old.Nonce == c.Nonce) {
		return nil, fmt.Errorf("answer %d of trunk %q: %w", res.StatusCode, t.Name, ErrPassword)
	}
	return t.credentialsFor(c, res.StatusCode, req, cnonce, 1)
}
