// Package replica is the one writer: the engine that owns this node's actor and
// clock, everything that changes the replicated state, and what is owed to
// other nodes.
//
// Its law: persist, then merge, then send, then answer. A write is acknowledged
// when it is on this node's disk; it waits for no other node. One turn takes
// everything that waited during the previous fsync, as one transaction; local
// writes go first. After a failed append, or with too little space, the engine
// reads and serves on and refuses writes with the reason. Nothing is said when
// nothing is owed: the only timer that touches the mesh retries what a peer has
// not acknowledged.
package replica

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/mesh"
)

// Sentinels a caller branches on.
var (
	// ErrReadOnly: the engine takes no writes at the moment; the text says why.
	ErrReadOnly = errors.New("this node takes no changes at the moment")
	// ErrStopped: the engine has ended.
	ErrStopped = errors.New("the replica engine has stopped")
	// ErrPurged: the record was removed for good; nothing can be written to it.
	ErrPurged = errors.New("the record was purged")
	// ErrForbidden: this node's grant does not allow the write; others would
	// refuse it and the link it comes over.
	ErrForbidden = errors.New("this node may not write that")
	// ErrUnknownChange: there is no change with that id among the held ones.
	ErrUnknownChange = errors.New("no such held change")

	// ErrTooManyHeld: no more changes are held until a person has decided about
	// some of those that are.
	ErrTooManyHeld = errors.New("too many changes are held already")

	// ErrProgram: this program failed on the write; another version may not.
	ErrProgram = errors.New("this program fails on that")

	errTooMuchOwed = errors.New("too much of it is here alone")
)

// View is the state at one moment. It is only valid during the call that was
// given it, and must not be altered.
type View interface {
	// Set returns the live changes of a scope; an empty set if this node does
	// not hold it. It is never nil.
	Set(scope crdt.Scope) *crdt.Set
}

// A Mutation is what one person or one rule wants changed, as one change.
type Mutation struct {
	Scope  crdt.Scope
	Writes []crdt.Write // Ctx is ignored; the engine knows it
	By     crdt.Ref     // the person, token or system rule that asks

	// Token says what the person had seen of each cell (the ETag of the read);
	// a cell that is missing was not there. Nil: whoever writes means the
	// node's present cell.
	Token map[crdt.Cell]crdt.Context

	Ext map[uint64][]byte // signed extras, as raw CBOR

	// Auth is what the change is written under, if not this node's own grant:
	// the session of an administrator, which is in Ext.
	Auth crdt.Ref

	// Precondition is asked in the engine's turn, with all earlier writes
	// merged; its error is Commit's. It must be quick and not call the engine.
	Precondition func(View) error
}

// A Receipt names the change a mutation became.
type Receipt struct {
	ID    crdt.ID
	Stamp crdt.Stamp
}

// Outcome is what a Gate says about a change.
type Outcome uint8

const (
	Accept Outcome = iota // merge it
	Hold                  // keep it, acknowledge it, try again when trust or time moves
	Refuse                // the relay should have seen it: drop the link
)

func (o Outcome) String() string { return [...]string{"accept", "hold", "refuse"}[o] }

// A Verdict is an Outcome with its reason in words.
type Verdict struct {
	Outcome Outcome
	Reason  string
}

// A Gate decides which changes are members' (state.md §5 b and d). Key is
// called from several goroutines at once, Admit from the engine's.
type Gate interface {
	// Key returns the Ed25519 key of the node that signed c, if its grant is
	// known; if not, c is held.
	Key(c *crdt.Change) (pub []byte, ok bool)
	// Admit judges a change whose signature is good, and what this node itself
	// is about to write. It must be a function of the change and of the grants
	// in v.
	Admit(c *crdt.Change, v View) Verdict
}

// Peer names another node.
type Peer = antientropy.Peer

// A Topology says what this node holds and with whom it exchanges it. It is
// asked again after Engine.TopologyChanged, from the engine's goroutine.
type Topology interface {
	Holds(scope crdt.Scope) bool
	Neighbours() []antientropy.Neighbour
}

// Config is what an Engine needs. Everything without a default is required.
type Config struct {
	Node  crdt.NodeID
	Fleet crdt.FleetID
	Auth  crdt.Ref                // the grant this node writes under, until UseGrant
	Sign  func(msg []byte) []byte // Ed25519 with the node's key

	Disk disk.Store
	Gate Gate
	Topo Topology

	// Mesh carries frames to other nodes. The engine reads its events until Run
	// ends. Nil for a node without one.
	Mesh mesh.Mesh

	Now    func() time.Time
	Random io.Reader // used by one goroutine at a time
	Log    *slog.Logger

	// Wall is the time of day, which stamps are made of; Now measures how long
	// things take. Nil: they are one.
	Wall func() time.Time
	// Verify checks a change's signature. Nil: Change.Verify.
	Verify func(c *crdt.Change, pub []byte) bool
	// Decode reads a change; it is called from several goroutines at once, and what
	// it returns is never altered. Nil: crdt.Decode. A simulation of many nodes
	// hands out one copy.
	Decode func(raw []byte) (*crdt.Change, error)

	// Synced says whether the wall clock is NTP-synchronous. Nil: never.
	Synced func() bool
	// Machine identifies the hardware (disk serial, MAC, VM generation id). If
	// it is not what it was, the disk was copied and a new actor is drawn.
	Machine string
	// TrustMoved is called in the engine's turn after changes of the trust
	// scope were merged and before anything else is judged. It must be quick
	// and not call the engine. May be nil.
	TrustMoved func(v View, cells []crdt.Cell)

	// Equivocal is told, after the merge, of two changes that one node signed
	// under one dot: it was copied, or cheats. It must be quick and not call the
	// engine. May be nil.
	Equivocal func(a, b *crdt.Change)

	// First lists what a peer that has nothing of a scope needs before the rest,
	// in the order in which it needs it. It is asked once for such a peer, from
	// the engine's goroutine, and must not call the engine. May be nil.
	First func(v View, p Peer, scope crdt.Scope) []crdt.ID

	// Offered is told of a scope of a site that a peer wishes to exchange and that
	// is not shared with it. It must be quick and not call the engine. May be nil.
	Offered func(Peer, crdt.Scope)

	// Blobs gets the frames of recordings that come over the engine's mesh. May
	// be nil.
	Blobs *Blobs
	// LinkChanged hears of links coming, going and failing, from the engine's
	// goroutine: evidence for others. It must be quick and not call the engine.
	// May be nil.
	LinkChanged func(mesh.Event)

	Verifiers   int           // goroutines that verify signatures; default 2
	Coalesce    time.Duration // how long a change may wait for others on its way out; default 50 ms
	HistoryKeep time.Duration // displaced versions are kept this long; default 90 days
	// HistoryBytes is how much of them is kept on disk; the oldest go first.
	// Default 8 MB, about 35,000 values.
	HistoryBytes int
	// Remember says whether what a cell said is worth a place in the history. It
	// must be quick and not call the engine. Nil: of every cell.
	Remember func(crdt.Cell) bool
	MaxHeld  int // held changes kept at most, an eighth of it of one author; default 20,000

	// Program says which program this is. A change on which another one failed is
	// judged again.
	Program string
	plant   func(where string, raw []byte) // tests make the program fail

	// Quota bounds what one other node can make this one keep. Zero:
	// crdt.DefaultQuota.
	Quota crdt.Quota
	// Removal says whether a change takes something away that is here, and has to
	// count at once: a revocation, a ban. It has a reserve of its own, as large as
	// the quota. It is called like Gate.Admit. Nil: no change is.
	Removal func(c *crdt.Change, v View) bool

	// Vouches says whether a write of the trust scope means the same whoever says it
	// and when, so that it may be said again under another time. Nil: each does.
	Vouches func(crdt.Write) bool

	base *Base // in a simulation: what the disk is known to have, see NewStepperOn
}

func (c *Config) defaults() error {
	var bad []error
	need := func(ok bool, what string) {
		if !ok {
			bad = append(bad, errors.New("replica: "+what+" is missing"))
		}
	}
	need(c.Node != crdt.NodeID{}, "Node")
	need(c.Sign != nil, "Sign")
	need(c.Disk != nil, "Disk")
	need(c.Gate != nil, "Gate")
	need(c.Topo != nil, "Topo")
	need(c.Now != nil, "Now")
	need(c.Random != nil, "Random")
	need(c.Log != nil, "Log")
	if c.Wall == nil {
		c.Wall = c.Now
	}
	if c.Verify == nil {
		fleet := c.Fleet
		c.Verify = func(x *crdt.Change, pub []byte) bool { return x.Verify(fleet, pub) }
	}
	if c.Decode == nil {
		c.Decode = crdt.Decode
	}
	if c.Verifiers == 0 {
		c.Verifiers = 2
	}
	if c.Coalesce == 0 {
		c.Coalesce = 50 * time.Millisecond
	}
	if c.HistoryKeep == 0 {
		c.HistoryKeep = 90 * 24 * time.Hour
	}
	if c.HistoryBytes == 0 {
		c.HistoryBytes = 8 << 20
	}
	if c.Quota == (crdt.Quota{}) {
		c.Quota = crdt.DefaultQuota()
	}
	if c.Removal == nil {
		c.Removal = func(*crdt.Change, View) bool { return false }
	}
	if c.MaxHeld == 0 {
		c.MaxHeld = 20_000
	}
	if c.Synced == nil {
		c.Synced = func() bool { return false }
	}
	return errors.Join(bad...)
}

// Commit makes m a signed change and returns once it is on this node's disk and
// merged. It waits for no other node. If ctx ends first the change may still
// happen.
func (e *Engine) Commit(ctx context.Context, m Mutation) (Receipt, error) {
	l := &local{m: m, done: make(chan answer, 1)}
	if err := e.inbox.local(l); err != nil {
		return Receipt{}, err
	}
	select {
	case a := <-l.done:
		return a.receipt, a.err
	case <-ctx.Done():
		return Receipt{}, context.Cause(ctx)
	case <-e.stopped:
		select {
		case a := <-l.done:
			return a.receipt, a.err
		default:
			return Receipt{}, ErrStopped
		}
	}
}

// Submit takes a change that came another way than over a link: from a held
// list, or from a salvaged disk. It returns once the change is durable, merged
// or held.
func (e *Engine) Submit(ctx context.Context, raw []byte) (crdt.ID, Verdict, error) {
	c, err := e.decode(raw)
	in := &incoming{c: c, done: make(chan judged, 1)}
	if p := (*errPoison)(nil); errors.As(err, &p) {
		in.poison = p.what
	} else if err != nil {
		return crdt.ID{}, Verdict{Refuse, err.Error()}, nil
	}
	v, err := e.judged(ctx, Peer{}, in)
	return c.ID(), v, err
}

// View calls fn with the state of this moment. While fn runs nothing is merged,
// so it must be quick, and must not call the engine.
func (e *Engine) View(fn func(View)) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	fn(view{e})
}

type view struct{ e *Engine }

func (v view) Set(scope crdt.Scope) *crdt.Set {
	if s := v.e.scopes[scope]; s != nil {
		return s.set
	}
	return crdt.NewSet(scope)
}

// has says whether a change is live; a scope that nobody wrote to is not made.
func (v view) has(c *crdt.Change) bool {
	s := v.e.scopes[c.Scope]
	return s != nil && s.set.Has(c.ID())
}

// Now is the node's hybrid logical clock: no stamp of a change merged here is
// greater.
func (e *Engine) Now() crdt.Stamp {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.clock.now(e.wall(), e.cfg.Synced())
}

// AdoptTime moves the clock of a node that has none of its own to that of the
// peer it joins through (state.md §5). A clock that is ahead already stays.
func (e *Engine) AdoptTime(ctx context.Context, s crdt.Stamp) error {
	return e.wait(ctx, e.enqueue(func(t *turn) {
		t.last = max(t.last, s)
		t.batch.Put(keyClock, encode(t.last))
		t.after = append(t.after, func() {
			e.mu.Lock()
			e.clock.witness(s)
			e.mu.Unlock()
		})
	}))
}

// Watch lets fn know of every merge that may have changed cells, of local and
// of received changes alike, in order, with no lock held. fn runs in a
// goroutine of the engine's and may call it; a slow fn delays only the other
// watchers. Changes merged before Watch are not told.
func (e *Engine) Watch(fn func(scope crdt.Scope, cells []crdt.Cell)) (cancel func()) {
	return e.watchers.add(fn)
}
