package state

import (
	"context"
	"errors"
	"testing"
)

func TestAUserIsInTheDirectoryEverywhereAndItsSecretAtHomeOnly(t *testing.T) {
	w := newWorld(t)
	a1, b := w.box(siteA, "0001"), w.box(siteB, "0002")
	a2 := w.box(siteA, "")
	u := w.create(a1, "201", "Ana")
	if u.Number != "0001201" || u.Extension != "201" || len(u.Devices) != 1 || len(u.Devices[0].Password) != 26 || !u.HasPIN || u.ETag == "" {
		t.Fatalf("created %+v", u)
	}
	d := u.Devices[0]
	if d.Realm != "s0001.shops.example" {
		t.Errorf("realm %q", d.Realm)
	}
	w.heal()
	for _, x := range []*box{a1, a2, b} {
		es := x.Lookup("0001201")
		if len(es) != 1 || es[0].Name != "Ana" || es[0].Home != siteA || es[0].User != u.ID {
			t.Errorf("directory: %+v", es)
		}
	}
	md, sha := ha1("0001201", d.Realm, d.Password)
	for _, x := range []*box{a1, a2} { // both nodes of the pair serve the phone
		for _, name := range []string{"0001201", "201", d.SIPUser} {
			cs := x.Credentials(name, d.Realm)
			if len(cs) != 1 || cs[0].Device != d.ID || cs[0].AOR.String() != "sip:0001201@shops.example" || cs[0].Name != "Ana" {
				t.Fatalf("credentials of %s: %+v", name, cs)
			}
			if name == "0001201" && (cs[0].HA1MD5 != md || cs[0].HA1SHA256 != sha) {
				t.Error("the digests do not fit the password")
			}
		}
	}
	if cs := a1.Credentials("0001201", "s0002.shops.example"); cs != nil {
		t.Error("a credential is good in another site's realm")
	}
	if cs := b.Credentials("0001201", d.Realm); cs != nil {
		t.Error("another site knows the credential")
	}
	if got, err := b.User(u.ID); err != nil || got.Here || got.Name != "Ana" || got.Devices != nil {
		t.Errorf("seen from B: %+v, %v", got, err)
	}
	if _, err := b.Set(context.Background(), "Bob", u.ID, "", Patch{Name: ptr("X")}); !errors.Is(err, ErrOtherSite) {
		t.Errorf("B edits A's user: %v", err)
	}
	if pw, err := a2.Password(d.ID); err != nil || pw != d.Password {
		t.Errorf("shown on demand: %q, %v", pw, err)
	}
	if ok, why := a2.Mailboxes().CheckPIN(context.Background(), u.ID, "4711"); !ok {
		t.Error(why)
	}
	if ok, _ := a2.Mailboxes().CheckPIN(context.Background(), u.ID, "4712"); ok {
		t.Error("a wrong PIN is right")
	}
}
