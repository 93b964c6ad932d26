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

	// A wall clock that is clearly wrong (1970 after a power cut, ten years
	// ahead) is corrected by what a member of the fleet says, so that what others
	// write now need not wait here. Not stored.
	borrowed bool
	offset   int64 // ms, added to the wall clock while it is clearly wrong

	// What is added to the wall clock since this box was told that it is ahead.
	// Stored.
	by int64 // ms

	// When this clock was last looked at, and what it said: if the wall clock jumps
	// while we run, time goes on from there. Zero: not since the start, or since
	// a member's time was taken.
	believed time.Time
	said     int64 // ms
}

// wrong says that the wall clock cannot be right, by what is on the disk. With
// nothing there, nothing speaks against it.
func (k *clock) wrong(ms int64, synced bool) bool {
	return !synced && k.last != 0 &&
		(ms > k.last.Millis()+believeFor.Milliseconds() || ms < k.last.Millis()-tolerance.Milliseconds())
}

// read is the wall clock with what was found to be wrong with it.
func (k *clock) read(now time.Time, synced bool) int64 {
	if synced {
		return now.UnixMilli()
	}
	return now.UnixMilli() + k.by
}

func near(a, b int64) bool { return max(a-b, b-a) <= tolerance.Milliseconds() }

// correct takes up what was added to the wall clock before a restart, unless that
// would be before what is on the disk and the wall clock is not.
func (k *clock) correct(by int64, now time.Time) {
	if now.UnixMilli() < k.last.Millis() || now.UnixMilli()+by >= k.last.Millis()-tolerance.Milliseconds() {
		k.by = by
	}
}

// restart sets a clock that was ahead: by is added to the wall clock from now on.
func (k *clock) restart(last crdt.Stamp, by int64) {
	*k = clock{last: last, by: by}
}

// wall is the time of day in milliseconds if it is believed, else 0.
func (k *clock) wall(now time.Time, synced bool) int64 {
	ms := k.read(now, synced)
	switch {
	case !k.wrong(ms, synced):
		return ms
	case k.borrowed:
		return ms + k.offset
	}
	return 0
}

// tick follows the wall clock. When it jumps to what is clearly wrong, and when
// it jumps again while it is, time goes on from what it was.
func (k *clock) tick(wall, now time.Time, synced bool) {
	if went := k.said + now.Sub(k.believed).Milliseconds(); !synced && k.by != 0 && !k.believed.IsZero() &&
		near(wall.UnixMilli(), went) && !near(wall.UnixMilli()+k.by, went) {
		k.by = 0 // somebody has set the wall clock
	}
	ms := k.read(wall, synced)
	if k.wrong(ms, synced) {
		went := k.said + now.Sub(k.believed).Milliseconds()
		switch off := time.Duration(ms+k.offset-went) * time.Millisecond; {
		case k.believed.IsZero() && k.borrowed: // from a member, just now
		case k.believed.IsZero(): // since the start: time goes on from what the disk knows
			k.borrowed, k.offset = true, k.last.Millis()-ms
		case !k.borrowed || off.Abs() > tolerance:
			k.borrowed, k.offset = true, went-ms
		}
		ms += k.offset
	}
	k.believed, k.said = now, ms
}

// borrow takes the time of a member, if ours is clearly wrong and the member's
// is not.
func (k *clock) borrow(theirs crdt.Stamp, now time.Time, synced bool) (took bool) {
	ms := k.read(now, synced)
	if !k.wrong(ms, synced) || theirs <= k.last || k.borrowed && theirs.Millis() <= ms+k.offset || theirs.Millis() > k.last.Millis()+believeFor.Milliseconds() {
		return false
	}
	k.borrowed, k.offset = true, theirs.Millis()-ms
	k.believed = time.Time{}
	return true
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
