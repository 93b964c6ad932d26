package state

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// told writes a history as lines.
func told(t *testing.T, b *box, kind, who string) (out []string) {
	t.Helper()
	h, err := b.History(kind, who)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range h.Changes {
		for _, f := range c.Fields {
			old := f.Old
			if !f.Known {
				old = "?"
			}
			line := fmt.Sprintf("%s: %s %s -> %s", c.By, f.Field, old, f.New)
			if f.InForce {
				line += " *"
			} else if f.Live {
				line += " +"
			}
			out = append(out, line)
		}
	}
	return out
}

func wantLines(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\n%s\nwant:\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// last is the id of the newest change that touched a field.
func last(t *testing.T, b *box, who, field string) crdt.ID {
	t.Helper()
	h, err := b.History("", who)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range h.Changes {
		for _, f := range c.Fields {
			if f.Field == field {
				return c.ID
			}
		}
	}
	t.Fatalf("nobody changed the %s of %s", field, who)
	return crdt.ID{}
}

func (b *box) undo(t *testing.T, id crdt.ID, over bool) (Undone, error) {
	t.Helper()
	return b.Undo(context.Background(), "Bob Builder", id.String(), over)
}

func TestHistoryTellsWhoChangedWhat(t *testing.T) {
	w, a1, a2, b := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.heal()
	w.set(a1, u.ID, "", Patch{Name: ptr("Anna"), ForwardAll: ptr("202")})
	w.heal()
	w.set(a2, u.ID, "", Patch{Name: ptr("Anne"), PIN: ptr("1234")})
	w.heal()
	for _, x := range []*box{a1, a2} {
		got := told(t, x, "user", "201")
		var name []string
		for _, l := range got {
			if strings.Contains(l, " name ") || strings.Contains(l, "forward") || strings.Contains(l, "PIN") {
				name = append(name, l)
			}
		}
		wantLines(t, "history", name, "Ann: name Anna -> Anne *", "Ann: PIN "+shownSecret+" -> "+shownSecret+" *",
			"Ann: name Ana -> Anna", "Ann: forward all (none) -> 202 *", "Ann: name (none) -> Ana", "Ann: PIN "+shownSecret+" -> "+shownSecret)
		for _, l := range got {
			if strings.Contains(l, "1234") {
				t.Errorf("a secret is shown: %s", l)
			}
		}
	}
	// A box that came later never saw what was overwritten, and does not make it up.
	late := w.box(siteA, "")
	late.m.history = nil // what was pruned is not sent to it
	h, err := late.History("", "Anne")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range h.Changes {
		for _, f := range c.Fields {
			if f.Field == "name" && (f.Known || f.New != "Anne") {
				t.Errorf("a new box says the name was %q", f.Old)
			}
		}
	}
	if _, err := late.undo(t, last(t, late, "201", "name"), true); !errors.Is(err, ErrNotFound) || user(t, late, u.ID).Name != "Anne" {
		t.Errorf("undo of what it never saw: %v", err)
	}
	for who, want := range map[string]error{"nobody": ErrNotFound, "": ErrNotFound} {
		if _, err := a1.History("", who); !errors.Is(err, want) {
			t.Errorf("history of %q: %v", who, err)
		}
	}
	if _, err := b.History("", u.Number); !errors.Is(err, ErrOtherSite) {
		t.Errorf("history at another site: %v", err)
	}
	if _, err := a1.History("planet", "201"); !errors.Is(err, ErrInvalid) {
		t.Errorf("history of a planet: %v", err)
	}
}

func TestUndoNeverGoesOverAYoungerEdit(t *testing.T) {
	w, a1, a2, _ := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.set(a1, u.ID, "", Patch{ForwardAll: ptr("202"), Name: ptr("Anna")})
	id := last(t, a1, "201", "forward all")
	w.tick(time.Second)
	w.heal()
	if _, err := a2.Set(context.Background(), "Chi", u.ID, "", Patch{ForwardAll: ptr("203")}); err != nil {
		t.Fatal(err)
	}
	w.heal()
	if _, err := a1.undo(t, id, false); !errors.Is(err, ErrSince) || !strings.Contains(err.Error(), `"203"`) || !strings.Contains(err.Error(), "Chi") {
		t.Errorf("undo over a younger edit: %v", err)
	}
	if x := user(t, a1, u.ID); x.ForwardAll != "203" || x.Name != "Anna" {
		t.Errorf("a refused undo wrote something: %+v", x)
	}
	done, err := a1.undo(t, id, true)
	if err != nil || len(done.Fields) != 2 {
		t.Fatalf("undo: %+v %v", done, err)
	}
	w.heal()
	for _, x := range []*box{a1, a2} {
		if got := user(t, x, u.ID); got.ForwardAll != "" || got.Name != "Ana" || len(merges(t, x, false)) != 0 {
			t.Errorf("after the undo: %q %q, %d merges", got.ForwardAll, got.Name, len(merges(t, x, false)))
		}
	}
	if _, err := a1.undo(t, id, false); !errors.Is(err, ErrState) {
		t.Errorf("undone twice: %v", err)
	}
	// An undo is a change, and can be undone by who sees it.
	if _, err := a2.undo(t, last(t, a2, "201", "name"), false); err != nil {
		t.Fatal(err)
	}
	if got := user(t, a2, u.ID); got.ForwardAll != "203" || got.Name != "Anna" {
		t.Errorf("the undo undone: %q %q", got.ForwardAll, got.Name)
	}
	// An undo that meets an edit it has not seen is a merge, not a loss.
	w.heal()
	w.set(a2, u.ID, "", Patch{Name: ptr("Annika")})
	if _, err := a1.undo(t, last(t, a1, "201", "name"), false); err != nil {
		t.Fatal(err)
	}
	w.heal()
	if ms := merges(t, a1, false); len(ms) != 1 || ms[0].Field != "name" {
		t.Errorf("merges: %+v", ms)
	}
	for _, bad := range []string{"", "12", "zzzzzzzzzzzz", strings.Repeat("a", 5000)} {
		if _, err := a1.Undo(context.Background(), "Ann", bad, true); err == nil {
			t.Errorf("change %.20q was undone", bad)
		}
	}
}

func TestUndoOfADeleteRestoresAndOfADisableNeedsToHaveSeenIt(t *testing.T) {
	w, a1, a2, b := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.heal()
	w.set(a1, u.ID, "", Patch{Deleted: ptr(true)})
	w.heal()
	if len(b.Lookup("0001201")) != 0 {
		t.Fatal("not deleted")
	}
	if _, err := a2.undo(t, last(t, a2, "201", "deleted"), false); err != nil {
		t.Fatal(err)
	}
	w.heal()
	if len(b.Lookup("0001201")) != 1 || user(t, a1, u.ID).Deleted {
		t.Error("the undo of a delete did not restore")
	}
	// Disabled here; disabled there, too, unseen: the undo of one leaves the other.
	w.set(a1, u.ID, "", Patch{Disabled: ptr(true)})
	id := last(t, a1, "201", "disabled")
	w.set(a2, u.ID, "", Patch{Disabled: ptr(true)})
	if _, err := a1.undo(t, id, false); err != nil {
		t.Fatal(err)
	}
	w.heal()
	for _, x := range []*box{a1, a2} {
		if !user(t, x, u.ID).Disabled {
			t.Error("an undo enabled somebody whom another had disabled, unseen")
		}
	}
	// Both seen: the other one is undone.
	ms := merges(t, a1, false)
	if len(ms) != 1 || ms[0].Field != "disabled" || ms[0].InForce != "yes" {
		t.Fatalf("merges: %+v", ms)
	}
	for _, d := range ms[0].Sides {
		if d.InForce {
			id = d.Change
		}
	}
	if _, err := a1.undo(t, id, false); !errors.Is(err, ErrSince) {
		t.Errorf("undo of one side of an open merge: %v", err)
	}
	if _, err := a1.undo(t, id, true); err != nil {
		t.Fatal(err)
	}
	w.heal()
	if user(t, a2, u.ID).Disabled {
		t.Error("still disabled")
	}
	// What made a record is not undone, nor is a secret brought back.
	h, _ := a1.History("user", "201")
	if _, err := a1.undo(t, h.Changes[len(h.Changes)-1].ID, true); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("undo of a creation: %v", err)
	}
	w.set(a1, u.ID, "", Patch{PIN: ptr("9999")})
	if _, err := a1.undo(t, last(t, a1, "201", "PIN"), true); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "secret") {
		t.Errorf("undo of a PIN: %v", err)
	}
}

func TestUndoOfRecordsKeepsThemValid(t *testing.T) {
	w, a1, a2, _ := pairAndB(t)
	ctx := context.Background()
	u1, u2 := w.create(a1, "201", "Ana"), w.create(a1, "202", "Ben")
	g, err := Create(ctx, a1.State, "Ann", site.Group{Head: site.Head{Name: "sales"}, Number: "300", Members: []string{u1.ID.String(), u2.ID.String()}})
	w.must(err)
	change := func(fn func(*site.Group)) {
		t.Helper()
		w.tick(time.Second)
		_, err := Change(ctx, a1.State, "Ann", g.ID, "", func(v *site.Group) error { fn(v); return nil })
		w.must(err)
	}
	change(func(v *site.Group) { v.Members = []string{u1.ID.String()} })
	w.heal()
	wantLines(t, "history", told(t, a2, "group", "sales")[:1], "Ann: members 0001202 Ben in -> not in *")
	if _, err := a2.undo(t, last(t, a2, "sales", "members 0001202 Ben"), false); err != nil {
		t.Fatal(err)
	}
	w.heal()
	if v, _ := Get[site.Group](a1.State, g.ID); len(v.Members) != 2 {
		t.Errorf("members: %v", v.Members)
	}
	recent, err := a1.Recent()
	w.must(err)
	if c := recent.Changes[0]; len(c.Fields) != 1 || c.By != "Bob Builder" || c.Fields[0].Record != "group sales" || c.Fields[0].Old != shownOut || c.Fields[0].New != shownIn {
		t.Errorf("the newest change: %+v", c)
	}
	for i, c := range recent.Changes[1:] {
		if c.At.After(recent.Changes[i].At) {
			t.Errorf("not in order: %s after %s", c.At, recent.Changes[i].At)
		}
	}
	for i := range recentChanges {
		w.set(a1, u1.ID, "", Patch{Name: ptr(fmt.Sprint("Ana ", i))})
	}
	if recent, err = a1.Recent(); err != nil || len(recent.Changes) != recentChanges || recent.Changes[0].Fields[0].New != fmt.Sprint("Ana ", recentChanges-1) || !recent.Changes[recentChanges-1].Fields[0].Known {
		t.Errorf("%d changes, %v", len(recent.Changes), err)
	}
	w.heal()
	change(func(v *site.Group) { v.Number = "301" })
	id := last(t, a1, "sales", "number")
	w.create(a1, "300", "Eve")
	if _, err := a1.undo(t, id, false); !errors.Is(err, ErrTaken) {
		t.Errorf("a number that somebody else has was taken back: %v", err)
	}
	change(func(v *site.Group) { v.Deleted = true })
	w.heal()
	if _, err := a2.undo(t, last(t, a2, "sales", "deleted"), false); err != nil {
		t.Fatal(err)
	}
	w.heal()
	if v, ok := Peek[site.Group](a1.State, g.ID); !ok || v.Number != "301" || len(a1.Lookup("0001301")) != 1 {
		t.Errorf("restored: %+v", v)
	}
	if len(merges(t, a1, false)) != 0 {
		t.Errorf("merges: %+v", merges(t, a1, false))
	}
}

// TestADeletedGroupShowsWhatItsDeleteHadNotSeen: as of a user, of whatever an
// administrator keeps; a delete of a version that noted nothing shows nothing.
func TestADeletedGroupShowsWhatItsDeleteHadNotSeen(t *testing.T) {
	w, a1, a2, _ := pairAndB(t)
	ctx := context.Background()
	u := w.create(a1, "201", "Ana")
	g, err := Create(ctx, a1.State, "Ann", site.Group{Head: site.Head{Name: "sales"}, Number: "300", Members: []string{u.ID.String()}})
	w.must(err)
	w.heal()
	_, err = Change(ctx, a1.State, "Ann", g.ID, "", func(v *site.Group) error { v.Deleted = true; return nil })
	w.must(err)
	if n := len(merges(t, a1, false)); n != 0 {
		t.Errorf("a delete that saw all is %d merges", n)
	}
	_, err = Change(ctx, a2.State, "Chi", g.ID, "", func(v *site.Group) error { v.Overflow = "201"; return nil })
	w.must(err)
	w.heal()
	ms := merges(t, a2, false)
	if len(ms) != 1 || ms[0].Kind != MergeDelete || ms[0].Record != "group sales" || len(ms[0].Sides) != 2 || ms[0].Sides[1].Value != "overflow: 201" || ms[0].Sides[1].By != "Chi" {
		t.Fatalf("merges: %+v", ms)
	}
	w.must(a2.Keep(ctx, "Chi", ms[0].ID, ms[0].Sides[0].Version)) // the delete, now that it has seen it
	w.heal()
	if v, ok := Peek[site.Group](a1.State, g.ID); ok || len(merges(t, a1, false)) != 0 {
		t.Errorf("kept deleted: %+v, %d merges", v, len(merges(t, a1, false)))
	}
	ref, _ := byRef("old")
	_, err = a1.commit(ctx, Mutation{Scope: a1.scope, By: ref, Writes: []crdt.Write{{Table: TableGroup, Record: string(g.ID[:]), Field: headDeleted, Value: boolValue(true)}}})
	w.must(err)
	if n := len(merges(t, a1, false)); n != 0 {
		t.Errorf("a delete that noted nothing is %d merges", n)
	}
}

// FuzzShown: whatever a value holds, a merge of it can be shown, and both of it
// can be written.
func FuzzShown(f *testing.F) {
	f.Add([]byte("text"), []byte{1, 0x80}, false)
	f.Add(marshal([]string{"+33", "+44"}), marshal([]string{"+1"}), true)
	f.Add(marshal(site.MenuPart{Keys: map[string]string{"1": "201"}}), marshal(site.MenuPart{Keys: map[string]string{"2": "202"}, Prompt: "x"}), false)
	f.Add(marshal([]site.Key{{Type: "blf", Value: "201"}}), []byte{}, true)
	f.Add(deletedValue(crdt.Context{{Actor: 1, Stamp: 2}}), []byte{0xff, 0xff, 0xff}, false)
	f.Fuzz(func(t *testing.T, a, b []byte, reset bool) {
		vs := []crdt.Version{{Dot: crdt.Dot{Actor: 1, Stamp: 1}, Value: a}, {Dot: crdt.Dot{Actor: 2, Stamp: 2}, Value: b}}
		if reset {
			vs[0].Flags = crdt.Reset
		}
		for n, of := range schema {
			for name, fd := range of.fields {
				c := crdt.Cell{Scope: crdt.SiteScope(siteA), Table: n, Record: "0123456789", Field: name}
				for _, v := range vs {
					if s := words(fd, c, v.Value); fd.secret && len(v.Value) > 8 && strings.Contains(s, string(v.Value)) {
						t.Fatalf("%s of %s is shown: %q", fd.name, of.name, s)
					}
				}
				if why(fd, vs) == "" {
					t.Fatalf("no reason for %s of %s", fd.name, of.name)
				}
				value, ok := both(c, vs)
				if !ok {
					continue
				}
				if fd.secret || len(value) == 0 {
					t.Fatalf("both of %s of %s are %x", fd.name, of.name, value)
				}
				if again, ok := both(c, []crdt.Version{vs[0], {Dot: crdt.Dot{Actor: 3, Stamp: 3}, Value: value}}); ok && len(again) < len(value) {
					t.Fatalf("both and one of them is less: %x, %x", value, again)
				}
			}
			if t2 := byTable[n]; t2 != nil {
				v := reflect.New(t2).Elem()
				for name := range of.fields {
					put(v, shapes[t2], name, a)
				}
			}
		}
	})
}

// FuzzMergeID: the id of a merge comes from outside.
func FuzzMergeID(f *testing.F) {
	f.Add(mergeID(MergeEdit, crdt.Cell{Scope: crdt.Fleet, Table: TableSite, Record: "x", Field: siteName}))
	f.Add("nonsense")
	f.Fuzz(func(t *testing.T, id string) {
		kind, c, err := parseMergeID(id)
		if err == nil {
			if k, again, err := parseMergeID(mergeID(kind, c)); len(mergeID(kind, c)) <= 512 && (err != nil || k != kind || again != c) {
				t.Fatalf("%q reads as %v, and that as %v (%v)", id, c, again, err)
			}
		}
	})
}

func TestWhatIsComputedIsNotRemembered(t *testing.T) {
	for c, want := range map[crdt.Cell]bool{
		{Table: TableUser, Field: userName}: true, {Table: TableUser, Field: userGreeting + "busy"}: true, {Table: TableGroup, Field: "\x20someone"}: true,
		{Table: TableInvite, Field: inviteClaim}: true, {Table: TableRoam, Field: roamAt}: false, {Table: TableDirectory, Field: dirEntry}: false,
		{Table: TableNode, Field: nodeMesh}: false, {Table: TableNode, Field: nodeName}: true, {Table: 9999, Field: "of a newer version"}: true} {
		if got := Remembered(c); got != want {
			t.Errorf("table %d field %q: %t", c.Table, c.Field, got)
		}
	}
}
