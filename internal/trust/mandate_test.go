package trust

import (
	"testing"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// TestAKeeperClaimsByItsMandate: only a site that the home site named may claim,
// only roaming, and only for that site.
func TestAKeeperClaimsByItsMandate(t *testing.T) {
	f := newFleet(t, 1)
	b, bg := f.admit(f.founder, f.fgrant, siteB, AdmitSite)
	siteC := site.ID{'c'}
	c, cg := f.admit(f.founder, f.fgrant, siteC, AdmitSite)
	user := site.RecordID{5}
	names := func(i *Identity, g *Grant, of, keeper site.ID, value string) *crdt.Change {
		return f.change(i, g, crdt.SiteScope(of), crdt.Write{Table: TableKeeper, Record: string(keeper[:]), Field: KeeperField, Value: []byte(value)})
	}
	claim := func(i *Identity, g *Grant, w crdt.Write, ext map[uint64][]byte) (Verdict, error) {
		t.Helper()
		f.stamp++
		x := &crdt.Change{Scope: crdt.Fleet, Node: crdt.NodeID(i.Node()), Actor: 1, Stamp: f.stamp, Auth: g.ID(), Writes: []crdt.Write{w}, Ext: ext}
		if err := crdt.Seal(x, f.found.ID(), i.Sign); err != nil {
			t.Fatal(err)
		}
		return f.book.Admit(x)
	}
	roam := crdt.Write{Table: TableRoam, Record: SiteRecord(siteA, user), Field: "\x01", Value: siteC[:]}
	good := names(f.founder, f.fgrant, siteA, siteB, "\x01")
	mandate := func(m *crdt.Change) map[uint64][]byte {
		ext, err := MandateExt(m.Raw())
		if err != nil {
			t.Fatal(err)
		}
		return ext
	}
	if v, err := claim(b, bg, roam, mandate(good)); v != Accept {
		t.Errorf("the keeper claims: %v", err)
	}
	stranger, err := NewIdentity(f.rand)
	if err != nil {
		t.Fatal(err)
	}
	sg, err := f.founder.Issue(f.found.ID(), f.fgrant, Name{Key: stranger.Public(), Seal: stranger.SealKey(), Site: siteA, Rights: AdmitSite, Issued: 2}, f.rand)
	if err != nil {
		t.Fatal(err)
	}
	forged := append([]byte(nil), good.Raw()...)
	forged[len(forged)-1] ^= 1
	text, err := cbor.Marshal("no bytes")
	if err != nil {
		t.Fatal(err)
	}
	bad, err := cbor.Marshal(forged)
	if err != nil {
		t.Fatal(err)
	}
	other := roam
	other.Record = SiteRecord(siteC, user)
	entry := roam
	entry.Table = FleetSites + 1
	final := crdt.Write{Table: TableRoam, Record: roam.Record, Flags: crdt.Final}
	for _, x := range []struct {
		what string
		i    *Identity
		g    *Grant
		w    crdt.Write
		ext  map[uint64][]byte
		want Verdict
	}{
		{"without a mandate", b, bg, roam, nil, Refuse},
		{"with another's mandate", c, cg, roam, mandate(good), Refuse},
		{"for another site", b, bg, other, mandate(good), Refuse},
		{"a directory entry", b, bg, entry, mandate(good), Refuse},
		{"removes a claim for good", b, bg, final, mandate(good), Refuse},
		{"named by itself", b, bg, roam, mandate(names(b, bg, siteA, siteB, "\x01")), Refuse},
		{"named in its own scope", b, bg, roam, mandate(names(b, bg, siteB, siteB, "\x01")), Refuse},
		{"its mandate ended", b, bg, roam, mandate(names(f.founder, f.fgrant, siteA, siteB, "\x00")), Refuse},
		{"a forged mandate", b, bg, roam, map[uint64][]byte{ExtMandate: bad}, Refuse},
		{"no bytes", b, bg, roam, map[uint64][]byte{ExtMandate: text}, Refuse},
		{"no change", b, bg, roam, mandate(&crdt.Change{}), Refuse},
		{"named by a box that is not known yet", b, bg, roam, mandate(names(stranger, sg, siteA, siteB, "\x01")), Hold},
	} {
		if v, err := claim(x.i, x.g, x.w, x.ext); v != x.want || err == nil {
			t.Errorf("%s: %d, want %d (%v)", x.what, v, x.want, err)
		}
	}
}
