package blob

import (
	"bytes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

type bench struct {
	opts Options
	free atomic.Int64
	now  time.Time
}

func newBench(t *testing.T) *bench {
	b := &bench{now: time.Unix(1_700_000_000, 0)}
	b.free.Store(1 << 40)
	b.opts = Options{
		Dir: t.TempDir(), Reserve: 1 << 20, Log: slog.New(slog.DiscardHandler),
		Free:   func(string) (int64, int64, error) { return b.free.Load(), 1 << 40, nil },
		Random: rand.NewChaCha8([32]byte{1}),
		Now:    func() time.Time { return b.now },
	}
	return b
}

func (b *bench) open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(b.opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func noise(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(p)
	return p
}

func record(t *testing.T, s *Store, p []byte) site.BlobRef {
	t.Helper()
	r, err := s.Create(nil)
	if err != nil {
		t.Fatal(err)
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), 333)
		if _, err := r.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	ref, _, err := r.Commit()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Done(); err != nil {
		t.Fatal(err)
	}
	return ref
}

func read(t *testing.T, s *Store, ref site.BlobRef) []byte {
	t.Helper()
	r, err := s.Open(ref)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRecordingBecomesABlobOfAnyLength(t *testing.T) {
	b := newBench(t)
	s := b.open(t)
	refs := map[int]site.BlobRef{}
	for _, n := range []int{0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, 3*chunk + 5, 4*chunk + 4} {
		p := noise(n)
		refs[n] = record(t, s, p)
		if refs[n] != site.BlobRef(sha256.Sum256(p)) {
			t.Fatalf("%d bytes: the name is not the hash", n)
		}
	}
	s = b.open(t)
	for n, ref := range refs {
		if got := read(t, s, ref); !bytes.Equal(got, noise(n)) {
			t.Errorf("%d bytes came back as %d others", n, len(got))
		}
		if size, err := s.Size(ref); err != nil || size != int64(n) {
			t.Errorf("size %d, %v, want %d", size, err, n)
		}
	}
	if n, _ := s.Usage(); n != len(refs) || len(s.List()) != n || len(s.Orphans()) != 0 {
		t.Fatalf("%d blobs, orphans %v", n, s.Orphans())
	}
	if err := s.Delete(refs[1]); err != nil || s.Has(refs[1]) {
		t.Fatal("not deleted", err)
	}
	if _, err := s.Open(refs[1]); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

func TestReaderKeepsItsPromises(t *testing.T) {
	s := newBench(t).open(t)
	p := noise(3*chunk + 100)
	r, err := s.Open(record(t, s, p))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := iotest.TestReader(r, p); err != nil {
		t.Fatal(err)
	}
}

func TestPowerCutLeavesAnOrphanThatCanBeDelivered(t *testing.T) {
	b := newBench(t)
	s := b.open(t)
	r, err := s.Create([]byte("for ann"))
	if err != nil {
		t.Fatal(err)
	}
	p := noise(2*chunk + 7)
	if _, err := r.Write(p); err != nil {
		t.Fatal(err)
	}
	// The process ends here.
	s = b.open(t)
	o := s.Orphans()
	if len(o) != 1 || string(o[0].Meta) != "for ann" || o[0].Size != int64(len(p)) {
		t.Fatalf("got %+v", o)
	}
	ref, size, err := s.Recover(t.Context(), o[0].Name)
	if err != nil || size != int64(len(p)) || !bytes.Equal(read(t, s, ref), p) {
		t.Fatalf("recovered %d bytes, %v", size, err)
	}
	// Again, before anybody referred to the blob.
	s = b.open(t)
	if o := s.Orphans(); len(o) != 1 || string(o[0].Meta) != "for ann" || o[0].Size != size {
		t.Fatalf("a blob nobody refers to is forgotten: %+v", o)
	}
	if again, n, err := s.Recover(t.Context(), o[0].Name); err != nil || again != ref || n != size {
		t.Fatalf("got %v, %d, %v", again, n, err)
	}
	if err := s.Done(o[0].Name); err != nil {
		t.Fatal(err)
	}
	if s = b.open(t); len(s.Orphans()) != 0 || !s.Has(ref) {
		t.Fatal("orphan is still there after it was delivered")
	}
	if _, err := s.Create([]byte("too short")); err != nil {
		t.Fatal(err)
	}
	s = b.open(t)
	if err := s.Discard(s.Orphans()[0].Name); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(s.tmp()); len(files) != 0 {
		t.Fatalf("traces: %v", files)
	}
}

func TestAbortLeavesNoTrace(t *testing.T) {
	s := newBench(t).open(t)
	r, err := s.Create([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(noise(10)); err != nil {
		t.Fatal(err)
	}
	if err := r.Abort(); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(s.tmp()); len(files) != 0 {
		t.Fatalf("traces: %v", files)
	}
	if _, err := r.Write(nil); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("got %v", err)
	}
}

func TestFetchedBlobIsVerifiedAndResumed(t *testing.T) {
	s := newBench(t).open(t)
	p := noise(5*chunk + 9)
	ref := site.BlobRef(sha256.Sum256(p))
	broken := io.MultiReader(bytes.NewReader(p[:chunk+1]), iotest.ErrReader(errors.New("line broke")))
	if err := s.PutVerified(ref, broken); err == nil || s.Has(ref) {
		t.Fatal("half a blob is visible", err)
	}
	at := s.Partial(ref)
	if at != chunk+1 {
		t.Fatalf("%d bytes kept", at)
	}
	if err := s.PutVerified(ref, bytes.NewReader(p[at:])); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, s, ref), p) {
		t.Fatal("other bytes")
	}
	bad := site.BlobRef{1}
	if err := s.PutVerified(bad, bytes.NewReader(p)); !errors.Is(err, ErrMismatch) || s.Has(bad) || s.Partial(bad) != 0 {
		t.Fatalf("got %v", err)
	}
}

func TestDamageIsReportedAndTheBlobCanBeFetchedAgain(t *testing.T) {
	for _, hurt := range []func([]byte) []byte{
		func(b []byte) []byte { b[chunk+3] ^= 4; return b },
		func(b []byte) []byte { b[len(b)-20] ^= 4; return b },
		func(b []byte) []byte { return b[:len(b)-1] },
		func(b []byte) []byte { return nil },
	} {
		s := newBench(t).open(t)
		p := noise(2*chunk + 77)
		ref := record(t, s, p)
		data, err := os.ReadFile(s.path(ref))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.path(ref), hurt(data), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := s.Open(ref)
		if err == nil {
			_, err = io.ReadAll(r)
			r.Close()
		}
		if !errors.Is(err, ErrDamaged) || s.Has(ref) {
			t.Fatalf("got %v", err)
		}
		if err := s.PutVerified(ref, bytes.NewReader(p)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(read(t, s, ref), p) {
			t.Fatal("other bytes")
		}
	}
}

func TestNoRoomIsSaidBeforeAndDuringARecording(t *testing.T) {
	b := newBench(t)
	s := b.open(t)
	r, err := s.Create(nil)
	if err != nil {
		t.Fatal(err)
	}
	b.free.Store(1000)
	b.now = b.now.Add(3 * time.Second)
	if _, err := r.Write(noise(100)); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
	if _, _, err := r.Commit(); err != nil {
		t.Fatalf("what was recorded must still be delivered: %v", err)
	}
	if _, err := s.Create(nil); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
	if err := s.PutVerified(site.BlobRef{1}, nil); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
}

// xor is a cipher for the test of the seam only.
type xor struct{}

func (xor) XORKeyStream(dst, src []byte) {
	for i := range src {
		dst[i] = src[i] ^ 0x55
	}
}
func (xor) Seal(w io.Writer) (io.WriteCloser, error) {
	return cipher.StreamWriter{S: xor{}, W: struct{ io.Writer }{w}}, nil
}

type unxor struct{ io.ReadSeeker }

func (u unxor) Read(p []byte) (int, error) {
	n, err := u.ReadSeeker.Read(p)
	xor{}.XORKeyStream(p[:n], p[:n])
	return n, err
}
func (xor) Unseal(r io.ReadSeeker) (io.ReadSeeker, error) { return unxor{r}, nil }

func TestNameIsOfTheSealedBytes(t *testing.T) {
	b := newBench(t)
	b.opts.Cipher = xor{}
	s := b.open(t)
	p := noise(chunk + 50)
	ref := record(t, s, p)
	r, err := s.OpenSealed(ref)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sealed, err := io.ReadAll(r)
	if err != nil || site.BlobRef(sha256.Sum256(sealed)) != ref || bytes.Equal(sealed, p) {
		t.Fatal("the name is not of the sealed bytes", err)
	}
	if !bytes.Equal(read(t, s, ref), p) {
		t.Fatal("plain bytes differ")
	}
}

func TestOldHalvesAreTidied(t *testing.T) {
	b := newBench(t)
	s := b.open(t)
	name := filepath.Join(s.tmp(), "abc.part")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.now = time.Now().Add(time.Hour)
	s.Tidy(2 * time.Hour)
	if _, err := os.Stat(name); err != nil {
		t.Fatal("too early")
	}
	s.Tidy(time.Minute)
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("still there")
	}
}
