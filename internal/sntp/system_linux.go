package sntp

import (
	"fmt"
	"syscall"
	"time"
)

// System asks the kernel whether its clock is disciplined (adjtimex(2)).
func System() (Status, error) {
	const (
		unsync    = 0x0040 // STA_UNSYNC
		timeError = 5      // TIME_ERROR
	)
	var tx syscall.Timex
	state, err := syscall.Adjtimex(&tx)
	if err != nil {
		return Status{}, fmt.Errorf("ask the kernel about its clock: %w", err)
	}
	return Status{
		Synchronised: tx.Status&unsync == 0 && state != timeError,
		MaxError:     time.Duration(tx.Maxerror) * time.Microsecond,
	}, nil
}
