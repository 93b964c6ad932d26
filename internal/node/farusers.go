package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
)

// Users of other sites, for administrators who logged in here: what their home
// says of them now, or its stand-in, or what was seen last, with its age. A change
// is made by the home; if it cannot be reached, by this box in the person's
// session, and waits for the home in the outbox (state.md §6, §7).

const maxFarUsers = 1000

// farUsers are what was seen of other sites' users; in memory only: a stolen
// disk does not hold them.
type farUsers struct {
	mu   sync.Mutex
	seen map[site.RecordID]api.User
}

func (f *farUsers) keep(u api.User) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil {
		f.seen = map[site.RecordID]api.User{}
	}
	if _, ok := f.seen[u.ID]; !ok && len(f.seen) >= maxFarUsers {
		for id := range f.seen { // any: it is asked for again
			delete(f.seen, id)
			break
		}
	}
	u.Devices = slices.Clone(u.Devices)
	for i := range u.Devices {
		u.Devices[i].Password = ""
	}
	u.Waiting = nil
	f.seen[u.ID] = u
}

func (f *farUsers) get(id site.RecordID) (api.User, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, ok := f.seen[id]
	return u, ok
}

// farJSON asks another site's box, and decodes what it says into out.
func (n *Node) farJSON(ctx context.Context, nodes []site.NodeID, at site.ID, method, path, etag string, in, out any) error {
	var body []byte
	h := http.Header{}
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
		h.Set("Content-Type", "application/json")
	}
	if etag != "" {
		h.Set("If-Match", etag)
	}
	r, err := n.elsewhereAt(ctx, nodes, at, method, "/api/"+api.Version+path, h, body)
	if err != nil {
		return err
	}
	if r.StatusCode >= 300 {
		var p struct {
			Detail string
			Errors []struct{ Message, Location string }
		}
		_ = json.NewDecoder(r.Body).Decode(&p)
		for _, e := range p.Errors {
			p.Detail += "; " + e.Location + ": " + e.Message
		}
		return &api.Error{Status: r.StatusCode, What: p.Detail}
	}
	if err := json.NewDecoder(r.Body).Decode(out); err != nil {
		return fmt.Errorf("read the answer of another site: %w", err)
	}
	return nil
}

// reachable are the boxes of a site that did not fail a moment ago.
func (n *Node) reachable(of site.ID) (out []site.NodeID) {
	x, _ := n.state.Site(of)
	for _, id := range (view{n}).site(x).Nodes {
		if !n.reach.Suspect(id) {
			out = append(out, id)
		}
	}
	return out
}

// farUser shows a user of another site as well as can be done now.
func (n *Node) farUser(ctx context.Context, u state.User) api.User {
	if sessionIn(ctx) == nil {
		return n.dressed(n.apiUser(u))
	}
	var out api.User
	path := "/users/" + u.ID.String()
	if err := n.farJSON(ctx, n.reachable(u.Site), u.Site, http.MethodGet, path, "", nil, &out); err == nil && out.ID == u.ID {
		return n.heardNow(out, u.Site)
	}
	return n.lastOf(ctx, u)
}

// heardNow is what a home has just said of a user.
func (n *Node) heardNow(u api.User, home site.ID) api.User {
	now := n.now()
	u.AsOf = api.Freshness{Home: u.AsOf.Home, Heard: &now}
	n.far.keep(u)
	return n.dressed(u)
}

// lastOf is what is known of a user whose home does not answer.
func (n *Node) lastOf(ctx context.Context, u state.User) api.User {
	if kept := n.kept.state(u.Site); kept != nil {
		if x, err := kept.User(u.ID); err == nil {
			return n.dressed(n.userOf(kept, x))
		}
	}
	if other, ok := n.planNow().StandIn(u.Site); ok && other != n.member.Site && sessionIn(ctx) != nil {
		var out api.User
		err := n.farJSON(ctx, n.reachable(other), u.Site, http.MethodGet, "/users/"+u.ID.String(), "", nil, &out)
		if err == nil && out.ID == u.ID {
			out.AsOf.Here = false
			trouble := n.fresh(u.Site)
			out.AsOf.Trouble = trouble.Trouble
			n.far.keep(out)
			return n.dressed(out)
		}
	}
	if x, ok := n.far.get(u.ID); ok {
		x.AsOf.Trouble = n.fresh(u.Site).Trouble
		now := n.apiUser(u) // the directory may have heard more since
		x.Number, x.Extension, x.Name, x.E164, x.Disabled = now.Number, now.Extension, now.Name, now.E164, now.Disabled
		return n.dressed(x)
	}
	return n.dressed(n.apiUser(u))
}

// dressed adds what waits here for the user's home.
func (n *Node) dressed(u api.User) api.User {
	u.Waiting = nil
	x, ok := n.state.SiteByCode(u.Site)
	if !ok {
		return u
	}
	for _, c := range n.outgoing(x.ID, u.ID) {
		d := n.describe(c)
		for _, w := range d.Writes {
			u.Waiting = append(u.Waiting, fmt.Sprintf("%s (%s, %s)", strings.TrimPrefix(w, "user: "), d.By, time.UnixMilli(c.Stamp.Millis()).UTC().Format("2006-01-02 15:04 UTC")))
		}
	}
	return u
}

// outgoing are the changes of a record of another site that wait for its home.
func (n *Node) outgoing(of site.ID, rec site.RecordID) (out []*crdt.Change) {
	for _, c := range n.engine.Outgoing(crdt.SiteScope(of)) {
		for i := range c.Writes {
			if w := &c.Writes[i]; w.Table == state.TableUser && w.Record == string(rec[:]) {
				out = append(out, c)
				break
			}
		}
	}
	return out
}

// outboxSites says whom the outbox is for, the longest waiting first.
func (n *Node) outboxSites() (out []api.OwedSite) {
	at := map[crdt.Scope]int{}
	for _, c := range n.engine.Outgoing("") { // the oldest first
		i, ok := at[c.Scope]
		if !ok {
			i = len(out)
			at[c.Scope] = i
			code := c.Scope.String()
			if id, ok := c.Scope.Site(); ok {
				x, _ := n.state.Site(id)
				code = cmp.Or(x.Code, site.ID(id).String())
			}
			out = append(out, api.OwedSite{Site: code, Since: time.UnixMilli(c.Stamp.Millis()).UTC()})
		}
		out[i].Changes++
	}
	return out
}

// patchFar changes a user of another site: its home does, or this box for it.
func (b *backend) patchFar(ctx context.Context, u state.User, etag string, p api.UserPatch, q state.Patch) (api.User, error) {
	n, s := b.n, sessionIn(ctx)
	if s == nil {
		return api.User{}, refuse(fmt.Errorf("user %s: %w", u.Number, state.ErrOtherSite))
	}
	x, _ := n.state.Site(u.Site)
	var out api.User
	err := n.farJSON(ctx, (view{n}).site(x).Nodes, u.Site, http.MethodPatch, "/users/"+u.ID.String(), etag, p, &out)
	switch {
	case err == nil && out.ID == u.ID:
		return n.heardNow(out, u.Site), nil
	case err == nil:
		return api.User{}, fmt.Errorf("site %s answered about another user", x.Code)
	case !errors.Is(err, errNotAsked):
		return api.User{}, err
	}
	if p.PIN != nil && *p.PIN != "" || p.Password != nil {
		return api.User{}, api.Unavailable(fmt.Sprintf("site %s cannot be reached, and a PIN or a password is closed with its own key", x.Code), "try again when it can; everything else can be changed now")
	}
	last := n.lastOf(ctx, u)
	if etag == "" {
		etag = last.ETag
	}
	st := n.state
	if kept := n.kept.state(u.Site); kept != nil {
		st = kept
	}
	if err := st.SetElsewhere(ctx, author(s), u.ID, etag, n.outgoing(u.Site, u.ID), q); err != nil {
		return api.User{}, refuse(err)
	}
	n.log.Info("An administrator changed another site's user; the change waits for that site", "site", x.Code, "user", u.Number, "name", s.Admin.Name)
	if st != n.state { // it counts here already
		return n.lastOf(ctx, u), nil
	}
	return n.dressed(last), nil
}

// createFar has another site make a user.
func (b *backend) createFar(ctx context.Context, at state.Site, x api.NewUser) (api.User, error) {
	if sessionIn(ctx) == nil {
		return api.User{}, refuse(fmt.Errorf("create user %q: %w: %s", x.Number, state.ErrOtherSite, at.Code))
	}
	x.Site = ""
	var out api.User
	err := b.n.farJSON(ctx, (view{b.n}).site(at).Nodes, at.ID, http.MethodPost, "/users", "", x, &out)
	if errors.Is(err, errNotAsked) {
		return api.User{}, api.Unavailable(fmt.Sprintf("site %s: %v", at.Code, err), "a telephone's password is closed with the site's own key, so only its boxes make users; try again when it can be reached")
	}
	if err != nil {
		return api.User{}, err
	}
	out.AsOf.Here = false
	return out, nil
}
