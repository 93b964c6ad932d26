package digest

import (
	"encoding/binary"
	"sync"
	"time"
)

type nonceID [nonceBody]byte

func (n nonceID) seconds() uint32 { return binary.BigEndian.Uint32(n[:]) }

// uses remembers which counts of which nonces were used (RFC 7616 §3.4, nc):
// for each nonce that was once answered rightly, a window of 64 counts, since
// UDP reorders. The memory is fixed. When it is full the oldest nonce gives
// way, and with it every nonce as old that is not in the table: they are stale
// from then on, so forgetting never lets a replay in.
type uses struct {
	mu    sync.Mutex
	table map[nonceID]*use
	order []nonceID // ring, by first use
	at    int
	floor uint32 // nonces made at or before this second need an entry
}

type use struct {
	top    uint32 // highest nc
	window uint64 // bit i: top-i was used
	single bool   // used without qop
	print  uint64 // of the request with nc == top
	last   time.Time
}

const maxUses = 16384

func (u *uses) init() {
	u.table = map[nonceID]*use{}
	u.order = make([]nonceID, 0, 64)
}

// behind says that nonces made at now are taken for forgotten ones, though they
// are new: the clock was set back. A second in which the whole table was used
// up is no such case.
func (u *uses) behind(now uint32) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return now < u.floor
}

// take uses up one count of a nonce. It is false if that was used before,
// except by a retransmission of the same request within 32 s.
func (u *uses) take(id nonceID, nc uint32, single bool, print uint64, now time.Time) bool {
	if nc == 0 {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	e := u.table[id]
	if e == nil {
		if id.seconds() <= u.floor {
			return false
		}
		u.add(id, &use{top: nc, window: 1, single: single, print: print, last: now})
		return true
	}
	if print != 0 && print == e.print && nc == e.top && now.Sub(e.last) <= 32*time.Second {
		return true
	}
	if single || e.single {
		return false
	}
	if nc > e.top {
		if d := nc - e.top; d >= 64 {
			e.window = 1
		} else {
			e.window = e.window<<d | 1
		}
		e.top, e.print, e.last = nc, print, now
		return true
	}
	d := e.top - nc
	if d >= 64 || e.window&(1<<d) != 0 {
		return false
	}
	e.window |= 1 << d
	return true
}

func (u *uses) add(id nonceID, e *use) {
	if len(u.order) < maxUses {
		u.order = append(u.order, id)
	} else {
		old := u.order[u.at]
		u.floor = max(u.floor, old.seconds())
		delete(u.table, old)
		u.order[u.at] = id
		u.at = (u.at + 1) % maxUses
	}
	u.table[id] = e
}
