package route

import "carrierclass.net/ccnode/internal/site"

// unreachable is step 7: e's own site cannot be reached. The user's phones at
// other sites ring; then the public network is tried; then a message is taken
// here; then the caller is told. It is asked again after each of them.
func (d decision) unreachable(e Entry) Step {
	why := "site of " + e.AOR.User + " cannot be reached"
	if st, ok := d.serving(e); ok {
		st.Why = why + "; phones elsewhere ring"
		return st
	}
	number, trunks, no := d.publicly(e)
	if len(trunks) > 0 {
		return Step{Kind: External, Target: e, Number: number, Trunks: trunks, Public: true, Diverted: "via public line", Why: why}
	}
	if no != "" {
		no = "; not via public line: " + no
	}
	if e.NoVoicemail {
		return reject(site.Unreachable, why+", and no voicemail"+no)
	}
	st := d.message(e, "unreachable")
	st.Why += no
	return st
}

// serving rings e's phones at the sites that serve e beside the home site, once.
func (d decision) serving(e Entry) (Step, bool) {
	st := Step{Kind: Ring, Target: e, For: DefaultRing}
	tried := map[site.ID]bool{e.Home: true}
	here := false
	for _, o := range d.past {
		here = here || o.Step.Here
		for _, b := range o.Step.Sites {
			tried[b.Site.ID] = true
		}
	}
	for _, id := range e.Serving {
		if id == d.v.Own().ID {
			st.Here = !here && d.v.Bindings(e.AOR) > 0
			continue
		}
		if b, ok := d.branch(id); ok && !tried[id] {
			tried[id] = true
			st.Sites = append(st.Sites, b)
		}
	}
	return st, st.Here || len(st.Sites) > 0
}

// publicly says by which trunks of this site e is reached through the public
// network; without any, why that may not be.
func (d decision) publicly(e Entry) (number string, trunks []string, no string) {
	if number = e.E164; number == "" {
		if s, ok := d.v.SiteByID(e.Home); ok {
			number = s.Number
		}
	}
	switch {
	case len(d.v.Lines()) == 0:
		return number, nil, ""
	case d.rerouted:
		return number, nil, "it was tried"
	case d.c.Trunk:
		return number, nil, "the call came in by a trunk"
	case number == "":
		return number, nil, "neither " + e.AOR.User + " nor the site has a public number"
	case d.v.Returns(number):
		return number, nil, number + " is delivered to this site"
	}
	trunks, up, _, no := d.ways(number)
	if up == 0 && no == "" { // what cuts the site off often cuts the trunk, too
		no = "every line is down"
	}
	return number, trunks[:up], no
}
