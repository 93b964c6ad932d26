package node

import (
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
)

// Colleagues are the members of the groups somebody is in, and those groups:
// whose ringing telephones he may pick up without naming one. Who is in no
// group picks up anybody's of the site.
func (v view) Colleagues(of site.Party) (out []site.AOR) {
	if of.User.IsZero() {
		return nil
	}
	for _, g := range state.List[site.Group](v.n.state) {
		own := false
		var members []site.AOR
		for _, m := range g.Members {
			u, err := site.ParseRecordID(m)
			if err != nil {
				continue
			}
			if u == of.User {
				own = true
				continue
			}
			if e, ok := v.n.state.Entry(u); ok {
				members = append(members, site.AOR{User: e.Number, Domain: v.Domain()})
			}
		}
		if own {
			out = append(out, members...)
		}
	}
	return out
}
