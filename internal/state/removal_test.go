package state

import (
	"crypto/ed25519"
	"testing"

	"carrierclass.net/ccnode/crdt"
)

type oneSet struct{ set *crdt.Set }

func (o oneSet) Set(crdt.Scope) *crdt.Set { return o.set }

// TestRemoval: what takes away something that is here is one, and nothing else:
// no quota holds it, so it must not be a way to write without end.
func TestRemoval(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	scope := crdt.SiteScope([10]byte{1})
	set := crdt.NewSet(scope)
	n := uint16(0)
	change := func(ws ...crdt.Write) *crdt.Change {
		n++
		c := &crdt.Change{Scope: scope, Actor: 1, Stamp: crdt.MakeStamp(1_700_000_000_000, n), Writes: ws}
		if err := crdt.Seal(c, crdt.FleetID{}, func(m []byte) []byte { return ed25519.Sign(key, m) }); err != nil {
			t.Fatal(err)
		}
		return c
	}
	const here, nowhere = "0123456789abcdef", "fedcba9876543210"
	field := func(rec, name, value string, f crdt.Flags) crdt.Write {
		return crdt.Write{Table: TableUser, Record: rec, Field: name, Value: []byte(value), Flags: f}
	}
	set.Add(change(field(here, userName, "Ana", 0), field(here, userPIN, "1", 0)))
	yes, no := string(marshal(true)), string(marshal(false))
	if !isTrue([]byte(yes)) {
		yes, no = "\x01", ""
	}
	for name, x := range map[string]struct {
		c    *crdt.Change
		want bool
	}{
		"disable":              {change(field(here, userDisabled, yes, 0)), true},
		"enable":               {change(field(here, userDisabled, no, 0)), false},
		"delete":               {change(field(here, userDeleted, yes, 0)), true},
		"for good":             {change(field(here, "", "", crdt.Final)), true},
		"security reset":       {change(field(here, userPIN, "2", crdt.Reset)), true},
		"a PIN":                {change(field(here, userPIN, "2", 0)), false},
		"a name":               {change(field(here, userName, "Anna", 0)), false},
		"disable and a name":   {change(field(here, userDisabled, yes, 0), field(here, userName, "Anna", 0)), false},
		"disable of nobody":    {change(field(nowhere, userDisabled, yes, 0)), false},
		"nobody for good":      {change(field(nowhere, "", "", crdt.Final)), false},
		"a reset of nobody":    {change(field(nowhere, userPIN, "2", crdt.Reset)), false},
		"one here, one is not": {change(field(here, userDisabled, yes, 0), field(nowhere, userDisabled, yes, 0)), false},
	} {
		if got := Removal(oneSet{set}, x.c); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
