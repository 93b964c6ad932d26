package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh/overlay"
)

// keptSites is what this node keeps for other sites (docs/architecture.md, "Whose
// state is kept where"). Its methods may be called from any goroutine.
type keptSites struct {
	mu    sync.Mutex
	sites map[site.ID]*state.State
	ended bool

	asked map[site.ID]bool // by the sites themselves, since the start

	over map[site.ID]time.Time // since when a site need not be kept; goRound alone writes it
}

// holds says whether a site's state is kept here. It calls nobody.
func (k *keptSites) holds(id site.ID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sites[id] != nil
}

// leaving says that what is here of a site is about to be removed: others keep it.
func (k *keptSites) leaving(id site.ID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.over[id]
	return ok
}

// state of a site that is kept here.
func (k *keptSites) state(id site.ID) *state.State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sites[id]
}

// list is whose state is kept here.
func (k *keptSites) list() (out []site.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range k.sites {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b site.ID) int { return slices.Compare(a[:], b[:]) })
	return out
}

func (k *keptSites) close() {
	k.mu.Lock()
	sites := k.sites
	k.sites, k.ended = nil, true
	k.mu.Unlock()
	for _, s := range sites { // it may wait for who waits for holds
		s.Close()
	}
}

// released says that a site has told us that we need not keep it. As long as it
// did not, what is here stays, whatever the plan says.
func released(s *state.State, own site.ID) bool {
	now := s.Keeping(own)
	return now == state.Leaves || now == state.Left
}

// letGo is how long what need not be kept is exchanged all the same: the site
// must learn that we have heard.
const letGo = time.Hour

// maxKept bounds for how many sites a box keeps the state. As stand-in it is one
// or two, ten at most; the rest is for sites by policy.
const maxKept = 64

// offered is a box of another site that wishes us to keep its state: that is for
// its site to decide. The other box of our own hands on what it was asked.
func (n *Node) offered(p replica.Peer, s crdt.Scope) {
	id, ok := s.Site()
	from := n.siteID(site.NodeID(p))
	if !ok || from != site.ID(id) && from != n.member.Site || id == n.member.Site {
		return
	}
	n.kept.mu.Lock()
	ok = !n.kept.asked[id] && len(n.kept.sites) < maxKept
	if ok {
		n.kept.asked[id] = true
	}
	n.kept.mu.Unlock()
	if ok {
		n.stirExchange()
	}
}

// reviewKept decides anew whose state is kept here: of who asked us to, until
// they release us. It says whether time alone will change something.
func (n *Node) reviewKept() (pending bool) {
	own := n.member.Site
	want := map[site.ID]bool{}
	n.kept.mu.Lock()
	for s := range n.kept.asked {
		want[s] = true
	}
	n.kept.mu.Unlock()
	for _, sc := range n.engine.Scopes() {
		x, ok := sc.Site()
		id := site.ID(x)
		if !ok || id == own {
			continue
		}
		s := n.kept.state(id)
		if s == nil {
			if s, _ = n.openKept(id); s == nil {
				continue
			}
			defer s.Close()
		}
		if want[id] = !released(s, own); want[id] || !n.kept.holds(id) {
			continue
		}
		since, ok := n.kept.over[id]
		if !ok {
			since = n.now()
			n.kept.mu.Lock()
			n.kept.over[id] = since
			delete(n.kept.asked, id)
			n.kept.mu.Unlock()
		}
		want[id] = n.now().Sub(since) < letGo
		pending = true
	}
	for id := range n.kept.over {
		if want[id] && n.kept.state(id) != nil && !released(n.kept.state(id), own) || !want[id] {
			n.kept.mu.Lock()
			delete(n.kept.over, id)
			n.kept.mu.Unlock()
		}
	}
	for id, yes := range want {
		if !yes || n.kept.holds(id) {
			continue
		}
		s, err := n.openKept(id)
		if err != nil {
			n.log.Error("The state of another site is not kept here", "site", id, "err", err)
			continue
		}
		n.kept.mu.Lock()
		ended := n.kept.ended
		if !ended {
			n.kept.sites[id] = s
		}
		n.kept.mu.Unlock()
		if ended {
			s.Close()
		}
	}
	for _, id := range n.kept.list() {
		if want[id] {
			continue
		}
		n.kept.mu.Lock()
		s := n.kept.sites[id]
		delete(n.kept.sites, id)
		n.kept.mu.Unlock()
		if s != nil {
			s.Close()
		}
	}
	return pending
}

func (n *Node) openKept(id site.ID) (*state.State, error) {
	w := writer{n.engine}
	return state.Open(state.Config{Engine: w, Book: n.book, Identity: n.id, Site: id, Now: n.now, Random: n.rand, Synced: n.synced,
		Log: n.log.With("room", "kept"), Raw: n.engine.Raw, Keeper: true})
}

// keepersWanted are the sites that are to keep our state: the stand-in first,
// then those by policy that have boxes.
func (n *Node) keepersWanted(p *overlay.Plan) (out []site.ID) {
	if x, ok := p.StandIn(n.member.Site); ok {
		out = append(out, x)
	}
	for _, x := range n.state.Own().AlsoAt {
		if x != n.member.Site && len(p.Nodes(x)) > 0 && !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// nameKeeper names our own keepers once they have all: the stand-in and the
// sites by policy, and nobody else. It says whether there is more to come.
func (n *Node) nameKeeper(ctx context.Context, p *overlay.Plan) (pending bool) {
	want := n.keepersWanted(p)
	if len(want) == 0 {
		return false // there is no other site
	}
	// Of the boxes of a site the one that exchanges with the keeper names it.
	ours := func(x site.ID) bool { return len(p.Between(n.id.Node(), x, n.lost.has)) > 0 }
	err := error(nil)
	for _, x := range want {
		if !ours(x) {
			continue
		}
		// What is named first is sent: no box has our state without its being on record.
		switch n.state.Keeping(x) {
		case state.Keeps:
		case state.Takes:
			if !n.caught(x) {
				pending = true // the one before it goes on meanwhile
				continue
			}
			err = errors.Join(err, n.state.SetKeeper(ctx, x, state.Keeps))
		default:
			if pending = true; n.now().Sub(n.planSince()) < settles {
				continue // others are joining: it may be another soon
			}
			err = errors.Join(err, n.state.SetKeeper(ctx, x, state.Takes))
		}
	}
	for _, as := range []state.Keeping{state.Keeps, state.Takes} {
		for _, o := range n.state.Keepers(as) {
			if ours(want[0]) && !slices.Contains(want, o) && (as == state.Takes || n.state.Keeping(want[0]) == state.Keeps) {
				err = errors.Join(err, n.state.SetKeeper(ctx, o, state.Leaves))
				pending = true
			}
		}
	}
	for _, o := range n.state.Keepers(state.Leaves) {
		m := n.book.Members(o)
		if len(m) > 0 && !ours(o) || len(m) == 0 && !ours(want[0]) {
			continue
		}
		said := n.state.Said(o, state.Leaves)
		if len(m) > 0 && !slices.ContainsFunc(m, func(g *trust.Grant) bool {
			return n.engine.Took(crdt.NodeID(g.Node()), crdt.SiteScope(n.member.Site), said)
		}) {
			pending = true
			continue
		}
		err = errors.Join(err, n.state.SetKeeper(ctx, o, state.Left))
	}
	if err != nil {
		n.log.Warn("Who keeps the state of this site besides it was not written", "err", err)
	}
	return pending || err != nil
}

// caught says whether a box of another site has all of our site's state.
func (n *Node) caught(other site.ID) bool {
	return slices.ContainsFunc(n.book.Members(other), func(g *trust.Grant) bool {
		return n.engine.Caught(crdt.NodeID(g.Node()), crdt.SiteScope(n.member.Site))
	})
}

// taken says whether every other box of our site, and a box of each site that
// keeps our state, has taken a change of it.
func (n *Node) taken(id crdt.ID) bool {
	took := func(g *trust.Grant) bool {
		return g.Node() == n.id.Node() || n.engine.Took(crdt.NodeID(g.Node()), crdt.SiteScope(n.member.Site), id)
	}
	for _, g := range n.book.Members(n.member.Site) {
		if !took(g) {
			return false
		}
	}
	for _, x := range n.state.Keepers(state.Keeps) {
		if m := n.book.Members(x); len(m) > 0 && !slices.ContainsFunc(m, took) {
			return false
		}
	}
	return true
}

// settles is how long the members have to be the same before a stand-in is sent
// all.
const settles = 3 * time.Second

// How long until the stand-in is asked for again whether it has all; only our
// own memory is looked at.
const (
	firstLook = time.Second
	lastLook  = time.Minute
)

// goRound looks after with whom we exchange what: again when a node was lost or
// found, a member came or went, or a keeper was named.
func (n *Node) goRound(ctx context.Context) {
	pause := firstLook
	look := time.NewTimer(pause)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.rewire:
			pause = firstLook
		case <-look.C:
			pause = min(2*pause, lastLook)
		}
		p := n.planNow()
		pending := n.reviewKept()
		if err := n.engine.TopologyChanged(ctx); err != nil {
			if errors.Is(err, replica.ErrStopped) || ctx.Err() != nil {
				return
			}
			n.log.Warn("What is exchanged with whom could not be settled; it is tried again", "err", err)
			pending = true
		}
		if n.nameKeeper(ctx, p) || pending {
			look.Reset(pause)
		}
	}
}

// stirExchange has goRound look again.
func (n *Node) stirExchange() {
	select {
	case n.rewire <- struct{}{}:
	default:
	}
}

// keepers says who keeps our site's state.
func (n *Node) keepers() []api.Keeper {
	out := []api.Keeper{}
	for as, word := range map[state.Keeping]string{state.Takes: "takes", state.Keeps: "keeps", state.Leaves: "leaves"} {
		for _, id := range n.state.Keepers(as) {
			x, _ := n.state.Site(id)
			out = append(out, api.Keeper{Site: x.Code, State: word})
		}
	}
	slices.SortFunc(out, func(a, b api.Keeper) int {
		return cmp.Or(strings.Compare(a.State, b.State), strings.Compare(a.Site, b.Site))
	})
	return out
}
