package trust

import (
	"bytes"
	"crypto/ed25519"
	"fmt"

	"carrierclass.net/ccnode/crdt"
)

// MaxChain is how many grants may lie between a root and a node. Each box
// admitted by an own-site issuer lies one deeper than that issuer.
const MaxChain = 64

// A Chain proves membership to somebody who knows nothing but the fleet's id:
// the founding record and the grants from the root down to a node.
type Chain struct {
	Founding *Founding
	Grants   []*Grant // root's first, the node's last
}

// Last is the grant that the chain proves.
func (c *Chain) Last() *Grant { return c.Grants[len(c.Grants)-1] }

type wireChain struct {
	_        struct{} `cbor:",toarray"`
	Version  uint8
	Founding []byte
	Grants   [][]byte
}

// Encode is the wire form.
func (c *Chain) Encode() []byte {
	w := wireChain{Version: 1, Founding: c.Founding.Encode()}
	for _, g := range c.Grants {
		w.Grants = append(w.Grants, g.Encode())
	}
	return marshal(w)
}

// VerifyChain reads a chain and checks it down to the node with key.
func VerifyChain(b []byte, fleet crdt.FleetID, key ed25519.PublicKey) (*Chain, error) {
	var w wireChain
	if err := decMode.Unmarshal(b, &w); err != nil {
		return nil, fmt.Errorf("chain of grants: %w: %w", ErrMalformed, err)
	}
	if w.Version != 1 || len(w.Grants) == 0 || len(w.Grants) > MaxChain || !bytes.Equal(marshal(w), b) {
		return nil, fmt.Errorf("chain of grants: %w: version %d, %d grants", ErrMalformed, w.Version, len(w.Grants))
	}
	f, err := DecodeFounding(w.Founding)
	if err != nil {
		return nil, err
	}
	if f.ID() != fleet {
		id := f.ID()
		return nil, fmt.Errorf("%w: it belongs to fleet %x, not %x", ErrChain, id[:4], fleet[:4])
	}
	c := &Chain{Founding: f}
	var parent *Grant
	for i, raw := range w.Grants {
		g, err := DecodeGrant(raw)
		if err != nil {
			return nil, err
		}
		if (i == 0) != (g.Parent == crdt.Ref{}) {
			return nil, fmt.Errorf("chain of grants: %w: grant %d does not follow", ErrMalformed, i)
		}
		if err := g.signedBy(f, parent); err != nil {
			return nil, err
		}
		c.Grants = append(c.Grants, g)
		parent = g
	}
	if !parent.Key.Equal(key) {
		return nil, fmt.Errorf("%w: the chain is node %s's, the link node %s's", ErrChain, parent.Node(), NodeID(key))
	}
	return c, nil
}
