package main

import (
	"bufio"
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// pageOut has the kernel take back the pages of the store's tables that were read
// and are in nobody's way but count as ours: after the start that is the whole
// store. What is read again comes from the disk. MADV_PAGEOUT (Linux 5.4) alters
// nothing, whatever is mapped there meanwhile; an older kernel refuses it, which
// is no harm.
func pageOut() {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := lines.Bytes()
		if !bytes.HasSuffix(line, []byte(".sst")) {
			continue
		}
		from, rest, ok := bytes.Cut(line, []byte("-"))
		to, _, ok2 := bytes.Cut(rest, []byte(" "))
		begin, err := strconv.ParseUint(string(from), 16, 64)
		end, err2 := strconv.ParseUint(string(to), 16, 64)
		if !ok || !ok2 || err != nil || err2 != nil || end <= begin {
			continue
		}
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(begin), uintptr(end-begin), unix.MADV_PAGEOUT)
	}
}
