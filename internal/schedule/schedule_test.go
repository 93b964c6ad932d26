package schedule

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(t testing.TB, zone, text string) Schedule {
	t.Helper()
	s, err := New(zone, parse(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// when reads a moment in the zone of a schedule; "2026-10-25 02:30 +0100"
// names one of two.
func when(t testing.TB, s Schedule, text string) time.Time {
	t.Helper()
	if out, err := time.Parse("2006-01-02 15:04 -0700", text); err == nil {
		return out
	}
	out, err := time.ParseInLocation("2006-01-02 15:04", text, s.Location())
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const shop = "Mo-Fr 09:00-12:30,13:30-19:00; Sa 10:00-18:00; 12-25 closed (Christmas); 2026-12-24 09:00-12:00; 2026-08-03..2026-08-21 closed"

func TestAShopsYear(t *testing.T) {
	s := at(t, "Europe/Paris", shop)
	for _, c := range []struct {
		at, next, why string
		open          bool
	}{
		{"2026-03-02 08:59", "2026-03-02 09:00", "closed: outside the hours of the week", false},
		{"2026-03-02 09:00", "2026-03-02 12:30", "open: Mo 09:00-12:30", true},
		{"2026-03-02 12:30", "2026-03-02 13:30", "closed: outside", false},
		{"2026-03-06 19:00", "2026-03-07 10:00", "closed: outside", false},
		{"2026-03-08 12:00", "2026-03-09 09:00", "closed: no hours on Sunday", false},
		{"2026-12-24 11:00", "2026-12-24 12:00", "open: 2026-12-24 09:00-12:00", true},
		{"2026-12-24 14:00", "2026-12-26 10:00", "closed: outside the hours of 2026-12-24", false},
		{"2026-12-25 10:00", "2026-12-26 10:00", "closed: 12-25 (Christmas)", false},
		{"2027-12-24 14:00", "2027-12-24 19:00", "open: Fr 13:30-19:00", true},
		{"2026-08-01 19:00", "2026-08-22 10:00", "closed: outside", false},
		{"2026-08-10 10:00", "2026-08-22 10:00", "closed: 2026-08-03..2026-08-21", false},
	} {
		st := s.At(when(t, s, c.at))
		if st.Open != c.open || !st.Next.Equal(when(t, s, c.next)) || !strings.HasPrefix(st.Why, c.why) {
			t.Errorf("%s: %+v, want %v until %s, %s", c.at, st, c.open, c.next, c.why)
		}
	}
}

func TestPastMidnight(t *testing.T) {
	s := at(t, "Europe/Paris", "Fr-Sa 22:00-02:00; 2026-03-07 closed; 2026-03-21 23:00-24:00; 2026-03-22 00:00-01:00")
	for _, c := range []struct{ at, next, because string }{
		{"2026-03-06 23:00", "2026-03-07 02:00", "week"}, // belongs to Friday: the holiday does not cut it
		{"2026-03-07 01:59", "2026-03-07 02:00", "week"},
		{"2026-03-21 23:30", "2026-03-22 01:00", "date"}, // joined at midnight
	} {
		if st := s.At(when(t, s, c.at)); !st.Open || !st.Next.Equal(when(t, s, c.next)) || string(st.Because) != c.because {
			t.Errorf("%s: %+v, want open until %s by %s", c.at, st, c.next, c.because)
		}
	}
	if st := s.At(when(t, s, "2026-03-07 23:00")); st.Open || !st.Next.Equal(when(t, s, "2026-03-13 22:00")) {
		t.Errorf("%+v", st)
	}
}

// Where the clock is set, an opening lasts from the first moment at which the
// clock shows its beginning to the last at which it shows less than its end.
func TestDaylightSaving(t *testing.T) {
	for _, c := range []struct{ zone, hours, at, next string }{
		// Paris, 29 March: 02:00 becomes 03:00.
		{"Europe/Paris", "Su 01:30-04:00", "2026-03-29 01:30 +0100", "2026-03-29 04:00 +0200"},
		{"Europe/Paris", "Su 02:30-05:00", "2026-03-29 01:59 +0100", "2026-03-29 03:00 +0200"}, // opens as it is set
		{"Europe/Paris", "Su 01:00-02:30", "2026-03-29 01:00 +0100", "2026-03-29 03:00 +0200"}, // closes as it is set
		{"Europe/Paris", "Su 02:10-02:50", "2026-03-29 01:00 +0100", "2026-04-05 02:10 +0200"}, // there is none
		// Paris, 25 October: 03:00 becomes 02:00.
		{"Europe/Paris", "Su 02:30-05:00", "2026-10-25 02:00 +0200", "2026-10-25 02:30 +0200"},
		{"Europe/Paris", "Su 02:30-05:00", "2026-10-25 02:10 +0100", "2026-10-25 05:00 +0100"},
		{"Europe/Paris", "Su 01:00-02:30", "2026-10-25 02:45 +0200", "2026-10-25 02:30 +0100"},
		{"Europe/Paris", "Su 01:00-02:00", "2026-10-25 01:00 +0200", "2026-10-25 02:00 +0200"},
		{"Europe/Paris", "Su 03:00-04:00", "2026-10-25 02:59 +0100", "2026-10-25 03:00 +0100"},
		{"Europe/Paris", "Mo-Fr 09:00-17:00", "2026-10-23 17:00 +0200", "2026-10-26 09:00 +0100"},
		// New York, 8 March and 1 November.
		{"America/New_York", "Su 01:00-02:30", "2026-03-08 01:00 -0500", "2026-03-08 03:00 -0400"},
		{"America/New_York", "Su 01:30-06:00", "2026-11-01 01:00 -0400", "2026-11-01 01:30 -0400"},
		{"America/New_York", "Sa 22:00-01:30", "2026-10-31 22:00 -0400", "2026-11-01 01:30 -0500"},
		// Lord Howe moves by half an hour: 4 October 02:00 becomes 02:30, 5 April 02:00 becomes 01:30.
		{"Australia/Lord_Howe", "Su 02:15-03:00", "2026-10-04 01:00 +1030", "2026-10-04 02:30 +1100"},
		{"Australia/Lord_Howe", "Su 01:00-01:45", "2026-04-05 01:50 +1100", "2026-04-05 01:45 +1030"},
		{"Australia/Lord_Howe", "Su 01:45-03:00", "2026-04-05 01:40 +1030", "2026-04-05 03:00 +1030"},
		// A midnight that does not exist (Santiago), one that comes twice (Havana), a day that was left out (Apia).
		{"America/Santiago", "Su 00:00-06:00", "2026-09-05 20:00 -0400", "2026-09-06 01:00 -0300"},
		{"America/Havana", "Su 00:00-02:00", "2026-10-31 20:00 -0400", "2026-11-01 00:00 -0400"},
		{"Pacific/Apia", "Fr 09:00-17:00", "2011-12-29 12:00 -1000", "2012-01-06 09:00 +1400"},
		{"Pacific/Apia", "Th 20:00-24:00; Sa 00:00-02:00", "2011-12-29 21:00 -1000", "2011-12-31 02:00 +1400"},
	} {
		s := at(t, c.zone, c.hours)
		if st := s.At(when(t, s, c.at)); !st.Next.Equal(when(t, s, c.next)) {
			t.Errorf("%s, %s at %s: %v (%s), want %s", c.zone, c.hours, c.at, st.Next, st.Why, c.next)
		} else if after := s.At(st.Next); after.Open == st.Open {
			t.Errorf("%s, %s: nothing changes at %v", c.zone, c.hours, st.Next)
		}
	}
}

func TestNothingChanges(t *testing.T) {
	for _, text := range []string{"always", "never", "never; 2020-01-01 09:00-12:00", "always; 12-25 00:00-24:00", "Mo-Su 00:00-12:00,12:00-24:00"} {
		s := at(t, "Europe/Paris", text)
		if st := s.At(when(t, s, "2026-03-02 09:00")); !st.Next.IsZero() {
			t.Errorf("%s: changes at %v", text, st.Next)
		}
	}
}

func TestTheNextChangeIsFarAway(t *testing.T) {
	for _, c := range []struct{ text, next string }{
		{"never; 02-29 10:00-11:00", "2028-02-29 10:00"},
		{"never; 2199-12-31 10:00-11:00", "2199-12-31 10:00"},
		{"always; 2031-06-01 closed", "2031-06-01 00:00"},
		{"always; 2031-06-01 06:00-05:00", "2031-06-01 00:00"},
		{"Mo-Su 06:00-05:00,05:00-06:00; 12-24..12-26 closed", "2026-12-24 05:00"},
		// Sparse weeks behind closed days of about as many as show that a week repeats itself.
		{"Mo 09:00-18:00; 2026-02-27..2026-03-17 closed", "2026-03-23 09:00"},
		{"Mo 09:00-18:00; 2026-02-27..2026-03-23 closed", "2026-03-30 09:00"},
		{"Mo 09:00-18:00; 2026-02-27..2026-03-24 closed; 2026-03-25..2026-04-14 closed", "2026-04-20 09:00"},
		{"Mo-Sa 00:00-24:00; 2026-02-27..2026-03-17 00:00-24:00; 2026-03-18..2026-04-06 00:00-24:00; 2026-04-12..2026-05-02 00:00-24:00", "2026-05-03 00:00"},
		{"Mo-Su 09:00-18:00; 10-01..04-30 closed", "2026-05-01 09:00"},
		{"Mo-Su 09:00-18:00; 01-15..02-29 closed; 03-01..03-31 closed", "2026-04-01 09:00"},
		{"never; 02-29..03-31 10:00-11:00", "2026-03-02 10:00"},
		{"always; 2026-01-01..2040-12-31 00:00-24:00; 12-25 closed", "2041-12-25 00:00"},
		{"always; 2026-03-10..2027-12-31 00:00-24:00; 2027-11-01 closed", "2027-11-01 00:00"},
		{"Mo-Fr 09:00-18:00; 2026-03-01..2027-03-31 closed", "2027-04-01 09:00"},
	} {
		s := at(t, "Europe/Paris", c.text)
		if st := s.At(when(t, s, "2026-03-02 09:00")); !st.Next.Equal(when(t, s, c.next)) {
			t.Errorf("%s: %v, want %s", c.text, st.Next, c.next)
		}
	}
}

// A yearly date that ends on the 29th of February ends on the 28th of most years.
func TestTheEndOfFebruary(t *testing.T) {
	s := at(t, "Europe/Paris", "Mo-Su 09:00-18:00; 01-15..02-29 closed")
	for _, c := range []struct{ at, next string }{{"2026-01-20 10:00", "2026-03-01 09:00"}, {"2028-01-20 10:00", "2028-03-01 09:00"}} {
		if st := s.At(when(t, s, c.at)); st.Open || !st.Next.Equal(when(t, s, c.next)) {
			t.Errorf("%s: %+v, want %s", c.at, st, c.next)
		}
	}
}

func TestWhichDateHolds(t *testing.T) {
	s := at(t, "Europe/Paris", "Mo-Su 09:00-18:00; 2026-12-24 10:00-11:00; 12-20..12-31 closed; 12-24 12:00-13:00; 12-28..12-29 14:00-15:00; 12-28..12-29 16:00-17:00")
	for _, c := range []struct {
		at   string
		open bool
	}{
		{"2026-12-24 10:30", true},  // one year beats every year
		{"2026-12-24 12:30", false}, //
		{"2027-12-24 12:30", true},  // one day beats many
		{"2027-12-23 12:30", false},
		{"2026-12-28 16:30", true}, // the last one written
		{"2026-12-28 14:30", false},
	} {
		if st := s.At(when(t, s, c.at)); st.Open != c.open {
			t.Errorf("%s: %+v", c.at, st)
		}
	}
}

func TestNightSwitch(t *testing.T) {
	s := at(t, "Europe/Paris", "Mo-Fr 09:00-18:00")
	noon := when(t, s, "2026-03-02 12:00") // a Monday
	for _, c := range []struct {
		mode        Mode
		until, next string
		open        bool
		why         string
	}{
		{Closed, "", "", false, "closed: night switch"},
		{Closed, "2026-03-02 14:00", "2026-03-02 14:00", false, "closed: night switch until 2026-03-02 14:00"},
		{Closed, "2026-03-02 20:00", "2026-03-03 09:00", false, "closed: night switch"}, // then it is night anyway
		{Open, "2026-03-02 20:00", "2026-03-02 20:00", true, "open: night switch"},
		{Open, "2026-03-03 10:00", "2026-03-03 18:00", true, "open: night switch"},
		{Open, "2026-03-02 12:00", "2026-03-02 18:00", true, "open: Mo"}, // it has ended
		{Closed, "2026-03-02 11:00", "2026-03-02 18:00", true, "open: Mo"},
		{Auto, "", "2026-03-02 18:00", true, "open: Mo"},
		{"nonsense", "", "2026-03-02 18:00", true, "open: Mo"},
	} {
		o := Override{Mode: c.mode}
		if c.until != "" {
			o.Until = when(t, s, c.until)
		}
		var next time.Time
		if c.next != "" {
			next = when(t, s, c.next)
		}
		st := s.With(o).At(noon)
		if st.Open != c.open || !st.Next.Equal(next) || !strings.HasPrefix(st.Why, c.why) {
			t.Errorf("%s until %q: %+v", c.mode, c.until, st)
		}
	}
	if st := s.At(noon); !st.Open {
		t.Errorf("With changed the schedule it was called on: %+v", st)
	}
}

func TestZones(t *testing.T) {
	for _, name := range []string{"", "Local", "Paris", "../etc/passwd"} {
		if _, err := New(name, Hours{}); err == nil || !strings.Contains(err.Error(), "Europe/Paris") {
			t.Errorf("%q: %v", name, err)
		}
	}
	var zero Schedule
	if st := zero.At(time.Unix(0, 0)); st.Open || !st.Next.IsZero() {
		t.Errorf("%+v", st)
	}
}

// shows is the plain reading of the hours: what the clock on the wall shows.
func shows(h *Hours, t time.Time) bool {
	now := t.Hour()*60 + t.Minute()
	for back := range 2 {
		ranges, _ := h.on(civilOf(t).add(-back))
		for _, r := range ranges {
			if m := now + back*dayMinutes; m >= r.From && m < r.To {
				return true
			}
		}
	}
	return false
}

// Away from a change of the clock At agrees with the clock on the wall; at
// Next, and not before, the answer is another.
func TestAtAgreesWithTheClockOnTheWall(t *testing.T) {
	zones := []string{"Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/Santiago"}
	rapid.Check(t, func(t *rapid.T) {
		h := drawHours(t)
		s, err := New(rapid.SampledFrom(zones).Draw(t, "zone"), h)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Unix(1772000000+60*rapid.Int64Range(0, 60*24*400).Draw(t, "minute"), 0).In(s.Location())
		begin, end := at.ZoneBounds()
		calm := (begin.IsZero() || at.Sub(begin) > 3*time.Hour) && (end.IsZero() || end.Sub(at) > 3*time.Hour)
		st := s.At(at)
		if calm && st.Open != shows(&h, at) {
			t.Fatalf("%v: %+v, but the wall says %v", at, st, !st.Open)
		}
		if !st.Next.IsZero() {
			if !st.Next.After(at) || s.At(st.Next).Open == st.Open || s.At(st.Next.Add(-time.Second)).Open != st.Open {
				t.Fatalf("%v: %+v, before %+v, then %+v", at, st, s.At(st.Next.Add(-time.Second)), s.At(st.Next))
			}
		}
		last := at.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "days")) * 24 * time.Hour)
		if st.Next.IsZero() || last.Before(st.Next) {
			if s.At(last).Open != st.Open {
				t.Fatalf("%v: %+v, but %+v at %v", at, st, s.At(last), last)
			}
		}
	})
}

func BenchmarkAt(b *testing.B) {
	s := at(b, "Europe/Paris", shop)
	now := when(b, s, "2026-08-10 10:00")
	b.ReportAllocs()
	for b.Loop() {
		s.At(now)
	}
}
