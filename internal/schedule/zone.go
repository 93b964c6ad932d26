package schedule

import (
	"fmt"
	"time"
	_ "time/tzdata" // the one place: a box has no zone files, and all nodes must agree
)

// Zone finds a time zone by its name in the IANA tz database.
func Zone(name string) (*time.Location, error) {
	if name == "" || name == "Local" {
		return nil, fmt.Errorf("time zone %q: name the zone of the place, for example Europe/Paris", name)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("time zone %q is not known: write it as the tz database does, for example Europe/Paris or America/New_York", name)
	}
	return loc, nil
}

// A civil is a day of the calendar, without a zone.
type civil struct {
	y int
	m time.Month
	d int
}

func civilOf(t time.Time) civil {
	y, m, d := t.Date()
	return civil{y, m, d}
}

func (c civil) utc() time.Time { return time.Date(c.y, c.m, c.d, 0, 0, 0, 0, time.UTC) }
func (c civil) add(days int) civil {
	return civilOf(time.Date(c.y, c.m, c.d+days, 0, 0, 0, 0, time.UTC))
}
func (c civil) weekday() time.Weekday { return c.utc().Weekday() }

func (c civil) less(o civil) bool {
	if c.y != o.y {
		return c.y < o.y
	}
	if c.m != o.m {
		return c.m < o.m
	}
	return c.d < o.d
}

// start is the first moment of a day.
func (c civil) start(loc *time.Location) time.Time { return opens(c, 0, loc) }

// opens is the first moment at which a clock on the wall shows that minute of
// day c or later: where the clock is set forward over it, the moment it is
// set; where it is set back, the first of the two.
func opens(c civil, minute int, loc *time.Location) time.Time {
	wall := c.utc().Unix() + int64(minute)*60
	var out int64
	segments(wall, loc, func(from, to, offset int64) bool {
		out = max(from, wall-offset)
		return wall >= to+offset
	})
	return time.Unix(out, 0).In(loc)
}

// closes is the end of the last moment at which a clock on the wall shows less
// than that minute of day c: where it is set back over it, the second of the two.
func closes(c civil, minute int, loc *time.Location) time.Time {
	wall := c.utc().Unix() + int64(minute)*60
	var out int64
	segments(wall, loc, func(from, to, offset int64) bool {
		if from+offset < wall {
			out = min(to, wall-offset)
		}
		return true
	})
	return time.Unix(out, 0).In(loc)
}

// segments calls f with each stretch of one offset (Unix seconds, east of UTC)
// that has to do with a clock that shows wall, until f returns false. The
// first begins well before.
func segments(wall int64, loc *time.Location, f func(from, to, offset int64) bool) {
	const window = 40 * 3600 // no zone is further from UTC, nor moves further at once
	for at := wall - window; at < wall+window; {
		t := time.Unix(at, 0).In(loc)
		_, offset := t.Zone()
		begin, end := t.ZoneBounds()
		from, to := int64(-1<<60), int64(1<<60)
		if !begin.IsZero() {
			from = begin.Unix()
		}
		if !end.IsZero() {
			to = end.Unix()
		}
		if to <= at {
			// Beyond 2037, on the 31st of December of a leap year, go1.26's
			// ZoneBounds ends before the moment it was asked about.
			to = at + 3600
		}
		if !f(from, to, int64(offset)) {
			return
		}
		at = to
	}
}
