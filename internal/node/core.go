package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/overlay"
)

// gate lets the book of grants judge changes for the engine.
type gate struct{ book *trust.Book }

func (g gate) Key(c *crdt.Change) ([]byte, bool) {
	k, ok := g.book.Key(c)
	return k, ok
}

func (g gate) Admit(c *crdt.Change, _ replica.View) replica.Verdict {
	v, err := g.book.Admit(c)
	out := replica.Verdict{}
	if err != nil {
		out.Reason = err.Error()
	}
	switch v {
	case trust.Accept:
		out.Outcome = replica.Accept
	case trust.Hold:
		out.Outcome = replica.Hold
	default:
		out.Outcome = replica.Refuse
	}
	return out
}

// removal says whether a change takes away what is here: no quota holds it.
func (n *Node) removal(c *crdt.Change, v replica.View) bool {
	if c.Scope != crdt.Trust {
		return state.Removal(v, c)
	}
	for i := range c.Writes {
		w := &c.Writes[i]
		if w.Table != trust.TableRevocation && w.Table != trust.TableProof || len(w.Record) != len(site.NodeID{}) ||
			n.book.Ever(site.NodeID([]byte(w.Record))) == nil {
			return false
		}
	}
	return true
}

// writer is the engine as state wants it.
type writer struct{ e *replica.Engine }

func (w writer) Commit(ctx context.Context, m state.Mutation) (crdt.Stamp, error) {
	r := replica.Mutation{Scope: m.Scope, Writes: m.Writes, By: m.By, Token: m.Token, Ext: m.Ext, Auth: m.Auth}
	if m.Precondition != nil {
		r.Precondition = func(v replica.View) error { return m.Precondition(v) }
	}
	rc, err := w.e.Commit(ctx, r)
	return rc.Stamp, err
}

func (w writer) View(fn func(state.View)) { w.e.View(func(v replica.View) { fn(v) }) }

func (w writer) Watch(fn func(crdt.Scope, []crdt.Cell)) func() { return w.e.Watch(fn) }

func (w writer) history(cell crdt.Cell, fn func(state.Past) error) error {
	return w.e.History(cell, func(p replica.Past) error {
		return fn(state.Past(p))
	})
}

// topology says what this node holds and with whom it exchanges it: trust,
// fleet and its own site; with the pair everything, with others what all hold.
type topology struct{ n *Node }

func (t topology) Holds(s crdt.Scope) bool {
	if s == crdt.Trust || s == crdt.Fleet || s == crdt.SiteScope(t.n.member.Site) {
		return true
	}
	id, ok := s.Site()
	return ok && t.n.kept.holds(id)
}

func (t topology) Neighbours() (out []antientropy.Neighbour) {
	n, own := t.n, t.n.member.Site
	members := n.book.Members(site.ID{})
	p := n.planOf(members)
	relays := n.relays(members)
	near := map[site.NodeID]bool{} // in the tree, or in the place of whom this node found unreachable
	for _, id := range p.Neighbours(n.id.Node(), n.away(n.outside())) {
		if !n.unheard(id) { // it is taken as a guest when it comes
			near[site.NodeID(id)] = true
		}
	}
	// Beside the tree, sites share the state of those that they keep.
	kept := n.kept.list()
	with := map[site.NodeID][]crdt.Scope{}
	between := func(other, whose site.ID) {
		for _, id := range p.Between(n.id.Node(), other, n.lost.has) {
			with[site.NodeID(id)] = append(with[site.NodeID(id)], crdt.SiteScope(whose))
		}
	}
	keepers := map[site.ID]bool{}
	if n.state != nil {
		for _, as := range []state.Keeping{state.Takes, state.Keeps, state.Leaves} {
			for _, x := range n.state.Keepers(as) {
				keepers[x] = true
			}
		}
	}
	for x := range keepers {
		between(x, own)
	}
	all := []crdt.Scope{crdt.Trust, crdt.SiteScope(own), crdt.Fleet}
	for _, x := range kept {
		between(x, x)
		all = append(all, crdt.SiteScope(x))
	}
	slices.SortFunc(all, crdt.Scope.Compare)
	carries := slices.ContainsFunc(members, func(g *trust.Grant) bool { return g.Node() == n.id.Node() && g.Rights&trust.Relay != 0 })
	for _, g := range members {
		id, scope := g.Node(), crdt.SiteScope(g.Site)
		if id == n.id.Node() {
			continue
		}
		// A relay reaches who keeps a connection to it; without one, its dial costs nothing.
		nb := antientropy.Neighbour{Peer: crdt.NodeID(id), Pause: len(n.addrsOf(id)) == 0 && (len(relays) == 0 && !carries || n.unheard(id))}
		if g.Site == own {
			nb.Shared = all
			out = append(out, nb)
			continue
		}
		if near[id] {
			nb.Shared = []crdt.Scope{crdt.Trust, crdt.Fleet}
		}
		if len(with[id]) > 0 {
			nb.Shared = append(nb.Shared, with[id]...)
			slices.SortFunc(nb.Shared, crdt.Scope.Compare)
		}
		if keepers[g.Site] { // another box of theirs may find us first
			nb.May = append(nb.May, crdt.SiteScope(own))
		}
		if slices.Contains(kept, g.Site) {
			nb.May = append(nb.May, scope)
		} else {
			nb.Holds = []crdt.Scope{scope}
		}
		out = append(out, nb)
	}
	return t.n.instead(p, out)
}

// triedAlone is how many boxes a box finds unreachable, while no other site can be
// reached, until it takes its own line to be what is cut: in a fleet of 30,000 it
// would else dial them all.
const triedAlone = 24

// away says whom the exchange goes round.
func (n *Node) away(outside bool) func(id [16]byte) bool {
	tried := map[[16]byte]bool{}
	return func(id [16]byte) bool {
		if !n.lost.has(id) {
			return n.unheard(id)
		}
		if !outside && !tried[id] {
			if len(tried) >= triedAlone {
				return false
			}
			tried[id] = true
		}
		return true
	}
}

// outside says whether a box of another site is linked.
func (n *Node) outside() bool {
	for _, id := range n.lost.links() {
		if n.siteID(id) != n.member.Site {
			return true
		}
	}
	return false
}

// instead lets what is owed to a site whose boxes cannot be reached go to its
// stand-in.
func (n *Node) instead(p *overlay.Plan, ns []antientropy.Neighbour) []antientropy.Neighbour {
	if !n.lost.any() || !n.outside() {
		return ns
	}
	gone := map[crdt.Scope]bool{} // sites of which no box is left
	for _, x := range ns {
		if n.lost.has(x.Peer) {
			for _, s := range x.Holds {
				gone[s] = true
			}
		}
	}
	for _, x := range ns {
		if !n.lost.has(x.Peer) {
			for _, s := range x.Holds {
				delete(gone, s)
			}
		}
	}
	stands := map[site.ID][]crdt.Scope{}
	for _, s := range slices.SortedFunc(maps.Keys(gone), crdt.Scope.Compare) {
		id, _ := s.Site()
		if x, ok := n.standIn(p, id); ok && x != n.member.Site {
			stands[x] = append(stands[x], s)
		}
	}
	for i := range ns {
		if len(stands) > 0 {
			ns[i].Holds = append(ns[i].Holds, stands[n.siteID(site.NodeID(ns[i].Peer))]...)
		}
	}
	return ns
}

// standIn asks a plan once for each site: the answer costs a look at all sites.
func (n *Node) standIn(p *overlay.Plan, of site.ID) (other site.ID, ok bool) {
	n.planning.Lock()
	defer n.planning.Unlock()
	if n.standsOf != p {
		n.standsOf, n.stands = p, map[site.ID]site.ID{}
	}
	if other, ok = n.stands[of]; !ok {
		var x [10]byte
		x, _ = p.StandIn(of) // zero: there is no other site
		other = x
		n.stands[of] = other
	}
	return other, !other.IsZero()
}

// planNow is the tree of the present members.
func (n *Node) planNow() *overlay.Plan { return n.planOf(n.book.Members(site.ID{})) }

// planSince is since when the plan is the same.
func (n *Node) planSince() time.Time {
	n.planning.Lock()
	defer n.planning.Unlock()
	return n.planAt
}

func (n *Node) planOf(members []*trust.Grant) *overlay.Plan {
	all := make([]overlay.Member, len(members))
	for i, g := range members {
		id := g.Node()
		class := overlay.Plain
		switch {
		case n.thin(g.Site):
			class = overlay.Leaf
		case g.Rights&trust.Relay != 0:
			class = overlay.Inner
		case n.hidden(id):
			class = overlay.Leaf
		}
		all[i] = overlay.Member{Node: id, Site: g.Site, Nonce: g.Nonce[:], Class: class}
	}
	n.planning.Lock()
	defer n.planning.Unlock()
	if n.plan == nil || !slices.EqualFunc(all, n.planned, overlay.Member.Equal) {
		n.plan, n.planned, n.planAt = overlay.New(all), all, n.now()
	}
	return n.plan
}

// thin says whether people said of a site that its line is.
func (n *Node) thin(id site.ID) bool {
	if n.state == nil {
		return false
	}
	x, _ := n.state.Site(id)
	return x.Thin
}

// hidden says whether a node has told all that it cannot be dialled. It reads
// what all read, so that all plan the same tree.
func (n *Node) hidden(id site.NodeID) bool {
	if n.state == nil {
		return false
	}
	x, ok := n.state.Node(id)
	return ok && !slices.ContainsFunc(x.Mesh, func(a string) bool { return !strings.HasPrefix(a, lanPrefix) })
}

// unheard says of a member that nothing was heard of where it is: it has a grant
// and no more, or a newcomer has not been sent that yet. It is gone round until it
// turns up here; a newcomer goes on with who admitted it.
func (n *Node) unheard(id site.NodeID) bool {
	if n.state == nil || n.lost.linked(id) {
		return false
	}
	x, _ := n.state.Node(id)
	return x.Name == "" && len(x.SIP) == 0 && len(n.addrsOf(id)) == 0
}

// lost are the nodes to which the last link or dial failed. Nobody asks them for
// that: it is evidence from work that was due.
type lost struct {
	mu    sync.Mutex
	nodes map[[16]byte]bool
	up    map[[16]byte]bool // linked now
}

func (l *lost) linked(id [16]byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.up[id]
}

func (l *lost) any() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.nodes) > 0
}

// links lists who is linked now.
func (l *lost) links() (out []site.NodeID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.up {
		out = append(out, id)
	}
	return out
}

// link notes that a link came or went.
func (l *lost) link(id [16]byte, up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !up {
		delete(l.up, id)
		return
	}
	if l.up == nil {
		l.up = map[[16]byte]bool{}
	}
	l.up[id] = true
}

func (l *lost) has(id [16]byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nodes[id]
}

// note says whether that is news.
func (l *lost) note(id [16]byte, gone bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nodes[id] == gone {
		return false
	}
	if gone {
		if l.nodes == nil {
			l.nodes = map[[16]byte]bool{}
		}
		l.nodes[id] = true
	} else {
		delete(l.nodes, id)
	}
	return true
}

// addrsOf is where a node is said to be: in its own record, or as its sponsor
// told us while that record has not arrived.
func (n *Node) addrsOf(id site.NodeID) []string {
	var all []string
	lan := false
	if n.state != nil {
		x, _ := n.state.Node(id)
		all, lan = x.Mesh, x.Site == n.member.Site
	}
	if len(all) == 0 {
		for _, s := range n.sponsors() {
			if s.Node == id {
				all = s.Addrs
			}
		}
	}
	var near, far []string
	for _, a := range all {
		if l, ok := strings.CutPrefix(a, lanPrefix); ok {
			near = append(near, l)
		} else {
			far = append(far, a)
		}
	}
	if lan {
		return append(near, far...)
	}
	return far
}

// admit tells the mesh who belongs to the fleet now. One at a time: a list that
// was read before a revocation must not be told after it.
func (n *Node) admit() {
	n.admitting.Lock()
	defer n.admitting.Unlock()
	var peers []mesh.Peer
	members := n.book.Members(site.ID{})
	relays := n.relays(members)
	known := map[site.NodeID]bool{}
	for _, g := range members {
		id := g.Node()
		if id == n.id.Node() {
			continue
		}
		known[id] = true
		via := slices.DeleteFunc(slices.Clone(relays), func(r mesh.PeerID) bool { return r == mesh.PeerID(id) })
		peers = append(peers, mesh.Peer{ID: mesh.PeerID(id), Addrs: n.addrsOf(id), Via: via})
	}
	// A newcomer knows its sponsor before it has the grants.
	for _, s := range n.sponsors() {
		if _, err := n.book.Member(s.Node); !known[s.Node] && errors.Is(err, trust.ErrUnknown) {
			peers = append(peers, mesh.Peer{ID: mesh.PeerID(s.Node), Addrs: s.Addrs})
		}
	}
	n.mesh.Admit(peers)
}

// relays are other members that carry for those who cannot be dialled.
func (n *Node) relays(members []*trust.Grant) (out []mesh.PeerID) {
	for _, g := range members {
		if g.Rights&trust.Relay != 0 && g.Node() != n.id.Node() {
			out = append(out, mesh.PeerID(g.Node()))
		}
	}
	return out
}

// equivocal fences a node that signed two changes under one dot. The engine
// waits for nobody; a proof that cannot be written now is found again by whoever
// merges the two.
func (n *Node) equivocal(a, b *crdt.Change) {
	cheat := site.NodeID(a.Node)
	if cheat == n.id.Node() {
		n.log.Error("Another box has this box's identity: its disk was copied. Set one of the two up anew, as another box")
		return
	}
	go func() { // ends with the commit, or with the engine
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := n.state.Prove(ctx, a, b); err != nil && !errors.Is(err, replica.ErrStopped) {
			n.log.Error("A box that was copied, or cheats, is not fenced", "node", cheat.String(), "err", err)
		}
	}()
}

// follow calls moved when members or addresses came, and then rests for three times
// as long as it took: a large fleet comes in a thousand merges, and each of them
// costs a look at all members.
func (n *Node) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.members:
		}
		begun := n.now()
		n.moved(ctx)
		n.sharePair()
		rest := time.NewTimer(3 * n.now().Sub(begun))
		select {
		case <-ctx.Done():
		case <-rest.C:
		}
		rest.Stop()
	}
}

// moved is called after the members or their addresses changed.
func (n *Node) moved(ctx context.Context) {
	n.admit()
	if n.state != nil {
		n.renewGrant()
		n.noteSponsors()
		n.stirExchange()
	}
	if err := n.engine.TopologyChanged(ctx); err != nil && !errors.Is(err, replica.ErrStopped) && ctx.Err() == nil {
		n.log.Warn("The exchange goes by an old list of nodes", "err", err)
	}
}

// nodeName is how people see a node: a.s0001.shops.example.
func (n *Node) nodeName(id site.NodeID) string {
	x, _ := n.state.Node(id)
	_, domain := n.state.Fleet()
	if s, ok := n.state.Site(x.Site); ok && x.Name != "" {
		return x.Name + "." + s.Domain(domain)
	}
	return id.String()
}

// siteOfNode is the code of the site a node serves.
func (n *Node) siteOfNode(id site.NodeID) string {
	x, _ := n.state.Node(id)
	s, _ := n.state.Site(x.Site)
	return s.Code
}

// findNode takes a name or an id.
func (n *Node) findNode(who string) (site.NodeID, error) {
	var id site.NodeID
	if id.UnmarshalText([]byte(who)) == nil {
		if _, ok := n.state.Node(id); ok {
			return id, nil
		}
	}
	for _, x := range n.state.Nodes(site.ID{}) {
		if n.nodeName(x.ID) == who {
			return x.ID, nil
		}
	}
	return id, fmt.Errorf("no node %q", who)
}

// dialable is where a box can reach us: on our own LAN, or from elsewhere.
func (n *Node) dialable(lan bool) (out []string) {
	for _, a := range n.meshAddrs() {
		l, isLAN := strings.CutPrefix(a, lanPrefix)
		if !isLAN || lan {
			out = append(out, l)
		}
	}
	return out
}

// lanPrefix marks addresses that only the other node of the site can use.
const lanPrefix = "lan:"
