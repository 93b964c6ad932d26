package route

import (
	"strings"

	"carrierclass.net/ccnode/internal/site"
)

// A Class is how far out somebody may call. It never concerns emergency calls.
type Class string

const (
	Internal      Class = "internal"      // the fleet only
	National      Class = "national"      // and the country of the site
	International Class = "international" // everywhere
)

// A Line is a way to the outside with what limits it.
type Line struct {
	Name string
	Only []string // numbers it may call, by how they begin ("+33"); empty: all
	Bar  []string // numbers it may not call, though Only has them
	Down bool     // calls are not expected to pass: tried when there is nothing better
	Over string   // why it takes no more calls now, "" if it does
}

// reach is the class that a call to number needs at s. Without a country, every
// number is in it.
func reach(s Site, number string) Class {
	if strings.HasPrefix(number, "+") && s.Country != "" && !strings.HasPrefix(number, "+"+s.Country) {
		return International
	}
	return National
}

// may says whether c allows a call that needs what need says. A class that is
// not known allows nothing outside.
func (c Class) may(need Class) bool {
	return c == International || c == National && need == National
}

// class is the class of whoever answers for the call now: of the user or group
// that diverted it here, else of the caller. who says so to people.
func (d decision) class() (c Class, who string) {
	id, who := d.c.From.User, "the caller"
	if !d.by.User.IsZero() {
		id, who = d.by.User, d.by.AOR.User
	}
	if c = d.v.Class(id); c == "" {
		c = International
	}
	return c, who
}

// ways are the trunks that may call number, in order, and those last that are
// down, up to how many are not; if there are none, why
// not, which is the rule that stopped the call first.
func (d decision) ways(number string) (trunks []string, up int, cause site.Cause, why string) {
	all := d.v.Lines()
	if len(all) == 0 {
		return nil, 0, site.NoLine, "this site has no line to the outside"
	}
	need := reach(d.v.Own(), number)
	if c, who := d.class(); !c.may(need) {
		return nil, 0, site.Forbidden, who + " may make " + string(c) + " calls only, and this one is " + string(need)
	}
	var no, down []string
	for _, l := range all {
		switch {
		case len(l.Only) > 0 && !begins(number, l.Only):
			no = append(no, l.Name+" calls only "+strings.Join(l.Only, ", "))
		case begins(number, l.Bar):
			no = append(no, l.Name+" does not call "+strings.Join(l.Bar, ", "))
		case l.Over != "":
			no = append(no, l.Name+": "+l.Over)
		case l.Down:
			down = append(down, l.Name)
		default:
			trunks = append(trunks, l.Name)
		}
	}
	if up = len(trunks); up+len(down) == 0 {
		return nil, 0, site.Forbidden, strings.Join(no, "; ")
	}
	return append(trunks, down...), up, 0, ""
}

func begins(number string, with []string) bool {
	for _, p := range with {
		if p != "" && strings.HasPrefix(number, p) {
			return true
		}
	}
	return false
}
