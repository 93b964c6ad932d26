package replica

import (
	"fmt"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
)

// A box whose clock was ahead, and that learns so, puts it right (state.md §5): it
// draws a new actor, begins its clock anew at the time it was told, writes again
// what it wrote under a time that has not come, having seen what was seen then, and
// takes the former back with a void (crdt, void.go). Readers here see the same values
// all the while. What others hold until its time goes with the void; whoever merged it
// already drops it.
//
// It only does so if nobody else's changes here are as late: then two clocks differ
// from the rest, and what these two wrote over each other could not be told apart.
// Of the trust scope it says again what vouches for itself and takes nothing back.

// mender is what Run knows of its clock's being wrong.
type mender struct {
	to    crdt.Stamp // the time it is, by others, while ours is ahead; 0: nobody says so
	under *mending   // what has to be gone on with; nil: nothing
	next  time.Time  // not again before
	pause time.Duration
	wrong wrongTime // when it was
}

// wrongTime is what is remembered of a clock that was ahead.
type wrongTime struct {
	Cut   uint64 `cbor:"1,keyasint"` // where it began anew
	Until uint64 `cbor:"2,keyasint"` // the last stamp before
	Actor uint32 `cbor:"3,keyasint"` // drawn then
	By    int64  `cbor:"4,keyasint"` // what is added to the wall clock since, ms
}

// has says whether c was written under the wrong time: it says nothing about how
// late it is.
func (w *wrongTime) has(node crdt.NodeID, c *crdt.Change) bool {
	return c.Node == node && w.Until != 0 && uint64(c.Stamp) > w.Cut && uint64(c.Stamp) <= w.Until && c.Actor != w.Actor
}

// How long a box waits before it does so again, or looks again whether it can: at
// first, and at most, as the pauses double. A neighbour that cheats could go on.
const (
	mendPause    = 10 * time.Minute
	mendPauseMax = 24 * time.Hour
)

// mend puts the clock right if somebody has said that it is ahead, or if it was
// synchronised since. It runs between two turns.
func (e *Engine) mend() {
	to := e.mends.to
	e.mends.to = 0
	now, synced := e.cfg.Now(), e.cfg.Synced()
	if synced {
		to = 0 // nobody knows better
		if wall := e.wall().UnixMilli(); e.clock.last.Millis() > wall+tolerance.Milliseconds() {
			to = crdt.MakeStamp(wall, 0)
		}
	}
	resume := e.mends.under != nil
	if e.readOnly != nil || e.x.doubt || !resume && to == 0 || now.Before(e.mends.next) {
		return // in doubt: perhaps this disk was set back, and all this was done already
	}
	e.mends.pause = min(max(2*e.mends.pause, mendPause), mendPauseMax)
	e.mends.next = now.Add(e.mends.pause)
	ahead := time.Duration(e.clock.last.Millis()-to.Millis()) * time.Millisecond
	if !resume {
		cut, why := e.cut(to)
		if why != "" {
			e.log.Warn("This box's clock is ahead and is left as it is", "ahead", ahead, "why", why)
			return
		}
		if err := e.startMending(cut, to, synced); err != nil {
			e.log.Error("This box's clock is ahead and cannot be put right", "ahead", ahead, "err", err)
			return
		}
	}
	n, err := e.writeAgain(crdt.Stamp(e.mends.under.Cut), e.mends.under.known())
	e.x.drain()
	if err != nil {
		e.log.Error("What was written while the clock was ahead could not all be written again: it goes on later", "err", err)
		return
	}
	e.x.mu.Lock()
	for _, c := range e.x.peers {
		c.told = told{}
	}
	e.x.mu.Unlock()
	e.log.Warn("This box's clock was ahead: it was put right, and what it had written since is written again", "ahead", ahead, "changes", n)
}

// cut is where the clock begins anew: at to, or after what others wrote shortly
// after that. It says why not.
func (e *Engine) cut(to crdt.Stamp) (crdt.Stamp, string) {
	limit := to.Millis() + tolerance.Milliseconds()
	cut := to
	for _, sc := range e.scopes {
		for _, id := range sc.set.After(to) {
			if sc.set.Author(id) == e.cfg.Node {
				continue
			}
			c, err := e.stored(id)
			switch {
			case err != nil:
				return 0, err.Error()
			case c.Stamp.Millis() > limit:
				return 0, fmt.Sprintf("node %s wrote under a time that has not come, too", c.Node)
			}
			cut = max(cut, c.Stamp)
		}
	}
	return cut, ""
}

// startMending draws the actor and sets the clock.
func (e *Engine) startMending(cut, to crdt.Stamp, synced bool) error {
	m, err := e.ownAfter(cut)
	if err != nil {
		return err
	}
	actor, err := e.fresh()
	if err != nil {
		return err
	}
	by := int64(0)
	if !synced {
		by = to.Millis() - e.wall().UnixMilli()
	}
	b := new(disk.Batch)
	b.Put(keyActor, encode(identity{actor, e.cfg.Node[:], e.cfg.Machine}))
	b.Put(keyClock, encode(cut))
	wrong := wrongTime{uint64(cut), uint64(e.clock.last), actor, by}
	b.Put(keyWrong, encode(wrong))
	b.Put(keyMending, encode(m))
	if err := e.cfg.Disk.Commit(b); err != nil {
		e.fail(err)
		return err
	}
	e.mu.Lock()
	e.adopt(actor)
	e.clock.restart(cut, by)
	e.mu.Unlock()
	e.mends.wrong, e.mends.under = wrong, m
	return nil
}

// believe notes that a peer says that this node's clock is ahead. One whose own
// clock is synchronised is believed, or two who agree; nobody, by a box whose own
// is.
func (x *exchange) believe(now time.Time) {
	if x.e.cfg.Synced() || x.doubt {
		return
	}
	var to crdt.Stamp
	peers, synced := 0, false
	x.mu.Lock()
	for _, c := range x.peers {
		if !c.told.waits(now) {
			continue
		}
		at := crdt.MakeStamp(c.told.clock.Millis()+now.Sub(c.told.at).Milliseconds(), 0)
		switch {
		case c.told.synced == synced:
			to = max(to, at)
		case c.told.synced:
			to = at
		default:
			continue
		}
		synced = c.told.synced
		peers++
	}
	x.mu.Unlock()
	if synced || peers >= 2 {
		x.e.mends.to = to
		x.e.inbox.wake()
	}
}
