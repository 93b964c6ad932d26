package node

import (
	"context"
	"errors"
	"fmt"
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

// RotateSecrets replaces what a lost box could open of our site, and asks the
// telephones to fetch their new settings.
func (b *backend) RotateSecrets(ctx context.Context, by, who string) (out api.RotatedSecrets, err error) {
	n := b.n
	id, err := b.everNode(who)
	if err != nil {
		return out, err
	}
	if n.book.Revocation(id) == nil {
		return out, api.Conflict(n.nodeName(id)+" is a member: what is new would be given to it, too", "first shut it out: ccnode node revoke "+id.String())
	}
	held := n.secretsOf(id)
	out = api.RotatedSecrets{Node: held.Node, Name: held.Name, Site: n.state.Own().Code,
		Replaced: []api.RotatedSecret{}, Left: []api.RotatedSecret{}, Phones: []api.Resynced{}, Others: []string{}, Unknown: held.Unknown}
	for _, of := range held.Sites {
		if of.Site != out.Site && len(of.Keys) > 0 {
			out.Others = append(out.Others, of.Site)
		}
	}
	fetches := map[string]string{} // telephones that fetch their settings, by line
	for _, p := range state.List[site.Phone](n.state) {
		for _, line := range p.Lines {
			fetches[line] = p.Name
		}
	}
	done, err := n.state.Replace(ctx, by, id)
	if err != nil && len(done) == 0 {
		return out, refuse(err)
	}
	asks := false
	for _, x := range done {
		r := api.RotatedSecret{HeldSecret: api.HeldSecret{Kind: x.Kind, What: x.Field, Name: x.Name, Number: x.Number, ID: x.Record.String(), Key: x.Epoch.String()}}
		switch {
		case errors.Is(x.Todo, state.ErrOthers):
			r.Why = fmt.Sprintf("have the provider give another, then: ccnode trunk set %s --password -", x.Name)
		case x.Todo != nil:
			r.Why = x.Todo.Error()
		case x.Table == state.TablePhone:
			r.Phone, asks = x.Name, true
		case x.Table == state.TableDevice && fetches[x.Record.String()] != "":
			r.Phone, asks = fetches[x.Record.String()], true
		default:
			r.New = x.New
		}
		if r.Why != "" {
			out.Left = append(out.Left, r)
		} else {
			out.Replaced = append(out.Replaced, r)
		}
	}
	if err != nil {
		return out, refuse(err)
	}
	if keys := n.state.PhoneKeys(); len(keys) > 1 && len(fetches) > 0 {
		if until := keys[0].Since.Add(state.ChangeFor); until.After(n.now()) {
			out.Until = &until
		}
	}
	if asks && n.phones != nil {
		n.phones.settle(ctx) // before they come
		if out.Phones, err = (provisioning{n}).Resync(ctx, "all"); err != nil {
			n.log.Warn("Telephones were not asked to fetch their new settings", "err", err)
			out.Phones = []api.Resynced{}
		}
	}
	return out, nil
}
