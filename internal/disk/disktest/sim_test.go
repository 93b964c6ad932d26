package disktest_test

import (
	"errors"
	"fmt"
	"testing"

	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/disk/disktest"
)

type simRig struct{ m *disktest.Medium }

func (r simRig) Open() (disk.Store, error)              { return r.m.Open() }
func (r simRig) Corrupt(s disk.Store, key []byte) error { return disktest.Corrupt(s, key) }
func (r simRig) Fill(free int64) {
	if free < 0 {
		free = 1 << 30
	}
	r.m.SetFree(free)
}

func TestSimulatedDisk(t *testing.T) {
	disktest.Suite(t, func(t *testing.T) disktest.Rig { return simRig{disktest.NewMedium(1)} })
}

// TestCrashKeepsEveryAcknowledgedBatchAndNoHalf cuts the power at every call of
// a run of writes, with many seeds.
func TestCrashKeepsEveryAcknowledgedBatchAndNoHalf(t *testing.T) {
	torn := 0
	for seed := range uint64(20) {
		for at := 1; at <= 24; at++ {
			m := disktest.NewMedium(seed)
			s, err := m.Open()
			if err != nil {
				t.Fatal(err)
			}
			m.CrashAt(at)
			acked := 0
			for i := range 12 {
				var b disk.Batch
				for j := range 5 {
					b.Put(fmt.Appendf(nil, "%02d/%d", i, j), make([]byte, 300))
				}
				if err := s.Commit(&b); err != nil {
					if !errors.Is(err, disktest.ErrCrashed) {
						t.Fatal(err)
					}
					break
				}
				acked++
			}
			if err := s.Reopen(); !errors.Is(err, disktest.ErrCrashed) {
				t.Fatalf("a dead process reopened its disk: %v", err)
			}
			s, err = m.Open()
			if err != nil {
				t.Fatal(err)
			}
			have := map[string]int{}
			err = s.View(func(r disk.Reader) error {
				return r.Scan(nil, func(k, _ []byte) error { have[string(k[:2])]++; return nil })
			})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 12 {
				n := have[fmt.Sprintf("%02d", i)]
				if i < acked && n != 5 || n != 0 && n != 5 {
					t.Fatalf("seed %d, cut at call %d: %d of 5 values of batch %d, %d acknowledged", seed, at, n, i, acked)
				}
			}
			if len(have) == acked {
				torn++
			}
		}
	}
	if torn == 0 || torn == 20*24 {
		t.Fatalf("the simulated disk never differs: %d", torn)
	}
}

func TestFailedWriteStopsTheStoreUntilReopen(t *testing.T) {
	m := disktest.NewMedium(3)
	s, err := m.Open()
	if err != nil {
		t.Fatal(err)
	}
	m.FailAt(2, disktest.ErrIO)
	var b disk.Batch
	b.Put([]byte("k"), []byte("v"))
	if err := s.Commit(&b); !errors.Is(err, disktest.ErrIO) {
		t.Fatalf("got %v", err)
	}
	if err := s.Commit(&b); !errors.Is(err, disk.ErrFailed) {
		t.Fatalf("a failed store took a write: %v", err)
	}
	if err := s.Reopen(); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(&b); err != nil {
		t.Fatal(err)
	}
}
