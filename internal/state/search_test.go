package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Searching in pages gives what listing everybody gives, whatever the size of the
// pages and the text.
func TestSearchInPages(t *testing.T) {
	w := newWorld(t)
	a, b := w.box(siteA, "0001"), w.box(siteB, "0002")
	for i := range 40 {
		at, n := a, 200+i
		if i%3 == 0 {
			at, n = b, 300+i
		}
		w.create(at, fmt.Sprint(n), fmt.Sprintf("%s Person %d", []string{"Ünal", "Bea", "CLEO"}[i%3], i))
	}
	w.heal()
	all := a.Users(false)
	if len(all) != 40 || !slices.IsSortedFunc(all, func(x, y User) int { return strings.Compare(x.Key(), y.Key()) }) {
		t.Fatalf("%d users, want 40 in order", len(all))
	}
	for _, text := range []string{"", "cleo", "ünal", "ÜNAL", "person 1", "0002", "nobody"} {
		var want []string
		for _, u := range all {
			if strings.Contains(strings.ToLower(u.Name), strings.ToLower(text)) || strings.Contains(u.Number, text) {
				want = append(want, u.Key())
			}
		}
		for _, size := range []int{1, 7, 40, 1000} {
			var got []string
			q := Search{Text: text, Limit: size}
			for more := true; more; {
				var us []User
				us, more = a.Search(q)
				if len(us) > size || more && len(us) != size {
					t.Fatalf("a page of %d with %d", size, len(us))
				}
				for _, u := range us {
					got, q.After = append(got, u.Key()), u.Key()
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%q in pages of %d: %d users %v, want %d", text, size, len(got), got, len(want))
			}
		}
	}
	if us, _ := a.Search(Search{Home: siteB}); len(us) != 14 || us[0].Site != siteB {
		t.Errorf("of the other site: %d", len(us))
	}
}
