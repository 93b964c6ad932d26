package replica

import (
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/mesh"
)

// sent is how many bytes node i has sent to the others given.
func (f *fleet) sent(i int, to ...int) (n int64) {
	for _, j := range to {
		n += f.nodes[i].mesh.Stats(mesh.PeerID(f.nodes[j].id)).Out
	}
	return n
}

// bothWant lets the two boxes of a site (1 and 2) want what node 0 has, at once; 1
// goes first. on: 2 fetches because somebody waits there.
func (f *fleet) bothWant(a *audio, ref site.BlobRef, on bool) {
	x, y, far := f.nodes[1].id, f.nodes[2].id, f.nodes[0].id
	a.want(1, Want{Ref: ref, From: []Peer{y, far}, Near: 1})
	if on {
		a.blobs[2].Fetch(ref, []Peer{x, far}, 1)
	} else {
		a.want(2, Want{Ref: ref, From: []Peer{x, far}, Near: 1, Yield: true})
	}
}

// Both boxes of a pair want the same recording: it crosses the WAN once, and the
// other one takes it over the LAN.
func TestAPairFetchesARecordingOnce(t *testing.T) {
	for name, rate := range map[string]int{"fast": 0, "slow": 10_000} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, siteA, siteB, siteB)
				defer f.stop()
				a := f.audio()
				defer a.stop()
				f.net.Delay(20 * time.Millisecond)
				const size = 500_000
				ref, p := a.record(t, 0, size)
				a.mu.Lock()
				a.rates = map[int]int{0: rate} // node 0's line; the LAN is fast
				a.mu.Unlock()
				wan, lan := f.sent(0, 1, 2), f.sent(1, 2)
				f.bothWant(a, ref, false)
				start := time.Now()
				a.wait(t, 1, ref, 2*time.Minute)
				first := time.Since(start)
				a.wait(t, 2, ref, 30*time.Second)
				t.Logf("at the first box after %v, at the second after %v", first, time.Since(start))
				a.same(t, 2, ref, p)
				wan, lan = f.sent(0, 1, 2)-wan, f.sent(1, 2)-lan
				t.Logf("%d bytes over the WAN, %d over the LAN, for %d", wan, lan, size)
				if wan > size*11/10 {
					t.Errorf("%d bytes of a recording of %d came over the WAN", wan, size)
				}
				if lan < size {
					t.Errorf("%d bytes over the LAN", lan)
				}
				// Then nobody says anything.
				time.Sleep(time.Minute)
				before := f.bytes()
				time.Sleep(24 * time.Hour)
				if got := f.bytes() - before; got != 0 {
					t.Errorf("%d bytes in a day in which nothing was wanted", got)
				}
			})
		})
	}
}

// Somebody waits at the second box while the first one fetches: it is told how far
// that is, and does not fetch a second time.
func TestWhoListensAtTheOtherBoxSeesHowFarItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB, siteB)
		defer f.stop()
		a := f.audio()
		defer a.stop()
		const size = 500_000
		ref, _ := a.record(t, 0, size)
		a.mu.Lock()
		a.rates = map[int]int{0: 10_000}
		a.mu.Unlock()
		wan := f.sent(0, 1, 2)
		a.want(1, Want{Ref: ref, From: []Peer{f.nodes[2].id, f.nodes[0].id}, Near: 1})
		time.Sleep(5 * time.Second)
		a.blobs[2].Fetch(ref, []Peer{f.nodes[1].id, f.nodes[0].id}, 1)
		time.Sleep(20 * time.Second)
		p, ok := a.blobs[2].Progress(ref)
		if !ok || p.Have < 100_000 || p.Size != size || p.Lack > 0 {
			t.Errorf("known of it: %+v, %v", p, ok)
		}
		a.wait(t, 2, ref, time.Minute)
		if wan = f.sent(0, 1, 2) - wan; wan > size*11/10 {
			t.Errorf("%d bytes of a recording of %d came over the WAN", wan, size)
		}
	})
}

// The box that goes first cannot fetch: the other one does, soon, and the first
// takes it from there.
func TestTheOtherBoxFetchesIfTheFirstCannot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB, siteB)
		defer f.stop()
		a := f.audio()
		defer a.stop()
		ref, p := a.record(t, 0, 200_000)
		// What the first one asks of node 0 gets lost, without a word.
		a.mu.Lock()
		a.harm[1] = func(fr mesh.Frame) mesh.Frame {
			if fr.Peer == mesh.PeerID(f.nodes[0].id) && len(fr.Body) > 0 && fr.Body[0] == frameWant {
				fr.Body = []byte{frameHave}
			}
			return fr
		}
		a.mu.Unlock()
		f.bothWant(a, ref, false)
		a.wait(t, 2, ref, 2*time.Minute)
		a.wait(t, 1, ref, 2*time.Minute)
		a.same(t, 1, ref, p)
	})
}

// The box that goes first is off.
func TestTheOtherBoxFetchesIfTheFirstIsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB, siteB)
		defer f.stop()
		a := f.audio()
		defer a.stop()
		ref, _ := a.record(t, 0, 200_000)
		f.cut([]int{0, 2}, []int{1})
		f.bothWant(a, ref, false)
		start := time.Now()
		a.wait(t, 2, ref, time.Minute)
		t.Logf("after %v", time.Since(start))
	})
}
