// Package trust says who belongs to a fleet and what each member may write: the
// root key and its words, grants from root to issuer to node, revocation, and
// the keys under which a site's secrets are sealed (state.md §7).
//
// Law: whether a change is valid depends on its bytes and on the grant it was
// written under, on nothing else; so two nodes never disagree about one. A
// revocation closes links and voids what the revoked node gave out; it does not
// rewrite what honest members accepted before they heard.
//
// Ed25519 is RFC 8032, the words are BIP-39, wraps are NaCl boxes (X25519),
// sealed values XChaCha20-Poly1305. Random bytes and times are arguments.
package trust

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"github.com/fxamacker/cbor/v2"
	"golang.org/x/crypto/curve25519"
)

// Errors of this package wrap one of these.
var (
	ErrMalformed = errors.New("malformed")
	ErrChain     = errors.New("the grant is not signed by this fleet")
	ErrUnknown   = errors.New("the grant it rests on is not known here")
	ErrRights    = errors.New("its issuer may not give that")
	ErrForbidden = errors.New("the grant does not allow it")
	ErrRevoked   = errors.New("it was revoked")
	ErrWords     = errors.New("these are not the recovery words")
	ErrSealed    = errors.New("the secret cannot be opened here")
)

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
			TagsMd: cbor.TagsForbidden, MaxArrayElements: 1024, MaxMapPairs: 64, MaxNestedLevels: 8}.DecMode()
		if err != nil {
			panic(err)
		}
		return m
	}()
)

func marshal(v any) []byte {
	b, err := encMode.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("trust: encode %T: %v", v, err)) // plain fields cannot fail
	}
	return b
}

// NodeID is the name of the node with that key.
func NodeID(pub ed25519.PublicKey) (id site.NodeID) {
	sum := sha256.Sum256(pub)
	copy(id[:], sum[:])
	return id
}

// An Identity is a node's key, made on the box at first boot and never copied.
// Its 32 bytes also give the X25519 key under which secrets are wrapped for it.
type Identity struct {
	seed [ed25519.SeedSize]byte
	key  ed25519.PrivateKey
	open [32]byte
}

// NewIdentity draws a node's key.
func NewIdentity(rand io.Reader) (*Identity, error) {
	var seed [ed25519.SeedSize]byte
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return nil, fmt.Errorf("draw this node's key: %w", err)
	}
	return IdentityFromSeed(seed[:])
}

// IdentityFromSeed reads the stored form of an identity.
func IdentityFromSeed(seed []byte) (*Identity, error) {
	i := &Identity{}
	if len(seed) != len(i.seed) {
		return nil, fmt.Errorf("read this node's key: %w: %d bytes, want %d", ErrMalformed, len(seed), len(i.seed))
	}
	copy(i.seed[:], seed)
	i.key = ed25519.NewKeyFromSeed(seed)
	i.open = sha256.Sum256(append([]byte("ccnode seal key 1"), seed...))
	return i, nil
}

// Seed is what is stored. It is the node itself: keep it on its own disk only.
func (i *Identity) Seed() []byte { return append([]byte(nil), i.seed[:]...) }

// Node is the node's name.
func (i *Identity) Node() site.NodeID { return NodeID(i.Public()) }

// Public is the Ed25519 key others know the node by.
func (i *Identity) Public() ed25519.PublicKey { return i.key.Public().(ed25519.PublicKey) }

// Private is for the mesh's handshake.
func (i *Identity) Private() ed25519.PrivateKey { return i.key }

// Sign signs with the node's key.
func (i *Identity) Sign(msg []byte) []byte { return ed25519.Sign(i.key, msg) }

// SealKey is the X25519 key that a grant carries.
func (i *Identity) SealKey() (pub [32]byte) {
	b, err := curve25519.X25519(i.open[:], curve25519.Basepoint)
	if err != nil {
		panic(fmt.Sprintf("trust: public half of a drawn key: %v", err)) // only for low-order points
	}
	copy(pub[:], b)
	return pub
}

// RefOf is the short name of stored bytes: the first 8 bytes of SHA-256.
func RefOf(b []byte) (r crdt.Ref) {
	sum := sha256.Sum256(b)
	copy(r[:], sum[:])
	return r
}
