package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// A Folder is a data folder that this process holds alone. The lock ends with
// the process, however it ends.
type Folder struct {
	Dir string
	f   *os.File
}

// LockedError says who holds a data folder.
type LockedError struct {
	Dir string
	PID int // 0 if it could not be read
}

func (e *LockedError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = fmt.Sprintf("process %d", e.PID)
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", e.PID)); err == nil {
			who += " (" + strings.TrimSpace(string(name)) + ")"
		}
	}
	return fmt.Sprintf("data folder %s is in use by %s: stop it first, or give this node a folder of its own", e.Dir, who)
}

// Is makes a LockedError match ErrLocked.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// LockFolder makes dir if it is missing and takes it for this process. The
// error matches ErrLocked if somebody else has it.
func LockFolder(dir string) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder: %w: choose a folder this user may write to", err)
	}
	name := filepath.Join(dir, "lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open data folder: %w: choose a folder this user may write to", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock data folder %s: %w: it must be on a local disk that knows flock", dir, err)
		}
		held := &LockedError{Dir: dir}
		if text, err := io.ReadAll(io.LimitReader(f, 32)); err == nil {
			held.PID, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return nil, held
	}
	// The process id is a courtesy to the next reader; on a disk without a
	// free byte it stays unwritten.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return &Folder{Dir: dir, f: f}, nil
}

// Close gives the folder back.
func (l *Folder) Close() error { return l.f.Close() }

// SyncDir makes the names in dir durable (fsync of the directory).
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
