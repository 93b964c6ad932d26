package trust

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

func (f *fleet) appoint(by *Identity, g *Grant, a Admin) (*Admin, ed25519.PrivateKey) {
	f.t.Helper()
	key := f.identity().Private()
	a.Key = key.Public().(ed25519.PublicKey)
	out, err := by.IssueAdmin(f.found.ID(), g, a)
	if err != nil {
		f.t.Fatal(err)
	}
	return out, key
}

func (f *fleet) login(a *Admin, key ed25519.PrivateKey, box *Grant) *Session {
	f.t.Helper()
	at := time.UnixMilli(f.stamp.Millis())
	s, err := LogIn(f.found.ID(), a, key, box, at, at.Add(time.Hour))
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// under writes as a box does that shows a session.
func (f *fleet) under(i *Identity, s *Session, at crdt.Stamp, scope crdt.Scope, w crdt.Write) *crdt.Change {
	f.t.Helper()
	c := &crdt.Change{Scope: scope, Node: crdt.NodeID(i.Node()), Actor: 1, Stamp: at, Auth: s.Auth(), By: s.By(), Ext: s.Ext(), Writes: []crdt.Write{w}}
	if err := crdt.Seal(c, f.found.ID(), i.Sign); err != nil {
		f.t.Fatal(err)
	}
	return c
}

// judge is what a receiver does: the key, the signature, the rights.
func (f *fleet) judge(c *crdt.Change) (Verdict, error) {
	got, err := crdt.Decode(c.Raw())
	if err != nil {
		return Refuse, err
	}
	key, ok := f.book.Key(got)
	if !ok {
		return Hold, ErrUnknown
	}
	if !got.Verify(f.found.ID(), key) {
		return Refuse, errors.New("signature")
	}
	return f.book.Admit(got)
}

// TestASessionWritesAnotherSite: a box writes another site only for an
// administrator who logged in there, within the rights and the time; whatever a
// bad box does to the session, no member applies its change.
func TestASessionWritesAnotherSite(t *testing.T) {
	f := newFleet(t, 1)
	box, bg := f.admit(f.founder, f.fgrant, siteB, AdmitSite)
	other, og := f.admit(f.founder, f.fgrant, siteB, AdmitSite)
	ann, akey := f.appoint(f.founder, f.fgrant, Admin{Name: "ann", Sites: []site.ID{siteA}, Issued: 3})
	bob, bkey := f.appoint(box, bg, Admin{Name: "bob", Sites: []site.ID{siteB}, Issued: 3})
	all, allkey := f.appoint(f.founder, f.fgrant, Admin{Name: "all", Fleet: true, Issued: 3})
	user := crdt.Write{Table: SiteOwn, Record: "u", Field: "\x02", Value: []byte("Ann")}
	scope := crdt.SiteScope(siteA)
	s, now := f.login(ann, akey, bg), f.stamp+1
	hour := crdt.MakeStamp(now.Millis()+time.Hour.Milliseconds(), 0)
	if v, err := f.judge(f.change(box, bg, scope, user)); v != Refuse || !errors.Is(err, ErrForbidden) {
		t.Errorf("without a session: %d, %v", v, err)
	}
	if v, err := f.judge(f.under(box, s, now, scope, user)); v != Accept {
		t.Fatalf("with a session: %d, %v", v, err)
	}
	if v, err := f.judge(f.under(box, f.login(all, allkey, bg), now, crdt.Fleet, crdt.Write{Table: FleetSettings, Record: "r", Field: "\x01"})); v != Accept {
		t.Errorf("the settings of the fleet: %d, %v", v, err)
	}
	longer := *s
	longer.End += 1000
	longer.raw = longer.wire(s.raw[len(s.raw)-ed25519.SignatureSize:])
	moved := *s
	moved.Node, moved.Grant = other.Node(), og.ID()
	moved.raw = moved.wire(s.raw[len(s.raw)-ed25519.SignatureSize:])
	wide := *all
	wide.Parent = bg.ID()
	body := wide.body()
	wide.raw = append(body, box.Sign(signed(adminWhat, f.found.ID(), body))...)
	table := func(n uint16) crdt.Write {
		return crdt.Write{Table: n, Record: "u", Field: "\x02", Value: []byte("x")}
	}
	for _, x := range []struct {
		what string
		c    *crdt.Change
		want Verdict
	}{
		{"another box shows it", f.under(other, s, now, scope, user), Hold},
		{"another box moves it to itself", f.under(other, &moved, now, scope, user), Refuse},
		{"its end is later", f.under(box, &longer, now, scope, user), Refuse},
		{"after its end", f.under(box, s, crdt.MakeStamp(hour.Millis()+6*60_000, 0), scope, user), Refuse},
		{"before its start", f.under(box, s, crdt.MakeStamp(now.Millis()-6*60_000, 0), scope, user), Refuse},
		{"for a third site", f.under(box, s, now, crdt.SiteScope(site.ID{7}), user), Refuse},
		{"of another site's administrator", f.under(box, f.login(bob, bkey, bg), now, scope, user), Refuse},
		{"its issuer may not give that", f.under(box, f.login(&wide, allkey, bg), now, scope, user), Refuse},
		{"the settings of the fleet", f.under(box, s, now, crdt.Fleet, table(FleetSettings)), Refuse},
		{"where users roam", f.under(box, f.login(all, allkey, bg), now, crdt.Fleet, table(TableRoam)), Refuse},
		{"a wrap of the site's key", f.under(box, s, now, scope, table(SiteOwn+6)), Refuse},
		{"a keeper", f.under(box, s, now, scope, table(TableKeeper)), Refuse},
		{"a table of a later version", f.under(box, s, now, scope, table(TableKeeper+1)), Hold},
		{"a purge", f.under(box, s, now, scope, crdt.Write{Table: SiteOwn, Record: "u", Flags: crdt.Final}), Refuse},
	} {
		if v, err := f.judge(x.c); v != x.want {
			t.Errorf("%s: %d, want %d (%v)", x.what, v, x.want, err)
		}
	}
	for _, d := range []time.Duration{0, -time.Hour, MaxSession + time.Millisecond} {
		at := time.UnixMilli(now.Millis())
		if _, err := LogIn(f.found.ID(), ann, akey, bg, at, at.Add(d)); !errors.Is(err, ErrMalformed) {
			t.Errorf("a session of %s: %v", d, err)
		}
	}
	edge := crdt.MakeStamp(hour.Millis()+4*60_000, 0)
	if v, err := f.judge(f.under(box, s, edge, scope, user)); v != Accept {
		t.Errorf("a clock that is 4 minutes ahead: %d, %v", v, err)
	}
	// Who does not know the box's grant yet holds the change, as does a version
	// that knows no sessions.
	f.book = NewBook(f.found)
	if v, _ := f.judge(f.under(box, s, now, scope, user)); v != Hold {
		t.Errorf("an unknown box: %d", v)
	}
}

// TestAdministratorsAreAppointedAndEnded: the rights of who appoints bound those
// of who is appointed; an end beats what is concurrent, in any order.
func TestAdministratorsAreAppointedAndEnded(t *testing.T) {
	f := newFleet(t, 1)
	box, bg := f.admit(f.founder, f.fgrant, siteB, AdmitSite)
	plain, pg := f.admit(f.founder, f.fgrant, siteB, 0)
	for _, x := range []struct {
		i *Identity
		g *Grant
		a Admin
	}{{box, bg, Admin{Name: "x", Fleet: true}}, {box, bg, Admin{Name: "x", Sites: []site.ID{siteA}}}, {plain, pg, Admin{Name: "x", Sites: []site.ID{siteB}}}} {
		x.a.Key = x.i.Public()
		if _, err := x.i.IssueAdmin(f.found.ID(), x.g, x.a); !errors.Is(err, ErrRights) {
			t.Errorf("%v appoints %v: %v", x.g.Rights, x.a, err)
		}
	}
	ann, key := f.appoint(f.founder, f.fgrant, Admin{Name: "ann", Fleet: true, Issued: 3})
	seed := key.Seed()
	sealed, err := SealAdminKey(f.found.ID(), seed, "a long password", f.rand)
	if err != nil {
		t.Fatal(err)
	}
	kw := AdminKeyWrite(f.found.ID(), key, sealed)
	if v, err := f.judge(f.change(box, bg, crdt.Trust, kw)); v != Accept {
		t.Errorf("any box may bring a new password's key: %v", err)
	}
	forged := kw
	forged.Value = AdminKeyWrite(f.found.ID(), box.Private(), sealed).Value
	if v, _ := f.judge(f.change(box, bg, crdt.Trust, forged)); v != Refuse {
		t.Errorf("a key that another signed: %d", v)
	}
	if v, _ := f.judge(f.change(box, bg, crdt.Trust, RevokeAdminWrite(ann))); v != Refuse {
		t.Errorf("who may not appoint ends: %d", v)
	}
	if v, err := f.judge(f.change(f.founder, f.fgrant, crdt.Trust, AdminWrite(ann))); v != Accept || len(f.book.Admins()) != 1 {
		t.Fatalf("appointed: %d, %v, %v", v, err, f.book.Admins())
	}
	got, err := SealedKey(f.found.ID(), ann.ID(), kw.Value)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAdminKey(f.found.ID(), ann, got, "a wrong password"); !errors.Is(err, ErrSealed) {
		t.Errorf("a wrong password: %v", err)
	}
	if k, err := OpenAdminKey(f.found.ID(), ann, got, "a long password"); err != nil || !bytes.Equal(k, key) {
		t.Errorf("the password: %v", err)
	}
	if v, err := f.judge(f.change(f.founder, f.fgrant, crdt.Trust, RevokeAdminWrite(ann))); v != Accept {
		t.Fatalf("ended: %v", err)
	}
	if v, err := f.judge(f.change(f.founder, f.fgrant, crdt.Trust, AdminWrite(ann))); v != Accept || err != nil {
		t.Fatalf("the record once more: %v", err)
	}
	if _, err := f.book.Admin(ann.ID()); !errors.Is(err, ErrRevoked) || len(f.book.Admins()) != 0 {
		t.Errorf("an end is not undone: %v", err)
	}
}

// FuzzSession: what a box shows as a session never panics, has one encoding, and
// only one that the administrator signed lets it write.
func FuzzSession(f *testing.F) {
	fl := newFleet(f, 1)
	box, bg := fl.admit(fl.founder, fl.fgrant, siteB, AdmitSite)
	ann, key := fl.appoint(fl.founder, fl.fgrant, Admin{Name: "ann", Sites: []site.ID{siteA}, Issued: 3})
	good := fl.login(ann, key, bg)
	f.Add(good.raw)
	f.Add([]byte{0x87, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeSession(b)
		if err != nil {
			return
		}
		c := &crdt.Change{Scope: crdt.SiteScope(siteA), Node: crdt.NodeID(box.Node()), Actor: 1, Stamp: fl.stamp + 1, Auth: s.Auth(), By: s.By(), Ext: s.Ext(),
			Writes: []crdt.Write{{Table: SiteOwn, Record: "u", Field: "\x02"}}}
		if fl.book.session(c, &c.Writes[0]) == nil && !bytes.Equal(b, good.raw) {
			t.Fatalf("took %x for a session", b)
		}
	})
}

// FuzzAdminKey: a sealed key from outside never panics and never costs more than
// the limits.
func FuzzAdminKey(f *testing.F) {
	fl := newFleet(f, 1)
	key := fl.identity().Private()
	sealed, err := SealAdminKey(fl.found.ID(), key.Seed(), "password", fl.rand)
	if err != nil {
		f.Fatal(err)
	}
	id := NodeID(key.Public().(ed25519.PublicKey))
	good := AdminKeyWrite(fl.found.ID(), key, sealed).Value
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := SealedKey(fl.found.ID(), id, b); err == nil && (!bytes.Equal(b, good) || !bytes.Equal(got, sealed)) {
			t.Fatalf("took %x for the key", b)
		}
		if w, err := decodeSealedKey(b); err == nil && (w.KiB > maxArgonKiB || w.Time > maxArgonTime) {
			t.Fatalf("took %d passes over %d KiB", w.Time, w.KiB)
		}
	})
}

func BenchmarkOpenAdminKey(b *testing.B) {
	f := newFleet(b, 1)
	ann, key := f.appoint(f.founder, f.fgrant, Admin{Name: "ann", Fleet: true})
	sealed, err := SealAdminKey(f.found.ID(), key.Seed(), "password", f.rand)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := OpenAdminKey(f.found.ID(), ann, sealed, "password"); err != nil {
			b.Fatal(err)
		}
	}
}
