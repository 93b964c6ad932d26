package replica

import (
	"sync"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
)

// local is a write somebody here waits for.
type local struct {
	m    Mutation
	do   func(*turn) // instead of m: work that belongs into a transaction of the engine's
	done chan answer // one answer
}

type answer struct {
	receipt Receipt
	err     error
}

// incoming is one change on its way in, decoded and, behind the pool, verified.
type incoming struct {
	c        *crdt.Change
	verified verification
	again    bool        // it is among the held ones already
	done     chan judged // one answer; nil if nobody waits
	verdict  Verdict
	poison   string // why the program failed on it before it was judged
	retry    bool   // a person wants it judged although the program failed on it
}

type judged struct {
	verdict Verdict
	err     error
}

// delivery is a group of changes from one peer that are judged, stored and
// acknowledged together.
type delivery struct {
	peer    Peer
	scope   crdt.Scope          // of the cursor
	cursor  *antientropy.Cursor // stored in the same transaction; nil: none
	changes []*incoming
	size    int // bytes of changes
	// then runs after the transaction, in the engine's goroutine: err if nothing
	// was stored, refused if one of the changes should never have been sent. May
	// be nil.
	then func(err, refused error)
}

// inbox is where work waits for the engine's next turn. Local writes go first.
type inbox struct {
	signal chan struct{} // holds a token when there is work

	mu     sync.Mutex // guards what follows
	locals []*local
	remote []*delivery
	closed bool
}

func newInbox() *inbox { return &inbox{signal: make(chan struct{}, 1)} }

func (b *inbox) wake() {
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

func (b *inbox) local(l *local) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return ErrStopped
	}
	b.locals = append(b.locals, l)
	b.wake()
	return nil
}

func (b *inbox) deliver(d *delivery) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.remote = append(b.remote, d)
	b.wake()
}

// take removes everything that waits.
func (b *inbox) take() (locals []*local, remote []*delivery) {
	b.mu.Lock()
	defer b.mu.Unlock()
	locals, remote = b.locals, b.remote
	b.locals, b.remote = nil, nil
	return locals, remote
}

// putBack returns what did not fit into a turn, before what came since.
func (b *inbox) putBack(locals []*local, remote []*delivery) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.locals = append(locals[:len(locals):len(locals)], b.locals...)
	b.remote = append(remote[:len(remote):len(remote)], b.remote...)
}

func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, l := range b.locals {
		l.done <- answer{err: ErrStopped}
	}
	b.locals, b.remote = nil, nil
}
