package trust

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"io"
	"slices"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// An Admin is a person's key with rights. A member signs it under its own grant,
// so the chain is root, issuer, administrator. An issuer of the fleet gives any
// rights; one that admits to its own site gives rights for that site only.
type Admin struct {
	Parent crdt.Ref          // the issuer's grant
	Key    ed25519.PublicKey // of the person
	Name   string            // at most 64 bytes
	Fleet  bool              // every site, and the settings of the fleet
	Sites  []site.ID         // if not Fleet: 1 to 16, each once, in order
	Issued int64             // seconds since 1970, for people

	raw []byte
}

type wireAdmin struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Parent  []byte
	Key     []byte
	Name    string
	Fleet   bool
	Sites   [][]byte
	Issued  int64
}

const (
	maxAdminName  = 64
	maxAdminSites = 16
	maxAdmin      = 640
)

// An AdminID names an administrator: the first 16 bytes of SHA-256 of the key.
type AdminID = site.NodeID

// ID is the administrator's name in the trust scope.
func (a *Admin) ID() AdminID { return NodeID(a.Key) }

// Encode is the stored form, signature included.
func (a *Admin) Encode() []byte { return a.raw }

func (a *Admin) body() []byte {
	w := wireAdmin{Version: 1, Parent: a.Parent[:], Key: a.Key, Name: a.Name, Fleet: a.Fleet, Sites: [][]byte{}, Issued: a.Issued}
	for _, s := range a.Sites {
		w.Sites = append(w.Sites, s[:])
	}
	return marshal(w)
}

func signed(what string, fleet crdt.FleetID, body []byte) []byte {
	return append(append([]byte(what), fleet[:]...), body...)
}

const adminWhat = "ccnode admin 1"

// IssueAdmin signs an administrator under the issuer's own grant. Parent is set
// here.
func (i *Identity) IssueAdmin(fleet crdt.FleetID, own *Grant, a Admin) (*Admin, error) {
	if !own.Key.Equal(i.Public()) {
		return nil, fmt.Errorf("issue an administrator: %w: the grant is another node's", ErrChain)
	}
	a.Parent, a.Sites = own.ID(), slices.Clone(a.Sites)
	slices.SortFunc(a.Sites, func(x, y site.ID) int { return bytes.Compare(x[:], y[:]) })
	body := a.body()
	out, err := DecodeAdmin(append(body, i.Sign(signed(adminWhat, fleet, body))...))
	if err != nil {
		return nil, err
	}
	if err := own.mayAppoint(out); err != nil {
		return nil, fmt.Errorf("issue an administrator: %w", err)
	}
	return out, nil
}

// DecodeAdmin reads the shape of an administrator's record. Who signed it is for
// Book.
func DecodeAdmin(b []byte) (*Admin, error) {
	if len(b) <= ed25519.SignatureSize || len(b) > maxAdmin {
		return nil, fmt.Errorf("administrator: %w: %d bytes", ErrMalformed, len(b))
	}
	body := b[:len(b)-ed25519.SignatureSize]
	var w wireAdmin
	if err := decMode.Unmarshal(body, &w); err != nil {
		return nil, fmt.Errorf("administrator: %w: %w", ErrMalformed, err)
	}
	a := &Admin{Key: w.Key, Name: w.Name, Fleet: w.Fleet, Issued: w.Issued, raw: bytes.Clone(b)}
	if w.Version != 1 || len(w.Parent) != len(a.Parent) || len(w.Key) != ed25519.PublicKeySize || w.Name == "" || len(w.Name) > maxAdminName ||
		len(w.Sites) > maxAdminSites || w.Fleet != (len(w.Sites) == 0) {
		return nil, fmt.Errorf("administrator: %w: version %d, a name of %d bytes, %d sites", ErrMalformed, w.Version, len(w.Name), len(w.Sites))
	}
	copy(a.Parent[:], w.Parent)
	for i, s := range w.Sites {
		if len(s) != len(site.ID{}) || i > 0 && bytes.Compare(w.Sites[i-1], s) >= 0 {
			return nil, fmt.Errorf("administrator: %w: its sites are not in order", ErrMalformed)
		}
		a.Sites = append(a.Sites, site.ID(s))
	}
	if !bytes.Equal(a.body(), body) {
		return nil, fmt.Errorf("administrator: %w: its encoding is not the deterministic one", ErrMalformed)
	}
	return a, nil
}

// mayAppoint says whether the holder of g may give an administrator its rights.
func (g *Grant) mayAppoint(a *Admin) error {
	switch {
	case g.Rights&AdmitFleet != 0:
		return nil
	case g.Rights&AdmitSite == 0:
		return fmt.Errorf("%w: it has no right to admit", ErrRights)
	case a.Fleet || len(a.Sites) != 1 || a.Sites[0] != g.Site:
		return fmt.Errorf("%w: it appoints for its own site %s only", ErrRights, g.Site)
	}
	return nil
}

// checkAdmin checks the chain of an administrator. It is a function of the bytes
// and of the grants. ErrUnknown: the issuer's grant has not arrived.
func (b *Book) checkAdmin(a *Admin) error {
	g, ok := b.Grant(a.Parent)
	if !ok {
		return fmt.Errorf("administrator %q: %w", a.Name, ErrUnknown)
	}
	n := len(a.raw) - ed25519.SignatureSize
	if !ed25519.Verify(g.Key, signed(adminWhat, b.fleet, a.raw[:n]), a.raw[n:]) {
		return fmt.Errorf("administrator %q: %w: its issuer %s did not sign it", a.Name, ErrChain, g.Node())
	}
	if err := g.mayAppoint(a); err != nil {
		return fmt.Errorf("administrator %q by %s: %w", a.Name, g.Node(), err)
	}
	return nil
}

// What a password costs: RFC 9106, parameters in the sealed key itself. A reader
// takes no more than the limits, so that a record cannot exhaust a small box.
const (
	argonTime, maxArgonTime = 2, 6
	argonKiB, maxArgonKiB   = 19 << 10, 64 << 10
	sealedAdmin             = 1
	maxAdminPassword        = 256
	adminSalt               = 16
	sealedKeyWhere          = "ccnode admin key 1"
)

type wireSealedKey struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Time    uint32
	KiB     uint32
	Salt    []byte
	Nonce   []byte
	Closed  []byte
}

// SealAdminKey closes an administrator's seed under a password: Argon2id, then
// XChaCha20-Poly1305, bound to the fleet and the administrator.
func SealAdminKey(fleet crdt.FleetID, seed []byte, password string, rand io.Reader) ([]byte, error) {
	if len(seed) != ed25519.SeedSize || password == "" || len(password) > maxAdminPassword {
		return nil, fmt.Errorf("seal an administrator's key: %w: a password has 1 to %d bytes", ErrMalformed, maxAdminPassword)
	}
	w := wireSealedKey{Version: sealedAdmin, Time: argonTime, KiB: argonKiB, Salt: make([]byte, adminSalt), Nonce: make([]byte, chacha20poly1305.NonceSizeX)}
	for _, p := range [][]byte{w.Salt, w.Nonce} {
		if _, err := io.ReadFull(rand, p); err != nil {
			return nil, fmt.Errorf("seal an administrator's key: %w", err)
		}
	}
	aead, err := chacha20poly1305.NewX(argon2.IDKey([]byte(password), w.Salt, w.Time, w.KiB, 1, chacha20poly1305.KeySize))
	if err != nil {
		return nil, fmt.Errorf("seal an administrator's key: %w", err)
	}
	id := NodeID(ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
	w.Closed = aead.Seal(nil, w.Nonce, seed, signed(sealedKeyWhere, fleet, id[:]))
	return marshal(w), nil
}

func decodeSealedKey(b []byte) (w wireSealedKey, err error) {
	if err := decMode.Unmarshal(b, &w); err != nil {
		return w, fmt.Errorf("an administrator's sealed key: %w: %w", ErrMalformed, err)
	}
	if w.Version != sealedAdmin || w.Time < 1 || w.Time > maxArgonTime || w.KiB < 8 || w.KiB > maxArgonKiB || len(w.Salt) != adminSalt ||
		len(w.Nonce) != chacha20poly1305.NonceSizeX || len(w.Closed) != ed25519.SeedSize+chacha20poly1305.Overhead {
		return w, fmt.Errorf("an administrator's sealed key: %w: version %d, %d passes over %d KiB", ErrMalformed, w.Version, w.Time, w.KiB)
	}
	return w, nil
}

// OpenAdminKey opens it again. ErrSealed: the password is wrong.
func OpenAdminKey(fleet crdt.FleetID, a *Admin, sealed []byte, password string) (ed25519.PrivateKey, error) {
	w, err := decodeSealedKey(sealed)
	if err != nil {
		return nil, err
	}
	if len(password) > maxAdminPassword {
		return nil, fmt.Errorf("open the key of administrator %q: %w: wrong password", a.Name, ErrSealed)
	}
	aead, err := chacha20poly1305.NewX(argon2.IDKey([]byte(password), w.Salt, w.Time, w.KiB, 1, chacha20poly1305.KeySize))
	if err != nil {
		return nil, fmt.Errorf("open the key of administrator %q: %w", a.Name, err)
	}
	id := a.ID()
	seed, err := aead.Open(nil, w.Nonce, w.Closed, signed(sealedKeyWhere, fleet, id[:]))
	if err != nil {
		return nil, fmt.Errorf("open the key of administrator %q: %w: wrong password", a.Name, ErrSealed)
	}
	key := ed25519.NewKeyFromSeed(seed)
	clear(seed)
	if !key.Public().(ed25519.PublicKey).Equal(a.Key) {
		return nil, fmt.Errorf("open the key of administrator %q: %w: it is another key", a.Name, ErrSealed)
	}
	return key, nil
}
