// Package invite is the token by which a box is admitted to a fleet: made and
// signed by a node that may admit, carried by a person, redeemed once.
//
// Law: the secret of a token never travels. The joiner first makes the other
// side prove that it belongs to the token's fleet (its chain of grants, checked
// by internal/trust); then it shows the token's Claim, which holds no secret,
// and a proof made with a key derived from the secret, bound to both nodes and
// to this one link. What is stored about an invite (its Claim) does not let a
// reader redeem it.
//
// The package is pure: random bytes and times come in as arguments.
package invite

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Version of the token this code makes, and the newest one it reads.
const Version = 1

// DefaultLife is how long a token is good for if nobody says otherwise.
const DefaultLife = 24 * time.Hour

// Limits of a token.
const (
	MaxAddrs   = 8
	MaxAddrLen = 128
	MaxLife    = 400 * 24 * time.Hour
	SecretSize = 16 // 128 bit
	maxText    = 2400
)

// Role says what the new box will be.
type Role uint8

// RoleNode is a full node of its site.
const RoleNode Role = 1

func (r Role) String() string {
	if r == RoleNode {
		return "node"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// A Token is what a person carries. Whoever holds it can join, once.
type Token struct {
	Claim
	Secret [SecretSize]byte
}

// A Claim is a token without its secret: what a joiner shows, and what is
// stored. It is signed by the inviter, so that every node of the inviting site
// can judge it even if the record of the invite has not reached it yet.
type Claim struct {
	Version  uint8
	ID       [10]byte // of the invite's record
	Fleet    [32]byte
	Site     [10]byte // the site the new box will serve
	Role     Role
	Expires  int64             // seconds since 1970
	Addrs    []string          // where nodes of the inviting site can be dialled
	Inviter  ed25519.PublicKey // the node that made it
	Verifier ed25519.PublicKey // checks the joiner's proof; derived from the secret
	Sig      []byte            // Ed25519 by Inviter
}

// NodeID of the inviter: the first 16 bytes of SHA-256 of its key.
func (c *Claim) NodeID() (id [16]byte) {
	sum := sha256.Sum256(c.Inviter)
	copy(id[:], sum[:])
	return id
}

// Until is the time of expiry.
func (c *Claim) Until() time.Time { return time.Unix(c.Expires, 0) }

// Params of a new token.
type Params struct {
	ID      [10]byte
	Fleet   [32]byte
	Site    [10]byte
	Role    Role     // default RoleNode
	Addrs   []string // at least one, at most MaxAddrs
	Now     time.Time
	Life    time.Duration // default DefaultLife
	Inviter ed25519.PublicKey
	Sign    func(msg []byte) []byte // Ed25519 with the inviter's key
	Rand    io.Reader
}

// New makes a token.
func New(p Params) (*Token, error) {
	if p.Role == 0 {
		p.Role = RoleNode
	}
	if p.Life == 0 {
		p.Life = DefaultLife
	}
	if p.Life < time.Minute || p.Life > MaxLife {
		return nil, fmt.Errorf("make an invite: a life of %s; want 1m to %s", p.Life, MaxLife)
	}
	t := &Token{Claim: Claim{Version: Version, ID: p.ID, Fleet: p.Fleet, Site: p.Site, Role: p.Role,
		Expires: p.Now.Add(p.Life).Unix(), Addrs: p.Addrs, Inviter: p.Inviter}}
	if _, err := io.ReadFull(p.Rand, t.Secret[:]); err != nil {
		return nil, fmt.Errorf("make an invite: draw its secret: %w", err)
	}
	t.Verifier = t.key().Public().(ed25519.PublicKey)
	if err := t.shape(); err != nil {
		return nil, fmt.Errorf("make an invite: %w", err)
	}
	t.Sig = p.Sign(t.message())
	if !ed25519.Verify(t.Inviter, t.message(), t.Sig) {
		return nil, errors.New("make an invite: the signature does not fit the inviter's key")
	}
	return t, nil
}

// key is the Ed25519 key of the joiner's proof.
func (t *Token) key() ed25519.PrivateKey {
	seed := sha256.Sum256(append([]byte("ccnode invite key 1"), t.Secret[:]...))
	return ed25519.NewKeyFromSeed(seed[:])
}

func (c *Claim) shape() error {
	switch {
	case len(c.Inviter) != ed25519.PublicKeySize || len(c.Verifier) != ed25519.PublicKeySize:
		return fmt.Errorf("%w: a key has the wrong length", ErrMalformed)
	case len(c.Addrs) == 0 || len(c.Addrs) > MaxAddrs:
		return fmt.Errorf("%w: %d addresses, want 1 to %d", ErrMalformed, len(c.Addrs), MaxAddrs)
	case c.Expires < 0 || c.Expires > 1<<40:
		return fmt.Errorf("%w: expiry %d", ErrMalformed, c.Expires)
	}
	for _, a := range c.Addrs {
		if a == "" || len(a) > MaxAddrLen {
			return fmt.Errorf("%w: an address of %d bytes, want 1 to %d", ErrMalformed, len(a), MaxAddrLen)
		}
	}
	return nil
}

// wire form of a claim; a token has the secret in Verifier's place.
type wire struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	ID      []byte
	Fleet   []byte
	Site    []byte
	Role    Role
	Expires int64
	Addrs   []string
	Inviter []byte
	Key     []byte // Verifier of a claim, Secret of a token
	Sig     []byte
}

var (
	encMode = func() cbor.EncMode {
		m, err := cbor.CoreDetEncOptions().EncMode()
		if err != nil {
			panic(err)
		}
		return m
	}()
	decMode = func() cbor.DecMode {
		m, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden,
			TagsMd: cbor.TagsForbidden, MaxArrayElements: 64, MaxMapPairs: 16, MaxNestedLevels: 4, UTF8: cbor.UTF8RejectInvalid}.DecMode()
		if err != nil {
			panic(err)
		}
		return m
	}()
)

func (c *Claim) encode(key, sig []byte) []byte {
	b, err := encMode.Marshal(wire{Version: c.Version, ID: c.ID[:], Fleet: c.Fleet[:], Site: c.Site[:], Role: c.Role,
		Expires: c.Expires, Addrs: c.Addrs, Inviter: c.Inviter, Key: key, Sig: sig})
	if err != nil {
		panic(fmt.Sprintf("invite: encode a claim of plain fields: %v", err)) // cannot fail: no floats, no interfaces
	}
	return b
}

// message is what the inviter signs: the claim, without signature.
func (c *Claim) message() []byte {
	return append([]byte("ccnode invite 1"), c.encode(c.Verifier, []byte{})...)
}

// decode reads the common wire form; keySize tells a claim from a token.
func decode(b []byte, keySize int) (*Claim, []byte, error) {
	var w wire
	if len(b) > maxText {
		return nil, nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	if err := decMode.Unmarshal(b, &w); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if w.Version == 0 || w.Version > Version {
		return nil, nil, fmt.Errorf("%w: version %d; this program reads up to %d", ErrVersion, w.Version, Version)
	}
	c := &Claim{Version: w.Version, Role: w.Role, Expires: w.Expires, Addrs: w.Addrs, Inviter: w.Inviter, Sig: w.Sig}
	if len(w.ID) != len(c.ID) || len(w.Fleet) != len(c.Fleet) || len(w.Site) != len(c.Site) ||
		len(w.Key) != keySize || len(w.Inviter) != ed25519.PublicKeySize {
		return nil, nil, fmt.Errorf("%w: a name or key has the wrong length", ErrMalformed)
	}
	copy(c.ID[:], w.ID)
	copy(c.Fleet[:], w.Fleet)
	copy(c.Site[:], w.Site)
	return c, w.Key, nil
}

// Encode is the wire form of a claim.
func (c *Claim) Encode() []byte { return c.encode(c.Verifier, c.Sig) }

// DecodeClaim reads what a joiner showed and checks the inviter's signature.
// Whether that inviter may invite is for Check.
func DecodeClaim(b []byte) (*Claim, error) {
	c, key, err := decode(b, ed25519.PublicKeySize)
	if err != nil {
		return nil, err
	}
	c.Verifier = key
	return c, c.verify()
}

func (c *Claim) verify() error {
	if err := c.shape(); err != nil {
		return err
	}
	if !ed25519.Verify(c.Inviter, c.message(), c.Sig) {
		return ErrSignature
	}
	return nil
}
