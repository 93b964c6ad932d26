package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
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
// merged. Who only passed changes on, or holds them for another reason, is not
// blamed.
func TestABoxIsToldThatItsClockIsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteA, siteB)
		defer f.stop()
		f.nodes[1].mustPut(crdt.Fleet, "u0", "name", "Zoe")
		f.settled(10 * time.Second)
		fast := func(c *Config) { c.Wall = func() time.Time { return time.Now().Add(2 * time.Hour) } }
		f.again(0, fast)
		f.again(2, func(c *Config) { c.Synced = func() bool { return true } })
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
			for _, o := range f.nodes[1:] {
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
