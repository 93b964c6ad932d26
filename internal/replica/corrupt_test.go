package replica

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/mesh"
)

// liar is the mesh of a member that sends something else than its engine says.
type liar struct {
	mesh.Mesh
	mu   sync.Mutex
	lie  func(body []byte) []byte // nil: none
	told int
}

func (l *liar) Send(f mesh.Frame) {
	l.mu.Lock()
	if l.lie != nil {
		if b := l.lie(append([]byte(nil), f.Body...)); b != nil {
			f.Body = b
			l.told++
		}
	}
	l.mu.Unlock()
	l.Mesh.Send(f)
}

func (l *liar) begin(lie func([]byte) []byte) { l.mu.Lock(); l.lie, l.told = lie, 0; l.mu.Unlock() }
func (l *liar) lies() int                     { l.mu.Lock(); defer l.mu.Unlock(); return l.told }

// Kinds of messages (antientropy, wire.go); what is long is compressed, what was
// said alike before is in pieces.
const (
	batchKind = 2
	cellsKind = 8
	squeezed  = 0x80 | 0x20
)

func flipped(body []byte, at int) []byte { body[at] ^= 1 << (at % 8); return body }

// TestACorruptWordCostsTheLink: a member sends what is no frame, no record, no
// sketch, no snapshot. That costs it its link, with the reason in the status, and
// the receiver nothing: it has what it had, and goes on with the others. When it
// sends what is right again it is listened to again. (A false part of a recording:
// TestAFalsePartCostsItsSenderTheLink.)
func TestACorruptWordCostsTheLink(t *testing.T) {
	batch := func(b []byte) bool { return b[0]&^squeezed == batchKind && len(b) > 100 }
	for _, c := range []struct {
		word  string
		blank bool // the receiver has nothing yet
		meet  bool // the two have not met yet, and each has something
		lie   func(rnd *rand.Rand) func([]byte) []byte
	}{
		{word: "a frame cut in two", lie: func(*rand.Rand) func([]byte) []byte {
			return func(b []byte) []byte { return b[:len(b)/2] }
		}},
		{word: "a frame of noise", lie: func(rnd *rand.Rand) func([]byte) []byte {
			return func(b []byte) []byte {
				for i := range b[1:] {
					b[1+i] = byte(rnd.Uint32())
				}
				return b
			}
		}},
		{word: "a frame that is longer", lie: func(*rand.Rand) func([]byte) []byte {
			return func(b []byte) []byte { return append(b, 0) }
		}},
		{word: "a record with another signature", lie: func(rnd *rand.Rand) func([]byte) []byte {
			return func(b []byte) []byte {
				if !batch(b) {
					return nil
				}
				return flipped(b, len(b)-1-rnd.IntN(60))
			}
		}},
		{word: "a record with a flipped bit", lie: func(rnd *rand.Rand) func([]byte) []byte {
			return func(b []byte) []byte {
				if !batch(b) {
					return nil
				}
				return flipped(b, len(b)-70-rnd.IntN(20))
			}
		}},
		{word: "a snapshot with a flipped bit", blank: true, lie: func(rnd *rand.Rand) func([]byte) []byte {
			n := 0
			return func(b []byte) []byte {
				if !batch(b) {
					return nil
				}
				if n++; n != 3 {
					return nil
				}
				return flipped(b, len(b)/2)
			}
		}},
		{word: "a sketch with flipped bits", meet: true, lie: func(rnd *rand.Rand) func([]byte) []byte {
			return func(b []byte) []byte {
				if b[0]&^squeezed != cellsKind || len(b) < 200 {
					return nil
				}
				for range 40 {
					b = flipped(b, 60+rnd.IntN(len(b)-60))
				}
				return b
			}
		}},
		{word: "a sketch cut short", meet: true, lie: func(rnd *rand.Rand) func([]byte) []byte {
			return func(b []byte) []byte {
				if b[0]&^squeezed != cellsKind || len(b) < 200 {
					return nil
				}
				return b[:len(b)-1-rnd.IntN(100)]
			}
		}},
	} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprint(c.word, " ", seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					rnd := rand.New(rand.NewPCG(seed, 1))
					corrupted(t, c.blank, c.meet, c.lie(rnd))
				})
			})
		}
	}
}

func corrupted(t *testing.T, blank, meet bool, lie func([]byte) []byte) {
	f := newFleet(t, siteA, siteA, siteA)
	defer f.stop()
	cheat, honest, victim := f.nodes[0], f.nodes[1], f.nodes[2]
	f.again(0, func(*Config) {})
	cheat.stop()
	l := &liar{Mesh: cheat.mesh}
	cheat.mesh = l
	cheat.mustStart(f.media[0])
	together := func() { f.cut([]int{0, 2}, []int{1}) }
	const many = 300
	switch {
	case blank:
		f.cut([]int{0, 1}, []int{2})
	case meet: // both have it from the third
		f.cut([]int{0, 1}, []int{2})
	}
	for i := range many {
		honest.mustPut(crdt.Fleet, fmt.Sprint("u", i), "name", fmt.Sprint("a person with the number ", i))
	}
	if meet {
		time.Sleep(20 * time.Second)
		f.cut([]int{1, 2}, []int{0})
		time.Sleep(20 * time.Minute)
		f.cut([]int{1}, []int{0}, []int{2})
		for i := range 20 {
			cheat.mustPut(crdt.Fleet, fmt.Sprint("cheat", i), "name", "of the cheat")
			victim.mustPut(crdt.Fleet, fmt.Sprint("victim", i), "name", "of the victim")
		}
	} else if !blank {
		f.settled(time.Minute)
	} else {
		time.Sleep(20 * time.Second)
	}
	before, has := victim.fingerprint(crdt.Fleet), 0
	victim.e.View(func(v View) { has = v.Set(crdt.Fleet).Len() })
	goroutines := runtime.NumGoroutine()
	l.begin(lie)
	together()
	if !blank && !meet {
		cheat.mustPut(crdt.Fleet, "new", "name", "of the cheat")
	}
	status := func() *PeerStatus {
		st := victim.e.Status()
		for i := range st.Peers {
			if st.Peers[i].Peer == Peer(cheat.id) {
				return &st.Peers[i]
			}
		}
		return nil
	}
	dropped := false
	for range 1200 { // a pause between two dials is up to a quarter of an hour
		time.Sleep(time.Second)
		synctest.Wait()
		if p := status(); p != nil && p.Refused != nil {
			dropped = true
			break
		}
	}
	if l.lies() == 0 {
		t.Fatal("nothing was corrupted")
	}
	if !dropped {
		t.Fatalf("after %d corrupt messages its link is up as if nothing had been: %+v", l.lies(), status())
	}
	if got := victim.fingerprint(crdt.Fleet); !blank && !meet && got != before {
		t.Errorf("what the receiver has is not what it had")
	}
	victim.e.View(func(v View) {
		s := v.Set(crdt.Fleet)
		if s.Len() < has {
			t.Errorf("%d changes, of %d", s.Len(), has)
		}
		for _, id := range s.IDs() { // each is one that somebody wrote
			known := false
			for _, o := range []*node{cheat, honest, victim} {
				if o == victim && s.Author(id) != victim.id {
					continue
				}
				o.e.View(func(v View) { known = known || v.Set(crdt.Fleet).Has(id) })
			}
			if !known {
				t.Errorf("nobody wrote %s", id)
			}
		}
	})
	if n := runtime.NumGoroutine(); n > goroutines+8 {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
	// The others are listened to as ever.
	f.cut([]int{1, 2}, []int{0})
	honest.mustPut(crdt.Fleet, "meanwhile", "name", "honest")
	for range 1200 {
		time.Sleep(time.Second)
		if synctest.Wait(); len(victim.values(crdt.Fleet, "meanwhile", "name")) == 1 {
			break
		}
	}
	victim.want(crdt.Fleet, "meanwhile", "name", "honest")
	// And the one that lied, when it does not.
	l.begin(nil)
	f.net.Heal()
	cheat.mustPut(crdt.Fleet, "sorry", "name", "of the cheat")
	f.settled(40 * time.Minute)
	victim.want(crdt.Fleet, "sorry", "name", "of the cheat")
	f.equal(crdt.Fleet, 0, 1, 2)
}
