package blob

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// A file is the stored bytes, then CRC-32C of each chunk, then the number of
// stored bytes (8 bytes) and a CRC-32C over all of that tail.
const (
	chunk  = 16 << 10
	footer = 8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func chunks(size int64) int64 { return (size + chunk - 1) / chunk }

// payload is the number of stored bytes in a file of n bytes, and whether there
// is such a number.
func payload(n int64) (int64, bool) {
	n -= footer
	if n < 0 {
		return 0, false
	}
	// n = size + 4*ceil(size/chunk)
	full := n / (chunk + 4)
	rest := n % (chunk + 4)
	if rest == 0 {
		return full * chunk, true
	}
	return full*chunk + rest - 4, rest > 4
}

// writer appends stored bytes to a file, hashing and summing them on the way.
type writer struct {
	s    *Store
	f    *os.File
	h    hash.Hash
	size int64
	tail []byte // finished chunks' sums
	part uint32 // sum of the chunk being filled
	err  error
}

func (w *writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.f.Write(p)
	w.note(p[:n])
	if err != nil {
		w.err = fmt.Errorf("write recording: %w", err)
	}
	return n, w.err
}

func (w *writer) note(p []byte) {
	w.h.Write(p)
	for len(p) > 0 {
		n := min(int64(len(p)), chunk-w.size%chunk)
		w.part = crc32.Update(w.part, castagnoli, p[:n])
		w.size += n
		p = p[n:]
		if w.size%chunk == 0 {
			w.tail = binary.BigEndian.AppendUint32(w.tail, w.part)
			w.part = 0
		}
	}
}

// reread notes what is in the file already and goes to its end.
func (w *writer) reread() error {
	if _, err := w.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	buf := make([]byte, chunk)
	for {
		n, err := w.f.Read(buf)
		w.note(buf[:n])
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// finish puts the blob in its place and returns once that is on the medium. It
// closes the file. If want is given, other content is ErrMismatch.
// before, if given, is called with the name before the blob gets it.
func (w *writer) finish(want *site.BlobRef, before func(site.BlobRef) error) (ref site.BlobRef, size int64, err error) {
	s, tmp := w.s, w.f.Name()
	defer w.f.Close()
	if w.err != nil {
		return ref, 0, w.err
	}
	ref = sum(w.h)
	if want != nil && ref != *want {
		return ref, 0, fmt.Errorf("recording %s: %w", want, ErrMismatch)
	}
	tail := w.tail
	if w.size%chunk != 0 {
		tail = binary.BigEndian.AppendUint32(tail, w.part)
	}
	tail = binary.BigEndian.AppendUint64(tail, uint64(w.size))
	tail = binary.BigEndian.AppendUint32(tail, crc32.Checksum(tail, castagnoli))
	if _, err := w.f.WriteAt(tail, w.size); err != nil {
		_ = w.f.Truncate(w.size)
		return ref, 0, fmt.Errorf("finish recording: %w", err)
	}
	if err := w.f.Sync(); err != nil {
		return ref, 0, fmt.Errorf("finish recording: %w", err)
	}
	if before != nil {
		if err := before(ref); err != nil {
			return ref, 0, fmt.Errorf("finish recording: %w", err)
		}
	}
	dst := s.path(ref)
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return ref, 0, fmt.Errorf("finish recording: %w", err)
	}
	if err := os.Rename(tmp, dst); err != nil {
		return ref, 0, fmt.Errorf("finish recording: %w", err)
	}
	for _, dir := range []string{filepath.Dir(dst), s.opts.Dir} {
		if err := syncDir(dir); err != nil {
			return ref, 0, fmt.Errorf("finish recording: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, had := s.have[ref]; !had {
		s.have[ref] = w.size
		s.bytes += w.size
	}
	return ref, w.size, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// A Recording becomes a blob at Commit. It is used by one goroutine.
type Recording struct {
	w      *writer
	out    io.Writer
	sealer io.Closer // nil without cipher
	base   string    // of the files in tmp
	synced time.Time
	done   bool
}

// Create begins a recording. meta says what it is, for whoever finds it after
// a power cut; it is on the medium when Create returns.
func (s *Store) Create(meta []byte) (*Recording, error) {
	if err := s.room(); err != nil {
		return nil, fmt.Errorf("begin recording: %w", err)
	}
	var id [10]byte
	s.randomMu.Lock()
	_, err := io.ReadFull(s.opts.Random, id[:])
	s.randomMu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("begin recording: %w", err)
	}
	base := filepath.Join(s.tmp(), hex.EncodeToString(id[:]))
	if err := writeSync(base+".meta", meta); err != nil {
		return nil, fmt.Errorf("begin recording: %w", err)
	}
	f, err := os.OpenFile(base+".rec", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("begin recording: %w", err)
	}
	if err := syncDir(s.tmp()); err != nil {
		f.Close()
		return nil, fmt.Errorf("begin recording: %w", err)
	}
	r := &Recording{w: &writer{s: s, f: f, h: sha256.New()}, base: base, synced: s.opts.Now()}
	r.out = r.w
	if c := s.opts.Cipher; c != nil {
		sealer, err := c.Seal(r.w)
		if err != nil {
			r.Abort()
			return nil, fmt.Errorf("seal recording: %w", err)
		}
		r.out, r.sealer = sealer, sealer
	}
	return r, nil
}

func writeSync(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// Write takes audio. Every Options.Sync it makes sure that what came so far
// survives a power cut, and that there is still room.
func (r *Recording) Write(p []byte) (int, error) {
	if r.done {
		return 0, fs.ErrClosed
	}
	n, err := r.out.Write(p)
	if err != nil {
		return n, err
	}
	s := r.w.s
	if now := s.opts.Now(); now.Sub(r.synced) >= s.opts.Sync {
		r.synced = now
		if err := s.room(); err != nil {
			return n, err
		}
		if err := r.w.f.Sync(); err != nil {
			r.w.err = fmt.Errorf("write recording: %w", err)
			return n, r.w.err
		}
	}
	return n, nil
}

// Commit ends the recording and returns its name and stored size, once the blob
// is on the medium. What was known about it stays until Done: a node that dies
// before somebody refers to the blob finds it among its orphans.
func (r *Recording) Commit() (ref site.BlobRef, size int64, err error) {
	if r.done {
		return ref, 0, fs.ErrClosed
	}
	r.done = true
	if r.sealer != nil {
		if err := r.sealer.Close(); err != nil {
			r.w.f.Close()
			return ref, 0, fmt.Errorf("seal recording: %w", err)
		}
	}
	// After an error what is there is found as an orphan at the next start.
	return r.w.finish(nil, func(ref site.BlobRef) error { return writeSync(r.base+".ref", ref[:]) })
}

// Done says that somebody refers to the blob now.
func (r *Recording) Done() error { return forget(r.base) }

// Abort ends the recording without a trace. After Commit it does nothing.
func (r *Recording) Abort() error {
	if r.done {
		return nil
	}
	r.done = true
	r.w.f.Close()
	if err := os.Remove(r.w.f.Name()); err != nil {
		return err
	}
	return forget(r.base)
}

// forget removes what is known about a recording.
func forget(base string) error {
	for _, ext := range []string{".ref", ".meta"} {
		if err := os.Remove(base + ext); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget a recording: %w", err)
		}
	}
	return nil
}

// Partial returns how many bytes of ref an interrupted fetch has left here, to
// go on from there.
func (s *Store) Partial(ref site.BlobRef) int64 {
	st, err := os.Stat(s.partial(ref))
	if err != nil {
		return 0
	}
	return st.Size()
}

func (s *Store) partial(ref site.BlobRef) string {
	return filepath.Join(s.tmp(), ref.String()+".part")
}

// PutVerified stores the rest of ref, from the offset Partial gave, read from
// r until io.EOF. It becomes visible only if the whole has the right hash;
// otherwise all of it is dropped and the error matches ErrMismatch. If r fails
// half-way, what came is kept for the next try.
func (s *Store) PutVerified(ref site.BlobRef, r io.Reader) error {
	if s.Has(ref) {
		return nil
	}
	if err := s.room(); err != nil {
		return fmt.Errorf("store recording %s: %w", ref, err)
	}
	f, err := os.OpenFile(s.partial(ref), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("store recording %s: %w", ref, err)
	}
	w := &writer{s: s, f: f, h: sha256.New()}
	if err := w.reread(); err != nil {
		f.Close()
		return fmt.Errorf("store recording %s: %w", ref, err)
	}
	if _, err := io.Copy(&roomy{w: w}, r); err != nil {
		f.Close()
		return fmt.Errorf("fetch recording %s after %d bytes: %w", ref, w.size, err)
	}
	if _, _, err := w.finish(&ref, nil); err != nil {
		_ = os.Remove(s.partial(ref))
		return err
	}
	return nil
}

// roomy looks after each megabyte whether there is room for the next.
type roomy struct {
	w    *writer
	next int64
}

func (r *roomy) Write(p []byte) (int, error) {
	if r.w.size >= r.next {
		if err := r.w.s.room(); err != nil {
			return 0, err
		}
		r.next = r.w.size + 1<<20
	}
	return r.w.Write(p)
}

// Tidy removes interrupted fetches that nobody went on with for a while.
func (s *Store) Tidy(older time.Duration) {
	entries, err := os.ReadDir(s.tmp())
	if err != nil {
		return
	}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".part", ".back", ".proof":
			if st, err := e.Info(); err == nil && s.opts.Now().Sub(st.ModTime()) > older {
				_ = os.Remove(filepath.Join(s.tmp(), e.Name()))
			}
		}
	}
}
