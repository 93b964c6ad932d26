package replica

import (
	"testing"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/disk/disktest"
)

// changesOn reads a store as salvage does.
func changesOn(t *testing.T, s disk.Store) (out []*crdt.Change) {
	t.Helper()
	err := s.View(func(r disk.Reader) error {
		for _, p := range Salvageable() {
			if err := r.Scan([]byte(p), func(key, value []byte) error {
				c, ok := Salvage(key, value)
				if !ok {
					t.Errorf("%q holds no change", key)
					return nil
				}
				out = append(out, c)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func novelties(in []Imported) map[Novelty]int {
	out := map[Novelty]int{}
	for _, x := range in {
		out[x.Novelty]++
	}
	return out
}

// TestSalvagedChangesWaitForAPerson: what a dead box's disk holds and nobody has
// is held, over a restart and whatever moves in trust, until a person says so;
// what is known, covered or forged is told apart.
func TestSalvagedChangesWaitForAPerson(t *testing.T) {
	dead, alive, stranger := newMember("dead"), newMember("alive"), newMember("stranger")
	g := newGate(dead, alive)
	a, b, x := dead.node(t, g, holding(crdt.Fleet)), alive.node(t, g, holding(crdt.Fleet)), stranger.node(t, newGate(stranger), holding(crdt.Fleet))
	mb := disktest.NewMedium(1)
	a.mustStart(disktest.NewMedium(1))
	b.mustStart(mb)
	x.mustStart(disktest.NewMedium(1))
	defer func() { a.stop(); b.stop(); x.stop() }()
	a.mustPut(crdt.Fleet, "shared", "f", "both have it")
	a.mustPut(crdt.Fleet, "covered", "f", "old")
	for _, c := range changesOn(t, a.store) { // they talked once
		if _, v, err := b.e.Submit(t.Context(), c.Raw()); err != nil || v.Outcome != Accept {
			t.Fatal(v, err)
		}
	}
	b.mustPut(crdt.Fleet, "covered", "f", "new")
	only := a.mustPut(crdt.Fleet, "only", "f", "typed while cut off")
	a.mustPut(crdt.Fleet, "only", "g", "and this")
	x.mustPut(crdt.Fleet, "alien", "f", "never")
	g.mu.Lock()
	g.known[stranger.id] = &member{pub: dead.pub, id: stranger.id, auth: stranger.auth} // a key that does not fit
	g.mu.Unlock()
	disk := append(changesOn(t, a.store), changesOn(t, x.store)...)

	dry, err := b.e.Import(t.Context(), disk, "from a disk", true)
	if err != nil {
		t.Fatal(err)
	}
	want := map[Novelty]int{Novel: 2, Known: 1, Covered: 1, Forged: 1}
	if got := novelties(dry); len(got) != len(want) || got[Novel] != 2 || got[Known] != 1 || got[Covered] != 1 || got[Forged] != 1 || len(b.e.Held()) != 0 {
		t.Fatalf("a dry run found %v and holds %d, want %v and none", got, len(b.e.Held()), want)
	}
	if _, err := b.e.Import(t.Context(), disk, "from a disk", false); err != nil {
		t.Fatal(err)
	}
	still := func(n int) {
		t.Helper()
		b.e.TrustChanged()
		_, _ = b.e.Commit(t.Context(), Mutation{Scope: crdt.Fleet, Writes: []crdt.Write{write(1, "other", "f", "x")}})
		h := b.e.Held()
		if len(h) != n || n > 0 && (!h[0].Ask || h[0].Why != "from a disk") {
			t.Fatalf("%d are held: %+v", len(h), h)
		}
	}
	still(2)
	b.want(crdt.Fleet, "only", "f")
	b.stop()
	b.mustStart(mb)
	still(2)
	b.want(crdt.Fleet, "only", "f")
	if again, err := b.e.Import(t.Context(), disk, "once more", false); err != nil || novelties(again)[Waits] != 2 || novelties(again)[Novel] != 0 {
		t.Fatalf("%v, %v", novelties(again), err)
	}

	if v, err := b.e.Approve(t.Context(), only.ID); err != nil || v.Outcome != Accept {
		t.Fatal(v, err)
	}
	b.want(crdt.Fleet, "only", "f", "typed while cut off")
	b.want(crdt.Fleet, "only", "g")
	still(1)
	if _, err := b.e.Approve(t.Context(), only.ID); err != ErrUnknownChange {
		t.Fatalf("a second time: %v", err)
	}
	if err := b.e.DropHeld(t.Context(), b.e.Held()[0].ID, Dropped{By: "boss"}); err != nil {
		t.Fatal(err)
	}
	still(0)
}

// TestSalvageOfMoreThanIsHeld: a large disk fills what may be held and says so;
// after a person has decided the rest comes.
func TestSalvageOfMoreThanIsHeld(t *testing.T) {
	dead, alive := newMember("dead"), newMember("alive")
	g := newGate(dead, alive)
	a, b := dead.node(t, g, holding(crdt.Fleet)), alive.node(t, g, holding(crdt.Fleet))
	b.cfg.MaxHeld = 70
	a.mustStart(disktest.NewMedium(1))
	b.mustStart(disktest.NewMedium(1))
	defer func() { a.stop(); b.stop() }()
	for i := range 100 {
		a.mustPut(crdt.Fleet, string(rune('A'+i)), "f", "x")
	}
	disk := changesOn(t, a.store)
	if _, err := b.e.Import(t.Context(), disk, "disk", false); err != ErrTooManyHeld {
		t.Fatal(err)
	}
	h := b.e.Held()
	if len(h) != 70 {
		t.Fatalf("%d are held", len(h))
	}
	for _, x := range h {
		if v, err := b.e.Approve(t.Context(), x.ID); err != nil || v.Outcome != Accept {
			t.Fatal(v, err)
		}
	}
	out, err := b.e.Import(t.Context(), disk, "disk", false)
	if err != nil || novelties(out)[Known] != 70 || novelties(out)[Novel] != 30 {
		t.Fatalf("%v, %v", novelties(out), err)
	}
}

func FuzzSalvage(f *testing.F) {
	f.Add([]byte("c/x"), []byte{0x80})
	f.Add([]byte("o/x"), []byte{0xa0})
	f.Add([]byte("held/"), []byte{0xa1, 1, 0x40})
	f.Fuzz(func(t *testing.T, key, value []byte) {
		if c, ok := Salvage(key, value); ok && c.ID() == (crdt.ID{}) {
			t.Error("a change without an id")
		}
	})
}
