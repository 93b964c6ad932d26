// Package overlay computes who exchanges the fleet's common state with whom:
// pure functions of the membership that every node knows, so that nothing is
// negotiated and an idle fleet says nothing.
//
// The sites form a tree with fan-out 8: a change crosses each edge once, so each
// site receives it once, and 30,000 sites are at most ten hops apart. Relays and
// boxes that can be dialled stand inside, boxes that cannot are leaves: nothing
// is carried over them. Order within a class is by rendezvous rank (Thaler and
// Ravishankar, "Using name-based mappings to increase hit rates", 1998) of the
// nonces that issuers drew, so that nobody chooses a place. One node stands for
// its site; what it knows its pair learns over the LAN.
//
// A node that finds a neighbour unreachable goes round it: to the other node of
// that site, else to the first below it in the tree that can be reached, which
// takes its place. It acts by its own evidence alone, and goes on owing the
// unreachable one what it owes.
package overlay

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// FanOut is how many sites hang from one.
const FanOut = 8

// Class orders places in the tree, the inner ones first.
type Class uint8

const (
	Inner Class = iota // a relay, or known to have a good line
	Plain              // can be dialled
	Leaf               // cannot be dialled, or slow: nothing is carried over it
)

// A Member is a node that belongs to the fleet now.
type Member struct {
	Node  [16]byte
	Site  [10]byte
	Nonce []byte // drawn by the issuer of its grant
	Class Class
}

// Equal says that a plan could not tell m from o.
func (m Member) Equal(o Member) bool {
	return m.Node == o.Node && m.Site == o.Site && m.Class == o.Class && bytes.Equal(m.Nonce, o.Nonce)
}

// A Plan is the tree of one membership. It does not change.
type Plan struct {
	sites []place
	at    map[[10]byte]int
	home  map[[16]byte]int // node → place of its site
}

type place struct {
	site  [10]byte
	class Class
	rank  uint64
	nodes []node
}

type node struct {
	id    [16]byte
	class Class
	rank  uint64
	nonce []byte
}

func rank(key string, parts ...[]byte) uint64 {
	h := sha256.New()
	h.Write([]byte(key))
	for _, p := range parts {
		h.Write([]byte{byte(len(p))})
		h.Write(p)
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// New plans a membership; the order of the list does not matter.
func New(members []Member) *Plan {
	p := &Plan{at: map[[10]byte]int{}, home: make(map[[16]byte]int, len(members))}
	for _, m := range members {
		i, ok := p.at[m.Site]
		if !ok {
			i = len(p.sites)
			p.at[m.Site] = i
			p.sites = append(p.sites, place{site: m.Site, class: Leaf})
		}
		s := &p.sites[i]
		s.class = min(s.class, m.Class)
		s.nodes = append(s.nodes, node{m.Node, m.Class, rank("ccnode tree 1", m.Nonce), m.Nonce})
	}
	for i := range p.sites {
		s := &p.sites[i]
		slices.SortFunc(s.nodes, func(a, b node) int {
			return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(b.rank, a.rank), bytes.Compare(a.id[:], b.id[:]))
		})
		s.rank = s.nodes[0].rank
	}
	slices.SortFunc(p.sites, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(b.rank, a.rank), bytes.Compare(a.site[:], b.site[:]))
	})
	for i, s := range p.sites {
		p.at[s.site] = i
		for _, n := range s.nodes {
			p.home[n.id] = i
		}
	}
	return p
}

func parent(i int) int { return (i - 1) / FanOut }

// children of place i.
func (p *Plan) children(i int) (first, end int) {
	return min(FanOut*i+1, len(p.sites)), min(FanOut*i+FanOut+1, len(p.sites))
}

// Neighbours lists with whom self exchanges what all hold: the other nodes of
// its site, and, if it stands for its site, one node of each neighbouring site
// in the tree. down says which nodes self has found unreachable; they stay in
// the list, and those that take their place follow.
func (p *Plan) Neighbours(self [16]byte, down func(node [16]byte) bool) (out [][16]byte) {
	own, ok := p.home[self]
	if !ok {
		return nil
	}
	stands := p.stands(self, down)
	seen := map[[16]byte]bool{self: true}
	add := func(id [16]byte) {
		if !seen[id] {
			seen[id] = true
			out = append(out, id)
		}
	}
	for _, n := range p.sites[own].nodes {
		add(n.id)
	}
	if !stands {
		return out
	}
	v := &visit{p: p, down: down, add: add, own: own}
	first, end := p.children(own)
	for i := first; i < end; i++ {
		v.below(i)
	}
	v.above()
	return out
}

// stands says whether self speaks for its site: no node before it can be reached.
func (p *Plan) stands(self [16]byte, down func([16]byte) bool) bool {
	for _, n := range p.sites[p.home[self]].nodes {
		if n.id == self {
			break
		}
		if !down(n.id) {
			return false
		}
	}
	return true
}

// Between lists with which nodes of another site self exchanges something that
// the two sites share: one, and those that take its place while self finds it
// unreachable; none if another node speaks for self's site.
func (p *Plan) Between(self [16]byte, other [10]byte, down func([16]byte) bool) (out [][16]byte) {
	own, ok := p.home[self]
	i, known := p.at[other]
	if !ok || !known || i == own || !p.stands(self, down) {
		return nil
	}
	for _, n := range p.sites[i].nodes {
		out = append(out, n.id)
		if !down(n.id) {
			break
		}
	}
	return out
}

// visit walks round what is unreachable. The heir of a place is the place itself if
// it can be reached, else the first below it that can, in pre-order. An heir stands
// in all of its place's edges, those of each place between included; so however
// many are gone, a place has few neighbours, and changes go no further round.
type visit struct {
	p    *Plan
	down func([16]byte) bool
	add  func([16]byte)
	own  int
}

// reach adds the nodes of a site up to the first that is not known to be
// unreachable, and says whether there is one.
func (v *visit) reach(i int) bool {
	for _, n := range v.p.sites[i].nodes {
		v.add(n.id)
		if !v.down(n.id) {
			return true
		}
	}
	return false
}

// heir finds the heir of what lies below i, which is gone. Who cannot be dialled, or
// is slow, is none: nothing is carried over it. What was not tried yet counts as
// reached.
func (v *visit) heir(i int) (heir int, ok bool) {
	first, end := v.p.children(i)
	for c := first; c < end && v.p.sites[c].class != Leaf; c++ { // leaves come last
		if c == v.own || v.reach(c) {
			return c, true
		}
		if h, ok := v.heir(c); ok {
			return h, true
		}
	}
	return 0, false
}

// below reaches the heir of a place below ours. If all that is left there are
// leaves, they hang from us.
func (v *visit) below(i int) {
	if i == v.own || v.reach(i) {
		return
	}
	if _, ok := v.heir(i); ok {
		return
	}
	first, end := v.p.children(i)
	for c := first; c < end; c++ {
		v.below(c)
	}
}

// above reaches the place above ours or its heir. Where that is us, we have its
// other edges, too.
func (v *visit) above() {
	for i := v.own; i > 0; {
		i = parent(i)
		if v.reach(i) {
			return
		}
		h, ok := v.heir(i)
		if ok && h != v.own {
			return
		}
		if ok {
			first, end := v.p.children(i)
			for c := first; c < end; c++ {
				if !v.p.above(c, v.own) {
					v.below(c)
				}
			}
		} else if i == 0 {
			v.leaves()
		}
	}
}

// above says whether i is j or lies above it.
func (p *Plan) above(i, j int) bool {
	for j > i {
		j = parent(j)
	}
	return i == j
}

// leaves joins leaves of which nobody else is left: all hang from the first, and
// that one from the next. To a newcomer everybody is a leaf until it has heard
// where they are; who admitted it has other neighbours, and does not come to it.
func (v *visit) leaves() {
	for i := range v.p.sites {
		if i != v.own && v.p.sites[i].class == Leaf && v.reach(i) {
			return
		}
	}
}

// StandIn is the other site that also holds a site's own state, so that it
// survives the site: the one of greatest rendezvous weight. When sites come and
// go only those move whose stand-in it was, or becomes. No other site: not ok.
func (p *Plan) StandIn(site [10]byte) (other [10]byte, ok bool) {
	best := weight{}
	for i := range p.sites {
		if s := &p.sites[i]; s.site != site {
			if w := s.weight(site); !ok || w.above(best) {
				best, other, ok = w, s.site, true
			}
		}
	}
	return other, ok
}

// A weight is how fit a site is as stand-in of another: whoever can be dialled
// comes before whoever cannot.
type weight struct {
	leaf bool
	rank uint64
	site [10]byte
}

func (w weight) above(o weight) bool {
	if w.leaf != o.leaf {
		return o.leaf
	}
	return cmp.Or(cmp.Compare(w.rank, o.rank), bytes.Compare(o.site[:], w.site[:])) > 0
}

func (s *place) weight(of [10]byte) (w weight) {
	w = weight{leaf: s.class == Leaf, site: s.site}
	for _, n := range s.nodes {
		w.rank = max(w.rank, rank("ccnode stand-in 1", of[:], n.nonce))
	}
	return w
}

// Depth is how many edges lie between the root and a node's site.
func (p *Plan) Depth(n [16]byte) (d int) {
	for i := p.home[n]; i > 0; i = parent(i) {
		d++
	}
	return d
}

// Nodes lists a site's nodes, in the order in which they speak for it.
func (p *Plan) Nodes(site [10]byte) (out [][16]byte) {
	if i, ok := p.at[site]; ok {
		for _, n := range p.sites[i].nodes {
			out = append(out, n.id)
		}
	}
	return out
}
