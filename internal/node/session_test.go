package node

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
)

// TestABoxWritesAnotherSiteInASession: the change goes to the other site and
// counts there; without a session the box does not make it.
func TestABoxWritesAnotherSiteInASession(t *testing.T) {
	a := newBox(t, "a").up("")
	c := newBox(t, "c").up(a.invite("0002"))
	own, err := a.n.book.Member(a.n.id.Node())
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	fleet := a.n.book.Fleet()
	ann, err := a.n.id.IssueAdmin(fleet, own, trust.Admin{Key: key.Public().(ed25519.PublicKey), Name: "ann", Fleet: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.n.engine.Commit(t.Context(), replica.Mutation{Scope: crdt.Trust, Writes: []crdt.Write{trust.AdminWrite(ann)}}); err != nil {
		t.Fatal(err)
	}
	until(t, "c knows the administrator", func() bool { return len(c.n.book.Admins()) == 1 })
	box, err := c.n.book.Member(c.n.id.Node())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s, err := trust.LogIn(fleet, ann, key, box, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	scope := crdt.SiteScope(own.Site)
	user := site.RecordID{7}
	w := crdt.Write{Table: state.TableUser, Record: string(user[:]), Field: "\x02", Value: []byte("Zoe")}
	m := replica.Mutation{Scope: scope, Writes: []crdt.Write{w}}
	if _, err := c.n.engine.Commit(t.Context(), m); !errors.Is(err, replica.ErrForbidden) {
		t.Errorf("without a session: %v", err)
	}
	m.By, m.Ext, m.Auth = s.By(), s.Ext(), s.Auth()
	if _, err := c.n.engine.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	until(t, "the change counts at its site", func() (ok bool) {
		a.n.engine.View(func(v replica.View) {
			for _, x := range v.Set(scope).Versions(crdt.Cell{Scope: scope, Table: w.Table, Record: w.Record, Field: w.Field}) {
				ok = ok || string(x.Value) == "Zoe"
			}
		})
		return ok
	})
}
