package state

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

func change[T Record](t *testing.T, b *box, v T, fn func(*T)) T {
	t.Helper()
	out, err := Change(t.Context(), b.State, "Ann", headOf(&v).ID, "", func(x *T) error { fn(x); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestATrunkIsKeptAndItsSecretOnlyAtItsSite(t *testing.T) {
	w, a1, a2, b := pairAndB(t)
	in := site.Trunk{Head: site.Head{Name: "Provider"}, Kind: "register", Via: "wan", Server: "sip.example:5060", User: "u", Password: "hush hush", Order: 1,
		Number: "+33472001200", Profile: site.Profile{Identity: "pai", Every: 30}, Accept: []string{"192.0.2.0/24"}}
	made, err := Create(t.Context(), a1.State, "Ann", in)
	w.must(err)
	w.heal()
	for _, x := range []*box{a1, a2} {
		list := List[site.Trunk](x.State)
		if len(list) != 1 || list[0].ID != made.ID || list[0].Password != "" || list[0].Profile != in.Profile || !slices.Equal(list[0].Accept, in.Accept) {
			t.Errorf("kept as %+v", list)
		}
		if pw, err := Reveal[site.Trunk](x.State, made.ID, 9); pw != in.Password || err != nil {
			t.Errorf("password %q, %v", pw, err)
		}
	}
	if n := len(List[site.Trunk](b.State)); n != 0 {
		t.Errorf("another site knows %d trunks", n)
	}

	// Two people change different fields, and the same one.
	change(t, a1, made, func(x *site.Trunk) { x.Order = 2; x.Server = "one.example" })
	w.tick(time.Minute)
	change(t, a2, made, func(x *site.Trunk) { x.Channels = 4; x.Server = "two.example" })
	w.heal()
	for _, x := range []*box{a1, a2} {
		got := List[site.Trunk](x.State)[0]
		if got.Order != 2 || got.Channels != 4 || got.Server != "two.example" {
			t.Errorf("merged to %+v", got)
		}
		if ms := merges(t, x, false); len(ms) != 1 || ms[0].Field != "server" || len(ms[0].Sides) != 2 {
			t.Errorf("merges %+v", ms)
		}
		if pw, _ := Reveal[site.Trunk](x.State, made.ID, 9); pw != in.Password {
			t.Error("an edit lost the password")
		}
	}

	// A stale tab loses nothing either.
	seen, err := Named[site.Trunk](a1.State, "provider")
	w.must(err)
	change(t, a1, made, func(x *site.Trunk) { x.Order = 7 })
	_, err = Change(t.Context(), a1.State, "Bob", made.ID, seen.ETag, func(x *site.Trunk) error { x.Order = 9; return nil })
	w.must(err)
	if ms := merges(t, a1, false); len(ms) != 2 {
		t.Errorf("a stale write left %d merges, want 2", len(ms))
	}
	if _, err := Change(t.Context(), a1.State, "Bob", made.ID, "nonsense", func(*site.Trunk) error { return nil }); !errors.Is(err, ErrToken) {
		t.Errorf("a wrong ETag: %v", err)
	}

	change(t, a2, made, func(x *site.Trunk) { x.Deleted = true })
	w.heal()
	if n := len(List[site.Trunk](a1.State)); n != 0 {
		t.Errorf("%d trunks after the delete", n)
	}
}

func TestAGroupIsInTheDirectoryAndAdditionsWin(t *testing.T) {
	w, a1, a2, b := pairAndB(t)
	var ids []string
	for i := range 4 {
		ids = append(ids, w.create(a1, fmt.Sprint(201+i), fmt.Sprint("U", i)).ID.String())
	}
	w.heal()
	g, err := Create(t.Context(), a1.State, "Ann", site.Group{Head: site.Head{Name: "Sales"}, Number: "300", Members: ids[:2]})
	w.must(err)
	w.heal()
	if es := b.Lookup("0001300"); len(es) != 1 || es[0].Kind != GroupEntry || es[0].User != g.ID || es[0].Home != siteA {
		t.Errorf("another site knows %+v", es)
	}
	if us := b.Users(false); len(us) != 4 {
		t.Errorf("%d users, and a group is none", len(us))
	}
	change(t, a1, g, func(x *site.Group) { x.Members = append(x.Members, ids[2]) })
	change(t, a2, g, func(x *site.Group) { x.Members = []string{ids[1], ids[3]} }) // without the first
	w.heal()
	for _, x := range []*box{a1, a2} {
		got := List[site.Group](x.State)[0].Members
		want := slices.Sorted(slices.Values([]string{ids[1], ids[2], ids[3]}))
		if !slices.Equal(got, want) {
			t.Errorf("members %v, want %v", got, want)
		}
	}
	if _, err := a1.Create(t.Context(), "Ann", Spec{Number: "300", Name: "X"}); !errors.Is(err, ErrTaken) {
		t.Errorf("a user gets the group's number: %v", err)
	}
	if _, err := Create(t.Context(), a2.State, "Ann", site.Menu{Head: site.Head{Name: "M"}, Number: "201"}); !errors.Is(err, ErrTaken) {
		t.Errorf("a menu gets a user's number: %v", err)
	}
	change(t, a2, g, func(x *site.Group) { x.Number = "301" })
	w.heal()
	if len(b.Lookup("0001300")) != 0 || len(b.Lookup("0001301")) != 1 {
		t.Error("the directory does not follow a renumbered group")
	}
	change(t, a1, g, func(x *site.Group) { x.Deleted = true })
	w.heal()
	if len(b.Lookup("0001301")) != 0 {
		t.Error("a deleted group can still be called")
	}
}

func TestRecordsThatMakeNoSenseAreRefused(t *testing.T) {
	w := newWorld(t)
	a := w.box(siteA, "0001")
	u := w.create(a, "201", "Ana")
	try := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx := context.Background()
	ok := site.Trunk{Head: site.Head{Name: "P"}, Kind: "peer", Via: "lan", Server: "192.0.2.1"}
	for what, fn := range map[string]func(*site.Trunk){
		"no name": func(x *site.Trunk) { x.Name = "" }, "kind": func(x *site.Trunk) { x.Kind = "x" }, "via": func(x *site.Trunk) { x.Via = "" },
		"no server": func(x *site.Trunk) { x.Server = "" }, "a server with a user": func(x *site.Trunk) { x.Server = "a@b" }, "no account": func(x *site.Trunk) { x.Kind = "register" },
		"prefix": func(x *site.Trunk) { x.Accept = []string{"192.0.2.0/99"} }, "number": func(x *site.Trunk) { x.Number = "0472" }, "identity": func(x *site.Trunk) { x.Profile.Identity = "?" },
		"control": func(x *site.Trunk) { x.Domain = "a\r\nb" },
		"a test that rings at an emergency centre": func(x *site.Trunk) { x.TestNumber = "112" }, "no number to test with": func(x *site.Trunk) { x.TestNumber = "ask Bob" }} {
		v := ok
		fn(&v)
		_, err := Create(ctx, a.State, "Ann", v)
		try(what, err)
	}
	for what, v := range map[string]site.Group{
		"no such member": {Number: "300", Members: []string{"aaaaaaaaaaaaaaaa"}}, "no id": {Number: "300", Members: []string{"ana"}},
		"strategy": {Number: "300", Strategy: "loud"}, "number": {Number: "3x0"}, "ring": {Number: "300", Ring: 1}} {
		v.Name = what
		_, err := Create(ctx, a.State, "Ann", v)
		try(what, err)
	}
	for what, v := range map[string]site.Menu{"key": {Number: "300", Open: site.MenuPart{Keys: map[string]string{"12": "201"}}}, "hours": {Number: "300", Hours: u.ID.String()},
		"target": {Number: "300", Open: site.MenuPart{Keys: map[string]string{"1": ""}}}} {
		v.Name = what
		_, err := Create(ctx, a.State, "Ann", v)
		try(what, err)
	}
	_, err := Create(ctx, a.State, "Ann", site.Hours{Head: site.Head{Name: "x"}, Zone: "Mars/Base"})
	try("zone", err)
	_, err = Create(ctx, a.State, "Ann", site.Phone{Head: site.Head{Name: "x"}, MAC: "001565aabbcc", Vendor: "yealink", Lines: []string{u.ID.String()}})
	try("a user is no line", err)
	if len(List[site.Trunk](a.State))+len(List[site.Group](a.State))+len(List[site.Menu](a.State)) != 0 {
		t.Error("something refused was kept")
	}
}

// Every record survives being written and read, whatever its fields hold.
func TestRecordsReadBackAsWritten(t *testing.T) {
	w := newWorld(t)
	a := w.box(siteA, "0001")
	u := w.create(a, "201", "Ana")
	line := a.mustUser(t, u).Devices[0].ID.String()
	same := func(got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("read  %+v\nwrote %+v", got, want)
		}
	}
	h, err := Create(t.Context(), a.State, "Ann", site.Hours{Head: site.Head{Name: "Shop"}, Zone: "Europe/Paris", Text: "Mo-Fr 09:00-18:00", Override: "closed", Until: 1 << 33})
	w.must(err)
	same(List[site.Hours](a.State)[0], site.Hours{Head: site.Head{ID: h.ID, Name: "Shop"}, Zone: "Europe/Paris", Text: "Mo-Fr 09:00-18:00", Override: "closed", Until: 1 << 33})
	m := site.Menu{Head: site.Head{Name: "Menu"}, Number: "300", Hours: h.ID.String(), Open: site.MenuPart{Prompt: "welcome", Keys: map[string]string{"1": "201", "#": "repeat"}},
		Closed: site.MenuPart{Forward: "voicemail 201"}, Dial: true, Tries: 2, Wait: 4, Default: "201"}
	out, err := Create(t.Context(), a.State, "Ann", m)
	w.must(err)
	m.ID = out.ID
	same(List[site.Menu](a.State)[0], m)
	p := site.Phone{Head: site.Head{Name: "till 1"}, MAC: "001565aabbcc", Vendor: "yealink", Lines: []string{line}, Keys: []site.Key{{Type: "blf", Value: "202", Label: "Ben"}}, Admin: "secret"}
	made, err := Create(t.Context(), a.State, "Ann", p)
	w.must(err)
	p.ID, p.Admin = made.ID, ""
	same(List[site.Phone](a.State)[0], p)
	x := site.Shop{Head: site.Head{Name: "Lyon"}, Zone: "Europe/Paris", Address: "1 rue X", CallBack: "+33472001200"}
	sh, err := Create(t.Context(), a.State, "Ann", x)
	w.must(err)
	x.ID = sh.ID
	same(List[site.Shop](a.State)[0], x)
	if _, err := Create(t.Context(), a.State, "Ann", x); !errors.Is(err, ErrTaken) {
		t.Errorf("a second shop: %v", err)
	}
	n, err := Create(t.Context(), a.State, "Ann", site.Inbound{Head: site.Head{Name: "+33472001200"}, To: "300"})
	w.must(err)
	if _, err := Create(t.Context(), a.State, "Ann", site.Inbound{Head: site.Head{Name: n.Name}, To: "201"}); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "300") {
		t.Errorf("the same number twice: %v", err)
	}
}

func (b *box) mustUser(t *testing.T, u User) User {
	t.Helper()
	return user(t, b, u.ID)
}
