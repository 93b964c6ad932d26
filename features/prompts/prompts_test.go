package prompts

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/site"
)

func TestEveryPromptIsThereAndCanBeHeard(t *testing.T) {
	set, err := English()
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("prompts.txt")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(table)) {
		if name, text, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && !strings.HasPrefix(name, "#") {
			if text == "" {
				t.Errorf("%s says nothing", name)
			}
			want = append(want, name)
		}
	}
	got := set.Names()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("files and table differ:\n%v\n%v", got, want)
	}
	for _, name := range got {
		c, _ := set.Clip(name)
		pcm, err := media.ReadAll(c.Source(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		peak := 0
		for _, s := range pcm {
			peak = max(peak, int(s))
		}
		if d := c.Duration(); d < 150*time.Millisecond || d > 8*time.Second || peak < 4000 {
			t.Errorf("%s lasts %v, peak %d", name, d, peak)
		}
	}
}

func TestEveryNumberAndTimeHasItsWords(t *testing.T) {
	set, err := English()
	if err != nil {
		t.Fatal(err)
	}
	check := func(words []string) {
		t.Helper()
		for _, w := range words {
			if _, ok := set.Clip(w); !ok {
				t.Errorf("nobody speaks %q of %v", w, words)
			}
		}
	}
	for n := -1; n < 130; n++ {
		check(Number(n))
	}
	now := time.Date(2026, 12, 31, 23, 59, 0, 0, time.UTC)
	for d := range 400 {
		check(Time(now.Add(-time.Duration(d)*(24*time.Hour+time.Minute)), now))
	}
	check(Digits("+33 472-00 x"))
	for c := site.Normal; c <= site.Failure; c++ {
		check(Cause(c))
	}
	if Cause(site.Unreachable) == nil || Cause(site.Busy) != nil {
		t.Error("the words for a cause")
	}
}

func TestWords(t *testing.T) {
	now := time.Date(2026, 3, 21, 9, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		got  []string
		want string
	}{
		{Number(0), "0"}, {Number(20), "20"}, {Number(47), "40 7"}, {Number(59), "50 9"}, {Number(60), "more-than 50 9"},
		{Time(now.Add(-time.Hour), now), "today at 8 a-m"},
		{Time(now.Add(-10*time.Hour), now), "yesterday at 11 p-m"},
		{Time(time.Date(2026, 3, 18, 0, 5, 0, 0, time.UTC), now), "wednesday at 12 oh 5 a-m"},
		{Time(time.Date(2025, 12, 31, 14, 30, 0, 0, time.UTC), now), "december 30 1 at 2 30 p-m"},
		{Time(now.Add(48*time.Hour), now), "march 20 3 at 9 a-m"}, // a clock that is wrong
		{Digits("+12"), "plus 1 2"}, {Digits("anonymous"), "unknown-number"}, {Digits(""), "unknown-number"},
	} {
		if got := strings.Join(c.got, " "); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
