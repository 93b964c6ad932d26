package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/message"
)

// Marshal prints a message as it goes onto the wire.
func Marshal(msg sip.Message) []byte {
	var b bytes.Buffer
	b.Grow(1024)
	msg.StringWrite(&b)
	return b.Bytes()
}

// Send prints msg and sends it. It does not wait for the network, except to
// open a connection that Connect did not open before (≤ Limits.Connect). nil
// means handed to the kernel or queued, never received.
func (e *Edge) Send(msg sip.Message, d Dest) error { return e.Write(Marshal(msg), d) }

// Write sends the bytes of one message, which must not change afterwards.
func (e *Edge) Write(b []byte, d Dest) error {
	if d.Flow == nil && (!d.Peer.IsZero() || d.Transport != site.UDP) {
		var err error
		if d, err = e.Connect(context.Background(), d); err != nil {
			return err
		}
	}
	if f := d.Flow; f != nil {
		if f.stream != nil {
			return f.stream.write(b)
		}
		addr := f.Remote
		if d.reply {
			addr = f.reply
		}
		_, err := f.packet.pc.WriteToUDPAddrPort(b, addr)
		return err
	}
	if !d.Addr.IsValid() || d.Addr.Port() == 0 {
		return fmt.Errorf("send SIP to %s: no such address", d)
	}
	p, err := e.packetFor(d.Addr, d.Local)
	if err != nil {
		return err
	}
	_, err = p.pc.WriteToUDPAddrPort(b, d.Addr)
	return err
}

// Respond answers req without keeping anything: for refusals and for methods
// that need no transaction. A failure to send is the network's business; the
// other end asks again.
func (e *Edge) Respond(req *sip.Request, f *Flow, status int, reason string, headers ...sip.Header) {
	res := message.NewResponse(req, status, reason, e.Tag(req))
	for _, h := range headers {
		res.AppendHeader(h)
	}
	if err := e.Send(res, f.Reply()); err != nil {
		e.log.Debug("Response not sent", "to", f.String(), "status", status, "err", err)
	}
}

// Connect turns d into a destination that can be sent to without waiting:
// for streams it opens a connection, from a port of its own, unless this node
// opened one to that address before. A connection that came from there is never
// taken. For another node it takes the stream that is there, or asks the mesh.
func (e *Edge) Connect(ctx context.Context, d Dest) (Dest, error) {
	if d.Flow != nil {
		return d, nil
	}
	k := destKey{d.Transport, d.Addr, d.Peer}
	switch {
	case !d.Peer.IsZero():
		k = destKey{transport: site.Mesh, peer: d.Peer}
	case d.Transport == site.UDP:
		return d, nil
	case d.Transport != site.TCP:
		return d, fmt.Errorf("connect to %s: transport not available", d)
	}
	for { // one attempt at a time; the others wait for its outcome
		e.mu.Lock()
		f := e.dialled[k]
		if k.transport == site.Mesh {
			f = e.peers[d.Peer]
		}
		other := e.dialling[k]
		switch {
		case e.closed:
			e.mu.Unlock()
			return d, errClosed
		case f != nil && f.alive():
			e.mu.Unlock()
			return f.Dest(), nil
		case other != nil:
			e.mu.Unlock()
			select {
			case <-other.done:
			case <-ctx.Done():
				return d, fmt.Errorf("connect to %s: %w", d, context.Cause(ctx))
			}
			if other.err != nil && other.err != errOwnContext {
				return d, other.err
			}
			continue
		}
		own := &dialling{done: make(chan struct{})}
		e.dialling[k] = own
		e.mu.Unlock()
		to, err := e.dial(ctx, d, k)
		own.err = err
		if err != nil && ctx.Err() != nil {
			own.err = errOwnContext // gave up for reasons of its own
		}
		e.mu.Lock()
		delete(e.dialling, k)
		e.mu.Unlock()
		close(own.done)
		return to, err
	}
}

// A dialling is an attempt to connect that others wait for.
type dialling struct {
	done chan struct{}
	err  error // set before done is closed
}

var errOwnContext = errors.New("attempt abandoned")

// dial opens the connection for k.
func (e *Edge) dial(ctx context.Context, d Dest, k destKey) (Dest, error) {
	ctx, cancel := context.WithTimeout(ctx, e.limits.Connect)
	defer cancel()
	var conn net.Conn
	var err error
	switch {
	case k.transport != site.Mesh:
		conn, err = e.cfg.Dial(ctx, d.Addr)
	case e.cfg.Peers == nil:
		err = errors.New("this node is in no mesh")
	default:
		conn, err = e.cfg.Peers.DialSIP(ctx, d.Peer)
	}
	if err != nil {
		return d, fmt.Errorf("connect to %s: %w", d, err)
	}
	f := e.newStream(conn, k.transport, d.Peer)
	if !e.register(f) {
		return d, errClosed
	}
	f.Keep()
	if k.transport == site.TCP {
		e.mu.Lock()
		e.dialled[k] = f
		e.mu.Unlock()
	}
	go e.readStream(f) // Serve waits for it
	return f.Dest(), nil
}

func (f *Flow) alive() bool {
	select {
	case <-f.Closed():
		return false
	default:
		return true
	}
}

// Flow finds a live connection by its name, nil when it has ended.
func (e *Edge) Flow(name string) *Flow {
	e.mu.Lock()
	f := e.streams[name]
	e.mu.Unlock()
	if f == nil || !f.alive() {
		return nil
	}
	return f
}

var errNoLocal = errors.New("no SIP socket of that kind")

// Local says how the other end of d can name us. For streams that is our
// listening port, where new connections are welcome, not the port of this one.
func (e *Edge) Local(d Dest) (Local, error) {
	switch {
	case d.Flow != nil && d.Flow.Transport == site.Mesh, !d.Peer.IsZero():
		return Local{Transport: site.Mesh, Host: e.cfg.Node.String() + ".node.invalid"}, nil
	case d.Flow != nil && d.Flow.stream == nil:
		return e.local(site.UDP, d.Flow.Local, d.Flow.Remote), nil
	case d.Flow != nil:
		return e.streamLocal(d.Flow.Transport, d.Flow.Local, d.Flow.Remote), nil
	case d.Transport == site.UDP:
		p, err := e.packetFor(d.Addr, d.Local)
		if err != nil {
			return Local{}, err
		}
		return e.local(site.UDP, p.local, d.Addr), nil
	}
	for _, l := range e.lns {
		if l.transport == d.Transport && l.local.Addr().Is4() == d.Addr.Addr().Is4() {
			return e.local(l.transport, l.local, d.Addr), nil
		}
	}
	return Local{}, fmt.Errorf("address towards %s: %w", d, errNoLocal)
}

func (e *Edge) local(t site.Transport, at, dst netip.AddrPort) Local {
	ip := at.Addr()
	if ip.IsUnspecified() {
		if from := sourceFor(dst); from.IsValid() {
			ip = from
		}
	}
	return Local{Transport: t, Host: message.Host(ip), Port: int(at.Port())}
}

func (e *Edge) streamLocal(t site.Transport, at, dst netip.AddrPort) Local {
	for _, l := range e.lns {
		if l.transport == t && (l.local.Addr() == at.Addr() || l.local.Addr().IsUnspecified()) {
			return Local{Transport: t, Host: message.Host(at.Addr()), Port: int(l.local.Port())}
		}
	}
	return e.local(t, at, dst)
}
