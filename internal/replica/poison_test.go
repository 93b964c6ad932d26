package replica

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/mesh"
)

// fails makes a program panic at a place on whatever contains POISON.
func fails(place string) func(string, []byte) {
	return func(where string, raw []byte) {
		if where == place && bytes.Contains(raw, []byte("POISON")) {
			panic("planted")
		}
	}
}

// wantPoison: node n holds exactly one change, because its program fails on it.
func wantPoison(t *testing.T, n *node, raw bool) {
	t.Helper()
	h := n.e.Held()
	if len(h) != 1 || h[0].Wait() != ForProgram || !strings.Contains(h[0].Why, "planted") || raw && !bytes.Contains(h[0].Change.Raw(), []byte("POISON")) {
		t.Fatalf("held: %+v", h)
	}
	if st := n.e.Status(); st.Held != 1 || !slices.ContainsFunc(st.Damage, func(s string) bool { return strings.Contains(s, "planted") }) {
		t.Fatalf("status does not say it: %+v", st)
	}
}

// TestPoisonIsHeld: a change on which the program of one node panics is held by
// it, whatever it did with it; everything else goes on, over restarts too, and a
// program that does not fail takes the change in.
func TestPoisonIsHeld(t *testing.T) {
	for _, place := range []string{"decode", "verify", "judge", "merge"} {
		t.Run(place, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, siteA, siteA)
				defer f.stop()
				a, b := f.nodes[0], f.nodes[1]
				a.mustPut(crdt.Fleet, "u1", "name", "before")
				f.settled(10 * time.Second)
				b.stop()
				b.cfg.Program, b.cfg.plant = "1", fails(place)
				f.restart(1)
				actor := b.e.Status().Actor
				a.mustPut(crdt.Fleet, "u2", "name", "good")
				a.mustPut(crdt.Fleet, "u1", "name", "POISON")
				a.mustPut(crdt.Fleet, "u3", "name", "good")
				a.mustPut(siteA, "u4", "name", "good")
				check := func(step string) {
					t.Helper()
					time.Sleep(5 * time.Minute)
					synctest.Wait()
					wantPoison(t, b, true)
					b.want(crdt.Fleet, "u1", "name", "before")
					for _, u := range []string{"u2", "u3"} {
						b.want(crdt.Fleet, u, "name", "good")
					}
					b.want(siteA, "u4", "name", "good")
					b.mustPut(siteA, "mine", "name", step)
					if st := b.e.Status(); st.Actor != actor || st.ReadOnly != nil {
						t.Fatalf("%s: %+v", step, st)
					}
					for _, d := range b.e.Status().Damage {
						if !strings.Contains(d, "planted") {
							t.Fatalf("%s: damage is said to be there: %s", step, d)
						}
					}
				}
				check("received")
				for range 2 {
					b.stop()
					f.restart(1)
					check("started again")
				}
				if v, err := b.e.RetryHeld(context.Background(), b.e.Held()[0].ID); err != nil {
					t.Fatalf("a person tries again: %v %v", v, err)
				}
				check("tried again")
				b.stop()
				b.cfg.Program, b.cfg.plant = "2", nil
				f.restart(1)
				f.settled(20 * time.Minute)
				b.want(crdt.Fleet, "u1", "name", "POISON")
				f.equal(crdt.Fleet, 0, 1)
				f.equal(siteA, 0, 1)
			})
		})
	}
}

// TestPoisonOnDisk: a program that fails on what lies on its disk sets it aside,
// starts, and serves the rest; a better one takes it in again.
func TestPoisonOnDisk(t *testing.T) {
	for _, place := range []string{"decode", "merge"} {
		t.Run(place, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, siteA, siteA)
				defer f.stop()
				a, b := f.nodes[0], f.nodes[1]
				a.mustPut(crdt.Fleet, "u1", "name", "POISON")
				a.mustPut(crdt.Fleet, "u2", "name", "good")
				f.settled(10 * time.Second)
				b.want(crdt.Fleet, "u1", "name", "POISON")
				for i := range 3 { // the second start reads what the first one set aside
					b.stop()
					b.cfg.Program, b.cfg.plant = "1", fails(place)
					f.restart(1)
					if i == 0 { // the power goes at once
						f.media[1].Crash()
						b.cancel()
						<-b.done
						f.media[1].Heal()
						f.restart(1)
					}
					wantPoison(t, b, true)
					b.want(crdt.Fleet, "u1", "name")
					b.want(crdt.Fleet, "u2", "name", "good")
					time.Sleep(time.Minute)
				}
				b.mustPut(crdt.Fleet, "u3", "name", "goes on")
				b.stop()
				b.cfg.Program, b.cfg.plant = "2", nil
				f.restart(1)
				f.settled(20 * time.Minute)
				b.want(crdt.Fleet, "u1", "name", "POISON")
				a.want(crdt.Fleet, "u3", "name", "goes on")
				f.equal(crdt.Fleet, 0, 1)
			})
		})
	}
}

// TestPoisonOfTrust: of several grants that came at once the one with which trust
// cannot be read is held; the others count.
func TestPoisonOfTrust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteA)
		defer f.stop()
		a, b := f.nodes[0], f.nodes[1]
		b.stop()
		for _, v := range []string{"good1", "POISON", "good2"} {
			a.mustPut(crdt.Trust, v, "grant", v)
		}
		b.cfg.Program = "1"
		b.cfg.TrustMoved = func(v View, _ []crdt.Cell) {
			if v.Set(crdt.Trust).Mentions([]byte("POISON")) {
				panic("planted")
			}
		}
		f.restart(1)
		time.Sleep(time.Minute)
		wantPoison(t, b, true)
		b.want(crdt.Trust, "good1", "grant", "good1")
		b.want(crdt.Trust, "good2", "grant", "good2")
		b.want(crdt.Trust, "POISON", "grant")
	})
}

// TestPoisonOfOurOwn: a write on which the program fails is refused, whether
// before or after it was stored, and those beside it are not.
func TestPoisonOfOurOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA)
		defer f.stop()
		n := f.nodes[0]
		n.stop()
		n.cfg.plant = fails("merge")
		n.mustStart(f.media[0])
		n.mustPut(siteA, "u1", "name", "good")
		if _, err := n.put(siteA, "u1", "name", "POISON"); !errors.Is(err, ErrProgram) {
			t.Fatalf("it was acknowledged: %v", err)
		}
		n.want(siteA, "u1", "name", "good")
		wantPoison(t, n, true)
		_, err := n.e.Commit(context.Background(), Mutation{Scope: siteA, Writes: []crdt.Write{write(1, "u2", "name", "x")},
			Precondition: func(View) error { panic("planted") }})
		if !errors.Is(err, ErrProgram) {
			t.Fatalf("it was taken: %v", err)
		}
		n.mustPut(siteA, "u1", "name", "better")
		n.want(siteA, "u1", "name", "better")
	})
}

// TestPoisonMessage: a message on which the program fails costs its sender the
// link, a watcher that fails costs nobody anything.
func TestPoisonMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteA)
		defer f.stop()
		a, b := f.nodes[0], f.nodes[1]
		f.settled(10 * time.Second)
		b.stop()
		b.cfg.plant = fails("receive")
		f.restart(1)
		told := 0
		b.e.Watch(func(crdt.Scope, []crdt.Cell) { panic("planted") })
		b.e.Watch(func(crdt.Scope, []crdt.Cell) { told++ })
		a.mustPut(crdt.Fleet, "u1", "name", "POISON")
		time.Sleep(time.Second)
		synctest.Wait()
		if st := b.e.Status(); len(st.Peers) != 1 || st.Peers[0].Refused == nil || !strings.Contains(st.Peers[0].Refused.Error(), "planted") {
			t.Fatalf("the link was not dropped: %+v", st.Peers)
		}
		b.mustPut(siteA, "u2", "name", "here")
		synctest.Wait()
		if told != 1 {
			t.Fatalf("the other watcher was told %d times", told)
		}
		b.want(siteA, "u2", "name", "here")
	})
}

// restart starts a stopped node as a new process does, with links of its own.
func (f *fleet) restart(i int) {
	f.t.Helper()
	var peers []mesh.Peer
	for _, n := range f.nodes {
		peers = append(peers, mesh.Peer{ID: mesh.PeerID(n.id), Addrs: []string{"mem"}})
	}
	f.links[i].Close()
	x := f.net.Join(mesh.PeerID(f.nodes[i].id))
	x.Admit(peers)
	f.links[i], f.nodes[i].mesh = x, x
	f.nodes[i].mustStart(f.media[i])
}
