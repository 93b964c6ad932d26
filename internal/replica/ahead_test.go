package replica

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/mesh"
)

// again starts node i anew on its disk, after change was made to what it is told.
func (f *fleet) again(i int, change func(*Config)) {
	f.t.Helper()
	n := f.nodes[i]
	n.stop()
	f.links[i].Close()
	change(&n.cfg)
	x := f.net.Join(mesh.PeerID(n.id))
	var peers []mesh.Peer
	for _, o := range f.nodes {
		peers = append(peers, mesh.Peer{ID: mesh.PeerID(o.id), Addrs: []string{"mem"}})
	}
	x.Admit(peers)
	f.links[i], n.mesh = x, x
	n.mustStart(f.media[i])
}

// A box whose clock is two hours ahead writes: the others hold that, tell it so at
// once and again after it was started anew, and it says so until what it wrote is
// merged, as long as it cannot put that right: another box wrote as late. Who only
// passed changes on, or holds them for another reason, is not blamed.
func TestABoxIsToldThatItsClockIsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteA, siteB, siteB)
		defer f.stop()
		f.nodes[1].mustPut(crdt.Fleet, "u0", "name", "Zoe")
		f.settled(10 * time.Second)
		fast := func(c *Config) { c.Wall = func() time.Time { return time.Now().Add(2 * time.Hour) } }
		f.again(0, fast)
		f.again(2, func(c *Config) { c.Synced = func() bool { return true } })
		f.cut([]int{0, 3}, []int{1, 2})
		f.again(3, fast)
		f.nodes[3].mustPut(crdt.Fleet, "u5", "name", "Eva")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		f.cut([]int{0, 1, 2}, []int{3})
		time.Sleep(20 * time.Second) // the three have tried again
		f.nodes[0].want(crdt.Fleet, "u5", "name", "Eva")
		n := f.nodes[0]
		if a := n.e.Status().Ahead; a.Peers != 0 {
			t.Fatalf("before it wrote anything: %+v", a)
		}
		said := func(when string, peers, changes int) {
			t.Helper()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			switch a := n.e.Status().Ahead; {
			case a.Peers != peers || a.Changes != changes:
				t.Errorf("%s: %+v, want %d changes at %d peers", when, a, changes, peers)
			case peers > 0 && ((a.By-2*time.Hour).Abs() > time.Minute || a.Synced != 1):
				t.Errorf("%s: by %v, %d of them synchronised", when, a.By, a.Synced)
			case peers > 0 && (a.Until.Sub(time.Now())-4*time.Hour+5*time.Minute).Abs() > time.Minute:
				t.Errorf("%s: until %v", when, a.Until)
			}
			for _, o := range f.nodes[1:3] {
				if a := o.e.Status().Ahead; a.Peers != 0 {
					t.Errorf("%s: %s is told that it is ahead: %+v", when, o.name, a)
				}
			}
		}
		n.mustPut(crdt.Fleet, "u1", "name", "Ann")
		n.mustPut(crdt.Fleet, "u2", "name", "Bea")
		said("after it wrote", 2, 2)
		f.nodes[1].want(crdt.Fleet, "u1", "name")
		f.again(0, fast)
		f.nodes[1].mustPut(crdt.Fleet, "u4", "name", "Dan") // a reason to talk
		time.Sleep(5 * time.Second)
		if a := n.e.Status().Ahead; a.Peers == 0 || a.Changes != 2 {
			t.Errorf("at the first hello after another start: %+v", a)
		}
		n.mustPut(crdt.Fleet, "u3", "name", "Cid")
		said("after another start", 2, 3)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		said("when its time has come", 0, 0)
		f.nodes[1].want(crdt.Fleet, "u1", "name", "Ann")
		f.nodes[2].want(crdt.Fleet, "u3", "name", "Cid")
	})
}

// stamps of the versions of a cell.
func (n *node) stamps(scope crdt.Scope, record, field string) (out []time.Time) {
	n.e.View(func(v View) {
		for _, x := range v.Set(scope).Versions(crdt.Cell{Scope: scope, Table: 1, Record: record, Field: field}) {
			out = append(out, time.UnixMilli(x.Stamp.Millis()))
		}
	})
	return out
}

// A box whose clock is two hours ahead is told so by one whose clock is
// synchronised. From then on the others have all it wrote, as it stands there; what
// was overwritten since does not come back when its time has come, and what it
// writes then comes at once, also after another start with the same wrong clock.
func TestAClockThatIsAheadIsPutRight(t *testing.T) {
	middle := 0 // power cuts in the middle of it
	for crash := range 12 {
		t.Run(fmt.Sprint("power cut ", crash), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if putRight(t, crash) {
					middle++
				}
			})
		})
	}
	if middle < 3 {
		t.Errorf("the power went %d times in the middle of it", middle)
	}
}

func putRight(t *testing.T, crash int) (middle bool) {
	f := newFleet(t, siteA, siteA, siteB)
	defer f.stop()
	n := f.nodes[0]
	f.nodes[1].mustPut(crdt.Fleet, "u0", "name", "Zoe")
	n.mustPut(crdt.Fleet, "u1", "name", "Ann")
	n.mustPut(siteA, "d1", "phone", "desk")
	f.settled(10 * time.Second)
	f.again(2, func(c *Config) { c.Synced = func() bool { return true } })
	f.cut([]int{0}, []int{1, 2})
	fast := func(c *Config) { c.Wall = func() time.Time { return time.Now().Add(2 * time.Hour) } }
	f.again(0, fast)
	old := map[crdt.Cell]crdt.Context{}
	n.e.View(func(v View) {
		c := crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: "u1", Field: "name"}
		old[c] = v.Set(crdt.Fleet).Known(c)
	})
	n.mustPut(crdt.Fleet, "u1", "name", "Anna")
	n.mustPut(crdt.Fleet, "u1", "name", "Annabel")
	if _, err := n.e.Commit(context.Background(), Mutation{Scope: crdt.Fleet, Token: old,
		Writes: []crdt.Write{write(1, "u1", "name", "Anja")}}); err != nil { // an old tab
		t.Fatal(err)
	}
	n.mustPut(crdt.Fleet, "u2", "name", "Bea")
	n.mustPut(siteA, "d1", "phone", "wall")
	if _, err := n.e.Commit(context.Background(), Mutation{Scope: crdt.Trust, Writes: []crdt.Write{{Table: 3, Record: "n9", Flags: crdt.Final}}}); err != nil {
		t.Fatal(err)
	}
	if crash == 0 { // what the other site has acknowledged comes there in its time
		n.mustPut(siteB, "m1", "message", "waits")
	}
	n.mustPut(crdt.Fleet, "u3", "name", "Cid")
	if _, err := n.e.Commit(context.Background(), Mutation{Scope: crdt.Fleet, Writes: []crdt.Write{{Table: 1, Record: "u3", Flags: crdt.Final}}}); err != nil {
		t.Fatal(err)
	}
	if crash > 0 { // the power goes in the middle of it
		f.media[0].CrashAt(crash)
	}
	f.net.Heal()
	for range 20 {
		time.Sleep(time.Second)
		synctest.Wait()
		if crash > 0 && n.e.Status().ReadOnly != nil {
			break
		}
	}
	if crash > 0 {
		n.stop()
		f.media[0].CrashAt(1 << 30)
		f.media[0].Crash()
		s, err := f.media[0].Open()
		if err != nil {
			t.Fatal(err)
		}
		_ = s.View(func(r disk.Reader) error {
			_, err := r.Get(keyMending)
			middle = err == nil
			return nil
		})
		s.Close()
		f.again(0, fast)
		time.Sleep(20 * time.Second)
	}
	f.settled(20 * time.Minute)
	for _, x := range f.nodes {
		x.want(crdt.Fleet, "u1", "name", "Annabel", "Anja")
		x.want(crdt.Fleet, "u2", "name", "Bea")
		x.want(crdt.Fleet, "u3", "name")
		if x != f.nodes[2] {
			x.want(siteA, "d1", "phone", "wall")
		} else if crash == 0 {
			x.want(siteB, "m1", "message", "waits")
		}
		for _, s := range x.stamps(crdt.Fleet, "u1", "name") {
			if s.After(time.Now().Add(time.Minute)) {
				t.Errorf("%s has a change of %v at %v", x.name, s, time.Now())
			}
		}
		if st := x.e.Status(); st.Held > 0 || st.Ahead.Peers > 0 {
			t.Errorf("%s holds %d changes, and is told: %+v", x.name, st.Held, st.Ahead)
		}
	}
	f.equal(crdt.Fleet, 0, 1, 2)
	f.equal(siteA, 0, 1)
	f.nodes[1].mustPut(crdt.Fleet, "u1", "name", "Annemarie")
	f.settled(10 * time.Second)
	f.again(0, fast)
	n.mustPut(crdt.Fleet, "u4", "name", "Dan")
	f.settled(10 * time.Second)
	f.nodes[2].want(crdt.Fleet, "u4", "name", "Dan")
	time.Sleep(3 * time.Hour)
	f.nodes[2].mustPut(crdt.Fleet, "u5", "name", "Eva")
	f.settled(10 * time.Second)
	for _, x := range f.nodes {
		x.want(crdt.Fleet, "u1", "name", "Annemarie")
		x.want(crdt.Fleet, "u2", "name", "Bea")
		if x.e.Status().Held > 0 {
			t.Errorf("%s holds changes", x.name)
		}
	}
	f.equal(crdt.Fleet, 0, 1, 2)
	f.equal(crdt.Trust, 0, 1, 2)
	return middle
}
