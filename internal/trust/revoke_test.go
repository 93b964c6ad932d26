package trust

import (
	"errors"
	"testing"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

func (f *fleet) revoke(by *Identity, g *Grant, r Revocation) Verdict {
	f.t.Helper()
	w, err := r.Write()
	if err != nil {
		f.t.Fatal(err)
	}
	v, _ := f.book.Admit(f.change(by, g, crdt.Trust, w))
	return v
}

func TestRevocationClosesLinksAndKeepsThePast(t *testing.T) {
	f := newFleet(t, 1)
	b, bg := f.admit(f.founder, f.fgrant, siteB, AdmitSite)
	c, cg := f.admit(b, bg, siteB, 0)
	d, _ := f.admit(b, bg, siteB, 0)
	before := f.change(b, bg, crdt.SiteScope(siteB), crdt.Write{Table: SiteOwn, Record: "r", Field: "\x01"})

	if v := f.revoke(c, cg, Revocation{Node: b.Node()}); v != Refuse {
		t.Errorf("a node without the right revoked: %d", v)
	}
	if v := f.revoke(b, bg, Revocation{Node: f.founder.Node()}); v == Accept {
		t.Error("an own-site issuer revoked another site's node")
	}
	if v := f.revoke(f.founder, f.fgrant, Revocation{Node: b.Node(), Reason: "stolen", Keeps: []crdt.Ref{cg.ID()}}); v != Accept {
		t.Fatalf("revoke: %d", v)
	}
	if _, err := f.book.Member(b.Node()); !errors.Is(err, ErrRevoked) {
		t.Errorf("the revoked: %v", err)
	}
	if _, err := f.book.Member(c.Node()); err != nil {
		t.Errorf("admitted by the revoked, kept: %v", err)
	}
	if _, err := f.book.Member(d.Node()); !errors.Is(err, ErrRevoked) {
		t.Errorf("admitted by the revoked, not kept: %v", err)
	}
	// What it signed stays valid: an honest member may have taken it before.
	if v, err := f.book.Admit(before); v != Accept {
		t.Errorf("the past was rewritten: %v", err)
	}
	if n := len(f.book.Members(siteB)); n != 1 {
		t.Errorf("%d members at B, want 1", n)
	}
}

func TestTwoAdministratorsRevokeEachOther(t *testing.T) {
	f := newFleet(t, 1)
	b, bg := f.admit(f.founder, f.fgrant, siteB, AdmitFleet|AdmitSite)
	f.revoke(f.founder, f.fgrant, Revocation{Node: b.Node()})
	f.revoke(b, bg, Revocation{Node: f.founder.Node(), Keeps: []crdt.Ref{}})
	for _, n := range []site.NodeID{b.Node(), f.founder.Node()} {
		if _, err := f.book.Member(n); !errors.Is(err, ErrRevoked) {
			t.Errorf("node %s is still in: %v", n, err)
		}
	}
	// The recovery sheet brings an issuer back.
	root, err := RootFromWords(f.root.Words())
	if err != nil {
		t.Fatal(err)
	}
	n := f.identity()
	g, err := root.Issue(f.found.ID(), Name{Key: n.Public(), Seal: n.SealKey(), Site: siteA, Rights: AdmitFleet}, f.rand)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.book.Add(g); err != nil || len(f.book.Issuers()) != 1 {
		t.Errorf("recovered: %v, %d issuers", err, len(f.book.Issuers()))
	}
}

func TestAProofOfTwoChangesUnderOneDotEndsANode(t *testing.T) {
	f := newFleet(t, 1)
	b, bg := f.admit(f.founder, f.fgrant, siteB, 0)
	one := f.change(b, bg, crdt.SiteScope(siteB), crdt.Write{Table: SiteOwn, Record: "r", Field: "\x01", Value: []byte("1")})
	f.stamp--
	two := f.change(b, bg, crdt.SiteScope(siteB), crdt.Write{Table: SiteOwn, Record: "r", Field: "\x01", Value: []byte("2")})
	honest := f.change(b, bg, crdt.SiteScope(siteB), crdt.Write{Table: SiteOwn, Record: "r", Field: "\x01", Value: []byte("3")})

	for _, pair := range [][2]*crdt.Change{{one, honest}, {one, one}} {
		w, err := ProofWrite(pair[0], pair[1])
		if err != nil {
			t.Fatal(err)
		}
		if v, _ := f.book.Admit(f.change(f.founder, f.fgrant, crdt.Trust, w)); v != Refuse {
			t.Errorf("a proof of nothing was taken: %d", v)
		}
	}
	w, err := ProofWrite(one, two)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := f.book.Admit(f.change(f.founder, f.fgrant, crdt.Trust, w)); v != Accept {
		t.Fatal(err)
	}
	if _, err := f.book.Member(b.Node()); !errors.Is(err, ErrRevoked) {
		t.Errorf("the cheat is still in: %v", err)
	}
}

func TestSealedSecretsOpenOnlyWithAWrapAndInTheirPlace(t *testing.T) {
	f := newFleet(t, 1)
	a, b := f.identity(), f.identity()
	key, err := NewSiteKey(f.rand)
	if err != nil {
		t.Fatal(err)
	}
	wrap, err := key.Wrap(siteA, a.SealKey(), f.rand)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Unwrap(siteA, wrap); !errors.Is(err, ErrSealed) {
		t.Errorf("another node opened the wrap: %v", err)
	}
	if _, err := a.Unwrap(siteB, wrap); !errors.Is(err, ErrSealed) {
		t.Errorf("the wrap opened for another site: %v", err)
	}
	ring := NewKeyring()
	if _, err := ring.Seal(nil, []byte("x"), f.rand); !errors.Is(err, ErrSealed) {
		t.Errorf("sealed without a key: %v", err)
	}
	got, err := a.Unwrap(siteA, wrap)
	if err != nil || got != key {
		t.Fatal(err)
	}
	ring.Add(got)
	ring.Use(got.Epoch())
	cell := crdt.Cell{Scope: crdt.SiteScope(siteA), Table: 1, Record: "r", Field: "f"}
	sealed, err := ring.Seal(Where(cell), []byte("secret"), f.rand)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := ring.Open(Where(cell), sealed); err != nil || string(back) != "secret" {
		t.Fatalf("%q, %v", back, err)
	}
	moved := cell
	moved.Record = "s"
	if _, err := ring.Open(Where(moved), sealed); !errors.Is(err, ErrSealed) {
		t.Errorf("copied to another user it opens: %v", err)
	}
	if _, err := NewKeyring().Open(Where(cell), sealed); !errors.Is(err, ErrSealed) {
		t.Errorf("opened without a key: %v", err)
	}
	for i := range sealed {
		sealed[i] ^= 1
		if _, err := ring.Open(Where(cell), sealed); !errors.Is(err, ErrSealed) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		sealed[i] ^= 1
	}
}

func FuzzDecodeGrant(f *testing.F) {
	fl := newFleet(f, 1)
	f.Add(fl.fgrant.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := DecodeGrant(b)
		if err != nil {
			return
		}
		if string(g.Encode()) != string(b) {
			t.Fatal("two encodings of one grant")
		}
		if g.ID() != fl.fgrant.ID() && fl.book.Add(g) == nil {
			t.Fatal("a grant nobody signed was believed")
		}
	})
}

func FuzzVerifyChain(f *testing.F) {
	fl := newFleet(f, 1)
	c, err := fl.book.Chain(fl.fgrant)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := VerifyChain(b, fl.found.ID(), fl.founder.Public()); err == nil && string(got.Encode()) != string(b) {
			t.Fatal("two encodings of one chain")
		}
	})
}

func FuzzAdmit(f *testing.F) {
	fl := newFleet(f, 1)
	r, err := (&Revocation{Node: site.NodeID{7}, Reason: "x", Keeps: []crdt.Ref{{1}}}).Write()
	if err != nil {
		f.Fatal(err)
	}
	for _, w := range []crdt.Write{GrantWrite(fl.fgrant), FoundingWrite(fl.found), r} {
		f.Add(w.Table, w.Record, w.Field, w.Value, uint8(w.Flags))
	}
	f.Fuzz(func(t *testing.T, table uint16, rec, field string, value []byte, flags uint8) {
		c := &crdt.Change{Scope: crdt.Trust, Node: crdt.NodeID(fl.founder.Node()), Actor: 1, Stamp: 1 << 40, Auth: fl.fgrant.ID(),
			Writes: []crdt.Write{{Table: table, Record: rec, Field: field, Value: value, Flags: crdt.Flags(flags)}}}
		if crdt.Seal(c, fl.found.ID(), fl.founder.Sign) != nil {
			return
		}
		fl.book.Admit(c)
		fl.book.Standings()
	})
}
