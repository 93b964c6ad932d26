package antientropy

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A change is small, and most of it was in the change before: the node, the
// person, the record, the head of a stamp. What compresses such a change is
// not its own repetitions but what this link has carried already. So each end
// keeps the last bytes of the changes sent one way, and a small message names
// what is in there instead of saying it (the idea is LZ77's, with the text of
// the earlier messages as the window).
//
// Both ends have the same memory because a link carries messages once and in
// order. The message says how many went before it, so that a memory that is
// another after all ends the link, and is never read as something else.

const (
	memorySize = 2 << 10
	minMatch   = 4 // a copy takes two or three bytes
)

// memory is what one direction of one link has carried.
type memory struct {
	n    byte // messages so far, modulo 256
	text []byte
}

// remember adds what a message said.
func (m *memory) remember(b []byte) {
	m.n++
	if over := len(m.text) + len(b) - memorySize; over > 0 {
		if over >= len(m.text) {
			m.text, b = m.text[:0], b[max(0, len(b)-memorySize):]
		} else {
			m.text = append(m.text[:0], m.text[over:]...)
		}
	}
	m.text = append(m.text, b...)
}

// pack appends b to out as pieces: new ones, [2·length][bytes], and remembered
// ones, [2·length+1][how far before the end of the text]; numbers are LEB128.
func (m *memory) pack(out, b []byte) []byte {
	const bits = 10
	hash := func(b []byte) uint32 { return binary.LittleEndian.Uint32(b) * 0x9e3779b1 >> (32 - bits) }
	var last [1 << bits]uint16 // position + 1 of the last place with this hash
	for i := 0; i+minMatch <= len(m.text); i++ {
		last[hash(m.text[i:])] = uint16(i + 1)
	}
	fresh := func(b []byte) {
		if len(b) > 0 {
			out = binary.AppendUvarint(out, uint64(len(b))<<1)
			out = append(out, b...)
		}
	}
	from := 0
	for i := 0; i+minMatch <= len(b); {
		at := int(last[hash(b[i:])]) - 1
		n := 0
		if at >= 0 {
			for n < len(b)-i && n < len(m.text)-at && b[i+n] == m.text[at+n] {
				n++
			}
		}
		if n < minMatch {
			i++
			continue
		}
		fresh(b[from:i])
		out = binary.AppendUvarint(out, uint64(n)<<1|1)
		out = binary.AppendUvarint(out, uint64(len(m.text)-at))
		i += n
		from = i
	}
	fresh(b[from:])
	return out
}

var errPieces = errors.New("a message in pieces that do not fit")

// unpack is the reverse of pack; the peer may have sent anything.
func (m *memory) unpack(in []byte) (out []byte, err error) {
	number := func() (uint64, bool) {
		v, n := binary.Uvarint(in)
		if n <= 0 {
			return 0, false
		}
		in = in[n:]
		return v, true
	}
	for len(in) > 0 {
		head, ok := number()
		n := head >> 1
		if !ok || n == 0 || n > maxBody || len(out)+int(n) > maxBody {
			return nil, errPieces
		}
		if head&1 == 0 {
			if n > uint64(len(in)) {
				return nil, errPieces
			}
			out, in = append(out, in[:n]...), in[n:]
			continue
		}
		back, ok := number()
		if !ok || back > uint64(len(m.text)) || n > back {
			return nil, errPieces
		}
		at := len(m.text) - int(back)
		out = append(out, m.text[at:at+int(n)]...)
	}
	return out, nil
}

// open reads what the peer sent in pieces: the number of messages before it,
// then the pieces.
func (m *memory) open(b []byte) ([]byte, error) {
	if len(b) == 0 || b[0] != m.n {
		return nil, fmt.Errorf("%w: it is not the message after %d others", errPieces, m.n)
	}
	return m.unpack(b[1:])
}
