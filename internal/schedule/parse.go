package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Parse reads opening hours as people write them, one part for each semicolon
// or line:
//
//	Mo-Fr 09:00-12:30,13:30-19:00; Sa 10:00-18:00    days of the week
//	12-25 closed (Christmas)                          every year, with a name
//	2026-12-24 09:00-12:00                            one year
//	2026-08-01..2026-08-21 closed                     from day to day
//	Fr 22:00-02:00                                    ends on Saturday
//	always                                            day and night
//
// A day of the week that is not named is closed. Every error says which part
// it is about and what to write instead.
func Parse(text string) (Hours, error) {
	var h Hours
	if len(text) > MaxText {
		return h, fmt.Errorf("opening hours: %d bytes: keep them below %d", len(text), MaxText)
	}
	var given [7]bool
	var errs []error
	parts := 0
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ';' || r == '\n' }) {
		part = strings.Join(strings.Fields(part), " ")
		if part == "" {
			continue
		}
		parts++
		if err := h.part(part, &given); err != nil {
			errs = append(errs, fmt.Errorf("opening hours: %q: %w", part, err))
		}
		if len(errs) == 5 || len(h.Dates) > MaxDates {
			break
		}
	}
	if parts == 0 {
		return h, errors.New(`opening hours: nothing is written: write for example "Mo-Fr 09:00-18:00; Sa 10:00-16:00", "always" or "never"`)
	}
	if len(h.Dates) > MaxDates {
		errs = append(errs, fmt.Errorf("opening hours: more than %d dates: remove those that have passed", MaxDates))
	}
	if len(errs) > 0 {
		return Hours{}, errors.Join(errs...)
	}
	return h, nil
}

// dashes are what word processors make of a hyphen.
var dashes = strings.NewReplacer("–", "-", "—", "-")

// part reads one of the parts; its spaces are single.
func (h *Hours) part(part string, given *[7]bool) error {
	name := ""
	if i := strings.IndexByte(part, '('); i >= 0 {
		if i == 0 || !strings.HasSuffix(part, ")") {
			return errors.New("a name in brackets must be the last thing, as in 12-25 closed (Christmas)")
		}
		part, name = strings.TrimSpace(part[:i]), strings.TrimSpace(part[i+1:len(part)-1])
	}
	head, rest, _ := strings.Cut(dashes.Replace(part), " ")
	// "Mo - Fr 09:00" and "Mo, Tu 09:00" mean the same without the spaces.
	for {
		next, more, _ := strings.Cut(rest, " ")
		if next == "" || !strings.HasSuffix(head, "-") && !strings.HasSuffix(head, ",") && !strings.HasSuffix(head, "..") &&
			next[0] != '-' && next[0] != ',' && !strings.HasPrefix(next, "..") {
			break
		}
		head, rest = head+next, more
	}
	switch strings.ToLower(head) {
	case "always", "24/7":
		head, rest = "Mo-Su", "00:00-24:00"
	case "never":
		head, rest = "Mo-Su", "closed"
	}
	if head[0] >= '0' && head[0] <= '9' {
		return h.date(head, rest, name)
	}
	days, err := weekdays(head)
	if err != nil {
		return err
	}
	if name != "" {
		return errors.New("only dates have a name in brackets: remove it")
	}
	times, err := openings(rest)
	if err != nil {
		return err
	}
	for _, d := range days {
		if given[d] {
			return fmt.Errorf("%s is given twice: write all its times in one place, as in %s 09:00-12:00,14:00-18:00", d, dayNames[d])
		}
		given[d] = true
		h.Week[d] = slices.Clone(times)
	}
	return nil
}

func (h *Hours) date(head, rest, name string) error {
	from, to, span := strings.Cut(head, "..")
	d := Date{Name: name}
	var err error
	if d.From, err = day(from); err != nil {
		return err
	}
	if d.To = d.From; span {
		if d.To, err = day(to); err != nil {
			return err
		}
	}
	if d.Ranges, err = openings(rest); err != nil {
		return err
	}
	if err := d.validate(); err != nil {
		return err
	}
	h.Dates = append(h.Dates, d)
	return nil
}

// day reads 2026-12-24 or 12-24.
func day(s string) (Day, error) {
	bad := fmt.Errorf("%q is no day: write 2026-12-24, or 12-24 for every year, or Mo, Tu, We, Th, Fr, Sa, Su", s)
	f := strings.Split(s, "-")
	var n [3]int
	if len(f) != 2 && len(f) != 3 {
		return Day{}, bad
	}
	for i, x := range f {
		v, ok := number(x)
		if !ok || len(x) > 2 && (i > 0 || len(f) == 2) || len(x) != 4 && i == 0 && len(f) == 3 {
			return Day{}, bad
		}
		n[i+3-len(f)] = v
	}
	d := Day{n[0], time.Month(n[1]), n[2]}
	if len(f) == 3 && d.Year == 0 || !d.valid() {
		return Day{}, bad
	}
	return d, nil
}

// number reads up to four figures and nothing else.
func number(s string) (int, bool) {
	if s == "" || len(s) > 4 {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// weekdays reads Mo, Mo-Fr, Sa-Mo and lists of them.
func weekdays(s string) ([]time.Weekday, error) {
	var out []time.Weekday
	for item := range strings.SplitSeq(s, ",") {
		a, b, span := strings.Cut(item, "-")
		from, ok := weekday(a)
		to := from
		if ok && span {
			to, ok = weekday(b)
		}
		if !ok {
			return nil, fmt.Errorf("%q is no day: begin with Mo, Tu, We, Th, Fr, Sa, Su, Mo-Fr, or a date like 12-25", item)
		}
		for d := from; ; d = (d + 1) % 7 {
			if slices.Contains(out, d) {
				return nil, fmt.Errorf("%s is named twice: name it once", d)
			}
			out = append(out, d)
			if d == to {
				break
			}
		}
	}
	return out, nil
}

// weekday reads Mo, Mon and Monday.
func weekday(s string) (time.Weekday, bool) {
	for d := range time.Weekday(7) {
		full := d.String()
		if strings.EqualFold(s, full) || strings.EqualFold(s, full[:2]) || strings.EqualFold(s, full[:3]) {
			return d, true
		}
	}
	return 0, false
}

// openings reads "closed" or times of one day.
func openings(s string) ([]Range, error) {
	if s == "" {
		return nil, errors.New("the times are missing: write for example 09:00-18:00, or closed")
	}
	if strings.EqualFold(s, "closed") {
		return nil, nil
	}
	var out []Range
	for item := range strings.SplitSeq(strings.ReplaceAll(s, " ", ""), ",") {
		a, b, ok := strings.Cut(item, "-")
		if !ok {
			return nil, fmt.Errorf("%q is no time of opening: write from-to, as in 09:00-12:30", item)
		}
		from, err := clock(a)
		if err != nil {
			return nil, err
		}
		to, err := clock(b)
		if err != nil {
			return nil, err
		}
		switch {
		case from == dayMinutes:
			return nil, fmt.Errorf("%q: a day ends at 24:00: begin at 00:00 of the next one", item)
		case from == to:
			return nil, fmt.Errorf("%q begins and ends at one time: write 00:00-24:00 for a whole day", item)
		case to < from:
			to += dayMinutes
		}
		out = append(out, Range{from, to})
	}
	slices.SortFunc(out, func(a, b Range) int { return a.From - b.From })
	if err := check(out); err != nil {
		return nil, err
	}
	return out, nil
}

// clock reads 09:00, 9:00, 9.00, 9h00, 9h and 9.
func clock(s string) (int, error) {
	bad := fmt.Errorf("%q is no time: write hours and minutes, 00:00 to 24:00", s)
	h, m, has := s, "", false
	if i := strings.IndexAny(s, ":.hH"); i >= 0 {
		h, m, has = s[:i], s[i+1:], true
		if m == "" && (s[i] == 'h' || s[i] == 'H') {
			has = false
		}
	}
	hours, ok := number(h)
	if !ok || len(h) > 2 {
		return 0, bad
	}
	minutes := 0
	if has {
		if minutes, ok = number(m); !ok || len(m) != 2 || minutes > 59 {
			return 0, bad
		}
	}
	if hours*60+minutes > dayMinutes {
		return 0, bad
	}
	return hours*60 + minutes, nil
}
