package peers

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A line carries TCP from a port of its own on loopback to an address and
// counts what it carries, above TCP. It can be cut.
type line struct {
	l     net.Listener
	to    string
	bytes atomic.Int64

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func newLine(t testing.TB, to string) *line {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &line{l: l, to: to, conns: map[net.Conn]bool{}}
	x.wg.Go(x.serve) // ends with the listener
	t.Cleanup(func() {
		l.Close()
		x.set(true)
		x.wg.Wait()
	})
	return x
}

func (x *line) addr() netip.AddrPort { return x.l.Addr().(*net.TCPAddr).AddrPort() }

// set cuts the line, which ends its connections, or heals it.
func (x *line) set(cut bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.cut = cut
	if cut {
		for c := range x.conns {
			c.Close()
		}
	}
}

// keep remembers a connection, or closes it if the line is cut.
func (x *line) keep(c net.Conn) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cut {
		c.Close()
		return false
	}
	x.conns[c] = true
	return true
}

func (x *line) serve() {
	for {
		c, err := x.l.Accept()
		if err != nil {
			return
		}
		if !x.keep(c) {
			continue
		}
		far, err := net.Dial("tcp4", x.to)
		if err != nil || !x.keep(far) {
			c.Close()
			continue
		}
		x.wg.Go(func() { x.carry(c, far) }) // end when either side closes
		x.wg.Go(func() { x.carry(far, c) })
	}
}

func (x *line) carry(to, from net.Conn) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		x.bytes.Add(int64(n))
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	x.mu.Lock()
	delete(x.conns, to)
	delete(x.conns, from)
	x.mu.Unlock()
}

// quiet waits until nothing has passed for two seconds, or a minute at most,
// and returns the count: keep-alives may come more often than that.
func (x *line) quiet() int64 {
	end := time.Now().Add(time.Minute)
	for n := x.bytes.Load(); ; {
		time.Sleep(2 * time.Second)
		now := x.bytes.Load()
		if now == n || time.Now().After(end) {
			return now
		}
		n = now
	}
}
