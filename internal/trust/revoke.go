package trust

import (
	"bytes"
	"errors"
	"fmt"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// A Revocation ends a node. It is a final: never undone.
type Revocation struct {
	Node   site.NodeID
	Reason string
	Keeps  []crdt.Ref // grants the node gave out that stay

	// of the change that carried it
	Stamp crdt.Stamp
	id    crdt.ID
}

type wireRevocation struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	Reason  string
	Keeps   [][]byte
}

// MaxKeeps bounds what one revocation keeps; others are issued anew by somebody
// else before it.
const MaxKeeps = 256

// Write is the revocation as a write in the trust scope.
func (r *Revocation) Write() (crdt.Write, error) {
	if len(r.Keeps) > MaxKeeps || len(r.Reason) > 200 {
		return crdt.Write{}, fmt.Errorf("revoke node %s: %w: %d grants kept (at most %d), a reason of %d bytes (at most 200)",
			r.Node, ErrMalformed, len(r.Keeps), MaxKeeps, len(r.Reason))
	}
	w := wireRevocation{Version: 1, Reason: r.Reason, Keeps: [][]byte{}}
	for _, k := range r.Keeps {
		w.Keeps = append(w.Keeps, k[:])
	}
	return crdt.Write{Table: TableRevocation, Record: string(r.Node[:]), Value: marshal(w), Flags: crdt.Final}, nil
}

func decodeRevocation(w *crdt.Write) (*Revocation, error) {
	var v wireRevocation
	r := &Revocation{}
	if len(w.Record) != len(r.Node) || w.Flags&crdt.Final == 0 {
		return nil, fmt.Errorf("revocation: %w: it is a final on a node's record", ErrMalformed)
	}
	if err := decMode.Unmarshal(w.Value, &v); err != nil {
		return nil, fmt.Errorf("revocation: %w: %w", ErrMalformed, err)
	}
	if v.Version != 1 || len(v.Keeps) > MaxKeeps {
		return nil, fmt.Errorf("revocation: %w: version %d", ErrMalformed, v.Version)
	}
	copy(r.Node[:], w.Record)
	r.Reason = v.Reason
	for _, k := range v.Keeps {
		if len(k) != len(crdt.Ref{}) {
			return nil, fmt.Errorf("revocation: %w: a grant's name of %d bytes", ErrMalformed, len(k))
		}
		r.Keeps = append(r.Keeps, crdt.Ref(k))
	}
	return r, nil
}

// GrantWrite is a grant as a write in the trust scope.
func GrantWrite(g *Grant) crdt.Write {
	id := g.ID()
	return crdt.Write{Table: TableGrant, Record: string(id[:]), Field: DropField, Value: g.Encode()}
}

// FoundingWrite is the founding record as a write in the trust scope.
func FoundingWrite(f *Founding) crdt.Write {
	id := f.ID()
	return crdt.Write{Table: TableFounding, Record: string(id[:16]), Field: DropField, Value: f.Encode()}
}

// ErrTooLarge: two changes do not fit one proof.
var ErrTooLarge = errors.New("the two changes do not fit a proof")

// ProofWrite is the proof that a node signed two different changes under one
// dot, as a write in the trust scope. Everybody who takes it closes the links
// to that node.
func ProofWrite(a, b *crdt.Change) (crdt.Write, error) {
	v := marshal([][]byte{a.Raw(), b.Raw()})
	if len(v) > crdt.MaxChange-256 {
		return crdt.Write{}, fmt.Errorf("prove that node %x cheats: %w", a.Node[:4], ErrTooLarge)
	}
	return crdt.Write{Table: TableProof, Record: string(a.Node[:]), Field: DropField, Value: v}, nil
}

// checkProof wants the cheat's key: its grant has to be known.
func (b *Book) checkProof(w *crdt.Write) (cheat site.NodeID, err error) {
	var raws [][]byte
	if err := decMode.Unmarshal(w.Value, &raws); err != nil || len(raws) != 2 || len(w.Record) != len(cheat) {
		return cheat, fmt.Errorf("proof: %w", ErrMalformed)
	}
	copy(cheat[:], w.Record)
	var cs [2]*crdt.Change
	for i, raw := range raws {
		c, err := crdt.Decode(raw)
		if err != nil {
			return cheat, fmt.Errorf("proof: %w: %w", ErrMalformed, err)
		}
		cs[i] = c
	}
	b.mu.RLock()
	gs := b.nodes[cheat]
	b.mu.RUnlock()
	if len(gs) == 0 {
		return cheat, fmt.Errorf("proof against node %s: %w", cheat, ErrUnknown)
	}
	key := gs[0].Key // one node, one key
	same := cs[0].Dot() == cs[1].Dot() && cs[0].ID() != cs[1].ID() && site.NodeID(cs[0].Node) == cheat && site.NodeID(cs[1].Node) == cheat
	if !same || bytes.Equal(raws[0], raws[1]) || !cs[0].Verify(b.fleet, key) || !cs[1].Verify(b.fleet, key) {
		return cheat, fmt.Errorf("proof against node %s: %w: it proves nothing", cheat, ErrMalformed)
	}
	return cheat, nil
}
