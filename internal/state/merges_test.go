package state

import (
	"context"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// The examples of the design's page on state, §8, through the typed API. The
// two boxes of site A are the two sides of the cut; B is a third.

func pairAndB(t *testing.T) (w *world, a1, a2, b *box) {
	w = newWorld(t)
	a1, b = w.box(siteA, "0001"), w.box(siteB, "0002")
	a2 = w.box(siteA, "")
	w.heal()
	return w, a1, a2, b
}

func merges(t *testing.T, b *box, closed bool) []Merge {
	t.Helper()
	ms, err := b.Merges(closed)
	if err != nil {
		t.Fatal(err)
	}
	if !closed && len(ms) != b.OpenMerges() {
		t.Errorf("%d merges listed, %d counted", len(ms), b.OpenMerges())
	}
	return ms
}

func user(t *testing.T, b *box, id site.RecordID) User {
	t.Helper()
	u, err := b.User(id)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestSameFieldOnTwoSidesKeepsTheLoserVisible(t *testing.T) {
	w, a1, a2, _ := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.set(a1, u.ID, "", Patch{ForwardAll: ptr("200")})
	w.heal()
	if n := len(merges(t, a1, false)); n != 0 {
		t.Fatalf("%d merges before the cut", n)
	}
	w.set(a1, u.ID, "", Patch{ForwardAll: ptr("201")})
	w.tick(time.Minute)
	if _, err := a2.Set(context.Background(), "Bob Builder", u.ID, "", Patch{ForwardAll: ptr("202")}); err != nil {
		t.Fatal(err)
	}
	w.heal()
	for _, x := range []*box{a1, a2} {
		if got := user(t, x, u.ID).ForwardAll; got != "202" {
			t.Errorf("in force %q, want the later 202", got)
		}
		ms := merges(t, x, false)
		if len(ms) != 1 || ms[0].Kind != MergeEdit || ms[0].Field != "forward all" || ms[0].Record != "user 0001201 Ana" || ms[0].InForce != "202" || len(ms[0].Sides) != 2 {
			t.Fatalf("merges: %+v", ms)
		}
		win, lose := ms[0].Sides[0], ms[0].Sides[1]
		if win.Value != "202" || win.By != "Bob Builder" || !win.InForce || lose.Value != "201" || lose.By != "Ann" || lose.InForce ||
			lose.Node != a1.node || win.Node != a2.node || lose.Site != siteA || !lose.At.Before(win.At) {
			t.Errorf("sides: %+v", ms[0].Sides)
		}
	}
	m := merges(t, a1, false)[0]
	w.tick(time.Minute)
	if err := a1.Keep(context.Background(), "Ann", m.ID, m.Sides[1].Version); err != nil {
		t.Fatal(err)
	}
	w.heal()
	for _, x := range []*box{a1, a2} {
		if got := user(t, x, u.ID).ForwardAll; got != "201" || len(merges(t, x, false)) != 0 {
			t.Errorf("kept: %q, %d merges", got, len(merges(t, x, false)))
		}
	}
	closed := merges(t, a2, true)
	if len(closed) != 1 || !closed[0].Closed || closed[0].InForce != "201" || len(closed[0].Sides) != 2 {
		t.Errorf("closed: %+v", closed)
	}
	if err := a1.Keep(context.Background(), "Ann", m.ID, m.Sides[1].Version); err == nil {
		t.Error("a settled merge was settled again")
	}
}

func TestWhoHasSeenBothClosesTheMergeByWriting(t *testing.T) {
	w, a1, a2, _ := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.heal()
	w.set(a1, u.ID, "", Patch{Name: ptr("Anna")})
	w.set(a2, u.ID, "", Patch{Name: ptr("Anne")})
	w.heal()
	w.set(a1, u.ID, user(t, a1, u.ID).ETag, Patch{Name: ptr("Anouk")})
	w.heal()
	if n := len(merges(t, a2, false)); n != 0 || user(t, a2, u.ID).Name != "Anouk" {
		t.Errorf("%d merges, name %q", n, user(t, a2, u.ID).Name)
	}
}

func TestEditAgainstDelete(t *testing.T) {
	w, a1, a2, b := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.heal()
	w.set(a2, u.ID, user(t, a2, u.ID).ETag, Patch{Deleted: ptr(true)})
	w.set(a1, u.ID, "", Patch{Name: ptr("Ann")})
	w.heal()
	for _, x := range []*box{a1, a2} {
		if !user(t, x, u.ID).Deleted || len(x.Users(false)) != 0 || len(x.Credentials("201", "s0001.shops.example")) != 0 {
			t.Error("the deleted user is still there")
		}
		ms := merges(t, x, false)
		if len(ms) != 1 || ms[0].Kind != MergeDelete || len(ms[0].Sides) != 2 || ms[0].Sides[1].Value != "name: Ann" {
			t.Fatalf("merges: %+v", ms)
		}
	}
	if len(b.Lookup("0001201")) != 0 {
		t.Error("the number is not free")
	}
	m := merges(t, a1, false)[0]
	w.tick(time.Minute)
	if err := a1.Keep(context.Background(), "Chi", m.ID, m.Sides[1].Version); err != nil {
		t.Fatal(err)
	}
	w.heal()
	for _, x := range []*box{a1, a2, b} {
		if es := x.Lookup("0001201"); len(es) != 1 || es[0].Name != "Ann" {
			t.Errorf("restored: %+v", es)
		}
		if x != b && (user(t, x, u.ID).Deleted || len(merges(t, x, false)) != 0) {
			t.Error("not settled")
		}
	}
	// A delete that has seen everything is no merge; keeping it after one is neither.
	w.set(a1, u.ID, "", Patch{Deleted: ptr(true)})
	w.set(a2, u.ID, "", Patch{Name: ptr("Anna")})
	w.heal()
	m = merges(t, a2, false)[0]
	if err := a2.Keep(context.Background(), "Chi", m.ID, m.Sides[0].Version); err != nil {
		t.Fatal(err)
	}
	w.heal()
	if n := len(merges(t, a1, false)); n != 0 || !user(t, a1, u.ID).Deleted {
		t.Errorf("the kept delete: %d merges", n)
	}
}

func TestNumberClashBothSurviveAndTheLocalOneRings(t *testing.T) {
	w, a1, a2, b := pairAndB(t)
	c := w.box(site.ID{0xc}, "0003")
	u1 := w.create(a1, "301", "One") // home A, the older write
	w.tick(time.Minute)
	u2 := w.create(b, "0001301", "Two") // home B, the same full number
	w.heal()
	for _, x := range []*box{a1, a2, b, c} {
		if len(x.Lookup("0001301")) != 2 {
			t.Fatal("one of the two is gone")
		}
		want := u1.ID
		if x == b {
			want = u2.ID
		}
		if e, ok := x.Pick("0001301"); !ok || e.User != want {
			t.Errorf("rings %s", e.Name)
		}
		if ms := merges(t, x, false); len(ms) != 1 || ms[0].Kind != MergeNumber || len(ms[0].Sides) != 2 {
			t.Errorf("merges: %+v", ms)
		}
	}
	if got := user(t, a1, u1.ID).Clash; len(got) != 1 || got[0] != u2.ID {
		t.Errorf("flagged: %v", got)
	}
	// Both phones stay registered, each under its own device id.
	for x, u := range map[*box]User{a1: u1, b: u2} {
		d := u.Devices[0]
		if cs := x.Credentials(d.SIPUser, d.Realm); len(cs) != 1 || cs[0].User != u.ID {
			t.Errorf("credentials of %s: %+v", u.Name, cs)
		}
	}
	if err := a1.Keep(context.Background(), "Ann", merges(t, a1, false)[0].ID, "x"); err == nil || !strings.Contains(err.Error(), "another number") {
		t.Errorf("keep one of two users: %v", err)
	}
	w.set(b, u2.ID, "", Patch{Number: ptr("301")})
	w.heal()
	for _, x := range []*box{a1, a2, b, c} {
		if len(merges(t, x, false)) != 0 || len(x.Lookup("0001301")) != 1 || len(x.Lookup("0002301")) != 1 {
			t.Error("renumbered, and still a clash")
		}
	}
	// Two halves of one pair, cut: the credentials of that number are both candidates.
	p, q := w.create(a1, "302", "P"), User{}
	w.tick(time.Second)
	q = w.create(a2, "302", "Q")
	w.heal()
	cs := a1.Credentials("302", p.Devices[0].Realm)
	if len(cs) != 2 || cs[0].Device == cs[1].Device {
		t.Errorf("candidates: %+v", cs)
	}
	if e, _ := a2.Pick("0001302"); e.User != p.ID || e.User == q.ID {
		t.Error("of one home, the older number write rings")
	}
}

func TestDisableWinsOverEverythingConcurrent(t *testing.T) {
	w, a1, a2, b := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.set(a1, u.ID, "", Patch{Disabled: ptr(true)})
	w.heal()
	w.set(a1, u.ID, "", Patch{Disabled: ptr(true), Name: ptr("Ana!")}) // sees disabled; nothing to write there
	stale := user(t, a1, u.ID).ETag
	w.set(a2, u.ID, "", Patch{Disabled: ptr(false)})
	// Disabled again at A1 for theft, by somebody who had not seen A2's undo.
	w.set(a1, u.ID, stale, Patch{Disabled: ptr(false)})
	w.set(a1, u.ID, "", Patch{Disabled: ptr(true)})
	w.tick(time.Minute)
	w.set(a2, u.ID, "", Patch{Name: ptr("later")})
	w.heal()
	for _, x := range []*box{a1, a2} {
		if !user(t, x, u.ID).Disabled {
			t.Error("enabled, although somebody disabled it without having seen that")
		}
		cs := x.Credentials("201", "s0001.shops.example")
		if len(cs) != 1 || !cs[0].Disabled {
			t.Errorf("credentials: %+v", cs)
		}
	}
	if e, _ := b.Pick("0001201"); !e.Disabled {
		t.Error("the directory does not know")
	}
	w.set(a2, u.ID, user(t, a2, u.ID).ETag, Patch{Disabled: ptr(false)}) // has seen both
	w.heal()
	if user(t, a1, u.ID).Disabled {
		t.Error("who has seen it could not undo it")
	}
}

func TestAStaleTabIsAConflictNotALostWrite(t *testing.T) {
	w, a1, _, _ := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	tab := user(t, a1, u.ID).ETag
	w.set(a1, u.ID, "", Patch{Name: ptr("Anna"), ForwardAll: ptr("202")})
	got := w.set(a1, u.ID, tab, Patch{Name: ptr("Anne")})
	if got.Name != "Anne" || got.ForwardAll != "202" {
		t.Errorf("after the old tab's write: %+v", got)
	}
	ms := merges(t, a1, false)
	if len(ms) != 1 || ms[0].Field != "name" || ms[0].Sides[1].Value != "Anna" {
		t.Fatalf("merges: %+v", ms)
	}
	w.heal()
	for name, bad := range map[string]string{"garbage": "%%%", "other user": w.create(a1, "203", "X").ETag, "long": strings.Repeat("A", maxToken+1)} {
		if _, err := a1.Set(context.Background(), "Ann", u.ID, bad, Patch{Name: ptr("no")}); err == nil {
			t.Errorf("an ETag that is %s was taken", name)
		}
	}
}

func TestPasswordsOfBothSidesCountUntilOneIsChosen(t *testing.T) {
	w, a1, a2, _ := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.heal()
	n1 := w.set(a1, u.ID, "", Patch{Password: ptr("")}).Devices[0].Password
	n2 := w.set(a2, u.ID, "", Patch{Password: ptr("")}).Devices[0].Password
	w.heal()
	realm := u.Devices[0].Realm
	fits := func(x *box) (n int) {
		for _, c := range x.Credentials("201", realm) {
			for _, pw := range []string{n1, n2} {
				if md, _ := ha1("201", realm, pw); md == c.HA1MD5 {
					n++
				}
			}
		}
		return n
	}
	if fits(a1) != 2 || fits(a2) != 2 {
		t.Fatalf("%d and %d of 2 passwords count: healing silences a phone", fits(a1), fits(a2))
	}
	for _, m := range merges(t, a1, false) {
		for _, d := range m.Sides {
			if d.Value != shownSecret {
				t.Errorf("a secret is shown: %q", d.Value)
			}
		}
	}
	w.tick(8 * 24 * time.Hour)
	if fits(a1) != 1 {
		t.Error("after 7 days both still count")
	}
	w.set(a2, u.ID, "", Patch{Password: ptr("another-one"), SecurityReset: true})
	w.set(a1, u.ID, "", Patch{Password: ptr("written-elsewhere")})
	w.heal()
	cs := a1.Credentials("201", realm)
	if md, _ := ha1("201", realm, "another-one"); len(cs) != 1 || cs[0].HA1MD5 != md {
		t.Errorf("a security reset does not count alone: %d", len(cs))
	}
}
