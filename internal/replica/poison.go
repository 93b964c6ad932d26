package replica

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
)

// A change that makes this program panic is poison: it is held, its bytes kept,
// and the node goes on, also after a restart. The guard stands where a change
// enters: when it is decoded, verified, judged, merged, and read from disk. What
// a merge left half done is thrown away and read from disk again.

const whyPoison = "this program fails on it: "

// errPoison is the failure on one change, in words.
type errPoison struct{ what string }

func (p *errPoison) Error() string { return whyPoison + p.what }

// errAgain: reading the state has to begin anew, without the change that was
// found to be poison.
var errAgain = errors.New("a change makes this program fail")

// poisoned is a change on which this run of the program failed.
type poisoned struct {
	change *crdt.Change // nil if its bytes are under held/
	peer   Peer
	why    string
	at     time.Time
}

// guard runs fn and returns the panic it ended in, nil if it did not.
func guard(fn func()) (failure *failure) {
	defer func() {
		if p := recover(); p != nil {
			failure = newFailure(p)
		}
	}()
	fn()
	return nil
}

type failure struct{ what, stack string }

func newFailure(p any) *failure {
	what := strings.ToValidUTF8(fmt.Sprint(p), "?")
	return &failure{what[:min(len(what), 200)], string(debug.Stack())}
}

// decode is crdt.Decode; an error that is an *errPoison means that the bytes made
// the program fail, and the change is one of which only bytes and id are known.
func (e *Engine) decode(raw []byte) (c *crdt.Change, err error) {
	f := guard(func() {
		e.plant("decode", raw)
		c, err = e.cfg.Decode(raw)
	})
	if f == nil {
		return c, err
	}
	if c, err = crdt.Opaque(raw); err != nil {
		return nil, err
	}
	return c, &errPoison{e.spoke("decoded", c, f)}
}

// plant lets tests make the program fail at a place.
func (e *Engine) plant(where string, raw []byte) {
	if e.cfg.plant != nil {
		e.cfg.plant(where, raw)
	}
}

// spoke tells of a failure, once for each change, and returns it in words.
func (e *Engine) spoke(doing string, c *crdt.Change, f *failure) string {
	e.log.Error("A change made this program fail, it is held", "change", c.ID(), "doing", doing, "panic", f.what, "stack", f.stack)
	return "when it was " + doing + ": " + f.what
}

// poison notes a change on which the program failed. The caller is Run's
// goroutine, and holds mu or runs before anybody reads.
func (e *Engine) poison(c *crdt.Change, peer Peer, why string) {
	if e.poisons == nil {
		e.poisons = map[crdt.ID]*poisoned{}
	}
	if e.poisons[c.ID()] == nil {
		e.poisons[c.ID()] = &poisoned{c, peer, why, e.cfg.Now()}
		if len(e.reports) < maxReports {
			e.reports = append(e.reports, fmt.Sprintf("change %s of node %x is held: %s", c.ID(), c.Node, why))
		}
	}
}

// aside keeps a change that lies on the disk and must not be merged: it is
// deleted there, and held.
func (e *Engine) aside(sc *scope, c *crdt.Change, p *poisoned) {
	id := c.ID()
	if sc != nil {
		sc.stored.Add(id) // until it is deleted
		e.chores.prune = append(e.chores.prune, pruned{sc.name, id, 0})
	}
	e.held[id] = &heldChange{change: c, peer: p.peer, why: p.why, at: p.at}
}

// keepAside writes what aside found as held, with the first turn.
func (e *Engine) keepAside() {
	for id, p := range e.poisons {
		if h := e.held[id]; h != nil && p.change != nil {
			if e.start == nil {
				e.start = new(disk.Batch)
			}
			e.start.Put(keyHeld(id), encode(e.heldRecord(h.change, h.peer, h.why, h.at, false)))
			p.change = nil
		}
	}
}

func (e *Engine) heldRecord(c *crdt.Change, peer Peer, why string, at time.Time, ask bool) heldRecord {
	r := heldRecord{Raw: c.Raw(), Peer: peer[:], Why: strings.ToValidUTF8(why, "?"), At: at.UnixMilli(), Ask: ask}
	if strings.HasPrefix(why, whyPoison) {
		r.Program = e.cfg.Program
	}
	return r
}

// broken notes what of a turn that is durable could not be merged.
func (t *turn) broken(c *crdt.Change, peer Peer, why string) {
	t.e.poison(c, peer, why)
	if t.bad == nil {
		t.bad = map[crdt.ID]Verdict{}
	}
	t.bad[c.ID()] = Verdict{Hold, why}
}

// expel reads the state anew without the changes that could not be merged, and
// tells of everything the turn brought.
func (e *Engine) expel(t *turn) {
	e.mu.Lock()
	err := e.reread()
	e.mu.Unlock()
	if err != nil {
		e.fail(fmt.Errorf("read the state without a change that makes this program fail: %w", err))
		return
	}
	e.x.machine.Configure(e.cfg.Topo.Neighbours())
	var trust []crdt.Cell
	for i := range t.staged {
		s := &t.staged[i]
		if s.keep || s.out {
			continue
		}
		cells := make([]crdt.Cell, len(s.c.Writes))
		for w := range s.c.Writes {
			cells[w] = s.c.Cell(w)
		}
		if s.c.Scope == crdt.Trust {
			trust = append(trust, cells...)
		}
		e.watchers.tell(s.c.Scope, cells)
	}
	if len(trust) > 0 && e.cfg.TrustMoved != nil {
		if f := guard(func() { e.cfg.TrustMoved(view{e}, trust) }); f != nil {
			e.log.Error("Trust could not be read", "panic", f.what, "stack", f.stack)
		}
		e.judgeHeld = true
		e.trustMoves++
	}
	e.x.merged(t)
}

// untrusted holds what the turn brought of the trust scope, because trust could
// not be read with it. Of several changes each is tried alone, once.
func (t *turn) untrusted(f *failure) {
	e := t.e
	var all []staged
	for _, s := range t.staged {
		if s.c.Scope == crdt.Trust && !s.keep && !s.out {
			all = append(all, s)
		}
	}
	e.mu.Lock()
	for _, s := range all {
		t.broken(s.c, s.peer, whyPoison+e.spoke("taken into trust", s.c, f))
	}
	e.mu.Unlock()
	if len(all) < 2 {
		return
	}
	for _, s := range all { // a turn takes nothing after a change of trust
		e.inbox.deliver(&delivery{peer: s.peer, changes: []*incoming{{c: s.c, verified: genuine, retry: true}}})
	}
}
