package antientropy

import (
	"slices"

	"carrierclass.net/ccnode/crdt"
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
func (p *peer) leave() {
	if len(p.guest) > 0 {
		p.Shared = slices.DeleteFunc(slices.Clone(p.Shared), func(s crdt.Scope) bool { return slices.Contains(p.guest, s) })
		p.guest = nil
	}
}

// welcome takes the wishes of a hello, and says whether we have to say ours anew.
func (m *Machine) welcome(p *peer, h hello) (news bool) {
	before := p.Shared
	wished := func(s crdt.Scope) bool {
		return slices.ContainsFunc(h.Scopes, func(x helloScope) bool { return crdt.Scope(x.Scope) == s })
	}
	keep := slices.DeleteFunc(slices.Clone(p.guest), func(s crdt.Scope) bool { return !wished(s) || !p.welcome(s) })
	p.leave()
	for _, s := range append([]crdt.Scope{crdt.Trust, crdt.Fleet}, p.May...) {
		if wished(s) && !slices.Contains(p.Shared, s) && !slices.Contains(keep, s) {
			keep, news = append(keep, s), true
		}
	}
	p.guest, p.Shared = keep, join(p.Shared, keep)
	if !slices.Equal(before, p.Shared) {
		p.clear = nil
	}
	return news
}
