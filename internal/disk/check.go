package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"
)

// check reads the manifest and every table before Badger does. Badger verifies
// tables in goroutines of its own, where a damaged one ends the process, leaves
// out tables whose index does not fit without an error, and deletes tables that
// a damaged manifest does not name.
func check(dir string) error {
	names, err := tables(dir)
	if err != nil {
		return err
	}
	listed, whole, err := manifest(dir)
	if errors.Is(err, os.ErrNotExist) {
		if len(names) > 0 {
			return fmt.Errorf("%s: the list of tables is missing", dir)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("list of tables: %w", err)
	}
	unlisted := 0
	for id, name := range names {
		if err := checkTable(name); err != nil {
			if listed[id] {
				return err
			}
			continue // a flush that a power cut ended; Badger removes it
		}
		if !listed[id] {
			unlisted++
		}
		delete(listed, id)
	}
	if len(listed) > 0 {
		return fmt.Errorf("%d tables are missing", len(listed))
	}
	if !whole && unlisted > 0 {
		return fmt.Errorf("the list of tables is cut off and %d whole tables are not on it", unlisted)
	}
	return nil
}

// tables lists the table files of dir by their number.
func tables(dir string) (map[uint64]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	out := map[uint64]string{}
	for _, e := range entries {
		if id, ok := table.ParseFileID(e.Name()); ok {
			out[id] = filepath.Join(dir, e.Name())
		}
	}
	return out, nil
}

// manifest returns the numbers of the tables in use, and whether the file ends
// where its last entry does.
func manifest(dir string) (listed map[uint64]bool, whole bool, err error) {
	defer recovered(&err)
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	m, end, err := badger.ReplayManifestFile(f, 0, badger.DefaultOptions(dir))
	if err != nil {
		return nil, false, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	listed = map[uint64]bool{}
	for id := range m.Tables {
		listed[id] = true
	}
	return listed, end == st.Size(), nil
}

func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("badger: %.200v", p)
	}
}

// checkTable verifies every block of one table.
func checkTable(name string) (err error) {
	t, err := openTable(name, options.OnTableAndBlockRead)
	if err != nil {
		return fmt.Errorf("table %s: %w", filepath.Base(name), err)
	}
	return t.Close(-1)
}

func openTable(name string, mode options.ChecksumVerificationMode) (t *table.Table, err error) {
	defer recovered(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a read error of a mapped file
	if err := checkFooter(name); err != nil {
		return nil, err
	}
	f, err := z.OpenMmapFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return table.OpenTable(f, table.Options{
		Compression: options.Snappy, BlockSize: 4 << 10, ChkMode: mode, TableSize: 1 << 20,
	})
}

// checkFooter makes sure that the lengths at the end of a table stay within the
// file, because Badger ends the process if they do not. The end is: index,
// length of index, checksum, length of checksum, each length 4 bytes.
func checkFooter(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	left := st.Size()
	for range 2 {
		var b [4]byte
		if left -= 4; left < 0 {
			return errors.New("file is cut off")
		}
		if _, err := f.ReadAt(b[:], left); err != nil {
			return err
		}
		if left -= int64(binary.BigEndian.Uint32(b[:])); left < 0 {
			return errors.New("lengths at its end are wrong")
		}
	}
	return nil
}

type found struct {
	version uint64
	raw     []byte
	gone    bool
}

// salvage puts every value of the store in old that can be read and has a good
// checksum into db: tables block by block, then the logs of the memtables. The
// newest version of a key counts.
func salvage(old string, db *badger.DB, log *logger) (n int, err error) {
	newest := map[string]found{}
	keep := func(key []byte, version uint64, gone bool, raw []byte) {
		if have, ok := newest[string(key)]; ok && have.version >= version {
			return
		}
		if _, err := Unwrap(key, raw); err != nil && !gone {
			return
		}
		newest[string(key)] = found{version, append([]byte(nil), raw...), gone}
	}
	names, err := tables(old)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if err := salvageTable(name, keep); err != nil {
			log.Warn("Table could not be read whole", "table", filepath.Base(name), "err", err)
		}
	}
	if err := salvageLogs(old, log, keep); err != nil {
		log.Warn("Logs of the store could not be read whole", "err", err)
	}
	txn := db.NewTransaction(true)
	defer func() { txn.Discard() }()
	for key, f := range newest {
		if f.gone {
			continue
		}
		err := txn.Set([]byte(key), f.raw)
		if errors.Is(err, badger.ErrTxnTooBig) {
			if err := txn.Commit(); err != nil {
				return n, err
			}
			txn = db.NewTransaction(true)
			err = txn.Set([]byte(key), f.raw)
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, txn.Commit()
}

const deleted = 1 // Badger's mark on the entry of a deleted key

// salvageTable walks a table from both ends up to what cannot be read.
func salvageTable(name string, keep func(key []byte, version uint64, gone bool, raw []byte)) (err error) {
	t, err := openTable(name, options.NoVerification)
	if err != nil {
		return err
	}
	defer t.Close(-1)
	walk := func(direction int) (err error) {
		defer recovered(&err)
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		it := t.NewIterator(direction)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			full, v := it.Key(), it.Value()
			if len(full) < 9 || strings.HasPrefix(string(full), "!badger!") {
				continue
			}
			version := ^binary.BigEndian.Uint64(full[len(full)-8:])
			keep(full[:len(full)-8], version, v.Meta&deleted != 0, v.Value)
		}
		return nil
	}
	return errors.Join(walk(0), walk(table.REVERSED))
}

// salvageLogs replays copies of the memtables' logs in a store of their own.
func salvageLogs(old string, log *logger, keep func(key []byte, version uint64, gone bool, raw []byte)) (err error) {
	defer recovered(&err)
	tmp := old + ".logs"
	defer os.RemoveAll(tmp)
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(old, "*.mem"))
	if err != nil {
		return err
	}
	for _, name := range logs {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tmp, filepath.Base(name)), data, 0o600); err != nil {
			return err
		}
	}
	src, err := badger.Open(settings(tmp, log))
	if err != nil {
		return err
	}
	defer src.Close()
	return src.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{AllVersions: true})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			item := it.Item()
			raw, err := item.ValueCopy(nil)
			if err != nil {
				continue
			}
			keep(item.KeyCopy(nil), item.Version(), item.IsDeletedOrExpired(), raw)
		}
		return nil
	})
}
