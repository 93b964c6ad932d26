package node

import (
	"fmt"
	"slices"
	"testing"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
)

// standIn is the box of the site that the plan names as another's stand-in.
func standIn(t *testing.T, of *box, all ...*box) *box {
	t.Helper()
	for _, b := range all { // one whose addresses are not known yet is taken for one that cannot be dialled
		until(t, of.cfg.Name+" knows where "+b.cfg.Name+" is", func() bool {
			x, ok := of.n.state.Node(b.n.id.Node())
			return ok && len(x.Mesh) > 0
		})
	}
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

// TestSitesKeepByPolicy: an administrator has a site's state kept at another one
// beside its stand-in, as the headquarters; it has all, with the keys, and goes
// on being told; and it is let go again.
func TestSitesKeepByPolicy(t *testing.T) {
	a := newBox(t, "a").up("")
	a2 := newBox(t, "a2").up(a.invite(""))
	b := newBox(t, "b").up(a.invite("0002"))
	c := newBox(t, "c").up(a.invite("0003"))
	a.user("201", "Ana")
	k := standIn(t, a, a, b, c)
	also := b
	if k == b {
		also = c
	}
	keeps := func(x *box) bool {
		return a.n.state.Keeping(x.n.member.Site) == state.Keeps && x.print(a) == a.print(a)
	}
	until(t, "the stand-in keeps the state of a", func() bool { return keeps(k) })
	if also.print(a) != (crdt.Fingerprint{}) {
		t.Fatal("somebody else has it, too")
	}
	for _, bad := range [][]string{{"0009"}, {a.n.state.Own().Code}} {
		if _, err := a.back.PatchSite(t.Context(), "test", api.SitePatch{AlsoAt: &bad}); err == nil {
			t.Errorf("kept at %q", bad)
		}
	}
	codes := []string{also.n.state.Own().Code}
	x, err := a2.back.PatchSite(t.Context(), "test", api.SitePatch{AlsoAt: &codes})
	if err != nil || !slices.Equal(x.AlsoAt, codes) {
		t.Fatalf("%+v, %v", x, err)
	}
	until(t, "the other site keeps the state of a, too", func() bool { return keeps(also) && keeps(k) })
	until(t, "it has the keys", func() bool {
		s := also.n.kept.state(a.n.member.Site)
		return s != nil && s.HasKey()
	})
	a.user("202", "Bob")
	until(t, "both are told on", func() bool { return keeps(also) && keeps(k) })
	if st := a.back.Status(t.Context()); len(st.Keepers) != 2 {
		t.Errorf("status names %+v", st.Keepers)
	}
	codes = nil
	if x, err = a.back.PatchSite(t.Context(), "test", api.SitePatch{AlsoAt: &codes}); err != nil || len(x.AlsoAt) != 0 {
		t.Fatalf("%+v, %v", x, err)
	}
	until(t, "it is let go", func() bool {
		return a.n.state.Keeping(also.n.member.Site) == state.Left && also.n.kept.leaving(a.n.member.Site) && keeps(k)
	})
}
