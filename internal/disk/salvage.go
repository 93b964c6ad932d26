package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
)

// Salvaged is what could be read of a store that nobody may write to: the disk
// of a dead box, torn or with flipped bits, mounted read-only.
type Salvaged struct {
	// Damaged counts places that could not be read: values whose checksum does
	// not fit, stretches of a log, tables that are not whole.
	Damaged int

	values map[string]found
}

// Salvage reads the values under prefixes from the store in dir, which is never
// written to: one file at a time is copied into tmp, a folder that the caller
// makes and removes. Stores that were set aside in dir earlier are read too; of
// each key the newest version counts. It fails only if there is no store.
func Salvage(dir, tmp string, prefixes []string) (*Salvaged, error) {
	s := &Salvaged{values: map[string]found{}}
	logs, files := 0, 0
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			s.Damaged++ // a folder that cannot be listed
			if name == dir {
				return err
			}
			return nil
		}
		_, isTable := table.ParseFileID(d.Name())
		switch {
		case d.IsDir():
		case isTable:
			files++
			s.table(name, filepath.Join(tmp, d.Name()), prefixes)
		case filepath.Ext(name) == ".mem":
			logs++
			s.log(name, prefixes)
		}
		return nil
	})
	if err == nil && logs+files == 0 {
		err = fmt.Errorf("no store lies in it: %w", ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("salvage %s: %w", dir, err)
	}
	return s, nil
}

// Each calls fn for every good value that was not deleted, in the order of keys.
func (s *Salvaged) Each(fn func(key, value []byte)) {
	keys := make([]string, 0, len(s.values))
	for k, f := range s.values {
		if !f.gone {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		fn([]byte(k), s.values[k].raw[4:])
	}
}

// keep takes one version of a value that somebody wrote.
func (s *Salvaged) keep(full []byte, gone bool, raw []byte, prefixes []string) {
	if len(full) < 8 {
		return
	}
	key, version := full[:len(full)-8], y.ParseTs(full)
	if !under(key, prefixes) {
		return
	}
	if have, ok := s.values[string(key)]; ok && have.version >= version {
		return
	}
	if _, err := Unwrap(key, raw); err != nil && !gone {
		s.Damaged++
		return
	}
	s.values[string(key)] = found{version, bytes.Clone(raw), gone}
}

func under(key []byte, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(string(key), p) })
}

// table reads a copy of one table, in stretches, so that a block that cannot be
// read costs its own content.
func (s *Salvaged) table(name, copied string, prefixes []string) {
	defer os.Remove(copied)
	data, refused, err := readHurt(name)
	if err == nil {
		err = os.WriteFile(copied, data, 0o600)
	}
	if err != nil {
		s.Damaged++
		return
	}
	whole := refused == 0
	t, err := openTable(copied, options.NoVerification)
	if err != nil {
		s.Damaged++
		return
	}
	defer t.Close(-1)
	last := t.Biggest()
	for _, p := range prefixes {
		for b := range 256 {
			from, to := []byte(p+string([]byte{byte(b)})), next(p, b)
			if bytes.Compare(to, y.ParseKey(t.Smallest())) <= 0 || bytes.Compare(from, y.ParseKey(last)) > 0 {
				continue
			}
			read := s.stretch(t, 0, from, to, last, prefixes)
			if !read {
				s.stretch(t, table.REVERSED, from, to, last, prefixes)
			}
			whole = whole && read
		}
	}
	if !whole {
		s.Damaged++
	}
}

// next is the first key after all that begin with p and b.
func next(p string, b int) []byte {
	if b < 255 {
		return []byte(p + string([]byte{byte(b + 1)}))
	}
	out := []byte(p)
	out[len(out)-1]++ // a prefix ends with a slash
	return out
}

// stretch walks from one key up to another, or backwards, and says whether it
// came through.
func (s *Salvaged) stretch(t *table.Table, way int, from, to, last []byte, prefixes []string) (through bool) {
	defer func() {
		if recover() != nil {
			through = false
		}
	}()
	it := t.NewIterator(way)
	defer it.Close()
	start := from
	if way == table.REVERSED {
		start = to
	}
	var at []byte
	for it.Seek(y.KeyWithTs(start, math.MaxUint64)); it.Valid(); it.Next() {
		at = append(at[:0], it.Key()...)
		if len(at) < 8 {
			return false
		}
		key := y.ParseKey(at)
		if way == 0 && bytes.Compare(key, to) >= 0 || way == table.REVERSED && bytes.Compare(key, from) < 0 {
			return true
		}
		v := it.Value()
		s.keep(at, v.Meta&deleted != 0, v.Value, prefixes)
	}
	return way == 0 && bytes.Equal(at, last)
}

// readHurt reads a file in small parts; those that the medium refuses are zeros.
func readHurt(name string) (data []byte, refused int, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	data = make([]byte, st.Size())
	const part = 4096
	for at := 0; at < len(data); at += part {
		p := data[at:min(at+part, len(data))]
		if _, err := f.ReadAt(p, int64(at)); err != nil {
			refused++
			clear(p)
		}
	}
	return data, refused, nil
}

// log reads the log of a memtable. Behind a stretch that makes no sense it goes
// on with the next entry that does.
func (s *Salvaged) log(name string, prefixes []string) {
	data, _, err := readHurt(name)
	if err != nil {
		s.Damaged++
		return
	}
	const head = 20 // key id and IV, of no use without encryption
	lost := false
	for at := head; at < len(data); {
		e, n, ok := parseEntry(data[at:])
		// In step every entry is believed; behind damage only one of ours, because
		// trying each byte has to be cheap.
		if ok && lost && !under(e.key, prefixes) {
			ok = false
		}
		if ok = ok && e.sum(); !ok {
			if !lost && !zeros(data[at:]) {
				s.Damaged++
			}
			lost = true
			at++
			continue
		}
		lost = false
		s.keep(e.key, e.meta&deleted != 0, e.value, prefixes)
		at += n
	}
}

func zeros(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// entry is one entry of a log: meta, user's meta, lengths of key and value and
// an expiry as varints, key with version, value, CRC-32C over all before it.
type entry struct {
	meta       byte
	key, value []byte
	summed     []byte
	crc        uint32
}

func (e *entry) sum() bool { return crc32.Checksum(e.summed, castagnoli) == e.crc }

// parseEntry finds the parts of an entry at the beginning of b; the sum is not
// looked at.
func parseEntry(b []byte) (e entry, size int, ok bool) {
	if len(b) < 5 {
		return e, 0, false
	}
	e.meta = b[0]
	at := 2
	var lens [3]uint64
	for i := range lens {
		v, n := binary.Uvarint(b[at:])
		if n <= 0 {
			return e, 0, false
		}
		lens[i] = v
		at += n
	}
	key, value := lens[0], lens[1]
	if key < 8 || key > 1<<16 || value > 2*MaxBatchBytes || uint64(len(b)-at) < key+value+4 {
		return e, 0, false
	}
	end := at + int(key+value)
	e.key, e.value, e.summed = b[at:at+int(key)], b[at+int(key):end], b[:end]
	e.crc = binary.BigEndian.Uint32(b[end:])
	return e, end + 4, true
}
