package route

import (
	"strings"
	"testing"

	"carrierclass.net/ccnode/internal/site"
)

// Step 7 of calls.md §3: where a call goes when the other site is gone. The
// user is chi, 0017201, with a public number.
func TestUnreachableSite(t *testing.T) {
	const gone, fails = site.Unreachable, site.NoLine
	chi := func(f *fleet, edit func(e *Entry)) {
		edit(&f.entries["0017201"][0])
	}
	class := func(c Class) func(f *fleet) {
		return func(f *fleet) { f.classes[f.entries["bob"][0].User] = c }
	}
	number := func(n string) func(f *fleet) {
		return func(f *fleet) {
			chi(f, func(e *Entry) { e.E164 = "" })
			s := f.sites["0017"]
			s.Number = n
			f.sites["0017"] = s
		}
	}
	for _, c := range []struct {
		name   string
		set    func(f *fleet)
		more   func(c *Call)
		causes []site.Cause
		want   string
	}{
		{name: "his own number", causes: []site.Cause{gone}, want: "away 0017201 0017 > external 0017201 +33472001201 via public line"},
		{name: "then a message", causes: []site.Cause{gone, fails}, want: "away 0017201 0017 > external 0017201 +33472001201 via public line > feature voicemail 0017201 (unreachable)"},
		{name: "busy there", causes: []site.Cause{gone, site.Busy}, want: "away 0017201 0017 > external 0017201 +33472001201 via public line > feature voicemail 0017201 (unreachable)"},
		{name: "no voicemail", set: func(f *fleet) { chi(f, func(e *Entry) { e.NoVoicemail = true }) }, causes: []site.Cause{gone, fails}, want: "away 0017201 0017 > external 0017201 +33472001201 via public line > reject store unreachable"},
		{name: "given up", causes: []site.Cause{gone, site.Cancelled}, want: "away 0017201 0017 > external 0017201 +33472001201 via public line > reject cancelled"},
		{name: "the site's number", set: number("+33472001200"), causes: []site.Cause{gone}, want: "away 0017201 0017 > external 0017201 +33472001200 via public line"},
		{name: "no number", set: number(""), causes: []site.Cause{gone}, want: "away 0017201 0017 > feature voicemail 0017201 (unreachable)"},
		{name: "no trunk", set: func(f *fleet) { f.trunks = nil }, causes: []site.Cause{gone}, want: "away 0017201 0017 > feature voicemail 0017201 (unreachable)"},
		{name: "from a trunk", more: func(c *Call) { c.Trunk = true }, causes: []site.Cause{gone}, want: "away 0017201 0017 > feature voicemail 0017201 (unreachable)"},
		{name: "it would come back", set: func(f *fleet) { f.returns = "+33472001201" }, causes: []site.Cause{gone}, want: "away 0017201 0017 > feature voicemail 0017201 (unreachable)"},
		{name: "internal class", set: class(Internal), causes: []site.Cause{gone}, want: "away 0017201 0017 > feature voicemail 0017201 (unreachable)"},
		{name: "national class", set: class(National), causes: []site.Cause{gone}, want: "away 0017201 0017 > external 0017201 +33472001201 via public line"},
		{name: "a number abroad, national class", set: func(f *fleet) { class(National)(f); chi(f, func(e *Entry) { e.E164 = "+4930123456" }) }, causes: []site.Cause{gone}, want: "away 0017201 0017 > feature voicemail 0017201 (unreachable)"},
		{name: "the trunk does not call there", set: func(f *fleet) { f.limits = map[string]Line{"t": {Bar: []string{"+334"}}} }, causes: []site.Cause{gone}, want: "away 0017201 0017 > feature voicemail 0017201 (unreachable)"},
		{name: "the trunk is down", set: func(f *fleet) { f.limits = map[string]Line{"t": {Down: true}} }, causes: []site.Cause{gone}, want: "away 0017201 0017 > feature voicemail 0017201 (unreachable)"},
		{name: "the site answers", causes: []site.Cause{site.Busy}, want: "away 0017201 0017 > reject busy"},
		{name: "served elsewhere first", set: func(f *fleet) { chi(f, func(e *Entry) { e.Serving = []site.ID{{3}} }) }, causes: []site.Cause{gone, gone}, want: "away 0017201 0017 > ring 0017201 0018 > external 0017201 +33472001201 via public line"},
		{name: "nobody registered there", set: func(f *fleet) { chi(f, func(e *Entry) { e.Serving = []site.ID{{3}} }) }, causes: []site.Cause{gone, site.Offline}, want: "away 0017201 0017 > ring 0017201 0018 > external 0017201 +33472001201 via public line"},
		{name: "served here and elsewhere", set: func(f *fleet) {
			chi(f, func(e *Entry) { e.Serving = []site.ID{{1}, {3}, {2}} })
			f.bound["0017201"] = 1
		}, causes: []site.Cause{gone, site.NoAnswer}, want: "away 0017201 0017 > ring 0017201 here 0018 > feature voicemail 0017201 (no answer)"},
		{name: "served here, a broken phone", set: func(f *fleet) { chi(f, func(e *Entry) { e.Serving = []site.ID{{1}} }); f.bound["0017201"] = 1 }, causes: []site.Cause{gone, site.Offline, fails},
			want: "away 0017201 0017 > ring 0017201 here > external 0017201 +33472001201 via public line > feature voicemail 0017201 (unreachable)"},
	} {
		f := newFleet()
		f.trunks = []string{"t"}
		if c.set != nil {
			c.set(f)
		}
		call := Call{From: f.party("0004202"), To: ParseURI("80017201")}
		if c.more != nil {
			c.more(&call)
		}
		if got := story(f, call, c.causes...); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// One call is taken to the public network once, whoever forwards it afterwards.
func TestReroutedOnce(t *testing.T) {
	f := newFleet()
	f.trunks = []string{"t"}
	f.user(8, "0018", "301", "eve", "+33472001301")
	f.settings[f.entries["ana"][0].User] = Settings{OnOffline: "80017201"}
	f.bound["0004201"] = 0
	past := []Outcome{{Step: Step{Kind: External, Target: f.entries["0018301"][0], Public: true}, Cause: site.NoLine},
		{Step: Step{Kind: Divert, Target: f.entries["ana"][0], To: ParseURI("80017201")}},
		{Step: Step{Kind: Away, Target: f.entries["0017201"][0]}, Cause: site.Unreachable}}
	if st := Next(f, Call{From: f.party("bob"), To: ParseURI("80018301")}, past); st.Kind != Feature || !strings.Contains(st.Why, "it was tried") {
		t.Errorf("%v: %s", st.Kind, st.Why)
	}
}

func TestExplainNamesThePublicLine(t *testing.T) {
	f := newFleet()
	f.trunks = []string{"fxo"}
	got := strings.Join(Explain(f, f.party("0004202"), ParseURI("80017201")), "\n")
	want := `call from 202 (bob) at site 0004 to sip:80017201
1. hand over to site 0017 (2 node(s), the next one after 1s, given up after 3s without an answer) [extension 201 of site 0017, dialled with 8, at site 0017]
   if that site cannot be reached:
2. call 0017201 via public line: +33472001201 over fxo [site of 0017201 cannot be reached]
   if every line fails:
3. give the call to voicemail [voicemail of 0017201 (unreachable); not via public line: it was tried]`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	f.classes[f.entries["bob"][0].User] = Internal
	got = strings.Join(Explain(f, f.party("0004202"), ParseURI("00612345678")), "\n")
	want = `call from 202 (bob) at site 0004 to sip:00612345678
1. refuse: forbidden [outside number +33612345678: the caller may make internal calls only, and this one is national]`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
