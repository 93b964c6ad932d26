package node

import (
	"errors"
	"syscall"
)

func isInUse(err error) bool   { return errors.Is(err, syscall.EADDRINUSE) }
func isNotHere(err error) bool { return errors.Is(err, syscall.EADDRNOTAVAIL) }
