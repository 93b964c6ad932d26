package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/message"
)

type listener struct {
	ln        net.Listener
	transport site.Transport
	local     netip.AddrPort
}

// accept takes connections until the listener is closed. Running out of file
// descriptors is waited out, never the end (RFC 3261 says nothing; phones do).
func (e *Edge) accept(ctx context.Context, l listener) {
	pause := time.Duration(0)
	for {
		c, err := l.ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
				return
			}
			if pause == 0 {
				e.log.Warn("No SIP connections can be taken for now", "at", l.local, "err", err)
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
			continue
		}
		pause = 0
		remote := addrPort(c.RemoteAddr())
		if !e.admit(remote.Addr()) {
			e.cfg.Count("too many connections")
			c.Close()
			continue
		}
		f := e.newStream(c, l.transport, site.NodeID{})
		f.stream.counted = true
		if e.register(f) {
			go e.readStream(f) // Serve waits for it
		}
	}
}

// admit counts one more inbound connection, unless that is one too many.
func (e *Edge) admit(ip netip.Addr) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.inbound >= e.limits.Conns || e.perIP[ip] >= e.limits.ConnsPerIP {
		return false
	}
	e.inbound++
	e.perIP[ip]++
	return true
}

// A stream is the connection behind a Flow.
type stream struct {
	conn    net.Conn
	limits  *Limits
	done    chan struct{} // closed by close
	kept    atomic.Bool
	counted bool // in perIP and inbound

	wg sync.WaitGroup // of flush

	mu      sync.Mutex
	queue   net.Buffers
	queued  int
	writing bool
	err     error // why it ended
}

func (e *Edge) newStream(c net.Conn, t site.Transport, peer site.NodeID) *Flow {
	f := &Flow{Transport: t, Peer: peer, Name: e.random(10)}
	if t != site.Mesh {
		f.Local, f.Remote = addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
	}
	f.stream = &stream{conn: c, limits: &e.limits, done: make(chan struct{})}
	return f
}

// register makes f findable by name and counts one readStream, which the
// caller must then run. It closes f instead when the Edge is closing.
func (e *Edge) register(f *Flow) bool {
	e.mu.Lock()
	closed := e.closed
	if !closed {
		e.wg.Add(1)
		e.streams[f.Name] = f
		if f.Transport == site.Mesh {
			e.peers[f.Peer] = f
		}
	}
	e.mu.Unlock()
	if closed {
		f.stream.close(errClosed)
	}
	return !closed
}

// ended forgets f and tells a handler that wants to know.
func (e *Edge) ended(f *Flow) {
	e.forget(f)
	if h, ok := e.handler.(FlowHandler); ok {
		h.FlowClosed(f)
	}
}

func (e *Edge) forget(f *Flow) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.streams, f.Name)
	if k := (destKey{transport: f.Transport, addr: f.Remote}); e.dialled[k] == f {
		delete(e.dialled, k)
	}
	if e.peers[f.Peer] == f {
		delete(e.peers, f.Peer)
	}
	if f.stream.counted {
		ip := f.Remote.Addr()
		e.inbound--
		if e.perIP[ip]--; e.perIP[ip] <= 0 {
			delete(e.perIP, ip)
		}
	}
}

// ServeConn serves one signalling stream from another node, which the mesh has
// authenticated as peer. It returns when the stream has ended.
func (e *Edge) ServeConn(c net.Conn, peer site.NodeID) {
	f := e.newStream(c, site.Mesh, peer)
	if e.register(f) {
		e.readStream(f)
	}
}

// readStream reads messages from f until it ends.
func (e *Edge) readStream(f *Flow) {
	<-e.started
	s := f.stream
	defer e.wg.Done()
	defer e.ended(f)
	defer s.wg.Wait()
	framer := message.Framer{Max: e.limits.MaxMessage}
	buf := make([]byte, 4096)
	mesh := f.Transport == site.Mesh
	deadline := e.limits.FirstByte
	began := false // a message has begun and its deadline runs
	if !mesh {
		s.conn.SetReadDeadline(time.Now().Add(deadline))
	}
	for {
		n, err := s.conn.Read(buf)
		framer.Write(buf[:n])
		for {
			fr := framer.Next()
			if (fr.Ping || fr.Raw != nil) && !mesh && !e.gate.pass(f.Remote.Addr(), fr.Raw, e.cfg.Now()) {
				e.cfg.Count("over rate")
				s.close(errors.New("too many messages"))
				return
			}
			if fr.Ping {
				s.write([]byte("\r\n"))
				continue
			}
			if fr.Raw != nil {
				if !e.receive(fr.Raw, f) {
					fr.Broken = true
				}
				began = false
			}
			if fr.Broken {
				e.cfg.Count("broken stream")
				s.finish(errors.New("no SIP, or a message of unknown length"))
				return
			}
			if fr.Raw == nil {
				break
			}
		}
		if err != nil {
			s.finish(fmt.Errorf("read from %s: %w", f, err))
			return
		}
		// The deadline of a message runs from its first octet: dripping
		// octets does not move it.
		if partial := framer.Partial(); partial && !began {
			began = true
			s.conn.SetReadDeadline(time.Now().Add(e.limits.WholeMessage))
		} else if !partial {
			began = false
			switch {
			case mesh:
				s.conn.SetReadDeadline(time.Time{})
			case s.kept.Load():
				s.conn.SetReadDeadline(time.Now().Add(e.limits.KeptIdle))
			default:
				s.conn.SetReadDeadline(time.Now().Add(e.limits.Idle))
			}
		}
	}
}

// write queues b for sending and returns at once. A reader too slow for
// Limits.Queue octets loses its connection.
func (s *stream) write(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if s.queued+len(b) > s.limits.Queue {
		s.fail(errors.New("the other end reads too slowly"))
		return s.err
	}
	s.queue = append(s.queue, b)
	s.queued += len(b)
	if !s.writing {
		s.writing = true
		s.wg.Go(s.flush) // ends when the queue is empty; close ends a blocked write
	}
	return nil
}

func (s *stream) flush() {
	for {
		s.mu.Lock()
		q := s.queue
		s.queue, s.queued = nil, 0
		if len(q) == 0 || s.err != nil && s.err != errFinish {
			s.writing = false
			if s.err != nil {
				s.conn.Close()
			}
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		s.conn.SetWriteDeadline(time.Now().Add(s.limits.Write))
		if _, err := q.WriteTo(s.conn); err != nil {
			s.close(err)
		}
	}
}

var errFinish = errors.New("connection ended")

// finish ends the stream after what is queued has been sent.
func (s *stream) finish(error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = errFinish
	close(s.done)
	if !s.writing {
		s.conn.Close()
	}
}

// close ends the stream now.
func (s *stream) close(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail(err)
}

func (s *stream) fail(err error) {
	if s.err == nil {
		close(s.done)
	}
	if s.err == nil || s.err == errFinish {
		s.err = fmt.Errorf("connection lost: %w", err)
	}
	s.conn.Close()
}
