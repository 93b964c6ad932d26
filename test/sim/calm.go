package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"carrierclass.net/ccnode/internal/disk"
)

// medium is what a box's disk can do to it.
type medium interface {
	Open() (disk.Store, error)
	Crash()
	CrashAt(n int)
	Heal()
	SetFree(bytes int64)
	Snapshot() []byte
	Restore(image []byte)
}

// A calm disk is that of a box in a large fleet. It has no log, and what all boxes
// store of changes is in memory once. Nothing is torn on it: the power goes between two
// commits, and each commit is on the medium.
type calm struct {
	intern func([]byte) string
	data   map[string]string
	keys   []string // sorted; nil: to be sorted again
	free   int64
	images []calmImage
	open   *calmStore
	base   map[string]string // what many disks have, in memory once
	gone   map[string]bool   // of the base, deleted here
	hide   bool              // the next start knows what the base has
}

type calmImage struct {
	data map[string]string
	base map[string]string
	gone map[string]bool
}

func (m *calm) Open() (disk.Store, error) {
	if m.data == nil {
		m.data, m.free = map[string]string{}, 1<<30
	}
	m.open, m.hide = &calmStore{m: m, hide: m.hide}, false
	return m.open, nil
}

func (m *calm) Crash()          { m.open = nil }
func (m *calm) CrashAt(int)     {}
func (m *calm) Heal()           {}
func (m *calm) SetFree(n int64) { m.free = n }

// Snapshot returns the number of an image.
func (m *calm) Snapshot() []byte {
	m.images = append(m.images, calmImage{maps.Clone(m.data), m.base, maps.Clone(m.gone)})
	return []byte{byte(len(m.images) - 1)}
}

func (m *calm) Restore(image []byte) {
	i := m.images[image[0]]
	m.data, m.keys, m.open, m.base, m.gone = maps.Clone(i.data), nil, nil, i.base, maps.Clone(i.gone)
}

// get is the value of a key.
func (m *calm) get(key string) (string, bool) {
	v, ok := m.data[key]
	if !ok && !m.gone[key] {
		v, ok = m.base[key]
	}
	return v, ok
}

// onBase gives an idle disk what many have; hidden, its next start does not look
// at it one by one.
func (m *calm) onBase(base map[string]string, hidden bool) {
	m.base, m.gone, m.hide = base, map[string]bool{}, hidden
}

type calmStore struct {
	m    *calm
	hide bool // Scan shows what is beside the base
}

func (s *calmStore) gone() bool { return s.m.open != s }

func (s *calmStore) Commit(b *disk.Batch) error {
	m := s.m
	if s.gone() {
		return disk.ErrClosed
	}
	if b.Bytes() > disk.MaxBatchBytes || b.Len() > disk.MaxBatchOps {
		return fmt.Errorf("%w: %d bytes in %d operations", disk.ErrTooBig, b.Bytes(), b.Len())
	}
	if m.free == 0 {
		return &disk.SpaceError{Dir: "calm disk", Space: disk.Space{Total: 1 << 30, Reserve: 1 << 20}}
	}
	b.Each(func(key, value []byte, del bool) {
		if del {
			if _, ok := m.data[string(key)]; ok {
				delete(m.data, string(key))
				m.keys = nil
			}
			if _, ok := m.base[string(key)]; ok {
				m.gone[string(key)] = true
			}
			return
		}
		if _, ok := m.data[string(key)]; !ok {
			m.keys = nil
		}
		text := ""
		if strings.HasPrefix(string(key), "c/") { // all boxes have the same changes
			text = m.intern(value)
		} else {
			text = string(value)
		}
		m.data[m.intern(key)] = text
	})
	return nil
}

func (s *calmStore) View(fn func(disk.Reader) error) error {
	if s.gone() {
		return disk.ErrClosed
	}
	return fn(calmReader{s.m, s.hide})
}

func (s *calmStore) Reopen() error {
	if s.gone() {
		return disk.ErrClosed
	}
	s.hide = false
	return nil
}
func (s *calmStore) Damage() []disk.Damage { return nil }
func (s *calmStore) Space() (disk.Space, error) {
	return disk.Space{Free: s.m.free, Total: 1 << 30, Reserve: 1 << 20}, nil
}
func (s *calmStore) Close() error {
	if !s.gone() {
		s.m.open = nil
	}
	return nil
}

type calmReader struct {
	m    *calm
	hide bool
}

func (r calmReader) Get(key []byte) ([]byte, error) {
	v, ok := r.m.get(string(key))
	if !ok {
		return nil, fmt.Errorf("%w: %q", disk.ErrNotFound, key)
	}
	return []byte(v), nil
}

func (r calmReader) Scan(prefix []byte, fn func(key, value []byte) error) error {
	if r.m.keys == nil {
		r.m.keys = slices.Sorted(maps.Keys(r.m.data))
	}
	p := string(prefix)
	at, _ := slices.BinarySearch(r.m.keys, p)
	keys := slices.Clone(r.m.keys[at:])
	if !r.hide && r.m.base != nil {
		for k := range r.m.base {
			if _, own := r.m.data[k]; !own && !r.m.gone[k] && k >= p {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
	}
	for _, k := range keys {
		if !strings.HasPrefix(k, p) {
			break
		}
		v, _ := r.m.get(k)
		if err := fn([]byte(k), []byte(v)); err != nil {
			return err
		}
	}
	return nil
}
