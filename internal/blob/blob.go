// Package blob keeps recordings as files that are named by what they hold: the
// SHA-256 of the stored (sealed) bytes.
//
// Its law: a blob is visible only whole, verified and on the medium; what is
// read was verified chunk by chunk or is an error. A recording that a power cut
// ended stays as an orphan with what was known about it, so that whoever left
// the message is not lost.
package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// Sentinels a caller branches on. A blob that is not here matches
// fs.ErrNotExist.
var (
	// ErrNoSpace: less than the reserve is free; nothing was stored.
	ErrNoSpace = errors.New("disk space is below the reserve for recordings")
	// ErrMismatch: the bytes do not have the hash they were announced with.
	ErrMismatch = errors.New("content does not have the announced hash")
	// ErrDamaged: the stored bytes changed on the medium. The file was put
	// aside; the blob is no longer here and can be fetched again.
	ErrDamaged = errors.New("stored recording is damaged")
)

// Cipher seals blobs at rest and on the way. The hash is of the sealed bytes,
// so holders need no key. Nil means plain.
type Cipher interface {
	// Seal returns a writer whose sealed output goes to w. Close writes what
	// remains, not closing w.
	Seal(w io.Writer) (io.WriteCloser, error)
	// Unseal returns the plain bytes of the sealed ones from r.
	Unseal(r io.ReadSeeker) (io.ReadSeeker, error)
}

// Options says where blobs lie. Dir, Free, Random and Log are required.
type Options struct {
	Dir     string
	Reserve int64                                           // bytes kept free; below it nothing is recorded. Default 256 MiB
	Free    func(dir string) (free, total int64, err error) // room on the medium
	Random  io.Reader                                       // names of temporary files; used by one goroutine at a time
	Sync    time.Duration                                   // a recording is put on the medium this often; default 2 s
	Now     func() time.Time                                // default time.Now
	Log     *slog.Logger
	Cipher  Cipher
}

// Store is a folder of blobs. It is safe for concurrent use.
type Store struct {
	opts Options

	randomMu sync.Mutex // over a use of opts.Random

	statesMu sync.Mutex // guards states
	states   []states   // of recordings handed out lately, newest last

	mu      sync.Mutex // guards what follows
	have    map[site.BlobRef]int64
	orphans []Orphan
	bytes   int64
}

// An Orphan is a recording that was begun and never Done, because the node died.
type Orphan struct {
	Name string    // for Recover, Done and Discard
	Meta []byte    // as given to Create, nil if it was lost
	Size int64     // stored bytes
	At   time.Time // when it was last written to
}

// Open reads the folder, makes it if it is missing, and finds the orphans.
func Open(o Options) (*Store, error) {
	if o.Free == nil || o.Random == nil || o.Log == nil {
		return nil, errors.New("open recordings: Free, Random and Log are required")
	}
	if o.Reserve == 0 {
		o.Reserve = 256 << 20
	}
	if o.Sync == 0 {
		o.Sync = 2 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Store{opts: o, have: map[site.BlobRef]int64{}}
	if err := os.MkdirAll(s.tmp(), 0o700); err != nil {
		return nil, fmt.Errorf("make folder for recordings: %w: choose a folder this user may write to", err)
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("read recordings in %s: %w", o.Dir, err)
	}
	return s, nil
}

func (s *Store) tmp() string { return filepath.Join(s.opts.Dir, "tmp") }

func (s *Store) path(ref site.BlobRef) string {
	name := ref.String()
	return filepath.Join(s.opts.Dir, name[:2], name)
}

func (s *Store) load() error {
	err := filepath.WalkDir(s.opts.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p == s.tmp() {
				return fs.SkipDir
			}
			return nil
		}
		var ref site.BlobRef
		if ref.UnmarshalText([]byte(d.Name())) != nil {
			return nil
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		size, ok := payload(st.Size())
		if !ok {
			s.opts.Log.Error("Recording is cut off and was put aside", "file", p)
			return os.Rename(p, p+".damaged")
		}
		s.have[ref] = size
		s.bytes += size
		return nil
	})
	if err != nil {
		return err
	}
	return s.findOrphans()
}

// findOrphans lists recordings in tmp and clears fetches that ended half-way
// without a way to go on.
func (s *Store) findOrphans() error {
	s.Tidy(abandoned)
	entries, err := os.ReadDir(s.tmp())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".rec"); ok {
			if err := s.findOrphansNamed(name); err != nil {
				return err
			}
		}
		if strings.HasSuffix(e.Name(), ".part") {
			if err := cutTail(filepath.Join(s.tmp(), e.Name())); err != nil {
				return err
			}
		}
		name, ok := strings.CutSuffix(e.Name(), ".meta")
		if !ok {
			continue
		}
		if _, err := os.Stat(filepath.Join(s.tmp(), name+".rec")); errors.Is(err, fs.ErrNotExist) {
			s.findCommitted(name, e)
		}
	}
	return nil
}

// abandoned is how long an interrupted fetch is kept over a start.
const abandoned = 30 * 24 * time.Hour

// cutTail takes the sums off a fetch that ended between its last byte and its
// new name: as it is, more would seem to be here than there is of it.
func cutTail(name string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if r := (&sealed{f: f}); r.readTail() == nil {
		return f.Truncate(r.size)
	}
	return nil
}

// findCommitted lists a recording that became a blob to which nobody refers.
func (s *Store) findCommitted(name string, e fs.DirEntry) {
	base := filepath.Join(s.tmp(), name)
	var ref site.BlobRef
	b, err := os.ReadFile(base + ".ref")
	if err != nil || copy(ref[:], b) != len(ref) {
		_ = forget(base) // it was never begun, or it was aborted
		return
	}
	size, ok := s.have[ref]
	if !ok {
		_ = forget(base)
		return
	}
	o := Orphan{Name: name, Size: size}
	o.Meta, _ = os.ReadFile(base + ".meta")
	if st, err := e.Info(); err == nil {
		o.At = st.ModTime()
	}
	s.orphans = append(s.orphans, o)
}

// room matches ErrNoSpace if less than the reserve is free.
func (s *Store) room() error {
	free, _, err := s.opts.Free(s.opts.Dir)
	if err != nil {
		return err
	}
	if free < s.opts.Reserve {
		return fmt.Errorf("%w: %d MB free in %s, %d MB are kept: delete old messages or other files",
			ErrNoSpace, free>>20, s.opts.Dir, s.opts.Reserve>>20)
	}
	return nil
}

// Has says whether the whole blob is here.
func (s *Store) Has(ref site.BlobRef) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.have[ref]
	return ok
}

// Size is the number of stored (sealed) bytes of a blob that is here.
func (s *Store) Size(ref site.BlobRef) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.have[ref]
	if !ok {
		return 0, fmt.Errorf("recording %s: %w", ref, fs.ErrNotExist)
	}
	return n, nil
}

// List returns the blobs that are here, in no order.
func (s *Store) List() []site.BlobRef {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]site.BlobRef, 0, len(s.have))
	for ref := range s.have {
		out = append(out, ref)
	}
	return out
}

// Usage is the number of blobs here and their stored bytes.
func (s *Store) Usage() (blobs int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.have), s.bytes
}

// Delete removes a blob. One that is not here is no error. Readers that have
// it open go on.
func (s *Store) Delete(ref site.BlobRef) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.have[ref]
	if !ok {
		return nil
	}
	if err := os.Remove(s.path(ref)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete recording %s: %w", ref, err)
	}
	delete(s.have, ref)
	s.bytes -= n
	return nil
}

// Orphans returns the recordings that a crash ended.
func (s *Store) Orphans() []Orphan {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.orphans)
}

// take removes an orphan from the list.
func (s *Store) take(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, o := range s.orphans {
		if o.Name == name {
			s.orphans = slices.Delete(s.orphans, i, i+1)
			return true
		}
	}
	return false
}

// Recover makes a blob of what an orphan holds; what is known about it stays
// until Done.
func (s *Store) Recover(ctx context.Context, name string) (ref site.BlobRef, size int64, err error) {
	if !s.take(name) {
		return ref, 0, fmt.Errorf("recover recording %q: %w", name, fs.ErrNotExist)
	}
	base := filepath.Join(s.tmp(), name)
	if b, err := os.ReadFile(base + ".ref"); err == nil && copy(ref[:], b) == len(ref) {
		if size, err := s.Size(ref); err == nil {
			return ref, size, nil
		}
	}
	defer func() {
		if err != nil { // it stays an orphan
			err = fmt.Errorf("recover recording %q: %w", name, err)
			s.mu.Lock()
			_ = s.findOrphansNamed(name)
			s.mu.Unlock()
		}
	}()
	f, err := os.OpenFile(filepath.Join(s.tmp(), name+".rec"), os.O_RDWR, 0)
	if err != nil {
		return ref, 0, err
	}
	// The end may have come between the last byte and the new name.
	if r := (&sealed{f: f}); r.readTail() == nil {
		if err := f.Truncate(r.size); err != nil {
			f.Close()
			return ref, 0, err
		}
	}
	w := &writer{s: s, f: f, h: sha256.New()}
	if err := w.reread(); err != nil {
		f.Close()
		return ref, 0, err
	}
	if err := context.Cause(ctx); err != nil {
		f.Close()
		return ref, 0, err
	}
	return w.finish(nil, func(ref site.BlobRef) error { return writeSync(base+".ref", ref[:]) })
}

// Done says that somebody refers to the blob an orphan became.
func (s *Store) Done(name string) error { return forget(filepath.Join(s.tmp(), name)) }

func (s *Store) findOrphansNamed(name string) error {
	st, err := os.Stat(filepath.Join(s.tmp(), name+".rec"))
	if err != nil {
		return err
	}
	meta, _ := os.ReadFile(filepath.Join(s.tmp(), name+".meta"))
	s.orphans = append(s.orphans, Orphan{name, meta, st.Size(), st.ModTime()})
	return nil
}

// Discard removes an orphan for good.
func (s *Store) Discard(name string) error {
	if !s.take(name) {
		return fmt.Errorf("discard recording %q: %w", name, fs.ErrNotExist)
	}
	base := filepath.Join(s.tmp(), name)
	if err := os.Remove(base + ".rec"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("discard recording %q: %w", name, err)
	}
	return forget(base)
}

func sum(h hash.Hash) (ref site.BlobRef) {
	h.Sum(ref[:0])
	return ref
}
