package state

import (
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// TestDisabledOnceMoreStandsAgainstAnUndoElsewhere is example 4 of the design,
// told by somebody at a box that shows the user as disabled already.
func TestDisabledOnceMoreStandsAgainstAnUndoElsewhere(t *testing.T) {
	w, a1, a2, _ := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.set(a1, u.ID, "", Patch{Disabled: ptr(true)})
	w.heal()
	w.set(a2, u.ID, "", Patch{Disabled: ptr(false)})
	w.set(a1, u.ID, "", Patch{Disabled: ptr(true)}) // the telephone was stolen
	w.heal()
	for _, x := range []*box{a1, a2} {
		if !user(t, x, u.ID).Disabled {
			t.Error("enabled by somebody who had not seen that")
		}
	}
	w.set(a2, u.ID, "", Patch{Deleted: ptr(true)})
	w.heal()
	w.tick(time.Minute)
	w.set(a1, u.ID, "", Patch{Deleted: ptr(false)})
	w.set(a2, u.ID, "", Patch{Deleted: ptr(true)})
	w.heal()
	for _, x := range []*box{a1, a2} {
		if !user(t, x, u.ID).Deleted {
			t.Error("restored by somebody who had not seen the second delete")
		}
	}
}

// TestTwoSitesWithOneCodeAreFoundAlikeEverywhere: whatever is written to either
// afterwards, and when one of them gets another code.
func TestTwoSitesWithOneCodeAreFoundAlikeEverywhere(t *testing.T) {
	w, a1, a2, b := pairAndB(t)
	least, other := a1, b
	put := func(x *box, code, name string) {
		t.Helper()
		own := x.Own()
		own.Code, own.Name = code, name
		if _, err := x.PutSite(t.Context(), "ann", own); err != nil {
			t.Fatal(err)
		}
	}
	put(a1, "0009", "A")
	put(b, "0009", "B")
	w.heal()
	if idA, idB := a1.OwnID(), b.OwnID(); string(idB[:]) < string(idA[:]) {
		least, other = b, a1
	}
	want := func(code string, id site.ID) {
		t.Helper()
		for _, x := range []*box{a1, a2, b} {
			if got, ok := x.SiteByCode(code); !ok || got.ID != id {
				t.Errorf("code %s is site %s (%v), want %s", code, got.ID, ok, id)
			}
		}
	}
	want("0009", least.OwnID())
	own := other.Own()
	if err := other.put(t.Context(), "ann", "f", TableSite, string(own.ID[:]), map[string][]byte{siteName: []byte("renamed")}); err != nil {
		t.Fatal(err)
	}
	w.heal()
	want("0009", least.OwnID())
	put(least, "0010", "moved")
	w.heal()
	want("0009", other.OwnID())
	want("0010", least.OwnID())
}
