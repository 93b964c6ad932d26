package crdt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"testing"

	"lukechampine.com/blake3"
)

func signer(t testing.TB) (ed25519.PublicKey, func([]byte) []byte) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pub, func(m []byte) []byte { return ed25519.Sign(key, m) }
}

func oneField(stamp Stamp) *Change {
	return &Change{Scope: SiteScope([10]byte{1}), Node: NodeID{2}, Actor: 77, Stamp: stamp, Auth: Ref{3}, By: Ref{4},
		Writes: []Write{{Table: 1, Record: "0123456789", Field: "\x05", Value: []byte("202"), Ctx: Context{{9, stamp - 2}}}}}
}

func TestSealDecodeVerify(t *testing.T) {
	pub, sign := signer(t)
	c := oneField(MakeStamp(1_790_000_000_000, 3))
	c.Ext = map[uint64][]byte{7: {0x01}, 99: {0x43, 1, 2, 3}} // CBOR: 1, and three bytes
	fleet := FleetID{8}
	if err := Seal(c, fleet, sign); err != nil {
		t.Fatal(err)
	}
	d, err := Decode(bytes.Clone(c.Raw()))
	if err != nil {
		t.Fatal(err)
	}
	if d.ID() != c.ID() || d.Dot() != c.Dot() || !bytes.Equal(d.Raw(), c.Raw()) || !bytes.Equal(d.Ext[99], c.Ext[99]) {
		t.Errorf("read back as something else: %+v", d)
	}
	if !d.Verify(fleet, pub) {
		t.Error("a good signature is refused")
	}
	if d.Verify(FleetID{9}, pub) {
		t.Error("a change of another fleet is accepted")
	}
	for i := range c.Raw() {
		bad := bytes.Clone(c.Raw())
		bad[i] ^= 1
		if e, err := Decode(bad); err == nil && e.Verify(fleet, pub) {
			t.Fatalf("byte %d altered, and still accepted", i)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	_, sign := signer(t)
	for name, spoil := range map[string]func(*Change){
		"no writes":         func(c *Change) { c.Writes = nil },
		"too many writes":   func(c *Change) { c.Writes = make([]Write, 17) },
		"saw the future":    func(c *Change) { c.Writes[0].Ctx = Context{{1, c.Stamp}} },
		"unsorted context":  func(c *Change) { c.Writes[0].Ctx = Context{{2, 1}, {1, 1}} },
		"final with others": func(c *Change) { c.Writes = append(c.Writes, Write{Record: "x", Flags: Final}) },
		"long record":       func(c *Change) { c.Writes[0].Record = "12345678901234567" },
		"no record":         func(c *Change) { c.Writes[0].Record = "" },
		"no scope":          func(c *Change) { c.Scope = "x" },
		"cell twice":        func(c *Change) { c.Writes = append(c.Writes, c.Writes[0]) },
		"too long":          func(c *Change) { c.Writes[0].Value = make([]byte, MaxChange) },
	} {
		c := oneField(100)
		spoil(c)
		if err := Seal(c, FleetID{}, sign); !errors.Is(err, ErrShape) {
			t.Errorf("%s: Seal says %v", name, err)
		}
		if len(c.Raw()) == 0 {
			continue
		}
		if _, err := Decode(c.Raw()); !errors.Is(err, ErrShape) {
			t.Errorf("%s: Decode says %v", name, err)
		}
	}
}

func TestUnknownTablesFieldsAndFlagsSurvive(t *testing.T) {
	_, sign := signer(t)
	c := oneField(100)
	c.Ver, c.Writes[0].Table, c.Writes[0].Flags = 2, 60_000, 0x80
	if err := Seal(c, FleetID{}, sign); err != nil {
		t.Fatal(err)
	}
	d, err := Decode(c.Raw())
	if err != nil || d.Writes[0].Table != 60_000 || d.Writes[0].Flags != 0x80 || d.Ver != 2 {
		t.Errorf("got %+v, %v", d, err)
	}
	s := NewSet(c.Scope)
	if fx := s.Add(d); !fx.Live || !bytes.Equal(d.Raw(), c.Raw()) {
		t.Error("a change of a later version is not merged as it is")
	}
}

func TestEquivocationIsSeen(t *testing.T) {
	_, sign := signer(t)
	s := NewSet(oneField(9).Scope)
	a, b := oneField(100), oneField(100)
	b.Writes[0].Value = []byte("203")
	for _, c := range []*Change{a, b} {
		if err := Seal(c, FleetID{}, sign); err != nil {
			t.Fatal(err)
		}
	}
	s.Add(a)
	if fx := s.Add(b); len(fx.Equivocal) != 1 || fx.Equivocal[0] != a.ID() {
		t.Errorf("two changes under one dot went unnoticed: %+v", fx)
	}
	if got := len(s.Versions(a.Cell(0))); got != 2 {
		t.Errorf("%d versions, want both", got)
	}
}

func TestLtHashIsASet(t *testing.T) {
	var a, b LtHash
	x, y := ID{1}, ID{2}
	a.Add(x)
	a.Add(y)
	b.Add(y)
	b.Add(x)
	if a.Digest() != b.Digest() {
		t.Error("order matters")
	}
	a.Remove(y)
	a.Remove(x)
	if a != (LtHash{}) {
		t.Error("removing everything does not give the empty set")
	}
	a.Add(x)
	a.Add(x)
	if a == (LtHash{}) {
		t.Error("adding twice cancels, as XOR would")
	}
}

// TestLtHashLanes: the four lanes of a word behave like lanes of their own.
func TestLtHashLanes(t *testing.T) {
	var h LtHash
	want := make([]uint16, len(h)/2)
	step := func(id ID, sign uint16) {
		var x [2048]byte // the plain output of BLAKE3 over the id
		xof := blake3.New(32, nil)
		_, _ = xof.Write(id[:])
		_, _ = xof.XOF().Read(x[:])
		for i := range want {
			want[i] += sign * (uint16(x[2*i]) | uint16(x[2*i+1])<<8)
		}
	}
	for i := range 200 {
		id := ID{byte(i), 7}
		h.Add(id)
		step(id, 1)
		if i%3 == 0 {
			gone := ID{byte(i / 2), 7}
			h.Remove(gone)
			step(gone, 0xffff)
		}
	}
	for i := range want {
		if got := uint16(h[2*i]) | uint16(h[2*i+1])<<8; got != want[i] {
			t.Fatalf("lane %d is %d, want %d", i, got, want[i])
		}
	}
}

func FuzzDecode(f *testing.F) {
	_, sign := signer(f)
	c := oneField(MakeStamp(1_790_000_000_000, 0))
	if err := Seal(c, FleetID{}, sign); err != nil {
		f.Fatal(err)
	}
	f.Add(c.Raw())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Raw(), b) {
			t.Fatal("bytes were altered")
		}
		s := NewSet(c.Scope)
		if fx := s.Add(c); !fx.Live {
			t.Fatal("an accepted change is not live in an empty set")
		}
		if fx := s.Add(c); !fx.Known {
			t.Fatal("adding twice")
		}
	})
}

func BenchmarkOneFieldChange(b *testing.B) {
	pub, sign := signer(b)
	c := oneField(MakeStamp(1_790_000_000_000, 3))
	if err := Seal(c, FleetID{}, sign); err != nil {
		b.Fatal(err)
	}
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if !c.Verify(FleetID{}, pub) {
				b.Fatal("refused")
			}
		}
		b.ReportMetric(float64(len(c.Raw())), "B/change")
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			if _, err := Decode(c.Raw()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("merge", func(b *testing.B) {
		const n = 10_000
		cs := make([]*Change, n)
		for i := range cs {
			x := oneField(MakeStamp(1_790_000_000_000, 0) + Stamp(i))
			x.Writes[0].Record = string([]byte{byte(i), byte(i >> 8), 1})
			if err := Seal(x, FleetID{}, func([]byte) []byte { return make([]byte, 64) }); err != nil {
				b.Fatal(err)
			}
			cs[i] = x
		}
		b.ResetTimer()
		for i := 0; b.Loop(); {
			s := NewSet(cs[0].Scope)
			for _, x := range cs {
				s.Add(x)
			}
			i++
		}
		b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "changes/s")
	})
}

func BenchmarkLtHash(b *testing.B) {
	var h LtHash
	for i := 0; b.Loop(); i++ {
		h.Add(ID{byte(i), byte(i >> 8)})
	}
}
