// Package disk keeps small values under ordered keys and survives what happens
// to shops' boxes: power cuts, full disks, tired flash, a second process.
//
// Its law: Commit returns nil only when the whole batch is on the medium, and a
// value whose checksum does not fit is reported, never returned. A store that
// failed once refuses everything until Reopen, because after a failed fsync
// nobody knows what the kernel still holds (Rebello et al., "Can Applications
// Recover from fsync Failures?", ATC 2020).
//
// Two implementations stand under one suite (disktest): Badger, and a simulated
// disk with torn and lost writes.
package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Sentinels a caller branches on.
var (
	// ErrNotFound: there is no value under the key.
	ErrNotFound = errors.New("no such key")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store is closed")
	// ErrFailed: an earlier write failed; what is on the medium is unknown
	// until Reopen.
	ErrFailed = errors.New("store failed on an earlier write and must be reopened")
	// ErrNoSpace: less than the reserve is free. Nothing was written.
	ErrNoSpace = errors.New("disk space is below the reserve")
	// ErrLocked: another process uses the data folder.
	ErrLocked = errors.New("data folder is in use")
	// ErrDamaged: the medium holds something that cannot be what we wrote.
	ErrDamaged = errors.New("data is damaged")
	// ErrTooBig: a batch does not fit into one transaction. Split it.
	ErrTooBig = errors.New("batch is too big for one transaction")
)

// MaxBatchBytes and MaxBatchOps bound one Batch (sum of keys and values, and
// number of operations); every Store takes a batch within them.
const (
	MaxBatchBytes = 512 << 10
	MaxBatchOps   = 4000
)

// A Reader sees the store as it was when View began.
type Reader interface {
	// Get returns a copy of the value under key, or an error matching
	// ErrNotFound or ErrDamaged.
	Get(key []byte) ([]byte, error)

	// Scan calls fn for every good value whose key begins with prefix, in the
	// order of keys, until fn returns an error, which Scan returns. Damaged
	// values are left out; Damage lists them. Key and value are only valid
	// during the call.
	Scan(prefix []byte, fn func(key, value []byte) error) error
}

// Store is a durable, ordered map. It is safe for concurrent use.
type Store interface {
	// View calls fn with a consistent snapshot.
	View(fn func(Reader) error) error

	// Commit applies b atomically and returns once it is on the medium.
	// Batches that wait together share one fsync. After an error other than
	// ErrNoSpace and ErrTooBig it is unknown whether b is on the medium, and
	// every further Commit fails with ErrFailed until Reopen.
	Commit(b *Batch) error

	// Reopen gives up the present handle and reads the medium anew.
	Reopen() error

	// Damage lists what was found damaged since the store was opened; each key
	// once.
	Damage() []Damage

	// Space tells how much room there is.
	Space() (Space, error)

	// Close ends the use of the store. Nothing acknowledged depends on it.
	Close() error
}

// Space is the room on the medium, in bytes.
type Space struct {
	Free    int64 // free now, to this process
	Total   int64 // size of the medium
	Reserve int64 // below this much free, writes are refused
}

// Low says whether writes are refused.
func (s Space) Low() bool { return s.Free < s.Reserve }

// SpaceError is the ErrNoSpace that says how much is missing.
type SpaceError struct {
	Dir string
	Space
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%s: %d MB free, %d MB are kept in reserve: free some space (old recordings, logs, other programs' files) and writing goes on by itself",
		e.Dir, e.Free>>20, e.Reserve>>20)
}

// Is makes a SpaceError match ErrNoSpace.
func (e *SpaceError) Is(target error) bool { return target == ErrNoSpace }

// Damage names one thing that is not as it was written.
type Damage struct {
	Key  []byte // nil if it concerns the store as a whole
	Raw  []byte // the bytes found under Key, if they could be read
	What string // in words for the person on site
}

func (d Damage) String() string {
	if d.Key == nil {
		return d.What
	}
	return fmt.Sprintf("%q: %s", d.Key, d.What)
}

// A Batch is a set of writes that happen together or not at all. The zero
// Batch is empty and ready. Later operations on a key win.
type Batch struct {
	ops   []op
	bytes int
}

type op struct {
	key, value []byte
	del        bool
}

// Put stores value under key. The slices must not be changed afterwards.
func (b *Batch) Put(key, value []byte) {
	b.ops = append(b.ops, op{key: key, value: value})
	b.bytes += len(key) + len(value)
}

// Delete removes key if it is there. The slice must not be changed afterwards.
func (b *Batch) Delete(key []byte) {
	b.ops = append(b.ops, op{key: key, del: true})
	b.bytes += len(key)
}

// Append adds the operations of another batch after those of b.
func (b *Batch) Append(o *Batch) {
	b.ops = append(b.ops, o.ops...)
	b.bytes += o.bytes
}

// Len is the number of operations, Bytes the sum of their keys and values.
func (b *Batch) Len() int   { return len(b.ops) }
func (b *Batch) Bytes() int { return b.bytes }

// Each calls fn for every operation in order; value is nil for a deletion.
func (b *Batch) Each(fn func(key, value []byte, del bool)) {
	for _, o := range b.ops {
		fn(o.key, o.value, o.del)
	}
}

// frees says that b only deletes, which is allowed below the reserve.
func (b *Batch) frees() bool {
	for _, o := range b.ops {
		if !o.del {
			return false
		}
	}
	return true
}

func (b *Batch) fits() error {
	if b.bytes > MaxBatchBytes || len(b.ops) > MaxBatchOps {
		return fmt.Errorf("%w: %d bytes in %d operations, limits are %d and %d", ErrTooBig, b.bytes, len(b.ops), MaxBatchBytes, MaxBatchOps)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum covers the key too: a value under the wrong key is damage.
func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// Wrap makes the bytes that lie on the medium: CRC-32C over key and value,
// then the value.
func Wrap(key, value []byte) []byte {
	out := make([]byte, 4+len(value))
	binary.BigEndian.PutUint32(out, checksum(key, value))
	copy(out[4:], value)
	return out
}

// Unwrap returns the value inside raw, a part of raw, or an error matching
// ErrDamaged.
func Unwrap(key, raw []byte) ([]byte, error) {
	if len(raw) < 4 {
		return nil, fmt.Errorf("value of key %q has %d bytes: %w", key, len(raw), ErrDamaged)
	}
	if binary.BigEndian.Uint32(raw) != checksum(key, raw[4:]) {
		return nil, fmt.Errorf("checksum of key %q does not fit: %w", key, ErrDamaged)
	}
	return raw[4:], nil
}

// Quarantine is the prefix under which Scrub keeps what it took out.
const Quarantine = "q/"

// Scrub reads every value once, moves the damaged ones out of the way under
// Quarantine and returns what it found. Whoever rebuilds state from the store
// calls it first; content comparison with peers then brings the rest back.
func Scrub(s Store) ([]Damage, error) {
	err := s.View(func(r Reader) error {
		return r.Scan(nil, func(_, _ []byte) error { return nil })
	})
	if err != nil {
		return s.Damage(), fmt.Errorf("scrub: %w", err)
	}
	found := s.Damage()
	var b Batch
	for _, d := range found {
		if d.Key == nil {
			continue
		}
		b.Put(append([]byte(Quarantine), d.Key...), d.Raw)
		b.Delete(d.Key)
		if b.Len() >= 256 || b.Bytes() > MaxBatchBytes/2 {
			if err := s.Commit(&b); err != nil {
				return found, fmt.Errorf("set %d damaged values aside: %w", len(found), err)
			}
			b = Batch{}
		}
	}
	if b.Len() > 0 {
		if err := s.Commit(&b); err != nil {
			return found, fmt.Errorf("set %d damaged values aside: %w", len(found), err)
		}
	}
	return found, nil
}
