package provision

import (
	"fmt"
	"time"
	_ "time/tzdata" // an appliance has no zone files of its own
)

// A Change is when clocks are set, said so that it holds every year: at Second
// of the local day that begins it, on the Week-th Weekday of Month.
type Change struct {
	Month   time.Month
	Week    int // 1 to 4, 5 for the last
	Weekday time.Weekday
	Second  int // since midnight, by the clock before it is set
}

// A Zone is a time zone as phones know it: without history.
type Zone struct {
	Name   string
	Offset int // seconds east of Greenwich, in winter
	Save   int // seconds more in summer; 0: none
	Start  Change
	End    Change

	// Lasting is false when no rule of weeks holds for the years to come and
	// Start and End are right for one year only, as where Ramadan decides. The
	// phones of such a place want new files every year.
	Lasting bool
}

// years looked at before a rule is believed.
const years = 8

// Rules finds out how the clocks of an IANA zone go from the year of now on.
func Rules(name string, now time.Time) (Zone, error) {
	if name == "" || name == "Local" {
		return Zone{}, fmt.Errorf("time zone %q: want an IANA name such as Europe/Berlin", name)
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		return Zone{}, fmt.Errorf("time zone %q: want an IANA name such as Europe/Berlin", name)
	}
	z := Zone{Name: name, Lasting: true}
	year := now.In(loc).Year()
	_, z.Offset = now.In(loc).Zone()
	var start, end []time.Time // as wall clocks before the change, in UTC
	for y := year; y < year+years; y++ {
		var up, down []time.Time
		for t := time.Date(y, 1, 1, 0, 0, 0, 0, loc); ; {
			_, next := t.ZoneBounds()
			if next.IsZero() || next.Year() > y {
				break
			}
			_, was := next.Add(-time.Second).Zone()
			_, is := next.Zone()
			wall := next.UTC().Add(time.Duration(was) * time.Second)
			switch {
			case is > was:
				up = append(up, wall)
				if y == year {
					z.Offset, z.Save = was, is-was
				}
			case is < was:
				down = append(down, wall)
			}
			t = next
		}
		if len(up) != 1 || len(down) != 1 {
			if y == year { // none, or too many for any phone
				_, z.Offset = now.In(loc).Zone()
				z.Save = 0
				z.Lasting = len(up)+len(down) == 0
				return z, nil
			}
			z.Lasting = false
			break
		}
		start, end = append(start, up[0]), append(end, down[0])
	}
	var ok bool
	if z.Start, ok = rule(start); !ok {
		z.Lasting = false
	}
	if z.End, ok = rule(end); !ok {
		z.Lasting = false
	}
	return z, nil
}

// rule is what all the given days have in common, or how to say the first.
func rule(at []time.Time) (Change, bool) {
	first := at[0]
	c := Change{Month: first.Month(), Weekday: first.Weekday(), Second: first.Hour()*3600 + first.Minute()*60 + first.Second()}
	last, nth := true, true
	week := (first.Day() + 6) / 7
	same := true
	for _, t := range at {
		if t.Month() != c.Month || t.Weekday() != c.Weekday || t.Hour()*3600+t.Minute()*60+t.Second() != c.Second {
			same = false
			break
		}
		last = last && isLast(t)
		nth = nth && (t.Day()+6)/7 == week
	}
	switch {
	case same && last:
		c.Week = 5
		return c, true
	case same && nth && week < 5:
		c.Week = week
		return c, true
	case isLast(first):
		c.Week = 5
	default:
		c.Week = week
	}
	return c, false
}

func isLast(t time.Time) bool { return t.AddDate(0, 0, 7).Month() != t.Month() }

// POSIX is the zone as a TZ variable, with names that say nothing.
func (z Zone) POSIX() string {
	s := "STD" + west(z.Offset)
	if z.Save == 0 {
		return s
	}
	return s + "DST" + west(z.Offset+z.Save) + "," + z.Start.posix() + "," + z.End.posix()
}

func (c Change) posix() string {
	return fmt.Sprintf("M%d.%d.%d/%s", c.Month, c.Week, c.Weekday, hours(c.Second))
}

// hours prints 7200 as 2 and 9000 as 2:30.
func hours(s int) string {
	if s%3600 == 0 {
		return fmt.Sprint(s / 3600)
	}
	return fmt.Sprintf("%d:%02d", s/3600, s/60%60)
}

// west prints an offset as POSIX counts, west of Greenwich.
func west(offset int) string {
	if offset <= 0 {
		return hours(-offset)
	}
	return "-" + hours(offset)
}

// east prints an offset with its sign: +1, -3:30, 0.
func east(offset int) string {
	switch {
	case offset > 0:
		return "+" + hours(offset)
	case offset < 0:
		return "-" + hours(-offset)
	}
	return "0"
}
