package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// reach remembers how attempts to reach other nodes ended. A suspicion is
// believed for a while that grows with each failure; the first success clears
// it. Nobody is probed: the next caller's attempt is the probe.
type reach struct {
	now func() time.Time

	mu    sync.Mutex
	fails map[site.NodeID]*failing
}

type failing struct {
	since time.Time // of the first failure in a row
	until time.Time // believed until then
	count int
	why   error
}

const (
	believeFirst = 30 * time.Second
	believeMost  = 15 * time.Minute
)

func newReach(now func() time.Time) *reach {
	return &reach{now: now, fails: map[site.NodeID]*failing{}}
}

// Suspect says whether attempts at n should be given little time.
func (r *reach) Suspect(n site.NodeID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.fails[n]
	return f != nil && r.now().Before(f.until)
}

// Note takes the end of an attempt: nil if n was reached.
func (r *reach) Note(n site.NodeID, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		delete(r.fails, n)
		return
	}
	f := r.fails[n]
	if f == nil {
		f = &failing{since: r.now()}
		r.fails[n] = f
	}
	f.count++
	f.why = err
	f.until = r.now().Add(min(believeFirst<<min(f.count-1, 8), believeMost))
}

// tried notes how an attempt at a node ended. Whoever gave up waiting has
// learnt nothing.
func (n *Node) tried(ctx context.Context, id site.NodeID, err error) {
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	n.reach.Note(id, err)
}

// since is when n stopped being reachable, zero if nothing is known against it.
func (r *reach) since(n site.NodeID) (time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.fails[n]; f != nil {
		return f.since, f.why
	}
	return time.Time{}, nil
}
