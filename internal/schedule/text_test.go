package schedule

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func parse(t testing.TB, text string) Hours {
	t.Helper()
	h, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestWhatIsTypedReadsBack(t *testing.T) {
	for _, c := range []struct{ typed, read string }{
		{"Mo-Fr 09:00-12:30,13:30-19:00; Sa 10:00-18:00; 12-25 closed; 2026-12-24 09:00-12:00",
			"Mo-Fr 09:00-12:30,13:30-19:00; Sa 10:00-18:00; 12-25 closed; 2026-12-24 09:00-12:00"},
		{" monday - friday 9-12, 14h-18h30 \n sat 9.30-12.00 ;;", "Mo-Fr 09:00-12:00,14:00-18:30; Sa 09:30-12:00"},
		{"Fr–Su 22:00–02:00", "Fr-Su 22:00-02:00"},
		{"Sa-Mo 10:00-18:00", "Mo 10:00-18:00; Sa-Su 10:00-18:00"},
		{"Mo,We , Fr 14-18,9-12", "Mo 09:00-12:00,14:00-18:00; We 09:00-12:00,14:00-18:00; Fr 09:00-12:00,14:00-18:00"},
		{"always", "Mo-Su 00:00-24:00"},
		{"24/7; 01-01 closed (New Year – all of us)", "Mo-Su 00:00-24:00; 01-01 closed (New Year – all of us)"},
		{"never", "Mo-Su closed"},
		{"Mo closed; 2028-02-29 18:00-0:00", "Mo-Su closed; 2028-02-29 18:00-24:00"},
		{"Mo 9-18; 12-24 .. 01-02 closed; 2026-08-01..2026-08-21 closed (holiday)",
			"Mo 09:00-18:00; 12-24..01-02 closed; 2026-08-01..2026-08-21 closed (holiday)"},
	} {
		h := parse(t, c.typed)
		if got := h.String(); got != c.read {
			t.Errorf("%q reads back as\n%q, want\n%q", c.typed, got, c.read)
		}
		if err := h.Validate(); err != nil {
			t.Errorf("%q: %v", c.typed, err)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for _, c := range []struct{ typed, part, advice string }{
		{"", "", `write for example "Mo-Fr 09:00-18:00`},
		{"Mo", `"Mo"`, "write for example 09:00-18:00, or closed"},
		{"Mo 9", `"Mo 9"`, "write from-to"},
		{"Mo 9-25", `"25"`, "00:00 to 24:00"},
		{"Mo 9:60-10", `"9:60"`, "hours and minutes"},
		{"Mo 9:00-09:00", `"9:00-09:00"`, "write 00:00-24:00 for a whole day"},
		{"Mo 24:00-25:00", `"25:00"`, "no time"},
		{"Mo 24:00-02:00", `"24:00-02:00"`, "begin at 00:00 of the next one"},
		{"Mo 09:00-13:00,12:00-18:00", "09:00-13:00 and 12:00-18:00 overlap", "join them"},
		{"Mo-Fr 9-12; We 14-18", "Wednesday is given twice", "We 09:00-12:00,14:00-18:00"},
		{"Lu 9-12", `"Lu"`, "Mo, Tu, We"},
		{"Mo-Xx 9-12", `"Mo-Xx"`, "Mo, Tu, We"},
		{"Mo,Mo 9-12", "Monday is named twice", "name it once"},
		{"13-25 closed", `"13-25"`, "write 2026-12-24, or 12-24"},
		{"2026-02-29 closed", `"2026-02-29"`, "write 2026-12-24"},
		{"26-12-24 closed", `"26-12-24"`, "write 2026-12-24"},
		{"1999-12-24 closed", "1999-12-24", "write 2026-12-24"},
		{"12-24..2026-12-26 closed", "12-24..2026-12-26", "the year on both sides"},
		{"2026-12-26..2026-12-24 closed", "ends before it begins", "the earlier day first"},
		{"Mo 9-12 (Monday)", `"Mo 9-12 (Monday)"`, "remove it"},
		{"12-25 (Christmas) closed", "12-25 (Christmas) closed", "must be the last thing"},
		{"12-25 closed (a(b)", "12-25", "without brackets"},
		{strings.Repeat("12-25 closed;", MaxDates+1), "", "remove those that have passed"},
		{strings.Repeat(" ", MaxText+1), "", "keep them below"},
	} {
		h, err := Parse(c.typed)
		if err == nil {
			t.Errorf("%.40q was taken as %q", c.typed, h)
			continue
		}
		if s := err.Error(); !strings.Contains(s, c.part) || !strings.Contains(s, c.advice) {
			t.Errorf("%.40q: %s\nwant it to name %s and to say %q", c.typed, s, c.part, c.advice)
		}
		if !reflect.DeepEqual(h, Hours{}) {
			t.Errorf("%.40q: half of it was taken", c.typed)
		}
	}
	// All that is wrong is said at once.
	if _, err := Parse("Lu 9-12; Mo 9-25"); err == nil || !strings.Contains(err.Error(), "Lu") || !strings.Contains(err.Error(), "25") {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	day := Day{2026, 12, 24}
	for _, h := range []Hours{
		{Week: [7][]Range{{{600, 600}}}},
		{Week: [7][]Range{{{-1, 60}}}},
		{Week: [7][]Range{{{1440, 1500}}}},
		{Week: [7][]Range{{{60, 1500}}}},
		{Week: [7][]Range{{{600, 700}, {650, 800}}}},
		{Dates: []Date{{From: day}}},
		{Dates: []Date{{From: day, To: day, Ranges: []Range{{5, 4}}}}},
		{Dates: []Date{{From: day, To: day, Name: "two\nlines"}}},
		{Dates: []Date{{From: day, To: day, Name: " a"}}},
		{Dates: []Date{{From: Day{0, 2, 30}, To: Day{0, 2, 30}}}},
		{Dates: make([]Date, MaxDates+1)},
	} {
		if h.Validate() == nil {
			t.Errorf("%+v is valid", h)
		}
		if _, err := New("Europe/Paris", h); err == nil {
			t.Errorf("%+v makes a schedule", h)
		}
	}
}

// drawHours makes any valid hours.
func drawHours(t *rapid.T) (h Hours) {
	openings := rapid.Custom(func(t *rapid.T) []Range {
		var out []Range
		at := 0
		for range rapid.IntRange(0, 4).Draw(t, "n") {
			from := rapid.IntRange(at, at+700).Draw(t, "from")
			if from >= dayMinutes {
				break
			}
			to := rapid.IntRange(from+1, min(from+dayMinutes-1, from+900)).Draw(t, "to")
			out = append(out, Range{from, to})
			at = to
		}
		return out
	})
	for i := range h.Week {
		h.Week[i] = openings.Draw(t, "day")
	}
	if rapid.Bool().Draw(t, "alike") {
		for i := range h.Week {
			h.Week[i] = h.Week[1]
		}
	}
	for range rapid.IntRange(0, 4).Draw(t, "dates") {
		a := time.Date(2026, 1, rapid.IntRange(1, 1200).Draw(t, "a"), 0, 0, 0, 0, time.UTC)
		b := a.AddDate(0, 0, rapid.SampledFrom([]int{0, 0, 1, 20, 200}).Draw(t, "b"))
		d := Date{Ranges: openings.Draw(t, "times"), Name: rapid.SampledFrom([]string{"", "Noël", "stock – taking"}).Draw(t, "name")}
		d.From, d.To = Day{a.Year(), a.Month(), a.Day()}, Day{b.Year(), b.Month(), b.Day()}
		if rapid.Bool().Draw(t, "yearly") {
			d.From.Year, d.To.Year = 0, 0
		}
		h.Dates = append(h.Dates, d)
	}
	return h
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHours(t)
		if err := h.Validate(); err != nil {
			t.Fatal(err)
		}
		b, err := h.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back Hours
		if err := back.UnmarshalText(b); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if !reflect.DeepEqual(h, back) {
			t.Fatalf("%s:\n%+v\n%+v", b, h, back)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"Mo-Fr 09:00-12:30,13:30-19:00; Sa 10:00-18:00; 12-25 closed; 2026-12-24 09:00-12:00", "always",
		"never; 02-29 22:00-02:00 (x)", "Sa-Mo 9h-12h30\n12-24..01-02 closed", "(", "Mo - 9", "12-25..", "Mo 9-9"} {
		f.Add(s)
	}
	paris, err := Zone("Europe/Paris")
	if err != nil {
		f.Fatal(err)
	}
	at := time.Date(2026, 3, 29, 1, 0, 0, 0, paris)
	f.Fuzz(func(t *testing.T, s string) {
		h, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(h.String())
		if err != nil || !reflect.DeepEqual(h, again) {
			t.Fatalf("%q -> %q: %v", s, h, err)
		}
		sch, err := New("Europe/Paris", h)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if len(h.Dates) > 10 {
			return
		}
		st := sch.At(at)
		if !st.Next.IsZero() && (!st.Next.After(at) || sch.At(st.Next).Open == st.Open) {
			t.Fatalf("%q: %+v, then %+v", s, st, sch.At(st.Next))
		}
	})
}
