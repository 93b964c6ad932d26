package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/events"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/sipcore/b2bua"
)

const (
	tellAfter = 100 * time.Millisecond // what changes within it is told at once
	tellNamed = 100                    // records that changed at once and are named; more are counted
	tellCells = 5000                   // cells noted at most until they are told
)

// teller makes events of what the node's rooms say. It speaks to those who
// follow and to nobody else.
type teller struct {
	n    *Node
	hub  *events.Hub[api.Event]
	stir chan struct{}
	done chan struct{}

	mu    sync.Mutex
	cells map[crdt.Scope][]crdt.Cell
	more  bool // than fit

	omu  sync.Mutex
	open map[string]state.Merge // as it was told last
}

func newTeller(n *Node) *teller {
	return &teller{n: n, hub: events.New[api.Event](events.Config{Start: n.now()}), stir: make(chan struct{}, 1), done: make(chan struct{}),
		cells: map[crdt.Scope][]crdt.Cell{}, open: map[string]state.Merge{}}
}

// merged is the engine's news.
func (t *teller) merged(scope crdt.Scope, cells []crdt.Cell) {
	t.mu.Lock()
	if room := tellCells - len(t.cells[scope]); len(cells) > room {
		t.more, cells = true, cells[:room]
	}
	t.cells[scope] = append(t.cells[scope], cells...)
	t.mu.Unlock()
	select {
	case t.stir <- struct{}{}:
	default:
	}
}

// run tells until ctx ends. Merges that are open at the start are not news.
func (t *teller) run(ctx context.Context) {
	defer close(t.done)
	t.omu.Lock()
	for _, m := range t.n.state.Open() {
		t.open[m.ID] = m
	}
	t.omu.Unlock()
	for {
		select {
		case <-t.stir:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(tellAfter):
		case <-ctx.Done():
			return
		}
		t.round()
	}
}

func (t *teller) round() {
	t.mu.Lock()
	cells, more := t.cells, t.more
	t.cells, t.more = map[crdt.Scope][]crdt.Cell{}, false
	t.mu.Unlock()
	var all []state.Touched
	for _, scope := range []crdt.Scope{crdt.Fleet, crdt.SiteScope(t.n.member.Site)} {
		all = append(all, t.n.state.Touched(scope, cells[scope])...)
	}
	if len(all) > tellNamed || more {
		t.tell(api.Event{Kind: api.EventMany, Why: fmt.Sprintf("%d records changed at once, or more: read again what matters", len(all))})
		all = nil
	}
	for _, r := range all {
		t.tell(api.Event{Kind: api.EventRecord, Record: &api.RecordChange{Kind: r.Kind, ID: r.ID, Record: r.Record, Fields: r.Fields}})
	}
	t.merges()
}

// merges tells which merges opened and closed.
func (t *teller) merges() {
	t.omu.Lock()
	defer t.omu.Unlock()
	now := map[string]state.Merge{}
	list := t.n.state.Open()
	for _, m := range list {
		now[m.ID] = m
	}
	count := len(now)
	for id, was := range t.open {
		if _, ok := now[id]; !ok {
			x := t.n.merge(t.n.state.Settled(was))
			t.tell(api.Event{Kind: api.EventMergeClosed, Merge: &x, Merges: &count})
		}
	}
	for _, m := range slices.Backward(list) { // oldest first
		was, ok := t.open[m.ID]
		if !ok || !slices.EqualFunc(was.Sides, m.Sides, func(a, b state.Side) bool { return a.Version == b.Version && a.Value == b.Value }) {
			x := t.n.merge(m)
			t.tell(api.Event{Kind: api.EventMergeOpened, Merge: &x, Merges: &count})
		}
	}
	t.open = now
}

// call tells of a call that was answered, or ended.
func (t *teller) call(r b2bua.Record, over bool) {
	x := ended(r)
	if !over {
		x.State, x.Cause = "in call", ""
	}
	t.tell(api.Event{Kind: api.EventCall, Call: &x})
}

func (t *teller) tell(e api.Event) {
	e.At = t.n.now().UTC()
	b, err := json.Marshal(e)
	if err != nil {
		t.n.log.Error("An event cannot be encoded", "kind", e.Kind, "err", err)
		return
	}
	t.hub.Tell(e, len(b))
}

// feed is one follower, for the interface.
type feed struct {
	t     *teller
	f     *events.Follower[api.Event]
	first []api.Event
	ended bool
}

func (b *backend) Follow(_ context.Context, after uint64) (api.Feed, error) {
	t := b.n.events
	f, missed, err := t.hub.Follow(after)
	switch {
	case errors.Is(err, events.ErrMany):
		return nil, api.Unavailable("follow the events: "+err.Error(), "end one of them first")
	case err != nil:
		return nil, api.Unavailable("follow the events: "+err.Error(), "try again when it is up")
	}
	out := &feed{t: t, f: f}
	t.omu.Lock()
	count := len(t.open)
	t.omu.Unlock()
	out.first = []api.Event{{ID: f.Last(), At: t.n.now().UTC(), Kind: api.EventHello, Merges: &count}}
	if missed {
		out.first = append(out.first, api.Event{ID: f.Last(), At: t.n.now().UTC(), Kind: api.EventMissed,
			Why: "this box does not remember all that happened since: read again what matters"})
	}
	return out, nil
}

func (f *feed) Next(ctx context.Context) (api.Event, error) {
	if len(f.first) > 0 {
		e := f.first[0]
		f.first = f.first[1:]
		return e, nil
	}
	e, err := f.f.Next(ctx)
	switch {
	case err == nil:
		e.What.ID = e.ID
		return e.What, nil
	case !f.ended && (errors.Is(err, events.ErrSlow) || errors.Is(err, events.ErrClosed)):
		f.ended = true
		return api.Event{ID: f.f.Last(), At: f.t.n.now().UTC(), Kind: api.EventEnd, Why: err.Error()}, nil
	}
	return api.Event{}, err
}

func (f *feed) Close() { f.f.Close() }
