package box

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// onDisk is what a folder takes of the medium, in its blocks.
func onDisk(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := e.Info()
		if err == nil {
			bytes += i.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// TestMemoryOfMany is a box with 300,000 users, after a restart. CCNODE_USERS
// makes fewer: the figure is then that of so many.
func TestMemoryOfMany(t *testing.T) {
	if !long() {
		t.Skip("takes many minutes: CCNODE_LONG=1")
	}
	users, most := 300_000, int64(300<<20)
	if n, err := strconv.Atoi(os.Getenv("CCNODE_USERS")); err == nil {
		users = n
	}
	b := newBox(t)
	b.up("--domain", "shops.example", "--site", "01", "--extension-digits", "6")
	begun := time.Now()
	b.imports(staff(t, users))
	t.Logf("%d users made in %.0f s; then %d MB resident, at most %d MB meanwhile", users, time.Since(begun).Seconds(), b.rss()>>20, b.memory("VmHWM:")>>20)
	b.term()
	t.Logf("%d MB on disk", onDisk(t, b.data)>>20)
	begun = time.Now()
	b.start()
	b.ready(5 * time.Minute)
	t.Logf("restarted with them in %.1f s", time.Since(begun).Seconds())
	time.Sleep(5 * time.Second)
	if s := b.status(); s.Users != users {
		t.Errorf("%d users", s.Users)
	}
	rss := b.rss()
	t.Logf("%d users after a restart: %d MB resident, at most %d MB on the way, goal %d MB", users, rss>>20, b.memory("VmHWM:")>>20, most>>20)
	if rss > most {
		t.Errorf("%d MB, want at most %d MB", rss>>20, most>>20)
	}
}
