package replica

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/mesh"
)

// healOf has node 1 cut off while n changes are made at node 0, and returns how
// many round trips the heal takes, from the moment at which the link is up at
// both, over a line with a latency and without a limit.
func (f *fleet) healOf(n int, trip time.Duration) float64 {
	f.t.Helper()
	f.net.Delay(0)
	f.cut([]int{0}, []int{1})
	for i := range 2 { // neither end keeps the link of before
		f.links[i].Drop(mesh.PeerID(f.nodes[1-i].id), mesh.ErrSilent)
	}
	for i := range n {
		f.nodes[0].mustPut(crdt.Fleet, fmt.Sprint("r", i), "name", fmt.Sprint(f.nodes[0].fingerprint(crdt.Fleet)))
	}
	time.Sleep(time.Minute)
	f.net.Delay(trip / 2)
	f.net.Heal()
	for _, x := range f.nodes {
		x.e.NetworkChanged()
	}
	linked := func() bool {
		for _, x := range f.nodes {
			if st := x.e.Status(); len(st.Peers) != 1 || !st.Peers[0].Linked {
				return false
			}
		}
		return true
	}
	const step = time.Millisecond
	for !linked() {
		time.Sleep(step)
	}
	start := time.Now()
	for f.nodes[0].fingerprint(crdt.Fleet) != f.nodes[1].fingerprint(crdt.Fleet) {
		if time.Since(start) > time.Minute {
			f.t.Fatal("no heal within a minute")
		}
		time.Sleep(step)
		synctest.Wait()
	}
	return float64(time.Since(start)) / float64(trip)
}

// The cursors of a known neighbour are exchanged in half a round trip, and what
// it lacks takes another half, if all of it may be under way at once. A line that
// carried as much before, and is as quick now, is given as much once the first
// window is acknowledged; a line that nobody knows finds out.
func TestAHealTakesFewRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB)
		defer f.stop()
		const trip = 50 * time.Millisecond
		f.nodes[0].mustPut(crdt.Fleet, "first", "name", "x")
		f.settled(10 * time.Second)
		first := f.healOf(1000, trip)
		second := f.healOf(1000, trip)
		t.Logf("1,000 changes over a line of %v: %.1f round trips, the next heal %.1f", trip, first, second)
		if first > 6.5 {
			t.Errorf("a heal over a line that nobody knows takes %.1f round trips", first)
		}
		if second > 2.1 {
			t.Errorf("a heal over a line that is known takes %.1f round trips", second)
		}
	})
}
