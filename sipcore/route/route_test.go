package route

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// fleet is a View in memory: sites 0004 (own), 0017 and 0018.
type fleet struct {
	own      string
	sites    map[string]Site
	entries  map[string][]Entry
	settings map[site.RecordID]Settings
	bound    map[string]int
	suspect  map[site.ID]bool
	trunks   []string
	limits   map[string]Line
	classes  map[site.RecordID]Class
	returns  string
}

func (f *fleet) Domain() string                   { return "shops.example" }
func (f *fleet) Own() Site                        { return f.sites[f.own] }
func (f *fleet) SiteByCode(c string) (Site, bool) { s, ok := f.sites[c]; return s, ok }
func (f *fleet) Local(host string) bool           { return host == "192.168.1.10" || host == "2001:db8::10" }
func (f *fleet) Lookup(n string) []Entry          { return f.entries[n] }
func (f *fleet) Bindings(a site.AOR) int          { return f.bound[a.User] }
func (f *fleet) Suspect(id site.ID) bool          { return f.suspect[id] }
func (f *fleet) Lines() (out []Line) {
	for _, t := range f.trunks {
		l := f.limits[t]
		l.Name = t
		out = append(out, l)
	}
	return
}
func (f *fleet) Class(u site.RecordID) Class { return f.classes[u] }
func (f *fleet) Returns(n string) bool       { return f.returns == n }
func (f *fleet) CodeBegins(p string) bool {
	for c := range f.sites {
		if strings.HasPrefix(c, p) {
			return true
		}
	}
	return false
}
func (f *fleet) SiteByID(id site.ID) (Site, bool) {
	for _, s := range f.sites {
		if s.ID == id {
			return s, true
		}
	}
	return Site{}, false
}
func (f *fleet) Settings(u site.RecordID) (Settings, bool) { s, ok := f.settings[u]; return s, ok }

func newFleet() *fleet {
	f := &fleet{own: "0004", sites: map[string]Site{}, entries: map[string][]Entry{}, settings: map[site.RecordID]Settings{},
		bound: map[string]int{}, suspect: map[site.ID]bool{}, classes: map[site.RecordID]Class{}}
	for i, c := range []string{"0004", "0017", "0018"} {
		f.sites[c] = Site{ID: site.ID{byte(i + 1)}, Code: c, Nodes: []site.NodeID{{byte(i + 1), 1}, {byte(i + 1), 2}},
			Country: "33", National: "0", Abroad: "00", Outside: "0", Emergency: []string{"112"},
			Codes: []Code{{Digits: "*97", Feature: Mailbox}, {Digits: "*98", Feature: "leave", Rest: true}}}
	}
	f.user(1, "0004", "201", "ana", "")
	f.user(2, "0004", "202", "bob", "")
	f.user(3, "0017", "201", "chi", "+33472001201")
	return f
}

func (f *fleet) user(id byte, code, ext, name, e164 string) Entry {
	e := Entry{User: site.RecordID{id}, AOR: site.AOR{User: code + ext, Domain: "shops.example"}, Name: name,
		Home: f.sites[code].ID, E164: e164, Written: uint64(id)}
	f.entries[code+ext] = append(f.entries[code+ext], e)
	f.entries[name] = append(f.entries[name], e)
	if e164 != "" {
		f.entries[e164] = append(f.entries[e164], e)
	}
	if code == f.own {
		f.settings[e.User] = Settings{}
		f.bound[code+ext] = 1
	}
	return e
}

func (f *fleet) party(number string) site.Party { return f.entries[number][0].Party() }

func TestCanonicalForms(t *testing.T) {
	f := newFleet()
	for _, c := range []struct{ to, want string }{
		{"201", "0004201"},
		{"sip:201@shops.example", "0004201"},
		{"sip:201@192.168.1.10", "0004201"},
		{"sip:201@192.168.1.10:5062;transport=tcp", "0004201"},
		{"sip:201@[2001:db8::10]:5060", "0004201"},
		{"sip:201@s0017.shops.example", "0017201"},
		{"sip:201@a.s0017.shops.example", "0017201"},
		{"sip:201@S0017.Shops.Example", "0017201"},
		{"sip:0017201@shops.example", "0017201"},
		{"sip:0017201@s0004.shops.example", "0017201"},
		{"80017201", "0017201"},
		{"sip:80017201@192.168.1.10", "0017201"},
		{"80004201", "0004201"},
		{"tel:201", "0004201"},
		{"tel:+33-4-72-00-12-01", "0017201"},
		{"tel:+33472001201;phone-context=x", "0017201"},
		{"sip:+33472001201@other.example;user=phone", "0017201"},
		{"sip:(2).0-1@shops.example", "0004201"},
		{"sip:%32%30%31@shops.example", "0004201"},
		{"sip:Ana@shops.example", "0004201"},
		{"sip:chi@shops.example", "0017201"},
		{"00472001201", "0017201"},
		{"00033472001201", "0017201"},
		{"sip:201@other.example", "forbidden"},
		{"sip:201@192.168.1.99", "forbidden"},
		{"sip:201@s9999.shops.example", "forbidden"},
		{"299", "no such number"},
		{"20", "incomplete"},
		{"8", "incomplete"},
		{"8001", "incomplete"},
		{"80017", "incomplete"},
		{"8001720", "incomplete"},
		{"80017299", "no such number"},
		{"*9", "incomplete"},
		{"%2A97", "feature mailbox"},
		{"*97", "feature mailbox"},
		{"*98", "incomplete"},
		{"*98201", "feature leave 201"},
		{"*55", "no such number"},
		{"%23", "no such number"},
		{"20*1", "no such number"},
		{"112", "emergency 112"},
		{"0112", "emergency 112"},
		{"urn:service:sos.fire", "emergency 112"},
		{"sip:112@192.168.1.99", "emergency 112"}, // a node's former address
		{"sip:112@other.example", "emergency 112"},
		{"sip:0112@s0017.shops.example", "emergency 112"}, // a phone of 0017 that is here
		{"urn:service:other", "no such number"},
		{"+33999999999", "no free line"},
		{"nobody", "no such number"},
		{"", "no such number"},
		{"sip:@", "no such number"},
	} {
		st := Next(f, Call{From: f.party("0004202"), To: ParseURI(c.to)}, nil)
		got := st.Target.AOR.User
		switch st.Kind {
		case Emergency:
			got = "emergency " + st.Number
		case Reject:
			got = st.Cause.String()
		case Feature:
			got = strings.TrimSpace("feature " + string(st.Feature) + " " + st.Arg)
		}
		if got != c.want {
			t.Errorf("%q leads to %q (%s), want %q", c.to, got, st.Why, c.want)
		}
	}
}

// story runs a call whose steps end as given and prints them.
func story(v View, c Call, causes ...site.Cause) string {
	var past []Outcome
	var out []string
	for i := 0; ; i++ {
		st := Next(v, c, past)
		s := st.Kind.String()
		switch st.Kind {
		case Reject:
			return strings.Join(append(out, s+" "+st.Cause.String()), " > ")
		case Feature:
			s += " " + string(st.Feature) + " " + st.Target.AOR.User + " (" + st.Diverted + ")"
		case Divert:
			s += " " + st.To.User
		default:
			s += " " + st.Target.AOR.User
			if st.Here {
				s += " here"
			}
			for _, b := range st.Sites {
				s += " " + b.Site.Code
			}
			if st.Public {
				s += " " + st.Number + " via public line"
			}
		}
		out = append(out, s)
		cause := site.Failure
		if i < len(causes) {
			cause = causes[i]
		} else if st.Kind != Divert {
			return strings.Join(out, " > ")
		}
		past = append(past, Outcome{st, cause})
	}
}

func TestGoldenDecisions(t *testing.T) {
	for _, c := range []struct {
		name   string
		set    func(f *fleet)
		call   string
		more   func(c *Call)
		causes []site.Cause
		want   string
	}{
		{name: "same site", call: "201", want: "ring 0004201 here"},
		{name: "no answer", call: "201", causes: []site.Cause{site.NoAnswer}, want: "ring 0004201 here > feature voicemail 0004201 (no answer)"},
		{name: "busy", call: "201", causes: []site.Cause{site.Busy}, want: "ring 0004201 here > feature voicemail 0004201 (busy)"},
		{name: "voicemail fails too", call: "201", causes: []site.Cause{site.NoAnswer, site.NodeFull}, want: "ring 0004201 here > feature voicemail 0004201 (no answer) > reject node full"},
		{name: "offline", set: func(f *fleet) { f.bound = nil }, call: "201", want: "feature voicemail 0004201 (offline)"},
		{name: "offline, no voicemail", set: func(f *fleet) { f.bound = nil; f.settings[site.RecordID{1}] = Settings{NoVoicemail: true} }, call: "201", want: "reject offline"},
		{name: "do not disturb", set: func(f *fleet) { f.settings[site.RecordID{1}] = Settings{DND: true} }, call: "201", want: "feature voicemail 0004201 (busy)"},
		{name: "disabled", set: func(f *fleet) { f.settings[site.RecordID{1}] = Settings{Disabled: true} }, call: "201", want: "reject no such number"},
		{name: "blocked", set: func(f *fleet) { f.settings[site.RecordID{1}] = Settings{Blocked: []string{"2-02"}} }, call: "201", want: "reject refused"},
		{name: "forward all", set: func(f *fleet) { f.settings[site.RecordID{1}] = Settings{All: "80017201"} }, call: "201", want: "divert 80017201 > away 0017201 0017"},
		{name: "forward to voicemail", set: func(f *fleet) { f.settings[site.RecordID{1}] = Settings{All: "voicemail"} }, call: "201", want: "feature voicemail 0004201 (all)"},
		{name: "forward in a circle", set: func(f *fleet) {
			f.settings[site.RecordID{1}] = Settings{All: "202"}
			f.settings[site.RecordID{2}] = Settings{All: "201"}
		}, call: "201", want: "divert 202 > divert 201 > divert 202 > divert 201 > divert 202 > reject too many hops"},
		{name: "forward on busy", set: func(f *fleet) { f.settings[site.RecordID{1}] = Settings{OnBusy: "202"} }, call: "201", causes: []site.Cause{site.Refused}, want: "ring 0004201 here > divert 202 > ring 0004202 here"},
		{name: "other site", call: "80017201", want: "away 0017201 0017"},
		{name: "other site answers busy", call: "80017201", causes: []site.Cause{site.Busy}, want: "away 0017201 0017 > reject busy"},
		{name: "other site cut off", call: "80017201", causes: []site.Cause{site.Unreachable}, want: "away 0017201 0017 > feature voicemail 0017201 (unreachable)"},
		{name: "other site has no room", call: "80017201", causes: []site.Cause{site.Failure}, want: "away 0017201 0017 > feature voicemail 0017201 (unreachable)"},
		{name: "broken phone", call: "201", causes: []site.Cause{site.Failure}, want: "ring 0004201 here > feature voicemail 0004201 (offline)"},
		{name: "own user also at another site", set: func(f *fleet) { f.entries["0004201"][0].Serving = []site.ID{{3}} }, call: "201", want: "ring 0004201 here 0018"},
		{name: "only at another site, which is cut off", set: func(f *fleet) { f.entries["0004201"][0].Serving = []site.ID{{3}}; f.bound = nil }, call: "201", causes: []site.Cause{site.Unreachable}, want: "ring 0004201 0018 > feature voicemail 0004201 (unreachable)"},
		{name: "asked by another node to ring", call: "201", more: func(c *Call) { c.Peer, c.Applied = true, true }, causes: []site.Cause{site.NoAnswer}, want: "ring 0004201 here > reject no answer"},
		{name: "asked by another node", call: "201", more: func(c *Call) { c.Peer = true }, causes: []site.Cause{site.NoAnswer}, want: "ring 0004201 here > feature voicemail 0004201 (no answer)"},
		{name: "another node is wrong about the site", call: "80017201", more: func(c *Call) { c.Peer = true }, want: "reject no such number"},
		{name: "another node wants out", call: "+33999999999", more: func(c *Call) { c.Peer = true }, set: func(f *fleet) { f.trunks = []string{"t"} }, want: "reject forbidden"},
		{name: "diverted five times before", call: "201", more: func(c *Call) { c.Diversions = 6 }, want: "reject too many hops"},
		{name: "outside", set: func(f *fleet) { f.trunks = []string{"t"} }, call: "00612345678", want: "external "},
		{name: "emergency", set: func(f *fleet) { f.trunks = []string{"t"} }, call: "112", want: "emergency "},
		{name: "phones refuse the media", call: "201", causes: []site.Cause{site.NotAcceptable}, want: "ring 0004201 here > reject not acceptable"},
	} {
		f := newFleet()
		if c.set != nil {
			c.set(f)
		}
		call := Call{From: f.party("0004202"), To: ParseURI(c.call)}
		if c.more != nil {
			c.more(&call)
		}
		if got := story(f, call, c.causes...); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// Two islands gave 0017301 to different people (state model §8, example 3).
func TestClash(t *testing.T) {
	f := newFleet()
	f.user(7, "0017", "301", "first", "")
	second := f.user(8, "0017", "301", "second", "")
	second.Home = site.ID{1}
	f.entries["0017301"][1] = second
	f.settings[second.User] = Settings{}
	f.bound["0017301"] = 1
	for own, want := range map[string]byte{"0004": 8, "0017": 7, "0018": 7} {
		f.own = own
		if st := Next(f, Call{From: f.party("0004202"), To: ParseURI("0017301")}, nil); st.Target.User[0] != want {
			t.Errorf("at %s user %d is meant, want %d", own, st.Target.User[0], want)
		}
	}
}

func TestBudgets(t *testing.T) {
	f := newFleet()
	next := func() Branch {
		return Next(f, Call{From: f.party("0004202"), To: ParseURI("80017201")}, nil).Sites[0]
	}
	if b := next(); b.Budget != 3*time.Second || b.After != time.Second {
		t.Errorf("plain: %v, %v", b.Budget, b.After)
	}
	s := f.sites["0017"]
	s.RoundTrip = 800 * time.Millisecond
	f.sites["0017"] = s
	if b := next(); b.Budget != 4800*time.Millisecond {
		t.Errorf("far away: %v", b.Budget)
	}
	s.RoundTrip = time.Minute
	f.sites["0017"] = s
	if b := next(); b.Budget != 6*time.Second {
		t.Errorf("very far away: %v", b.Budget)
	}
	f.suspect[s.ID] = true
	if b := next(); b.Budget != time.Second {
		t.Errorf("suspect: %v", b.Budget)
	}
}

func TestShownCanBeDialledBack(t *testing.T) {
	f := newFleet()
	for _, own := range []string{"0004", "0017"} {
		f.own = own
		for _, n := range []string{"0004201", "0017201"} {
			shown := Shown(f, f.party(n))
			if back := AOR(f, ParseURI(shown)); back.User != n {
				t.Errorf("at %s, %s is shown as %s, which leads to %s", own, n, shown, back)
			}
		}
	}
	f.own = "0004"
	for n, want := range map[string]string{"+33612345678": "00612345678", "+4912345678": "0004912345678"} {
		if got := Shown(f, site.Party{AOR: site.AOR{User: n}}); got != want {
			t.Errorf("%s is shown as %s, want %s", n, got, want)
		}
	}
}

func TestRealmTellsNothingOfUsers(t *testing.T) {
	f := newFleet()
	for n, want := range map[string]string{"201": "s0004.shops.example", "0017201": "s0017.shops.example", "0017999": "s0017.shops.example", "9999999": "s0004.shops.example", "ana": "s0004.shops.example"} {
		if got := Realm(f, AOR(f, ParseURI(n))); got != want {
			t.Errorf("realm of %s is %s, want %s", n, got, want)
		}
	}
}

func TestExplainReadsLikeAStory(t *testing.T) {
	f := newFleet()
	got := strings.Join(Explain(f, f.party("0004202"), ParseURI("80017201")), "\n")
	want := `call from 202 (bob) at site 0004 to sip:80017201
1. hand over to site 0017 (2 node(s), the next one after 1s, given up after 3s without an answer) [extension 201 of site 0017, dialled with 8, at site 0017]
   if that site cannot be reached:
2. give the call to voicemail [voicemail of 0017201 (unreachable)]`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func FuzzNext(f *testing.F) {
	for _, s := range []string{"201", "sip:201@[::1]:5060", "tel:+33(4)", "*97", "80017201", "%", "sip:%zz@s.shops.example", "<sip:a@b>"} {
		f.Add(s, []byte{5, 4, 7}, uint8(0))
	}
	v := newFleet()
	v.settings[site.RecordID{1}] = Settings{OnBusy: "202", OnNoAnswer: "80017201", OnOffline: "201"}
	v.settings[site.RecordID{2}] = Settings{All: "201"}
	v.trunks = []string{"t"}
	f.Fuzz(func(t *testing.T, to string, causes []byte, flags uint8) {
		c := Call{From: v.party("0004202"), To: ParseURI(to), Peer: flags&1 != 0, Applied: flags&2 != 0, Diversions: int(flags >> 4)}
		var past []Outcome
		for i := 0; ; i++ {
			st := Next(v, c, past)
			if fmt.Sprint(st) != fmt.Sprint(Next(v, c, past)) {
				t.Fatal("two answers to one question")
			}
			if st.Kind == Reject {
				break
			}
			if i > MaxSteps {
				t.Fatalf("%q never ends", to)
			}
			if st.Kind == Ring && !st.Here && len(st.Sites) == 0 || st.Kind == Away && len(st.Sites) != 1 {
				t.Fatalf("%q: %v has nothing to ring", to, st.Kind)
			}
			cause := site.NoAnswer
			if len(causes) > 0 {
				cause = site.Cause(causes[i%len(causes)] % 24)
			}
			past = append(past, Outcome{st, cause})
		}
		Explain(v, c.From, c.To)
		AOR(v, c.To)
	})
}
