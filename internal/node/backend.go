package node

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/invite"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/route"
)

// backend is the node as the REST interface sees it.
type backend struct{ n *Node }

var _ api.Backend = (*backend)(nil)

// refuse turns errors of the state into refusals that say what to do.
func refuse(err error) error {
	var e *api.Error
	switch {
	case err == nil || errors.As(err, &e):
		return err
	case errors.Is(err, state.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return api.NotFound(err.Error(), "list what there is")
	case errors.Is(err, state.ErrTaken):
		return api.Conflict(err.Error(), "choose another")
	case errors.Is(err, state.ErrOtherSite):
		return api.Conflict(err.Error(), "log in as an administrator of that site (ccnode login) and name it (--at SITE), or name a node of it with --api")
	case errors.Is(err, state.ErrState):
		return api.Conflict(err.Error(), "nothing was changed")
	case errors.Is(err, state.ErrToken):
		return api.Invalid(err.Error(), "read the record again and send the ETag of that answer")
	case errors.Is(err, state.ErrInvalid):
		return api.Invalid(err.Error(), "correct it and send it again")
	case errors.Is(err, state.ErrNoKey):
		return api.Unavailable(err.Error(), "wait until this node has caught up with its site")
	case errors.Is(err, replica.ErrReadOnly):
		return api.Unavailable(err.Error(), "calls go on; free some disk space or replace the medium, then try again")
	case errors.Is(err, trust.ErrForbidden), errors.Is(err, trust.ErrRights):
		return api.Conflict(err.Error(), "ask a node that may")
	}
	return err
}

func at(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (b *backend) Status(context.Context) api.Status {
	n := b.n
	st := n.engine.Status()
	own := n.state.Own()
	name, domain := n.state.Fleet()
	fleet := n.book.Fleet()
	out := api.Status{Version: n.opt.Version,
		Fleet: api.FleetStatus{ID: hex.EncodeToString(fleet[:8]), Name: name, Domain: domain, Sites: len(n.state.Sites()), Nodes: len(n.book.Members(site.ID{}))},
		Node: api.NodeStatus{ID: n.id.Node().String(), Name: n.nodeName(n.id.Node()), Site: own.ID.String(), SiteCode: own.Code, SiteName: own.Name,
			Started: n.start, Mesh: n.meshAddrs(), Cert: n.certFP, Memory: memory(), RecordingsKbit: n.cfg.RecordingsKbit},
		Users: n.state.Entries(), Merges: n.state.OpenMerges(), Held: []api.HeldChange{}, Peers: []api.PeerStatus{}, Scopes: []api.ScopeStatus{}, Warnings: []string{},
		Owed: api.Owed{Outbox: st.Outbox}, Only: api.Only{Changes: st.Only.Changes, Bytes: st.Only.Bytes},
	}
	if n.calls != nil {
		out.Calls, out.Phones, out.Node.SIP = n.calls.sip.Count(), n.pair.Phones(), n.calls.sip.Addrs()
	}
	if n.web != nil {
		out.Node.API = n.web.addrs
	}
	if sp, err := n.store.Space(); err == nil {
		out.Node.DiskFree = sp.Free
	}
	out.Owed.Sites = n.outboxSites()
	for _, h := range n.engine.Held() {
		out.Waiting++
		if n.alone(h) {
			out.Only.Held++
		}
		if out.Waiting > api.MaxHeldShown {
			continue
		}
		out.Held = append(out.Held, api.HeldChange{ID: h.ID.String(), Node: n.nodeName(site.NodeID(h.Change.Node)), Reason: h.Why})
	}
	for _, p := range st.Peers {
		ps := n.peerStatus(p)
		if p.Owed > 0 {
			out.Owed.Changes += p.Owed
			out.Owed.Peers++
		}
		if x, ok := n.state.Node(site.NodeID(p.Peer)); ok && x.Site == n.member.Site {
			out.Pair = &ps
		}
		out.Peers = append(out.Peers, ps)
	}
	slices.SortFunc(out.Peers, func(x, y api.PeerStatus) int { return cmp.Compare(x.Name, y.Name) })
	out.Keepers, out.Keeps = n.keepers(), []string{}
	for _, id := range n.kept.list() {
		if !n.kept.leaving(id) {
			x, _ := n.state.Site(id)
			out.Keeps = append(out.Keeps, x.Code)
		}
	}
	for _, s := range st.Scopes {
		label := s.Scope.String()
		id, ok := s.Scope.Site()
		if !s.Holds || ok && n.kept.leaving(id) {
			continue // kept once for another site, and about to be removed
		}
		if ok {
			x, _ := n.state.Site(site.ID(id))
			label = "site:" + x.Code
		}
		out.Scopes = append(out.Scopes, api.ScopeStatus{Scope: label, Changes: s.Changes, Fingerprint: s.Fingerprint.String(), Complete: s.Filling.Done(), Percent: s.Filling.Percent()})
	}
	for _, ref := range n.blobs.List() {
		if len(n.fetch.Acked(ref)) == 0 {
			out.Only.Blobs++
			if size, err := n.blobs.Size(ref); err == nil {
				out.Only.Bytes += size
			}
		}
	}
	out.Owed.Blobs = len(n.wanted())
	if st.ReadOnly != nil {
		out.ReadOnly = st.ReadOnly.Error()
	}
	out.Trunks = n.lines()
	out.Tested = n.lastTest()
	n.linesMu.Lock()
	out.Urgent = n.lastEmergency
	n.linesMu.Unlock()
	out.Warnings = append(n.warnings(st, out), n.lineWarnings()...)
	return out
}

// warnings want a look, each with what to do.
func (n *Node) warnings(st replica.Status, s api.Status) (out []string) {
	out = append(append(append([]string{}, n.odd...), st.Damage...), n.state.Unread()...)
	if r, err := root(n.cfg.Data); err == nil && r != nil {
		out = append(out, "this box alone holds the fleet's root key: write the recovery words down (ccnode recovery show), then ccnode recovery confirm")
	}
	if len(n.book.Issuers()) < 2 && s.Fleet.Nodes > 1 {
		out = append(out, "only one box can admit others to the fleet; make another one an issuer (ccnode node raise NODE --admit), and keep the recovery sheet safe")
	}
	if s.Fleet.Nodes == 1 {
		out = append(out, "this box is alone: what it holds dies with it; add a second one: ccnode invite create")
	}
	out = append(out, n.quotaWarnings(st)...)
	if n.keeper != nil {
		out = append(out, n.keeper.words())
	}
	out = append(out, n.phones.warnings()...)
	if a := st.Ahead; a.Peers > 0 {
		sure := ""
		if a.Synced > 0 {
			sure = ", which NTP sets"
		}
		out = append(out, fmt.Sprintf("the clock of this box is %v ahead of that of %d other boxes%s: %d changes that were written here wait there until %s by this clock; set the clock (timedatectl set-ntp true)",
			a.By.Round(time.Second), a.Peers, sure, a.Changes, a.Until.Local().Format("2006-01-02 15:04")))
	}
	if st.Slow > 0 {
		out = append(out, fmt.Sprintf("the clock of this box is %v ahead, other boxes say; the fleet's time is used for changes, and what was written meanwhile was written again; set the clock (timedatectl set-ntp true)", st.Slow.Round(time.Second)))
	}
	if !n.synced() {
		out = append(out, "the clock is not set by NTP; times shown may be wrong")
	}
	return out
}

func (n *Node) peerStatus(p replica.PeerStatus) api.PeerStatus {
	id := site.NodeID(p.Peer)
	ms := n.mesh.Stats(mesh.PeerID(p.Peer))
	out := api.PeerStatus{Node: id.String(), Name: n.nodeName(id), SiteCode: n.siteOfNode(id), State: "no trouble known", Heard: at(latest(ms.Heard, p.Heard)),
		Owed: p.Owed, In: ms.In, Out: ms.Out, Addrs: n.addrsOf(id)}
	if out.Addrs == nil {
		out.Addrs = []string{}
	}
	since, why := n.reach.since(id)
	switch {
	case n.book.Revocation(id) != nil:
		out.State = "revoked"
	case p.Linked:
		out.State = "linked"
	case !p.Failing.IsZero():
		out.State, out.Since, out.Retry = "not reached", at(p.Failing), at(p.Next)
		if p.Err != nil {
			out.Error = p.Err.Error()
		}
	case !since.IsZero() && since.After(ms.Heard):
		out.State, out.Since = "not reached", at(since)
		if why != nil {
			out.Error = why.Error()
		}
	}
	return out
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// fresh says how old what we know of a site can be.
func (n *Node) fresh(of site.ID) api.Freshness {
	x, _ := n.state.Site(of)
	f := api.Freshness{Home: x.Code, Here: of == n.member.Site}
	if f.Here {
		return f
	}
	var heard, trouble time.Time
	reachable := false
	for _, p := range n.engine.Status().Peers {
		if y, ok := n.state.Node(site.NodeID(p.Peer)); !ok || y.Site != of {
			continue
		}
		heard = latest(heard, latest(p.Heard, n.mesh.Stats(mesh.PeerID(p.Peer)).Heard))
		since, _ := n.reach.since(site.NodeID(p.Peer))
		switch {
		case !p.Failing.IsZero():
			trouble = latest(trouble, p.Failing)
		case !since.IsZero():
			trouble = latest(trouble, since)
		default:
			reachable = true
		}
	}
	f.Heard = at(heard)
	if !reachable {
		f.Trouble = at(trouble)
	}
	return f
}

func (n *Node) apiUser(u state.User) api.User { return n.userOf(n.state, u) }

// userOf shows a user of the site whose state st is.
func (n *Node) userOf(st *state.State, u state.User) api.User {
	return n.userAsOf(st, u, n.fresh(u.Site))
}

func (n *Node) userAsOf(st *state.State, u state.User, as api.Freshness) api.User {
	x, _ := n.state.Site(u.Site)
	out := api.User{ID: u.ID, Number: u.Number, Extension: u.Extension, Name: u.Name, Site: x.Code, E164: u.E164, Disabled: u.Disabled, Deleted: u.Deleted,
		ForwardAll: u.ForwardAll, ForwardBusy: u.OnBusy, ForwardNoAnswer: u.OnNoAnswer, ForwardOffline: u.OnOffline, DoNotDisturb: u.DND, AlwaysPIN: u.AlwaysPIN, Class: u.Class,
		RingSeconds: int(u.Ring / time.Second), HasPIN: u.HasPIN, AsOf: as, ETag: u.ETag}
	for _, c := range u.Clash {
		out.Clash = append(out.Clash, c.String())
	}
	var servers []string
	for _, y := range n.state.Nodes(st.Own().ID) {
		servers = append(servers, y.SIP...)
	}
	for _, d := range u.Devices {
		sip := u.Number
		if d.Name != "" && strings.HasPrefix(d.Name, "d-") {
			sip = d.SIPUser
		}
		out.Devices = append(out.Devices, api.Device{ID: d.ID, SIPUser: sip, Realm: d.Realm, Password: d.Password, Servers: servers})
	}
	if u.Here {
		s := st.Summary(u.ID)
		out.Messages = &api.MessageCount{New: s.New, Old: s.Old}
	}
	return out
}

func (b *backend) Users(_ context.Context, q api.UserSearch) (out []api.User, next string, err error) {
	n := b.n
	x := state.Search{Text: q.Text, Deleted: q.Deleted, After: q.After, Limit: min(cmp.Or(max(q.Limit, 0), api.MaxUsers), api.MaxUsers)}
	switch {
	case q.Own(), q.Home == "here":
		x.Home = n.member.Site
	case q.Home != "":
		s, ok := n.state.SiteByCode(q.Home)
		if !ok {
			return nil, "", api.NotFound(fmt.Sprintf("there is no site %q", q.Home), "\"ccnode status\" shows codes")
		}
		x.Home = s.ID
	}
	us, more := n.state.Search(x)
	out = make([]api.User, 0, len(us))
	as := map[site.ID]api.Freshness{}
	for _, u := range us {
		f, ok := as[u.Site]
		if !ok {
			f = n.fresh(u.Site)
			as[u.Site] = f
		}
		out = append(out, n.userAsOf(n.state, u, f))
	}
	if more {
		next = us[len(us)-1].Key()
	}
	return out, next, nil
}

// find takes what a person typed.
func (b *backend) find(who string) (site.RecordID, error) {
	id, err := b.n.state.Find(who)
	if err != nil {
		return id, api.NotFound(err.Error(), "\"ccnode user list\" shows who there is")
	}
	return id, nil
}

func (b *backend) User(ctx context.Context, who string) (api.User, error) {
	id, err := b.find(who)
	if err != nil {
		return api.User{}, err
	}
	u, err := b.n.state.User(id)
	if err != nil {
		return api.User{}, refuse(err)
	}
	if !u.Here {
		return b.n.farUser(ctx, u), nil
	}
	return b.n.apiUser(u), nil
}

func (b *backend) CreateUser(ctx context.Context, by string, x api.NewUser) (api.User, error) {
	spec := state.Spec{Number: x.Number, Name: x.Name, Password: x.Password, PIN: x.PIN, E164: x.E164}
	if x.Site != "" {
		s, ok := b.n.state.SiteByCode(x.Site)
		if !ok {
			return api.User{}, api.NotFound("no site "+x.Site, "leave --site out for this one")
		}
		if spec.Site = s.ID; s.ID != b.n.member.Site {
			return b.createFar(ctx, s, x)
		}
	}
	u, err := b.n.state.Create(ctx, by, spec)
	if err != nil {
		return api.User{}, refuse(err)
	}
	return b.n.apiUser(u), nil
}

// dialForm is what a call can be forwarded to.
var dialForm = regexp.MustCompile(`^(voicemail|\+?[0-9]{1,32}|(sips?:)?[^\s<>"@]+@[^\s<>"@]+)$`)

func forwards(p api.UserPatch) error {
	for name, v := range map[string]*string{"forwardAll": p.ForwardAll, "forwardBusy": p.ForwardBusy, "forwardNoAnswer": p.ForwardNoAnswer, "forwardOffline": p.ForwardOffline} {
		if v != nil && *v != "" && !dialForm.MatchString(*v) {
			return api.Invalid(fmt.Sprintf("%s: nothing can be dialled by %q", name, *v), "write a number as on a phone (no feature code), name@host, voicemail, or \"\" to end it")
		}
	}
	return nil
}

func (b *backend) PatchUser(ctx context.Context, by, who, etag string, p api.UserPatch) (api.User, error) {
	if err := forwards(p); err != nil {
		return api.User{}, err
	}
	id, err := b.find(who)
	if err != nil {
		return api.User{}, err
	}
	q := state.Patch{Number: p.Number, Name: p.Name, E164: p.E164, Disabled: p.Disabled, Deleted: p.Deleted, ForwardAll: p.ForwardAll, OnBusy: p.ForwardBusy,
		OnNoAnswer: p.ForwardNoAnswer, OnOffline: p.ForwardOffline, DND: p.DoNotDisturb, AlwaysPIN: p.AlwaysPIN, Class: p.Class, PIN: p.PIN, Password: p.Password, SecurityReset: p.SecurityReset}
	if p.RingSeconds != nil {
		d := time.Duration(*p.RingSeconds) * time.Second
		q.Ring = &d
	}
	u, err := b.n.state.User(id)
	if err == nil && !u.Here {
		return b.patchFar(ctx, u, etag, p, q)
	}
	if err == nil {
		u, err = b.n.state.Set(ctx, by, id, etag, q)
	}
	if err != nil {
		return api.User{}, refuse(err)
	}
	return b.n.apiUser(u), nil
}

func (b *backend) Where(ctx context.Context, who string) (api.Location, error) {
	u, err := b.User(ctx, who)
	if err != nil {
		return api.Location{}, err
	}
	out := api.Location{User: u, AsOf: u.AsOf, Contacts: []api.Contact{}}
	_, domain := b.n.state.Fleet()
	for _, x := range b.n.pair.Bindings(site.AOR{User: u.Number, Domain: domain}) {
		out.Contacts = append(out.Contacts, api.Contact{Contact: x.Contact, Source: x.Source.String(), Transport: string(x.Transport),
			Node: b.n.nodeName(x.Node), Agent: x.UserAgent, Expires: x.Expires})
	}
	return out, nil
}

func (b *backend) Invites(context.Context) ([]api.Invite, error) {
	out := []api.Invite{}
	for _, i := range b.n.state.Invites() {
		out = append(out, b.invite(i))
	}
	return out, nil
}

func (b *backend) invite(i state.Invite) api.Invite {
	x, _ := b.n.state.Site(i.Site)
	out := api.Invite{ID: i.ID, Site: x.Code, Role: "node", State: i.State(b.n.now()), Made: i.Made, Expires: i.Expires}
	if !i.Redeemed.IsZero() {
		out.Redeemed = b.n.nodeName(i.Redeemed)
	}
	return out
}

// siteFor finds the site a box is for, and makes it if it is new.
func (n *Node) siteFor(ctx context.Context, by, code, name string, ext int) (state.Site, error) {
	if code == "" {
		return n.state.Own(), nil
	}
	if s, ok := n.state.SiteByCode(code); ok {
		return s, nil
	}
	own, err := n.book.Member(n.id.Node())
	if err != nil || own.Rights&trust.AdmitFleet == 0 {
		return state.Site{}, api.Conflict("there is no site "+code+", and this box may not make new ones", "make the invite on the box that founded the fleet, or on one with the same right")
	}
	if name == "" {
		name = "Site " + code
	}
	s, err := n.state.PutSite(ctx, by, state.Site{Code: code, Name: name, ExtLen: ext, Emergency: []string{"112"}})
	return s, refuse(err)
}

func (b *backend) CreateInvite(ctx context.Context, by string, x api.NewInvite) (api.Invite, error) {
	n := b.n
	life := invite.DefaultLife
	if x.Expires != "" {
		d, err := time.ParseDuration(x.Expires)
		if err != nil || d < time.Second || d > invite.MaxLife {
			return api.Invite{}, api.Invalid(fmt.Sprintf("%q is not a life for a token", x.Expires), "write it like 24h, at most 9600h")
		}
		life = d
	}
	s, err := n.siteFor(ctx, by, x.Site, x.SiteName, x.ExtensionDigits)
	if err != nil {
		return api.Invite{}, err
	}
	if len(n.state.Nodes(s.ID)) >= 2 {
		return api.Invite{}, api.Conflict("site "+s.Code+" has two boxes already", "revoke the one to be replaced: ccnode node revoke NAME")
	}
	var id site.RecordID
	if _, err := io.ReadFull(n.rand, id[:]); err != nil {
		return api.Invite{}, err
	}
	t, err := invite.New(invite.Params{ID: id, Fleet: n.book.Fleet(), Site: s.ID, Addrs: n.dialable(s.ID == n.member.Site), Now: n.now(), Life: life,
		Inviter: n.id.Public(), Sign: n.id.Sign, Rand: n.rand})
	if err != nil {
		return api.Invite{}, api.Invalid(err.Error(), "correct it and try again")
	}
	i := state.Invite{ID: id, Site: s.ID, Claim: t.Claim.Encode(), Made: n.now(), Expires: t.Until(), By: by}
	if err := n.state.PutInvite(ctx, by, i); err != nil {
		return api.Invite{}, refuse(err)
	}
	out := b.invite(i)
	out.Token = t.String()
	return out, nil
}

func (b *backend) RevokeInvite(ctx context.Context, by string, id site.RecordID) error {
	return refuse(b.n.state.RevokeInvite(ctx, by, id))
}

func (b *backend) Pending(context.Context) ([]api.Pending, error) {
	out := b.n.lan.list()
	if out == nil {
		out = []api.Pending{}
	}
	return out, nil
}

func (b *backend) Approve(ctx context.Context, by string, a api.Approval) (api.NodeStatus, error) {
	s, err := b.n.siteFor(ctx, by, a.Site, a.SiteName, a.ExtensionDigits)
	if err != nil {
		return api.NodeStatus{}, err
	}
	k, ans, err := b.n.approve(ctx, by, a.Code, s.ID)
	if err != nil {
		return api.NodeStatus{}, refuse(err)
	}
	return api.NodeStatus{ID: k.Node, Name: ans.Letter + "." + s.Domain(ans.Domain), Site: s.ID.String(), SiteCode: s.Code, SiteName: s.Name,
		SIP: []string{}, Mesh: k.hello.Addrs, API: []string{}}, nil
}

func (b *backend) Bytes(ctx context.Context, over time.Duration) (api.Bytes, error) {
	n := b.n
	type count struct{ in, out int64 }
	read := func() (out map[site.NodeID]count, all count) {
		out = map[site.NodeID]count{}
		for _, g := range n.book.Members(site.ID{}) {
			if id := g.Node(); id != n.id.Node() {
				s := n.mesh.Stats(mesh.PeerID(id))
				out[id] = count{s.In, s.Out}
			}
		}
		all.in, all.out = n.mesh.Total()
		return out, all
	}
	first, all := map[site.NodeID]count{}, count{}
	since := n.bytesAt
	if over > 0 {
		first, all = read()
		since = n.now()
		t := time.NewTimer(over)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return api.Bytes{}, context.Cause(ctx)
		}
	}
	last, now := read()
	out := api.Bytes{Since: since, Until: n.now(), In: now.in - all.in, Out: now.out - all.out, Peers: []api.PeerBytes{}}
	for id, c := range last {
		out.Peers = append(out.Peers, api.PeerBytes{Name: n.nodeName(id), In: c.in - first[id].in, Out: c.out - first[id].out})
	}
	slices.SortFunc(out.Peers, func(x, y api.PeerBytes) int { return cmp.Compare(x.Name, y.Name) })
	return out, nil
}

func (b *backend) RouteTest(_ context.Context, from, to string) (api.RouteTest, error) {
	v := view{b.n}
	who := route.Who(v, route.AOR(v, route.ParseURI(from)))
	if who.User.IsZero() {
		return api.RouteTest{}, api.NotFound("nobody here has the number "+from, "name a caller from \"ccnode user list\"")
	}
	return api.RouteTest{From: from, To: to, Steps: route.Explain(v, who, route.ParseURI(to))}, nil
}

func (b *backend) Calls(_ context.Context, since time.Duration) ([]api.Call, error) {
	out := []api.Call{}
	for _, c := range b.n.calls.sip.Calls() {
		x := api.Call{Chain: c.Chain, From: c.From.User, To: c.To.User, Diverted: c.Diverted, Since: c.Began, State: "ringing", Answered: c.Start}
		if c.Start != nil {
			x.State = "in call"
		}
		if strings.HasPrefix(c.Answered, "orbit ") {
			x.State = "parked"
		}
		out = append(out, x)
	}
	rs, err := b.n.calls.records.since(since)
	for _, r := range rs {
		out = append(out, ended(r))
	}
	return out, err
}

func ended(r b2bua.Record) api.Call {
	out := api.Call{Chain: r.Chain, From: r.From.AOR.User, To: r.To.AOR.User, Diverted: r.Diverted, State: "ended", Since: r.Began, Cause: r.Cause.String(), Answered: at(r.Start), Ended: at(r.End), Test: r.Test, BothHeard: r.BothHeard}
	for _, who := range r.By {
		out.TransferredBy = append(out.TransferredBy, who.User)
	}
	for _, who := range r.Also {
		out.Also = append(out.Also, who.User)
	}
	return out
}

func (b *backend) Recovery(context.Context) (api.Recovery, error) {
	r, err := root(b.n.cfg.Data)
	if err != nil {
		return api.Recovery{}, err
	}
	if r == nil {
		return api.Recovery{}, api.NotFound("this box does not have the root key", "the words are on the recovery sheet that was written down at founding")
	}
	f := b.n.book.Fleet()
	return api.Recovery{Fleet: hex.EncodeToString(f[:]), Words: r.Words()}, nil
}

func (b *backend) ConfirmRecovery(ctx context.Context, first, last string) error {
	r, err := b.Recovery(ctx)
	if err != nil {
		return err
	}
	if !strings.EqualFold(first, r.Words[0]) || !strings.EqualFold(last, r.Words[len(r.Words)-1]) {
		return api.Invalid("these are not the first and the last word", "read them from your sheet; \"ccnode recovery show\" shows all of them once more")
	}
	return forgetRoot(b.n.cfg.Data)
}

// NodeSecrets reads the wraps of the own site and of the sites kept here.
func (b *backend) NodeSecrets(_ context.Context, who string) (api.NodeSecrets, error) {
	id, err := b.everNode(who)
	if err != nil {
		return api.NodeSecrets{}, err
	}
	return b.n.secretsOf(id), nil
}

// everNode finds a box that is or was a member.
func (b *backend) everNode(who string) (id site.NodeID, err error) {
	id, err = b.n.findNode(who)
	if err != nil && (id.UnmarshalText([]byte(who)) != nil || b.n.book.Ever(id) == nil) { // revoked ones go by their id
		return id, api.NotFound(err.Error(), "\"ccnode mesh peers\" shows their names; a box that was revoked goes by its id")
	}
	return id, nil
}

// Check tries to reach every peer now.
func (b *backend) Check(context.Context) error {
	for _, g := range b.n.book.Members(site.ID{}) {
		if id := g.Node(); id != b.n.id.Node() {
			b.n.mesh.Dial(mesh.PeerID(id))
			b.n.engine.Nudge(crdt.NodeID(id))
		}
	}
	return nil
}
