package node

import (
	"testing"

	"carrierclass.net/ccnode/internal/api"
)

// TestAThinLineCarriesForNobody: the site that the others hear each other through
// is said to have a thin line, and all plan another tree, in which it only has
// somebody to hear from.
func TestAThinLineCarriesForNobody(t *testing.T) {
	a := newBox(t, "a").up("")
	c := newBox(t, "c").up(a.invite("0002"))
	d := newBox(t, "d").up(a.invite("0003"))
	all := []*box{a, c, d}
	links := func(of *box) (out []int) {
		for _, b := range all {
			out = append(out, len(b.n.planNow().Neighbours(of.n.id.Node(), func([16]byte) bool { return false })))
		}
		return out
	}
	is := func(of *box, want int) func() bool {
		return func() bool {
			for _, n := range links(of) {
				if n != want {
					return false
				}
			}
			return true
		}
	}
	var root *box
	until(t, "all plan one tree", func() bool {
		for _, b := range all {
			if is(b, 2)() {
				root = b
			}
		}
		return root != nil
	})
	yes, no := true, false
	if _, err := root.back.PatchSite(t.Context(), "test", api.SitePatch{ThinLine: &yes}); err != nil {
		t.Fatal(err)
	}
	until(t, "it is a leaf", is(root, 1))
	if _, err := root.back.PatchSite(t.Context(), "test", api.SitePatch{ThinLine: &no}); err != nil {
		t.Fatal(err)
	}
	until(t, "it is inside again", is(root, 2))
}
