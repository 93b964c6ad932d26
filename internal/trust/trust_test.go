package trust

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

var (
	siteA = site.ID{1, 2, 3}
	siteB = site.ID{9, 8, 7}
)

// A fleet of the tests: a root, its founder at A (admit:fleet), and the book.
type fleet struct {
	t     testing.TB
	rand  io.Reader
	root  *Root
	found *Founding
	book  *Book
	stamp crdt.Stamp

	founder *Identity
	fgrant  *Grant
}

func newFleet(t testing.TB, seed byte) *fleet {
	t.Helper()
	f := &fleet{t: t, rand: rand.NewChaCha8([32]byte{seed}), stamp: crdt.MakeStamp(1_800_000_000_000, 0)}
	var err error
	if f.root, err = NewRoot(f.rand); err != nil {
		t.Fatal(err)
	}
	f.found = Found(f.root)
	f.book = NewBook(f.found)
	f.founder = f.identity()
	g, err := f.root.Issue(f.found.ID(), Name{Key: f.founder.Public(), Seal: f.founder.SealKey(), Site: siteA, Rights: AdmitFleet | AdmitSite, Issued: 1}, f.rand)
	if err != nil {
		t.Fatal(err)
	}
	f.fgrant = g
	if err := f.book.Add(g); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fleet) identity() *Identity {
	f.t.Helper()
	i, err := NewIdentity(f.rand)
	if err != nil {
		f.t.Fatal(err)
	}
	return i
}

// admit makes a box a member through an issuer.
func (f *fleet) admit(by *Identity, own *Grant, s site.ID, r Rights) (*Identity, *Grant) {
	f.t.Helper()
	i := f.identity()
	g, err := by.Issue(f.found.ID(), own, Name{Key: i.Public(), Seal: i.SealKey(), Site: s, Rights: r, Issued: 2}, f.rand)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := f.book.Add(g); err != nil {
		f.t.Fatal(err)
	}
	return i, g
}

func (f *fleet) change(i *Identity, g *Grant, scope crdt.Scope, ws ...crdt.Write) *crdt.Change {
	f.t.Helper()
	f.stamp++
	c := &crdt.Change{Scope: scope, Node: crdt.NodeID(i.Node()), Actor: 1, Stamp: f.stamp, Auth: g.ID(), Writes: ws}
	if err := crdt.Seal(c, f.found.ID(), i.Sign); err != nil {
		f.t.Fatal(err)
	}
	return c
}

func TestWordsBringTheRootBack(t *testing.T) {
	f := newFleet(t, 1)
	words := f.root.Words()
	if len(words) != 24 {
		t.Fatalf("%d words", len(words))
	}
	back, err := RootFromWords([]string{"  " + strings.ToUpper(strings.Join(words, "\n"))})
	if err != nil || !f.found.Holds(back) {
		t.Fatalf("the sheet does not open its fleet: %v", err)
	}
	wrong := append([]string(nil), words...)
	wrong[3] = "carrierclass"
	if _, err := RootFromWords(wrong); !errors.Is(err, ErrWords) || !strings.Contains(err.Error(), `word 4, "carrierclass"`) {
		t.Errorf("a wrong word: %v", err)
	}
	if _, err := RootFromWords(words[:23]); !errors.Is(err, ErrWords) {
		t.Errorf("23 words: %v", err)
	}
	if other := newFleet(t, 2); other.found.Holds(back) || other.found.ID() == f.found.ID() {
		t.Error("two fleets are one")
	}
}

func TestChainProvesMembershipToAStranger(t *testing.T) {
	f := newFleet(t, 1)
	b1, b1g := f.admit(f.founder, f.fgrant, siteB, AdmitSite)
	b2, b2g := f.admit(b1, b1g, siteB, 0)
	c, err := f.book.Chain(b2g)
	if err != nil {
		t.Fatal(err)
	}
	raw := c.Encode()
	t.Logf("a grant %d bytes, a chain of three %d", len(b2g.Encode()), len(raw))
	if len(b2g.Encode()) > 198 {
		t.Errorf("a plain grant of %d bytes, want 198 at most", len(b2g.Encode()))
	}
	got, err := VerifyChain(raw, f.found.ID(), b2.Public())
	if err != nil || got.Last().Site != siteB || len(got.Grants) != 3 {
		t.Fatalf("chain: %+v, %v", got, err)
	}
	if _, err := VerifyChain(raw, f.found.ID(), b1.Public()); !errors.Is(err, ErrChain) {
		t.Errorf("somebody else's chain: %v", err)
	}
	other := newFleet(t, 2)
	if _, err := VerifyChain(raw, other.found.ID(), b2.Public()); !errors.Is(err, ErrChain) {
		t.Errorf("another fleet's chain: %v", err)
	}
	for i := range raw { // no byte of it can be changed
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if _, err := VerifyChain(bad, f.found.ID(), b2.Public()); err == nil {
			t.Fatalf("byte %d flipped: still believed", i)
		}
	}
}

func TestIssuersGiveNoMoreThanTheyMay(t *testing.T) {
	f := newFleet(t, 1)
	b1, b1g := f.admit(f.founder, f.fgrant, siteB, AdmitSite)
	plain, plaing := f.admit(f.founder, f.fgrant, siteB, 0)
	n := f.identity()
	name := func(s site.ID, r Rights) Name {
		return Name{Key: n.Public(), Seal: n.SealKey(), Site: s, Rights: r}
	}
	for _, c := range []struct {
		what string
		by   *Identity
		own  *Grant
		n    Name
	}{
		{"own-site issuer, another site", b1, b1g, name(siteA, 0)},
		{"own-site issuer, admit:fleet", b1, b1g, name(siteB, AdmitFleet)},
		{"own-site issuer, relay", b1, b1g, name(siteB, Relay)},
		{"own-site issuer, more tables", b1, b1g, Name{Key: n.Public(), Site: siteB, Extra: []Allow{{Scope: []byte("f")}}}},
		{"no issuer", plain, plaing, name(siteB, 0)},
	} {
		if _, err := c.by.Issue(f.found.ID(), c.own, c.n, f.rand); !errors.Is(err, ErrRights) {
			t.Errorf("%s: issued: %v", c.what, err)
		}
		// Signed all the same, it is not believed.
		g, err := issue(f.found.ID(), c.own.ID(), c.n, f.rand, c.by.Sign)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.book.Add(g); !errors.Is(err, ErrRights) {
			t.Errorf("%s: taken: %v", c.what, err)
		}
	}
	self, err := issue(f.found.ID(), crdt.Ref{}, name(siteB, AdmitFleet), f.rand, n.Sign)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.book.Add(self); !errors.Is(err, ErrChain) {
		t.Errorf("a grant signed by itself: %v", err)
	}
}

func TestWhoMayWriteWhat(t *testing.T) {
	f := newFleet(t, 1)
	b, bg := f.admit(f.founder, f.fgrant, siteB, AdmitSite)
	bid := b.Node()
	user := site.RecordID{5}
	scopeA, scopeB := crdt.SiteScope(siteA), crdt.SiteScope(siteB)
	w := func(table uint16, rec, field string) crdt.Write {
		return crdt.Write{Table: table, Record: rec, Field: field, Value: []byte("x")}
	}
	for _, c := range []struct {
		what  string
		scope crdt.Scope
		w     crdt.Write
		want  Verdict
	}{
		{"own user", scopeB, w(SiteOwn, string(user[:]), "\x01"), Accept},
		{"own, a table of the future", scopeB, w(0x4242, string(user[:]), "\x01"), Accept},
		{"own final", scopeB, crdt.Write{Table: SiteOwn, Record: "r", Flags: crdt.Final}, Accept},
		{"another site's user", scopeA, w(SiteOwn, string(user[:]), "\x01"), Refuse},
		{"voicemail for another site", scopeA, w(SiteDrops, string(user[:]), DropField), Accept},
		{"another site's message heard", scopeA, w(SiteDrops, string(user[:]), "\x02"), Refuse},
		{"another site's message overwritten", scopeA, crdt.Write{Table: SiteDrops, Record: "r", Field: DropField, Ctx: crdt.Context{{Actor: 1, Stamp: 1}}}, Refuse},
		{"another site's message purged", scopeA, crdt.Write{Table: SiteDrops, Record: "r", Flags: crdt.Final}, Refuse},
		{"own directory entry", crdt.Fleet, w(FleetSites+1, SiteRecord(siteB, user), "\x01"), Accept},
		{"another site's directory entry", crdt.Fleet, w(FleetSites+1, SiteRecord(siteA, user), "\x01"), Refuse},
		{"its own node record", crdt.Fleet, w(FleetNodes, string(bid[:]), "\x01"), Accept},
		{"another's node record", crdt.Fleet, w(FleetNodes, strings.Repeat("z", 16), "\x01"), Refuse},
		{"the fleet's settings", crdt.Fleet, w(FleetSettings, "fleet", "\x01"), Refuse},
		{"a fleet table of the future", crdt.Fleet, w(0x7777, "x", "\x01"), Hold},
		{"a trust table of the future", crdt.Trust, w(99, "x", "\x01"), Hold},
		{"a forged grant", crdt.Trust, w(TableGrant, "12345678", "\x01"), Refuse},
		{"a final on a grant", crdt.Trust, crdt.Write{Table: TableGrant, Record: "12345678", Flags: crdt.Final}, Refuse},
		{"another founding", crdt.Trust, w(TableFounding, "x", "\x01"), Refuse},
	} {
		if v, err := f.book.Admit(f.change(b, bg, c.scope, c.w)); v != c.want {
			t.Errorf("%s: %d, want %d (%v)", c.what, v, c.want, err)
		}
	}
	if v, err := f.book.Admit(f.change(f.founder, f.fgrant, crdt.Fleet, w(FleetSettings, "fleet", "\x01"))); v != Accept {
		t.Errorf("the founder changes settings: %v", err)
	}
	// One may not borrow another's grant.
	if _, ok := f.book.Key(f.change(b, f.fgrant, crdt.Fleet, w(FleetSettings, "fleet", "\x01"))); ok {
		t.Error("a node writes under another's grant")
	}
}

func TestANewcomerLearnsTrustFromTheChangesThemselves(t *testing.T) {
	f := newFleet(t, 1)
	b, bg := f.admit(f.founder, f.fgrant, siteB, AdmitSite)
	_, cg := f.admit(b, bg, siteB, 0)
	first := f.change(f.founder, f.fgrant, crdt.Trust, FoundingWrite(f.found), GrantWrite(f.fgrant))
	second := f.change(f.founder, f.fgrant, crdt.Trust, GrantWrite(bg))
	third := f.change(b, bg, crdt.Trust, GrantWrite(cg))

	fresh := NewBook(f.found)
	if _, ok := fresh.Key(third); ok {
		t.Fatal("a stranger's key is known")
	}
	for i, c := range []*crdt.Change{first, second, third} {
		key, ok := fresh.Key(c)
		if !ok || !c.Verify(f.found.ID(), key) {
			t.Fatalf("change %d: no key", i)
		}
		if v, err := fresh.Admit(c); v != Accept {
			t.Fatalf("change %d: %v", i, err)
		}
	}
	if len(fresh.Members(site.ID{})) != 3 || len(fresh.Issuers()) != 1 {
		t.Errorf("%d members, %d issuers", len(fresh.Members(site.ID{})), len(fresh.Issuers()))
	}
	// The same from the stored state, in whatever order records lie there.
	set := crdt.NewSet(crdt.Trust)
	for _, c := range []*crdt.Change{third, first, second} {
		set.Add(c)
	}
	stored := NewBook(f.found)
	if !stored.Sync(set) || len(stored.Members(site.ID{})) != 3 || stored.Sync(set) {
		t.Error("the stored trust scope reads differently")
	}
}
