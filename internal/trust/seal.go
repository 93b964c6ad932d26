package trust

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/nacl/box"
)

// An Epoch names one key of a site: the first 8 bytes of its hash, so that two
// halves of a cut that both draw a new key do not give it one name.
type Epoch [8]byte

func (e Epoch) String() string { return fmt.Sprintf("%x", e[:]) }

// A SiteKey seals the secrets of a site during one epoch.
type SiteKey [32]byte

// NewSiteKey draws a key.
func NewSiteKey(rand io.Reader) (k SiteKey, err error) {
	if _, err = io.ReadFull(rand, k[:]); err != nil {
		return k, fmt.Errorf("draw a site key: %w", err)
	}
	return k, nil
}

// Epoch the key belongs to.
func (k *SiteKey) Epoch() (e Epoch) {
	sum := sha256.Sum256(append([]byte("ccnode site key 1"), k[:]...))
	copy(e[:], sum[:])
	return e
}

// Wrap closes a site's key into a box that only the holder of the X25519 key
// to can open: a wrap says who could ever open what.
func (k *SiteKey) Wrap(s site.ID, to [32]byte, rand io.Reader) ([]byte, error) {
	b, err := box.SealAnonymous(nil, append(append([]byte{1}, s[:]...), k[:]...), &to, rand)
	if err != nil {
		return nil, fmt.Errorf("wrap a key of site %s: %w", s, err)
	}
	return b, nil
}

// Unwrap opens a box made by Wrap for this node.
func (i *Identity) Unwrap(s site.ID, wrap []byte) (k SiteKey, err error) {
	pub := i.SealKey()
	b, ok := box.OpenAnonymous(nil, wrap, &pub, &i.open)
	if !ok || len(b) != 1+len(s)+len(k) || b[0] != 1 || string(b[1:1+len(s)]) != string(s[:]) {
		return k, fmt.Errorf("open the wrap of a key of site %s: %w", s, ErrSealed)
	}
	copy(k[:], b[1+len(s):])
	return k, nil
}

// Where binds a sealed value to the cell it lies in: copied elsewhere, it does
// not open.
func Where(c crdt.Cell) []byte {
	b := append([]byte("ccnode sealed 1"), byte(len(c.Scope)))
	b = append(b, c.Scope...)
	b = binary.BigEndian.AppendUint16(b, c.Table)
	b = append(append(b, byte(len(c.Record))), c.Record...)
	return append(append(b, byte(len(c.Field))), c.Field...)
}

const sealedHead = 1 + len(Epoch{}) + chacha20poly1305.NonceSizeX

// Seal closes a secret under the key, for one place.
func (k *SiteKey) Seal(where, secret []byte, rand io.Reader) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		return nil, fmt.Errorf("seal a secret: %w", err)
	}
	e := k.Epoch()
	out := make([]byte, sealedHead, sealedHead+len(secret)+aead.Overhead())
	out[0] = 1
	copy(out[1:], e[:])
	nonce := out[1+len(e) : sealedHead]
	if _, err := io.ReadFull(rand, nonce); err != nil {
		return nil, fmt.Errorf("seal a secret: draw its nonce: %w", err)
	}
	return aead.Seal(out, nonce, secret, where), nil
}

// EpochOf reads under which epoch a value was sealed.
func EpochOf(sealed []byte) (e Epoch, ok bool) {
	if len(sealed) < sealedHead+chacha20poly1305.Overhead || sealed[0] != 1 {
		return e, false
	}
	copy(e[:], sealed[1:])
	return e, true
}

// A Keyring holds the keys of one site that this node can open. Its methods may
// be called from any goroutine.
type Keyring struct {
	mu      sync.RWMutex
	keys    map[Epoch]SiteKey
	current Epoch
}

// NewKeyring returns an empty one.
func NewKeyring() *Keyring { return &Keyring{keys: map[Epoch]SiteKey{}} }

// Add takes a key.
func (r *Keyring) Add(k SiteKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keys[k.Epoch()] = k
}

// Use says under which epoch new secrets are sealed.
func (r *Keyring) Use(e Epoch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = e
}

// Key returns the key of an epoch.
func (r *Keyring) Key(e Epoch) (SiteKey, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	k, ok := r.keys[e]
	return k, ok
}

// Current returns the key that new secrets are sealed under.
func (r *Keyring) Current() (SiteKey, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	k, ok := r.keys[r.current]
	return k, ok
}

// Epochs lists what this node can open.
func (r *Keyring) Epochs() []Epoch {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]Epoch, 0, len(r.keys))
	for e := range r.keys {
		out = append(out, e)
	}
	return out
}

// Seal seals under the current epoch.
func (r *Keyring) Seal(where, secret []byte, rand io.Reader) ([]byte, error) {
	k, ok := r.Current()
	if !ok {
		return nil, fmt.Errorf("seal a secret: %w: this node has no key of its site yet", ErrSealed)
	}
	return k.Seal(where, secret, rand)
}

// Open opens a value sealed for that place. ErrSealed says that this node was
// never given the key, or that the value was moved or damaged.
func (r *Keyring) Open(where, sealed []byte) ([]byte, error) {
	e, ok := EpochOf(sealed)
	if !ok {
		return nil, fmt.Errorf("open a secret: %w: %w", ErrSealed, ErrMalformed)
	}
	k, ok := r.Key(e)
	if !ok {
		return nil, fmt.Errorf("open a secret: %w: no wrap of epoch %s is for this node", ErrSealed, e)
	}
	aead, err := chacha20poly1305.NewX(k[:])
	if err != nil {
		return nil, fmt.Errorf("open a secret: %w", err)
	}
	out, err := aead.Open(nil, sealed[1+len(e):sealedHead], sealed[sealedHead:], where)
	if err != nil {
		return nil, fmt.Errorf("open a secret: %w: it was moved or damaged", ErrSealed)
	}
	return out, nil
}
