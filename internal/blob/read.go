package blob

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	"carrierclass.net/ccnode/internal/site"
)

// A Reader gives the plain bytes of a blob; each chunk is verified before any
// of it is returned.
type Reader struct {
	io.ReadSeeker
	raw *sealed
}

// Close ends the use of the reader.
func (r *Reader) Close() error { return r.raw.f.Close() }

// Stored is the number of stored (sealed) bytes.
func (r *Reader) Stored() int64 { return r.raw.size }

// Open reads a blob. The error matches fs.ErrNotExist if it is not here, and
// ErrDamaged, here or at a later Read, if it changed on the medium.
func (s *Store) Open(ref site.BlobRef) (*Reader, error) {
	r, err := s.OpenSealed(ref)
	if err != nil || s.opts.Cipher == nil {
		return r, err
	}
	plain, err := s.opts.Cipher.Unseal(r.raw)
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("unseal recording %s: %w", ref, err)
	}
	return &Reader{plain, r.raw}, nil
}

// OpenSealed reads the stored bytes as they are, to pass them on.
func (s *Store) OpenSealed(ref site.BlobRef) (*Reader, error) {
	if !s.Has(ref) {
		return nil, fmt.Errorf("recording %s: %w", ref, fs.ErrNotExist)
	}
	f, err := os.Open(s.path(ref))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			s.forget(ref, false)
		}
		return nil, fmt.Errorf("recording %s: %w", ref, err)
	}
	r := &sealed{s: s, ref: ref, f: f}
	if err := r.readTail(); err != nil {
		f.Close()
		s.forget(ref, errors.Is(err, ErrDamaged))
		return nil, fmt.Errorf("recording %s: %w", ref, err)
	}
	return &Reader{r, r}, nil
}

// forget drops a blob from the list; a damaged file is put aside.
func (s *Store) forget(ref site.BlobRef, damaged bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.have[ref]
	if !ok {
		return
	}
	delete(s.have, ref)
	s.bytes -= n
	if damaged {
		s.opts.Log.Error("Damaged recording put aside", "blob", ref)
		if err := os.Rename(s.path(ref), s.path(ref)+".damaged"); err != nil {
			s.opts.Log.Error("Damaged recording cannot be put aside", "blob", ref, "err", err)
		}
	}
}

// sealed reads stored bytes chunk by chunk.
type sealed struct {
	s    *Store
	ref  site.BlobRef
	f    *os.File
	size int64
	sums []byte
	at   int64
	buf  []byte // the verified chunk that holds bufAt
	bufN int64  // its number, +1; 0 none
}

func (r *sealed) readTail() error {
	st, err := r.f.Stat()
	if err != nil {
		return err
	}
	size, ok := payload(st.Size())
	if !ok {
		return fmt.Errorf("%d bytes cannot be a whole file: %w", st.Size(), ErrDamaged)
	}
	tail := make([]byte, st.Size()-size)
	if _, err := r.f.ReadAt(tail, size); err != nil {
		return fmt.Errorf("%w (%w)", ErrDamaged, err)
	}
	body := tail[:len(tail)-4]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(tail[len(body):]) ||
		binary.BigEndian.Uint64(body[len(body)-8:]) != uint64(size) {
		return fmt.Errorf("checksums are wrong: %w", ErrDamaged)
	}
	r.size, r.sums = size, body[:len(body)-8]
	return nil
}

// Read implements io.Reader.
func (r *sealed) Read(p []byte) (int, error) {
	if r.at >= r.size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	i := r.at / chunk
	if r.bufN != i+1 {
		if err := r.load(i); err != nil {
			if errors.Is(err, ErrDamaged) {
				r.s.forget(r.ref, true)
			}
			return 0, err
		}
	}
	n := copy(p, r.buf[r.at-i*chunk:])
	r.at += int64(n)
	return n, nil
}

func (r *sealed) load(i int64) error {
	n := min(chunk, r.size-i*chunk)
	if r.buf == nil {
		r.buf = make([]byte, 0, chunk)
	}
	r.buf, r.bufN = r.buf[:n], 0
	if _, err := r.f.ReadAt(r.buf, i*chunk); errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("recording %s: %w", r.ref, err) // whoever listened has hung up
	} else if err != nil {
		return fmt.Errorf("recording %s, chunk %d: %w (%w)", r.ref, i, ErrDamaged, err)
	}
	if crc32.Checksum(r.buf, castagnoli) != binary.BigEndian.Uint32(r.sums[4*i:]) {
		return fmt.Errorf("recording %s, chunk %d of %d: %w", r.ref, i, chunks(r.size), ErrDamaged)
	}
	r.bufN = i + 1
	return nil
}

// Seek implements io.Seeker.
func (r *sealed) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.at
	case io.SeekEnd:
		off += r.size
	}
	if off < 0 {
		return r.at, fmt.Errorf("seek to %d in recording %s", off, r.ref)
	}
	r.at = off
	return off, nil
}
