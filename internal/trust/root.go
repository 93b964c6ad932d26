package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"

	"carrierclass.net/ccnode/crdt"
	"github.com/tyler-smith/go-bip39"
)

// A Root is the key that a fleet hangs from. It is made at founding, printed
// once as 24 words, and kept on no disk after the founder has confirmed them.
type Root struct {
	seed [ed25519.SeedSize]byte
	key  ed25519.PrivateKey
}

// NewRoot draws a root key.
func NewRoot(rand io.Reader) (*Root, error) {
	r := &Root{}
	if _, err := io.ReadFull(rand, r.seed[:]); err != nil {
		return nil, fmt.Errorf("draw the fleet's root key: %w", err)
	}
	r.key = ed25519.NewKeyFromSeed(r.seed[:])
	return r, nil
}

// Words are the root key for paper: 24 words of the BIP-39 English list.
func (r *Root) Words() []string {
	m, err := bip39.NewMnemonic(r.seed[:])
	if err != nil {
		panic(fmt.Sprintf("trust: 256 bits as words: %v", err)) // only wrong lengths fail
	}
	return strings.Fields(m)
}

// RootFromWords reads the recovery sheet. Case and blanks do not matter; a word
// that is not on the list is named in the error.
func RootFromWords(words []string) (*Root, error) {
	ws := strings.Fields(strings.ToLower(strings.Join(words, " ")))
	if len(ws) != 24 {
		return nil, fmt.Errorf("%w: %d words, want 24", ErrWords, len(ws))
	}
	for i, w := range ws {
		if _, ok := bip39.GetWordIndex(w); !ok {
			return nil, fmt.Errorf("%w: word %d, %q, is not on the list; read it again", ErrWords, i+1, w)
		}
	}
	seed, err := bip39.EntropyFromMnemonic(strings.Join(ws, " "))
	if err != nil {
		return nil, fmt.Errorf("%w: their check does not fit: a word is wrong or two are swapped", ErrWords)
	}
	r := &Root{key: ed25519.NewKeyFromSeed(seed)}
	copy(r.seed[:], seed)
	return r, nil
}

// Seed is the stored form while the founder has not confirmed the words yet.
func (r *Root) Seed() []byte { return append([]byte(nil), r.seed[:]...) }

// RootFromSeed reads the stored form.
func RootFromSeed(seed []byte) (*Root, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("read the root key: %w: %d bytes", ErrMalformed, len(seed))
	}
	r := &Root{key: ed25519.NewKeyFromSeed(seed)}
	copy(r.seed[:], seed)
	return r, nil
}

// Wipe forgets the key, as far as a program can.
func (r *Root) Wipe() {
	clear(r.seed[:])
	clear(r.key)
}

// Public half of the root key.
func (r *Root) Public() ed25519.PublicKey { return r.key.Public().(ed25519.PublicKey) }

// A Founding is the first record of a fleet: its root keys, and how many of
// them must agree (one of one, for now). The fleet's id is the hash of it.
type Founding struct {
	Threshold int
	Roots     []ed25519.PublicKey
	raw       []byte
}

type wireFounding struct {
	_         struct{} `cbor:",toarray"`
	Version   uint8
	Threshold int
	Roots     [][]byte
}

// Found makes the founding record of a fleet with one root.
func Found(root *Root) *Founding {
	f := &Founding{Threshold: 1, Roots: []ed25519.PublicKey{root.Public()}}
	f.raw = marshal(wireFounding{Version: 1, Threshold: 1, Roots: [][]byte{root.Public()}})
	return f
}

// DecodeFounding reads a founding record. Compare its ID with the fleet meant.
func DecodeFounding(b []byte) (*Founding, error) {
	var w wireFounding
	if err := decMode.Unmarshal(b, &w); err != nil {
		return nil, fmt.Errorf("founding record: %w: %w", ErrMalformed, err)
	}
	if w.Version != 1 || w.Threshold != 1 || len(w.Roots) == 0 || len(w.Roots) > 16 || !bytes.Equal(marshal(w), b) {
		return nil, fmt.Errorf("founding record: %w: version %d, %d of %d roots", ErrMalformed, w.Version, w.Threshold, len(w.Roots))
	}
	f := &Founding{Threshold: w.Threshold, raw: bytes.Clone(b)}
	for _, r := range w.Roots {
		if len(r) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("founding record: %w: a root key of %d bytes", ErrMalformed, len(r))
		}
		f.Roots = append(f.Roots, r)
	}
	return f, nil
}

// Encode is the stored form.
func (f *Founding) Encode() []byte { return f.raw }

// ID of the fleet.
func (f *Founding) ID() crdt.FleetID {
	return sha256.Sum256(append([]byte("ccnode founding 1"), f.raw...))
}

// Holds says whether r is a root of the fleet: the recovery sheet belongs here.
func (f *Founding) Holds(r *Root) bool {
	for _, k := range f.Roots {
		if k.Equal(r.Public()) {
			return true
		}
	}
	return false
}
