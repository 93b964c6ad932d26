// Package schedule knows when a site is open: hours for each day of the week,
// exceptions for dates, and a night switch that beats both.
//
// Its law: it computes. The time comes as an argument, the zone's rules are
// those built into the program (IANA tz database), so that every node gives the
// same answer to the same question. People read and write Hours as one line,
// see Parse.
package schedule

import (
	"fmt"
	"slices"
	"time"
)

// A Range is an opening within one day, in minutes of the wall clock since its
// midnight. From is 0 to 1439, To is above From and at most 24 hours above it:
// beyond 1440 the opening ends on the next day. It belongs to the day on which
// it begins, also when the next day is a holiday.
type Range struct{ From, To int }

// A Date is an exception to the week: a day, or the days from one to another,
// of one year or of every year.
type Date struct {
	From, To Day     // To equals From for one day
	Ranges   []Range // none: closed
	Name     string  // "Christmas", may be empty
}

// A Day is a date; Year 0 is every year.
type Day struct {
	Year  int
	Month time.Month
	Day   int
}

// Hours are the opening hours of a place without its time zone. The zero value
// is never open.
//
// A date of one year beats one of every year, then fewer days beat more, then
// the one written last holds.
type Hours struct {
	Week  [7][]Range // by time.Weekday, in order of From
	Dates []Date
}

// Mode is the position of a night switch.
type Mode string

// The positions.
const (
	Auto   Mode = "auto" // as the hours say
	Open   Mode = "open"
	Closed Mode = "closed"
)

// An Override is a night switch. The zero value is Auto.
type Override struct {
	Mode  Mode
	Until time.Time // zero: until somebody changes it
}

// In returns the position that holds at t: Auto once Until is reached.
func (o Override) In(t time.Time) Mode {
	if o.Mode != Open && o.Mode != Closed || !o.Until.IsZero() && !t.Before(o.Until) {
		return Auto
	}
	return o.Mode
}

// Because says what decides.
type Because string

// What can decide.
const (
	ByWeek   Because = "week"
	ByDate   Because = "date"
	BySwitch Because = "switch"
)

// A State is the answer for one moment.
type State struct {
	Open    bool
	Because Because
	Why     string    // in words, for people: "closed: 12-25 (Christmas)"
	Next    time.Time // when Open changes; zero: never, as far as is known now
}

// A Schedule is the hours of one place in its zone. Methods may be called from
// any goroutine.
type Schedule struct {
	hours Hours
	loc   *time.Location
	o     Override
}

// New makes a schedule. zone is a name of the IANA tz database, "Europe/Paris".
func New(zone string, h Hours) (Schedule, error) {
	loc, err := Zone(zone)
	if err != nil {
		return Schedule{}, err
	}
	if err := h.Validate(); err != nil {
		return Schedule{}, err
	}
	return Schedule{hours: h.clone(), loc: loc}, nil
}

// With returns the same schedule under a night switch.
func (s Schedule) With(o Override) Schedule {
	s.o = o
	return s
}

// Hours returns a copy of the hours.
func (s Schedule) Hours() Hours { return s.hours.clone() }

// Location is the zone of the place; UTC for the zero value.
func (s Schedule) Location() *time.Location {
	if s.loc == nil {
		return time.UTC
	}
	return s.loc
}

// At says whether the place is open at t, why, and when that changes.
func (s Schedule) At(t time.Time) State {
	mode := s.o.In(t)
	if mode == Auto {
		return s.auto(t)
	}
	st := State{Open: mode == Open, Because: BySwitch, Why: string(mode) + ": night switch"}
	if s.o.Until.IsZero() {
		return st
	}
	st.Why += " until " + s.o.Until.In(s.Location()).Format("2006-01-02 15:04")
	if after := s.auto(s.o.Until); after.Open != st.Open {
		st.Next = s.o.Until.In(s.Location())
	} else {
		st.Next = after.Next
	}
	return st
}

// auto answers without the switch.
func (s Schedule) auto(t time.Time) State {
	loc := s.Location()
	t = t.In(loc)
	today := civilOf(t)
	for _, d := range []civil{today, today.add(-1)} { // no opening lasts longer
		ranges, date := s.hours.on(d)
		for _, r := range ranges {
			from, to := opens(d, r.From, loc), closes(d, r.To, loc)
			if t.Before(from) || !t.Before(to) {
				continue
			}
			st := State{Open: true, Because: ByWeek, Why: fmt.Sprintf("open: %s %s", dayNames[d.weekday()], r), Next: s.end(d, to)}
			if date != nil {
				st.Because, st.Why = ByDate, fmt.Sprintf("open: %s %s", date.title(), r)
			}
			return st
		}
	}
	st := State{Because: ByWeek, Why: "closed: outside the hours of the week", Next: s.begin(today.add(-1), t)}
	switch ranges, date := s.hours.on(today); {
	case date != nil && len(ranges) == 0:
		st.Because, st.Why = ByDate, "closed: "+date.title()
	case date != nil:
		st.Because, st.Why = ByDate, fmt.Sprintf("closed: outside the hours of %s", date.title())
	case len(ranges) == 0:
		st.Why = "closed: no hours on " + today.weekday().String()
	}
	return st
}

// settle is how many days without a change show that a week repeats itself,
// also where a zone skips one of them.
const settle = 22

// end follows an opening of day d that ends at to, through all that touch it.
func (s Schedule) end(d civil, to time.Time) time.Time {
	loc := s.Location()
	run, edge := d.add(-1), s.edges(d)
	for day := run; ; day = day.add(1) {
		if day.start(loc).After(to) {
			return to
		}
		ranges, _ := s.hours.on(day)
		for _, r := range ranges {
			if end := closes(day, r.To, loc); end.After(to) && !opens(day, r.From, loc).After(to) {
				to = end
			}
		}
		if day.less(run.add(settle)) {
			continue
		}
		// Open without a gap for all of the week: so it is until a date comes or goes.
		next, ok := edge(run)
		if !ok {
			return time.Time{}
		}
		if run = next; day.less(next) {
			day, to = next.add(-2), next.start(loc)
		}
	}
}

// begin finds the first opening of day d or later that begins after t.
func (s Schedule) begin(d civil, t time.Time) time.Time {
	loc := s.Location()
	edge := s.edges(d)
	for run := d; ; d = d.add(1) {
		var first time.Time
		for day := d; day.less(d.add(3)); day = day.add(1) { // openings of a zone's odd days may overtake
			ranges, _ := s.hours.on(day)
			for _, r := range ranges {
				from := opens(day, r.From, loc)
				if from.After(t) && closes(day, r.To, loc).After(from) && (first.IsZero() || from.Before(first)) {
					first = from
				}
			}
		}
		if !first.IsZero() {
			return first
		}
		if d.less(run.add(settle)) {
			continue
		}
		// Closed for all of the week: so it is until a date comes or goes.
		next, ok := edge(run)
		if !ok {
			return time.Time{}
		}
		if run = next; d.less(next) {
			d = next.add(-1)
		}
	}
}

// edges returns a function that finds the first day after another on which a
// date begins or ends; false if all that follows is the week.
func (s Schedule) edges(from civil) func(after civil) (civil, bool) {
	last := from.y // a leap day comes round in eight years
	for i := range s.hours.Dates {
		last = max(last, s.hours.Dates[i].To.Year)
	}
	return func(after civil) (best civil, found bool) {
		for i := range s.hours.Dates {
			s.hours.Dates[i].edges(after, last+9, func(edge civil) {
				if !found || edge.less(best) {
					best, found = edge, true
				}
			})
		}
		return best, found
	}
}

// on returns the openings that begin on a day, and the date that made them,
// nil for the week.
func (h *Hours) on(c civil) ([]Range, *Date) {
	var best *Date
	for i := range h.Dates {
		d := &h.Dates[i]
		if d.holds(c) && (best == nil || !best.beats(d)) {
			best = d
		}
	}
	if best != nil {
		return best.Ranges, best
	}
	return h.Week[c.weekday()], nil
}

func (h Hours) clone() Hours {
	for i := range h.Week {
		h.Week[i] = slices.Clone(h.Week[i])
	}
	h.Dates = slices.Clone(h.Dates)
	for i := range h.Dates {
		h.Dates[i].Ranges = slices.Clone(h.Dates[i].Ranges)
	}
	return h
}
