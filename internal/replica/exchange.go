package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
	"carrierclass.net/ccnode/crdt/mutant"
	"carrierclass.net/ccnode/crdt/riblt"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/mesh"
)

// Pauses between two attempts to reach a peer that is owed something, each up to
// a fifth longer so that many boxes do not knock at once. An attempt that nobody
// answers is three packets of 60 octets, and mesh.md grants 1,500 octets an hour:
// eight attempts. Four of them are the longest pause's, the first hour's too, so
// four are left for a cut that was short.
var pauses = [...]time.Duration{
	firstPause, 3 * time.Second, // after a refusal: its program may be starting again
	7 * time.Second, 15 * time.Second, 40 * time.Second, 110 * time.Second, lastPause,
}

const (
	firstPause  = time.Second
	silentPause = 7 * time.Second // the first one after an attempt that nobody answered,
	quickly     = time.Second     // that is, not within this time
	lastPause   = 15 * time.Minute
)

type cursorKey struct {
	peer  Peer
	scope crdt.Scope
}

// cursors are how far a peer and we have taken each other's arrivals.
type cursors struct {
	Taken antientropy.Cursor `cbor:"1,keyasint"` // ours into the peer's
	Acked uint64             `cbor:"2,keyasint"` // the peer's into ours
}

// exchange is the engine's side of the mesh. Everything in it is owned by Run,
// except where noted.
type exchange struct {
	e         *Engine
	epoch     uint32
	machine   *antientropy.Machine
	sketchKey riblt.Key // so that nobody can prepare ids that collide
	events    <-chan mesh.Event
	timer     *time.Timer // nil in a Stepper
	due       time.Time   // in a Stepper: when tick is to be called, zero: not
	cursors   map[cursorKey]*cursors
	stalled   []*delivery          // could not be stored; tried again
	queues    map[Peer][]*delivery // the first of each is being verified
	out       []antientropy.Out    // the outbox in its order; nil: to be sorted again
	dirty     map[crdt.Scope]bool  // changed and not yet told to the machine
	flushAt   time.Time            // when dirty is told
	rng       *rand.Rand
	submit    chan *delivery // to the goroutine that feeds the pool
	kept      int            // frames kept as evidence
	rolled    bool           // a new actor was drawn on evidence
	doubt     bool           // the disk lost something: each neighbour is to be asked once
	ask       bool           // the machine is to be told of that

	mu    sync.Mutex // guards what follows, read by Status
	peers map[Peer]*contact
	acked map[cursorKey]uint64 // as in cursors
	taken map[cursorKey]uint64 // as in cursors
}

// contact is what is known of reaching one peer.
type contact struct {
	linked  bool
	since   time.Time // of the link
	heard   time.Time // last message
	attempt time.Time // last dial
	err     error     // of the last attempt, nil if it worked
	failing time.Time // since when attempts fail
	pause   time.Duration
	waiting time.Time // since when something sent was followed by nothing from it
	next    time.Time // next dial, zero if none is due
	equal   map[crdt.Scope]time.Time
	differ  map[crdt.Scope]time.Time
	pace    pace                  // owned by Run
	heads   map[crdt.Scope]uint64 // its last numbers, at its last hello
	ahead   time.Duration         // its clock before ours, at its last hello
	told    told                  // that our own changes wait there
	refused error                 // why its link was dropped by us
}

func (x *exchange) init(e *Engine) {
	x.e = e
	x.cursors = map[cursorKey]*cursors{}
	x.queues = map[Peer][]*delivery{}
	x.dirty = map[crdt.Scope]bool{}
	x.peers = map[Peer]*contact{}
	x.acked, x.taken = map[cursorKey]uint64{}, map[cursorKey]uint64{}
	x.submit = make(chan *delivery, 1024)
	x.machine = antientropy.New(machineView{e})
}

func (x *exchange) start(ctx context.Context, wg *sync.WaitGroup) {
	x.timer = time.NewTimer(time.Hour)
	x.timer.Stop()
	if x.e.cfg.Mesh != nil {
		x.events = x.e.cfg.Mesh.Events()
	}
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case d := <-x.submit:
				if x.e.verifiers.submit(ctx, d) != nil {
					return
				}
			}
		}
	})
	x.begin()
}

// begin makes the first plans.
func (x *exchange) begin() {
	seed, err := x.e.random32()
	if err != nil {
		x.e.log.Warn("No random number for the pauses between attempts", "err", err)
	}
	x.rng = rand.New(rand.NewPCG(uint64(seed), uint64(x.epoch)))
	x.machine.Configure(x.e.cfg.Topo.Neighbours())
	x.ask = x.doubt
	x.drain()
}

func (x *exchange) stop() { x.timer.Stop() }

func (x *exchange) cursor(p Peer, s crdt.Scope) *cursors {
	k := cursorKey{p, s}
	c := x.cursors[k]
	if c == nil {
		c = &cursors{}
		x.cursors[k] = c
	}
	return c
}

// setAcked lets Status see how far a peer is.
func (x *exchange) setAcked(k cursorKey, n uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.acked[k] = n
}

// note puts a cursor on the list of what the next transaction writes.
func (x *exchange) note(k cursorKey) {
	if x.e.chores.cursors == nil {
		x.e.chores.cursors = map[cursorKey]struct{}{}
	}
	x.e.chores.cursors[k] = struct{}{}
}

func (x *exchange) contact(p Peer) *contact {
	c := x.peers[p]
	if c == nil {
		c = &contact{equal: map[crdt.Scope]time.Time{}, differ: map[crdt.Scope]time.Time{}, heads: map[crdt.Scope]uint64{}}
		x.peers[p] = c
	}
	return c
}

// handle takes one event of the mesh.
func (x *exchange) handle(ev mesh.Event) {
	if x.e.cfg.Blobs != nil && x.e.cfg.Blobs.handle(ev) {
		return
	}
	if x.e.cfg.LinkChanged != nil && ev.Kind != mesh.Received {
		x.e.cfg.LinkChanged(ev)
	}
	now, peer := x.e.cfg.Now(), Peer(ev.Peer)
	x.mu.Lock()
	c := x.contact(peer)
	switch ev.Kind {
	case mesh.LinkUp:
		c.linked, c.since, c.heard, c.err, c.failing, c.next, c.waiting = true, now, now, nil, time.Time{}, time.Time{}, time.Time{}
	case mesh.LinkDown:
		if c.linked && now.Sub(c.since) > c.pause {
			c.pause = 0 // it had worked
		} else if c.linked && c.pause > 0 {
			c.next = now.Add(x.jitter(c.pause)) // it comes up and goes: not again at once
		}
		if c.linked = false; ev.Err != nil {
			c.err = ev.Err
			if c.failing.IsZero() {
				c.failing = now
			}
			if c.pause > 0 && c.pause < silentPause && !c.next.IsZero() && now.Sub(c.attempt) > quickly {
				c.pause = silentPause
				c.next = c.attempt.Add(x.jitter(c.pause))
			}
		}
	case mesh.Received:
		c.heard, c.waiting = now, time.Time{}
	}
	x.mu.Unlock()
	switch ev.Kind {
	case mesh.LinkUp:
		c.pace.reset()
		x.machine.LinkUp(peer)
		x.machine.Pace(peer, c.pace.window)
	case mesh.LinkDown:
		x.forgetQueue(peer)
		x.machine.LinkDown(peer)
		x.arm()
	case mesh.Received:
		if f := guard(func() {
			x.e.plant("receive", ev.Body)
			x.machine.Receive(peer, ev.Body)
		}); f != nil {
			x.e.log.Error("A message made this program fail, its link is dropped", "peer", ev.Peer, "panic", f.what, "stack", f.stack)
			x.drop(peer, fmt.Errorf("a message of it made this program fail: %s", f.what))
			return
		}
		if x.machine.Owed(peer, 1) > 0 {
			x.await(peer)
		}
	}
}

// forgetQueue drops what a lost link left unverified: the peer still owes it.
func (x *exchange) forgetQueue(p Peer) {
	if q := x.queues[p]; len(q) > 1 {
		x.queues[p] = q[:1]
	}
	x.stalled = slices.DeleteFunc(x.stalled, func(d *delivery) bool { return d.peer == p })
}

// merged notes what a turn brought; it is told to peers after the coalescing
// time, so that changes that come together travel together.
func (x *exchange) merged(t *turn) {
	for i := range t.staged {
		if s := &t.staged[i]; !s.keep {
			x.dirty[s.c.Scope] = true
		}
	}
	if len(x.dirty) > 0 && x.flushAt.IsZero() {
		x.flushAt = t.now.Add(x.e.cfg.Coalesce)
		x.arm()
	}
}

// tick does what is due: tell the machine of changes, dial again.
func (x *exchange) tick() {
	now := x.e.cfg.Now()
	if !x.flushAt.IsZero() && !now.Before(x.flushAt) {
		x.flushAt = time.Time{}
		for _, s := range slices.SortedFunc(mapKeys(x.dirty), crdt.Scope.Compare) {
			x.machine.Changed(s)
		}
		clear(x.dirty)
	}
	x.silent(now)
	x.drain()
	due := map[Peer]bool{} // whose pause is over; who is no neighbour any more is not dialled again
	x.mu.Lock()
	for p, c := range x.peers {
		if !c.linked && !c.next.IsZero() && !now.Before(c.next) {
			c.next = time.Time{}
			due[p] = true
		}
	}
	x.mu.Unlock()
	if len(due) > 0 {
		for _, n := range x.e.cfg.Topo.Neighbours() {
			if due[n.Peer] && !n.Pause && x.machine.Owed(n.Peer, 1) > 0 {
				x.dial(n.Peer)
			}
		}
	}
	x.arm()
}

// dial tries to reach a peer that is owed something, and sets the time of the
// next attempt.
func (x *exchange) dial(p Peer) {
	if x.e.cfg.Mesh == nil {
		return
	}
	now := x.e.cfg.Now()
	x.mu.Lock()
	c := x.contact(p)
	c.attempt = now
	c.pause = longer(c.pause)
	c.next = now.Add(x.jitter(c.pause))
	x.mu.Unlock()
	x.e.cfg.Mesh.Dial(mesh.PeerID(p))
}

// longer is the pause after another one.
func longer(pause time.Duration) time.Duration {
	for _, p := range pauses {
		if p > pause {
			return p
		}
	}
	return lastPause
}

// jitter is a pause and up to a fifth: never less, or there were more attempts
// in an hour than it grants.
func (x *exchange) jitter(pause time.Duration) time.Duration {
	return pause + time.Duration(x.rng.Float64()*0.2*float64(pause))
}

// arm sets the timer to the next thing that is due; nothing due, no timer.
func (x *exchange) arm() {
	next := x.flushAt
	x.mu.Lock()
	for _, c := range x.peers {
		if !c.linked && !c.next.IsZero() && (next.IsZero() || c.next.Before(next)) {
			next = c.next
		}
		if c.linked && !c.waiting.IsZero() && (next.IsZero() || c.waiting.Add(answerTime).Before(next)) {
			next = c.waiting.Add(answerTime)
		}
	}
	x.mu.Unlock()
	switch {
	case x.timer == nil:
		x.due = next
	case next.IsZero():
		x.timer.Stop()
	default:
		x.timer.Reset(max(next.Sub(x.e.cfg.Now()), 0))
	}
}

// answerTime is how long a linked peer that is owed something may be silent
// after it was sent some of it.
const answerTime = 30 * time.Second

// await notes that p was sent something.
func (x *exchange) await(p Peer) {
	x.mu.Lock()
	if c := x.contact(p); c.waiting.IsZero() {
		c.waiting = x.e.cfg.Now()
	}
	x.mu.Unlock()
	x.arm()
}

// silent drops the links of peers that took what they were sent and never
// acknowledged it.
func (x *exchange) silent(now time.Time) {
	var late []Peer
	x.mu.Lock()
	for p, c := range x.peers {
		if c.linked && !c.waiting.IsZero() && !now.Before(c.waiting.Add(answerTime)) {
			c.waiting = time.Time{}
			late = append(late, p)
		}
	}
	x.mu.Unlock()
	slices.SortFunc(late, func(a, b Peer) int { return bytes.Compare(a[:], b[:]) })
	for _, p := range late {
		if x.machine.Owed(p, 1) > 0 {
			x.drop(p, fmt.Errorf("%w: nothing came for %v, though it is owed changes", mesh.ErrSilent, answerTime))
		}
	}
}

// drain does the machine's work until there is none.
func (x *exchange) drain() {
	for {
		if x.ask {
			x.ask = false
			if !mutant.Is(mutant.NoDoubt) {
				x.machine.Doubt()
			}
		}
		r := x.machine.Ready()
		if len(r.Incoming)+len(r.Acked)+len(r.Delivered)+len(r.Messages)+len(r.Drop)+len(r.Dial)+len(r.Offered)+len(r.Equal)+len(r.Differ)+len(r.Clocks)+len(r.Ahead)+len(r.Answered) == 0 {
			return
		}
		for _, in := range r.Incoming {
			x.take(in)
		}
		for _, a := range r.Acked {
			if c := x.cursor(a.Peer, a.Scope); c.Acked != a.N {
				c.Acked = a.N
				x.setAcked(cursorKey{a.Peer, a.Scope}, a.N)
				x.note(cursorKey{a.Peer, a.Scope})
			}
		}
		if len(r.Delivered) > 0 {
			x.e.mu.Lock()
			for _, id := range r.Delivered {
				delete(x.e.outbox, id)
				x.out = nil
			}
			x.e.mu.Unlock()
			x.e.chores.delivered = append(x.e.chores.delivered, r.Delivered...)
		}
		x.fit(r.Answered)
		for _, m := range r.Messages {
			if m.Batch != 0 {
				x.paceOf(m.Peer).sent(m, x.e.cfg.Now())
			}
			if x.e.cfg.Mesh != nil {
				x.e.cfg.Mesh.Send(mesh.Frame{Peer: mesh.PeerID(m.Peer), Class: mesh.Urgent, Body: m.Body, Quiet: m.Quiet})
				x.await(m.Peer)
			}
		}
		for _, d := range r.Drop {
			x.drop(d.Peer, d.Why)
		}
		for _, p := range r.Dial {
			x.mu.Lock()
			waiting := !x.contact(p).next.IsZero()
			x.mu.Unlock()
			if !waiting {
				x.dial(p)
			}
		}
		now := x.e.cfg.Now()
		x.mu.Lock()
		for _, h := range r.Heads {
			x.contact(h.Peer).heads[h.Scope] = h.N
		}
		for _, s := range r.Equal {
			x.contact(s.Peer).equal[s.Scope] = now
			delete(x.contact(s.Peer).differ, s.Scope)
		}
		for _, s := range r.Differ {
			x.contact(s.Peer).differ[s.Scope] = now
			delete(x.contact(s.Peer).equal, s.Scope)
		}
		x.mu.Unlock()
		if x.doubt && !x.ask && len(r.Clocks)+len(r.Equal)+len(r.Differ) > 0 && !x.machine.Doubts() {
			x.doubt = false
			x.e.chores.dead = append(x.e.chores.dead, keyDoubt)
			x.believe(now)
		}
		for _, c := range r.Clocks {
			x.compareClocks(c, x.e.wall())
			x.tellAhead(c.Peer)
		}
		for _, a := range r.Ahead {
			x.toldAhead(a)
		}
		for _, o := range r.Offered {
			if x.e.cfg.Offered != nil {
				x.e.cfg.Offered(o.Peer, o.Scope)
			}
		}
		x.arm()
	}
}

func (x *exchange) paceOf(p Peer) *pace {
	x.mu.Lock()
	defer x.mu.Unlock()
	return &x.contact(p).pace
}

// fit tells the machine what the lines carry.
func (x *exchange) fit(answered []antientropy.Answered) {
	for _, a := range answered {
		if p := x.paceOf(a.Peer); p.answered(a, x.e.cfg.Now()) {
			x.machine.Pace(a.Peer, p.window)
		}
	}
}

// compareClocks notes how a neighbour's clock differs, and takes its time if
// ours is clearly wrong.
func (x *exchange) compareClocks(c antientropy.Clock, now time.Time) {
	e := x.e
	synced := e.cfg.Synced()
	e.mu.Lock()
	took := e.clock.borrow(c.Stamp, now, synced)
	ours := e.clock.now(now, synced)
	e.mu.Unlock()
	ahead := time.Duration(c.Stamp.Millis()-ours.Millis()) * time.Millisecond
	x.mu.Lock()
	x.contact(c.Peer).ahead = ahead
	x.mu.Unlock()
	switch {
	case took:
		e.log.Warn("This box's clock is wrong, a neighbour's is used", "peer", mesh.PeerID(c.Peer))
		e.inbox.wake()
	case ahead.Abs() > tolerance:
		e.log.Warn("A neighbour's clock differs", "peer", mesh.PeerID(c.Peer), "ahead", ahead)
	}
}

func (x *exchange) drop(p Peer, why error) {
	x.e.log.Warn("Link dropped", "peer", mesh.PeerID(p), "err", why)
	x.mu.Lock()
	x.contact(p).refused = why
	x.mu.Unlock()
	x.forgetQueue(p)
	x.machine.LinkDown(p) // what is still on its way is not taken: a cursor must not pass what was refused
	if x.e.cfg.Mesh != nil {
		x.e.cfg.Mesh.Drop(mesh.PeerID(p), why)
	}
}

// take decodes what a peer sent and sends it through the pool. What one peer
// sent is stored in its order, because a cursor covers all before it.
func (x *exchange) take(in antientropy.Incoming) {
	d := &delivery{peer: in.Peer, scope: in.Scope}
	for _, raw := range in.Changes {
		d.size += len(raw)
	}
	if waiting := x.waiting(in.Peer); waiting+d.size > maxWaiting {
		x.drop(in.Peer, fmt.Errorf("%d bytes from it wait to be stored, and it sends on", waiting))
		return
	}
	if in.Cursor != (antientropy.Cursor{}) && in.Scope != "" {
		if len(in.Changes) == 0 && x.cursor(in.Peer, in.Scope).Taken == in.Cursor {
			return
		}
		d.cursor = &in.Cursor
	}
	for _, raw := range in.Changes {
		c, err := x.e.decode(raw)
		if p := (*errPoison)(nil); errors.As(err, &p) {
			d.changes = append(d.changes, &incoming{c: c, poison: p.what})
			continue
		}
		if err == nil && in.Scope != "" && c.Scope != in.Scope {
			err = fmt.Errorf("a change of scope %s among those of %s", c.Scope, in.Scope)
		}
		if err != nil {
			x.evidence(in.Peer, raw, err)
			return
		}
		d.changes = append(d.changes, &incoming{c: c})
	}
	d.then = func(err, refused error) {
		q := x.queues[d.peer]
		first := len(q) > 0 && q[0] == d
		if first {
			q = q[1:]
			delete(x.queues, d.peer)
		}
		switch {
		case err != nil && mutant.Is(mutant.AckUnstored):
			x.machine.Stored(in)
		case err != nil && first: // what follows waits, too: its cursor says that all before it is here
			x.stalled = append(append(x.stalled, d), q...)
		case err != nil: // its link is gone: the peer still owes it
		case refused != nil: // what follows is not taken
			x.evidence(d.peer, nil, refused)
		default:
			if first && len(q) > 0 {
				x.queues[d.peer] = q
				x.feed(q[0])
			}
			x.machine.Stored(in)
		}
	}
	if slices.ContainsFunc(x.stalled, func(s *delivery) bool { return s.peer == d.peer }) {
		x.stalled = append(x.stalled, d)
		return
	}
	x.enqueue(d)
}

// maxWaiting bounds the bytes of one peer that wait to be stored; an honest one
// has at most 256 kB under way.
const maxWaiting = 4 << 20

// waiting is how much of a peer waits to be stored.
func (x *exchange) waiting(p Peer) (bytes int) {
	for _, d := range x.queues[p] {
		bytes += d.size
	}
	for _, d := range x.stalled {
		if d.peer == p {
			bytes += d.size
		}
	}
	return bytes
}

func (x *exchange) enqueue(d *delivery) {
	q := append(x.queues[d.peer], d)
	x.queues[d.peer] = q
	if len(q) == 1 {
		x.feed(d)
	}
}

func (x *exchange) feed(d *delivery) {
	select {
	case x.submit <- d:
	default:
		// More peers than the pool has room for: the link is tried again later.
		delete(x.queues, d.peer)
		x.drop(d.peer, fmt.Errorf("too much to verify at once"))
	}
}

// unstall tries again to store what a failed disk refused.
func (x *exchange) unstall() {
	if x.e.readOnly != nil && !isLow(x.e.cfg.Disk) {
		return
	}
	stalled := x.stalled
	x.stalled = nil
	for _, d := range stalled {
		x.enqueue(d)
	}
}

func isLow(d disk.Store) bool {
	sp, err := d.Space()
	return err == nil && !sp.Low()
}

// maxEvidence bounds the frames kept in one run.
const maxEvidence = 64

// evidence keeps a frame that an honest relay would not have passed on, and
// drops the link (state.md §5).
func (x *exchange) evidence(p Peer, raw []byte, why error) {
	x.drop(p, why)
	if raw == nil || x.kept >= maxEvidence {
		return
	}
	x.kept++
	key := append(append([]byte("ev/"), p[:]...), raw[:min(16, len(raw))]...)
	x.e.enqueue(func(t *turn) { t.batch.Put(key, raw[:min(len(raw), 2*crdt.MaxChange)]) })
}
