package replica

import (
	"context"
	"slices"
	"sync"

	"carrierclass.net/ccnode/crdt"
)

// watchers hands merges to whoever watches, in order, in one goroutine.
type watchers struct {
	signal chan struct{}
	failed func(crdt.Scope, *failure) // of one who watches

	mu    sync.Mutex // guards what follows; not held while a watcher runs
	fns   []*watcher
	queue []news
}

type watcher struct{ fn func(crdt.Scope, []crdt.Cell) }

type news struct {
	scope crdt.Scope
	cells []crdt.Cell
	to    []*watcher
}

func newWatchers(failed func(crdt.Scope, *failure)) *watchers {
	return &watchers{signal: make(chan struct{}, 1), failed: failed}
}

func (w *watchers) add(fn func(crdt.Scope, []crdt.Cell)) (cancel func()) {
	x := &watcher{fn}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fns = append(w.fns[:len(w.fns):len(w.fns)], x)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.fns = slices.DeleteFunc(slices.Clone(w.fns), func(y *watcher) bool { return x == y })
	}
}

func (w *watchers) tell(s crdt.Scope, cells []crdt.Cell) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.fns) == 0 {
		return
	}
	w.queue = append(w.queue, news{s, cells, w.fns})
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

func (w *watchers) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.signal:
		}
		w.drain(ctx)
	}
}

// drain tells what waits.
func (w *watchers) drain(ctx context.Context) {
	for {
		w.mu.Lock()
		if len(w.queue) == 0 || ctx.Err() != nil {
			w.queue = nil
			w.mu.Unlock()
			return
		}
		n := w.queue[0]
		w.queue = w.queue[1:]
		w.mu.Unlock()
		for _, x := range n.to {
			if f := guard(func() { x.fn(n.scope, n.cells) }); f != nil {
				w.failed(n.scope, f)
			}
		}
	}
}
