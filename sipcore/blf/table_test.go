package blf_test

import (
	"fmt"
	"strings"
	"testing"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/blf"
)

var (
	self, other = site.NodeID{1}, site.NodeID{2}
	ana         = site.AOR{User: "0001201", Domain: "shops.example"}
	bob         = site.AOR{User: "0001202", Domain: "shops.example"}
	orbit       = site.AOR{User: "*71", Domain: "shops.example"}
)

func chains(t *blf.Table, a site.AOR) string {
	var out []string
	for _, d := range t.Of(a) {
		out = append(out, fmt.Sprintf("%s@%d", d.Chain, d.Node[0]))
	}
	return strings.Join(out, " ")
}

func TestATableOfBothNodes(t *testing.T) {
	table := blf.NewTable(self)
	var lit, sets []string
	table.OnChange(func(a site.AOR) { lit = append(lit, a.User) })
	table.OnSet(func(chain string) { sets = append(sets, chain) })
	told := func(what, wantLit, wantSets string) {
		t.Helper()
		if got := strings.Join(lit, " "); len(lit) != len(strings.Fields(wantLit)) || !all(got, wantLit) {
			t.Errorf("%s: lamps changed: %q, want %q", what, got, wantLit)
		}
		if got := strings.Join(sets, " "); got != wantSets {
			t.Errorf("%s: told to the pair: %q, want %q", what, got, wantSets)
		}
		lit, sets = nil, nil
	}
	rings := []sipcore.DialogState{{AOR: ana}, {AOR: bob, Recipient: true}}
	table.Set("one", rings)
	told("a call", ana.User+" "+bob.User, "one")
	table.Set("one", rings)
	told("the same", "", "")
	table.Learn(other, "two", []sipcore.DialogState{{AOR: bob, Recipient: true}})
	told("a call of the other node", bob.User, "")
	table.Set("three", []sipcore.DialogState{{AOR: bob}, {AOR: bob, Recipient: true, Confirmed: true}})
	told("with himself", bob.User, "three")
	if got := chains(table, bob); got != "one@1 two@2 three@1" {
		t.Errorf("bob's: %s", got)
	}
	if got := table.Of(bob); !got[2].Confirmed {
		t.Errorf("of two states of one call the lesser is shown: %+v", got)
	}
	table.Set("one", []sipcore.DialogState{{AOR: ana, Confirmed: true}, {AOR: bob, Recipient: true}})
	told("ana only", ana.User, "one")
	if got := chains(table, bob); got != "one@1 two@2 three@1" {
		t.Errorf("a change moved a call: %s", got)
	}
	table.Set("one", []sipcore.DialogState{{AOR: orbit, Recipient: true, Confirmed: true, Parked: true}})
	told("parked", ana.User+" "+bob.User+" "+orbit.User, "one")
	table.Learn(self, "one", nil)
	table.Keep(self, nil)
	told("the other node says of ours", "", "")
	table.Learn(other, "two and a half", []sipcore.DialogState{{AOR: ana}})
	told("one more", ana.User, "")
	table.Keep(other, map[string]bool{"two": true})
	told("a snapshot without it", ana.User, "")
	table.Keep(other, nil)
	told("the other node is gone", bob.User, "")
	if got := strings.Join(table.Chains(), " "); got != "one three" || len(table.Call("one")) != 1 || table.Call("two") != nil {
		t.Errorf("ours are %s", got)
	}
	table.Set("one", nil)
	table.Set("three", nil)
	table.Set("never", nil)
	told("the end", orbit.User+" "+bob.User, "one three")
	if got := chains(table, bob) + chains(table, orbit) + chains(table, ana); got != "" {
		t.Errorf("left: %s", got)
	}
}

func all(got, want string) bool {
	for _, w := range strings.Fields(want) {
		if !strings.Contains(got, w) {
			return false
		}
	}
	return true
}

func BenchmarkSet(b *testing.B) {
	table := blf.NewTable(self)
	for i := range 1000 {
		table.Set(fmt.Sprint("call ", i), []sipcore.DialogState{{AOR: site.AOR{User: fmt.Sprint(i)}}})
	}
	for b.Loop() {
		table.Set("one", []sipcore.DialogState{{AOR: ana}, {AOR: bob, Recipient: true}})
		table.Set("one", nil)
	}
}
