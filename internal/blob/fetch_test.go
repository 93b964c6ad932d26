package blob

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"

	"carrierclass.net/ccnode/internal/site"
)

func fetchInto(t testing.TB, from, to *Store, ref site.BlobRef, most func() int) {
	t.Helper()
	in, err := to.Fetch(ref)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for !in.Whole() {
		p, err := from.Piece(ref, in.Below(), most())
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.Finish(); err != nil {
		t.Fatal(err)
	}
}

func sameIn(t testing.TB, s *Store, ref site.BlobRef, want []byte) {
	t.Helper()
	r, err := s.Open(ref)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(want), err)
	}
}

func TestAPieceIsProvenByTheNameAlone(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	from, to := storeIn(t, t.TempDir()), storeIn(t, t.TempDir())
	for _, size := range []int{0, 1, 63, 64, 65, 127, 128, 1000, chunk - 1, chunk, chunk + 1, 3*chunk + 17, 200_000} {
		ref, data := leave(t, from, rng, size)
		fetchInto(t, from, to, ref, func() int { return 1 + rng.IntN(5000) })
		sameIn(t, to, ref, data)
	}
	if left, err := os.ReadDir(to.tmp()); err != nil || len(left) != 0 {
		t.Errorf("%d files are left, %v", len(left), err)
	}
}

// Whatever is changed in a piece, it is refused, nothing here changes, and the
// true piece is taken after it.
func TestAFalsePieceIsRefusedAndCostsNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	from, to := storeIn(t, t.TempDir()), storeIn(t, t.TempDir())
	ref, data := leave(t, from, rng, 50_001)
	in, err := to.Fetch(ref)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	refused := 0
	for !in.Whole() {
		p, err := from.Piece(ref, in.Below(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		for kind := range 6 {
			q := p
			q.Data = bytes.Clone(p.Data)
			switch kind {
			case 0:
				q.Data[rng.IntN(len(q.Data))] ^= 1 << rng.IntN(8)
			case 1:
				q.Before[rng.IntN(len(q.Before))] ^= 1 << rng.IntN(8)
			case 2:
				q.Data = q.Data[:len(q.Data)-1]
			case 3:
				q.Size += Block
			case 4:
				q.Off += Block
			case 5: // a whole of its own, with a true hash: not this recording
				q = Piece{Size: 3, Before: q.Before, Data: []byte("abc")}
				q.Before, _ = stateOf(sha256.New())
			}
			below, begun := in.Below(), in.Begun()
			if err := in.Add(q); !errors.Is(err, ErrMismatch) || in.Below() != below || in.Begun() != begun {
				t.Fatalf("kind %d at %d: %v", kind, below, err)
			}
			refused++
		}
		if err := in.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.Finish(); err != nil || refused < 300 {
		t.Fatal(err, refused)
	}
	sameIn(t, to, ref, data)
}

// The process is killed, and the power cut: files end anywhere, or hold noise.
// The fetch goes on with what is true, and only that.
func TestAnInterruptedFetchProvesWhatItHas(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 5))
		dir := t.TempDir()
		from, to := storeIn(t, t.TempDir()), storeIn(t, dir)
		ref, data := leave(t, from, rng, 1+rng.IntN(40_000))
		for range 6 {
			in, err := to.Fetch(ref)
			if err != nil {
				t.Fatal(err)
			}
			for n := rng.IntN(8); n > 0 && !in.Whole(); n-- {
				p, err := from.Piece(ref, in.Below(), 64+rng.IntN(4000))
				if err != nil {
					t.Fatal(err)
				}
				if err := in.Add(p); err != nil {
					t.Fatal(err)
				}
			}
			below, whole := in.Below(), in.Whole()
			in.Close() // what is in the files stays: kill -9
			if whole {
				break
			}
			back, proof := to.backward(ref)
			harmed := false
			for _, name := range []string{back, proof} {
				st, err := os.Stat(name)
				if err != nil || st.Size() == 0 {
					continue
				}
				f, err := os.OpenFile(name, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				switch rng.IntN(4) {
				case 0:
					err, harmed = f.Truncate(rng.Int64N(st.Size())), true
				case 1:
					_, err = f.WriteAt([]byte{byte(rng.Uint32())}, rng.Int64N(st.Size()))
					harmed = true
				}
				if err != nil {
					t.Fatal(err)
				}
				f.Close()
			}
			to = storeIn(t, dir) // the process starts again
			again, err := to.Fetch(ref)
			if err != nil {
				t.Fatal(err)
			}
			if !harmed && again.Below() != below {
				t.Fatalf("seed %d: %d was missing, now %d", seed, below, again.Below())
			}
			again.Close()
		}
		fetchInto(t, from, to, ref, func() int { return 700 })
		sameIn(t, to, ref, data)
	}
}

// FuzzPiece: no piece from outside is taken that is not the recording's.
func FuzzPiece(f *testing.F) {
	from, to := storeIn(f, f.TempDir()), storeIn(f, f.TempDir())
	ref, data := leave(f, from, rand.New(rand.NewPCG(7, 8)), 500)
	p, err := from.Piece(ref, 0, 128)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.Size, p.Off, p.Before[:], p.Data)
	f.Add(int64(1)<<62, int64(1)<<62, p.Before[:], p.Data)
	f.Add(int64(-1), int64(-64), p.Before[:], []byte{})
	f.Fuzz(func(t *testing.T, size, off int64, before, piece []byte) {
		in, err := to.Fetch(ref)
		if err != nil {
			t.Fatal(err)
		}
		defer in.drop()
		q := Piece{Size: size, Off: off, Data: piece}
		copy(q.Before[:], before)
		if err := in.Add(q); err == nil && (size != int64(len(data)) || !bytes.Equal(data[off:], piece)) {
			t.Fatal("a false piece was taken")
		}
	})
}

func storeIn(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(Options{Dir: dir, Reserve: 1, Log: slog.New(slog.DiscardHandler), Random: rand.NewChaCha8([32]byte{2}),
		Free: func(string) (int64, int64, error) { return 1 << 40, 1 << 40, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// leave records size bytes of noise.
func leave(t testing.TB, s *Store, rng *rand.Rand, size int) (site.BlobRef, []byte) {
	t.Helper()
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(rng.Uint32())
	}
	r, err := s.Create(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(p); err != nil {
		t.Fatal(err)
	}
	ref, _, err := r.Commit()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Done(); err != nil {
		t.Fatal(err)
	}
	return ref, p
}
