package crdt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Limits of one change.
const (
	MaxWrites = 16
	MaxChange = 4096 // bytes, signature included
	MaxRecord = 16
	MaxField  = 24
	Version1  = 1

	sigSize = ed25519.SignatureSize
	prefix  = "ccnode change 1"
)

// Flags of a write. Unknown ones are kept and mean nothing here.
type Flags uint8

const (
	// Final kills every other write to its record, earlier, concurrent or
	// later, and is never undone.
	Final Flags = 1 << iota
	// Reset marks a security reset: policies may let it count alone.
	Reset
)

// A Cell is what versions compete for: one field of one record.
type Cell struct {
	Scope  Scope
	Table  uint16
	Record string // ≤ 16 bytes, random
	Field  string // ≤ 24 bytes: a schema number, or an element's id
}

// A Write sets one cell, having seen Ctx of it.
type Write struct {
	Table  uint16
	Record string
	Field  string
	Value  []byte
	Ctx    Context
	Flags  Flags
}

// A Change is the unit that is signed, sent, stored and relayed. After Seal or
// Decode it does not change.
type Change struct {
	Ver    uint8
	Scope  Scope
	Node   NodeID
	Actor  uint32
	Stamp  Stamp
	Auth   Ref // the grant the node writes under
	By     Ref // the person, token or system rule that asked for it
	Writes []Write
	Ext    map[uint64][]byte // signed extras, as raw CBOR

	raw    []byte
	id     ID
	dot    Dot
	former []Dot // see ExtFormer
}

// wire forms: strings of raw bytes are CBOR byte strings.
type wireWrite struct {
	_      struct{} `cbor:",toarray"`
	Table  uint16
	Record []byte
	Field  []byte
	Value  []byte
	Ctx    [][2]uint64
	Flags  uint8
}

type wireChange struct {
	_      struct{} `cbor:",toarray"`
	Ver    uint8
	Scope  []byte
	Node   []byte
	Actor  uint32
	Stamp  uint64
	Auth   []byte
	By     []byte
	Writes []wireWrite
	Ext    map[uint64]cbor.RawMessage
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
			TagsMd: cbor.TagsForbidden, MaxArrayElements: 4096, MaxMapPairs: 64, MaxNestedLevels: 8}.DecMode()
		if err != nil {
			panic(err)
		}
		return m
	}()
)

// ErrShape means that bytes are no change: refuse them and the link they came
// over, because the relay should have seen it.
var ErrShape = errors.New("not a change")

// ID is SHA-256 of the bytes without the signature.
func (c *Change) ID() ID { return c.id }

// Raw returns the bytes exactly as signed or received, signature included. They
// must not be altered.
func (c *Change) Raw() []byte { return c.raw }

// Dot names the change among all of its actor.
func (c *Change) Dot() Dot { return c.dot }

// Cell is what the i-th write writes.
func (c *Change) Cell(i int) Cell {
	w := &c.Writes[i]
	return Cell{c.Scope, w.Table, w.Record, w.Field}
}

// Seal encodes c, signs it with sign (Ed25519 over the message it is given) and
// fixes its bytes and id.
func Seal(c *Change, fleet FleetID, sign func(msg []byte) []byte) error {
	if c.Ver == 0 {
		c.Ver = Version1
	}
	body, err := c.encode()
	if err != nil {
		return fmt.Errorf("encode the change: %w", err)
	}
	c.raw = append(body, sign(message(fleet, body))...)
	c.fix()
	return c.check()
}

func (c *Change) fix() {
	c.id = sha256.Sum256(c.raw[:len(c.raw)-sigSize])
	c.dot = Dot{MakeActor(c.Node, c.Actor), c.Stamp}
	c.former = nil
	if b, ok := c.Ext[ExtFormer]; ok {
		c.former = decodeFormer(b)
	}
}

func message(fleet FleetID, body []byte) []byte {
	m := make([]byte, 0, len(prefix)+len(fleet)+len(body))
	m = append(m, prefix...)
	m = append(m, fleet[:]...)
	return append(m, body...)
}

func (c *Change) encode() ([]byte, error) {
	w := wireChange{Ver: c.Ver, Scope: []byte(c.Scope), Node: c.Node[:], Actor: c.Actor, Stamp: uint64(c.Stamp),
		Auth: c.Auth[:], By: c.By[:], Writes: make([]wireWrite, len(c.Writes)), Ext: map[uint64]cbor.RawMessage{}}
	for i, x := range c.Writes {
		ctx := make([][2]uint64, len(x.Ctx))
		for j, d := range x.Ctx {
			ctx[j] = [2]uint64{uint64(d.Actor), uint64(d.Stamp)}
		}
		value := x.Value
		if value == nil {
			value = []byte{}
		}
		w.Writes[i] = wireWrite{Table: x.Table, Record: []byte(x.Record), Field: []byte(x.Field), Value: value, Ctx: ctx, Flags: uint8(x.Flags)}
	}
	for k, v := range c.Ext {
		w.Ext[k] = v
	}
	return encMode.Marshal(w)
}

// Decode reads a change and checks its shape, its limits and that its stamp
// exceeds all it has seen (state.md §5 a and c). It does not check the
// signature. b is kept; the caller must not alter it.
func Decode(b []byte) (*Change, error) {
	if len(b) <= sigSize || len(b) > MaxChange {
		return nil, fmt.Errorf("%w: %d bytes, want %d to %d", ErrShape, len(b), sigSize+1, MaxChange)
	}
	body := b[:len(b)-sigSize]
	var w wireChange
	if err := decMode.Unmarshal(body, &w); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrShape, err)
	}
	c := &Change{Ver: w.Ver, Scope: Scope(w.Scope), Actor: w.Actor, Stamp: Stamp(w.Stamp), raw: b}
	if len(w.Node) != len(c.Node) || len(w.Auth) != len(c.Auth) || len(w.By) != len(c.By) {
		return nil, fmt.Errorf("%w: a name has the wrong length", ErrShape)
	}
	copy(c.Node[:], w.Node)
	copy(c.Auth[:], w.Auth)
	copy(c.By[:], w.By)
	c.Writes = make([]Write, len(w.Writes))
	for i, x := range w.Writes {
		ctx := make(Context, len(x.Ctx))
		for j, d := range x.Ctx {
			ctx[j] = Dot{ActorID(d[0]), Stamp(d[1])}
		}
		c.Writes[i] = Write{Table: x.Table, Record: string(x.Record), Field: string(x.Field), Value: x.Value, Ctx: ctx, Flags: Flags(x.Flags)}
	}
	if len(w.Ext) > 0 {
		c.Ext = make(map[uint64][]byte, len(w.Ext))
		for k, v := range w.Ext {
			c.Ext[k] = v
		}
	}
	again, err := c.encode()
	if err != nil || !bytes.Equal(again, body) {
		return nil, fmt.Errorf("%w: its encoding is not the deterministic one", ErrShape)
	}
	c.fix()
	return c, c.check()
}

// Opaque is a change of which only bytes and id are known: it can be kept, not
// merged. Its error matches ErrShape.
func Opaque(b []byte) (*Change, error) {
	if len(b) <= sigSize || len(b) > MaxChange {
		return nil, fmt.Errorf("%w: %d bytes, want %d to %d", ErrShape, len(b), sigSize+1, MaxChange)
	}
	c := &Change{raw: b}
	c.fix()
	return c, nil
}

// check is the part of the shape that the encoding does not force.
func (c *Change) check() error {
	no := func(format string, a ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrShape}, a...)...)
	}
	switch {
	case c.Ver == 0:
		return no("version 0")
	case !c.Scope.Valid():
		return no("scope %q", string(c.Scope))
	case len(c.Writes) == 0 || len(c.Writes) > MaxWrites:
		return no("%d writes, want 1 to %d", len(c.Writes), MaxWrites)
	case len(c.raw) > MaxChange:
		return no("%d bytes, at most %d", len(c.raw), MaxChange)
	}
	if _, ok := c.Ext[ExtFormer]; ok && c.former == nil {
		return no("what it was before cannot be read")
	}
	seen := make(map[Cell]bool, len(c.Writes))
	for i := range c.Writes {
		w := &c.Writes[i]
		switch {
		case w.Record == "" || len(w.Record) > MaxRecord || len(w.Field) > MaxField:
			return no("write %d: a record of %d and a field of %d bytes", i, len(w.Record), len(w.Field))
		case !w.Ctx.sorted():
			return no("write %d: its context is not sorted", i)
		case w.Ctx.Max() >= c.Stamp:
			return no("write %d: it has seen a stamp that is not before its own", i)
		case w.Flags&Final != 0 && (len(c.Writes) != 1 || w.Field != ""):
			return no("a final stands alone, on a whole record")
		case w.Table == TableVoid && voidShape(c, w) != "":
			return no("write %d: %s", i, voidShape(c, w))
		case seen[c.Cell(i)]:
			return no("write %d: the same cell twice", i)
		}
		seen[c.Cell(i)] = true
	}
	return nil
}

// Verify checks the signature of the node that wrote c.
func (c *Change) Verify(fleet FleetID, pub ed25519.PublicKey) bool {
	if len(pub) != ed25519.PublicKeySize || len(c.raw) <= sigSize {
		return false
	}
	n := len(c.raw) - sigSize
	return ed25519.Verify(pub, message(fleet, c.raw[:n]), c.raw[n:])
}
