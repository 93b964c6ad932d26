package invite

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Why a token is refused. Errors of this package wrap one of these.
var (
	ErrMalformed = errors.New("this is not an invite")
	ErrChecksum  = errors.New("the invite has a typing error or is cut off")
	ErrVersion   = errors.New("the invite was made by another version")
	ErrSignature = errors.New("the invite was altered: its signature does not fit")
	ErrExpired   = errors.New("the invite has expired")
	ErrClock     = errors.New("a clock is wrong: the invite's times cannot be")
	ErrRevoked   = errors.New("the invite was revoked")
	ErrRedeemed  = errors.New("the invite was used already")
	ErrFleet     = errors.New("the invite is for another fleet")
	ErrSite      = errors.New("the invite was made at another site")
	ErrInviter   = errors.New("the invite's maker may not admit boxes")
	ErrProof     = errors.New("the joiner does not know the invite's secret")
)

// Redemption says who used an invite, and when.
type Redemption struct {
	By [16]byte // node
	At time.Time
}

// Env is what a node of the inviting site knows when a Claim is shown to it.
type Env struct {
	Now   time.Time
	Fleet [32]byte
	Home  [10]byte // the site of the node that judges

	// Inviter says of which site the maker is a member and whether it may
	// admit a box to the claim's site. known is false for strangers.
	Inviter func(key ed25519.PublicKey, to [10]byte) (site [10]byte, may, known bool)

	// What the records of the invite say; zero if there is none here.
	Revoked   bool
	RevokedAt time.Time
	RevokedBy string
	Redeemed  *Redemption

	Joiner [16]byte // a joiner that asks again after its own redemption is welcome
}

// Check says whether a claim, whose signature DecodeClaim verified, may be
// redeemed here and now. A nil error still wants the proof.
func Check(c *Claim, e Env) error {
	if c.Fleet != e.Fleet {
		return fmt.Errorf("%w: it names fleet %x, this is %x; join one of its nodes", ErrFleet, c.Fleet[:4], e.Fleet[:4])
	}
	from, may, known := e.Inviter(c.Inviter, c.Site)
	node := c.NodeID()
	switch {
	case !known:
		return fmt.Errorf("%w: node %x is not a member here, or was revoked; ask for a new invite", ErrInviter, node[:4])
	case from != e.Home:
		return fmt.Errorf("%w: only nodes of the site that made it can redeem it; join there", ErrSite)
	case !may:
		return fmt.Errorf("%w: node %x has no right to admit to that site; make it at a node that has", ErrInviter, node[:4])
	}
	if e.Redeemed != nil && e.Redeemed.By != e.Joiner {
		return fmt.Errorf("%w, by node %x at %s; ask for a new one", ErrRedeemed, e.Redeemed.By[:4], e.Redeemed.At.UTC().Format(time.RFC3339))
	}
	if e.Revoked {
		return fmt.Errorf("%w by %s at %s; ask for a new one", ErrRevoked, e.RevokedBy, e.RevokedAt.UTC().Format(time.RFC3339))
	}
	if e.Redeemed != nil {
		return nil
	}
	return c.CheckTime(e.Now)
}

// CheckTime says whether the invite can be used at now. A joiner calls it with
// its own clock only to warn: the judge's clock decides.
func (c *Claim) CheckTime(now time.Time) error {
	switch until := c.Until(); {
	case now.After(until):
		return fmt.Errorf("%w at %s (it is %s here); ask for a new one, or set the clock", ErrExpired, until.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case until.Sub(now) > MaxLife:
		return fmt.Errorf("%w: it expires %s and it is %s here; set the clock of this box and of the inviter", ErrClock, until.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// A Link is the one connection a proof is good for.
type Link struct {
	Joiner  [16]byte // node that wants in
	Sponsor [16]byte // node it speaks to
	Channel []byte   // what only these two ends share: the handshake's hash, or both sides' nonces
}

func (l Link) message(c *Claim) []byte {
	m := append([]byte("ccnode invite proof 1"), c.ID[:]...)
	m = append(m, c.Fleet[:]...)
	m = append(m, l.Joiner[:]...)
	m = append(m, l.Sponsor[:]...)
	m = binary.BigEndian.AppendUint32(m, uint32(len(l.Channel)))
	return append(m, l.Channel...)
}

// Prove shows knowledge of the secret, on this link only. Call it only after
// the sponsor has proven that it belongs to the token's fleet.
func (t *Token) Prove(l Link) []byte { return ed25519.Sign(t.key(), l.message(&t.Claim)) }

// VerifyProof checks a joiner's proof.
func (c *Claim) VerifyProof(l Link, proof []byte) error {
	if len(proof) != ed25519.SignatureSize || !ed25519.Verify(c.Verifier, l.message(c), proof) {
		return ErrProof
	}
	return nil
}
