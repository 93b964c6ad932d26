package blob

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"carrierclass.net/ccnode/internal/site"
)

// A State is what SHA-256 remembers of the bytes before an offset that is a
// multiple of Block: its chaining value (FIPS 180-4, 6.2.2). Whoever knows the
// state, or the name, at the end of a piece can tell whether the piece and the
// state before it are true: the hash of the piece from the one must give the
// other. So a recording is proven piece by piece from its end to its start, with
// nothing but the name it always had.
type State [sha256.Size]byte

// Block is what the offset of a piece is a multiple of, in bytes.
const Block = sha256.BlockSize

// The form in which the standard library keeps a hash's state.
const (
	stateMagic = "sha\x03"
	stateSize  = len(stateMagic) + sha256.Size + sha256.BlockSize + 8
)

// A Piece is a part of a recording together with what proves it.
type Piece struct {
	Size   int64 // of the whole, in stored bytes
	Off    int64 // where it begins; a multiple of Block
	Before State // of the bytes before Off
	Data   []byte
}

// End is the offset after the last byte.
func (p *Piece) End() int64 { return p.Off + int64(len(p.Data)) }

// possible says whether numbers from outside can belong to a piece. Only a
// recording of no bytes has an empty one.
func (p *Piece) possible() bool {
	return p.Size >= 0 && p.Off >= 0 && p.Off%Block == 0 && p.Off <= p.Size && int64(len(p.Data)) <= p.Size-p.Off &&
		(len(p.Data) > 0 || p.Size == 0)
}

// resume is SHA-256 as it is after off bytes that left the state s.
func resume(s State, off int64) (hash.Hash, error) {
	b := make([]byte, 0, stateSize)
	b = append(b, stateMagic...)
	b = append(b, s[:]...)
	b = append(b, make([]byte, sha256.BlockSize)...)
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	h := sha256.New()
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(b); err != nil {
		return nil, fmt.Errorf("resume SHA-256: %w", err)
	}
	return h, nil
}

// stateOf is the state of h, which took a multiple of Block bytes.
func stateOf(h hash.Hash) (s State, err error) {
	b, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return s, fmt.Errorf("keep the state of SHA-256: %w", err)
	}
	if len(b) != stateSize || !bytes.HasPrefix(b, []byte(stateMagic)) {
		return s, fmt.Errorf("keep the state of SHA-256: %d bytes of another form", len(b))
	}
	copy(s[:], b[len(stateMagic):])
	return s, nil
}

// proves says whether p is true, given what is known to be true after it: at the
// end of the recording its name, elsewhere the state there. The first of all
// bytes must have the state that SHA-256 begins with.
func (p *Piece) proves(ref site.BlobRef, after State) error {
	if !p.possible() {
		return fmt.Errorf("recording %s: a piece from %d of %d bytes: %w", ref, p.Off, p.Size, ErrMismatch)
	}
	if p.Off == 0 {
		first, err := stateOf(sha256.New())
		if err != nil {
			return err
		}
		if p.Before != first {
			return fmt.Errorf("recording %s: its start does not begin a hash: %w", ref, ErrMismatch)
		}
	}
	h, err := resume(p.Before, p.Off)
	if err != nil {
		return err
	}
	h.Write(p.Data)
	if p.End() == p.Size {
		if sum(h) != ref {
			return fmt.Errorf("recording %s: the piece from %d to its end: %w", ref, p.Off, ErrMismatch)
		}
		return nil
	}
	if p.End()%Block != 0 {
		return fmt.Errorf("recording %s: a piece that ends at %d: %w", ref, p.End(), ErrMismatch)
	}
	s, err := stateOf(h)
	if err != nil {
		return err
	}
	if s != after {
		return fmt.Errorf("recording %s: the piece from %d to %d: %w", ref, p.Off, p.End(), ErrMismatch)
	}
	return nil
}

// kept is how many recordings' states are remembered: 32 bytes for 16 KiB.
const kept = 16

// states are those at each chunk of recordings that were handed out lately.
type states struct {
	ref site.BlobRef
	at  []State
}

// Piece is the part of a recording that ends at below, or at its end if below is
// 0, of at most the given number of bytes, but at least one Block. The error is
// as from Open.
func (s *Store) Piece(ref site.BlobRef, below int64, most int) (p Piece, err error) {
	r, err := s.OpenSealed(ref)
	if err != nil {
		return p, err
	}
	defer r.Close()
	p.Size = r.Stored()
	end := p.Size
	if below != 0 {
		end = below
	}
	if end < 0 || end > p.Size || end != p.Size && end%Block != 0 {
		return p, fmt.Errorf("recording %s: no piece ends at %d of %d", ref, below, p.Size)
	}
	p.Off = max(0, end-int64(max(most, Block))+Block-1) / Block * Block
	at, err := s.statesOf(ref, r)
	if err != nil {
		return p, err
	}
	i := p.Off / chunk
	h, err := resume(at[i], i*chunk)
	if err != nil {
		return p, err
	}
	if _, err := r.Seek(i*chunk, io.SeekStart); err != nil {
		return p, err
	}
	if _, err := io.CopyN(h, r, p.Off-i*chunk); err != nil {
		return p, fmt.Errorf("read recording %s: %w", ref, err)
	}
	if p.Before, err = stateOf(h); err != nil {
		return p, err
	}
	p.Data = make([]byte, end-p.Off)
	if _, err := io.ReadFull(r, p.Data); err != nil {
		return p, fmt.Errorf("read recording %s: %w", ref, err)
	}
	return p, nil
}

// statesOf reads a recording once and remembers the states of its chunks.
func (s *Store) statesOf(ref site.BlobRef, r *Reader) ([]State, error) {
	s.statesMu.Lock()
	defer s.statesMu.Unlock()
	for _, x := range s.states {
		if x.ref == ref {
			return x.at, nil
		}
	}
	h := sha256.New()
	at := make([]State, 0, r.Stored()/chunk+1)
	for {
		st, err := stateOf(h)
		if err != nil {
			return nil, err
		}
		at = append(at, st)
		if n, err := io.CopyN(h, r, chunk); err == io.EOF && n < chunk {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read recording %s: %w", ref, err)
		}
	}
	if len(s.states) >= kept {
		s.states = s.states[1:]
	}
	s.states = append(s.states, states{ref, at})
	return at, nil
}
