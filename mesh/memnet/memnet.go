// Package memnet is the Mesh in memory: a network that can be partitioned,
// slowed and counted, in real or in virtual time (testing/synctest). It is a
// whole implementation and passes the suite in mesh/meshtest.
package memnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"carrierclass.net/ccnode/mesh"
)

// patience is how long a peer that does not answer is waited for.
const patience = 3 * time.Second

// overhead is what a frame costs on a wire beside its body.
const overhead = 6

// Network joins nodes in memory.
type Network struct {
	mu    sync.Mutex
	nodes map[mesh.PeerID]*Node
	delay time.Duration
	cut   func(a, b mesh.PeerID) bool // nil: everybody reaches everybody
	loud  bool                        // a cut refuses instead of swallowing
}

// New makes a network without delay or loss.
func New() *Network { return &Network{nodes: map[mesh.PeerID]*Node{}} }

// Delay sets how long everything takes one way, from now on.
func (n *Network) Delay(d time.Duration) { n.mu.Lock(); n.delay = d; n.mu.Unlock() }

// Partition splits the network: nodes of different groups do not reach each
// other, silently; nodes in no group reach nobody.
func (n *Network) Partition(groups ...[]mesh.PeerID) {
	in := map[mesh.PeerID]int{}
	for i, g := range groups {
		for _, p := range g {
			in[p] = i + 1
		}
	}
	n.Cut(func(a, b mesh.PeerID) bool { return in[a] == 0 || in[a] != in[b] })
}

// Cut swallows everything between nodes for which cut is true; nil heals. Links
// stay open, as TCP's do, until somebody uses them.
func (n *Network) Cut(cut func(a, b mesh.PeerID) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
}

// Heal ends every partition.
func (n *Network) Heal() { n.Cut(nil) }

// Refuse makes a cut answer with an error at once instead of swallowing.
func (n *Network) Refuse(loud bool) { n.mu.Lock(); n.loud = loud; n.mu.Unlock() }

func (n *Network) blocked(a, b mesh.PeerID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut != nil && n.cut(a, b)
}

// Node is one peer's Mesh.
type Node struct {
	net *Network
	id  mesh.PeerID

	mu        sync.Mutex
	admitted  map[mesh.PeerID]mesh.Peer
	links     map[mesh.PeerID]*link
	dialing   map[mesh.PeerID]bool
	handlers  map[string]func(mesh.Stream)
	strangers map[string]func(mesh.Stream)
	stats     map[mesh.PeerID]*mesh.Stats
	streams   map[*stream]bool
	queue     []mesh.Event
	wake      chan struct{}
	events    chan mesh.Event
	closed    bool
	stop      chan struct{}
	wg        sync.WaitGroup
}

// link is one direction's end; both ends share seq so that a stale end is known.
type link struct {
	peer *Node
	in   chan arrival // frames on their way to us, in order
	gone chan struct{}
	once sync.Once
}

// arrival is a frame and when it is here.
type arrival struct {
	body []byte
	at   time.Time
}

func (l *link) close() { l.once.Do(func() { close(l.gone) }) }

// Join adds a node to the network. It must be closed.
func (n *Network) Join(id mesh.PeerID) *Node {
	x := &Node{net: n, id: id, admitted: map[mesh.PeerID]mesh.Peer{}, links: map[mesh.PeerID]*link{}, dialing: map[mesh.PeerID]bool{},
		handlers: map[string]func(mesh.Stream){}, strangers: map[string]func(mesh.Stream){}, stats: map[mesh.PeerID]*mesh.Stats{},
		streams: map[*stream]bool{}, wake: make(chan struct{}, 1), events: make(chan mesh.Event), stop: make(chan struct{})}
	n.mu.Lock()
	n.nodes[id] = x
	n.mu.Unlock()
	x.wg.Go(x.deliver) // ends with Close
	return x
}

func (x *Node) deliver() {
	defer close(x.events)
	for {
		x.mu.Lock()
		var ev mesh.Event
		have := len(x.queue) > 0
		if have {
			ev, x.queue = x.queue[0], x.queue[1:]
		}
		x.mu.Unlock()
		if !have {
			select {
			case <-x.wake:
			case <-x.stop:
				return
			}
			continue
		}
		select {
		case x.events <- ev:
		case <-x.stop:
			return
		}
	}
}

// post queues an event; mu is held.
func (x *Node) post(ev mesh.Event) {
	if x.closed {
		return
	}
	x.queue = append(x.queue, ev)
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

func (x *Node) stat(p mesh.PeerID) *mesh.Stats {
	s := x.stats[p]
	if s == nil {
		s = &mesh.Stats{}
		x.stats[p] = s
	}
	return s
}

// Events implements mesh.Mesh.
func (x *Node) Events() <-chan mesh.Event { return x.events }

// Admit implements mesh.Mesh.
func (x *Node) Admit(peers []mesh.Peer) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.admitted = map[mesh.PeerID]mesh.Peer{}
	for _, p := range peers {
		x.admitted[p.ID] = p
	}
	for id := range x.links {
		if _, ok := x.admitted[id]; !ok {
			x.downLocked(id, mesh.ErrUnknownPeer)
		}
	}
	for s := range x.streams {
		if _, ok := x.admitted[s.peer]; !ok && !s.stranger {
			s.Conn.Close()
		}
	}
}

// Dial implements mesh.Mesh.
func (x *Node) Dial(p mesh.PeerID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed || x.links[p] != nil || x.dialing[p] {
		return
	}
	peer, ok := x.admitted[p]
	switch {
	case !ok:
		x.failLocked(p, mesh.ErrUnknownPeer)
		return
	case len(peer.Addrs) == 0:
		x.failLocked(p, mesh.ErrNoAddress)
		return
	}
	x.dialing[p] = true
	x.wg.Go(func() { x.dial(p) })
}

func (x *Node) failLocked(p mesh.PeerID, err error) {
	st := x.stat(p)
	st.Failed, st.Err = time.Now(), err
	x.post(mesh.Event{Kind: mesh.LinkDown, Peer: p, Err: err})
}

func (x *Node) dial(p mesh.PeerID) {
	other, err := x.reach(context.Background(), p)
	if err == nil && !other.knows(x.id) {
		err = fmt.Errorf("%w (%s)", mesh.ErrRefused, mesh.ErrUnknownPeer)
	}
	x.mu.Lock()
	delete(x.dialing, p)
	if err != nil {
		if x.links[p] == nil {
			x.failLocked(p, err)
		}
		x.mu.Unlock()
		return
	}
	x.mu.Unlock()
	join(x, other)
}

func (x *Node) knows(p mesh.PeerID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, ok := x.admitted[p]
	return ok && !x.closed
}

// reach waits as a handshake would, and finds the other node.
func (x *Node) reach(ctx context.Context, p mesh.PeerID) (*Node, error) {
	x.net.mu.Lock()
	delay, loud := x.net.delay, x.net.loud
	x.net.mu.Unlock()
	if err := x.sleep(ctx, 2*delay); err != nil {
		return nil, err
	}
	if x.net.blocked(x.id, p) || x.net.blocked(p, x.id) {
		if !loud {
			if err := x.sleep(ctx, patience); err != nil {
				return nil, err
			}
		}
		return nil, fmt.Errorf("dial %s: %w", p, mesh.ErrSilent)
	}
	x.net.mu.Lock()
	other := x.net.nodes[p]
	x.net.mu.Unlock()
	if other == nil || other.isClosed() {
		return nil, fmt.Errorf("dial %s: connection refused", p)
	}
	return other, nil
}

func (x *Node) isClosed() bool { x.mu.Lock(); defer x.mu.Unlock(); return x.closed }

func (x *Node) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-x.stop:
		return mesh.ErrClosed
	}
}

// join links a and b, a having dialled. A link that is there already stays.
func join(a, b *Node) {
	first, second := a, b
	if string(b.id[:]) < string(a.id[:]) {
		first, second = b, a
	}
	first.mu.Lock()
	defer first.mu.Unlock()
	second.mu.Lock()
	defer second.mu.Unlock()
	if a.closed || b.closed {
		return
	}
	if a.links[b.id] != nil && b.links[a.id] != nil {
		return // both dialled at once
	}
	for _, e := range []struct {
		x, o    *Node
		inbound bool
	}{{a, b, false}, {b, a, true}} {
		if e.x.links[e.o.id] != nil { // it does not know yet that the old one is dead
			e.x.downLocked(e.o.id, errors.New("replaced by a new link"))
		}
		l := &link{peer: e.o, in: make(chan arrival, 4096), gone: make(chan struct{})}
		e.x.links[e.o.id] = l
		st := e.x.stat(e.o.id)
		st.Linked, st.Heard, st.Failed, st.Err = true, time.Now(), time.Time{}, nil
		st.In += 1200
		st.Out += 1200
		e.x.post(mesh.Event{Kind: mesh.LinkUp, Peer: e.o.id, Inbound: e.inbound})
		x, o := e.x, e.o
		e.x.wg.Go(func() { x.read(o.id, l) }) // ends with the link
	}
}

// read delivers what arrives over one link, after its delay.
func (x *Node) read(from mesh.PeerID, l *link) {
	for {
		select {
		case <-l.gone:
			return
		case f := <-l.in:
			if left := time.Until(f.at); left > 0 {
				t := time.NewTimer(left)
				select {
				case <-t.C:
				case <-l.gone:
					t.Stop()
					return
				}
			}
			x.mu.Lock()
			if x.links[from] == l {
				st := x.stat(from)
				st.In += int64(len(f.body) + overhead)
				st.Heard = time.Now()
				x.post(mesh.Event{Kind: mesh.Received, Peer: from, Body: f.body})
			}
			x.mu.Unlock()
		}
	}
}

// Send implements mesh.Mesh.
func (x *Node) Send(f mesh.Frame) {
	x.mu.Lock()
	l := x.links[f.Peer]
	if l != nil {
		x.stat(f.Peer).Out += int64(len(f.Body) + overhead)
	}
	x.mu.Unlock()
	if l == nil {
		x.Dial(f.Peer)
		return
	}
	x.net.mu.Lock()
	delay := x.net.delay
	x.net.mu.Unlock()
	l.peer.mu.Lock()
	far := l.peer.links[x.id]
	l.peer.mu.Unlock()
	if far == nil || x.net.blocked(x.id, f.Peer) || x.net.blocked(f.Peer, x.id) {
		go func() { // nobody acknowledges; ends with patience or Close
			if x.sleep(context.Background(), patience) != nil {
				return
			}
			x.mu.Lock()
			defer x.mu.Unlock()
			if x.links[f.Peer] == l {
				x.downLocked(f.Peer, mesh.ErrSilent)
			}
		}()
		return
	}
	select {
	case far.in <- arrival{append([]byte(nil), f.Body...), time.Now().Add(delay)}:
	case <-far.gone:
	}
}

// downLocked ends our end of a link; the other end notices when it uses it,
// or at once if it can be reached.
func (x *Node) downLocked(p mesh.PeerID, why error) {
	l := x.links[p]
	if l == nil {
		return
	}
	delete(x.links, p)
	l.close()
	st := x.stat(p)
	st.Linked, st.Failed, st.Err = false, time.Now(), why
	x.post(mesh.Event{Kind: mesh.LinkDown, Peer: p, Err: why})
	if x.net.blocked(x.id, p) {
		return
	}
	go func() { // ends at once: the FIN on its way
		x.mu.Lock()
		again := x.links[p] != nil
		x.mu.Unlock()
		o := l.peer
		o.mu.Lock()
		defer o.mu.Unlock()
		if far := o.links[x.id]; far != nil && far.peer == x && !again {
			o.downLocked(x.id, io.EOF)
		}
	}()
}

// Drop implements mesh.Mesh.
func (x *Node) Drop(p mesh.PeerID, why error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.downLocked(p, why)
}

// Hangup closes the streams with a peer: after joining, what was a stranger
// comes back as a member.
func (x *Node) Hangup(p mesh.PeerID) {
	x.mu.Lock()
	var all []*stream
	for s := range x.streams {
		if s.peer == p {
			all = append(all, s)
		}
	}
	x.mu.Unlock()
	for _, s := range all {
		s.Close()
	}
}

// Handle implements mesh.Mesh.
func (x *Node) Handle(protocol string, fn func(mesh.Stream)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.handlers[protocol] = fn
}

// HandleStrangers implements mesh.Mesh.
func (x *Node) HandleStrangers(protocol string, fn func(mesh.Stream)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.strangers[protocol] = fn
}

// Stats implements mesh.Mesh.
func (x *Node) Stats(p mesh.PeerID) mesh.Stats {
	x.mu.Lock()
	defer x.mu.Unlock()
	return *x.stat(p)
}

// Total implements mesh.Mesh.
func (x *Node) Total() (in, out int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, s := range x.stats {
		in += s.In
		out += s.Out
	}
	return in, out
}

// Close implements mesh.Mesh.
func (x *Node) Close() error {
	x.mu.Lock()
	if x.closed {
		x.mu.Unlock()
		return nil
	}
	for p := range x.links {
		x.downLocked(p, mesh.ErrClosed)
	}
	for s := range x.streams {
		s.Conn.Close()
	}
	x.closed = true
	close(x.stop)
	x.mu.Unlock()
	x.net.mu.Lock()
	delete(x.net.nodes, x.id)
	x.net.mu.Unlock()
	x.wg.Wait()
	return nil
}

type stream struct {
	net.Conn
	node     *Node
	peer     mesh.PeerID
	stranger bool
	once     sync.Once
	lost     sync.Once // something was swallowed
}

// Peer implements mesh.Stream.
func (s *stream) Peer() mesh.PeerID { return s.peer }

// Close ends the stream on both sides.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.node.mu.Lock()
		delete(s.node.streams, s)
		s.node.mu.Unlock()
	})
	return s.Conn.Close()
}

// Write swallows what a cut swallows. A stream that lost something is over as
// soon as its sender has waited in vain.
func (s *stream) Write(b []byte) (int, error) {
	if s.node.net.blocked(s.node.id, s.peer) {
		s.lost.Do(func() {
			go func() { // ends with patience or the node
				_ = s.node.sleep(context.Background(), patience)
				s.Close()
			}()
		})
		return len(b), nil
	}
	n, err := s.Conn.Write(b)
	s.node.mu.Lock()
	s.node.stat(s.peer).Out += int64(n)
	s.node.mu.Unlock()
	return n, err
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.node.mu.Lock()
	st := s.node.stat(s.peer)
	st.In += int64(n)
	if n > 0 {
		st.Heard = time.Now()
	}
	s.node.mu.Unlock()
	return n, err
}

// OpenStream implements mesh.Mesh.
func (x *Node) OpenStream(ctx context.Context, p mesh.PeerID, protocol string) (mesh.Stream, error) {
	x.mu.Lock()
	_, ok := x.admitted[p]
	x.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("open a stream to %s: %w", p, mesh.ErrUnknownPeer)
	}
	o, err := x.reach(ctx, p)
	if err != nil {
		return nil, err
	}
	known := o.knows(x.id)
	o.mu.Lock()
	fn := o.strangers[protocol]
	if known && o.handlers[protocol] != nil {
		fn = o.handlers[protocol]
	}
	if fn == nil || o.closed {
		o.mu.Unlock()
		return nil, fmt.Errorf("open %s to %s: %w", protocol, p, mesh.ErrRefused)
	}
	near, far := pipe()
	fs := &stream{Conn: far, node: o, peer: x.id, stranger: !known}
	o.streams[fs] = true
	o.mu.Unlock()
	ns := &stream{Conn: near, node: x, peer: p}
	x.mu.Lock()
	x.streams[ns] = true
	x.mu.Unlock()
	o.wg.Go(func() { fn(fs) })
	return ns, nil
}
