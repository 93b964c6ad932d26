package node

import (
	"slices"
	"strings"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
)

// madeOfKey are the secrets that both boxes of a site make of its key, so that
// they lie in no record (fromSiteKey, nonceKey).
var madeOfKey = []string{"CA of the phones", "URLs of the phones' settings", "codes of DECT bases", "digest nonces"}

// secretsOf lists what a node could open of the sites whose state is held here,
// and names those where it has to be asked again.
func (n *Node) secretsOf(id site.NodeID) api.NodeSecrets {
	out := api.NodeSecrets{Node: id.String(), Name: n.nodeName(id), Revoked: n.book.Revocation(id) != nil, Sites: []api.SiteSecrets{}, Unknown: []string{}}
	states := map[site.ID]*state.State{n.member.Site: n.state}
	for _, s := range n.kept.list() {
		if st := n.kept.state(s); st != nil && !n.kept.leaving(s) {
			states[s] = st
		}
	}
	for _, x := range n.state.Sites() {
		st := states[x.ID]
		if st == nil {
			out.Unknown = append(out.Unknown, x.Code)
			continue
		}
		e := st.Exposed(id)
		of := api.SiteSecrets{Site: x.Code, Current: e.Current, Keys: []string{}, Secrets: []api.HeldSecret{}, Made: []string{}}
		for _, k := range e.Epochs {
			of.Keys = append(of.Keys, k.String())
		}
		for _, y := range e.Secrets {
			of.Secrets = append(of.Secrets, api.HeldSecret{Kind: y.Kind, What: y.Field, Name: y.Name, Number: y.Number, ID: y.Record.String(), Key: y.Epoch.String()})
		}
		if len(of.Keys) > 0 {
			of.Made = slices.Clone(madeOfKey)
		}
		out.Sites = append(out.Sites, of)
	}
	slices.SortFunc(out.Sites, func(a, b api.SiteSecrets) int { return strings.Compare(a.Site, b.Site) })
	slices.SortFunc(out.Unknown, strings.Compare)
	return out
}
