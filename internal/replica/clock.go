package replica

import (
	"time"

	"carrierclass.net/ccnode/crdt"
)

const (
	believeFor = 400 * 24 * time.Hour // an unsynchronised wall clock is believed this long after the last stamp
	tolerance  = 5 * time.Minute      // a change may be this far ahead of us
)

// clock is the hybrid logical clock of state.md §5. It is guarded by Engine.mu.
type clock struct {
	last crdt.Stamp // greatest stamp issued or merged
}

// wall is the time of day in milliseconds if it is believed, else 0. With
// nothing on disk there is nothing to doubt it with.
func (k *clock) wall(now time.Time, synced bool) int64 {
	ms := now.UnixMilli()
	if synced || k.last == 0 || ms <= k.last.Millis()+believeFor.Milliseconds() {
		return ms
	}
	return 0
}

// next issues a stamp greater than all before and than seen.
func (k *clock) next(now time.Time, synced bool, seen crdt.Stamp) crdt.Stamp {
	k.last = crdt.NextStamp(max(k.last, seen), k.wall(now, synced))
	return k.last
}

// now reads the clock without moving it.
func (k *clock) now(now time.Time, synced bool) crdt.Stamp {
	return max(k.last, crdt.MakeStamp(k.wall(now, synced), 0))
}

// witness keeps the clock from falling behind what was merged.
func (k *clock) witness(s crdt.Stamp) { k.last = max(k.last, s) }

// ahead says whether s is too far in the future to be merged now.
func (k *clock) ahead(s crdt.Stamp, now time.Time, synced bool) bool {
	return s.Millis() > k.now(now, synced).Millis()+tolerance.Milliseconds()
}
