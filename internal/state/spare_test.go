package state

import (
	"strings"
	"testing"
)

// TestOneRecordDoesNotKeepABoxFromStarting: a record on which the program fails
// is left out and named, in a start and in a merge; the others are served.
func TestOneRecordDoesNotKeepABoxFromStarting(t *testing.T) {
	w := newWorld(t)
	a := w.box(siteA, "0001")
	bad, good := w.create(a, "201", "Ana"), w.create(a, "202", "Bob")
	cfg := a.cfg
	cfg.plant = func(table uint16, rec string) {
		if table == TableUser && rec == string(bad.ID[:]) {
			panic("planted")
		}
	}
	s, err := Open(cfg)
	w.must(err)
	check := func(name string) {
		t.Helper()
		if u, err := s.User(good.ID); err != nil || u.Name != name {
			t.Fatalf("the other user: %+v %v", u, err)
		}
		if x := s.Unread(); len(x) != 1 || !strings.Contains(x[0], "planted") {
			t.Fatalf("what is left out: %q", x)
		}
	}
	check("Bob")
	w.set(a, bad.ID, "", Patch{Name: ptr("Anna")})
	w.set(a, good.ID, "", Patch{Name: ptr("Bert")})
	check("Bert")
}
