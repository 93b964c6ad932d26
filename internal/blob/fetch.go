package blob

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"carrierclass.net/ccnode/internal/site"
)

// An Incoming is a recording that arrives in proven pieces, from its end to its
// start, from whoever has it. What is here survives the end of the process, and
// is proven anew before it is gone on with. It is used by one goroutine.
//
// Two files in tmp: NAME.back has the bytes at their places, NAME.proof the size
// and, for each piece, [offset 8][state before it 32][CRC-32C 4].
type Incoming struct {
	s        *Store
	ref      site.BlobRef
	back     *os.File // nil: nothing is here
	proof    *os.File
	size     int64
	below    int64 // all bytes from here on are here
	before   State // of the bytes before below
	nextRoom int64
}

const proofLine = 8 + sha256.Size + 4

func (s *Store) backward(ref site.BlobRef) (back, proof string) {
	base := filepath.Join(s.tmp(), ref.String())
	return base + ".back", base + ".proof"
}

// Fetch goes on with a recording that is not whole here. One at a time for each.
func (s *Store) Fetch(ref site.BlobRef) (*Incoming, error) {
	if err := s.room(); err != nil {
		return nil, fmt.Errorf("store recording %s: %w", ref, err)
	}
	in := &Incoming{s: s, ref: ref}
	if err := in.reopen(); err != nil {
		in.Close()
		return nil, fmt.Errorf("go on with recording %s: %w", ref, err)
	}
	return in, nil
}

// reopen proves what a fetch before has left, as far as it is true.
func (in *Incoming) reopen() (err error) {
	back, proof := in.s.backward(in.ref)
	if in.proof, err = os.OpenFile(proof, os.O_RDWR, 0); errors.Is(err, fs.ErrNotExist) {
		in.proof = nil
		return nil
	} else if err != nil {
		return err
	}
	if in.back, err = os.OpenFile(back, os.O_RDWR, 0); errors.Is(err, fs.ErrNotExist) {
		in.back = nil
		return in.drop()
	} else if err != nil {
		return err
	}
	r := bufio.NewReader(in.proof)
	head := make([]byte, 8+4)
	if _, err := io.ReadFull(r, head); err != nil || binary.BigEndian.Uint32(head[8:]) != crc32.Checksum(head[:8], castagnoli) {
		return in.drop()
	}
	in.size = int64(binary.BigEndian.Uint64(head))
	in.below = in.size
	st, err := in.back.Stat()
	if err != nil {
		return err
	}
	line := make([]byte, proofLine)
	whole := int64(len(head))
	for {
		if _, err := io.ReadFull(r, line); err != nil {
			break // its last line may be half there
		}
		off := binary.BigEndian.Uint64(line)
		if binary.BigEndian.Uint32(line[proofLine-4:]) != crc32.Checksum(line[:proofLine-4], castagnoli) || off > uint64(in.below) || in.below > st.Size() {
			break
		}
		p := Piece{Size: in.size, Off: int64(off), Before: State(line[8 : 8+sha256.Size]), Data: make([]byte, in.below-int64(off))}
		if _, err := in.back.ReadAt(p.Data, p.Off); err != nil || p.proves(in.ref, in.before) != nil {
			break
		}
		in.below, in.before = p.Off, p.Before
		whole += proofLine
	}
	if whole == int64(len(head)) {
		return in.drop()
	}
	if err := in.proof.Truncate(whole); err != nil {
		return err
	}
	_, err = in.proof.Seek(whole, io.SeekStart)
	return err
}

// drop begins anew.
func (in *Incoming) drop() error {
	in.Close()
	in.size, in.below, in.before = 0, 0, State{}
	back, proof := in.s.backward(in.ref)
	for _, name := range []string{proof, back} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Begun says whether any of it is here; then Size and Below mean something.
func (in *Incoming) Begun() bool { return in.back != nil }

// Size is the number of stored bytes of the whole.
func (in *Incoming) Size() int64 { return in.size }

// Below is where the next piece ends: all bytes from there on are here.
func (in *Incoming) Below() int64 { return in.below }

// Whole says whether nothing is missing.
func (in *Incoming) Whole() bool { return in.Begun() && in.below == 0 }

// Add stores a piece that ends at Below, or at the end of the recording if none
// is here. An error that matches ErrMismatch: it is not part of the recording,
// and whoever sent it sent something false; nothing changed here.
func (in *Incoming) Add(p Piece) error {
	if in.Begun() && (p.Size != in.size || p.End() != in.below || in.below == 0) || !in.Begun() && p.End() != p.Size {
		return fmt.Errorf("recording %s: a piece of %d to %d of %d bytes: %w", in.ref, p.Off, p.End(), p.Size, ErrMismatch)
	}
	if err := p.proves(in.ref, in.before); err != nil {
		return err
	}
	if err := in.add(p); err != nil {
		return fmt.Errorf("store recording %s: %w", in.ref, err)
	}
	return nil
}

func (in *Incoming) add(p Piece) (err error) {
	if !in.Begun() {
		if err := in.begin(p.Size); err != nil {
			in.drop()
			return err
		}
	} else if in.size-p.Off >= in.nextRoom {
		if err := in.s.room(); err != nil {
			return err
		}
		in.nextRoom = in.size - p.Off + 1<<20
	}
	if _, err := in.back.WriteAt(p.Data, p.Off); err != nil {
		return err
	}
	line := make([]byte, 0, proofLine)
	line = binary.BigEndian.AppendUint64(line, uint64(p.Off))
	line = append(line, p.Before[:]...)
	line = binary.BigEndian.AppendUint32(line, crc32.Checksum(line, castagnoli))
	if _, err := in.proof.Write(line); err != nil {
		return err
	}
	in.below, in.before = p.Off, p.Before
	return nil
}

func (in *Incoming) begin(size int64) (err error) {
	back, proof := in.s.backward(in.ref)
	if in.back, err = os.OpenFile(back, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return err
	}
	if in.proof, err = os.OpenFile(proof, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return err
	}
	head := binary.BigEndian.AppendUint64(nil, uint64(size))
	head = binary.BigEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	if _, err := in.proof.Write(head); err != nil {
		return err
	}
	in.size, in.below = size, size
	return nil
}

// Finish makes a blob of a whole one, once it is on the medium. The Incoming is
// closed then, whatever the error.
func (in *Incoming) Finish() error {
	defer in.Close()
	if !in.Whole() {
		return fmt.Errorf("finish recording %s: %d bytes are missing", in.ref, in.below)
	}
	if err := in.back.Truncate(in.size); err != nil { // nothing after its end
		return fmt.Errorf("finish recording %s: %w", in.ref, err)
	}
	w := &writer{s: in.s, f: in.back, h: sha256.New()}
	if err := w.reread(); err != nil {
		return fmt.Errorf("finish recording %s: %w", in.ref, err)
	}
	if _, _, err := w.finish(&in.ref, nil); err != nil {
		if errors.Is(err, ErrMismatch) { // the medium changed it meanwhile
			_ = in.drop()
		}
		return err
	}
	_, proof := in.s.backward(in.ref)
	_ = os.Remove(proof)
	return nil
}

// Close keeps what is here for the next Fetch.
func (in *Incoming) Close() {
	for _, f := range []**os.File{&in.back, &in.proof} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

// Part is how much of a recording an interrupted fetch has left here, in stored
// bytes, and of how much; size 0: that is not known.
func (s *Store) Part(ref site.BlobRef) (have, size int64) {
	_, name := s.backward(ref)
	b, err := os.ReadFile(name)
	if err != nil || len(b) < 12+proofLine || binary.BigEndian.Uint32(b[8:]) != crc32.Checksum(b[:8], castagnoli) {
		return s.Partial(ref), 0
	}
	size = int64(binary.BigEndian.Uint64(b))
	b = b[12:]
	b = b[:len(b)/proofLine*proofLine]
	off := int64(binary.BigEndian.Uint64(b[len(b)-proofLine:]))
	return max(size-off, 0), size
}
