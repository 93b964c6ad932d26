package disk

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
)

// Options says how a Badger store is opened. Dir and Log are required.
type Options struct {
	Dir      string           // folder of the store, made if missing
	Reserve  int64            // bytes kept free; below it writes are refused. Default 256 MiB; see safeReserve
	Ballast  int64            // bytes held in a file and given up to start on a full disk. Default 32 MiB, negative for none
	SetAside bool             // a store that cannot be opened is moved away, what is readable copied, and work goes on
	Quiet    time.Duration    // default Quiet; see tidy
	Free     FreeFunc         // default FreeBytes
	Now      func() time.Time // names the folder of a store set aside; default time.Now
	Log      *slog.Logger
}

// safeReserve is the least reserve under which no full disk was ever met: a
// compaction keeps its input until its output is whole, and two can run at
// once. With 24 MiB Badger died of SIGBUS in three of four runs of
// TestARealFullDisk, with 96 MiB in none.
const safeReserve = 96 << 20

// DamagedError is the ErrDamaged of a store that cannot be opened.
type DamagedError struct {
	Dir string
	Err error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("store in %s is damaged (%v): keep a copy of that folder, then start with the damaged store set aside; what the other nodes hold comes back from them, what only this box held is in the copy",
		e.Dir, e.Err)
}
func (e *DamagedError) Unwrap() error        { return e.Err }
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// badgerStore is the Store for real boxes: Badger v4 with SyncWrites, settings
// for 512 MB of memory, one fsync for all batches that wait together.
type badgerStore struct {
	opts    Options
	folder  *Folder
	ballast ballast

	mu     sync.RWMutex // held for reading while db is used, for writing to replace it
	db     *badger.DB
	mark   *mark
	failed error
	closed bool

	queueMu sync.Mutex // guards the three below
	queue   []*waiting
	leading bool
	batches []*waiting // the leader's, kept to save allocations

	damage damageList

	dirt  atomic.Int64 // bytes written since the tables were merged
	quiet *time.Timer  // fires when nothing was written for a while
}

type waiting struct {
	batch *Batch
	done  chan error
	lead  chan struct{}
}

// OpenBadger opens or makes the store in o.Dir. The error matches ErrLocked if
// another process has it, ErrDamaged if Badger cannot read it and o.SetAside is
// not set. A disk without a free byte is no error: the ballast is given up, and
// writes are refused until there is room.
func OpenBadger(o Options) (Store, error) {
	if o.Reserve == 0 {
		o.Reserve = 256 << 20
	}
	if o.Ballast == 0 {
		o.Ballast = 32 << 20
	}
	if o.Quiet == 0 {
		o.Quiet = Quiet
	}
	if o.Free == nil {
		o.Free = FreeBytes
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		return nil, errors.New("open store: no logger given")
	}
	if o.Reserve < safeReserve {
		o.Log.Warn("Space reserve is small: a full disk may stop this process", "bytes", o.Reserve, "safe", safeReserve)
	}
	folder, err := LockFolder(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &badgerStore{opts: o, folder: folder, ballast: ballast{filepath.Join(o.Dir, "ballast"), o.Ballast}}
	s.quiet = time.AfterFunc(o.Quiet, s.tidy)
	if err := s.open(); err != nil {
		s.quiet.Stop()
		folder.Close()
		return nil, err
	}
	return s, nil
}

func (s *badgerStore) badgerDir() string { return filepath.Join(s.opts.Dir, "badger") }

// settings are small: one 4 MB memtable in use and one being flushed, 4 MB of
// block cache, no compression cache beyond it. Changes of a few hundred bytes
// stay in the tables; the value log stays empty.
func settings(dir string, log *logger) badger.Options {
	return badger.DefaultOptions(dir).
		WithSyncWrites(true).
		WithMemTableSize(4 << 20).
		WithNumMemtables(2).
		WithBaseTableSize(1 << 20).
		WithBaseLevelSize(8 << 20).
		WithNumLevelZeroTables(1). // each is merged at once: a small store has few
		WithCompactL0OnClose(true).
		WithNumLevelZeroTablesStall(8).
		WithNumCompactors(2).
		WithBlockCacheSize(4 << 20).
		WithIndexCacheSize(4 << 20).
		WithCompression(options.Snappy).
		WithValueLogFileSize(16 << 20).
		WithValueThreshold(MaxBatchBytes).
		WithChecksumVerificationMode(options.OnBlockRead). // check read the tables whole

		WithVerifyValueChecksum(true).
		WithDetectConflicts(false). // batches only put and delete
		WithMetricsEnabled(false).
		WithNumGoroutines(1).
		WithBypassLockGuard(true). // LockFolder guards, and says who holds it
		WithLogger(badgerLog{log})
}

func (s *badgerStore) open() error {
	s.makeRoom()
	opened, err := s.countStart()
	var db *badger.DB
	if err == nil {
		db, err = openGuarded(settings(s.badgerDir(), s.opts.Log))
		opened()
	}
	if err != nil {
		if isSpace(err) {
			return fmt.Errorf("open store in %s: %w: free some space on this disk", s.opts.Dir, err)
		}
		if !s.opts.SetAside {
			return &DamagedError{s.opts.Dir, err}
		}
		if db, err = s.setAside(err); err != nil {
			return err
		}
	}
	s.db, s.failed = db, nil
	if err := s.checkMark(); err != nil {
		db.Close()
		return err
	}
	s.trimBallast()
	all, largest := s.tables()
	s.dirt.Store(all - largest)
	return nil
}

// countStart guards against a store that kills the process each time it is
// opened: after three such starts with room on the disk it is taken for damaged.
func (s *badgerStore) countStart() (opened func(), err error) {
	name := filepath.Join(s.opts.Dir, "opening")
	opened = func() { _ = os.Remove(name) }
	died, _ := os.ReadFile(name)
	if free, _, ferr := s.opts.Free(s.opts.Dir); len(died) >= 3 && (ferr != nil || free > s.opts.Ballast) {
		return opened, fmt.Errorf("the last %d starts died while opening it", len(died))
	}
	// Best effort: on a full disk there is nothing to count with.
	_ = os.WriteFile(name, append(died, '.'), 0o600)
	return opened, nil
}

// makeRoom gives the ballast up if opening could run out of blocks: Badger
// writes through mmap, and a full disk then kills the process with SIGBUS.
func (s *badgerStore) makeRoom() {
	if s.opts.Ballast < 0 {
		return
	}
	free, _, err := s.opts.Free(s.opts.Dir)
	if err != nil || free >= s.opts.Ballast || !s.ballast.held() {
		return
	}
	s.opts.Log.Warn("Disk is full, ballast released", "dir", s.opts.Dir, "bytes", s.opts.Ballast)
	if err := s.ballast.release(); err != nil {
		s.opts.Log.Error("Ballast cannot be released", "err", err)
	}
}

// trimBallast makes the ballast again once there is room for it.
func (s *badgerStore) trimBallast() {
	if s.opts.Ballast < 0 || s.ballast.held() {
		return
	}
	free, _, err := s.opts.Free(s.opts.Dir)
	if err != nil || free < s.opts.Reserve+2*s.opts.Ballast {
		return
	}
	if err := s.ballast.take(); err != nil {
		s.opts.Log.Warn("No ballast could be made", "err", err)
	}
}

// openGuarded turns Badger's panics on damaged files into errors.
func openGuarded(o badger.Options) (db *badger.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("badger: %v", p)
		}
	}()
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := check(o.Dir); err != nil {
		return nil, err
	}
	if err := removeUnbegun(o.Dir); err != nil {
		return nil, err
	}
	return badger.Open(o)
}

// removeUnbegun removes the newest log of each kind if it is empty: the process
// ended, or the power went, between its making and its first byte. Badger refuses
// such a file (memtable.go, openMemTables; value.go, open).
func removeUnbegun(dir string) error {
	for _, kind := range []string{"*.mem", "*.vlog"} {
		logs, err := filepath.Glob(filepath.Join(dir, kind)) // sorted; their numbers have leading zeros
		if err != nil || len(logs) == 0 {
			continue
		}
		newest := logs[len(logs)-1]
		if st, err := os.Stat(newest); err != nil || st.Size() > 0 {
			continue
		}
		if err := os.Remove(newest); err != nil {
			return fmt.Errorf("remove a log that was not begun: %w", err)
		}
	}
	return nil
}

// setAside moves the damaged store out of the way and copies what can be read.
func (s *badgerStore) setAside(cause error) (*badger.DB, error) {
	_ = os.Remove(filepath.Join(s.opts.Dir, "opening"))
	old := fmt.Sprintf("%s.damaged-%d", s.badgerDir(), s.opts.Now().Unix())
	for n := 2; exists(old); n++ { // twice in one second, or a clock that stands still
		old = fmt.Sprintf("%s.damaged-%d-%d", s.badgerDir(), s.opts.Now().Unix(), n)
	}
	if err := os.Rename(s.badgerDir(), old); err != nil {
		return nil, fmt.Errorf("set damaged store aside: %w", err)
	}
	if err := SyncDir(s.opts.Dir); err != nil {
		return nil, fmt.Errorf("set damaged store aside: %w", err)
	}
	db, err := openGuarded(settings(s.badgerDir(), s.opts.Log))
	if err != nil {
		return nil, fmt.Errorf("open a new store beside the damaged one: %w", err)
	}
	saved, serr := salvage(old, db, s.opts.Log)
	what := fmt.Sprintf("the store could not be opened (%v) and was set aside as %s; %d values were read from it", cause, old, saved)
	if serr != nil {
		what += fmt.Sprintf(", then reading stopped (%v)", serr)
	}
	s.damage.add(Damage{What: what})
	s.opts.Log.Error("Damaged store set aside", "dir", old, "saved", saved, "err", cause)
	return db, nil
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return !os.IsNotExist(err)
}

func isSpace(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "no space left") || strings.Contains(err.Error(), "disk quota"))
}

// Reopen implements Store.
func (s *badgerStore) Reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.closeHandle()
	if err := s.open(); err != nil {
		s.failed = err
		return fmt.Errorf("reopen store: %w", err)
	}
	return nil
}

func (s *badgerStore) closeHandle() {
	if s.db == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			s.opts.Log.Error("Store could not be closed", "err", fmt.Sprint(p))
		}
	}()
	db := s.db
	s.db = nil
	s.mark.close()
	if err := db.Close(); err != nil {
		s.opts.Log.Error("Store could not be closed", "err", err)
	}
}

// Close implements Store.
func (s *badgerStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.quiet.Stop()
	s.closeHandle()
	return s.folder.Close()
}

// Damage implements Store.
func (s *badgerStore) Damage() []Damage { return s.damage.list() }

// Space implements Store.
func (s *badgerStore) Space() (Space, error) {
	free, total, err := s.opts.Free(s.opts.Dir)
	return Space{free, total, s.opts.Reserve}, err
}

type logger = slog.Logger

// badgerLog hands Badger's own words to slog; its news are our details.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(f string, a ...any) {
	l.log.Error("Badger reports an error", "text", text(f, a))
}
func (l badgerLog) Warningf(f string, a ...any) { l.log.Warn("Badger warns", "text", text(f, a)) }
func (l badgerLog) Infof(f string, a ...any)    { l.log.Debug("Badger says", "text", text(f, a)) }
func (l badgerLog) Debugf(string, ...any)       {}

func text(f string, a []any) string { return strings.TrimSpace(fmt.Sprintf(f, a...)) }
