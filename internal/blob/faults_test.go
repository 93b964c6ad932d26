package blob

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// TestHangingUpIsNoDamage: a reader that was closed under the one who reads does
// not cost the recording.
func TestHangingUpIsNoDamage(t *testing.T) {
	s := newBench(t).open(t)
	p := noise(3*chunk + 100)
	ref := record(t, s, p)
	r, err := s.Open(ref)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	buf := make([]byte, 2*chunk)
	for range 3 {
		if _, err = r.Read(buf); err != nil {
			break
		}
	}
	if !errors.Is(err, fs.ErrClosed) || errors.Is(err, ErrDamaged) {
		t.Errorf("got %v", err)
	}
	if !s.Has(ref) || !bytes.Equal(read(t, s, ref), p) {
		t.Error("the recording was put aside")
	}
}

// endless gives zeros for ever.
type endless struct{ given *int64 }

func (e endless) Read(p []byte) (int, error) { *e.given += int64(len(p)); return len(p), nil }

// TestAFetchStopsAtTheReserve: however much the holder sends.
func TestAFetchStopsAtTheReserve(t *testing.T) {
	b := newBench(t)
	s := b.open(t)
	var given int64
	s.opts.Free = func(string) (int64, int64, error) { return 8<<20 - given, 1 << 40, nil }
	if err := s.PutVerified(site.BlobRef{1}, endless{&given}); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
	if given > 9<<20 {
		t.Errorf("%d MB were taken", given>>20)
	}
}

// TestAFetchThatEndedBeforeItsNewNameGoesOn: the power cut came between the sums
// and the name.
func TestAFetchThatEndedBeforeItsNewNameGoesOn(t *testing.T) {
	b := newBench(t)
	s := b.open(t)
	p := noise(chunk + 7)
	ref := site.BlobRef(sha256.Sum256(p))
	tail := binary.BigEndian.AppendUint32(nil, crc32.Checksum(p[:chunk], castagnoli))
	tail = binary.BigEndian.AppendUint32(tail, crc32.Checksum(p[chunk:], castagnoli))
	tail = binary.BigEndian.AppendUint64(tail, uint64(len(p)))
	tail = binary.BigEndian.AppendUint32(tail, crc32.Checksum(tail, castagnoli))
	if err := os.WriteFile(s.partial(ref), append(bytes.Clone(p), tail...), 0o600); err != nil {
		t.Fatal(err)
	}
	old := site.BlobRef{7}
	if err := os.WriteFile(s.partial(old), p, 0o600); err != nil {
		t.Fatal(err)
	}
	long := b.now.Add(-abandoned - time.Hour)
	if err := os.Chtimes(s.partial(old), long, long); err != nil {
		t.Fatal(err)
	}
	s = b.open(t)
	if n := s.Partial(ref); n != int64(len(p)) {
		t.Fatalf("%d bytes seem to be here of %d", n, len(p))
	}
	if err := s.PutVerified(ref, bytes.NewReader(nil)); err != nil || !s.Has(ref) {
		t.Fatalf("got %v", err)
	}
	if s.Partial(old) != 0 {
		t.Error("a fetch that nobody went on with is kept for ever")
	}
}
