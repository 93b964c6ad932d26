package wanrelay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"
)

// accept serves one TCP port of to's outside address.
func (r *Relay) accept(l *net.TCPListener, to *port, tcp uint16) {
	for {
		c, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, or the caller is gone already
			r.log.Warn("WAN takes no connection", "err", err)
			if !r.sleep(100 * time.Millisecond) {
				return
			}
			continue
		}
		if !r.keep(c) {
			return
		}
		r.wg.Go(func() { // ends when either side has closed, or with Close
			defer r.drop(c)
			r.join(c, to, tcp)
		})
	}
}

// join carries one connection: from a node, known by its address, to node to.
func (r *Relay) join(c *net.TCPConn, to *port, tcp uint16) {
	from := r.inside[addrOf(c.RemoteAddr()).Addr()]
	if from == nil {
		c.SetLinger(0) // refused, as a closed port refuses
		r.log.Warn("WAN refuses a stranger", "from", c.RemoteAddr(), "to", to.Outside)
		return
	}
	there, back := r.ways[Direction{from.Site, to.Site}], r.ways[Direction{to.Site, from.Site}]
	there.add(func(n *Count) { n.TCPConns++ })
	if there.pass(r.ctx) != nil || back.pass(r.ctx) != nil {
		return
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from.Outside, 0)), Timeout: 5 * time.Second}
	far, err := d.DialContext(r.ctx, "tcp4", netip.AddrPortFrom(to.Inside, tcp).String())
	if err != nil {
		c.SetLinger(0)
		r.log.Debug("WAN cannot connect", "to", to.Inside, "port", tcp, "err", err)
		return
	}
	if !r.keep(far) {
		return
	}
	defer r.drop(far)
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	done := make(chan error, 2)
	r.wg.Go(func() { done <- r.pump(ctx, far.(*net.TCPConn), c, there) }) // ends as join does: both are closed then
	r.wg.Go(func() { done <- r.pump(ctx, c, far.(*net.TCPConn), back) })
	for range 2 {
		if err := <-done; err != nil { // a reset on one side is a reset on the other
			c.SetLinger(0)
			far.(*net.TCPConn).SetLinger(0)
			return
		}
	}
}

// pump carries one direction of a stream: nil at the source's end of stream,
// passed on, an error when either side is broken.
func (r *Relay) pump(ctx context.Context, dst, src *net.TCPConn, w *way) error {
	type piece struct {
		data []byte
		due  time.Time
	}
	line := make(chan piece, 64)
	failed := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.wg.Go(func() { // ends with the line or with ctx
		for p := range line {
			if !r.until(ctx, p.due) || w.pass(ctx) != nil {
				break
			}
			if _, err := dst.Write(p.data); err != nil {
				cancel()
				src.SetReadDeadline(time.Unix(1, 0)) // wakes the reader below
				failed <- err
				return
			}
		}
		failed <- ctx.Err()
	})
	err := func() error {
		defer close(line)
		for {
			if err := w.pass(ctx); err != nil {
				return err
			}
			buf := make([]byte, w.chunk())
			n, err := src.Read(buf)
			if n > 0 {
				// A cut between the read and here holds the piece, as a
				// sender's retransmission would.
				if err := w.pass(ctx); err != nil {
					return err
				}
				w.add(func(c *Count) { c.TCPBytes += int64(n); c.TCPPackets++ })
				due, _ := w.reserve(r.now(), n+tcpHeader, false)
				select {
				case line <- piece{buf[:n], due}:
				case <-ctx.Done():
					return ctx.Err()
				}
				// The line is full until this piece has left it.
				if !r.until(ctx, due.Add(-w.delay)) {
					return ctx.Err()
				}
			}
			if err != nil {
				return err
			}
		}
	}()
	if err != io.EOF {
		cancel()
		return errors.Join(err, <-failed)
	}
	if err := <-failed; err != nil {
		return err
	}
	if err := w.pass(ctx); err != nil {
		return err
	}
	return dst.CloseWrite()
}

// until waits for an instant; it is false when ctx ended first.
func (r *Relay) until(ctx context.Context, t time.Time) bool {
	wait := t.Sub(r.now())
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *Relay) sleep(d time.Duration) bool { return r.until(r.ctx, r.now().Add(d)) }

func addrOf(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		p := a.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}
