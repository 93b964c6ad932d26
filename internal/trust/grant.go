package trust

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"io"
	"strings"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// Rights of a grant, beyond writing its own site's data.
type Rights uint32

const (
	AdmitFleet Rights = 1 << iota // admit boxes to any site, revoke any, and change the fleet's settings
	AdmitSite                     // admit boxes to its own site, and revoke those
	Relay                         // carries calls for sites that cannot be dialled
)

func (r Rights) String() string {
	var s []string
	for i, n := range []string{"admit:fleet", "admit:own-site", "relay"} {
		if r&(1<<i) != 0 {
			s = append(s, n)
		}
	}
	return strings.Join(s, " ")
}

// Allow widens a grant: tables of a scope it could not write otherwise.
type Allow struct {
	_      struct{} `cbor:",toarray"`
	Scope  []byte
	Tables []uint16
}

// A Grant makes one key a member: node of a site, with rights. It names the
// grant it rests on (none: a root). Grants do not expire; revocation ends them.
type Grant struct {
	Parent crdt.Ref          // the issuer's grant; zero: signed by a root
	Key    ed25519.PublicKey // of the node
	Seal   [32]byte          // X25519: secrets are wrapped for it
	Site   site.ID
	Rights Rights
	Nonce  [8]byte // drawn by the issuer: ranks nodes, so that nobody can grind a place
	Issued int64   // seconds since 1970, for people
	Extra  []Allow

	raw  []byte
	node site.NodeID // of Key; zero: not computed
}

type wireGrant struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Parent  []byte
	Key     []byte
	Seal    []byte
	Site    []byte
	Rights  Rights
	Nonce   []byte
	Issued  int64
	Extra   []Allow
}

const maxGrant = 1024

// ID is the name under which changes refer to the grant.
func (g *Grant) ID() crdt.Ref { return RefOf(g.raw) }

// Node is the member's name.
func (g *Grant) Node() site.NodeID {
	if g.node == (site.NodeID{}) {
		return NodeID(g.Key)
	}
	return g.node
}

// Encode is the stored form, signature included.
func (g *Grant) Encode() []byte { return g.raw }

// Name keys of a grant to be issued.
type Name struct {
	Key    ed25519.PublicKey
	Seal   [32]byte
	Site   site.ID
	Rights Rights
	Extra  []Allow
	Issued int64 // seconds since 1970

	// Nonce is that of the grant that this one replaces, so that the node keeps
	// its rank; zero: one is drawn.
	Nonce [8]byte
}

// Like is what to issue to replace a grant: the same, from another issuer.
func (g *Grant) Like() Name {
	return Name{Key: g.Key, Seal: g.Seal, Site: g.Site, Rights: g.Rights, Extra: g.Extra, Issued: g.Issued, Nonce: g.Nonce}
}

// Issue signs a grant for a box under the issuer's own grant.
func (i *Identity) Issue(fleet crdt.FleetID, own *Grant, n Name, rand io.Reader) (*Grant, error) {
	if !own.Key.Equal(i.Public()) {
		return nil, fmt.Errorf("issue a grant: %w: the grant is another node's", ErrChain)
	}
	g, err := issue(fleet, own.ID(), n, rand, i.Sign)
	if err != nil {
		return nil, err
	}
	if err := own.mayGive(g); err != nil {
		return nil, fmt.Errorf("issue a grant: %w", err)
	}
	return g, nil
}

// Issue signs a grant with the root itself: for the founder, or for recovery.
func (r *Root) Issue(fleet crdt.FleetID, n Name, rand io.Reader) (*Grant, error) {
	return issue(fleet, crdt.Ref{}, n, rand, func(m []byte) []byte { return ed25519.Sign(r.key, m) })
}

func issue(fleet crdt.FleetID, parent crdt.Ref, n Name, rand io.Reader, sign func([]byte) []byte) (*Grant, error) {
	g := &Grant{Parent: parent, Key: n.Key, Seal: n.Seal, Site: n.Site, Rights: n.Rights, Issued: n.Issued, Extra: n.Extra, Nonce: n.Nonce}
	if g.Nonce == ([8]byte{}) {
		if _, err := io.ReadFull(rand, g.Nonce[:]); err != nil {
			return nil, fmt.Errorf("issue a grant: draw its nonce: %w", err)
		}
	}
	body := g.body()
	g.raw = append(body, sign(grantMessage(fleet, body))...)
	_, err := DecodeGrant(g.raw)
	return g, err
}

func (g *Grant) body() []byte {
	if g.Extra == nil {
		g.Extra = []Allow{}
	}
	return marshal(wireGrant{Version: 1, Parent: g.Parent[:], Key: g.Key, Seal: g.Seal[:], Site: g.Site[:],
		Rights: g.Rights, Nonce: g.Nonce[:], Issued: g.Issued, Extra: g.Extra})
}

func grantMessage(fleet crdt.FleetID, body []byte) []byte {
	m := append([]byte("ccnode grant 1"), fleet[:]...)
	return append(m, body...)
}

// DecodeGrant reads a grant's shape. Whether anybody may rely on it is for
// Chain or Book.
func DecodeGrant(b []byte) (*Grant, error) {
	if len(b) <= ed25519.SignatureSize || len(b) > maxGrant {
		return nil, fmt.Errorf("grant: %w: %d bytes", ErrMalformed, len(b))
	}
	body := b[:len(b)-ed25519.SignatureSize]
	var w wireGrant
	if err := decMode.Unmarshal(body, &w); err != nil {
		return nil, fmt.Errorf("grant: %w: %w", ErrMalformed, err)
	}
	g := &Grant{Key: w.Key, Rights: w.Rights, Issued: w.Issued, Extra: w.Extra, raw: bytes.Clone(b)}
	if w.Version != 1 || len(w.Parent) != len(g.Parent) || len(w.Key) != ed25519.PublicKeySize || len(w.Seal) != len(g.Seal) ||
		len(w.Site) != len(g.Site) || len(w.Nonce) != len(g.Nonce) || len(w.Extra) > 16 {
		return nil, fmt.Errorf("grant: %w: version %d, or a name of the wrong length", ErrMalformed, w.Version)
	}
	copy(g.Parent[:], w.Parent)
	copy(g.Seal[:], w.Seal)
	copy(g.Site[:], w.Site)
	copy(g.Nonce[:], w.Nonce)
	if !bytes.Equal(g.body(), body) {
		return nil, fmt.Errorf("grant: %w: its encoding is not the deterministic one", ErrMalformed)
	}
	g.node = NodeID(g.Key)
	return g, nil
}

// mayGive says whether the holder of p may sign c.
func (p *Grant) mayGive(c *Grant) error {
	switch {
	case p.Rights&AdmitFleet != 0:
		return nil
	case p.Rights&AdmitSite == 0:
		return fmt.Errorf("%w: it has no right to admit", ErrRights)
	case c.Site != p.Site:
		return fmt.Errorf("%w: it admits to its own site %s only, not to %s", ErrRights, p.Site, c.Site)
	case c.Rights&^AdmitSite != 0 || len(c.Extra) != 0:
		return fmt.Errorf("%w: an own-site issuer gives %s at most, not %s", ErrRights, AdmitSite, c.Rights)
	}
	return nil
}

// signedBy checks the signature and the right of the issuer. parent is nil for
// a grant that rests on a root.
func (g *Grant) signedBy(f *Founding, parent *Grant) error {
	n := len(g.raw) - ed25519.SignatureSize
	msg, sig := grantMessage(f.ID(), g.raw[:n]), g.raw[n:]
	if (g.Parent == crdt.Ref{}) {
		for _, r := range f.Roots {
			if ed25519.Verify(r, msg, sig) {
				return nil
			}
		}
		return fmt.Errorf("grant of node %s: %w: no root signed it", g.Node(), ErrChain)
	}
	if parent == nil || parent.ID() != g.Parent {
		return fmt.Errorf("grant of node %s: %w", g.Node(), ErrUnknown)
	}
	if !ed25519.Verify(parent.Key, msg, sig) {
		return fmt.Errorf("grant of node %s: %w: its issuer %s did not sign it", g.Node(), ErrChain, parent.Node())
	}
	if err := parent.mayGive(g); err != nil {
		return fmt.Errorf("grant of node %s by %s: %w", g.Node(), parent.Node(), err)
	}
	return nil
}
