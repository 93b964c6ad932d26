package memnet

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipe is net.Pipe with a buffer, as TCP has one: a writer does not wait for a
// reader.
func pipe() (a, b net.Conn) {
	x, y := newHalf(), newHalf()
	return &end{r: x, w: y}, &end{r: y, w: x}
}

type half struct {
	mu     sync.Mutex
	buf    []byte
	closed bool
	change chan struct{} // closed and replaced at every change
}

func newHalf() *half { return &half{change: make(chan struct{})} }

func (h *half) signal() {
	close(h.change)
	h.change = make(chan struct{})
}

type end struct {
	r, w     *half
	mu       sync.Mutex
	deadline time.Time
}

func (e *end) Read(b []byte) (int, error) {
	for {
		e.mu.Lock()
		dl := e.deadline
		e.mu.Unlock()
		e.r.mu.Lock()
		if len(e.r.buf) > 0 {
			n := copy(b, e.r.buf)
			e.r.buf = e.r.buf[n:]
			e.r.mu.Unlock()
			return n, nil
		}
		if e.r.closed {
			e.r.mu.Unlock()
			return 0, io.EOF
		}
		ch := e.r.change
		e.r.mu.Unlock()
		var late <-chan time.Time
		if !dl.IsZero() {
			left := time.Until(dl)
			if left <= 0 {
				return 0, os.ErrDeadlineExceeded
			}
			t := time.NewTimer(left)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-ch:
		case <-late:
			return 0, os.ErrDeadlineExceeded
		}
	}
}

func (e *end) Write(b []byte) (int, error) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if e.w.closed {
		return 0, io.ErrClosedPipe
	}
	e.w.buf = append(e.w.buf, b...)
	e.w.signal()
	return len(b), nil
}

func (e *end) Close() error {
	for _, h := range []*half{e.r, e.w} {
		h.mu.Lock()
		if !h.closed {
			h.closed = true
			h.signal()
		}
		h.mu.Unlock()
	}
	return nil
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.mu.Lock()
	e.deadline = t
	e.mu.Unlock()
	e.r.mu.Lock()
	e.r.signal()
	e.r.mu.Unlock()
	return nil
}

func (e *end) SetDeadline(t time.Time) error    { return e.SetReadDeadline(t) }
func (e *end) SetWriteDeadline(time.Time) error { return nil }

type addr struct{}

func (addr) Network() string { return "memnet" }
func (addr) String() string  { return "memnet" }

func (e *end) LocalAddr() net.Addr  { return addr{} }
func (e *end) RemoteAddr() net.Addr { return addr{} }
