package menu

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/internal/site"
)

// Bounds of one call.
const (
	maxDepth    = 8  // menus within menus
	maxSteps    = 64 // greetings played in all
	maxKeys     = 32 // pressed for one number
	maxSpeaking = 3 * time.Minute
)

// visit is one call.
type visit struct {
	*Attendant
	call features.Connector
	m    features.Media
	life context.Context // ends with the call
	log  *slog.Logger

	stack []site.RecordID        // menus we are in; never empty
	steps int                    // greetings played
	fell  map[site.RecordID]bool // menus left by their fallback since a key was pressed
}

// result is what following a destination came to.
type result int

const (
	over   result = iota // the call is over, or should be
	moved                // another menu, or the same from the beginning
	silent               // the caller was asked and pressed nothing
	wrong                // there is no such extension
	failed               // nobody took the call
)

// over is true once the caller hung up or the node stops. life may learn it
// from the call a moment later.
func (v *visit) over() bool { return v.life.Err() != nil || v.call.Context().Err() != nil }

// menu plays the innermost menu once and follows the caller's choice; done
// when the visit is over.
func (v *visit) menu() (done bool, err error) {
	id := v.stack[len(v.stack)-1]
	m, ok := v.cfg.Menus.Menu(id)
	if !ok { // deleted meanwhile
		v.log.Warn("Menu does not exist", "menu", id)
		return true, v.hangUp(site.Normal, "not-possible", "goodbye")
	}
	page, open := &m.Open, v.cfg.Menus.Open(id)
	if !open && m.Closed != nil {
		page = m.Closed
	}
	maxInvalid, maxLate := page.limits()
	for invalid, late := 0, 0; ; {
		if v.steps++; v.steps > maxSteps {
			v.log.Warn("Caller goes round in menus", "menu", id)
			return true, v.hangUp(site.Normal, "goodbye")
		}
		entry, err := v.ask(page, open)
		if err != nil {
			return true, err
		}
		r := silent
		if entry != "" {
			clear(v.fell)
			if d, ok := page.choose(entry); !ok {
				r = wrong
			} else if r, err = v.follow(d, page, len(entry) > 1 || page.Keys[rune(entry[0])] != d); err != nil {
				return true, err
			}
		}
		switch r {
		case over, moved:
			return r == over, nil
		case wrong:
			invalid++
			if err := v.tell("invalid"); err != nil {
				return true, err
			}
		case silent:
			late++
		}
		if r == failed || page.announcement() || invalid >= maxInvalid || late >= maxLate {
			return v.fall(id, page)
		}
	}
}

// choose finds what the caller's figures or key mean.
func (p *Page) choose(entry string) (Destination, bool) {
	if len(entry) == 1 {
		if d, ok := p.Keys[rune(entry[0])]; ok {
			return d, d.Kind != ""
		}
	}
	if p.Dial && entry[0] >= '0' && entry[0] <= '9' {
		return Destination{Kind: Extension, Number: entry}, true
	}
	return Destination{}, false
}

// fall follows the fallback of a page: the last resort, after which there is
// only goodbye.
func (v *visit) fall(id site.RecordID, page *Page) (done bool, err error) {
	d := page.Fallback
	v.fell[id] = true
	switch {
	case d.Kind == SubMenu && v.fell[d.Record]: // going back cannot go round by itself
		v.log.Info("Fallbacks of menus go round", "menu", id)
		return true, v.hangUp(site.Normal, "goodbye")
	case d.Kind == Back && len(v.stack) == 1, d.Kind == Repeat, d.Kind == "":
		return true, v.hangUp(site.Normal, "goodbye")
	}
	r, err := v.follow(d, page, false)
	if err != nil || r == over || r == moved {
		return r != moved, err
	}
	return true, v.hangUp(site.Normal, "goodbye")
}

// follow goes where a destination leads. typed: by figures of the caller's.
func (v *visit) follow(d Destination, page *Page, typed bool) (result, error) {
	to := features.Target{Record: d.Record}
	switch d.Kind {
	case Repeat:
		return moved, nil
	case Back:
		if len(v.stack) > 1 {
			v.stack = v.stack[:len(v.stack)-1]
		}
		return moved, nil
	case SubMenu:
		if len(v.stack) >= maxDepth {
			v.log.Warn("Menus lie too deep in each other", "menu", d.Record)
			return failed, v.tell("not-possible")
		}
		v.stack = append(v.stack, d.Record)
		return moved, nil
	case Directory:
		figures, err := v.directory(page)
		if err != nil || figures == "" {
			return silent, err
		}
		to.Extension, typed = figures, true
	case Extension:
		to.Extension = d.Number
	case Voicemail:
		to.Extension, to.Feature = d.Number, voicemail
	case User, Group:
	default:
		return over, v.hangUp(site.Normal, "goodbye")
	}
	return v.connect(to, typed)
}

// connect hands the caller on, and says why if nobody took the call.
func (v *visit) connect(to features.Target, typed bool) (result, error) {
	if to.Feature == "" {
		if err := v.tell("one-moment"); err != nil {
			return over, err
		}
	}
	out, err := v.call.Connect(v.life, to)
	if v.over() {
		return over, context.Cause(v.life)
	}
	if err != nil {
		v.log.Warn("Caller could not be sent on", "extension", to.Extension, "record", to.Record, "feature", to.Feature, "err", err)
		out = features.Outcome{Cause: site.Failure}
	}
	if out.Answered {
		return over, v.call.Hangup(context.WithoutCancel(v.life), out.Cause)
	}
	v.log.Debug("Nobody took the call", "extension", to.Extension, "record", to.Record, "cause", out.Cause.String())
	if err := v.forget(); err != nil {
		return over, err
	}
	switch out.Cause {
	case site.NoSuchNumber, site.Incomplete, site.Forbidden:
		if typed {
			return wrong, nil
		}
	case site.Busy, site.Refused:
		return failed, v.m.Play(v.life, media.BusyTone(2*time.Second), false)
	}
	words := prompts.Cause(out.Cause)
	if words == nil {
		words = []string{"not-possible"}
	}
	return failed, v.tell(words...)
}

// tell speaks prompts to their end.
func (v *visit) tell(names ...string) error {
	return v.m.Play(v.life, v.cfg.Prompts.Say(names...), false)
}

// hangUp speaks and ends the call.
func (v *visit) hangUp(c site.Cause, names ...string) error {
	if err := v.tell(names...); err != nil && !v.over() {
		v.log.Debug("Last words not spoken", "err", err)
	}
	if v.over() {
		return nil
	}
	return v.call.Hangup(context.WithoutCancel(v.life), c)
}

var errLate = errors.New("no key was pressed in time")

// wait waits so long for a key; 0 if none came.
func (v *visit) wait(d time.Duration) (rune, error) {
	ctx, cancel := context.WithTimeoutCause(v.life, d, errLate)
	defer cancel()
	key, err := v.m.Digit(ctx)
	if errors.Is(err, errLate) {
		return 0, nil
	}
	return key, err
}

// forget drops keys that were pressed while nobody listened.
func (v *visit) forget() error {
	for {
		key, err := v.wait(time.Millisecond)
		if key == 0 {
			return err
		}
	}
}

// play speaks a source and then waits for a key: the one that cut it short, if
// barge is true.
func (v *visit) play(src features.Source, barge bool, d time.Duration) (rune, error) {
	err := v.m.Play(v.life, &limited{src, int(maxSpeaking / time.Second * media.Rate)}, barge)
	if err != nil && !errors.Is(err, features.ErrDigit) {
		return 0, err
	}
	return v.wait(d)
}

// limited ends a source early, so that no greeting holds a line for ever.
type limited struct {
	features.Source
	left int
}

func (l *limited) ReadFrame(pcm []int16) (int, error) {
	if l.left <= 0 {
		return 0, io.EOF
	}
	n, err := l.Source.ReadFrame(pcm[:min(len(pcm), l.left)])
	l.left -= n
	return n, err
}
