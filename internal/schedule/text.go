package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of what a person types.
const (
	MaxText   = 16 << 10 // bytes
	MaxDates  = 400
	MaxRanges = 12 // of one day
	maxName   = 64 // bytes
)

const (
	minYear, maxYear = 2000, 2199
	dayMinutes       = 24 * 60
)

// dayNames by time.Weekday, as they are written; week is their order in text.
var (
	dayNames = [7]string{"Su", "Mo", "Tu", "We", "Th", "Fr", "Sa"}
	week     = [7]time.Weekday{1, 2, 3, 4, 5, 6, 0}
)

// String writes 09:00-12:30. An end past midnight is written by its clock:
// 22:00-02:00.
func (r Range) String() string {
	to := r.To
	if to > dayMinutes {
		to -= dayMinutes
	}
	return fmt.Sprintf("%02d:%02d-%02d:%02d", r.From/60, r.From%60, to/60, to%60)
}

// String writes 2026-12-24, or 12-24 for every year.
func (d Day) String() string {
	if d.Year == 0 {
		return fmt.Sprintf("%02d-%02d", int(d.Month), d.Day)
	}
	return fmt.Sprintf("%04d-%02d-%02d", d.Year, int(d.Month), d.Day)
}

func (d *Date) span() string {
	if d.From == d.To {
		return d.From.String()
	}
	return d.From.String() + ".." + d.To.String()
}

// title is the date for people.
func (d *Date) title() string {
	if d.Name == "" {
		return d.span()
	}
	return d.span() + " (" + d.Name + ")"
}

func ranges(all []Range) string {
	if len(all) == 0 {
		return "closed"
	}
	var b strings.Builder
	for i, r := range all {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(r.String())
	}
	return b.String()
}

// String writes the hours as Parse reads them:
//
//	Mo-Fr 09:00-12:30,13:30-19:00; Sa 10:00-18:00; 12-25 closed (Christmas); 2026-12-24 09:00-12:00
func (h Hours) String() string {
	var out []string
	for i := 0; i < len(week); {
		have := h.Week[week[i]]
		j := i
		for j+1 < len(week) && slices.Equal(h.Week[week[j+1]], have) {
			j++
		}
		switch {
		case len(have) == 0 && i == 0 && j == len(week)-1:
			out = append(out, "Mo-Su closed")
		case len(have) == 0:
		case i == j:
			out = append(out, dayNames[week[i]]+" "+ranges(have))
		default:
			out = append(out, dayNames[week[i]]+"-"+dayNames[week[j]]+" "+ranges(have))
		}
		i = j + 1
	}
	for i := range h.Dates {
		d := &h.Dates[i]
		s := d.span() + " " + ranges(d.Ranges)
		if d.Name != "" {
			s += " (" + d.Name + ")"
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}

// MarshalText writes what UnmarshalText reads.
func (h Hours) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText is Parse.
func (h *Hours) UnmarshalText(b []byte) error {
	got, err := Parse(string(b))
	if err == nil {
		*h = got
	}
	return err
}

// Validate gathers every complaint about hours that were not made by Parse.
func (h Hours) Validate() error {
	var errs []error
	for _, d := range week {
		if err := check(h.Week[d]); err != nil {
			errs = append(errs, fmt.Errorf("hours of %s: %w", d, err))
		}
	}
	if len(h.Dates) > MaxDates {
		errs = append(errs, fmt.Errorf("%d dates: keep at most %d, remove those that have passed", len(h.Dates), MaxDates))
	}
	for i := range h.Dates {
		if err := h.Dates[i].validate(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (d *Date) validate() error {
	for _, x := range []Day{d.From, d.To} {
		if !x.valid() || x.Year != 0 && (x.Year < minYear || x.Year > maxYear) {
			return fmt.Errorf("%s is no day of the calendar: write 2026-12-24, or 12-24 for every year", x)
		}
	}
	if (d.From.Year == 0) != (d.To.Year == 0) {
		return fmt.Errorf("%s: write the year on both sides or on neither", d.span())
	}
	if d.From.Year != 0 && d.To.in(0).less(d.From.in(0)) {
		return fmt.Errorf("%s ends before it begins: write the earlier day first", d.span())
	}
	if n := d.Name; len(n) > maxName || strings.ContainsAny(n, "();") || !utf8.ValidString(n) ||
		strings.Join(strings.Fields(n), " ") != n || strings.ContainsFunc(n, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("the name of %s: use at most %d letters, without brackets or semicolons", d.span(), maxName)
	}
	if err := check(d.Ranges); err != nil {
		return fmt.Errorf("hours of %s: %w", d.span(), err)
	}
	return nil
}

// check looks at the openings of one day.
func check(all []Range) error {
	if len(all) > MaxRanges {
		return fmt.Errorf("%d times: give at most %d", len(all), MaxRanges)
	}
	for i, r := range all {
		switch {
		case r.From < 0 || r.From >= dayMinutes || r.To <= r.From || r.To-r.From > dayMinutes,
			r.To-r.From == dayMinutes && r.From != 0:
			return fmt.Errorf("from minute %d to %d: an opening begins within its day and lasts less than 24 hours; write 00:00-24:00 for a whole day", r.From, r.To)
		case i > 0 && r.From < all[i-1].To:
			return fmt.Errorf("%s and %s overlap: join them", all[i-1], r)
		}
	}
	return nil
}
