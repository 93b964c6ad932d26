package replica

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
)

// Engine is the one writer of this node's replicated state. New reads it from
// disk, Run does the work.
type Engine struct {
	renewed atomic.Pointer[crdt.Ref] // the grant this node writes under instead of cfg.Auth

	// set at New, then constant
	cfg       Config
	log       *slog.Logger
	inbox     *inbox
	verifiers *pool
	watchers  *watchers
	stopped   chan struct{} // closed when Run ends

	mu       sync.RWMutex // guards what follows; only Run writes it
	scopes   map[crdt.Scope]*scope
	clock    clock
	actor    uint32
	self     crdt.ActorID
	held     map[crdt.ID]*heldChange
	dropped  map[crdt.ID]*Dropped
	buckets  map[crdt.NodeID]*crdt.Bucket // what authors brought themselves, lately
	left     map[crdt.NodeID]int          // changes of authors that were not kept here since the start
	outbox   map[crdt.ID]*outgoing
	readOnly error                 // why no writes are taken; nil if they are
	poisons  map[crdt.ID]*poisoned // on which this run of the program failed
	reports  []string              // damage found and what was done, for the person on site

	// owned by Run: the next try to reopen a disk that failed
	retryAt    time.Time
	retryPause time.Duration

	// owned by Run
	history    memory
	chores     chores
	spared     map[crdt.Scope]time.Time // not to be held any more, since when
	sparedBy   *time.Timer              // fires when that was long enough ago
	mends      mender                   // of a clock that is ahead
	hurt       bool                     // the last load found changes missing
	start      *disk.Batch              // what the start could not write yet
	unnumbered []numbered               // entries of the arrival index to be written
	judgeHeld  bool                     // trust moved: judge the held changes again
	trustMoves uint64                   // merges that changed the trust scope

	x exchange
}

// scope is one scope as this node has it.
type scope struct {
	name     crdt.Scope
	set      *crdt.Set
	stored   crdt.LtHash // of the ids under c/, live or about to be deleted
	arrivals arrivals
	epochs   []epoch
	noted    bool              // the epoch of this start is among epochs
	size     map[crdt.ID]int32 // while loading
}

// epoch is one start of the engine: the first arrival number it gave.
type epoch struct {
	_     struct{} `cbor:",toarray"`
	ID    uint32
	First uint64
}

// chores is work for the disk that may wait for the next transaction: it is
// found again at a start if a crash loses it.
type chores struct {
	prune     []pruned
	history   []past
	dead      [][]byte               // keys of what was forgotten
	delivered []crdt.ID              // outbox entries a holder has taken
	cursors   map[cursorKey]struct{} // peers' cursors that changed
	since     bool                   // the history's beginning is to be written
}

type pruned struct {
	scope crdt.Scope
	id    crdt.ID
	n     uint64
}

func (c *chores) empty() bool {
	return len(c.prune) == 0 && len(c.history) == 0 && len(c.delivered) == 0 && len(c.dead) == 0 && len(c.cursors) == 0 && !c.since
}

// New reads the state from disk. Damage is set aside and reported by Status;
// what is missing comes back from peers by comparison of content.
func New(cfg Config) (*Engine, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg, log: cfg.Log, stopped: make(chan struct{}), buckets: map[crdt.NodeID]*crdt.Bucket{}, left: map[crdt.NodeID]int{}}
	e.inbox = newInbox()
	e.watchers = newWatchers(func(s crdt.Scope, f *failure) {
		e.log.Error("Somebody who follows changes failed on them", "scope", s, "panic", f.what, "stack", f.stack)
		e.mu.Lock()
		e.report(fmt.Sprintf("a part of this program failed on news of scope %s: %s", s, f.what))
		e.mu.Unlock()
	})
	e.verifiers = newPool(e)
	e.x.init(e)
	if err := e.load(); err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	return e, nil
}

// Run does the work until ctx ends, whose cause it returns. It must be called
// once.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		close(e.stopped)
		e.inbox.close()
		wg.Wait()
		e.x.stop()
	}()
	e.verifiers.run(wctx, &wg)
	wg.Go(func() { e.watchers.run(wctx) })
	e.x.start(wctx, &wg)
	housekeeping := time.NewTimer(choreDelay)
	defer housekeeping.Stop()
	armed := true
	later := func() { // work without a pause does not put it off
		if !armed {
			armed = true
			housekeeping.Reset(choreDelay)
		}
	}
	for {
		select {
		case <-ctx.Done():
			e.flush()
			return context.Cause(ctx)
		case <-e.inbox.signal:
			for e.turn() && ctx.Err() == nil {
			}
			if e.needsCare() {
				later()
			}
		case ev, ok := <-e.x.events:
			if !ok {
				e.x.events = nil
				continue
			}
			e.x.handle(ev)
			e.x.drain()
			if e.needsCare() {
				later()
			}
		case <-e.x.timer.C:
			e.x.tick()
		case <-housekeeping.C:
			armed = false
			e.care()
			if e.needsCare() {
				later()
			}
		}
	}
}

// choreDelay is how long deletions may wait for a transaction to ride on.
const choreDelay = time.Second

// needsCare says whether time alone will bring work: held changes wait for the
// clock, a failed disk for another try. The mesh is not touched by it.
func (e *Engine) needsCare() bool {
	return e.readOnly != nil || e.history.bytes > e.cfg.HistoryBytes || len(e.held) > 0 || !e.chores.empty() || len(e.x.stalled) > 0
}

// care does what time brings.
func (e *Engine) care() {
	if e.readOnly != nil {
		e.recoverDisk()
	}
	e.x.unstall()
	e.retryHeld()
	e.forgetHistory()
	e.flush()
	e.x.drain()
}

// flush writes the chores that are left.
func (e *Engine) flush() {
	if e.chores.empty() && len(e.unnumbered) == 0 || e.readOnly != nil {
		return
	}
	t := e.newTurn()
	t.commit()
}

// wall is the time of day.
func (e *Engine) wall() time.Time { return e.cfg.Wall() }

// need is scope for the engine's goroutine while it does not hold mu: readers
// may look at the map meanwhile.
func (e *Engine) need(name crdt.Scope) *scope {
	if s := e.scopes[name]; s != nil {
		return s
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.scope(name)
}

// scope returns a scope, made at its first change. The caller holds mu, or runs
// before anybody reads.
func (e *Engine) scope(name crdt.Scope) *scope {
	s := e.scopes[name]
	if s == nil {
		s = &scope{name: name, set: crdt.NewSet(name)}
		e.scopes[name] = s
	}
	return s
}

func (e *Engine) random32() (uint32, error) {
	var b [4]byte
	if _, err := io.ReadFull(e.cfg.Random, b[:]); err != nil {
		return 0, fmt.Errorf("draw a random number: %w", err)
	}
	return binary.BigEndian.Uint32(b[:]), nil
}

// fresh draws an actor that is not the present one.
func (e *Engine) fresh() (uint32, error) {
	for {
		a, err := e.random32()
		if err != nil || a != e.actor {
			return a, err
		}
	}
}

// adopt makes an actor the node's own; the caller puts it on disk first.
func (e *Engine) adopt(actor uint32) {
	e.actor, e.self = actor, crdt.MakeActor(e.cfg.Node, actor)
}

// report keeps a sentence for Status and logs it.
func (e *Engine) report(text string) {
	e.log.Error("State was damaged", "what", text)
	if len(e.reports) < maxReports && !slices.Contains(e.reports, text) { // a member that cheats could go on for ever
		e.reports = append(e.reports, text)
	}
}

// maxReports bounds the sentences kept for Status.
const maxReports = 256

// recoverDisk reopens a store that failed, reads what is really on it, and goes
// on. It tries at once and then with growing pauses.
func (e *Engine) recoverDisk() {
	now := e.cfg.Now()
	if now.Before(e.retryAt) {
		return
	}
	if sp, err := e.cfg.Disk.Space(); err == nil && sp.Low() {
		return // the next write tries
	}
	e.retryPause = min(max(2*e.retryPause, time.Second), time.Minute)
	e.retryAt = now.Add(e.retryPause)
	if err := e.cfg.Disk.Reopen(); err != nil {
		e.log.Error("Disk could not be reopened", "err", err)
		return
	}
	e.mu.Lock()
	err := e.reread()
	if err == nil {
		e.readOnly, e.retryPause = nil, 0
	}
	e.mu.Unlock()
	if err != nil {
		e.log.Error("State could not be read after the disk failed", "err", err)
		return
	}
	e.x.machine.Configure(e.cfg.Topo.Neighbours())
	e.log.Warn("Disk was reopened, changes are taken again")
}

// reread reads the state again, with the actor there is. The caller holds mu.
func (e *Engine) reread() error {
	last, actor := e.clock.last, e.actor
	// What was read before is served on if it cannot be read again.
	scopes, held, dropped, outbox, chores, unnumbered, cursors := e.scopes, e.held, e.dropped, e.outbox, e.chores, e.unnumbered, e.x.cursors
	err := e.reload()
	e.clock.witness(last) // stamps issued to nobody are not issued again
	if err == nil {
		e.adopt(actor)
	} else {
		e.scopes, e.held, e.dropped, e.outbox, e.chores, e.unnumbered, e.x.cursors = scopes, held, dropped, outbox, chores, unnumbered, cursors
		e.x.out = nil
	}
	return err
}

// fail makes the engine read-only because of err.
func (e *Engine) fail(err error) {
	e.mu.Lock()
	e.readOnly = err
	e.mu.Unlock()
	e.log.Error("Changes are refused", "err", err)
}
