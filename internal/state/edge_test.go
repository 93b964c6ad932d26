package state

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

func TestWrongWishesAreRefusedWithTheReason(t *testing.T) {
	w, a1, _, _ := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.set(a1, u.ID, "", Patch{E164: ptr("+33472001201")})
	long := strings.Repeat("x", 121)
	for _, c := range []struct {
		what string
		n    Spec
		want error
		says string
	}{
		{"taken", Spec{Number: "201"}, ErrTaken, "Ana"},
		{"taken, in full", Spec{Number: "0001201"}, ErrTaken, "site 0001"},
		{"no digits", Spec{Number: "20a"}, ErrInvalid, "digits"},
		{"too long", Spec{Number: "2011"}, ErrInvalid, "3 digits"},
		{"no such site", Spec{Number: "9999201"}, ErrInvalid, "site's code"},
		{"elsewhere", Spec{Number: "202", Site: siteB}, ErrOtherSite, "0002"},
		{"weak password", Spec{Number: "202", Password: "1234"}, ErrInvalid, "8 to 128"},
		{"PIN", Spec{Number: "202", PIN: "12"}, ErrInvalid, "4 to 12 digits"},
		{"E.164", Spec{Number: "202", E164: "0472"}, ErrInvalid, "+"},
		{"E.164 taken", Spec{Number: "202", E164: "+33472001201"}, ErrTaken, "Ana"},
		{"name", Spec{Number: "202", Name: long}, ErrInvalid, "120"},
		{"control", Spec{Number: "202", Name: "a\nb"}, ErrInvalid, "control"},
	} {
		if _, err := a1.Create(ctx, "Ann", c.n); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	for what, p := range map[string]Patch{"ring": {Ring: ptr(time.Second)}, "number": {Number: ptr("x")}, "PIN": {PIN: ptr("abcd")},
		"password": {Password: ptr("short")}, "forward": {ForwardAll: ptr(long)}} {
		if _, err := a1.Set(ctx, "Ann", u.ID, "", p); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(a1.Users(true)) != 1 {
		t.Error("something was made all the same")
	}
	if _, err := a1.PutSite(ctx, "Ann", Site{Code: "00"}); !errors.Is(err, ErrTaken) {
		t.Errorf("a code that begins another: %v", err)
	}
	for _, d := range []string{"a..b", "-a.b", "192.0.2.1", "ex ample", strings.Repeat("a", 64) + ".b"} {
		if err := a1.SetFleet(ctx, "Ann", "x", d); !errors.Is(err, ErrInvalid) {
			t.Errorf("domain %q: %v", d, err)
		}
	}
	before := len(a1.m.all)
	if err := a1.PutNode(ctx, Node{Name: "a", Mesh: []string{"192.0.2.1:7950"}}); err != nil || len(a1.m.all) != before {
		t.Error("what did not change was written")
	}
	got := w.set(a1, u.ID, "", Patch{Name: ptr("Ana"), DND: ptr(false), ForwardAll: ptr("")})
	if len(a1.m.all) != before || got.Name != "Ana" {
		t.Error("a form saved without a change was written")
	}
}

func TestAReadOnlyNodeSaysSoAndTheDirectoryFollowsLater(t *testing.T) {
	w, a1, _, b := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	full := errors.New("this node takes no changes: the disk is full")
	a1.m.refuse = full
	if _, err := a1.Set(ctx, "Ann", u.ID, "", Patch{Name: ptr("Anna")}); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if err := a1.Mailboxes().Deliver(ctx, message(1, u)); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if x, err := a1.User(u.ID); err != nil || x.Name != "Ana" {
		t.Error("reads do not go on")
	}
	a1.m.refuse = nil
	w.set(a1, u.ID, "", Patch{Name: ptr("Anna")})
	w.heal()
	if e, _ := b.Pick("0001201"); e.Name != "Anna" {
		t.Error("not in the directory")
	}
}

func TestFindWhatAPersonTypes(t *testing.T) {
	w, a1, _, b := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.set(a1, u.ID, "", Patch{E164: ptr("+33472001201")})
	v := w.create(b, "201", "Bea")
	w.heal()
	for who, want := range map[string]site.RecordID{"201": u.ID, "0001201": u.ID, "0002201": v.ID, "ana": u.ID, "BEA": v.ID, "+33472001201": u.ID, u.ID.String(): u.ID, v.ID.String(): v.ID} {
		if got, err := a1.Find(who); err != nil || got != want {
			t.Errorf("%s: %s, %v", who, got, err)
		}
	}
	for _, who := range []string{"", "999", "nobody", site.RecordID{1}.String()} {
		if _, err := a1.Find(who); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", who, err)
		}
	}
	if us := b.Users(false); len(us) != 2 || us[0].Name != "Ana" || us[0].Here || !us[1].Here || us[1].Extension != "201" {
		t.Errorf("list: %+v", us)
	}
}

func TestAVoidRedemptionIsRemembered(t *testing.T) {
	w, a1, a2, _ := pairAndB(t)
	inv := Invite{ID: site.RecordID{1}, Site: siteA, Claim: []byte("c"), Made: w.now, Expires: w.now.Add(time.Hour)}
	w.must(a1.PutInvite(ctx, "Ann", inv))
	w.heal()
	x, y := w.box(site.ID{0xc}, "0003"), w.box(site.ID{0xd}, "0004")
	w.must(a1.RedeemInvite(ctx, inv.ID, x.node))
	w.tick(time.Minute)
	w.must(a2.RedeemInvite(ctx, inv.ID, y.node))
	w.heal()
	vs, err := a2.VoidRedemptions()
	if err != nil || len(vs) != 1 || vs[0].Node != y.node || vs[0].Stands != x.node {
		t.Errorf("%+v, %v", vs, err)
	}
}

func TestWritesAfterARevocationElsewhereAreListed(t *testing.T) {
	w, a1, a2, _ := pairAndB(t)
	u := w.create(a1, "201", "Ana")
	w.heal()
	w.tick(time.Minute)
	w.must(a1.RevokeNode(ctx, "Ann", a2.node, "stolen", nil)) // A2 has not heard
	w.set(a2, u.ID, "", Patch{ForwardAll: ptr("00900")})
	w.sync()
	if x := user(t, a1, u.ID); x.ForwardAll != "00900" {
		t.Fatal("an honest node's copy was refused")
	}
	ms, err := a1.Merges(false)
	w.must(err)
	i := slices.IndexFunc(ms, func(m Merge) bool { return m.Kind == MergeRemoved && m.Field == "forward all" })
	if i < 0 || ms[i].Sides[0].Node != a2.node || ms[i].Sides[0].Value != "00900" || ms[i].User != u.ID {
		t.Fatalf("merges: %+v", ms)
	}
	w.must(a1.Keep(ctx, "Ann", ms[i].ID, ms[i].Sides[0].Version))
	ms, err = a1.Merges(false)
	w.must(err)
	if slices.ContainsFunc(ms, func(m Merge) bool { return m.Kind == MergeRemoved && m.Field == "forward all" }) {
		t.Error("looked at, and still listed")
	}
	if n := a1.Nodes(siteA); len(n) != 1 {
		t.Errorf("%d nodes at A", len(n))
	}
	if len(a1.HeldBy(a2.node)) != 1 {
		t.Error("nobody knows what the stolen box could open")
	}
}

// FuzzValues puts any bytes into any cell that this version knows: they may
// read as absent, never as a panic, here or in what is derived from them.
func FuzzValues(f *testing.F) {
	f.Add(uint16(TableUser), userNumber, []byte("0001201"), []byte{1})
	f.Add(uint16(TableDirectory), dirEntry, marshal(wireEntry{Number: "0001", Home: siteA[:]}), []byte{})
	f.Add(uint16(TableMessage), msgEntry, marshal(wireMessage{}), []byte("trash"))
	f.Add(uint16(TableUser), userDeleted, deletedValue(crdt.Context{{Actor: 1, Stamp: 2}}), []byte{0})
	f.Add(uint16(TableKey), keyMade, []byte{}, []byte{1})
	w := newWorld(f)
	x := w.box(siteA, "0001")
	rec := site.RecordID{1}
	f.Fuzz(func(t *testing.T, table uint16, fld string, v1, v2 []byte) {
		scope := x.scope
		if table < SiteTables {
			scope = crdt.Fleet
		}
		set := crdt.NewSet(scope)
		for i, v := range [][]byte{v1, v2} {
			c := &crdt.Change{Scope: scope, Node: crdt.NodeID(x.node), Actor: uint32(i), Stamp: crdt.Stamp(i + 1), Writes: []crdt.Write{{Table: table, Record: string(rec[:]), Field: fld, Value: v}}}
			if crdt.Seal(c, x.m.book.Fleet(), x.m.id.Sign) != nil {
				return
			}
			set.Add(c)
		}
		m := &memory{t: t, id: x.m.id, grant: x.m.grant, book: x.m.book, now: x.m.now, sets: map[crdt.Scope]*crdt.Set{scope: set}}
		s, err := Open(Config{Engine: m, Book: m.book, Identity: m.id, Site: siteA, Now: m.now, Random: w.rand, Log: x.cfg.Log})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Merges(false); err != nil {
			t.Fatal(err)
		}
		s.OpenMerges()
		s.Users(true)
		s.Invites()
		s.Credentials(rec.String(), "s0001.shops.example")
		s.User(rec)
		s.Summary(rec)
		s.Blobs()
	})
}

func FuzzToken(f *testing.F) {
	w := newWorld(f)
	x := w.box(siteA, "0001")
	u := w.create(x, "201", "Ana")
	f.Add(u.ETag)
	f.Add("gA")
	f.Fuzz(func(t *testing.T, etag string) {
		if tok, err := x.token(u.ID, etag); err == nil && etag != "" && tok == nil {
			t.Fatal("an ETag was read as none")
		}
		x.Keep(ctx, "Ann", etag, etag)
	})
}

// TestMoreThanOneRevocationCanKeep: the founder of a large fleet is revoked, and
// all that it admitted stay members, with their ranks.
func TestMoreThanOneRevocationCanKeep(t *testing.T) {
	w, a1, a2, b := pairAndB(t)
	fleet := w.found.ID()
	var grants []*trust.Grant
	for range trust.MaxKeeps + 40 {
		id, err := trust.NewIdentity(w.rand)
		w.must(err)
		g, err := a1.m.id.Issue(fleet, a1.m.grant, trust.Name{Key: id.Public(), Seal: id.SealKey(), Site: site.ID{9}, Rights: trust.AdmitSite, Issued: w.now.Unix()}, w.rand)
		w.must(err)
		grants = append(grants, g)
	}
	w.must(a1.PutTrust(ctx, "Ann", grants...))
	w.heal()
	// Without the founder: the sheet makes B an issuer.
	if err := b.Recover(ctx, "Bob", w.root); err != nil {
		t.Fatal(err)
	}
	g, err := b.m.book.Member(b.node)
	w.must(err)
	b.m.grant = g
	rests := b.m.book.RestOn(a1.node)
	var keep []crdt.Ref
	for _, r := range rests {
		keep = append(keep, r.Grant.ID())
	}
	if len(keep) != trust.MaxKeeps+41 { // and the pair's other box
		t.Fatalf("%d grants rest on the founder", len(keep))
	}
	w.must(b.RevokeNode(ctx, "Bob", a1.node, "burnt", keep))
	w.sync()
	for _, x := range []*box{a2, b} {
		for _, old := range grants {
			now, err := x.m.book.Member(old.Node())
			if err != nil || now.Nonce != old.Nonce || now.Site != old.Site || now.Rights != old.Rights {
				t.Fatalf("node %s: %+v, %v", old.Node(), now, err)
			}
		}
		if _, err := x.m.book.Member(a2.node); err != nil {
			t.Errorf("the pair's other box: %v", err)
		}
		if _, err := x.m.book.Member(a1.node); err == nil {
			t.Error("the founder is a member")
		}
	}
	if err := b.Recover(ctx, "Bob", must(trust.NewRoot(w.rand))); !errors.Is(err, trust.ErrWords) {
		t.Errorf("another fleet's root: %v", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
