package state

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"carrierclass.net/ccnode/crdt"
)

func TestManyUsersAtOnce(t *testing.T) {
	w := newWorld(t)
	a, b := w.box(siteA, "0001"), w.box(siteB, "0002")
	ctx := context.Background()
	old := w.create(a, "201", "Ana")
	specs := []Spec{
		{Number: "201", Name: "Ana"},                                       // there
		{Number: "201", Name: "Bob"},                                       // somebody else is
		{Number: "0001202", Name: "Bob", Password: "a-long-password-1"},    // new, its number in full
		{Number: "202", Name: "Cleo"},                                      // the row before has it
		{Number: "20x", Name: "Dan"},                                       // no number
		{Number: "203", Name: "Eve", E164: "+33472001203", PIN: "4711"},    // new
		{Number: "204", Name: "Finn", E164: "+33472001203"},                // its public number is taken
		{Number: "0002201", Name: "Gil"},                                   // of another site's block: as with Create
		{Number: "205", Name: "Hana", PIN: "1"},                            // a PIN that is none
		{Number: "206", Name: "Ivo", Site: siteB},                          // made by its home only
		{Number: "207", Name: strings.Repeat("x", 121)},                    // too long
		{Number: "208", Name: "Jo", Password: strings.Repeat("p", 100_00)}, // too long
	}
	got, err := a.CreateMany(ctx, "maria@pc", specs)
	w.must(err)
	want := []error{nil, ErrTaken, nil, ErrTaken, ErrInvalid, nil, ErrTaken, nil, ErrInvalid, ErrOtherSite, ErrInvalid, ErrInvalid}
	for i, m := range got {
		if !errors.Is(m.Err, want[i]) || m.Existed != (i == 0) || m.NotTried {
			t.Errorf("row %d: %+v, want %v", i, m, want[i])
		}
		if want[i] != nil && !strings.Contains(m.Err.Error(), fmt.Sprintf("%q", specs[i].Number)) {
			t.Errorf("row %d: which one? %v", i, m.Err)
		}
	}
	if got[0].User.ID != old.ID || got[0].User.Devices[0].Password != "" {
		t.Errorf("who was there: %+v", got[0].User)
	}
	if pw := got[2].User.Devices[0].Password; pw != "a-long-password-1" || len(got[5].User.Devices[0].Password) != 26 {
		t.Errorf("passwords: %q, %+v", pw, got[5].User)
	}
	w.heal()
	for _, x := range []*box{a, b} { // the others' rows left nothing behind
		for number, name := range map[string]string{"0001201": "Ana", "0001202": "Bob", "0001203": "Eve", "0002201": "Gil"} {
			if es := x.Lookup(number); len(es) != 1 || es[0].Name != name {
				t.Errorf("%s: %+v", number, es)
			}
		}
		if n := len(x.Users(true)); n != 4 {
			t.Errorf("%d users", n)
		}
	}
	if ok, why := a.Mailboxes().CheckPIN(ctx, got[5].User.ID, "4711"); !ok {
		t.Error(why)
	}
	before := len(a.m.all)
	again, err := a.CreateMany(ctx, "maria@pc", specs)
	w.must(err)
	for i, m := range again {
		if m.Existed != (got[i].Err == nil) || m.Existed && m.User.ID != got[i].User.ID {
			t.Errorf("again, row %d: %+v", i, m)
		}
	}
	if n := len(a.m.all) - before; n != 0 {
		t.Errorf("the same rows again wrote %d changes", n)
	}
}

// TestManyUsersAreFewChanges: each user is whole in one change, and a change holds
// as many as may be.
func TestManyUsersAreFewChanges(t *testing.T) {
	w := newWorld(t)
	a := w.box(siteA, "0001")
	specs := make([]Spec, MaxBulk)
	for i := range specs {
		specs[i] = Spec{Number: fmt.Sprintf("%03d", i), Name: fmt.Sprintf("Person %d", i)}
	}
	before := len(a.m.all)
	got, err := a.CreateMany(context.Background(), "a name that is too long for a reference", specs)
	w.must(err)
	in := map[string]crdt.ID{}
	for _, c := range a.m.all[before:] {
		for _, x := range c.Writes {
			if id, ok := in[x.Record]; ok && id != c.ID() {
				t.Errorf("record %x is in two changes", x.Record)
			}
			in[x.Record] = c.ID()
		}
	}
	for i, m := range got {
		if m.Err != nil || in[string(m.User.ID[:])] != in[string(m.User.Devices[0].ID[:])] {
			t.Errorf("row %d: %+v", i, m)
		}
	}
	n := len(a.m.all) - before
	t.Logf("%d users in %d changes", len(specs), n)
	if most := len(specs)/4 + len(specs)/16 + 3; n > most {
		t.Errorf("%d changes, want at most %d", n, most)
	}
	if _, err := a.CreateMany(context.Background(), "x", make([]Spec, MaxBulk+1)); !errors.Is(err, ErrInvalid) {
		t.Error("more than it takes at once:", err)
	}
	a.m.refuse = errors.New("the disk is full")
	got, err = a.CreateMany(context.Background(), "x", []Spec{{Number: "900", Name: "Zoe"}, {Number: "1", Name: "Short"}})
	w.must(err)
	if !got[0].NotTried || !errors.Is(got[0].Err, a.m.refuse) || got[1].NotTried {
		t.Errorf("the disk refuses: %+v", got)
	}
}

// TestWhoIsNotListedYetIsNotMadeTwice: the process ended between a user and its
// line in the directory.
func TestWhoIsNotListedYetIsNotMadeTwice(t *testing.T) {
	w := newWorld(t)
	a := w.box(siteA, "0001")
	u := w.create(a, "201", "Ana")
	a.mu.Lock()
	for _, e := range a.ix.of("0001201") {
		a.ix.unclaim(e)
	}
	a.mu.Unlock()
	got, err := a.CreateMany(context.Background(), "x", []Spec{{Number: "201", Name: "Ana"}, {Number: "201", Name: "Bob"}})
	w.must(err)
	if !got[0].Existed || got[0].User.ID != u.ID || !errors.Is(got[1].Err, ErrTaken) {
		t.Errorf("%+v", got)
	}
}
