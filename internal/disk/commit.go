package disk

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// Commit implements Store. The first caller leads: it takes everything that
// came while the previous fsync ran, writes it as one transaction, and answers
// all. Then the next waiting caller leads.
func (s *badgerStore) Commit(b *Batch) error {
	if err := b.fits(); err != nil {
		return err
	}
	if b.Len() == 0 {
		return nil
	}
	w := &waiting{b, make(chan error, 1), make(chan struct{}, 1)}
	s.queueMu.Lock()
	s.queue = append(s.queue, w)
	if s.leading {
		s.queueMu.Unlock()
		select {
		case err := <-w.done:
			return err
		case <-w.lead:
		}
	} else {
		s.leading = true
		s.queueMu.Unlock()
	}
	s.lead()
	return <-w.done
}

// lead commits one group, in which the caller's batch is the first, and passes
// the lead on.
func (s *badgerStore) lead() {
	s.queueMu.Lock()
	n, size, ops := 0, 0, 0
	for _, w := range s.queue {
		size += w.batch.bytes
		ops += w.batch.Len()
		if n > 0 && (size > MaxBatchBytes || ops > MaxBatchOps) {
			break
		}
		n++
	}
	group := append(s.batches[:0], s.queue[:n]...)
	s.queue = slices.Delete(s.queue, 0, n)
	s.queueMu.Unlock()

	s.commitGroup(group)

	s.queueMu.Lock()
	clear(group)
	s.batches = group[:0]
	if len(s.queue) > 0 {
		s.queue[0].lead <- struct{}{}
	} else {
		s.leading = false
	}
	s.queueMu.Unlock()
}

func (s *badgerStore) commitGroup(group []*waiting) {
	answer := func(err error) {
		for _, w := range group {
			w.done <- err
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		answer(ErrClosed)
		return
	}
	if s.failed != nil || s.db == nil {
		answer(fmt.Errorf("%w (%v)", ErrFailed, s.failed))
		return
	}
	if sp, err := s.Space(); err == nil && sp.Low() {
		// Only deletions may use the upper half of the reserve.
		rest := group[:0]
		for _, w := range group {
			if w.batch.frees() && sp.Free > sp.Reserve/2 {
				rest = append(rest, w)
			} else {
				w.done <- &SpaceError{s.opts.Dir, sp}
			}
		}
		if group = rest; len(group) == 0 {
			return
		}
	}
	seq := s.mark.seq + 1
	err := s.write(group, seq)
	if err != nil {
		// Leaders follow each other, so this write has no rival; readers of
		// failed hold the read lock with a leader's happens-before.
		s.failed = err
		answer(fmt.Errorf("write to %s: %w", s.opts.Dir, err))
		return
	}
	s.mark.set(seq)
	answer(nil)
	s.stir(group)
	if seq%256 == 0 {
		s.trimBallast()
	}
}

// write commits the group in one transaction with the count of commits.
func (s *badgerStore) write(group []*waiting, seq uint64) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("badger: %v", p)
		}
	}()
	txn := s.db.NewTransaction(true)
	defer txn.Discard()
	for _, w := range group {
		for _, o := range w.batch.ops {
			if o.del {
				err = txn.Delete(o.key)
			} else {
				err = txn.Set(o.key, Wrap(o.key, o.value))
			}
			if err != nil {
				return err
			}
		}
	}
	if err := txn.Set([]byte(seqKey), Wrap([]byte(seqKey), seqValue(seq))); err != nil {
		return err
	}
	return txn.Commit()
}

// View implements Store.
func (s *badgerStore) View(fn func(Reader) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return ErrClosed
	}
	if s.db == nil {
		return fmt.Errorf("%w (%v)", ErrFailed, s.failed)
	}
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	return fn(badgerReader{s, txn})
}

type badgerReader struct {
	s   *badgerStore
	txn *badger.Txn
}

// Get implements Reader.
func (r badgerReader) Get(key []byte) (value []byte, err error) {
	defer r.guard(key, &err)
	item, err := r.txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, fmt.Errorf("key %q: %w", key, ErrNotFound)
	}
	if err != nil {
		return nil, r.s.hurt(key, nil, err)
	}
	raw, err := item.ValueCopy(nil)
	if err != nil {
		return nil, r.s.hurt(key, nil, err)
	}
	value, err = Unwrap(key, raw)
	if err != nil {
		return nil, r.s.hurt(key, raw, err)
	}
	return value, nil
}

// Scan implements Reader.
func (r badgerReader) Scan(prefix []byte, fn func(key, value []byte) error) (err error) {
	defer r.guard(nil, &err)
	it := r.txn.NewIterator(badger.IteratorOptions{PrefetchValues: false, Prefix: prefix})
	defer it.Close()
	var raw []byte
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Item().Key()
		if key[0] == '!' {
			continue
		}
		var verr error
		if raw, verr = it.Item().ValueCopy(raw); verr != nil {
			_ = r.s.hurt(bytes.Clone(key), nil, verr)
			continue
		}
		value, verr := Unwrap(key, raw)
		if verr != nil {
			if !bytes.HasPrefix(key, []byte(Quarantine)) {
				_ = r.s.hurt(bytes.Clone(key), bytes.Clone(raw), verr)
			}
			continue
		}
		if err := fn(key, value); err != nil {
			return err
		}
	}
	return nil
}

// guard turns Badger's panics on damaged tables into errors. A panic of our own
// caller's fn inside Scan passes through here too and is reported the same way.
func (r badgerReader) guard(key []byte, err *error) {
	if p := recover(); p != nil {
		*err = r.s.hurt(key, nil, fmt.Errorf("badger: %v", p))
	}
}

func (s *badgerStore) hurt(key, raw []byte, err error) error {
	s.damage.add(Damage{Key: bytes.Clone(key), Raw: raw, What: err.Error()})
	if errors.Is(err, ErrDamaged) {
		return err
	}
	return fmt.Errorf("read key %q: %w (%w)", key, ErrDamaged, err)
}

// damageList keeps each damaged key once.
type damageList struct {
	mu   sync.Mutex
	seen map[string]bool
	all  []Damage
}

func (l *damageList) add(d Damage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := string(d.Key)
	if d.Key == nil {
		id = "\x00" + d.What
	}
	if l.seen[id] {
		return
	}
	if l.seen == nil {
		l.seen = map[string]bool{}
	}
	l.seen[id] = true
	l.all = append(l.all, d)
}

func (l *damageList) list() []Damage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.all)
}
