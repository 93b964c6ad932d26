package trust

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"
	"sync"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/mutant"
	"carrierclass.net/ccnode/internal/site"
)

// A Book is what this node knows of the fleet's members: the trust scope, read.
// Its grants hang from the root by signatures; one whose issuer is not known
// yet is not in it. Its methods may be called from any goroutine.
type Book struct {
	fleet    crdt.FleetID
	founding *Founding

	// Failed is told of a record that Sync left out, because the program panicked
	// on it. May be nil; set before the first Sync.
	Failed func(table uint16, rec string, panicked any)

	mu      sync.RWMutex
	grants  map[crdt.Ref]*Grant
	depth   map[crdt.Ref]int
	nodes   map[site.NodeID][]*Grant
	revoked map[site.NodeID]*Revocation
	cheats  map[site.NodeID]bool
	sites   map[site.ID][]site.NodeID // who ever had a grant for a site, by id
	all     []Standing                // what Standings answers; nil: something moved since
	waiting map[string]bool           // records of grants in the set whose issuer is unknown
	looked  int                       // how many grants there were when all other tables were read

	admins    map[AdminID]*Admin
	adminsOut map[AdminID]crdt.Stamp // when each was revoked, at first
}

// NewBook returns the book of a fleet that knows no member yet.
func NewBook(f *Founding) *Book {
	return &Book{fleet: f.ID(), founding: f, grants: map[crdt.Ref]*Grant{}, depth: map[crdt.Ref]int{},
		nodes: map[site.NodeID][]*Grant{}, sites: map[site.ID][]site.NodeID{}, revoked: map[site.NodeID]*Revocation{}, cheats: map[site.NodeID]bool{},
		admins: map[AdminID]*Admin{}, adminsOut: map[AdminID]crdt.Stamp{}}
}

// Fleet is the fleet's id, Founding its first record.
func (b *Book) Fleet() crdt.FleetID { return b.fleet }
func (b *Book) Founding() *Founding { return b.founding }

// Add takes a grant whose chain is complete here. ErrUnknown means that its
// issuer's grant has not arrived.
func (b *Book) Add(g *Grant) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.add(g)
}

func (b *Book) add(g *Grant) error {
	id := g.ID()
	if have := b.grants[id]; have != nil {
		if !bytes.Equal(have.raw, g.raw) {
			return fmt.Errorf("grant %s of node %s: %w: another grant has that name", id, g.Node(), ErrMalformed)
		}
		return nil
	}
	parent := b.grants[g.Parent]
	if err := g.signedBy(b.founding, parent); err != nil {
		return err
	}
	depth := 1
	if parent != nil {
		depth = b.depth[g.Parent] + 1
	}
	if depth > MaxChain {
		return fmt.Errorf("grant of node %s: %w: %d grants up to the root, at most %d", g.Node(), ErrChain, depth, MaxChain)
	}
	b.grants[id], b.depth[id], b.all = g, depth, nil
	n := g.Node()
	b.nodes[n] = append(b.nodes[n], g)
	at, had := slices.BinarySearchFunc(b.sites[g.Site], n, func(x, y site.NodeID) int { return bytes.Compare(x[:], y[:]) })
	if !had {
		b.sites[g.Site] = slices.Insert(b.sites[g.Site], at, n)
	}
	return nil
}

// AddChain takes all grants of a chain that VerifyChain returned.
func (b *Book) AddChain(c *Chain) error {
	for _, g := range c.Grants {
		if err := b.Add(g); err != nil {
			return err
		}
	}
	return nil
}

// Grant looks one up by name.
func (b *Book) Grant(id crdt.Ref) (*Grant, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	g, ok := b.grants[id]
	return g, ok
}

// Chain proves a grant to others.
func (b *Book) Chain(g *Grant) (*Chain, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	c := &Chain{Founding: b.founding, Grants: []*Grant{g}}
	for g.Parent != (crdt.Ref{}) {
		parent := b.grants[g.Parent]
		if parent == nil || len(c.Grants) > MaxChain {
			return nil, fmt.Errorf("prove the grant of node %s: %w", g.Node(), ErrUnknown)
		}
		c.Grants = append(c.Grants, parent)
		g = parent
	}
	slices.Reverse(c.Grants)
	return c, nil
}

// Member returns the grant under which a node is a member now: links to it are
// kept, and it may admit. ErrUnknown: nobody admitted it. ErrRevoked: it was
// revoked, or what it rests on was.
func (b *Book) Member(n site.NodeID) (*Grant, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.member(n)
}

// Ever returns a grant that a node had, member or not; nil for strangers.
func (b *Book) Ever(n site.NodeID) *Grant {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if gs := b.nodes[n]; len(gs) > 0 {
		return gs[len(gs)-1]
	}
	return nil
}

// MemberKey is Member for the key that a link's handshake proved.
func (b *Book) MemberKey(pub ed25519.PublicKey) (*Grant, error) { return b.Member(NodeID(pub)) }

func (b *Book) member(n site.NodeID) (best *Grant, err error) {
	if r := b.revoked[n]; r != nil && !mutant.Is(mutant.RevokedStays) && !(mutant.Is(mutant.RegrantWins) && len(b.nodes[n]) > 1) {
		return nil, fmt.Errorf("node %s: %w: %s", n, ErrRevoked, r.Reason)
	}
	if b.cheats[n] {
		return nil, fmt.Errorf("node %s: %w: it signed two different changes under one number", n, ErrRevoked)
	}
	if len(b.nodes[n]) == 0 {
		return nil, fmt.Errorf("node %s: %w", n, ErrUnknown)
	}
	for _, g := range b.nodes[n] {
		if v := b.void(g); v != nil {
			err = v
			continue
		}
		if best == nil || best.Issued < g.Issued || (best.Issued == g.Issued && bytes.Compare(best.raw, g.raw) < 0) {
			best = g
		}
	}
	if best != nil {
		return best, nil
	}
	return nil, err
}

// void says why a grant has no force: somebody it rests on was revoked, and the
// revocation does not keep what that one gave out.
func (b *Book) void(g *Grant) error {
	for g.Parent != (crdt.Ref{}) {
		parent := b.grants[g.Parent]
		if r := b.revoked[parent.Node()]; r != nil && !mutant.Is(mutant.PowersStay) && (mutant.Is(mutant.KeepsForgotten) || !slices.Contains(r.Keeps, g.ID())) {
			return fmt.Errorf("node %s: %w: its issuer %s was revoked", g.Node(), ErrRevoked, parent.Node())
		}
		g = parent
	}
	return nil
}

// A Standing is one node's membership as people see it.
type Standing struct {
	Grant   *Grant
	Revoked *Revocation // of the node itself
	Void    error       // why it is no member, nil if it is one
}

// Standings lists every node that was ever admitted, by node id.
func (b *Book) Standings() []Standing { return slices.Clone(b.standings()) }

// standings are computed once for each state of the book: a fleet has 30,000
// nodes, and each look at the exchange asks for all. They must not be altered.
func (b *Book) standings() []Standing {
	b.mu.RLock()
	all := b.all
	b.mu.RUnlock()
	if all != nil {
		return all
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all != nil {
		return b.all
	}
	b.all = make([]Standing, 0, len(b.nodes))
	for _, n := range slices.SortedFunc(maps.Keys(b.nodes), func(x, y site.NodeID) int { return bytes.Compare(x[:], y[:]) }) {
		g, err := b.member(n)
		if gs := b.nodes[n]; g == nil {
			g = gs[len(gs)-1]
		}
		b.all = append(b.all, Standing{g, b.revoked[n], err})
	}
	return b.all
}

// Members lists the grants in force, by node id; with site set, that site's.
func (b *Book) Members(of site.ID) (out []*Grant) {
	if !of.IsZero() {
		b.mu.RLock()
		defer b.mu.RUnlock()
		for _, n := range b.sites[of] {
			if g, err := b.member(n); err == nil && g.Site == of {
				out = append(out, g)
			}
		}
		return out
	}
	for _, s := range b.standings() {
		if s.Void == nil {
			out = append(out, s.Grant)
		}
	}
	return out
}

// Issuers lists members that may admit to the whole fleet. Fewer than two is
// worth a warning.
func (b *Book) Issuers() (out []*Grant) {
	for _, g := range b.Members(site.ID{}) {
		if g.Rights&AdmitFleet != 0 {
			out = append(out, g)
		}
	}
	return out
}

// Cheats says whether it is proven that a node signed two changes under one dot.
func (b *Book) Cheats(n site.NodeID) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.cheats[n]
}

// A Rest is a grant that a node gave out itself, and the members that would be
// none without it.
type Rest struct {
	Grant   *Grant
	Members []site.NodeID // by id
}

// RestOn lists what members rest on a node: whoever revokes it keeps those grants
// (Revocation.Keeps) or shuts those members out. They are by the grant's node.
func (b *Book) RestOn(n site.NodeID) (out []Rest) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	by := map[crdt.Ref]*Rest{}
	for m := range b.nodes {
		g, err := b.member(m)
		if err != nil || m == n {
			continue
		}
		for at := g; at.Parent != (crdt.Ref{}); {
			parent := b.grants[at.Parent]
			if parent.Node() == n {
				id := at.ID()
				if by[id] == nil {
					by[id] = &Rest{Grant: at}
				}
				by[id].Members = append(by[id].Members, m)
			}
			at = parent
		}
	}
	order := func(a, b site.NodeID) int { return bytes.Compare(a[:], b[:]) }
	for _, r := range by {
		slices.SortFunc(r.Members, order)
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Rest) int {
		x, y := a.Grant.ID(), b.Grant.ID()
		return cmp.Or(order(a.Grant.Node(), b.Grant.Node()), bytes.Compare(x[:], y[:]))
	})
	return out
}

// Revocation returns the one of a node, nil if there is none.
func (b *Book) Revocation(n site.NodeID) *Revocation {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.revoked[n]
}
