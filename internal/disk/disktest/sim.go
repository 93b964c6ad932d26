package disktest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"carrierclass.net/ccnode/internal/disk"
)

// Faults a Medium answers with.
var (
	ErrCrashed = errors.New("simulated power cut")
	ErrIO      = errors.New("simulated I/O error")
)

// A Medium is a simulated disk: what a power cut leaves. Stores opened on it
// append batches to a log and sync it; a crash keeps a random part of what was
// not synced, perhaps torn or flipped. It outlives its stores.
type Medium struct {
	// set at NewMedium or before the first Open, then constant
	SyncDelay time.Duration // how long a sync takes, on the clock of package time
	Reserve   int64         // as disk.Options.Reserve

	mu      sync.Mutex // guards what follows
	rng     *rand.Rand
	log     []byte
	synced  int // bytes of log that survive anything
	calls   int // appends and syncs so far
	failAt  map[int]error
	crashAt int // 0 never
	gen     int // raised by each crash and Open; older stores are dead
	free    int64
	Syncs   int // fsyncs so far; read when nobody writes
}

// NewMedium returns an empty medium with 1 GB free. Everything random on it
// comes from seed.
func NewMedium(seed uint64) *Medium {
	return &Medium{rng: rand.New(rand.NewPCG(seed, 1)), failAt: map[int]error{}, free: 1 << 30, Reserve: 1 << 20}
}

// Calls is the number of appends and syncs so far.
func (m *Medium) Calls() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}

// FailAt lets the nth call from now (1 is the next) fail with err.
func (m *Medium) FailAt(n int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failAt[m.calls+n] = err
}

// CrashAt cuts the power at the nth call from now (1 is the next).
func (m *Medium) CrashAt(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crashAt = m.calls + n
}

// Heal takes back every fault that was arranged and has not come yet.
func (m *Medium) Heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.failAt)
	m.crashAt = 0
}

// Crash cuts the power now. Open stores fail from here on.
func (m *Medium) Crash() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.crash()
}

func (m *Medium) crash() {
	m.gen++
	m.crashAt = 0
	tail := len(m.log) - m.synced
	if tail == 0 {
		return
	}
	keep := m.rng.IntN(tail + 1) // torn,
	switch m.rng.IntN(4) {
	case 0:
		keep = 0 // lost,
	case 1:
		keep = tail // or there by luck
	}
	m.log = m.log[:m.synced+keep]
	if keep > 0 && keep < tail && m.rng.IntN(2) == 0 { // a block that never arrived
		at := m.synced + m.rng.IntN(keep)
		clear(m.log[at:min(at+512, len(m.log))])
	}
}

// SetFree sets the bytes reported free.
func (m *Medium) SetFree(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free = n
}

// Snapshot copies what a power cut would surely leave; Restore writes such an
// image back, as a person with a backup would.
func (m *Medium) Snapshot() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.log[:m.synced])
}

// Restore implements the way back of Snapshot.
func (m *Medium) Restore(image []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gen++
	m.log = bytes.Clone(image)
	m.synced = len(m.log)
}

// Open reads the medium, as a process that starts.
func (m *Medium) Open() (disk.Store, error) {
	s := &sim{m: m, turn: make(chan struct{}, 1)}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

type sim struct {
	m *Medium

	turn chan struct{} // held over one Commit

	mu     sync.Mutex // guards what follows
	gen    int
	data   map[string][]byte // raw, with checksum
	keys   []string          // sorted; nil when stale
	shared bool              // a view uses data: copy before a change
	failed error
	closed bool
	damage []disk.Damage
	seen   map[string]bool
}

// One record of the log: length, CRC-32 of the body, body. The body is a list
// of operations: kind, key length, value length, key, value.
func (s *sim) load() error {
	m := s.m
	m.mu.Lock()
	defer m.mu.Unlock()
	s.data, s.keys, s.failed, s.shared = map[string][]byte{}, nil, nil, false
	m.gen++
	s.gen = m.gen
	at := 0
	for at+8 <= len(m.log) {
		n := int(binary.BigEndian.Uint32(m.log[at:]))
		if n > len(m.log)-at-8 {
			break
		}
		body := m.log[at+8 : at+8+n]
		if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(m.log[at+4:]) {
			break
		}
		s.apply(body)
		at += 8 + n
	}
	// What follows the last whole record was never acknowledged.
	m.log = m.log[:at]
	m.synced = at
	return nil
}

func (s *sim) apply(body []byte) {
	if s.shared {
		s.data, s.shared = maps.Clone(s.data), false
	}
	for len(body) > 0 {
		del := body[0] == 1
		k, v := int(binary.BigEndian.Uint32(body[1:])), int(binary.BigEndian.Uint32(body[5:]))
		key := string(body[9 : 9+k])
		if del {
			if _, ok := s.data[key]; ok {
				delete(s.data, key)
				s.keys = nil
			}
		} else {
			if _, ok := s.data[key]; !ok {
				s.keys = nil
			}
			s.data[key] = bytes.Clone(body[9+k : 9+k+v])
		}
		body = body[9+k+v:]
	}
}

func encode(b *disk.Batch) []byte {
	var body []byte
	b.Each(func(key, value []byte, del bool) {
		kind := byte(0)
		raw := []byte(nil)
		if del {
			kind = 1
		} else {
			raw = disk.Wrap(key, value)
		}
		body = append(body, kind)
		body = binary.BigEndian.AppendUint32(body, uint32(len(key)))
		body = binary.BigEndian.AppendUint32(body, uint32(len(raw)))
		body = append(append(body, key...), raw...)
	})
	return body
}

// call counts a call to the medium and lets it fail as arranged.
func (s *sim) call() error {
	m := s.m
	if s.gen != m.gen {
		return ErrCrashed
	}
	m.calls++
	if m.crashAt == m.calls {
		m.crash()
		return ErrCrashed
	}
	if err := m.failAt[m.calls]; err != nil {
		delete(m.failAt, m.calls)
		return err
	}
	return nil
}

func (s *sim) Commit(b *disk.Batch) error {
	if b.Bytes() > disk.MaxBatchBytes || b.Len() > disk.MaxBatchOps {
		return fmt.Errorf("%w: %d bytes in %d operations", disk.ErrTooBig, b.Bytes(), b.Len())
	}
	// One batch after the other. A channel and not a mutex, so that a bubble of
	// testing/synctest can let time pass meanwhile.
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	body := encode(b)
	if err := s.write(b, body); err != nil {
		return err
	}
	if s.m.SyncDelay > 0 {
		time.Sleep(s.m.SyncDelay)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apply(body)
	s.compact()
	return nil
}

func (s *sim) write(b *disk.Batch, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return disk.ErrClosed
	}
	if s.failed != nil {
		return fmt.Errorf("%w (%v)", disk.ErrFailed, s.failed)
	}
	m := s.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.free < m.Reserve {
		frees := true
		b.Each(func(_, _ []byte, del bool) { frees = frees && del })
		if !frees || m.free <= m.Reserve/2 {
			return &disk.SpaceError{Dir: "simulated disk", Space: disk.Space{Free: m.free, Total: 1 << 30, Reserve: m.Reserve}}
		}
	}
	err := s.call()
	if err == nil {
		m.log = binary.BigEndian.AppendUint32(m.log, uint32(len(body)))
		m.log = binary.BigEndian.AppendUint32(m.log, crc32.ChecksumIEEE(body))
		m.log = append(m.log, body...)
		err = s.call()
	}
	if err != nil {
		s.failed = err
		return fmt.Errorf("write to simulated disk: %w", err)
	}
	m.synced = len(m.log)
	m.Syncs++
	return nil
}

// compact keeps the log of a long run short, at once and whole.
func (s *sim) compact() {
	m := s.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.gen != m.gen || len(m.log) < 1<<20 || m.synced != len(m.log) {
		return
	}
	live := 0
	for k, v := range s.data {
		live += len(k) + len(v) + 9
	}
	if len(m.log) < 4*live {
		return
	}
	var body []byte
	for _, k := range s.sorted() {
		body = append(body, 0)
		body = binary.BigEndian.AppendUint32(body, uint32(len(k)))
		body = binary.BigEndian.AppendUint32(body, uint32(len(s.data[k])))
		body = append(append(body, k...), s.data[k]...)
	}
	m.log = binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	m.log = binary.BigEndian.AppendUint32(m.log, crc32.ChecksumIEEE(body))
	m.log = append(m.log, body...)
	m.synced = len(m.log)
}

// sorted needs s.mu held.
func (s *sim) sorted() []string {
	if s.keys != nil {
		return s.keys
	}
	keys := make([]string, 0, len(s.data))
	for k := range s.data {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (s *sim) View(fn func(disk.Reader) error) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return disk.ErrClosed
	}
	s.keys = s.sorted()
	s.shared = true // values and keys are never changed in place
	r := simReader{s, s.data, s.keys}
	s.mu.Unlock()
	return fn(r)
}

type simReader struct {
	s    *sim
	data map[string][]byte
	keys []string
}

func (r simReader) Get(key []byte) ([]byte, error) {
	raw, ok := r.data[string(key)]
	if !ok {
		return nil, fmt.Errorf("key %q: %w", key, disk.ErrNotFound)
	}
	v, err := disk.Unwrap(key, raw)
	if err != nil {
		r.s.hurt(key, raw, err)
		return nil, err
	}
	return bytes.Clone(v), nil
}

func (r simReader) Scan(prefix []byte, fn func(key, value []byte) error) error {
	at, _ := slices.BinarySearch(r.keys, string(prefix))
	for _, k := range r.keys[at:] {
		key := []byte(k)
		if !bytes.HasPrefix(key, prefix) {
			return nil
		}
		v, err := disk.Unwrap(key, r.data[k])
		if err != nil {
			if !bytes.HasPrefix(key, []byte(disk.Quarantine)) {
				r.s.hurt(key, r.data[k], err)
			}
			continue
		}
		if err := fn(key, v); err != nil {
			return err
		}
	}
	return nil
}

func (s *sim) hurt(key, raw []byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[string(key)] {
		return
	}
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	s.seen[string(key)] = true
	s.damage = append(s.damage, disk.Damage{Key: bytes.Clone(key), Raw: bytes.Clone(raw), What: err.Error()})
}

func (s *sim) Damage() []disk.Damage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.damage)
}

func (s *sim) Space() (disk.Space, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return disk.Space{Free: s.m.free, Total: 1 << 30, Reserve: s.m.Reserve}, nil
}

// Reopen fails once the power was cut: that process is gone.
func (s *sim) Reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return disk.ErrClosed
	}
	s.m.mu.Lock()
	dead := s.gen != s.m.gen
	s.m.mu.Unlock()
	if dead {
		return ErrCrashed
	}
	return s.load()
}

func (s *sim) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

// Corrupt flips one bit of the value under key in an open simulated store, on
// the medium too.
func Corrupt(st disk.Store, key []byte) error {
	s := st.(*sim)
	s.mu.Lock()
	defer s.mu.Unlock()
	raw, ok := s.data[string(key)]
	if !ok || len(raw) == 0 {
		return fmt.Errorf("no value to corrupt under %q", key)
	}
	hurt := bytes.Clone(raw)
	hurt[len(hurt)-1] ^= 1
	if s.shared {
		s.data, s.shared = maps.Clone(s.data), false
	}
	s.data[string(key)] = hurt
	body := []byte{0}
	body = binary.BigEndian.AppendUint32(body, uint32(len(key)))
	body = binary.BigEndian.AppendUint32(body, uint32(len(hurt)))
	body = append(append(body, key...), hurt...)
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.log = binary.BigEndian.AppendUint32(s.m.log, uint32(len(body)))
	s.m.log = binary.BigEndian.AppendUint32(s.m.log, crc32.ChecksumIEEE(body))
	s.m.log = append(s.m.log, body...)
	s.m.synced = len(s.m.log)
	return nil
}
