// Package antientropy decides what to tell which peer, and nothing else. It is
// a machine without I/O, clock or goroutine: its owner gives it one input at a
// time and then does what Ready says, in the order Ready says it.
//
// How two nodes exchange a scope (state.md §6): every live change has an
// arrival number at the node that holds it. Each side keeps, durably, a cursor
// into the other's numbers: what it has taken. On a new link both say their
// fingerprints and cursors; equal fingerprints end the matter; else each sends
// what arrived after the other's cursor. An empty receiver's cursor is 0: that
// is the snapshot, and it can be resumed anywhere. What arrives later is sent
// as it comes. When both have drained and the fingerprints still differ, the
// contents are reconciled once: content decides, not bookkeeping (reconcile.go).
//
// Law: nothing is sent when nothing is owed. A debt is a live change past the
// peer's acknowledged cursor that did not come from that peer.
//
// The owner's loop:
//
//	m.LinkUp(p) / m.LinkDown(p) / m.Receive(p, body) / m.Local(scope) / …
//	r := m.Ready()
//	// 1 verify and store r.Incoming with its cursor, in one durable transaction,
//	//   then call m.Stored for each
//	// 2 send r.Messages; 3 drop r.Drop; 4 dial r.Dial, with pauses of its own
package antientropy

import (
	"errors"
	"fmt"
	"slices"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/riblt"
)

// Peer names another node.
type Peer = crdt.NodeID

// A Cursor says how far one node has taken what another has: an arrival number
// of the other's, valid within the epoch the other drew when it started.
type Cursor struct {
	Epoch uint32
	N     uint64
}

// An Arrival is one live change and its number.
type Arrival struct {
	N    uint64
	ID   crdt.ID
	From Peer // who told us; zero: written here
	Size int  // bytes
}

// View is what the machine may look at; reads must be consistent between two
// inputs. internal/replica implements it on the store.
type View interface {
	// Head is the number of the last arrival of a scope, 0 when there is none.
	Head(crdt.Scope) uint64
	// After lists arrivals with numbers above n, in order, until their sizes
	// exceed limit bytes; at least one if there is any.
	After(s crdt.Scope, n uint64, limit int) []Arrival
	// Bytes returns a change as it was received; nil if it is no longer live. An
	// error says that it cannot be read now: it and what follows is sent later.
	Bytes(crdt.ID) ([]byte, error)
	Fingerprint(crdt.Scope) crdt.Fingerprint
	// Epoch is the one drawn at this start; Believes says whether a cursor into
	// our numbers can be trusted (its epoch is listed and fits its number).
	Epoch() uint32
	Believes(s crdt.Scope, c Cursor) bool
	// Taken is our durable cursor into a peer's numbers; Acked is how far that
	// peer has acknowledged ours, as stored (0 if unknown).
	Taken(Peer, crdt.Scope) Cursor
	Acked(Peer, crdt.Scope) uint64
	// Outbox lists changes of scopes not held here, oldest first.
	Outbox() []Out
	// First lists live changes of a scope that a peer that lacks much of it needs
	// before all others, in the order in which it needs them. Of trust: what is
	// needed to judge the first of the other scopes, too, and what takes powers
	// away; they go before what is left of trust.
	First(Peer, crdt.Scope) []crdt.ID
	Clock() crdt.Stamp // own HLC, told to the peer
	// EachID calls back for each live change of a scope, in any order; it is only
	// asked for when the contents of two nodes differ.
	EachID(crdt.Scope, func(crdt.ID))
	// Sketch is what is kept of the scope's cells under a key; nil: nothing.
	Sketch(crdt.Scope, riblt.Key) *riblt.Sketch
	// SketchKey was drawn at this start: sketches are made with it.
	SketchKey() riblt.Key
}

// An Out is a change that waits for one holder of its scope.
type Out struct {
	ID    crdt.ID
	Scope crdt.Scope
}

// A Neighbour is a peer and what it concerns.
type Neighbour struct {
	Peer   Peer
	Shared []crdt.Scope // scopes both hold, in the order of crdt.Scope.Compare
	Holds  []crdt.Scope // scopes it holds and we do not: where the outbox can go
	May    []crdt.Scope // scopes it may ask for as a guest, beside those all hold
	Pause  bool         // never dial it for a debt: it comes to us
}

// A Message goes to one peer, on the urgent queue.
type Message struct {
	Peer Peer
	Body []byte
	// Quiet: the peer waits for this very message, so that nothing need
	// acknowledge it.
	Quiet bool
	// Batch numbers the batches of a scope on this link, from 1; 0: this is none.
	// Its acknowledgement is told in Ready.Answered.
	Batch uint64
	Scope crdt.Scope // of the batch
	Size  int        // bytes of its changes
}

// Answered says that a peer has stored a batch.
type Answered struct {
	Peer  Peer
	Scope crdt.Scope
	Batch uint64
}

// Incoming are changes a peer sent. They must be stored together with the
// cursor; then Stored acknowledges them.
type Incoming struct {
	Peer    Peer
	Scope   crdt.Scope // of the cursor; empty for the peer's outbox
	Changes [][]byte
	Cursor  Cursor // zero: leave the stored one alone
	Push    uint64 // number of the peer's outbox message
	link    uint64 // on which link it came
}

// Ready is the work that follows from the inputs so far.
type Ready struct {
	Incoming  []Incoming
	Acked     []Ack     // remember durably, but without haste
	Delivered []crdt.ID // outbox entries that a holder has taken
	Messages  []Message
	Drop      []Drop
	Dial      []Peer   // neighbours that are owed something and are not linked
	Offered   []Scoped // a scope of a site that a peer wishes to exchange and we do not
	Equal     []Scoped // a peer whose content equals ours, after comparing
	Differ    []Scoped // a peer whose content differs though everything was exchanged
	Clocks    []Clock  // what peers said their clocks show, when they said it
	Ahead     []Ahead  // what peers said of our own changes
	Answered  []Answered
	Heads     []Ack // the last numbers that peers said they have, in their hellos
}

// A Clock is a peer's hybrid logical clock, as it told it in its hello.
type Clock struct {
	Peer  Peer
	Stamp crdt.Stamp
}

// Ahead says that a node holds changes back which the other one wrote: their
// stamps are too far ahead of its clock.
type Ahead struct {
	Peer   Peer       // who holds them, or who wrote them
	Clock  crdt.Stamp // of who holds them
	Synced bool       // NTP sets that clock
	Newest crdt.Stamp // of the changes
	Count  int
}

// TellAhead tells a linked peer that its own changes are held here.
func (m *Machine) TellAhead(a Ahead) {
	if p := m.peers[a.Peer]; p != nil && p.linked {
		m.send(p, kindAhead, aheadMsg{Clock: uint64(a.Clock), Newest: uint64(a.Newest), Count: uint64(a.Count), Synced: a.Synced})
	}
}

// An Ack is how far a peer has taken our arrivals of a scope.
type Ack struct {
	Peer  Peer
	Scope crdt.Scope
	N     uint64
}

// Scoped is a peer and a scope.
type Scoped struct {
	Peer  Peer
	Scope crdt.Scope
}

// A Drop closes a link, and says why.
type Drop struct {
	Peer Peer
	Why  error
}

// LeastWindow is the smallest that Pace takes.
const LeastWindow = 2 << 10

const (
	// window bounds the changes that are unacknowledged on one link, in bytes,
	// until Pace says what the line carries.
	window = 16 << 10
	batch  = 8 << 10 // at most in one message

	// maxWants bounds how often a peer may ask for everything on one link; an
	// honest one does it once for each hello.
	maxWants = 4
	// maxPushed bounds the outbox entries on their way to one peer.
	maxPushed = 16
	// maxTaken bounds the changes of one batch that is taken: it has to fit into
	// one transaction, whatever the peer sends. An honest one has under 100.
	maxTaken      = 256
	maxTakenBytes = 128 << 10
	// maxScopes bounds the scopes a peer may send batches of on one link.
	maxScopes = 1024
	// long is from how many bytes on a backlog has a part that goes first: eight
	// seconds of a line of 64 kbit/s.
	long = 64 << 10
	// worthComparing is from how many arrivals on contents are compared before
	// everything is sent.
	worthComparing = 64
)

// ErrProtocol is why a link is dropped whose peer does not keep to the rules.
var ErrProtocol = errors.New("the peer broke the protocol")

// Machine reconciles one node with its neighbours. It is not safe for
// concurrent use.
type Machine struct {
	view  View
	peers map[Peer]*peer
	away  map[Peer]*peer // linked, and no neighbours at the moment
	order []Peer
	near  []Peer                // of order, those that are linked or share a scope and may be dialled; nil: to be listed anew
	told  map[crdt.Scope]uint64 // arrivals up to here may be sent
	ready Ready
}

type peer struct {
	Neighbour
	// guest are scopes all nodes hold that the peer wishes to exchange on this
	// link though nothing here says so: it goes round somebody it cannot reach.
	guest  []crdt.Scope
	own    []crdt.Scope // Shared without them: our own wish
	doubt  bool         // we may lack what it knows to have told us: see Doubt
	window int          // bytes that may be unacknowledged; 0: not known
	linked bool
	heard  bool   // its hello arrived on this link
	link   uint64 // counts the links
	epoch  uint32
	scopes map[crdt.Scope]*exchange
	counts map[crdt.Scope]*counts // on this link
	pushed map[uint64]crdt.ID
	push   uint64

	sent, got memory // on this link

	clear  map[crdt.Scope]uint64  // arrivals up to here are acknowledged or came from the peer
	futile map[crdt.Scope]*futile // repairs that brought nothing
}

// counts number the batches of a scope on one link, whatever hellos say
// meanwhile: they are what a done answers for.
type counts struct {
	batches, answered uint64 // sent, and acknowledged of these
	received, stored  uint64 // and the peer's
	wants             int    // how often the peer asked for everything
	sketches          int    // how often contents were reconciled
}

// futile is what is known of repairs of a scope with a peer after which the
// fingerprints still differed, because one side holds changes back. The next
// one waits for another link, and until the contents are others: it costs a
// sketch, some hundred octets, and not to look would leave a loss unmended.
type futile struct {
	ours, theirs string
	link         uint64 // not before this one
}

// exchange is one scope with one linked peer, from its last hello on.
type exchange struct {
	*counts
	acked    uint64 // the peer has taken our arrivals up to here
	sent     uint64 // sent up to here
	inflight int    // bytes sent and not acknowledged
	bounds   []bound
	stale    uint64     // acknowledgements of batches up to this one are of an earlier position
	skipped  bool       // what is before sent was not sent: contents are compared first
	differs  bool       // fingerprints differed when the link came up: compare after draining
	told     done       // the last one we said
	repaired bool       // the contents were reconciled once on this link
	echo     uint64     // the peer asked for everything: up to here, also what came from it
	done     *done      // the last one we heard
	sketch   *sketching // the contents are being reconciled
	give     []crdt.ID  // to be sent although the peer's cursor is past them
	given    uint64     // the number of the last batch of these
	late     bool       // of trust: other scopes go before what is left of it
	express
}

type bound struct {
	n       uint64
	size    int
	express int // changes of it that went ahead of others
}

func (p *peer) count(s crdt.Scope) *counts {
	c := p.counts[s]
	if c == nil {
		c = &counts{}
		p.counts[s] = c
	}
	return c
}

// New makes a machine that knows no neighbours yet.
func New(v View) *Machine {
	return &Machine{view: v, peers: map[Peer]*peer{}, away: map[Peer]*peer{}, told: map[crdt.Scope]uint64{}}
}

// Configure replaces the neighbours. Links of those that stay go on.
func (m *Machine) Configure(ns []Neighbour) {
	old := m.peers
	m.peers, m.order, m.near = map[Peer]*peer{}, nil, nil
	for _, n := range ns {
		p := old[n.Peer]
		delete(old, n.Peer)
		stranger := m.away[n.Peer] // what it said so far was not heard
		if p == nil {
			p = stranger
		}
		if p == nil {
			p = &peer{}
		}
		delete(m.away, n.Peer)
		before, own, may := p.Shared, p.own, p.May
		p.Neighbour, p.own = n, n.Shared
		p.settle(p.guest)
		other := p.linked && (stranger != nil || !slices.Equal(before, p.Shared) || !slices.Equal(own, p.own) || !slices.Equal(may, p.May))
		p.clear = nil // the numbers may have been given anew
		m.peers[n.Peer] = p
		m.order = append(m.order, n.Peer)
		if other {
			// The peer has said its hello; it is asked for another one.
			p.heard, p.scopes = false, nil
			m.hail(p, true)
		}
	}
	for id, p := range old { // its link may outlast this list, and be wanted again
		if p.linked {
			p.heard, p.scopes, p.pushed = false, nil, nil
			m.away[id] = p
		}
	}
	slices.SortFunc(m.order, func(a, b Peer) int { return slices.Compare(a[:], b[:]) })
	m.pump()
}

// LinkUp says that a link to p is open, or was replaced by a new one.
func (m *Machine) LinkUp(id Peer) {
	p := m.peers[id]
	stranger := p == nil
	if stranger { // perhaps the next list of neighbours has it
		p = &peer{Neighbour: Neighbour{Peer: id}}
		m.away[id] = p
	}
	p.leave()
	m.near = nil
	p.linked, p.heard, p.scopes, p.pushed, p.push = true, false, nil, nil, 0
	p.link++
	p.sent, p.got = memory{}, memory{}
	// What was meant for the link before would be read as the first of this one.
	m.ready.Messages = slices.DeleteFunc(m.ready.Messages, func(o Message) bool { return o.Peer == id })
	p.counts = map[crdt.Scope]*counts{}
	if !stranger {
		m.hail(p, false)
	}
}

// hail says our hello.
func (m *Machine) hail(p *peer, answer bool) {
	h := hello{Version: version, Epoch: m.view.Epoch(), Clock: uint64(m.view.Clock()), Answer: answer}
	for _, s := range p.Shared {
		fp := m.view.Fingerprint(s)
		c := m.view.Taken(p.Peer, s)
		h.Scopes = append(h.Scopes, helloScope{Scope: []byte(s), Fingerprint: fp[:], Epoch: c.Epoch, N: c.N, Head: m.view.Head(s), Guest: !slices.Contains(p.own, s)})
	}
	m.send(p, kindHello, h)
}

// LinkDown says that the link to p is gone.
func (m *Machine) LinkDown(id Peer) {
	delete(m.away, id)
	if p := m.peers[id]; p != nil {
		p.leave()
		m.near = nil
		p.linked, p.heard, p.scopes, p.pushed = false, false, nil, nil
		p.sent, p.got = memory{}, memory{}
	}
	m.pump()
}

// Changed says that changes of a scope were stored, or that the outbox grew. What
// arrives is sent when this was called, and not before: who waits a moment with
// it sends what comes in that moment together.
func (m *Machine) Changed(s crdt.Scope) {
	m.told[s] = m.view.Head(s)
	m.pump()
}

// Receive takes one message. A peer that breaks the rules is dropped.
func (m *Machine) Receive(id Peer, body []byte) {
	p := m.peers[id]
	read := m.receive
	if p == nil {
		p, read = m.away[id], m.overhear
	}
	if p == nil || !p.linked {
		return
	}
	if err := read(p, body); err != nil {
		m.ready.Drop = append(m.ready.Drop, Drop{id, fmt.Errorf("%w: %w", ErrProtocol, err)})
		m.LinkDown(id)
		return
	}
	m.pump()
}

// overhear keeps count of what a peer says that is no neighbour, and takes
// nothing of it.
func (m *Machine) overhear(p *peer, body []byte) error {
	kind, rest, err := p.got.split(body)
	if err != nil || kind != kindBatch {
		return err
	}
	var b batchMsg
	if err := decode(rest, &b); err != nil {
		return err
	}
	return m.batch(p, b)
}

func (m *Machine) receive(p *peer, body []byte) error {
	kind, rest, err := p.got.split(body)
	if err != nil {
		return err
	}
	switch kind {
	case kindHello:
		var h hello
		if err := decode(rest, &h); err != nil {
			return err
		}
		return m.hello(p, h)
	case kindBatch:
		var b batchMsg
		if err := decode(rest, &b); err != nil {
			return err
		}
		return m.batch(p, b)
	case kindAck:
		var a ackMsg
		if err := decode(rest, &a); err != nil {
			return err
		}
		m.acked(p, crdt.Scope(a.Scope), a.N)
	case kindDone:
		var d done
		if err := decode(rest, &d); err != nil {
			return err
		}
		if x := p.scopes[crdt.Scope(d.Scope)]; x != nil {
			x.done = &d
			x.differs = true
		}
	case kindWant:
		var w wantMsg
		if err := decode(rest, &w); err != nil {
			return err
		}
		if x := p.scopes[crdt.Scope(w.Scope)]; x != nil {
			if x.wants++; x.wants > maxWants {
				return fmt.Errorf("everything of scope %s was asked for %d times on one link", crdt.Scope(w.Scope), x.wants)
			}
			x.acked, x.sent, x.inflight, x.bounds, x.stale, x.differs = 0, 0, 0, nil, x.batches, true
			x.skipped, x.sketch, x.give, x.late = false, nil, nil, false
			x.express = express{seen: m.view.Head(crdt.Scope(w.Scope))}
			delete(p.clear, crdt.Scope(w.Scope))
			x.echo = m.view.Head(crdt.Scope(w.Scope)) // it may have lost its own
		}
	case kindCells:
		var c cellsMsg
		if err := decode(rest, &c); err != nil {
			return err
		}
		if s := crdt.Scope(c.Scope); p.scopes[s] != nil {
			return m.cells(p, s, p.scopes[s], c)
		}
	case kindMore:
		var o moreMsg
		if err := decode(rest, &o); err != nil {
			return err
		}
		if s := crdt.Scope(o.Scope); p.scopes[s] != nil {
			return m.more(p, s, p.scopes[s], o)
		}
	case kindNeed:
		var o needMsg
		if err := decode(rest, &o); err != nil {
			return err
		}
		if s := crdt.Scope(o.Scope); p.scopes[s] != nil {
			return m.need(s, p.scopes[s], o)
		}
	case kindAhead:
		var a aheadMsg
		if err := decode(rest, &a); err != nil {
			return err
		}
		m.ready.Ahead = append(m.ready.Ahead, Ahead{p.Peer, crdt.Stamp(a.Clock), a.Synced, crdt.Stamp(a.Newest), int(min(a.Count, 1<<20))})
	case kindPush:
		var b pushMsg
		if err := decode(rest, &b); err != nil {
			return err
		}
		if len(b.Changes) > maxPushed {
			return fmt.Errorf("%d changes pushed at once", len(b.Changes))
		}
		m.ready.Incoming = append(m.ready.Incoming, Incoming{Peer: p.Peer, Changes: b.Changes, Push: b.Seq, link: p.link})
	case kindPushed:
		var a pushedMsg
		if err := decode(rest, &a); err != nil {
			return err
		}
		if id, ok := p.pushed[a.Seq]; ok {
			delete(p.pushed, a.Seq)
			m.ready.Delivered = append(m.ready.Delivered, id)
		}
	}
	return nil // kinds of a later version are ignored
}

// batch takes changes of a scope that is shared.
func (m *Machine) batch(p *peer, b batchMsg) error {
	s := crdt.Scope(b.Scope)
	if p.counts[s] == nil && (!s.Valid() || len(p.counts) >= maxScopes) {
		return fmt.Errorf("a batch of scope %s, after those of %d others", s, len(p.counts))
	}
	if len(b.Changes) > maxTaken {
		return fmt.Errorf("a batch of %d changes", len(b.Changes))
	}
	size := 0
	for _, c := range b.Changes {
		size += len(c)
	}
	if size > maxTakenBytes {
		return fmt.Errorf("a batch of %d bytes", size)
	}
	c := p.count(s)
	c.received++
	if p.scopes[s] == nil {
		// A scope we do not share (any more), or not yet: nothing is taken.
		c.stored++
		m.send(p, kindAck, ackMsg{Scope: b.Scope})
		return nil
	}
	if len(b.Changes) == 0 {
		return errors.New("a batch without changes")
	}
	m.ready.Incoming = append(m.ready.Incoming, Incoming{Peer: p.Peer, Scope: s, Changes: b.Changes, Cursor: Cursor{p.epoch, b.N}, link: p.link})
	return nil
}

func (m *Machine) hello(p *peer, h hello) error {
	p.heard, p.epoch = true, h.Epoch
	m.ready.Clocks = append(m.ready.Clocks, Clock{p.Peer, crdt.Stamp(h.Clock)})
	p.scopes = map[crdt.Scope]*exchange{}
	if p.pushed == nil {
		p.pushed = map[uint64]crdt.ID{}
	}
	if m.welcome(p, h) || h.Answer {
		m.hail(p, false)
	}
	for _, hs := range h.Scopes {
		s := crdt.Scope(hs.Scope)
		if !slices.Contains(p.Shared, s) {
			if _, ok := s.Site(); ok {
				m.ready.Offered = append(m.ready.Offered, Scoped{p.Peer, s})
			}
			continue
		}
		m.ready.Heads = append(m.ready.Heads, Ack{p.Peer, s, hs.Head})
		c := p.count(s)
		x := &exchange{counts: c, stale: c.batches}
		m.told[s] = m.view.Head(s)
		x.seen = m.told[s]
		p.scopes[s] = x
		delete(p.clear, s)
		fp := m.view.Fingerprint(s)
		if string(fp[:]) == string(hs.Fingerprint) {
			delete(p.futile, s)
			x.acked, x.sent = m.view.Head(s), m.view.Head(s)
			m.ready.Acked = append(m.ready.Acked, Ack{p.Peer, s, x.acked})
			m.ready.Incoming = append(m.ready.Incoming, Incoming{Peer: p.Peer, Scope: s, Cursor: Cursor{h.Epoch, hs.Head}})
			m.ready.Equal = append(m.ready.Equal, Scoped{p.Peer, s})
			continue
		}
		x.differs = true
		if c := (Cursor{hs.Epoch, hs.N}); m.view.Believes(s, c) {
			x.acked, x.sent = c.N, c.N
			m.ready.Acked = append(m.ready.Acked, Ack{p.Peer, s, c.N})
		}
		if head := m.view.Head(s); x.acked == 0 && head >= worthComparing && hs.Head >= head/2 {
			// A neighbour that is new, or whose disk is an old one, and that has
			// about as much as we: probably the same.
			x.acked, x.sent, x.skipped = head, head, true
		}
		if x.skipped {
			continue
		}
		if s == crdt.Trust || x.acked != 0 || hs.Head >= worthComparing {
			x.give = m.firstOf(p, s, x.acked)
		} else {
			x.give = m.view.First(p.Peer, s)
		}
		x.late = s == crdt.Trust && len(x.give) > 0
	}
	return nil
}

// firstOf lists what goes first of a long backlog: nothing of one that is not, and
// nothing that the peer has taken.
func (m *Machine) firstOf(p *peer, s crdt.Scope, n uint64) []crdt.ID {
	size := 0
	for _, a := range m.view.After(s, n, 2*long) { // what came from the peer is no backlog
		if a.From != p.Peer {
			size += a.Size
		}
	}
	if size < long {
		return nil
	}
	first := m.view.First(p.Peer, s)
	if n == 0 || len(first) == 0 {
		return first
	}
	lacks := make(map[crdt.ID]bool, len(first))
	for _, id := range first {
		lacks[id] = false
	}
	for {
		as := m.view.After(s, n, long)
		if len(as) == 0 {
			break
		}
		for _, a := range as {
			if _, ok := lacks[a.ID]; ok && a.From != p.Peer {
				lacks[a.ID] = true
			}
			n = a.N
		}
	}
	return slices.DeleteFunc(first, func(id crdt.ID) bool { return !lacks[id] })
}

func (m *Machine) acked(p *peer, s crdt.Scope, n uint64) {
	c := p.counts[s]
	if c == nil {
		return // of a batch that was never sent
	}
	c.answered++
	m.ready.Answered = append(m.ready.Answered, Answered{p.Peer, s, c.answered})
	x := p.scopes[s]
	if x == nil || c.answered <= x.stale || n > x.sent {
		return
	}
	for len(x.bounds) > 0 && x.bounds[0].n <= n {
		last := x.bounds[0].n == n && x.bounds[0].size > 0 // several may have that number
		x.inflight -= x.bounds[0].size
		x.ahead -= x.bounds[0].express
		x.bounds = x.bounds[1:]
		if last {
			break
		}
	}
	for len(x.bounds) > 0 && x.bounds[0].size == 0 { // nothing had to be sent for these
		n, x.bounds = max(n, x.bounds[0].n), x.bounds[1:]
	}
	if n > x.acked {
		x.acked = n
		m.ready.Acked = append(m.ready.Acked, Ack{p.Peer, s, n})
	}
}

// Stored says that what Ready.Incoming named is durable (applied, held or known
// before): the peer may forget that it owes it.
func (m *Machine) Stored(in Incoming) {
	p := m.peers[in.Peer]
	if p == nil {
		p = m.away[in.Peer]
	}
	if p == nil || !p.linked {
		return
	}
	// Also while another hello is awaited: acknowledgements are counted.
	switch {
	case in.Push != 0 && in.link == p.link:
		m.send(p, kindPushed, pushedMsg{Seq: in.Push})
	case len(in.Changes) > 0 && in.link == p.link:
		m.send(p, kindAck, ackMsg{Scope: []byte(in.Scope), N: in.Cursor.N})
		p.count(in.Scope).stored++
	}
	m.pump()
}

// Ready returns the work and forgets it.
func (m *Machine) Ready() Ready {
	r := m.ready
	m.ready = Ready{}
	return r
}

// Owed counts what a neighbour has not acknowledged, up to limit, and the
// outbox entries that could go to it. What was found to be no debt is not looked
// at again.
func (m *Machine) Owed(id Peer, limit int) (changes int) {
	p := m.peers[id]
	if p == nil {
		return 0
	}
	if p.doubt && !(p.linked && p.heard) {
		changes = 1 // it is owed a question
	}
	for _, s := range p.Shared {
		n := m.view.Acked(id, s)
		if x := p.scopes[s]; x != nil && !x.skipped {
			n = x.acked
		}
		n = max(n, p.clear[s])
		none := true
		look := 1 << 10 // often there is none, or the first answers
		for changes < limit {
			as := m.view.After(s, n, look)
			look = min(2*look, batch)
			if len(as) == 0 {
				break
			}
			for _, a := range as {
				n = a.N
				if a.From != id {
					changes++
					none = false
				}
			}
			if none {
				if p.clear == nil {
					p.clear = map[crdt.Scope]uint64{}
				}
				p.clear[s] = n
			}
		}
		if changes >= limit {
			return limit
		}
	}
	if len(p.Holds) == 0 {
		return changes
	}
	for _, o := range m.view.Outbox() {
		if changes >= limit {
			break
		}
		if slices.Contains(p.Holds, o.Scope) {
			changes++
		}
	}
	return changes
}

// Doubt says that this node may lack what others believe it has: its disk was
// set back, or damaged. Nobody owes it that, so it has to ask: every neighbour
// is asked until what both have was compared to its end.
func (m *Machine) Doubt() {
	for _, p := range m.peers {
		p.doubt = len(p.Shared) > 0 && !p.compared()
	}
	m.pump()
}

// compared says that on the present link nothing is left to compare.
func (p *peer) compared() bool {
	if !p.linked || !p.heard {
		return false
	}
	for _, s := range p.Shared {
		if x := p.scopes[s]; x != nil && x.differs {
			return false
		}
	}
	return true
}

// Doubts says whether a neighbour is still to be asked.
func (m *Machine) Doubts() (yes bool) {
	for _, p := range m.peers {
		p.doubt = p.doubt && !p.compared()
		yes = yes || p.doubt
	}
	return yes
}

// Drained says that everything this node knew was acknowledged by id on the
// present link.
func (m *Machine) Drained(id Peer) bool {
	p := m.peers[id]
	return p != nil && p.linked && p.heard && m.Owed(id, 1) == 0
}
