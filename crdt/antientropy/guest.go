package antientropy

import (
	"slices"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/mutant"
)

// A neighbour that cannot reach one of its own turns to us. Only it knows why,
// so whoever says hello with scopes that all nodes hold, or that our owner lets
// it ask for (Neighbour.May), is a guest: we exchange them with it until the link
// ends or it says hello without them.

// join is a and what b has beside it, in the order of exchange.
func join(a, b []crdt.Scope) []crdt.Scope {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	if len(out) > len(a) {
		slices.SortFunc(out, crdt.Scope.Compare)
	}
	return out
}

// welcome says whether the peer may be a guest for s.
func (p *peer) welcome(s crdt.Scope) bool {
	return s == crdt.Trust || s == crdt.Fleet || slices.Contains(p.May, s)
}

// leave ends being a guest.
func (p *peer) leave() { p.guest, p.Shared = nil, p.own }

// settle takes a list of guest scopes and says whether there are more than before.
func (p *peer) settle(guest []crdt.Scope) (more bool) {
	guest = slices.DeleteFunc(guest, func(s crdt.Scope) bool { return !p.welcome(s) || slices.Contains(p.own, s) })
	more = slices.ContainsFunc(guest, func(s crdt.Scope) bool { return !slices.Contains(p.guest, s) })
	p.guest, p.Shared = guest, join(p.own, guest)
	return more
}

// welcome takes the wishes of a hello, and says whether we have to say ours anew.
// What the peer says only because we wish it is no wish: two would else take each
// other's echo for one and say hello for ever.
func (m *Machine) welcome(p *peer, h hello) (news bool) {
	before := p.Shared
	var wishes []crdt.Scope
	for _, x := range h.Scopes {
		if !x.Guest || mutant.Is(mutant.Echo) {
			wishes = append(wishes, crdt.Scope(x.Scope))
		}
	}
	news = p.settle(wishes)
	if !slices.Equal(before, p.Shared) {
		p.clear = nil
	}
	return news
}
