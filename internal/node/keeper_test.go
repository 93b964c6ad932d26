package node

import (
	"fmt"
	"testing"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
)

// standIn is the box of the site that the plan names as another's stand-in.
func standIn(t *testing.T, of *box, all ...*box) *box {
	t.Helper()
	x, ok := of.n.planNow().StandIn(of.n.member.Site)
	for _, b := range all {
		if ok && b.n.member.Site == site.ID(x) {
			return b
		}
	}
	t.Fatalf("%s has no stand-in", of.cfg.Name)
	return nil
}

func (b *box) print(of *box) crdt.Fingerprint {
	for _, s := range b.n.engine.Status().Scopes {
		if s.Scope == crdt.SiteScope(of.n.member.Site) && s.Holds {
			return s.Fingerprint
		}
	}
	return crdt.Fingerprint{}
}

// TestEverySiteHasAKeeper: its state is at one other site, which can open what
// is sealed, follows what changes, and nobody else has it.
func TestEverySiteHasAKeeper(t *testing.T) {
	a := newBox(t, "a").up("")
	b := newBox(t, "b").up(a.invite("0002"))
	c := newBox(t, "c").up(a.invite("0003"))
	all := []*box{a, b, c}
	check := func() {
		t.Helper()
		for _, x := range all {
			k := standIn(t, x, all...)
			until(t, fmt.Sprintf("%s keeps the state of %s", k.cfg.Name, x.cfg.Name), func() bool {
				return x.n.state.Keeping(k.n.member.Site) == state.Keeps && k.print(x) == x.print(x)
			})
			until(t, k.cfg.Name+" has the keys of "+x.cfg.Name, func() bool {
				s := k.n.kept.state(x.n.member.Site)
				return s != nil && s.HasKey()
			})
			for _, o := range all {
				if o != x && o != k {
					until(t, o.cfg.Name+" need not keep "+x.cfg.Name, func() bool {
						as := x.n.state.Keeping(o.n.member.Site)
						return (as == state.Never || as == state.Left) && (o.print(x) == crdt.Fingerprint{} || o.n.kept.leaving(x.n.member.Site))
					})
				}
			}
		}
	}
	check()
	for _, x := range all {
		x.user("250", "Eve of "+x.cfg.Name)
	}
	check()
}
