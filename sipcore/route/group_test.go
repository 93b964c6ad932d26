package route

import (
	"strings"
	"testing"

	"carrierclass.net/ccnode/internal/site"
)

func (f *fleet) group(id byte, ext string, turn bool, overflow string, members ...string) Entry {
	e := f.user(id, f.own, ext, "g"+ext, "")
	e.Kind = Group
	f.entries[f.own+ext] = []Entry{e}
	s := Settings{InTurn: turn, OnNoAnswer: overflow}
	for _, m := range members {
		s.Members = append(s.Members, f.entries[m][0])
	}
	f.settings[e.User] = s
	return e
}

// told is what happens to a call if every ring step ends with the next cause.
func told(f *fleet, from, to string, causes ...site.Cause) string {
	var past []Outcome
	var out []string
	for {
		st := Next(f, Call{From: f.party(from), To: ParseURI(to)}, past)
		words := st.Kind.String()
		for _, m := range st.Members {
			words += " " + m.AOR.User[4:]
		}
		switch st.Kind {
		case Feature:
			return strings.Join(append(out, words+" "+string(st.Feature)+" of "+st.Target.AOR.User[4:]), ", ")
		case Reject:
			return strings.Join(append(out, words+" "+st.Cause.String()), ", ")
		}
		cause := site.NoAnswer
		if st.Kind == Ring && len(causes) > 0 {
			cause, causes = causes[0], causes[1:]
		}
		out = append(out, words)
		past = append(past, Outcome{st, cause})
	}
}

func TestGroups(t *testing.T) {
	f := newFleet()
	f.user(4, "0004", "203", "dan", "")
	f.group(10, "300", false, "", "ana", "bob", "dan")
	f.group(11, "301", true, "203", "ana", "bob")
	f.group(12, "302", true, "300", "ana", "bob")
	f.group(13, "303", false, "303", "ana")
	for _, c := range []struct {
		from, to, want string
		prepare        func()
		causes         []site.Cause
	}{
		{from: "chi", to: "0004300", want: "ring 201 202 203, feature voicemail of 300"},
		{from: "ana", to: "300", want: "ring 202 203, feature voicemail of 300"},
		{from: "chi", to: "0004301", want: "ring 201, ring 202, divert, ring, feature voicemail of 203"},
		{from: "chi", to: "0004301", want: "ring 201, ring 202, divert, ring, feature voicemail of 203", causes: []site.Cause{site.Refused, site.Busy}},
		{from: "chi", to: "0004302", want: "ring 201, ring 202, divert, ring 201 202 203, feature voicemail of 300"},
		{from: "chi", to: "0004303", want: "ring 201, divert, ring 201, divert, ring 201, divert, ring 201, divert, ring 201, divert, ring 201, reject too many hops"},
		{from: "chi", to: "0004300", want: "ring 202 203, feature voicemail of 300", prepare: func() { f.bound["0004201"] = 0 }},
		{from: "chi", to: "0004300", want: "ring 203, feature voicemail of 300", prepare: func() { f.settings[f.entries["bob"][0].User] = Settings{DND: true} }},
		{from: "chi", to: "0004300", want: "feature voicemail of 300", prepare: func() { f.bound["0004203"] = 0 }},
	} {
		if c.prepare != nil {
			c.prepare()
		}
		if got := told(f, c.from, c.to, c.causes...); got != c.want {
			t.Errorf("%s calls %s:\n got %s\nwant %s", c.from, c.to, got, c.want)
		}
	}
}

func TestAMenuIsAFeatureOfItsHome(t *testing.T) {
	f := newFleet()
	e := f.user(9, "0004", "310", "main", "")
	e.Kind = Menu
	f.entries["0004310"] = []Entry{e}
	if got := told(f, "chi", "0004310"); got != "feature menu of 310" {
		t.Error(got)
	}
	if st := Next(f, Call{From: f.party("chi"), To: ParseURI("0004310"), Peer: true}, nil); st.Kind != Feature || st.Target.User != e.User {
		t.Errorf("%+v", st)
	}
	f.own = "0017"
	delete(f.settings, e.User)
	if st := Next(f, Call{From: f.party("chi"), To: ParseURI("80004310")}, nil); st.Kind != Away {
		t.Errorf("elsewhere: %+v", st)
	}
}
