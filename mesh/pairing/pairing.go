// Package pairing is how two boxes that have never met show a person the same
// six digits: a short authentication string by commitment (Vaudenay, "Secure
// Communications over Insecure Channels Based on Short Authenticated Strings",
// 2005; the idea of ZRTP's, RFC 6189 §4.5).
//
// The newcomer commits to a nonce before it sees the other's, so that somebody
// in between cannot choose keys until the digits fit: he has one try in a
// million, and a person looking. The package is pure.
package pairing

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
)

// Nonce is drawn by each side for one pairing.
type Nonce [16]byte

// Commitment binds the newcomer to its nonce.
type Commitment [32]byte

// Key is an Ed25519 public key, as the link's handshake proved it.
type Key [32]byte

// ErrCommitment means that the newcomer showed another nonce than it committed
// to: somebody is cheating, and nothing may be shown or approved.
var ErrCommitment = errors.New("the other box changed its mind after it saw our nonce")

func hash(label string, parts ...[]byte) [32]byte {
	h := sha256.New()
	h.Write([]byte(label))
	for _, p := range parts {
		h.Write(p)
	}
	return [32]byte(h.Sum(nil))
}

// Commit is what the newcomer sends first.
func Commit(newcomer, member Key, n Nonce) Commitment {
	return hash("ccnode pairing commitment 1", newcomer[:], member[:], n[:])
}

// Open checks what the newcomer revealed.
func Open(c Commitment, newcomer, member Key, n Nonce) error {
	want := Commit(newcomer, member, n)
	if subtle.ConstantTimeCompare(want[:], c[:]) != 1 {
		return ErrCommitment
	}
	return nil
}

// Code is the six digits both boxes show.
func Code(newcomer, member Key, ofNewcomer, ofMember Nonce) string {
	h := hash("ccnode pairing code 1", newcomer[:], member[:], ofNewcomer[:], ofMember[:])
	return fmt.Sprintf("%06d", binary.BigEndian.Uint64(h[:8])%1_000_000)
}
