package route

import (
	"strings"
	"testing"

	"carrierclass.net/ccnode/internal/site"
)

// out is where a call of who to number goes first, and why not.
func out(f *fleet, who, number string) string {
	st := Next(f, Call{From: f.party(who), To: ParseURI(number)}, nil)
	switch st.Kind {
	case External, Emergency:
		return st.Kind.String() + " " + strings.Join(st.Trunks, " ")
	case Reject:
		return st.Cause.String() + ": " + st.Why
	}
	return st.Kind.String()
}

func TestClassOfService(t *testing.T) {
	const abroad = "forbidden: outside number +4930123456: the caller may make "
	const local = "forbidden: outside number +33612345678: the caller may make "
	for _, c := range []struct {
		class         Class
		local, abroad string
	}{
		{"", "external a b", "external a b"},
		{International, "external a b", "external a b"},
		{National, "external a b", abroad + "national calls only, and this one is international"},
		{Internal, local + "internal calls only, and this one is national", abroad + "internal calls only, and this one is international"},
		{"nonsense", local + "nonsense calls only, and this one is national", abroad + "nonsense calls only, and this one is international"},
	} {
		f := newFleet()
		f.trunks = []string{"a", "b"}
		f.classes[f.entries["bob"][0].User] = c.class
		for number, want := range map[string]string{"00612345678": c.local, "0004930123456": c.abroad, "201": "ring", "112": "emergency a b", "0112": "emergency a b"} {
			if got := out(f, "bob", number); got != want {
				t.Errorf("class %q: %s leads to\n %s\nwant\n %s", c.class, number, got, want)
			}
		}
	}
	f := newFleet()
	f.trunks = []string{"a"}
	own := f.sites["0004"]
	own.Country = ""
	f.classes[f.entries["bob"][0].User] = National
	f.sites["0004"] = own
	if got := out(f, "bob", "+4930123456"); got != "external a" {
		t.Errorf("without a country: %s", got)
	}
}

func TestLimitsOfTrunks(t *testing.T) {
	for _, c := range []struct {
		limits map[string]Line
		want   string
	}{
		{map[string]Line{"a": {Only: []string{"+33"}}}, "external b"},
		{map[string]Line{"a": {Only: []string{"+33", "+4930"}}}, "external a b"},
		{map[string]Line{"b": {Bar: []string{"+49"}}}, "external a"},
		{map[string]Line{"a": {Only: []string{"+49"}, Bar: []string{"+493"}}}, "external b"},
		{map[string]Line{"a": {Over: "60 minutes today"}}, "external b"},
		{map[string]Line{"a": {Down: true}}, "external b a"},
		{map[string]Line{"a": {Down: true}, "b": {Down: true}}, "external a b"},
		{map[string]Line{"a": {Over: "60 minutes today"}, "b": {Bar: []string{"+49"}}},
			"forbidden: outside number +4930123456: a: 60 minutes today; b does not call +49"},
		{map[string]Line{"a": {Only: []string{"+33"}}, "b": {Only: []string{"+41", "+33"}}},
			"forbidden: outside number +4930123456: a calls only +33; b calls only +41, +33"},
	} {
		f := newFleet()
		f.trunks, f.limits = []string{"a", "b"}, c.limits
		if got := out(f, "bob", "0004930123456"); got != c.want {
			t.Errorf("%v:\n got %s\nwant %s", c.limits, got, c.want)
		}
		if got := out(f, "bob", "112"); got != "emergency a b" {
			t.Errorf("%v: emergency: %s", c.limits, got)
		}
	}
}

// Who forwards his calls outside answers for that, not who calls him.
func TestForwardOutsideNeedsTheClassOfWhoForwards(t *testing.T) {
	for _, c := range []struct {
		name        string
		ana, bob    Class
		trunk, peer bool
		want        string
	}{
		{"the forwarder may", "international", "internal", false, false, "divert 00612345678 > external "},
		{"the forwarder may not", "internal", "international", false, false, "divert 00612345678 > reject forbidden"},
		{"from a trunk", "national", "", true, false, "divert 00612345678 > external "},
		{"from a trunk, he may not", "internal", "", true, false, "divert 00612345678 > reject forbidden"},
		{"from another site", "national", "", false, true, "divert 00612345678 > external "},
		{"from another site, he may not", "internal", "", false, true, "divert 00612345678 > reject forbidden"},
	} {
		f := newFleet()
		f.trunks = []string{"a"}
		f.settings[f.entries["ana"][0].User] = Settings{All: "00612345678"}
		f.classes[f.entries["ana"][0].User], f.classes[f.entries["bob"][0].User] = c.ana, c.bob
		call := Call{From: f.party("bob"), To: ParseURI("201"), Trunk: c.trunk, Peer: c.peer}
		if c.trunk {
			call.From = site.Party{AOR: site.AOR{User: "+33699999999"}}
		}
		if got := story(f, call); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}
