package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Badger opens some damaged files without a word and with acknowledged writes
// gone. So each transaction carries a count, and the last acknowledged count is
// also kept in a small file beside the store, written without fsync: it may lag
// behind the store after a power cut but can never be ahead of it. A store that
// is behind its mark has lost acknowledged writes.
const seqKey = "!seq"

type mark struct {
	f   *os.File
	seq uint64
}

func seqValue(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

func (m *mark) set(seq uint64) {
	m.seq = seq
	if m.f == nil {
		return
	}
	// A mark that cannot be written only lags, which is allowed.
	_, _ = m.f.WriteAt(Wrap([]byte(seqKey), seqValue(seq)), 0)
}

func (m *mark) close() {
	if m != nil && m.f != nil {
		m.f.Close()
		m.f = nil
	}
}

// checkMark compares the store's count with the file's and reports what is
// missing.
func (s *badgerStore) checkMark() error {
	name := filepath.Join(s.opts.Dir, "mark")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the store's mark: %w", err)
	}
	m := &mark{f: f}
	var want uint64
	known := false
	raw := make([]byte, 4+8)
	if _, err := f.ReadAt(raw, 0); err == nil {
		if v, err := Unwrap([]byte(seqKey), raw); err == nil {
			want, known = binary.BigEndian.Uint64(v), true
		}
	}
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	r := badgerReader{s, txn}
	v, err := r.Get([]byte(seqKey))
	switch {
	case err == nil && len(v) == 8:
		if m.seq = binary.BigEndian.Uint64(v); known && want > m.seq {
			s.damage.add(Damage{What: fmt.Sprintf("the last %d of %d acknowledged commits are missing from the store", want-m.seq, want)})
		}
	case known && want > 0:
		s.damage.add(Damage{What: fmt.Sprintf("the store is empty although %d commits were acknowledged", want)})
	case err != nil && !errors.Is(err, ErrNotFound):
		s.damage.add(Damage{What: "the store's own count of commits cannot be read: " + err.Error()})
	}
	// What is missing is reported once: from here on the store's count rules.
	if m.seq = max(m.seq, want); m.seq > 0 {
		m.set(m.seq)
	}
	s.mark = m
	return nil
}
