package replica

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk/disktest"
	"carrierclass.net/ccnode/mesh"
)

// TestNemesis lets five nodes on three sites write while links are cut, power
// is cut, disks fail, fill up and are set back to an old image, all drawn from a
// seed. At the end everything heals, and then: every acknowledged write is at
// every holder, fingerprints are equal, nothing is owed.
//
// A disk is only set back when nobody else's is and others hold what it has: two
// such faults at once do lose data.
func TestNemesis(t *testing.T) {
	seeds := 12
	if s := os.Getenv("CCNODE_SEEDS"); s != "" {
		seeds, _ = strconv.Atoi(s)
	} else if testing.Short() {
		seeds = 4
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { nemesis(t, seed) })
		})
	}
}

type acked struct {
	scope  crdt.Scope
	record string
	value  string
	by     int
}

func nemesis(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 99))
	siteC := crdt.SiteScope([10]byte{'c'})
	sites := []crdt.Scope{siteA, siteA, siteB, siteB, siteC}
	f := newFleet(t, sites...)
	defer f.stop()
	f.net.Delay(time.Duration(rng.IntN(80)) * time.Millisecond)
	var log []acked
	count := 0
	images := map[int][]byte{}
	restart := func(i int) {
		n := f.nodes[i]
		n.stop()
		f.links[i].Close()
		x := f.net.Join(mesh.PeerID(n.id))
		var peers []mesh.Peer
		for _, o := range f.nodes {
			peers = append(peers, mesh.Peer{ID: mesh.PeerID(o.id), Addrs: []string{"mem"}})
		}
		x.Admit(peers)
		f.links[i], n.mesh = x, x
		n.mustStart(f.media[i])
	}
	put := func(i int, shared bool) {
		n := f.nodes[i]
		scope := []crdt.Scope{crdt.Fleet, sites[i], sites[rng.IntN(len(sites))]}[rng.IntN(3)]
		count++
		record, value := fmt.Sprintf("%d-%d", i, count), fmt.Sprint(count)
		if shared { // several nodes write the same few cells
			record = fmt.Sprint("shared", rng.IntN(3))
		}
		if _, err := n.put(scope, record, "v", value); err == nil && !shared {
			log = append(log, acked{scope, record, value, i})
		}
	}
	for range 60 {
		i := rng.IntN(len(f.nodes))
		switch rng.IntN(12) {
		case 0: // cut
			var groups [2][]int
			for j := range f.nodes {
				g := rng.IntN(2)
				groups[g] = append(groups[g], j)
			}
			f.cut(groups[0], groups[1])
		case 1:
			f.net.Heal()
		case 2: // power
			f.media[i].Crash()
			restart(i)
		case 3: // power in the middle of something
			f.media[i].CrashAt(1 + rng.IntN(4))
			put(i, false)
			put(i, true)
			f.media[i].CrashAt(1 << 30)
			f.media[i].Crash()
			restart(i)
		case 4:
			f.media[i].FailAt(1+rng.IntN(3), disktest.ErrIO)
		case 5:
			f.media[i].SetFree(0)
			put(i, false)
			time.Sleep(time.Duration(rng.IntN(5)) * time.Second)
			f.media[i].SetFree(1 << 30)
		case 6:
			images[i] = f.media[i].Snapshot()
		case 7: // an old image, once everybody had what this node wrote since
			if images[i] == nil {
				continue
			}
			f.net.Heal()
			f.nodes[i].e.NetworkChanged()
			time.Sleep(3 * time.Second)
			if st := f.nodes[i].e.Status(); st.Only.Changes > 0 || st.ReadOnly != nil {
				continue
			}
			f.nodes[i].stop()
			f.media[i].Restore(images[i])
			restart(i)
			// Noticed at the first contact, not before: until then the others must
			// not be set back, too.
			put(i, false)
			f.nodes[i].e.NetworkChanged()
			time.Sleep(40 * time.Second)
		default:
			for range 1 + rng.IntN(4) {
				put(i, rng.IntN(3) == 0)
			}
		}
		time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
	}
	f.net.Heal()
	for i := range f.nodes {
		f.media[i].SetFree(1 << 30)
		f.media[i].Heal()
		restart(i)
		f.nodes[i].mustPut(crdt.Fleet, fmt.Sprint("last", i), "v", "x")
	}
	f.settled(5 * time.Minute)
	time.Sleep(30 * time.Second)
	f.settled(time.Minute)
	f.equal(crdt.Fleet, 0, 1, 2, 3, 4)
	f.equal(siteA, 0, 1)
	f.equal(siteB, 2, 3)
	lost := 0
	for _, w := range log {
		for i, n := range f.nodes {
			if w.scope != crdt.Fleet && w.scope != sites[i] {
				continue
			}
			if got := n.values(w.scope, w.record, "v"); len(got) != 1 || got[0] != w.value {
				t.Errorf("seed %d: %s of node%d in %s is %v at node%d, acknowledged was %s", seed, w.record, w.by, w.scope, got, i, w.value)
				lost++
			}
		}
	}
	for k := range 3 {
		for i, n := range f.nodes {
			a, b := n.values(crdt.Fleet, fmt.Sprint("shared", k), "v"), f.nodes[0].values(crdt.Fleet, fmt.Sprint("shared", k), "v")
			if fmt.Sprint(a) != fmt.Sprint(b) {
				t.Errorf("seed %d: shared%d is %v at node%d and %v at node0", seed, k, a, i, b)
			}
		}
	}
	t.Logf("%d acknowledged writes, %d lost, in %v", len(log), lost, time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Round(time.Second))
}
