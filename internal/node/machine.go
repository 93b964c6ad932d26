package node

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// clockSynced asks the kernel whether NTP disciplines the clock (adjtimex(2)).
func clockSynced() bool {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
}

// machineID changes when a disk was copied to another box, or a virtual machine
// was restored: then a new actor must be drawn.
func machineID() string {
	h := sha256.New()
	found := false
	for _, f := range []string{"/sys/class/dmi/id/product_uuid", "/sys/class/dmi/id/board_serial", "/proc/device-tree/serial-number", "/etc/machine-id"} {
		if b, err := os.ReadFile(f); err == nil && len(strings.TrimSpace(string(b))) > 0 {
			found = true
			fmt.Fprintf(h, "%s=%s\n", f, strings.TrimSpace(string(b)))
		}
	}
	if !found {
		return "unknown"
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// memory is the resident size of this process in bytes.
func memory() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, rss int64
	if _, err := fmt.Sscan(string(b), &size, &rss); err != nil {
		return 0
	}
	return rss * int64(os.Getpagesize())
}
