package schedule

import "time"

// in puts a day into a year; a leap day of a common year is the first of March,
// which only holds tells apart.
func (d Day) in(year int) civil {
	if d.Year != 0 {
		year = d.Year
	}
	return civilOf(time.Date(year, d.Month, d.Day, 0, 0, 0, 0, time.UTC))
}

// valid says whether the calendar has the day; the 29th of February counts for
// every year.
func (d Day) valid() bool {
	year := d.Year
	if year == 0 {
		year = 2000
	}
	return d.in(year) == civil{year, d.Month, d.Day}
}

// wraps says whether a yearly date goes past New Year.
func (d *Date) wraps() bool {
	return d.From.Year == 0 && (d.To.Month < d.From.Month || d.To.Month == d.From.Month && d.To.Day < d.From.Day)
}

// holds says whether the date is about a day.
func (d *Date) holds(c civil) bool {
	if d.From.Year != 0 {
		return !c.less(d.From.in(0)) && !d.To.in(0).less(c)
	}
	// Compared by month and day, so that a 29th of February is no other day.
	md, from, to := civil{0, c.m, c.d}, civil{0, d.From.Month, d.From.Day}, civil{0, d.To.Month, d.To.Day}
	if d.wraps() {
		return !md.less(from) || !to.less(md)
	}
	return !md.less(from) && !to.less(md)
}

// days is how long a date is, in a leap year.
func (d *Date) days() int {
	from, to := d.From.in(2000), d.To.in(2000)
	if d.wraps() {
		to = d.To.in(2001)
	}
	return int(to.utc().Sub(from.utc())/(24*time.Hour)) + 1
}

// beats says whether d, written before o, still holds where both do.
func (d *Date) beats(o *Date) bool {
	if one, other := d.From.Year != 0, o.From.Year != 0; one != other {
		return one
	}
	return d.days() < o.days()
}

// edges calls f with the first and the last day of the date, those later than
// another, up to the year limit; of a date of every year for ten years at
// most. In most years a 29th of February is the 1st of March here, from where
// on a search sees what it must.
func (d *Date) edges(after civil, limit int, f func(civil)) {
	first, last := after.y, min(after.y+9, limit)
	if d.From.Year != 0 {
		first, last = d.From.Year, d.From.Year
	}
	for y := first; y <= last; y++ {
		for _, c := range []civil{d.From.in(y), d.To.in(y)} {
			if after.less(c) {
				f(c)
			}
		}
	}
}
