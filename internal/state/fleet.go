package state

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// A Site is a place with one node or a pair.
type Site struct {
	ID        site.ID
	Code      string // "0017", prefix-free in the fleet
	Name      string
	ExtLen    int    // digits of an extension, default 3
	Access    string // dialled before another site's <code><extension>, default "8"
	Outside   string // dialled before an outside number
	Country   string // country code without +
	National  string // trunk prefix of national numbers
	Abroad    string // international prefix
	Emergency []string
	Number    string // E.164: reaches the site when nothing else does

	// VisitorsFor is how long another site may know a telephone of ours by itself.
	VisitorsFor time.Duration

	AlsoAt []site.ID // sites that keep this one's state beside its stand-in, by policy

	Thin bool // its line is thin: what others tell each other is not carried over it
}

// ThinLine says that a change of a cell may alter who carries for whom.
func ThinLine(c crdt.Cell) bool {
	return c.Table == TableSite && (c.Field == siteThin || c.Field == "")
}

// How long a visited site may know a telephone without asking its home: a
// telephone that was disabled works there until then if its site is cut off.
const (
	DefaultVisitorsFor = 12 * time.Hour
	MinVisitorsFor     = time.Minute
	MaxVisitorsFor     = 7 * 24 * time.Hour
)

// MaxAlsoAt bounds by policy how many sites keep the state of one.
const MaxAlsoAt = 8

// Domain of the site: s<code>.F, also the realm of its phones.
func (x Site) Domain(f string) string { return "s" + x.Code + "." + f }

// A Node is one box, as its own record says.
type Node struct {
	ID   site.NodeID
	Site site.ID // from its grant
	Name string  // letter: "a"
	Mesh []string
	SIP  []string
	API  []string
}

// DefaultDomain is F for a fleet whose founder did not choose one.
func DefaultDomain(id crdt.FleetID) string {
	t := base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
	return t.EncodeToString(id[:5]) + ".ccnode.internal"
}

func (s *State) indexSite(r reader) {
	if len(r.rec) != len(site.ID{}) {
		return
	}
	id := site.ID([]byte(r.rec))
	if old := s.ix.sites[id]; old != nil {
		delete(s.ix.sites, id)
		if s.ix.codes[old.Code] == old { // else another site has the same code
			delete(s.ix.codes, old.Code)
			for _, x := range s.ix.sites {
				s.indexCode(x, old.Code)
			}
		}
	}
	x := &Site{ID: id, Code: r.text(siteCode), Name: r.text(siteName), ExtLen: r.number(siteExtLen), Access: r.text(siteAccess),
		Outside: r.text(siteOutside), Country: r.text(siteCountry), National: r.text(siteNational), Abroad: r.text(siteAbroad), Number: r.text(siteNumber)}
	unmarshal(r.bytes(siteEmergency), &x.Emergency)
	x.VisitorsFor = min(time.Duration(r.number(siteVisitors))*time.Second, MaxVisitorsFor)
	if x.VisitorsFor < MinVisitorsFor {
		x.VisitorsFor = DefaultVisitorsFor
	}
	x.Thin = r.truth(siteThin)
	var also [][]byte
	unmarshal(r.bytes(siteAlsoAt), &also)
	for _, b := range also {
		if len(b) == len(site.ID{}) {
			x.AlsoAt = append(x.AlsoAt, site.ID(b))
		}
	}
	if x.ExtLen == 0 {
		x.ExtLen = 3
	}
	if x.Access == "" {
		x.Access = "8"
	}
	if x.Code == "" {
		return
	}
	s.ix.sites[id] = x
	s.indexCode(x, x.Code)
}

// indexCode lets a site have its code; of two with one code, the least id.
func (s *State) indexCode(x *Site, code string) {
	if x.Code != code {
		return
	}
	if other := s.ix.codes[code]; other == nil || bytes.Compare(x.ID[:], other.ID[:]) < 0 {
		s.ix.codes[code] = x
	}
}

func (s *State) indexNode(r reader) {
	if len(r.rec) != len(site.NodeID{}) {
		return
	}
	n := &Node{ID: site.NodeID([]byte(r.rec)), Name: r.text(nodeName)}
	unmarshal(r.bytes(nodeMesh), &n.Mesh)
	unmarshal(r.bytes(nodeSIP), &n.SIP)
	unmarshal(r.bytes(nodeAPI), &n.API)
	s.ix.nodes[n.ID] = n
}

// Fleet returns the fleet's name and domain F.
func (s *State) Fleet() (name, domain string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ix.fleetName, s.ix.domain
}

// OwnID is the site of this node.
func (s *State) OwnID() site.ID { return s.cfg.Site }

// Own is the site of this node; without a record yet, all but the id is empty.
func (s *State) Own() Site {
	x, ok := s.Site(s.cfg.Site)
	if !ok {
		return Site{ID: s.cfg.Site, ExtLen: 3, Access: "8"}
	}
	return x
}

// Site finds one by id, SiteByCode by its code.
func (s *State) Site(id site.ID) (Site, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if x := s.ix.sites[id]; x != nil {
		return *x, true
	}
	return Site{}, false
}

func (s *State) SiteByCode(code string) (Site, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if x := s.ix.codes[code]; x != nil {
		return *x, true
	}
	return Site{}, false
}

// Sites lists all, by code.
func (s *State) Sites() []Site {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Site, 0, len(s.ix.sites))
	for _, x := range s.ix.sites {
		out = append(out, *x)
	}
	slices.SortFunc(out, func(a, b Site) int { return strings.Compare(a.Code+a.ID.String(), b.Code+b.ID.String()) })
	return out
}

// CodeBegins says whether some site's code begins with prefix.
func (s *State) CodeBegins(prefix string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for c := range s.ix.codes {
		if strings.HasPrefix(c, prefix) {
			return true
		}
	}
	return false
}

// Node returns what a member's own record says. The site is from its grant.
func (s *State) Node(id site.NodeID) (Node, bool) {
	g, err := s.cfg.Book.Member(id)
	s.mu.RLock()
	defer s.mu.RUnlock()
	n := Node{ID: id}
	if x := s.ix.nodes[id]; x != nil {
		n = *x
	}
	if err != nil {
		return n, false
	}
	n.Site = g.Site
	return n, true
}

// Nodes lists the members, of one site or (zero) of the fleet, by site and name.
func (s *State) Nodes(of site.ID) (out []Node) {
	for _, g := range s.cfg.Book.Members(of) {
		if n, ok := s.Node(g.Node()); ok {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b Node) int {
		return strings.Compare(a.Site.String()+a.Name+a.ID.String(), b.Site.String()+b.Name+b.ID.String())
	})
	return out
}

// Placement says who serves a feature; one that nobody placed runs in process.
func (s *State) Placement(f site.FeatureName) site.Placement {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if p, ok := s.ix.places[f]; ok {
		return p
	}
	return site.Placement{Kind: site.InProcess}
}

// Place says who serves a feature in the whole fleet.
func (s *State) Place(ctx context.Context, by string, f site.FeatureName, p site.Placement) error {
	if p.Kind == site.SIP && p.URI == "" {
		return fmt.Errorf("place %s: %w: a SIP address is missing", f, ErrInvalid)
	}
	sum := sha256.Sum256([]byte("ccnode feature 1" + string(f)))
	return s.put(ctx, by, crdt.Fleet, TablePlacement, string(sum[:16]), map[string][]byte{
		placeName: []byte(f), placeKind: intValue(int(p.Kind)), placeURI: []byte(p.URI)})
}

// put writes the fields of one record that differ from what is in force.
func (s *State) put(ctx context.Context, by string, scope crdt.Scope, t uint16, rec string, fields map[string][]byte) error {
	m := Mutation{Scope: scope}
	var more []crdt.Write // names live in the own scope
	s.cfg.Engine.View(func(v View) {
		r := reader{v.Set(scope), t, rec}
		if m.By, more = s.person(v, by); scope != s.scope {
			more = nil
		}
		for f, value := range fields {
			vs := r.versions(f) // of several, one that is not in force may be what is wanted
			if !slices.ContainsFunc(vs, func(x crdt.Version) bool { return !bytes.Equal(x.Value, value) }) && (len(vs) > 0 || len(value) == 0) {
				continue
			}
			m.Writes = append(m.Writes, crdt.Write{Table: t, Record: rec, Field: f, Value: value})
		}
	})
	if len(m.Writes) == 0 {
		return nil
	}
	slices.SortFunc(m.Writes, func(a, b crdt.Write) int { return strings.Compare(a.Field, b.Field) })
	m.Writes = append(m.Writes, more...)
	_, err := s.commit(ctx, m)
	return err
}

// SetFleet names the fleet. The domain cannot change once phones use it: that
// is for the caller to refuse.
func (s *State) SetFleet(ctx context.Context, by, name, domain string) error {
	id := s.cfg.Book.Fleet()
	if domain == "" {
		domain = DefaultDomain(id)
	}
	if err := checkDomain(domain); err != nil {
		return fmt.Errorf("name the fleet: %w", err)
	}
	return s.put(ctx, by, crdt.Fleet, TableFleet, string(id[:16]), map[string][]byte{fleetName: []byte(name), fleetDomain: []byte(strings.ToLower(domain))})
}

func checkDomain(d string) error {
	if len(d) > 200 || strings.Trim(d, ".") != d {
		return fmt.Errorf("%w: domain %q", ErrInvalid, d)
	}
	if _, err := netip.ParseAddr(d); err == nil {
		return fmt.Errorf("%w: domain %q is an address; choose a name", ErrInvalid, d)
	}
	for _, label := range strings.Split(d, ".") {
		ok := label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
		for _, c := range label {
			ok = ok && (c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z')
		}
		if !ok {
			return fmt.Errorf("%w: domain %q: letters, digits and - between dots", ErrInvalid, d)
		}
	}
	return nil
}

// PutSite writes a site's record: the own site's, or, with admit:fleet, that of
// a site about to be made. A zero ID makes a new one. Codes are prefix-free.
func (s *State) PutSite(ctx context.Context, by string, x Site) (Site, error) {
	if !digits(x.Code) || len(x.Code) > 8 {
		return x, fmt.Errorf("site code %q: %w: 1 to 8 digits", x.Code, ErrInvalid)
	}
	s.write.Lock()
	defer s.write.Unlock()
	for _, o := range s.Sites() {
		if o.ID != x.ID && (strings.HasPrefix(o.Code, x.Code) || strings.HasPrefix(x.Code, o.Code)) {
			return x, fmt.Errorf("site code %s: %w: site %s (%s) has %s, and no code may begin with another", x.Code, ErrTaken, o.ID, o.Name, o.Code)
		}
	}
	if x.ID.IsZero() {
		if err := s.draw(x.ID[:]); err != nil {
			return x, err
		}
	}
	if x.ExtLen == 0 {
		x.ExtLen = 3
	}
	if x.ExtLen < 1 || x.ExtLen > 8 {
		return x, fmt.Errorf("site %s: %w: extensions of %d digits; 1 to 8", x.Code, ErrInvalid, x.ExtLen)
	}
	if err := checkE164(x.Number); err != nil {
		return x, err
	}
	f := map[string][]byte{siteCode: []byte(x.Code), siteName: []byte(x.Name), siteExtLen: intValue(x.ExtLen), siteAccess: []byte(x.Access),
		siteOutside: []byte(x.Outside), siteCountry: []byte(x.Country), siteNational: []byte(x.National), siteAbroad: []byte(x.Abroad), siteNumber: []byte(x.Number)}
	if len(x.Emergency) > 0 {
		f[siteEmergency] = marshal(x.Emergency)
	}
	switch {
	case x.VisitorsFor == 0:
		x.VisitorsFor = DefaultVisitorsFor
	case x.VisitorsFor < MinVisitorsFor || x.VisitorsFor > MaxVisitorsFor:
		return x, fmt.Errorf("site %s: %w: visitors known for %v; %v to %v", x.Code, ErrInvalid, x.VisitorsFor, MinVisitorsFor, MaxVisitorsFor)
	}
	if old, _ := s.Site(x.ID); x.VisitorsFor != DefaultVisitorsFor || old.VisitorsFor != 0 && old.VisitorsFor != DefaultVisitorsFor {
		f[siteVisitors] = intValue(int(x.VisitorsFor / time.Second))
	}
	if old, _ := s.Site(x.ID); x.Thin || old.Thin {
		f[siteThin] = boolValue(x.Thin)
	}
	if len(x.AlsoAt) > MaxAlsoAt {
		return x, fmt.Errorf("site %s: %w: kept at %d other sites; at most %d", x.Code, ErrInvalid, len(x.AlsoAt), MaxAlsoAt)
	}
	if old, _ := s.Site(x.ID); len(x.AlsoAt)+len(old.AlsoAt) > 0 {
		also := make([][]byte, len(x.AlsoAt))
		for i, id := range x.AlsoAt {
			also[i] = id[:]
		}
		f[siteAlsoAt] = marshal(also)
	}
	return x, s.put(ctx, by, crdt.Fleet, TableSite, string(x.ID[:]), f)
}

// PutNode writes this node's own record: its letter and where it can be reached.
// Nothing is written if nothing changed.
func (s *State) PutNode(ctx context.Context, n Node) error {
	return s.put(ctx, "system", crdt.Fleet, TableNode, string(s.node[:]), map[string][]byte{nodeName: []byte(n.Name),
		nodeMesh: marshal(n.Mesh), nodeSIP: marshal(n.SIP), nodeAPI: marshal(n.API)})
}

// PutTrust writes the founding record and grants that the trust scope lacks.
func (s *State) PutTrust(ctx context.Context, by string, grants ...*trust.Grant) error {
	f := s.cfg.Book.Founding()
	ws := []crdt.Write{trust.FoundingWrite(f)}
	for _, g := range grants {
		ws = append(ws, trust.GrantWrite(g))
	}
	s.cfg.Engine.View(func(v View) {
		set := v.Set(crdt.Trust)
		ws = slices.DeleteFunc(ws, func(w crdt.Write) bool {
			return len(set.Versions(crdt.Cell{Table: w.Table, Record: w.Record, Field: w.Field})) > 0
		})
	})
	ref, _ := byRef(by)
	for part := range slices.Chunk(ws, 8) {
		if _, err := s.commit(ctx, Mutation{Scope: crdt.Trust, Writes: part, By: ref}); err != nil {
			return fmt.Errorf("write grants: %w", err)
		}
	}
	for _, g := range grants {
		if err := s.cfg.Book.Add(g); err != nil {
			return err
		}
	}
	return nil
}

// RevokeNode ends a node for good. keeps names grants it gave out that stay;
// more than one revocation can name are given out anew, by this node. One that
// this node's own membership rests on must be among them.
func (s *State) RevokeNode(ctx context.Context, by string, n site.NodeID, reason string, keeps []crdt.Ref) error {
	if err := s.cfg.Book.MayRevoke(s.node, n); err != nil {
		return err
	}
	keeps = slices.Clone(keeps)
	var anew []*trust.Grant
	for _, r := range s.cfg.Book.RestOn(n) {
		mine := slices.Contains(r.Members, s.node)
		i := slices.Index(keeps, r.Grant.ID())
		switch {
		case mine && i < 0:
			return fmt.Errorf("revoke node %s: %w: this box itself is a member because of it", n, ErrInvalid)
		case mine:
			keeps[0], keeps[i] = keeps[i], keeps[0]
		case i >= 0:
			anew = append(anew, r.Grant)
		}
	}
	if len(keeps) > trust.MaxKeeps {
		if err := s.issueAnew(ctx, by, slices.DeleteFunc(anew, func(g *trust.Grant) bool { return slices.Index(keeps, g.ID()) < trust.MaxKeeps })); err != nil {
			return err
		}
		keeps = keeps[:trust.MaxKeeps]
	}
	w, err := (&trust.Revocation{Node: n, Reason: reason, Keeps: keeps}).Write()
	if err != nil {
		return err
	}
	ref, _ := byRef(by)
	if _, err := s.commit(ctx, Mutation{Scope: crdt.Trust, Writes: []crdt.Write{w}, By: ref}); err != nil {
		return fmt.Errorf("revoke node %s: %w", n, err)
	}
	s.cfg.Engine.View(func(v View) { s.cfg.Book.Sync(v.Set(crdt.Trust)) })
	return nil
}

// issueAnew gives out grants like those, so that their nodes rest on this one.
func (s *State) issueAnew(ctx context.Context, by string, like []*trust.Grant) error {
	own, err := s.cfg.Book.Member(s.node)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(like, 64) {
		var out []*trust.Grant
		for _, g := range part {
			x, err := s.cfg.Identity.Issue(s.cfg.Book.Fleet(), own, g.Like(), lockedRandom{s})
			if err != nil {
				return fmt.Errorf("give node %s its grant anew: %w", g.Node(), err)
			}
			out = append(out, x)
		}
		if err := s.PutTrust(ctx, by, out...); err != nil {
			return err
		}
	}
	return nil
}

// Raise gives a member more rights: a grant with them beside those it has.
func (s *State) Raise(ctx context.Context, by string, n site.NodeID, r trust.Rights) error {
	own, err := s.cfg.Book.Member(s.node)
	if err != nil {
		return err
	}
	g, err := s.cfg.Book.Member(n)
	if err != nil {
		return err
	}
	if g.Rights&r == r {
		return nil
	}
	like := g.Like()
	like.Rights |= r
	like.Issued = max(s.cfg.Now().Unix(), g.Issued+1)
	x, err := s.cfg.Identity.Issue(s.cfg.Book.Fleet(), own, like, lockedRandom{s})
	if err != nil {
		return fmt.Errorf("give node %s more rights: %w", n, err)
	}
	return s.PutTrust(ctx, by, x)
}

// Recover makes this node an issuer of the whole fleet by a root, whatever became
// of those there were. The root is kept nowhere.
func (s *State) Recover(ctx context.Context, by string, root *trust.Root) error {
	if !s.cfg.Book.Founding().Holds(root) {
		return fmt.Errorf("%w: they are the sheet of another fleet", trust.ErrWords)
	}
	g := s.cfg.Book.Ever(s.node)
	if g == nil || s.cfg.Book.Revocation(s.node) != nil || s.cfg.Book.Cheats(s.node) {
		return fmt.Errorf("make node %s an issuer: %w: it was revoked; use another box", s.node, trust.ErrRevoked)
	}
	like := g.Like()
	like.Rights |= trust.AdmitFleet | trust.AdmitSite | trust.Relay
	like.Issued = max(s.cfg.Now().Unix(), g.Issued+1)
	x, err := root.Issue(s.cfg.Book.Fleet(), like, lockedRandom{s})
	if err != nil {
		return fmt.Errorf("make node %s an issuer: %w", s.node, err)
	}
	return s.PutTrust(ctx, by, x)
}

// Prove puts into the trust scope that a node signed two different changes under
// one dot, unless that is known. Everybody who takes it closes the links to that
// node: it was copied, or cheats, and nobody can tell which of the two is meant.
func (s *State) Prove(ctx context.Context, a, b *crdt.Change) error {
	if s.cfg.Book.Cheats(site.NodeID(a.Node)) {
		return nil
	}
	w, err := trust.ProofWrite(a, b)
	if err != nil {
		return err
	}
	ref, _ := byRef("system")
	if _, err := s.commit(ctx, Mutation{Scope: crdt.Trust, Writes: []crdt.Write{w}, By: ref}); err != nil {
		return fmt.Errorf("prove that node %s signed two changes under one number: %w", site.NodeID(a.Node), err)
	}
	return nil
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
