package route

import (
	"slices"
	"strings"

	"carrierclass.net/ccnode/internal/site"
)

// Names of the features a decision may lead to by itself.
const (
	Attendant site.FeatureName = "menu"      // the menu that is Step.Target
	Voicemail site.FeatureName = "voicemail" // leave a message for Step.Target
	Mailbox   site.FeatureName = "mailbox"   // the caller's own
)

// MaxSteps bounds how many steps a call can take before Next says Reject.
const MaxSteps = 3*(MaxDiversions+1) + MaxMembers

// MaxMembers is how many of a group are rung.
const MaxMembers = 64

// Next says what to do with the call, given how the steps so far ended. It is
// asked again after each step that ended without an answer; after Reject it
// must not be asked again.
func Next(v View, c Call, past []Outcome) Step {
	if len(past) >= MaxSteps {
		return reject(site.TooManyHops, "too many steps")
	}
	to, since, reason, n := c.To, 0, "", c.Diversions
	var by Entry
	rerouted := false
	for i, o := range past {
		if o.Step.Kind == Divert {
			to, since, reason, by = o.Step.To, i+1, o.Step.Diverted, o.Step.Target
			n++
		}
		rerouted = rerouted || o.Step.Public
	}
	if n > MaxDiversions {
		return reject(site.TooManyHops, "diverted more than "+itoa(MaxDiversions)+" times")
	}
	d := decision{v: v, c: c, reason: reason, by: by, rerouted: rerouted, diverted: n > 0, last: n == MaxDiversions, past: past[since:]}
	t := canonical(v, to)
	if since == len(past) {
		return d.first(t)
	}
	last := past[len(past)-1]
	switch last.Step.Kind {
	case Ring:
		return d.unanswered(last.Step, last.Cause)
	case Away:
		switch last.Cause {
		case site.Unreachable, site.Failure, site.NodeFull, site.Draining, site.NodeLost: // there, but of no use
			return d.unreachable(last.Step.Target)
		}
		return reject(last.Cause, "the other site answered")
	case External:
		if last.Step.Public && last.Cause != site.Cancelled {
			return d.unreachable(last.Step.Target)
		}
	}
	return reject(last.Cause, last.Step.Kind.String()+" ended: "+last.Cause.String())
}

type decision struct {
	v        View
	c        Call
	reason   string // of the last diversion
	by       Entry  // who diverted it, here
	rerouted bool   // the public network was tried in place of a site
	diverted bool
	last     bool      // the call may not be diverted again
	past     []Outcome // since then
}

func reject(c site.Cause, why string) Step { return Step{Kind: Reject, Cause: c, Why: why} }

// first is step 2 of calls.md §3, and 0 and 8 as far as they need no trunk.
func (d decision) first(t target) Step {
	switch t.is {
	case urgent:
		var trunks []string // all of them, whatever the limits
		for _, l := range d.v.Lines() {
			trunks = append(trunks, l.Name)
		}
		if len(trunks) == 0 { // it is carried out all the same: people on site are told
			return Step{Kind: Emergency, Number: t.number, Why: t.why + ": this site has no line to the outside"}
		}
		return Step{Kind: Emergency, Number: t.number, Trunks: trunks, Why: t.why}
	case incomplete:
		return reject(site.Incomplete, t.why)
	case foreign:
		return reject(site.Forbidden, t.why)
	case outside:
		if d.c.Peer && d.by.User.IsZero() {
			return reject(site.Forbidden, t.why+": other sites have no way out through this one")
		}
		trunks, _, cause, why := d.ways(t.number)
		if len(trunks) == 0 {
			return Step{Kind: Reject, Cause: cause, Number: t.number, Why: t.why + ": " + why}
		}
		return Step{Kind: External, Number: t.number, Trunks: trunks, Why: t.why}
	case code:
		if d.diverted { // it would be carried out for who calls
			return reject(site.Forbidden, "a forward to a feature code")
		}
		return Step{Kind: Feature, Feature: t.feature.Feature, Arg: t.rest, Target: d.caller(), Diverted: d.reason, Why: t.why}
	case person:
		return d.person(t)
	}
	return reject(site.NoSuchNumber, t.why)
}

// caller is the entry of who calls; a feature code is about him.
func (d decision) caller() Entry {
	p := d.c.From
	for _, e := range d.v.Lookup(p.AOR.User) {
		if e.User == p.User {
			return e
		}
	}
	return Entry{User: p.User, AOR: p.AOR, Name: p.Display, Home: p.Site}
}

// person is step 3: settings are applied once, by the first node that holds
// the record.
func (d decision) person(t target) Step {
	e := t.entry
	why := t.why
	if t.clash > 0 {
		why += "; the number is in use " + itoa(t.clash+1) + " times"
	}
	if e.Disabled {
		return reject(site.NoSuchNumber, why+": disabled")
	}
	s, held := d.v.Settings(e.User)
	if d.c.Applied && !d.diverted && e.Kind == User {
		return d.ring(e, s, true, why) // another node's ring step
	}
	if !held {
		if e.Home == d.v.Own().ID {
			return d.ring(e, s, false, why+"; settings unknown")
		}
		return d.away(e, why)
	}
	switch {
	case s.Disabled:
		return reject(site.NoSuchNumber, why+": disabled")
	case blocked(s.Blocked, d.c.From, d.v):
		return reject(site.Refused, why+": this caller is blocked")
	case e.Kind == Menu:
		return Step{Kind: Feature, Feature: Attendant, Target: e, Diverted: d.reason, Why: why + ", a menu"}
	case e.Kind == Group:
		return d.group(e, s, why)
	case s.All != "":
		return d.forward(e, s.All, "all", site.NoAnswer)
	case s.DND:
		return d.settle(e, s, s.OnBusy, "busy", site.Busy)
	}
	return d.ring(e, s, false, why)
}

// blocked compares digits, because callers are stored as people write them.
func blocked(list []string, from site.Party, v View) bool {
	shown := Shown(v, from)
	return slices.ContainsFunc(list, func(b string) bool {
		n, _ := URI{User: b}.user()
		return n != "" && (n == from.AOR.User || n == from.Number || n == shown)
	})
}

// away is step 6.
func (d decision) away(e Entry, why string) Step {
	if d.c.Peer && !d.diverted {
		return reject(site.NoSuchNumber, why+": not of this site, and another node asked")
	}
	b, ok := d.branch(e.Home)
	if !ok {
		return d.unreachable(e)
	}
	return Step{Kind: Away, Target: e, Sites: []Branch{b}, Why: why + ", at site " + b.Site.Code}
}

// branch says how to ask a site: its node, the pair of it after 1 s without
// 100, and no longer than the budget.
func (d decision) branch(id site.ID) (Branch, bool) {
	s, ok := d.v.SiteByID(id)
	if !ok || len(s.Nodes) == 0 {
		return Branch{}, false
	}
	b := Branch{Site: s, After: PairAfter, Budget: max(Budget, min(6*s.RoundTrip, maxBudget))}
	if d.v.Suspect(id) {
		b.Budget, b.After = ShortBudget, ShortBudget/2
	}
	return b, true
}

// ring is step 4.
func (d decision) ring(e Entry, s Settings, hereOnly bool, why string) Step {
	own := d.v.Own().ID
	st := Step{Kind: Ring, Target: e, For: s.Ring, Why: why}
	if st.For <= 0 {
		st.For = DefaultRing
	}
	st.Here = d.v.Bindings(e.AOR) > 0
	if !hereOnly {
		for _, id := range append([]site.ID{e.Home}, e.Serving...) {
			if id == own || slices.ContainsFunc(st.Sites, func(b Branch) bool { return b.Site.ID == id }) {
				continue
			}
			if b, ok := d.branch(id); ok {
				st.Sites = append(st.Sites, b)
			}
		}
	}
	if !st.Here && len(st.Sites) == 0 {
		st.Why += ": no phone is registered"
		if d.c.Applied && !d.diverted {
			return reject(site.Offline, st.Why)
		}
		return d.settle(e, s, s.OnOffline, "offline", site.Offline)
	}
	return st
}

// group rings the members that can be rung, together or one after the other;
// when nobody took the call it goes where the group says, else to the group's
// mailbox. Members' own forwards do not count, their do-not-disturb does.
func (d decision) group(e Entry, s Settings, why string) Step {
	var ready []Entry
	for _, m := range s.Members[:min(len(s.Members), MaxMembers)] {
		own, _ := d.v.Settings(m.User)
		if !m.Disabled && !own.Disabled && !own.DND && m.User != d.c.From.User && d.v.Bindings(m.AOR) > 0 {
			ready = append(ready, m)
		}
	}
	st := Step{Kind: Ring, Target: e, Here: true, For: s.Ring, Members: ready, Why: why + ", a group of " + itoa(len(s.Members))}
	if st.For <= 0 {
		st.For = DefaultRing
	}
	cause := site.Offline
	if n := len(d.past); n > 0 {
		cause = d.past[n-1].Cause
	}
	if s.InTurn {
		rung := map[site.RecordID]bool{}
		for _, o := range d.past {
			for _, m := range o.Step.Members {
				rung[m.User] = true
			}
		}
		ready = slices.DeleteFunc(ready, func(m Entry) bool { return rung[m.User] })
		st.Members = ready[:min(len(ready), 1)]
	} else if len(d.past) > 0 {
		st.Members = nil
	}
	if len(st.Members) > 0 {
		return st
	}
	reason := "no answer"
	if cause == site.Offline {
		reason = "offline"
	}
	return d.settle(e, s, s.OnNoAnswer, reason, cause)
}

// unanswered is step 5.
func (d decision) unanswered(st Step, cause site.Cause) Step {
	e := st.Target
	if d.c.Applied && !d.diverted {
		return reject(cause, "left to the node that applied the settings")
	}
	s, held := d.v.Settings(e.User)
	if e.Kind == Group {
		return d.group(e, s, e.AOR.User)
	}
	if !held && e.Home != d.v.Own().ID && cause != site.NoAnswer && cause != site.Busy && cause != site.Refused {
		return d.unreachable(e) // phones at another serving site, of no use either
	}
	switch cause {
	case site.Busy, site.Refused:
		return d.settle(e, s, s.OnBusy, "busy", cause)
	case site.NoAnswer:
		return d.settle(e, s, s.OnNoAnswer, "no answer", cause)
	case site.Offline, site.Failure, site.NodeFull, site.Draining, site.NodeLost: // a broken phone is no phone
		return d.settle(e, s, s.OnOffline, "offline", cause)
	case site.Unreachable:
		if s.OnOffline != "" {
			return d.forward(e, s.OnOffline, "unreachable", cause)
		}
		return d.unreachable(e)
	}
	return reject(cause, "the phones answered: "+cause.String())
}

// settle goes to the user's forward for a case, to voicemail, or to the end.
func (d decision) settle(e Entry, s Settings, forward, reason string, cause site.Cause) Step {
	if forward != "" {
		return d.forward(e, forward, reason, cause)
	}
	if s.NoVoicemail || e.NoVoicemail {
		return reject(cause, reason+", and no voicemail")
	}
	return d.message(e, reason)
}

func (d decision) forward(e Entry, to, reason string, cause site.Cause) Step {
	if strings.EqualFold(to, string(Voicemail)) {
		if e.NoVoicemail {
			return reject(cause, reason+", and no voicemail")
		}
		return d.message(e, reason)
	}
	if d.last {
		return reject(site.TooManyHops, "diverted "+itoa(MaxDiversions)+" times, and once more by "+e.AOR.User)
	}
	return Step{Kind: Divert, Target: e, To: ParseURI(to), Diverted: reason, Cause: cause, Why: e.AOR.User + " is forwarded to " + to + " (" + reason + ")"}
}

func (d decision) message(e Entry, reason string) Step {
	return Step{Kind: Feature, Feature: Voicemail, Target: e, Diverted: reason, Why: "voicemail of " + e.AOR.User + " (" + reason + ")"}
}
