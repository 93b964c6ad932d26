package replica

import "carrierclass.net/ccnode/crdt"

// Filling says how far a scope has come here, of what the peer that is the
// farthest said it has. Both numbers are of arrivals, of which some were pruned
// since: they tell a share, and not how many changes are missing.
type Filling struct {
	Have, Of uint64 // Have < Of: it is filling; both zero: nobody said anything
}

// Done says that at least one peer had nothing more than we, or that none is
// known that has anything.
func (f Filling) Done() bool { return f.Have >= f.Of }

// Percent is how far it has come, at most 99 before it is done.
func (f Filling) Percent() int {
	if f.Done() {
		return 100
	}
	return min(int(100*f.Have/f.Of), 99)
}

// Filling says how far a scope has come since the start.
func (e *Engine) Filling(s crdt.Scope) Filling {
	e.x.mu.Lock()
	defer e.x.mu.Unlock()
	return e.x.filling(s)
}

// filling is asked with mu held. Whoever was found equal once has given all;
// with whoever was found to differ after everything was exchanged nothing more
// comes either: one of the two holds changes back.
func (x *exchange) filling(s crdt.Scope) (best Filling) {
	for p, c := range x.peers {
		of, ok := c.heads[s]
		if !ok || of == 0 {
			continue
		}
		_, equal := c.equal[s]
		_, differs := c.differ[s]
		have := min(x.taken[cursorKey{p, s}], of)
		if equal || differs {
			have = of
		}
		if best.Of == 0 || float64(have)/float64(of) > float64(best.Have)/float64(best.Of) {
			best = Filling{have, of}
		}
	}
	return best
}

// setTaken lets Status see how far we are with a peer.
func (x *exchange) setTaken(k cursorKey, n uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.taken[k] = n
}
