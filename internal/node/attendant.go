package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/announce"
	"carrierclass.net/ccnode/features/menu"
	"carrierclass.net/ccnode/features/nightswitch"
	"carrierclass.net/ccnode/features/supplementary"
	"carrierclass.net/ccnode/features/voicemail"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/schedule"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/sipcore/route"
)

// nightCode turns the night switch.
const nightCode = "*80"

// attendants are the features that answer for the shop.
func (n *Node) attendants() ([]features.Feature, error) {
	m, err := menu.New(menu.Config{Menus: menus{n}, Blobs: greetings{n}, Extensions: n.extensions, Logger: n.log.With("room", "menu")})
	if err != nil {
		return nil, err
	}
	s, err := nightswitch.New(nightswitch.Config{Switch: nightSwitch{n}, Logger: n.log.With("room", "nightswitch")})
	if err != nil {
		return nil, err
	}
	none, err := announce.New(announce.Emergency, "no-emergency", site.NoLine, n.log.With("room", "announce"))
	if err != nil {
		return nil, err
	}
	own, err := supplementary.New(supplementary.Config{Wishes: wishes{n}, Logger: n.log.With("room", "supplementary")})
	if err != nil {
		return nil, err
	}
	return append([]features.Feature{m, s, none}, own...), nil
}

// menus are the records, as the feature reads them.
type menus struct{ n *Node }

func (m menus) For(to site.Party) (menu.Menu, bool) { return m.Menu(to.User) }

func (m menus) Menu(id site.RecordID) (menu.Menu, bool) {
	r, ok := state.Peek[site.Menu](m.n.state, id)
	if !ok {
		return menu.Menu{}, false
	}
	out := menu.Menu{ID: id, Name: r.Name, Open: m.page(r, r.Open, "dial-extension")}
	if c := r.Closed; c.Prompt != "" || c.Audio != "" || len(c.Keys) > 0 || c.Forward != "" {
		p := m.page(r, c, "closed")
		out.Closed = &p
	}
	return out, true
}

// page turns what people wrote into what a caller meets; standard is said where
// they chose no words.
func (m menus) page(r site.Menu, p site.MenuPart, standard string) menu.Page {
	out := menu.Page{Keys: map[rune]menu.Destination{}, Dial: r.Dial, Digits: m.n.state.Own().ExtLen, Wait: time.Duration(r.Wait) * time.Second,
		MaxInvalid: r.Tries, MaxLate: r.Tries, Fallback: m.destination(r.Default)}
	if p.Audio != "" {
		if b, err := hex.DecodeString(p.Audio); err == nil && len(b) == len(site.BlobRef{}) {
			out.Greeting = append(out.Greeting, menu.Spoken{Blob: site.BlobRef(b)})
		}
	}
	if len(out.Greeting) == 0 {
		if p.Prompt != "" {
			standard = p.Prompt
		}
		out.Greeting = append(out.Greeting, menu.Spoken{Prompt: standard})
	}
	for key, to := range p.Keys {
		out.Keys[rune(key[0])] = m.destination(to)
	}
	if p.Forward != "" {
		out.Keep, out.Keys, out.Dial = true, nil, false
		out.Wait, out.MaxLate, out.Fallback = time.Millisecond, 1, m.destination(p.Forward)
	}
	return out
}

// destination is what people write for a key: an extension, a user's, group's or
// menu's name or number, voicemail of one, or a verb.
func (m menus) destination(to string) menu.Destination {
	word, rest, _ := strings.Cut(strings.TrimSpace(to), " ")
	switch strings.ToLower(word) {
	case "":
		return menu.Destination{}
	case "repeat", "back", "hangup", "directory":
		return menu.Destination{Kind: menu.Kind(strings.ToLower(word))}
	case "voicemail":
		if id, err := m.n.state.Find(rest); err == nil {
			return menu.Destination{Kind: menu.Voicemail, Record: id}
		}
	}
	id, err := m.n.state.Find(to)
	if err != nil {
		return menu.Destination{Kind: menu.Extension, Number: to}
	}
	if e, ok := m.n.state.Service(id); ok {
		if e.Kind == state.MenuEntry {
			return menu.Destination{Kind: menu.SubMenu, Record: id}
		}
		return menu.Destination{Kind: menu.Group, Record: id}
	}
	return menu.Destination{Kind: menu.User, Record: id}
}

func (m menus) Open(id site.RecordID) bool {
	r, ok := state.Peek[site.Menu](m.n.state, id)
	if !ok || r.Hours == "" {
		return true
	}
	hours, err := site.ParseRecordID(r.Hours)
	h, ok := state.Peek[site.Hours](m.n.state, hours)
	if err != nil || !ok {
		return true
	}
	open, _, err := m.n.openNow(h)
	if err != nil {
		m.n.log.Error("Opening hours cannot be read", "hours", h.Name, "err", err)
		return true
	}
	return open
}

// openNow says whether hours and switch, and the hours alone, say open.
func (n *Node) openNow(h site.Hours) (open, byHours bool, err error) {
	s, err := n.schedule(h)
	if err != nil {
		return false, false, err
	}
	now := n.now()
	o := schedule.Override{Mode: schedule.Mode(h.Override)}
	if h.Until != 0 {
		o.Until = time.Unix(h.Until, 0)
	}
	return s.With(o).At(now).Open, s.At(now).Open, nil
}

func (n *Node) schedule(h site.Hours) (schedule.Schedule, error) {
	zone := h.Zone
	if zone == "" {
		zone = n.shop().Zone
	}
	if zone == "" {
		zone = "UTC"
	}
	hours, err := schedule.Parse(h.Text)
	if err != nil {
		return schedule.Schedule{}, err
	}
	return schedule.New(zone, hours)
}

// hoursWords refuses opening hours that cannot be read.
func (n *Node) hoursWords(_ *state.State, h *site.Hours) error {
	if _, err := n.schedule(*h); err != nil && !h.Deleted {
		return api.Invalid(err.Error(), "write them like: Mo-Fr 09:00-12:30,13:30-19:00; Sa 10:00-18:00; 12-25 closed")
	}
	return nil
}

// greetings are recordings, opened as voicemail opens them.
type greetings struct{ n *Node }

func (g greetings) Open(ctx context.Context, ref site.BlobRef) (io.ReadCloser, error) {
	return audio{g.n}.Open(ctx, ref)
}

// extensions knows what figures mean that a caller dials in a menu.
func (n *Node) extensions(figures string) (complete, longer bool) {
	own := n.state.Own()
	return len(figures) == own.ExtLen && len(n.state.Lookup(own.Code+figures)) > 0, len(figures) < own.ExtLen
}

// nightSwitch is the override of the shop's hours, all of them together.
type nightSwitch struct{ n *Node }

func (s nightSwitch) State(by site.Party) (st nightswitch.State, ok bool) {
	if by.Site != s.n.member.Site || by.User.IsZero() {
		return st, false
	}
	for _, h := range state.List[site.Hours](s.n.state) {
		open, byHours, err := s.n.openNow(h)
		if err == nil {
			return nightswitch.State{Open: open, ByHours: byHours}, true
		}
	}
	return st, false
}

func (s nightSwitch) Set(ctx context.Context, by site.Party, m nightswitch.Mode) error {
	all := state.List[site.Hours](s.n.state)
	if len(all) == 0 {
		return errors.New("the shop has no opening hours")
	}
	for _, h := range all {
		_, err := state.Change(ctx, s.n.state, "ext "+by.AOR.User, h.ID, "", func(h *site.Hours) error {
			h.Override, h.Until = string(m), 0
			return nil
		})
		if err != nil {
			return err
		}
	}
	select {
	case s.n.nightTurned <- struct{}{}:
	default:
	}
	return nil
}

// Connect sends a caller on from a feature.
func (c call) Connect(ctx context.Context, to features.Target) (features.Outcome, error) {
	var e route.Entry
	v := view{c.n}
	switch {
	case to.Extension != "":
		own := c.n.state.Own()
		if len(to.Extension) != own.ExtLen || strings.Trim(to.Extension, "0123456789") != "" {
			return features.Outcome{Cause: site.Forbidden}, nil // no way out through a menu
		}
		x, ok := c.n.state.Pick(own.Code + to.Extension)
		if !ok {
			return features.Outcome{Cause: site.NoSuchNumber}, nil
		}
		e = v.entry(x)
	case !to.Record.IsZero():
		x, ok := c.n.state.Entry(to.Record)
		if !ok {
			x, ok = c.n.state.Service(to.Record)
		}
		if !ok {
			return features.Outcome{Cause: site.NoSuchNumber}, nil
		}
		e = v.entry(x)
	default:
		return features.Outcome{}, fmt.Errorf("send a caller on: nobody is named: %+v", to)
	}
	var err error
	switch to.Feature {
	case "":
		err = c.c.Connect(ctx, route.ParseURI(e.AOR.User))
	case voicemail.Leave:
		err = c.c.Leave(e)
	default:
		err = site.Forbidden
	}
	if err == nil {
		return features.Outcome{Answered: true}, nil
	}
	if ctx.Err() != nil {
		return features.Outcome{}, context.Cause(ctx)
	}
	var cause site.Cause
	if !errors.As(err, &cause) {
		cause = site.Failure
	}
	return features.Outcome{Cause: cause}, nil
}

var _ features.Connector = call{}
