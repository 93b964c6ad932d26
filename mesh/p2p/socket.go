package p2p

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// giveUp is how long the kernel retransmits before it ends a connection, in
// milliseconds: longer than a busy thin line takes, shorter than its own
// quarter of an hour.
const giveUp = 20_000

// userTimeout bounds how long sent bytes may go unacknowledged (RFC 5482). It
// sends nothing by itself.
func userTimeout(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, giveUp)
	}); e != nil {
		return e
	}
	return err
}

// quiet switches the kernel's keep-alive off, on the accepting side too.
func quiet(c *net.TCPConn) {
	_ = c.SetKeepAlive(false)
	if rc, err := c.SyscallConn(); err == nil {
		_ = userTimeout("", "", rc)
	}
}

// unsent is how many written bytes the other side has not acknowledged.
func unsent(c *net.TCPConn) (n int, err error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if e := rc.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); e != nil {
		return 0, e
	}
	return n, err
}

// patient lets the kernel hold the acknowledgement of what comes next back for
// a moment (RFC 1122 4.2.3.2), so that it travels with our answer. By itself
// the kernel acknowledges the first segment after a pause at once, and so it
// does after every acknowledgement that found no answer to travel with:
// tcp(7), TCP_QUICKACK.
func patient(c *net.TCPConn) {
	if rc, err := c.SyscallConn(); err == nil {
		_ = rc.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0) })
	}
}
