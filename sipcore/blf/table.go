// Package blf shows on the lamps of telephones what other telephones do: the
// busy lamp field. A Table keeps the calls of both nodes of a site as their
// users' lamps show them, in memory only; a Package tells the telephones of it:
// the event package dialog of RFC 4235, for sipcore/subscribe.
//
// Its laws: nothing of it is stored, and nothing leaves the site; a lamp that
// shows the same is not told again; a lamp can always be picked up by what it
// shows (RFC 3891), at whichever node the call is.
//
//	lamps := blf.NewTable(node)
//	lamps.OnChange(func(a site.AOR) { subs.ChangedAOR(blf.Name, a) })
//	lamps.OnSet(feed.Tell)               // to the other node of the pair
//	lamps.Learn(other, chain, states)    // and from it
package blf

import (
	"slices"
	"sync"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
)

// most is how many calls of one node a Table keeps: more than any node carries.
const most = 10_000

// A Table is what the lamps of a site show (sipcore.Lamps). Its methods may be
// called from any goroutine.
type Table struct {
	node site.NodeID

	telling sync.Mutex // one change at a time is told, in the order they were made

	mu      sync.Mutex
	calls   map[call]*shown
	of      map[site.AOR][]*shown // oldest first; a call with several states for one AOR is there once
	ended   map[site.AOR]string   // the chain of the last call that is over
	count   map[site.NodeID]int
	seq     uint64
	changed func(site.AOR)
	set     func(chain string)
}

type call struct {
	node  site.NodeID
	chain string
}

type shown struct {
	call
	seq    uint64
	states []sipcore.DialogState
}

// NewTable makes the empty table of a node.
func NewTable(node site.NodeID) *Table {
	return &Table{node: node, calls: map[call]*shown{}, of: map[site.AOR][]*shown{}, ended: map[site.AOR]string{}, count: map[site.NodeID]int{}}
}

// OnChange has f called for each AOR whose lamp shows something else now,
// whichever node's call it was; OnSet, for each call of this node that shows
// something else. f must not block; both are given before the first Set.
func (t *Table) OnChange(f func(site.AOR))  { t.mu.Lock(); defer t.mu.Unlock(); t.changed = f }
func (t *Table) OnSet(f func(chain string)) { t.mu.Lock(); defer t.mu.Unlock(); t.set = f }

// Set replaces all states of one call of this node; none means it is over.
func (t *Table) Set(chain string, states []sipcore.DialogState) {
	if !t.put(t.node, chain, states) {
		return
	}
	t.mu.Lock()
	f := t.set
	t.mu.Unlock()
	if f != nil {
		f(chain)
	}
}

// Learn replaces all states of one call of another node of the site.
func (t *Table) Learn(node site.NodeID, chain string, states []sipcore.DialogState) {
	if node != t.node {
		t.put(node, chain, states)
	}
}

// Keep forgets the calls of another node that are not in chains; with none, the
// node is gone.
func (t *Table) Keep(node site.NodeID, chains map[string]bool) {
	if node == t.node {
		return
	}
	t.mu.Lock()
	var gone []string
	for k := range t.calls {
		if k.node == node && !chains[k.chain] {
			gone = append(gone, k.chain)
		}
	}
	t.mu.Unlock()
	for _, chain := range gone {
		t.put(node, chain, nil)
	}
}

// Of returns the states of one AOR at whichever node of the site, oldest first.
func (t *Table) Of(aor site.AOR) (out []sipcore.DialogState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.of[aor] {
		for _, d := range s.states {
			if d.AOR == aor {
				out = append(out, d)
			}
		}
	}
	return out
}

// last is the chain of the last call of aor that is over, "" if there was none.
func (t *Table) last(aor site.AOR) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended[aor]
}

// Chains are the calls of this node, oldest first.
func (t *Table) Chains() (out []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var mine []*shown
	for k, s := range t.calls {
		if k.node == t.node {
			mine = append(mine, s)
		}
	}
	slices.SortFunc(mine, func(a, b *shown) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	for _, s := range mine {
		out = append(out, s.chain)
	}
	return out
}

// Call returns the states of one call of this node.
func (t *Table) Call(chain string) []sipcore.DialogState {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.calls[call{t.node, chain}]; s != nil {
		return slices.Clone(s.states)
	}
	return nil
}

// put says whether anything is different now.
func (t *Table) put(node site.NodeID, chain string, states []sipcore.DialogState) bool {
	states = slices.Clone(states)
	for i := range states {
		states[i].Chain, states[i].Node = chain, node
	}
	states = distinct(states)
	t.telling.Lock()
	defer t.telling.Unlock()
	t.mu.Lock()
	k := call{node, chain}
	old := t.calls[k]
	var was []sipcore.DialogState
	if old != nil {
		was = old.states
	}
	if slices.Equal(was, states) || old == nil && t.count[node] >= most {
		t.mu.Unlock()
		return false
	}
	s := &shown{k, t.seq, states}
	if old != nil {
		s.seq = old.seq
	} else {
		t.seq++
		t.count[node]++
	}
	different := t.replace(old, s)
	f := t.changed
	t.mu.Unlock()
	if f != nil {
		for _, a := range different {
			f(a)
		}
	}
	return true
}

// replace puts s in the place of old, which may be nil, and returns whose lamp
// shows something else then. t.mu is held.
func (t *Table) replace(old, s *shown) (different []site.AOR) {
	before, after := map[site.AOR]sipcore.DialogState{}, map[site.AOR]sipcore.DialogState{}
	if old != nil {
		for _, d := range old.states {
			before[d.AOR] = d
		}
	}
	for _, d := range s.states {
		after[d.AOR] = d
	}
	for a := range before {
		at := slices.Index(t.of[a], old)
		if _, still := after[a]; still {
			t.of[a][at] = s
			continue
		}
		t.of[a] = slices.Delete(t.of[a], at, at+1)
		t.ended[a] = s.chain
		if len(t.of[a]) == 0 {
			delete(t.of, a)
		}
		different = append(different, a)
	}
	for a, d := range after {
		was, known := before[a]
		if !known {
			at := len(t.of[a])
			for at > 0 && t.of[a][at-1].seq > s.seq {
				at--
			}
			t.of[a] = slices.Insert(t.of[a], at, s)
		}
		if !known || was != d {
			different = append(different, a)
		}
	}
	if len(s.states) == 0 {
		delete(t.calls, s.call)
		if t.count[s.node]--; t.count[s.node] == 0 {
			delete(t.count, s.node)
		}
	} else {
		t.calls[s.call] = s
	}
	return different
}

// distinct leaves one state for each AOR: of several, the one that says most.
func distinct(states []sipcore.DialogState) (out []sipcore.DialogState) {
	for _, d := range states {
		i := slices.IndexFunc(out, func(o sipcore.DialogState) bool { return o.AOR == d.AOR })
		switch {
		case i < 0:
			out = append(out, d)
		case d.Confirmed && !out[i].Confirmed:
			out[i] = d
		}
	}
	return out
}
