package disk_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"carrierclass.net/ccnode/internal/disk"
)

// digest of all files of a folder.
func digest(t *testing.T, dir string) [32]byte {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		fmt.Fprintln(h, name)
		if err == nil && !d.IsDir() {
			b, err := os.ReadFile(name)
			h.Write(b)
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

// dead fills a store with n values under c/ and as many elsewhere, overwrites
// and deletes some, and returns a copy of its files as a killed process leaves them.
func dead(t *testing.T, n int, flushed bool) (dir string, want map[string][]byte) {
	t.Helper()
	r := newRig(t)
	s, err := r.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want = map[string][]byte{}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := 0; i < n; i += 50 {
		var b disk.Batch
		for range 50 {
			id := sha256.Sum256(fmt.Append(nil, rnd.Uint64()))
			key, value := "c/"+string(id[:]), bytes.Repeat(id[:], 7)
			b.Put([]byte(key), value)
			b.Put([]byte("a/"+string(id[:])), value[:48])
			want[key] = value
		}
		if err := s.Commit(&b); err != nil {
			t.Fatal(err)
		}
	}
	gone := 0
	for key := range want {
		if gone++; gone%5 == 0 {
			var d disk.Batch
			d.Delete([]byte(key))
			if err := s.Commit(&d); err != nil {
				t.Fatal(err)
			}
			delete(want, key)
		}
	}
	if flushed {
		if err := s.Reopen(); err != nil {
			t.Fatal(err)
		}
	}
	dir = filepath.Join(t.TempDir(), "d")
	if err := os.CopyFS(dir, os.DirFS(r.opts.Dir)); err != nil {
		t.Fatal(err)
	}
	return dir, want
}

// TestSalvageReadsADeadDisk: everything is read, from logs and from tables,
// deleted values are not, and not a byte of the disk changes.
func TestSalvageReadsADeadDisk(t *testing.T) {
	for _, flushed := range []bool{false, true} {
		dir, want := dead(t, 3000, flushed)
		tables, _ := filepath.Glob(filepath.Join(dir, "badger", "*.sst"))
		if flushed != (len(tables) > 0) {
			t.Fatalf("flushed %v, %d tables", flushed, len(tables))
		}
		before := digest(t, dir)
		s, err := disk.Salvage(dir, t.TempDir(), []string{"c/"})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		s.Each(func(key, value []byte) {
			n++
			if !bytes.Equal(want[string(key)], value) {
				t.Errorf("%x: %x is not what was written", key, value)
			}
		})
		if n != len(want) || s.Damaged != 0 {
			t.Errorf("flushed %v: %d of %d values, %d damaged", flushed, n, len(want), s.Damaged)
		}
		if digest(t, dir) != before {
			t.Error("the disk was written to")
		}
	}
	if _, err := disk.Salvage(t.TempDir(), t.TempDir(), []string{"c/"}); !errors.Is(err, disk.ErrNotFound) {
		t.Errorf("an empty folder: %v", err)
	}
}

// TestSalvageOfAHurtDisk: flipped bits, torn files and zeroed blocks cost what
// they hit, are counted, and never make a value that nobody wrote.
func TestSalvageOfAHurtDisk(t *testing.T) {
	rounds := 6
	if os.Getenv("CCNODE_LONG") == "1" {
		rounds = 500
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	worst, sum, hits := 0, 0, 0
	for _, flushed := range []bool{false, true} {
		whole, want := dead(t, 3000, flushed)
		for round := range rounds {
			dir := filepath.Join(t.TempDir(), "d")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			names, _ := filepath.Glob(filepath.Join(dir, "badger", "*"))
			name := ""
			var data []byte
			for len(bytes.TrimRight(data, "\x00")) < 1000 { // one with content
				name = names[rnd.IntN(len(names))]
				data, _ = os.ReadFile(name)
			}
			used := len(bytes.TrimRight(data, "\x00"))
			at := rnd.IntN(used)
			what := [...]string{"bit", "torn", "zeros"}[round%3]
			switch what {
			case "bit":
				data[at] ^= 1 << rnd.IntN(8)
			case "torn":
				data = data[:at]
			case "zeros":
				clear(data[at:min(at+512, len(data))])
			}
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := disk.Salvage(dir, t.TempDir(), []string{"c/"})
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			s.Each(func(key, value []byte) {
				if v, ok := want[string(key)]; ok {
					n++
					if !bytes.Equal(v, value) {
						t.Errorf("%x: %x is not what was written", key, value)
					}
				} // else its deletion was lost: an old value of ours
			})
			lost := len(want) - n
			if lost > 0 && s.Damaged == 0 && what != "torn" {
				t.Errorf("%s at %d of %s: %d values are gone without a word", what, at, filepath.Base(name), lost)
			}
			if what == "bit" && filepath.Ext(name) == ".mem" {
				if lost > 2 {
					t.Errorf("a flipped bit in a log cost %d values", lost)
				}
			}
			if what == "bit" {
				worst, sum, hits = max(worst, lost), sum+lost, hits+1
			}
		}
	}
	t.Logf("a flipped bit cost %d of about 2,400 values at worst, %.1f on average", worst, float64(sum)/float64(hits))
}

func FuzzSalvageLog(f *testing.F) {
	f.Add([]byte("no log"))
	f.Add(append(make([]byte, 20), "\x00\x00\x0a\x04\x00c/12345678abcd"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "00001.mem"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := disk.Salvage(dir, dir, []string{"c/"})
		if err != nil {
			t.Fatal(err)
		}
		s.Each(func(key, _ []byte) {
			if !bytes.HasPrefix(key, []byte("c/")) {
				t.Errorf("%q was not asked for", key)
			}
		})
	})
}

func FuzzSalvageTable(f *testing.F) {
	f.Add([]byte("no table"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "000001.sst"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := disk.Salvage(dir, t.TempDir(), []string{"c/"}); err != nil {
			t.Fatal(err)
		}
	})
}
