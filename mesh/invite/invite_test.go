package invite

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var t0 = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32))
}

func made(t testing.TB) *Token {
	t.Helper()
	k := key(1)
	tok, err := New(Params{ID: [10]byte{7}, Fleet: [32]byte{1, 2}, Site: [10]byte{3}, Addrs: []string{"192.168.1.10:7950", "203.0.113.9:7950"},
		Now: t0, Inviter: k.Public().(ed25519.PublicKey), Sign: func(m []byte) []byte { return ed25519.Sign(k, m) },
		Rand: rand.NewChaCha8([32]byte{1})})
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestTextRoundTrip(t *testing.T) {
	tok := made(t)
	s := tok.String()
	t.Logf("%d characters", len(s))
	if len(s) > 600 {
		t.Errorf("a token of %d characters makes a dense QR code", len(s))
	}
	for _, text := range []string{s, strings.ToLower(s), "  " + s[:60] + "\n  " + s[60:] + "\n"} {
		got, err := Parse(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if got.String() != s || got.Secret != tok.Secret || got.Expires != t0.Add(DefaultLife).Unix() {
			t.Errorf("got %+v, want %+v", got, tok)
		}
	}
}

func TestEveryTypingErrorIsNamed(t *testing.T) {
	s := made(t).String()
	other := map[byte]byte{'A': 'B', '2': '3'}
	for i := len(Prefix); i < len(s); i++ {
		c, ok := other[s[i]]
		if !ok {
			c = 'A'
		}
		_, err := Parse(s[:i] + string(c) + s[i+1:])
		if !errors.Is(err, ErrChecksum) {
			t.Fatalf("character %d replaced: %v", i, err)
		}
		if _, err := Parse(s[:i] + s[i+1:]); !errors.Is(err, ErrChecksum) {
			t.Fatalf("character %d left out: %v", i, err)
		}
	}
	for text, want := range map[string]error{
		"":                                 ErrMalformed,
		"hello":                            ErrMalformed,
		"ccnode2-AAAA":                     ErrVersion,
		Prefix:                             ErrChecksum,
		Prefix + "AA!A":                    ErrMalformed,
		Prefix + strings.Repeat("A", 3000): ErrMalformed,
		s[:len(s)/2]:                       ErrChecksum,
	} {
		if _, err := Parse(text); !errors.Is(err, want) {
			t.Errorf("%.30q: got %v, want %v", text, err, want)
		}
	}
}

func TestAlteredClaimIsRefused(t *testing.T) {
	tok := made(t)
	for name, alter := range map[string]func(*Claim){
		"expiry":   func(c *Claim) { c.Expires++ },
		"site":     func(c *Claim) { c.Site[0]++ },
		"fleet":    func(c *Claim) { c.Fleet[0]++ },
		"address":  func(c *Claim) { c.Addrs = []string{"198.51.100.66:7950"} },
		"verifier": func(c *Claim) { c.Verifier = key(9).Public().(ed25519.PublicKey) },
		"inviter":  func(c *Claim) { c.Inviter = key(9).Public().(ed25519.PublicKey) },
	} {
		c := tok.Claim
		alter(&c)
		if _, err := DecodeClaim(c.Encode()); !errors.Is(err, ErrSignature) {
			t.Errorf("%s altered: %v", name, err)
		}
	}
	c, err := DecodeClaim(tok.Claim.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(c.Encode(), tok.Secret[:]) {
		t.Error("the claim holds the secret")
	}
}

func TestRefusalsSayWhy(t *testing.T) {
	tok := made(t)
	ok := Env{Now: t0.Add(time.Hour), Fleet: tok.Fleet, Home: [10]byte{9}, Joiner: [16]byte{5},
		Inviter: func(ed25519.PublicKey, [10]byte) ([10]byte, bool, bool) { return [10]byte{9}, true, true }}
	by := Redemption{By: [16]byte{0xab}, At: t0.Add(time.Minute)}
	for _, c := range []struct {
		name string
		want error
		says string
		env  func(*Env)
	}{
		{"good", nil, "", func(*Env) {}},
		{"expired", ErrExpired, "2026-11-23T10:00:00Z", func(e *Env) { e.Now = t0.Add(25 * time.Hour) }},
		{"clock", ErrClock, "set the clock", func(e *Env) { e.Now = time.Unix(0, 0) }},
		{"revoked", ErrRevoked, "Ann", func(e *Env) { e.Revoked, e.RevokedBy, e.RevokedAt = true, "Ann", t0 }},
		{"redeemed", ErrRedeemed, "ab000000 at 2026-11-22T10:01:00Z", func(e *Env) { e.Redeemed = &by }},
		{"asks again", nil, "", func(e *Env) { e.Redeemed, e.Joiner = &by, by.By; e.Now = t0.Add(48 * time.Hour) }},
		{"other fleet", ErrFleet, "another fleet", func(e *Env) { e.Fleet[0]++ }},
		{"other site", ErrSite, "join there", func(e *Env) { e.Home = [10]byte{8} }},
		{"stranger", ErrInviter, "not a member", func(e *Env) {
			e.Inviter = func(ed25519.PublicKey, [10]byte) ([10]byte, bool, bool) { return [10]byte{9}, false, false }
		}},
		{"no right", ErrInviter, "no right", func(e *Env) {
			e.Inviter = func(ed25519.PublicKey, [10]byte) ([10]byte, bool, bool) { return [10]byte{9}, false, true }
		}},
	} {
		e := ok
		c.env(&e)
		err := Check(&tok.Claim, e)
		if !errors.Is(err, c.want) || (err != nil && !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: got %v, want %v saying %q", c.name, err, c.want, c.says)
		}
	}
}

func TestProofIsBoundToItsLink(t *testing.T) {
	tok := made(t)
	l := Link{Joiner: [16]byte{1}, Sponsor: [16]byte{2}, Channel: []byte("nonces")}
	p := tok.Prove(l)
	if err := tok.Claim.VerifyProof(l, p); err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]Link{
		"joiner":  {Joiner: [16]byte{3}, Sponsor: l.Sponsor, Channel: l.Channel},
		"sponsor": {Joiner: l.Joiner, Sponsor: [16]byte{3}, Channel: l.Channel},
		"channel": {Joiner: l.Joiner, Sponsor: l.Sponsor, Channel: []byte("others")},
	} {
		if err := tok.Claim.VerifyProof(other, p); !errors.Is(err, ErrProof) {
			t.Errorf("replayed with another %s: %v", name, err)
		}
	}
	wrong := *tok
	wrong.Secret[0]++
	if err := tok.Claim.VerifyProof(l, wrong.Prove(l)); !errors.Is(err, ErrProof) {
		t.Errorf("another secret: %v", err)
	}
	if err := tok.Claim.VerifyProof(l, nil); !errors.Is(err, ErrProof) {
		t.Errorf("no proof: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	tok := made(f)
	f.Add(tok.String())
	f.Add(Prefix + "AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(tok.String())
		if err != nil || again.String() != tok.String() {
			t.Fatalf("round trip: %v", err)
		}
	})
}

func FuzzDecodeClaim(f *testing.F) {
	f.Add(made(f).Claim.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeClaim(b)
		if err != nil {
			return
		}
		if _, err := DecodeClaim(c.Encode()); err != nil {
			t.Fatalf("round trip: %v", err)
		}
	})
}
