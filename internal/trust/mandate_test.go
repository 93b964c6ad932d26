package trust

import (
	"bytes"
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

// FuzzMandate: whatever a keeper shows as its mandate, nothing panics, and only
// the change with which the home site named it lets it claim.
func FuzzMandate(f *testing.F) {
	fl := newFleet(f, 1)
	b, bg := fl.admit(fl.founder, fl.fgrant, siteB, AdmitSite)
	good := fl.change(fl.founder, fl.fgrant, crdt.SiteScope(siteA), crdt.Write{Table: TableKeeper, Record: string(siteB[:]), Field: KeeperField, Value: []byte("\x01")})
	ext, err := MandateExt(good.Raw())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ext[ExtMandate])
	f.Add([]byte{0x41, 0})
	f.Add([]byte{0x5f, 0x41, 0xff})
	roam := crdt.Write{Table: TableRoam, Record: SiteRecord(siteA, site.RecordID{5}), Field: "\x01", Value: siteB[:]}
	f.Fuzz(func(t *testing.T, mandate []byte) {
		c := &crdt.Change{Scope: crdt.Fleet, Node: crdt.NodeID(b.Node()), Actor: 1, Stamp: fl.stamp + 1, Auth: bg.ID(), Writes: []crdt.Write{roam},
			Ext: map[uint64][]byte{ExtMandate: mandate}}
		if fl.book.mandated(bg, c, &c.Writes[0]) != nil {
			return
		}
		var raw []byte
		if err := cbor.Unmarshal(mandate, &raw); err != nil || !bytes.Equal(raw, good.Raw()) {
			t.Fatalf("took %x for a mandate", mandate)
		}
	})
}

// FuzzFounding: a founding record has one encoding, roots, and a fleet's name.
func FuzzFounding(f *testing.F) {
	fl := newFleet(f, 1)
	f.Add(fl.found.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := DecodeFounding(b)
		if err != nil {
			return
		}
		if !bytes.Equal(got.Encode(), b) || len(got.Roots) == 0 {
			t.Fatalf("%x became %x with %d roots", b, got.Encode(), len(got.Roots))
		}
		if got.ID() == fl.found.ID() && !got.Holds(fl.root) {
			t.Fatal("another founding record has the fleet's name")
		}
	})
}
