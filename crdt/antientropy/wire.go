package antientropy

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	"github.com/klauspost/compress/zstd"
)

// The wire: one byte of kind, then CBOR maps with integer keys, so that a later
// version can add fields and kinds that this one skips.
const version = 1

const (
	kindHello  = 1
	kindBatch  = 2
	kindAck    = 3
	kindDone   = 4
	kindWant   = 5
	kindPush   = 6
	kindPushed = 7
	kindCells  = 8
	kindMore   = 9
	kindNeed   = 10
	kindAhead  = 11

	// compressed is added to a kind whose CBOR is zstd (RFC 8878).
	compressed = 0x80
	worthwhile = 512 // below this many bytes compressing gains nothing
	// recalled is added to a kind whose CBOR is in pieces (memory.go). Kinds
	// stay below it: 0x40 and more belong to who else uses the link.
	recalled = 0x20
	maxBody  = 1 << 20 // decompressed
)

type hello struct {
	Version int          `cbor:"1,keyasint"`
	Epoch   uint32       `cbor:"2,keyasint"`
	Clock   uint64       `cbor:"3,keyasint"`
	Scopes  []helloScope `cbor:"4,keyasint"`
	Answer  bool         `cbor:"5,keyasint,omitempty"` // say yours again: ours is other than the one before on this link
}

// aheadMsg says that changes which the receiver wrote are held at the sender,
// because their time has not come there.
type aheadMsg struct {
	Clock  uint64 `cbor:"1,keyasint"` // the sender's
	Newest uint64 `cbor:"2,keyasint"` // the greatest stamp of those changes
	Count  uint64 `cbor:"3,keyasint"`
	Synced bool   `cbor:"4,keyasint,omitempty"` // NTP sets the sender's clock
}

type helloScope struct {
	Scope       []byte `cbor:"1,keyasint"`
	Fingerprint []byte `cbor:"2,keyasint"`
	Epoch       uint32 `cbor:"3,keyasint,omitempty"` // the sender's cursor into the receiver's numbers
	N           uint64 `cbor:"4,keyasint,omitempty"`
	Head        uint64 `cbor:"5,keyasint,omitempty"` // the sender's own last number
	Guest       bool   `cbor:"6,keyasint,omitempty"` // only because the receiver wishes it
}

type batchMsg struct {
	Scope   []byte   `cbor:"1,keyasint"`
	N       uint64   `cbor:"2,keyasint"` // the sender's number of the last change, echoes included
	Changes [][]byte `cbor:"3,keyasint"`
}

type ackMsg struct {
	Scope []byte `cbor:"1,keyasint"`
	N     uint64 `cbor:"2,keyasint"`
}

type done struct {
	Scope       []byte `cbor:"1,keyasint"`
	Fingerprint []byte `cbor:"2,keyasint"`
	Sent        uint64 `cbor:"3,keyasint"` // batches the sender sent on this link
	Stored      uint64 `cbor:"4,keyasint"` // batches of the receiver's that it stored
	// Head is the sender's last number, if it did not send what came before:
	// equal contents mean that the receiver has it all.
	Head uint64 `cbor:"5,keyasint,omitempty"`
}

func (d done) same(o done) bool {
	return string(d.Fingerprint) == string(o.Fingerprint) && d.Sent == o.Sent && d.Stored == o.Stored
}

type wantMsg struct {
	Scope []byte `cbor:"1,keyasint"`
}

type pushMsg struct {
	Seq     uint64   `cbor:"1,keyasint"`
	Changes [][]byte `cbor:"2,keyasint"`
}

type pushedMsg struct {
	Seq uint64 `cbor:"1,keyasint"`
}

var (
	decMode = func() cbor.DecMode {
		d, err := cbor.DecOptions{IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
			MaxArrayElements: 65536, MaxMapPairs: 64, MaxNestedLevels: 6}.DecMode()
		if err != nil {
			panic(err)
		}
		return d
	}()
	packer, _   = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(64<<10), zstd.WithEncoderCRC(false))
	unpacker, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBody))
)

// The first use makes the packer's state; here, so that it does not belong to
// whichever bubble of testing/synctest comes first.
func init() { packer.EncodeAll(nil, nil) }

// carries says whether messages of a kind carry changes, which are remembered.
func carries(kind byte) bool { return kind == kindBatch || kind == kindPush }

func (m *Machine) send(p *peer, kind byte, msg any) {
	b, err := cbor.Marshal(msg)
	if err != nil {
		panic(fmt.Sprintf("encode message %d: %v", kind, err)) // our own types
	}
	quiet := kind == kindAck || kind == kindPushed
	m.ready.Messages = append(m.ready.Messages, Message{Peer: p.Peer, Body: p.sent.seal(kind, b), Quiet: quiet})
}

// seal writes a message in the shortest way there is.
func (m *memory) seal(kind byte, b []byte) (out []byte) {
	switch {
	case len(b) >= worthwhile:
		out = packer.EncodeAll(b, []byte{kind | compressed})
	case carries(kind):
		out = m.pack([]byte{kind | recalled, m.n}, b)
	}
	if out == nil || len(out) > len(b) {
		out = append(append(make([]byte, 0, len(b)+1), kind), b...)
	}
	if carries(kind) {
		m.remember(b)
	}
	return out
}

// split reads what seal wrote.
func (m *memory) split(body []byte) (kind byte, rest []byte, err error) {
	if len(body) < 2 {
		return 0, nil, errors.New("an empty message")
	}
	kind, rest = body[0]&^(compressed|recalled), body[1:]
	switch body[0] & (compressed | recalled) {
	case compressed:
		rest, err = unpacker.DecodeAll(rest, nil)
	case recalled:
		rest, err = m.open(rest)
	case compressed | recalled:
		err = errors.New("it is packed in two ways")
	}
	if err != nil {
		return 0, nil, fmt.Errorf("unpack message %d: %w", kind, err)
	}
	if carries(kind) {
		m.remember(rest)
	}
	return kind, rest, nil
}

func decode(b []byte, into any) error {
	if err := decMode.Unmarshal(b, into); err != nil {
		return fmt.Errorf("read a message: %w", err)
	}
	return nil
}
