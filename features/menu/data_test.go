package menu

import (
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/site"
)

// wav is a recording of silence.
func wav(seconds int) []byte {
	b := media.WAVHeader(media.MuLaw, int64(seconds)*8000)
	for range seconds * 8000 {
		b = append(b, 0xFF)
	}
	return b
}

func TestValidate(t *testing.T) {
	good := front()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	key := func(d Destination) func(*Page) { return func(p *Page) { p.Keys = map[rune]Destination{'1': d} } }
	for _, c := range []struct {
		spoil func(*Page)
		says  string
	}{
		{func(p *Page) { p.Keys = map[rune]Destination{'A': {Kind: HangUp}} }, "use 0 to 9, * or #"},
		{key(Destination{}), "key 1 leads nowhere"},
		{key(Destination{Kind: "teleport"}), "no kind of destination"},
		{key(Destination{Kind: Extension}), "write its figures"},
		{key(Destination{Kind: Extension, Number: "*97"}), "write its figures"},
		{key(Destination{Kind: User}), "choose which user"},
		{key(Destination{Kind: Group, Record: id(1), Number: "2"}), "choose which group"},
		{key(Destination{Kind: Voicemail}), "whose voicemail"},
		{key(Destination{Kind: Voicemail, Record: id(1), Number: "2"}), "whose voicemail"},
		{key(Destination{Kind: Repeat, Number: "2"}), "remove it"},
		{func(p *Page) { p.Fallback = Destination{Kind: Repeat} }, "never end"},
		{func(p *Page) { p.Greeting = []Spoken{{}} }, "part 1 of the greeting"},
		{func(p *Page) { p.Greeting = []Spoken{{Prompt: "a", Text: "b"}} }, "only one"},
		{func(p *Page) { p.Greeting = make([]Spoken, 17) }, "at most 16"},
		{func(p *Page) { p.Digits = 9 }, "1 to 8"},
		{func(p *Page) { p.Wait = time.Hour }, "at most 1m"},
		{func(p *Page) { p.Between = -1 }, "at most 1m"},
		{func(p *Page) { p.MaxLate = 21 }, "at most 20"},
		{func(p *Page) { p.MaxInvalid = -1 }, "at most 20"},
	} {
		m := front()
		c.spoil(&m.Open)
		if err := m.Validate(); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "menu front") {
			t.Errorf("%v, want it to say %q", err, c.says)
		}
		closed := front()
		closed.Closed = &m.Open
		if err := closed.Validate(); err == nil || !strings.Contains(err.Error(), "page closed") {
			t.Errorf("on the closed page: %v", err)
		}
	}
}

func TestCheck(t *testing.T) {
	to := func(n byte, fall Destination) Menu {
		return Menu{ID: id(n), Name: string('a' + rune(n) - 1), Open: Page{Fallback: fall}}
	}
	sub := func(n byte) Destination { return Destination{Kind: SubMenu, Record: id(n)} }
	for _, c := range []struct {
		menus []Menu
		says  []string
	}{
		{[]Menu{to(1, sub(2)), to(2, Destination{Kind: HangUp})}, nil},
		{[]Menu{to(1, sub(2)), to(2, Destination{Kind: Back})}, nil},
		{[]Menu{to(1, sub(1))}, []string{"menu a: its fallbacks lead back"}},
		{[]Menu{to(1, sub(2)), to(2, sub(3)), to(3, sub(2))}, []string{"menu b: its fallbacks", "menu c: its fallbacks"}},
		{[]Menu{to(1, sub(9))}, []string{"menu a: its fallback is a menu that does not exist"}},
		{[]Menu{front()}, []string{"menu front: key 5 leads to a menu that does not exist"}},
	} {
		err := Check(c.menus)
		if (err == nil) != (c.says == nil) {
			t.Errorf("%v, want %q", err, c.says)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%v does not say %q", err, s)
			}
		}
		if err != nil && strings.Contains(err.Error(), "menu a") && len(c.says) > 1 {
			t.Errorf("a is in no circle: %v", err)
		}
	}
	var zero site.RecordID
	if err := Check([]Menu{{ID: zero}}); err != nil {
		t.Errorf("an empty menu says welcome and goodbye: %v", err)
	}
}
