package disk_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"carrierclass.net/ccnode/internal/disk"
)

// TestARealFullDisk fills a small file system to the last byte, as root, with
// the store in a process of its own: on a full disk Badger dies of SIGBUS.
func TestARealFullDisk(t *testing.T) {
	opts := func(dir string) disk.Options {
		return disk.Options{Dir: dir, Reserve: 192 << 20, Ballast: 32 << 20, Log: slog.New(slog.DiscardHandler)}
	}
	if dir := os.Getenv("CCNODE_TEST_FULL"); dir != "" {
		s, err := disk.OpenBadger(opts(dir))
		if err != nil {
			fmt.Println("open:", err)
			os.Exit(3)
		}
		defer s.Close()
		rng := rand.New(rand.NewPCG(1, uint64(os.Getpid())))
		for i := 0; ; i++ {
			var b disk.Batch
			v := make([]byte, 16000)
			for j := range v {
				v[j] = byte(rng.Uint32())
			}
			b.Put(fmt.Appendf(nil, "%d/%d", os.Getpid(), i), v)
			if err := s.Commit(&b); err != nil {
				n := 0
				verr := s.View(func(r disk.Reader) error {
					return r.Scan(nil, func(_, _ []byte) error { n++; return nil })
				})
				fmt.Printf("full %v after %d, %d values, %v, damage %v\n", errors.Is(err, disk.ErrNoSpace), i, n, verr, s.Damage())
				return
			}
		}
	}
	if os.Getuid() != 0 || testing.Short() {
		t.Skip("mounts a file system: needs root")
	}
	mnt := t.TempDir()
	if err := syscall.Mount("tmpfs", mnt, "tmpfs", 0, "size=512m"); err != nil {
		t.Skip("no mounts here: ", err)
	}
	defer syscall.Unmount(mnt, syscall.MNT_DETACH)
	dir := filepath.Join(mnt, "state")
	run := func() string {
		t.Helper()
		cmd := exec.Command(os.Args[0], "-test.run=^TestARealFullDisk$")
		cmd.Env = append(os.Environ(), "CCNODE_TEST_FULL="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		line, _, _ := strings.Cut(string(out), "\n")
		return line
	}
	first := run()
	var full bool
	var after, values int
	if _, err := fmt.Sscanf(first, "full %t after %d, %d values, <nil>, damage []", &full, &after, &values); err != nil || !full || after < 1000 || after != values {
		t.Fatalf("filling up: %s (%v)", first, err)
	}
	// Now somebody else takes every byte that is left.
	f, err := os.Create(filepath.Join(mnt, "other"))
	if err != nil {
		t.Fatal(err)
	}
	junk := make([]byte, 64<<10)
	for len(junk) > 0 {
		if _, err := f.Write(junk); err != nil {
			junk = junk[:len(junk)/2]
		}
	}
	f.Close()
	if free, _, _ := disk.FreeBytes(mnt); free != 0 {
		t.Fatalf("%d bytes free", free)
	}
	if got := run(); got != fmt.Sprintf("full true after 0, %d values, <nil>, damage []", values) {
		t.Fatalf("on a disk without a free byte: %s, want %d values", got, values)
	}
	os.Remove(filepath.Join(mnt, "other"))
	if got := run(); !fits(got, values) {
		t.Fatalf("with room again: %s", got)
	}
}

func fits(line string, values int) bool {
	var full bool
	var after, have int
	_, err := fmt.Sscanf(line, "full %t after %d, %d values, <nil>, damage []", &full, &after, &have)
	return (err == nil || errors.Is(err, io.EOF)) && full && have == values+after
}
