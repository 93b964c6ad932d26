// Package prompts holds what features say: short English clips made by
// make.sh from prompts.txt with a free voice, and the way numbers and times
// are put together from them.
package prompts

import (
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/site"
)

//go:embed en/*.wav
var files embed.FS

// A Set is the prompts of one language.
type Set struct{ clips map[string]media.Clip }

// English reads the prompts built into the program.
func English() (*Set, error) {
	names, err := fs.Glob(files, "en/*.wav")
	if err != nil {
		return nil, fmt.Errorf("prompts: %w", err)
	}
	s := &Set{clips: make(map[string]media.Clip, len(names))}
	for _, name := range names {
		b, err := files.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("prompts: %w", err)
		}
		clip, err := media.ParseClip(b)
		if err != nil {
			return nil, fmt.Errorf("prompt %s: %w", name, err)
		}
		s.clips[strings.TrimSuffix(strings.TrimPrefix(name, "en/"), ".wav")] = clip
	}
	return s, nil
}

// Clip returns one prompt.
func (s *Set) Clip(name string) (media.Clip, bool) {
	c, ok := s.clips[name]
	return c, ok
}

// Names lists the prompts, in no order.
func (s *Set) Names() []string {
	out := make([]string, 0, len(s.clips))
	for name := range s.clips {
		out = append(out, name)
	}
	return out
}

// Say puts prompts one after the other. A name that is not in the set is a
// short silence: better than no sentence.
func (s *Set) Say(names ...string) features.Source {
	out := make([]features.Source, 0, len(names))
	for _, name := range names {
		if c, ok := s.clips[name]; ok {
			out = append(out, c.Source())
		} else {
			out = append(out, media.Silence(100*time.Millisecond))
		}
	}
	return media.Sequence(out...)
}

// Cause is what a caller on a telephone is told before the final response, nil
// if a tone says it better: media.BusyTone for site.Busy and site.Refused.
func Cause(c site.Cause) []string {
	switch c {
	case site.NoSuchNumber:
		return []string{"not-in-service"}
	case site.NoAnswer, site.Offline:
		return []string{"no-answer"}
	case site.Unreachable:
		return []string{"greeting-unreachable"}
	case site.NoLine, site.LineDown, site.NodeFull:
		return []string{"lines-busy"}
	case site.Forbidden:
		return []string{"not-permitted"}
	}
	return nil
}

// Number says 0 to 59; above that, "more than 59".
func Number(n int) []string {
	switch {
	case n < 0:
		n = 0
	case n > 59:
		return append([]string{"more-than"}, Number(59)...)
	}
	if n <= 20 || n%10 == 0 {
		return []string{strconv.Itoa(n)}
	}
	return []string{strconv.Itoa(n - n%10), strconv.Itoa(n % 10)}
}

// Digits says a telephone number figure by figure; what is no figure is left
// out. Without any figure it is an unknown number.
func Digits(number string) []string {
	var out []string
	for _, r := range number {
		switch {
		case r >= '0' && r <= '9':
			out = append(out, string(r))
		case r == '+':
			out = append(out, "plus")
		}
		if len(out) == 32 {
			break
		}
	}
	if len(out) == 0 || len(out) == 1 && out[0] == "plus" {
		return []string{"unknown-number"}
	}
	return out
}

// Time says when something was, as one says it at now: today, yesterday, on a
// day of the week, on a day of the year; and the hour. Both must be in the
// zone of the listener.
func Time(t, now time.Time) []string {
	day := func(t time.Time) time.Time {
		y, m, d := t.Date()
		return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
	}
	var out []string
	switch days := int(day(now).Sub(day(t)) / (24 * time.Hour)); {
	case days == 0:
		out = append(out, "today")
	case days == 1:
		out = append(out, "yesterday")
	case days > 1 && days < 7:
		out = append(out, strings.ToLower(t.Weekday().String()))
	default:
		out = append(append(out, strings.ToLower(t.Month().String())), Number(t.Day())...)
	}
	hour, half := t.Hour()%12, "a-m"
	if hour == 0 {
		hour = 12
	}
	if t.Hour() >= 12 {
		half = "p-m"
	}
	out = append(append(out, "at"), Number(hour)...)
	switch m := t.Minute(); {
	case m == 0:
	case m < 10:
		out = append(append(out, "oh"), Number(m)...)
	default:
		out = append(out, Number(m)...)
	}
	return append(out, half)
}
