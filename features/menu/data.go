package menu

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// A Menu is one automatic attendant, as data.
type Menu struct {
	ID   site.RecordID
	Name string

	Open   Page
	Closed *Page // while the place is closed; nil: the same page day and night
}

// A Page is what a caller meets in a menu. A page without keys and without
// Dial is an announcement: the fallback follows it.
type Page struct {
	Greeting []Spoken // parts, one after the other
	Keep     bool     // the greeting is heard to its end: keys do not cut it short

	Keys map[rune]Destination // '0'–'9', '*', '#'

	// Dial lets callers dial extensions of this site at any time. The
	// number is complete after Digits figures, at '#', or when no key came
	// for Between; a single figure that Keys knows is that key.
	Dial   bool
	Digits int // 1 to 8; default 4

	Wait    time.Duration // for the first key after the greeting; default 5 s
	Between time.Duration // for the next figure of a number; default 3 s

	MaxInvalid int // wrong keys until the fallback; default 3
	MaxLate    int // greetings without any key until the fallback; default 3

	Fallback Destination // zero: goodbye
}

// Spoken is a part of a greeting. One field is set.
type Spoken struct {
	Prompt string       // of the set the node has
	Blob   site.BlobRef // recorded at the site; WAV
	Text   string       // key of a text that somebody else can speak, see Config.Text
}

// Kind is what a Destination is.
type Kind string

// The kinds. "" is no destination.
const (
	Extension Kind = "extension" // Number
	User      Kind = "user"      // Record
	Group     Kind = "group"     // Record
	Voicemail Kind = "voicemail" // of Record, or of Number
	SubMenu   Kind = "menu"      // Record
	Directory Kind = "directory" // the caller is asked to dial an extension
	Repeat    Kind = "repeat"    // the greeting again
	Back      Kind = "back"      // the menu before this one
	HangUp    Kind = "hangup"    // goodbye
)

// A Destination is where a key leads.
type Destination struct {
	Kind   Kind
	Number string // an extension of this site, figures only
	Record site.RecordID
}

// Defaults and bounds.
const (
	defaultDigits  = 4
	maxDigits      = 8
	defaultWait    = 5 * time.Second
	defaultBetween = 3 * time.Second
	defaultTries   = 3
	maxWait        = time.Minute
	maxTries       = 20
	maxGreeting    = 16 // parts
)

// KeyNames are the keys of a menu.
const KeyNames = "0123456789*#"

// Validate gathers every complaint about one menu. Whether its records exist
// is asked by Check.
func (m *Menu) Validate() error {
	errs := []error{m.Open.validate("open")}
	if m.Closed != nil {
		errs = append(errs, m.Closed.validate("closed"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("menu %s: %w", m.title(), err)
	}
	return nil
}

func (m *Menu) title() string {
	if m.Name != "" {
		return m.Name
	}
	return m.ID.String()
}

func (p *Page) validate(name string) error {
	var errs []error
	say := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("page "+name+": "+format, args...))
	}
	if len(p.Greeting) > maxGreeting {
		say("%d parts of a greeting: at most %d", len(p.Greeting), maxGreeting)
	}
	for i, s := range p.Greeting {
		n := 0
		for _, set := range []bool{s.Prompt != "", !s.Blob.IsZero(), s.Text != ""} {
			if set {
				n++
			}
		}
		if n != 1 {
			say("part %d of the greeting: set a prompt, a recording or a text, and only one", i+1)
		}
	}
	for _, key := range p.keys() {
		if !strings.ContainsRune(KeyNames, key) {
			say("%q is no key: use 0 to 9, * or #", key)
		}
		if d := p.Keys[key]; d.Kind == "" {
			say("key %c leads nowhere: give it a destination or remove it", key)
		} else if err := d.validate(); err != nil {
			say("key %c: %w", key, err)
		}
	}
	if err := p.Fallback.validate(); err != nil {
		say("fallback: %w", err)
	}
	if p.Fallback.Kind == Repeat {
		say("fallback: repeating would never end: name somebody, a voicemail, another menu or hangup")
	}
	if p.Digits < 0 || p.Digits > maxDigits {
		say("%d figures of an extension: 1 to %d", p.Digits, maxDigits)
	}
	for _, d := range []time.Duration{p.Wait, p.Between} {
		if d < 0 || d > maxWait {
			say("waiting %v for a key: at most %v", d, maxWait)
		}
	}
	for _, n := range []int{p.MaxInvalid, p.MaxLate} {
		if n < 0 || n > maxTries {
			say("%d tries: at most %d", n, maxTries)
		}
	}
	return errors.Join(errs...)
}

func (d Destination) validate() error {
	number := d.Number != "" && len(d.Number) <= 2*maxDigits && strings.Trim(d.Number, "0123456789") == ""
	switch d.Kind {
	case "", Directory, Repeat, Back, HangUp:
		if d.Number != "" || !d.Record.IsZero() {
			return fmt.Errorf("%q takes neither a number nor a record: remove it", d.Kind)
		}
	case Extension:
		if !number || !d.Record.IsZero() {
			return fmt.Errorf("%q is no extension: write its figures", d.Number)
		}
	case User, Group, SubMenu:
		if d.Record.IsZero() || d.Number != "" {
			return fmt.Errorf("choose which %s is meant", d.Kind)
		}
	case Voicemail:
		if d.Record.IsZero() == (d.Number == "") || d.Number != "" && !number {
			return errors.New("choose whose voicemail is meant, by record or by extension")
		}
	default:
		return fmt.Errorf("%q is no kind of destination: use extension, user, group, voicemail, menu, directory, repeat, back or hangup", d.Kind)
	}
	return nil
}

// keys in a steady order.
func (p *Page) keys() []rune {
	out := make([]rune, 0, len(p.Keys))
	for k := range p.Keys {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// What a page says, within bounds: it may come from a node that checks less.
func (p *Page) digits() int            { return bounded(p.Digits, defaultDigits, maxDigits) }
func (p *Page) wait() time.Duration    { return bounded(p.Wait, defaultWait, maxWait) }
func (p *Page) between() time.Duration { return bounded(p.Between, defaultBetween, maxWait) }
func (p *Page) announcement() bool     { return len(p.Keys) == 0 && !p.Dial }
func (p *Page) limits() (invalid, late int) {
	return bounded(p.MaxInvalid, defaultTries, maxTries), bounded(p.MaxLate, defaultTries, maxTries)
}

func bounded[T int | time.Duration](have, otherwise, most T) T {
	if have <= 0 {
		return otherwise
	}
	return min(have, most)
}

// Check looks at menus together: whether those they lead to are there, and
// whether fallbacks alone lead in a circle, which a call leaves with goodbye.
func Check(all []Menu) error {
	byID := make(map[site.RecordID]*Menu, len(all))
	for i := range all {
		byID[all[i].ID] = &all[i]
	}
	var errs []error
	for i := range all {
		m := &all[i]
		if err := m.Validate(); err != nil {
			errs = append(errs, err)
		}
		for _, p := range m.pages() {
			for _, key := range p.keys() {
				if d := p.Keys[key]; d.Kind == SubMenu && byID[d.Record] == nil {
					errs = append(errs, fmt.Errorf("menu %s: key %c leads to a menu that does not exist: choose another", m.title(), key))
				}
			}
			if d := p.Fallback; d.Kind == SubMenu && byID[d.Record] == nil {
				errs = append(errs, fmt.Errorf("menu %s: its fallback is a menu that does not exist: choose another", m.title()))
			}
		}
		if circle(m, byID) {
			errs = append(errs, fmt.Errorf("menu %s: its fallbacks lead back to it: let the last one be somebody, a voicemail or hangup", m.title()))
		}
	}
	return errors.Join(errs...)
}

func (m *Menu) pages() []*Page {
	if m.Closed == nil {
		return []*Page{&m.Open}
	}
	return []*Page{&m.Open, m.Closed}
}

// circle says whether fallbacks lead from m to m.
func circle(m *Menu, byID map[site.RecordID]*Menu) bool {
	seen := make(map[site.RecordID]bool)
	for todo := []*Menu{m}; len(todo) > 0; todo = todo[1:] {
		for _, p := range todo[0].pages() {
			next := byID[p.Fallback.Record]
			if p.Fallback.Kind != SubMenu || next == nil {
				continue
			}
			if next == m {
				return true
			}
			if !seen[next.ID] {
				seen[next.ID] = true
				todo = append(todo, next)
			}
		}
	}
	return false
}
