package disk

import (
	"fmt"
	"os"
	"syscall"
)

// FreeFunc tells the free and total bytes of the medium that holds dir.
type FreeFunc func(dir string) (free, total int64, err error)

// FreeBytes asks the file system (statfs): what an ordinary user can have.
func FreeBytes(dir string) (free, total int64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	size := int64(st.Bsize)
	return int64(st.Bavail) * size, int64(st.Blocks) * size, nil
}

// A ballast is a file of real blocks that is given up when the disk is full, so
// that the store can still be opened and tidied.
type ballast struct {
	name string
	size int64
}

// held says whether the blocks are there.
func (b ballast) held() bool {
	st, err := os.Stat(b.name)
	if err != nil {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && st.Size() >= b.size && sys.Blocks*512 >= b.size
}

func (b ballast) release() error {
	if err := os.Truncate(b.name, 0); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("release ballast: %w", err)
	}
	return nil
}

// take allocates the blocks; on failure it leaves nothing behind.
func (b ballast) take() (err error) {
	f, err := os.OpenFile(b.name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("make ballast: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			_ = os.Truncate(b.name, 0)
			err = fmt.Errorf("make ballast of %d MB: %w", b.size>>20, err)
		}
	}()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, b.size); err == nil {
		return nil
	}
	// A file system without fallocate: write the blocks.
	chunk := make([]byte, 1<<20)
	for off := int64(0); off < b.size; off += int64(len(chunk)) {
		if _, err := f.WriteAt(chunk[:min(int64(len(chunk)), b.size-off)], off); err != nil {
			return err
		}
	}
	return f.Sync()
}
