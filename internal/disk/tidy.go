package disk

import (
	"fmt"
	"time"
)

// Tidying: Badger merges its levels when they are large, so what was overwritten
// or deleted stays for long. After a quiet time they are merged into one, if much
// was written since: the work is in proportion to what was written, and nothing
// happens to a store that is not written to.

// Quiet is after what time without a write a store is tidied.
const Quiet = time.Minute

// A store is tidied when a tidyShare-th of what its tables take was written since
// the last time, and no less than tidyLeast bytes.
const (
	tidyShare = 2
	tidyLeast = 1 << 20
)

// stir puts off what waits for a quiet time. The caller is the leader.
func (s *badgerStore) stir(group []*waiting) {
	for _, w := range group {
		s.dirt.Add(int64(w.batch.bytes))
	}
	s.quiet.Reset(s.opts.Quiet)
}

// tables is what Badger's tables take, and the largest level of them.
func (s *badgerStore) tables() (all, largest int64) {
	levels := map[int]int64{}
	for _, t := range s.db.Tables() {
		all += int64(t.OnDiskSize)
		levels[t.Level] += int64(t.OnDiskSize)
		largest = max(largest, levels[t.Level])
	}
	return all, largest
}

// tidy merges the tables if that is worth it. Writes go on meanwhile.
func (s *badgerStore) tidy() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil || s.failed != nil || s.closed {
		return
	}
	all, largest := s.tables()
	dirt := s.dirt.Load()
	if all == largest || dirt < tidyLeast || dirt < all/tidyShare {
		return
	}
	if sp, err := s.Space(); err != nil || sp.Free < sp.Reserve+2*all {
		return // what is merged is kept until its successor is whole
	}
	begun := s.opts.Now()
	if err := s.flatten(); err != nil {
		s.opts.Log.Warn("Store could not be tidied", "err", err)
		return
	}
	s.dirt.Add(-dirt)
	after, _ := s.tables()
	s.opts.Log.Debug("Store tidied", "before", all, "after", after, "took", s.opts.Now().Sub(begun))
}

func (s *badgerStore) flatten() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("badger: %v", p)
		}
	}()
	return s.db.Flatten(1)
}
