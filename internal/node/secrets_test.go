package node

import (
	"encoding/json"
	"strings"
	"testing"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
)

// TestWhatALostBoxCouldOpen: the wraps say it, site by site; a box that never
// had a key of a site could open nothing there, and no secret is shown.
func TestWhatALostBoxCouldOpen(t *testing.T) {
	a := newBox(t, "a").up("")
	b := newBox(t, "b").up(a.invite(""))
	c := newBox(t, "c").up(a.invite("0002"))
	ana := a.user("201", "Ana")
	pin := "73519"
	if _, err := a.n.state.Set(t.Context(), "test", ana.ID, "", state.Patch{PIN: &pin}); err != nil {
		t.Fatal(err)
	}
	line, err := state.Create(t.Context(), a.n.state, "test", site.Trunk{Head: site.Head{Name: "north line"}, Kind: "register", Via: "wan",
		Server: "sip.provider.example", User: "4711", Password: "Of-the-provider-9d2e"})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the second box of the pair has the key", func() bool { return len(a.n.state.HeldBy(b.n.id.Node())) == 1 })
	until(t, "the founder knows the other site's box", func() bool { return a.back.Status(t.Context()).Fleet.Nodes == 3 })

	own := func(x api.NodeSecrets) (of api.SiteSecrets) {
		for _, s := range x.Sites {
			if s.Site == a.n.state.Own().Code {
				of = s
			}
		}
		return of
	}
	want := map[string]string{"device password": "Ana", "user PIN": "Ana", "trunk password": "north line"}
	check := func(when, who string, current bool) {
		t.Helper()
		x, err := a.back.NodeSecrets(t.Context(), who)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		of := own(x)
		got := map[string]string{}
		for _, s := range of.Secrets {
			got[s.Kind+" "+s.What] = s.Name
			if len(of.Keys) != 1 || s.Key != of.Keys[0] {
				t.Errorf("%s: %s %s is under key %s, the box had %q", when, s.Kind, s.What, s.Key, of.Keys)
			}
			if s.Kind == "trunk" && s.ID != line.ID.String() {
				t.Errorf("%s: the trunk's id is %s", when, s.ID)
			}
		}
		for what, name := range want {
			if got[what] != name {
				t.Errorf("%s: %s is of %q, want %q; all: %v", when, what, got[what], name, got)
			}
		}
		if len(got) != len(want) || of.Current != current || len(of.Made) == 0 {
			t.Errorf("%s: %+v", when, of)
		}
		raw, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{passwordOf("Ana"), pin, "Of-the-provider"} {
			if strings.Contains(string(raw), s) {
				t.Errorf("%s: the report shows the secret %q", when, s)
			}
		}
	}
	check("before", a.n.nodeName(b.n.id.Node()), true)

	if x, err := a.back.NodeSecrets(t.Context(), c.n.id.Node().String()); err != nil || len(own(x).Keys)+len(own(x).Secrets) != 0 {
		t.Errorf("the other site's box could open something of this one: %+v, %v", x, err)
	}
	if x, err := c.back.NodeSecrets(t.Context(), b.n.id.Node().String()); err != nil || len(x.Unknown) != 1 || x.Unknown[0] != a.n.state.Own().Code {
		t.Errorf("the other site's box answers for a site whose state it does not hold: %+v, %v", x, err)
	}
	if _, err := a.back.NodeSecrets(t.Context(), "nobody"); err == nil {
		t.Error("a box that never was could open something")
	}

	// It goes by its id once it is revoked. What is sealed after that, under a key
	// that it was never given, is not among it.
	id := b.n.id.Node().String()
	if err := a.back.RevokeNode(t.Context(), "test", id, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "a new key is used", func() bool { return !a.n.state.Exposes() })
	check("revoked", id, false)
	a.user("202", "Bob")
	check("after the next key", id, false)
}
