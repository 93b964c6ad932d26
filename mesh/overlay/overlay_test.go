package overlay

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

type id = [16]byte

// fleet makes sites with one or two nodes each; some are relays, some leaves.
func fleet(rnd *rand.Rand, sites int) (out []Member) {
	n := uint64(0)
	for s := range sites {
		var site [10]byte
		binary.BigEndian.PutUint32(site[:], uint32(s)+1)
		for range 1 + rnd.IntN(2) {
			n++
			m := Member{Site: site, Nonce: binary.BigEndian.AppendUint64(nil, rnd.Uint64()), Class: Plain}
			binary.BigEndian.PutUint64(m.Node[:], n)
			switch rnd.IntN(10) {
			case 0:
				m.Class = Inner
			case 1, 2:
				m.Class = Leaf
			}
			out = append(out, m)
		}
	}
	return out
}

func nobody(id) bool { return false }

// spread lets a change that is written at one node travel over the edges, both
// ways, as the exchange does it: not back to whom it came from. It counts what
// each site receives from other sites.
func spread(p *Plan, members []Member, from id, dead map[id]bool, down func(self id) func(id) bool) (reached map[id]bool, copies map[[10]byte]int, hops int) {
	edges := map[id]map[id]bool{}
	join := func(a, b id) {
		if edges[a] == nil {
			edges[a] = map[id]bool{}
		}
		edges[a][b] = true
	}
	site := map[id][10]byte{}
	for _, m := range members {
		site[m.Node] = m.Site
		if dead[m.Node] {
			continue
		}
		for _, n := range p.Neighbours(m.Node, down(m.Node)) {
			if !dead[n] {
				join(m.Node, n)
				join(n, m.Node) // it is a guest there if it is no neighbour
			}
		}
	}
	reached, copies = map[id]bool{from: true}, map[[10]byte]int{}
	type hop struct{ at, came id }
	for now := []hop{{from, id{}}}; len(now) > 0; hops++ {
		var next []hop
		for _, h := range now {
			for n := range edges[h.at] {
				if n == h.came {
					continue
				}
				if site[n] != site[h.at] {
					copies[site[n]]++
				}
				if !reached[n] {
					reached[n] = true
					next = append(next, hop{n, h.at})
				}
			}
		}
		now = next
	}
	return reached, copies, hops - 1
}

func TestEverySiteReceivesOnce(t *testing.T) {
	for _, sites := range []int{1, 2, 3, 8, 9, 10, 100, 1000} {
		rnd := rand.New(rand.NewPCG(uint64(sites), 1))
		members := fleet(rnd, sites)
		p := New(members)
		from := members[rnd.IntN(len(members))]
		reached, copies, hops := spread(p, members, from.Node, nil, func(id) func(id) bool { return nobody })
		if len(reached) != len(members) {
			t.Fatalf("%d sites: %d of %d nodes are reached", sites, len(reached), len(members))
		}
		for s, n := range copies {
			if n != 1 || s == from.Site {
				t.Fatalf("%d sites: a site receives %d copies", sites, n)
			}
		}
		t.Logf("%d sites, %d nodes: %d hops, 1 copy a site", sites, len(members), hops)
	}
}

// At the design scale: depth, degree, and leaves that carry nothing.
func TestThirtyThousandSites(t *testing.T) {
	members := fleet(rand.New(rand.NewPCG(7, 7)), 30_000)
	p := New(members)
	worst, most, class := 0, 0, map[id]Class{}
	for _, m := range members {
		class[m.Node] = m.Class
	}
	for _, m := range members {
		worst = max(worst, p.Depth(m.Node))
		ns := p.Neighbours(m.Node, nobody)
		most = max(most, len(ns))
		if i := p.home[m.Node]; p.sites[i].class == Leaf {
			if first, end := p.children(i); first != end {
				t.Fatalf("site %d cannot be dialled and carries for others", i)
			}
		}
	}
	if worst > 5 || most > FanOut+2 {
		t.Errorf("depth %d, %d neighbours", worst, most)
	}
	t.Logf("30,000 sites, %d nodes: depth %d (%d hops at most, 2 more within the sites), at most %d neighbours", len(members), worst, 2*worst, most)
}

// Boxes are gone, and only those who have tried to reach them know. Those that
// are left stay connected; a site still receives hardly more than one copy.
func TestTheRestStaysConnected(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		members := fleet(rnd, 2+rnd.IntN(300))
		p := New(members)
		dead := map[id]bool{}
		for _, m := range members {
			dead[m.Node] = rnd.IntN(100) < int(seed%60)
		}
		// Everybody tries its neighbours, and those that take their place, until
		// it has met no more that are gone.
		known := map[id]map[id]bool{}
		for _, m := range members {
			k := map[id]bool{}
			known[m.Node] = k
			for more := true; more; {
				more = false
				for _, n := range p.Neighbours(m.Node, func(n id) bool { return k[n] }) {
					if dead[n] && !k[n] {
						k[n], more = true, true
					}
				}
			}
		}
		alive := slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return dead[m.Node] })
		if len(alive) == 0 {
			continue
		}
		from := alive[rnd.IntN(len(alive))]
		reached, copies, _ := spread(p, members, from.Node, dead, func(self id) func(id) bool { return func(n id) bool { return known[self][n] } })
		if len(reached) != len(alive) {
			t.Fatalf("seed %d: %d of %d nodes that are left are reached", seed, len(reached), len(alive))
		}
		sum := 0
		for _, n := range copies {
			sum += n
		}
		if sites := len(copies) + 1; float64(sum) > 1.5*float64(sites) {
			t.Errorf("seed %d: %d copies for %d sites", seed, sum, sites)
		}
	}
}

// TestANewcomerTurnsToWhoAdmittedIt: it knows of one box where it is, and of all
// others no more than that they are members. Wherever in the tree its place is,
// that box is its neighbour.
func TestANewcomerTurnsToWhoAdmittedIt(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		members := fleet(rnd, 2+rnd.IntN(30))
		for i := range members {
			members[i].Class = Leaf
		}
		p := New(members)
		self := members[rnd.IntN(len(members))]
		i := slices.IndexFunc(members, func(m Member) bool { return m.Site != self.Site })
		only := func(n id) bool { return n != members[i].Node }
		if !slices.Contains(p.Neighbours(self.Node, only), members[i].Node) {
			t.Fatalf("seed %d: of %d boxes the only one that can be reached is no neighbour", seed, len(members))
		}
	}
}

func TestStandInMovesOnlyItsShare(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 5))
	members := fleet(rnd, 500)
	before := New(members)
	gone := members[17].Site
	after := New(slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return m.Site == gone }))
	load := map[[10]byte]int{}
	for _, s := range before.sites {
		a, ok := before.StandIn(s.site)
		if !ok || a == s.site {
			t.Fatal("no stand-in, or the site itself")
		}
		load[a]++
		if s.site == gone {
			continue
		}
		b, _ := after.StandIn(s.site)
		if a != gone && a != b {
			t.Fatalf("the stand-in of a site moved although it is still there")
		}
	}
	for s, n := range load {
		if n > 12 {
			t.Errorf("site %x stands in for %d", s, n)
		}
	}
	if _, ok := New(members[:1]).StandIn(members[0].Site); ok {
		t.Error("the only site has a stand-in")
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{100, 30_000} {
		members := fleet(rand.New(rand.NewPCG(1, 1)), n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				New(members)
			}
		})
	}
}

func TestBetweenSitesOneSpeaks(t *testing.T) {
	rnd := rand.New(rand.NewPCG(6, 6))
	p := New(fleet(rnd, 60))
	up := func([16]byte) bool { return false }
	for _, a := range p.sites {
		for _, b := range p.sites {
			if a.site == b.site {
				continue
			}
			links := 0
			for _, n := range a.nodes {
				links += len(p.Between(n.id, b.site, up))
			}
			if links != 1 {
				t.Fatalf("%d links between two sites that are up", links)
			}
			first := a.nodes[0].id
			gone := func(id [16]byte) bool { return id == first }
			if len(a.nodes) > 1 && len(p.Between(a.nodes[1].id, b.site, gone)) != 1 {
				t.Fatal("nobody speaks for a site whose first node is gone")
			}
		}
	}
}

// TestWhatACutCosts: a cut that sorts boxes at random is the worst: places are gone
// all over the tree. What a box tries or reaches stays small whatever the size, also
// at the top.
func TestWhatACutCosts(t *testing.T) {
	for _, sites := range []int{1_000, 10_000, 30_000} {
		for _, parts := range []int{2, 4, 20} {
			rnd := rand.New(rand.NewPCG(uint64(sites), uint64(parts)))
			members := fleet(rnd, sites)
			p := New(members)
			part := map[id]int{}
			for _, m := range members {
				part[m.Node] = rnd.IntN(parts)
			}
			sum, most := 0, 0
			for _, m := range members {
				n := len(p.Neighbours(m.Node, func(o id) bool { return part[o] != part[m.Node] }))
				sum, most = sum+n, max(most, n)
			}
			mean := float64(sum) / float64(len(members))
			t.Logf("%d sites in %d parts: a box has %.1f neighbours or tried them, one box %d", sites, parts, mean, most)
			if parts <= 4 && (mean > 12 || most > 400) {
				t.Errorf("%d sites in %d parts: a box tries %.1f others, one %d", sites, parts, mean, most)
			}
		}
	}
}
