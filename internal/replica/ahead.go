package replica

import (
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
	"carrierclass.net/ccnode/mesh"
)

// A box whose clock is ahead writes what others hold until its time comes
// (state.md §5). It cannot know by itself: so whoever holds changes that came from
// their author tells it, when it holds them and at each hello. What it does then:
// mend.go.

// told is what a peer said of changes that were written here and wait there.
type told struct {
	at     time.Time // when it said so; zero: it did not
	wait   time.Duration
	by     time.Duration // ours before its clock
	count  int
	synced bool
	clock  crdt.Stamp // its own, then
}

// tellAhead tells a peer what is held here of its own.
func (x *exchange) tellAhead(p Peer) {
	a := antientropy.Ahead{Peer: p}
	for _, h := range x.e.held {
		if h.why == whyAhead && h.change.Node == p && !h.ask {
			a.Count++
			a.Newest = max(a.Newest, h.change.Stamp)
		}
	}
	if a.Count == 0 {
		return
	}
	a.Clock, a.Synced = machineView{x.e}.Clock(), x.e.cfg.Synced()
	x.machine.TellAhead(a)
}

// toldAhead notes it. What a peer says is bounded by what it can know: nothing
// written here is later than our own clock.
func (x *exchange) toldAhead(a antientropy.Ahead) {
	now := x.e.cfg.Now()
	newest := min(a.Newest.Millis(), machineView{x.e}.Clock().Millis())
	by := time.Duration(newest-a.Clock.Millis()) * time.Millisecond
	x.mu.Lock()
	c := x.contact(a.Peer)
	news := !c.told.waits(now)
	c.told = told{at: now, wait: by - tolerance, by: by, count: a.Count, synced: a.Synced, clock: a.Clock}
	news = news && c.told.waits(now)
	x.mu.Unlock()
	if news {
		x.e.log.Warn("This box's clock is ahead: what it wrote waits at a neighbour", "peer", mesh.PeerID(a.Peer), "changes", a.Count, "ahead", by, "synced", a.Synced)
	}
	x.believe(now)
}

// waits says whether the time of what waits there has still not come.
func (t told) waits(now time.Time) bool { return !t.at.IsZero() && now.Sub(t.at) < t.wait }

// Ahead says that what was written here waits at others, because this node's
// clock is ahead of theirs.
type Ahead struct {
	Peers   int           // that hold something of ours; 0: none does
	Synced  int           // of these, whose clock NTP sets
	By      time.Duration // how far the newest is ahead of their clocks, at most
	Changes int           // at most
	Until   time.Time     // by our own clock: when the last of them has them merged
}

// ahead is asked with mu held.
func (x *exchange) ahead(now time.Time) (out Ahead) {
	for _, c := range x.peers {
		if !c.told.waits(now) {
			continue
		}
		out.Peers++
		if c.told.synced {
			out.Synced++
		}
		out.By, out.Changes = max(out.By, c.told.by), max(out.Changes, c.told.count)
		if t := x.e.wall().Add(c.told.wait - now.Sub(c.told.at)); t.After(out.Until) {
			out.Until = t
		}
	}
	return out
}
