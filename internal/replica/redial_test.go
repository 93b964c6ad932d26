package replica

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/mesh"
)

// island is two nodes of which the first owes the second a change and cannot
// reach it. failed counts its attempts that ended.
func island(t *testing.T, seed int, loud bool) (f *fleet, failed *int) {
	f = newFleet(t, siteA, siteB)
	f.settled(10 * time.Second)
	n, count := f.nodes[0], 0
	n.stop()
	n.cfg.Random = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	n.cfg.LinkChanged = func(ev mesh.Event) {
		if ev.Kind == mesh.LinkDown && ev.Err != nil {
			count++
		}
	}
	f.net.Refuse(loud)
	f.cut([]int{0}, []int{1})
	time.Sleep(time.Minute) // the link of before is gone
	n.mustStart(f.media[0])
	synctest.Wait()
	count = 0
	n.mustPut(crdt.Fleet, "u", "name", "x")
	return f, &count
}

// TestAnHourOfAttempts: an attempt toward a peer that does not answer costs 180
// octets (test/lab, TestRedial), so eight are within mesh.md's 1,500 in any hour,
// the first one, too.
func TestAnHourOfAttempts(t *testing.T) {
	most, sum, seeds := 0, 0, 100
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			f, failed := island(t, seed, false)
			defer f.stop()
			time.Sleep(time.Hour)
			synctest.Wait()
			most, sum = max(most, *failed), sum+*failed
			before := *failed
			time.Sleep(time.Hour)
			synctest.Wait()
			if later := *failed - before; later < 3 || later > 4 {
				t.Errorf("seed %d: %d attempts in the second hour, want 3 or 4", seed, later)
			}
		})
	}
	t.Logf("attempts in the first hour: %.1f, at most %d", float64(sum)/float64(seeds), most)
	if most > 8 || sum < 7*seeds {
		t.Errorf("%d attempts in the first hour, want 7 or 8", most)
	}
}

// TestARefusalIsTriedAgainSoon: a program that is starting again is reached
// within seconds.
func TestARefusalIsTriedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, failed := island(t, 1, true)
		defer f.stop()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if *failed != 3 {
			t.Errorf("%d attempts in 5 s, want 3", *failed)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if *failed > 10 {
			t.Errorf("%d attempts in an hour, want at most 10", *failed)
		}
	})
}

// TestAShortCutIsNoticed: without any other evidence, and with a debt on one
// side only.
func TestAShortCutIsNoticed(t *testing.T) {
	for _, cut := range []time.Duration{5 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute} {
		var sum, worst time.Duration
		const seeds = 40
		for seed := range seeds {
			synctest.Test(t, func(t *testing.T) {
				f, _ := island(t, seed, false)
				defer f.stop()
				time.Sleep(time.Duration(float64(cut) * (0.75 + 0.5*float64(seed)/seeds)))
				f.net.Heal()
				healed := time.Now()
				f.settled(time.Hour)
				d := time.Since(healed)
				sum, worst = sum+d, max(worst, d)
			})
		}
		fmt.Printf("a cut of about %v: noticed after %.1f s, at most %.1f s\n", cut, (sum / seeds).Seconds(), worst.Seconds())
		if sum/seeds > cut*5/4 {
			t.Errorf("a cut of about %v is noticed %v later, want about as long as it lasted", cut, sum/seeds)
		}
	}
}
