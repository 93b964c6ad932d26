package menu

import (
	"context"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/featurestest"
	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/site"
)

// say is a greeting of one prompt.
func say(prompt string) []Spoken { return []Spoken{{Prompt: prompt}} }

// front is the menu of a small shop.
func front() Menu {
	return Menu{ID: shop.User, Name: "front", Open: Page{
		Greeting: say("welcome"),
		Keys: map[rune]Destination{
			'0': {Kind: Group, Record: id(9)},
			'1': {Kind: Extension, Number: "202"},
			'2': {Kind: User, Record: id(2)},
			'3': {Kind: Voicemail, Record: id(3)},
			'4': {Kind: Voicemail, Number: "204"},
			'5': {Kind: SubMenu, Record: id(51)},
			'8': {Kind: Directory},
			'9': {Kind: HangUp},
			'*': {Kind: Back},
			'#': {Kind: Repeat},
		},
		Fallback: Destination{Kind: Voicemail, Record: id(50)},
	}}
}

func TestEveryKeyLeadsWhereItShould(t *testing.T) {
	for _, c := range []struct {
		keys string
		want features.Target
	}{
		{"0", features.Target{Record: id(9)}},
		{"1", features.Target{Extension: "202"}},
		{"2", features.Target{Record: id(2)}},
		{"3", features.Target{Record: id(3), Feature: "voicemail"}},
		{"4", features.Target{Extension: "204", Feature: "voicemail"}},
		{"#*0", features.Target{Record: id(9)}},
		{"8205#", features.Target{Extension: "205"}},
		{"82*206#", features.Target{Extension: "206"}},
		{"82071", features.Target{Extension: "2071"}},
	} {
		in(t, func(h *house) {
			v := h.dial(answered)
			v.hear("welcome")
			v.press(c.keys)
			if _, by := v.ended(); !by {
				h.Error("the call stays up after the talk")
			}
			v.sent(c.want)
		}, front())
	}
}

func TestAKeyCutsTheGreetingShort(t *testing.T) {
	in(t, func(h *house) {
		m := front()
		m.Open.Greeting = append(say("no-emergency"), say("closed")...) // seconds of it
		h.menus[m.ID] = m
		v := h.dial(answered)
		time.Sleep(400 * time.Millisecond)
		v.press("2")
		v.hear("one-moment")
		v.ended()
		v.mark = 0
		v.unheard("closed")
		v.sent(features.Target{Record: id(2)})
	}, front())
	in(t, func(h *house) { // or it is kept, and the key counts after it
		m := front()
		m.Open.Keep = true
		h.menus[m.ID] = m
		v := h.dial(answered)
		v.press("2")
		v.hear("welcome", "one-moment")
		v.ended()
		v.sent(features.Target{Record: id(2)})
	}, front())
}

// The caller presses 1 and talks with Bob: the sound goes both ways, and what
// was held is given back.
func TestTheCallerTalksWithWhomHeChose(t *testing.T) {
	in(t, func(h *house) {
		bob, err := featurestest.NewPhone(h.net.Listen, here, "PCMU")
		h.must(err)
		defer bob.Close()
		hungUp := make(chan struct{})
		var v *caller
		v = h.dial(func(ctx context.Context, to features.Target) (features.Outcome, error) {
			return v.call.Join(ctx, bob, hungUp)
		})
		v.hear("welcome")
		v.press("1")
		v.hear("one-moment")
		go func() { _ = bob.Speak(v.ctx, 600, 2*time.Second) }()
		h.must(v.phone.Await(v.ctx, &v.mark, featurestest.Tone(600)))
		mark := 0
		go func() { _ = v.phone.Speak(v.ctx, 900, 2*time.Second) }()
		h.must(bob.Await(v.ctx, &mark, featurestest.Tone(900)))
		close(hungUp)
		if cause, by := v.ended(); !by || cause != site.Normal {
			h.Errorf("%v, %v", cause, by)
		}
	}, front())
}

func TestNobodyAnswersThenTheFallback(t *testing.T) {
	for cause, words := range map[site.Cause]string{site.NoAnswer: "no-answer", site.Offline: "no-answer", site.NoLine: "lines-busy",
		site.Unreachable: "greeting-unreachable", site.Failure: "not-possible", site.NoSuchNumber: "not-in-service"} {
		in(t, func(h *house) {
			v := h.dial(func(ctx context.Context, to features.Target) (features.Outcome, error) {
				if to.Feature != "" {
					return answered(ctx, to)
				}
				return refused(cause)(ctx, to)
			})
			v.hear("welcome")
			v.press("2")
			v.hear("one-moment", words)
			v.ended()
			v.sent(features.Target{Record: id(2)}, features.Target{Record: id(50), Feature: "voicemail"})
		}, front())
	}
	in(t, func(h *house) { // a tone says it better
		v := h.dial(refused(site.Busy))
		v.hear("welcome")
		v.press("2")
		v.hear("one-moment")
		h.must(v.phone.Await(v.ctx, &v.mark, featurestest.Tone(425)))
		v.goodbye() // the fallback is busy, too
	}, front())
	in(t, func(h *house) { // our own fault
		v := h.dial(func(context.Context, features.Target) (features.Outcome, error) {
			return features.Outcome{}, context.DeadlineExceeded
		})
		v.hear("welcome")
		v.press("2")
		v.hear("one-moment", "not-possible")
		v.goodbye()
	}, front())
}

func TestSilenceAndWrongKeys(t *testing.T) {
	in(t, func(h *house) { // three times nothing
		began := time.Now()
		v := h.dial(answered)
		v.hear("welcome", "welcome", "welcome")
		v.ended()
		v.sent(features.Target{Record: id(50), Feature: "voicemail"})
		if d := time.Since(began); d < 75*time.Second || d > 80*time.Second { // 3 × (greeting + 5 s) and the minute's talk
			h.Errorf("took %v", d)
		}
	}, front())
	in(t, func(h *house) { // three wrong keys
		v := h.dial(answered)
		for range 3 {
			v.hear("welcome")
			v.press("7")
			v.hear("invalid")
		}
		v.ended()
		v.sent(features.Target{Record: id(50), Feature: "voicemail"})
	}, front())
	in(t, func(h *house) { // as configured
		m := front()
		m.Open.MaxInvalid, m.Open.MaxLate, m.Open.Wait = 1, 1, time.Second
		m.Open.Fallback = Destination{}
		h.menus[m.ID] = m
		v := h.dial(answered)
		v.hear("welcome")
		v.press("A")
		v.hear("invalid")
		v.goodbye()
		v.sent()
		v = h.dial(answered)
		v.hear("welcome")
		v.goodbye()
		v.sent()
	}, front())
}

func TestExtensionsCanBeDialled(t *testing.T) {
	m := front()
	m.Open.Dial = true
	for _, c := range []struct {
		name, keys string
		want       features.Target
		at         time.Duration // after the last key
	}{
		{"complete by length", "6543", features.Target{Extension: "6543"}, 0},
		{"complete by hash", "654#", features.Target{Extension: "654"}, 0},
		{"complete by time", "654", features.Target{Extension: "654"}, 3 * time.Second},
		{"begun again", "65*66#", features.Target{Extension: "66"}, 0},
		{"a figure that is a key", "2", features.Target{Record: id(2)}, 3 * time.Second},
		{"a figure that is no key", "6", features.Target{Extension: "6"}, 3 * time.Second},
		{"begins as a key", "202#", features.Target{Extension: "202"}, 0},
	} {
		in(t, func(h *house) {
			var when time.Time
			v := h.dial(func(context.Context, features.Target) (features.Outcome, error) {
				when = time.Now()
				return features.Outcome{Answered: true}, nil
			})
			v.hear("welcome")
			v.press(c.keys)
			pressed := time.Now()
			v.ended()
			v.sent(c.want)
			moment, _ := set.Clip("one-moment")
			if d := when.Sub(pressed) - moment.Duration() - c.at; d < -200*time.Millisecond || d > 300*time.Millisecond {
				h.Errorf("%s: %v off", c.name, d)
			}
		}, m)
	}
	in(t, func(h *house) { // the node knows that nothing longer begins so
		h.cfg.Extensions = func(f string) (complete, longer bool) { return f == "20", f == "2" }
		v := h.dial(answered)
		v.hear("welcome")
		v.press("20")
		v.hear("one-moment")
		v.ended()
		v.sent(features.Target{Extension: "20"})
	}, m)
	for _, cause := range []site.Cause{site.NoSuchNumber, site.Incomplete, site.Forbidden} {
		in(t, func(h *house) { // no such extension: as a wrong key
			v := h.dial(func(ctx context.Context, to features.Target) (features.Outcome, error) {
				if to.Extension == "6666" {
					return features.Outcome{Cause: cause}, nil
				}
				return answered(ctx, to)
			})
			for range 2 {
				v.hear("welcome")
				v.press("6666")
				v.hear("one-moment", "invalid")
			}
			v.hear("welcome")
			v.press("6543")
			v.ended()
			v.sent(features.Target{Extension: "6666"}, features.Target{Extension: "6666"}, features.Target{Extension: "6543"})
		}, m)
	}
}

func TestOpenAndClosed(t *testing.T) {
	m := front()
	m.Closed = &Page{Greeting: say("closed"), Fallback: Destination{Kind: Voicemail, Record: id(50)}}
	in(t, func(h *house) {
		h.closed = true
		v := h.dial(answered)
		v.press("2") // an announcement takes no keys
		v.hear("closed")
		v.ended()
		v.sent(features.Target{Record: id(50), Feature: "voicemail"})
		v.unheard("one-moment")
		h.mu.Lock()
		h.closed = false
		h.mu.Unlock()
		v = h.dial(answered)
		v.hear("welcome")
		v.call.End(site.Normal)
		v.ended()
	}, m)
	m.Closed.Fallback = Destination{Kind: SubMenu, Record: id(51)}
	in(t, func(h *house) { // nor does a later menu take keys of the announcement
		h.closed = true
		v := h.dial(answered)
		v.press("11")
		v.hear("closed", "one-moment", "one-moment")
		v.press("1")
		v.ended()
		v.sent(features.Target{Record: id(8)})
	}, m, Menu{ID: id(51), Open: Page{Greeting: say("one-moment"), Keys: map[rune]Destination{'1': {Kind: User, Record: id(8)}}}})
	in(t, func(h *house) { // one page for day and night
		h.closed = true
		v := h.dial(answered)
		v.hear("welcome")
		v.call.End(site.Normal)
		v.ended()
	}, front())
}

func TestMenusWithinMenus(t *testing.T) {
	sub := Menu{ID: id(51), Open: Page{Greeting: say("one-moment"), Keys: map[rune]Destination{
		'1': {Kind: User, Record: id(7)}, '*': {Kind: Back}, '5': {Kind: SubMenu, Record: id(51)}}, Fallback: Destination{Kind: Back}}}
	in(t, func(h *house) {
		v := h.dial(answered)
		v.hear("welcome")
		v.press("5")
		v.hear("one-moment")
		v.press("*")
		v.hear("welcome")
		v.press("5")
		v.hear("one-moment")
		v.press("1")
		v.ended()
		v.sent(features.Target{Record: id(7)})
	}, front(), sub)
	in(t, func(h *house) { // silence leads back, and then on to the fallback of the first
		v := h.dial(answered)
		v.hear("welcome")
		v.press("5")
		v.hear("one-moment", "one-moment", "one-moment", "welcome", "welcome", "welcome")
		v.ended()
		v.sent(features.Target{Record: id(50), Feature: "voicemail"})
	}, front(), sub)
	in(t, func(h *house) { // too deep
		v := h.dial(answered)
		v.hear("welcome")
		for range maxDepth - 1 {
			v.press("5")
			v.hear("one-moment")
		}
		v.press("5")
		v.hear("not-possible", "one-moment") // and back
		v.press("1")
		v.ended()
	}, front(), sub)
	in(t, func(h *house) { // deleted meanwhile
		v := h.dial(answered)
		v.hear("welcome")
		v.press("5")
		v.hear("not-possible")
		v.goodbye()
	}, front())
}

func TestEveryCircleEnds(t *testing.T) {
	// Two menus, each the fallback of the other, and a silent caller.
	a := Menu{ID: shop.User, Open: Page{Greeting: say("welcome"), Fallback: Destination{Kind: SubMenu, Record: id(51)}}}
	b := Menu{ID: id(51), Open: Page{Greeting: say("closed"), Fallback: Destination{Kind: SubMenu, Record: shop.User}}}
	in(t, func(h *house) {
		v := h.dial(nil)
		v.hear("welcome", "closed")
		v.goodbye()
		if a, b := v.times("welcome"), v.times("closed"); a != 1 || b != 1 {
			h.Errorf("the greetings were spoken %d and %d times", a, b)
		}
	}, a, b)
	b.Open.Fallback = Destination{Kind: Back}
	in(t, func(h *house) { // down and up
		v := h.dial(nil)
		v.hear("welcome", "closed", "welcome")
		v.goodbye()
		if n := v.times("closed"); n != 1 {
			h.Errorf("the inner menu was entered %d times", n)
		}
	}, a, b)
	a2, b2 := a, b
	a2.Open.Keys, a2.Open.MaxLate = map[rune]Destination{'1': {Kind: Repeat}}, 1
	in(t, func(h *house) { // somebody is there: it is no circle
		v := h.dial(nil)
		for range 3 {
			v.hear("welcome", "closed", "welcome")
			v.press("1")
		}
		v.call.End(site.Normal)
		v.ended()
	}, a2, b2)
	for _, d := range []Destination{{Kind: SubMenu, Record: shop.User}, {Kind: Repeat}, {Kind: Back}} { // itself
		m := a
		m.Open.Fallback = d
		in(t, func(h *house) {
			v := h.dial(nil)
			v.hear("welcome")
			v.goodbye()
		}, m)
	}
	for _, keys := range []string{"#", "8*"} { // and a caller, or a machine, that presses keys for ever
		in(t, func(h *house) {
			v := h.dial(nil)
			var pressing sync.WaitGroup
			pressing.Go(func() {
				key := keys[:1]
				for v.phone.Press(v.ctx, key) == nil {
					key = keys[len(keys)-1:]
				}
			})
			began := time.Now()
			v.goodbye()
			if d := time.Since(began); d > 5*time.Minute {
				h.Errorf("it went on for %v", d)
			}
			v.phone.Close()
			pressing.Wait()
		}, front())
	}
}

func TestGreetings(t *testing.T) {
	recorded := append(media.WAVHeader(media.MuLaw, -1), make([]byte, 8000)...)
	ref := site.BlobRef{7}
	blob := []Spoken{{Blob: ref}}
	for _, c := range []struct {
		name  string
		parts []Spoken
		blob  []byte
		heard []string
	}{
		{"a recording and a prompt", append(blob, say("closed")...), recorded, []string{"closed"}},
		{"a recording that is not here", blob, nil, []string{"welcome"}},
		{"a recording that is no audio", blob, []byte("nonsense"), []string{"welcome"}},
		{"a recording that breaks off", append(blob, say("closed")...), append(media.WAVHeader(media.MuLaw, 16000), make([]byte, 4000)...), []string{"closed"}},
		{"a prompt that does not exist", say("gibberish"), nil, []string{"welcome"}},
		{"a text", []Spoken{{Text: "hours"}}, nil, []string{"monday"}},
		{"a text nobody speaks", []Spoken{{Text: "weather"}}, nil, []string{"welcome"}},
		{"nothing", nil, nil, []string{"welcome"}},
		{"an empty part", []Spoken{{}}, nil, []string{"welcome"}},
	} {
		m := front()
		m.Open.Greeting = c.parts
		in(t, func(h *house) {
			if c.blob != nil {
				h.blobs[ref] = c.blob
			}
			h.cfg.Text = func(key string) (features.Source, bool) { return set.Say("monday"), key == "hours" }
			v := h.dial(nil)
			v.hear(c.heard...)
			v.call.End(site.Normal)
			v.ended()
		}, m)
	}
	in(t, func(h *house) { // an endless one is cut
		h.blobs[ref] = append(media.WAVHeader(media.MuLaw, -1), make([]byte, 8000*600)...)
		m := front()
		m.Open.Greeting, m.Open.MaxLate = blob, 1
		h.menus[m.ID] = m
		began := time.Now()
		v := h.dial(answered)
		v.ended()
		if d := time.Since(began) - time.Minute - maxSpeaking; d < 4*time.Second || d > 7*time.Second {
			h.Errorf("%v more than it should", d)
		}
	}, front())
}
