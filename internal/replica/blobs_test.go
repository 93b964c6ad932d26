package replica

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/blob"
	"carrierclass.net/ccnode/internal/disk/disktest"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/memnet"
)

// audio gives the nodes of a fleet their stores of recordings.
type audio struct {
	mu      sync.Mutex
	stores  []*blob.Store
	blobs   []*Blobs
	wants   [][]Want
	arrived [][]site.BlobRef
	rate    int
	rates   map[int]int // of some nodes
	stops   []func()
	harm    []func(mesh.Frame) mesh.Frame // what becomes of frames that a node sends; nil: nothing
	ids     []Peer
	drops   [][2]Peer // who ended a link with whom
	free    atomic.Int64
}

func (h harmed) Drop(p mesh.PeerID, why error) {
	h.a.mu.Lock()
	h.a.drops = append(h.a.drops, [2]Peer{h.a.ids[h.i], Peer(p)})
	h.a.mu.Unlock()
	h.Mesh.Drop(p, why)
}

// harmed is a mesh that changes what goes out.
type harmed struct {
	mesh.Mesh
	a *audio
	i int
}

func (h harmed) Send(f mesh.Frame) {
	h.a.mu.Lock()
	harm := h.a.harm[h.i]
	h.a.mu.Unlock()
	if harm != nil {
		f = harm(f)
	}
	h.Mesh.Send(f)
}

func (f *fleet) audio() *audio {
	f.t.Helper()
	a := &audio{wants: make([][]Want, len(f.nodes)), arrived: make([][]site.BlobRef, len(f.nodes)), harm: make([]func(mesh.Frame) mesh.Frame, len(f.nodes))}
	a.free.Store(1 << 40)
	for i, n := range f.nodes {
		a.ids = append(a.ids, n.id)
		s, err := blob.Open(blob.Options{Dir: f.t.TempDir(), Reserve: 1, Log: testLog(), Random: rand.NewChaCha8([32]byte{byte(i)}), Now: time.Now,
			Free: func(string) (int64, int64, error) { return a.free.Load(), 1 << 40, nil }})
		if err != nil {
			f.t.Fatal(err)
		}
		b, err := NewBlobs(BlobConfig{Store: s, Disk: n.store, Mesh: harmed{n.mesh, a, i}, Now: time.Now, Log: testLog(),
			Wanted: func() []Want { a.mu.Lock(); defer a.mu.Unlock(); return slices.Clone(a.wants[i]) },
			Arrived: func(r site.BlobRef) {
				a.mu.Lock()
				defer a.mu.Unlock()
				a.arrived[i] = append(a.arrived[i], r)
			},
			Budget: func(Peer) int {
				a.mu.Lock()
				defer a.mu.Unlock()
				if r, ok := a.rates[i]; ok {
					return r
				}
				return a.rate
			},
		})
		if err != nil {
			f.t.Fatal(err)
		}
		a.stores, a.blobs = append(a.stores, s), append(a.blobs, b)
		n.cancel()
		<-n.done
		n.cfg.Blobs = b
		if err := n.start(n.store); err != nil {
			f.t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = b.Run(ctx) }()
		a.stops = append(a.stops, func() { cancel(); <-done })
	}
	return a
}

func (a *audio) stop() {
	for _, s := range a.stops {
		s()
	}
}

// record leaves size bytes of noise at node i.
func (a *audio) record(t *testing.T, i, size int) (site.BlobRef, []byte) {
	t.Helper()
	p := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(i)}).Read(p)
	r, err := a.stores[i].Create(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Write(p); err != nil {
		t.Fatal(err)
	}
	ref, _, err := r.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return ref, p
}

func (a *audio) want(i int, wants ...Want) {
	a.mu.Lock()
	a.wants[i] = wants
	a.mu.Unlock()
	a.blobs[i].Poke()
}

func (a *audio) wait(t *testing.T, i int, ref site.BlobRef, limit time.Duration) {
	t.Helper()
	for end := time.Now().Add(limit); !a.stores[i].Has(ref); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			have, size := a.stores[i].Part(ref)
			t.Fatalf("recording did not arrive in %v (%d bytes of %d did)", limit, have, size)
		}
	}
}

func (a *audio) same(t *testing.T, i int, ref site.BlobRef, want []byte) {
	t.Helper()
	r, err := a.stores[i].Open(ref)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(want), err)
	}
}

func TestRecordingsFollowTheirEntriesAndAreAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB, siteB)
		defer f.stop()
		a := f.audio()
		defer a.stop()
		ref, p := a.record(t, 0, 300_000)
		empty, none := a.record(t, 0, 0)
		// Node 1 believes that node 2 has it; node 2 does not, node 0 does.
		a.want(1, Want{Ref: ref, From: []Peer{f.nodes[2].id, f.nodes[0].id}}, Want{Ref: empty, From: []Peer{f.nodes[0].id}})
		a.wait(t, 1, ref, 10*time.Second)
		a.wait(t, 1, empty, 10*time.Second)
		a.same(t, 1, ref, p)
		a.same(t, 1, empty, none)
		time.Sleep(time.Second)
		if by := a.blobs[0].Acked(ref); len(by) != 1 || by[0] != f.nodes[1].id {
			t.Fatalf("acknowledged by %x", by)
		}
		if by := a.blobs[1].Acked(ref); len(by) != 1 || by[0] != f.nodes[0].id {
			t.Errorf("held elsewhere, as the fetcher knows: %v", by)
		}
		time.Sleep(time.Minute)
		before := f.bytes()
		time.Sleep(24 * time.Hour)
		if got := f.bytes() - before; got != 0 {
			t.Fatalf("%d bytes in a day in which nothing was wanted", got)
		}
	})
}

func TestInterruptedFetchGoesOnWhereItStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB)
		defer f.stop()
		a := f.audio()
		defer a.stop()
		f.net.Delay(20 * time.Millisecond)
		a.mu.Lock()
		a.rate = 20_000
		a.mu.Unlock()
		ref, p := a.record(t, 0, 400_000)
		a.want(1, Want{Ref: ref, From: []Peer{f.nodes[0].id}})
		time.Sleep(8 * time.Second)
		got, _ := a.stores[1].Part(ref)
		if got < 50_000 || got > 250_000 {
			t.Fatalf("%d bytes in 8 s at 20 kB/s", got)
		}
		f.cut([]int{0}, []int{1})
		time.Sleep(2 * time.Minute)
		if a.stores[1].Has(ref) {
			t.Fatal("it crossed the cut")
		}
		f.net.Heal()
		_, before := f.links[0].Total()
		a.wait(t, 1, ref, 5*time.Minute)
		a.same(t, 1, ref, p)
		if _, after := f.links[0].Total(); after-before > int64(len(p))-got+20_000 {
			t.Fatalf("%d bytes were sent again for the %d missing", after-before, int64(len(p))-got)
		}
	})
}

func TestWhatSomebodyWaitsForComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB)
		defer f.stop()
		a := f.audio()
		defer a.stop()
		f.net.Delay(10 * time.Millisecond)
		a.mu.Lock()
		a.rate = 100_000
		a.mu.Unlock()
		var wants []Want
		for i := range 5 {
			ref, _ := a.record(t, 0, 100_000+i)
			wants = append(wants, Want{Ref: ref, From: []Peer{f.nodes[0].id}})
		}
		a.want(1, wants...)
		time.Sleep(100 * time.Millisecond)
		a.blobs[1].Fetch(wants[4].Ref, wants[4].From, 0)
		for _, w := range wants {
			a.wait(t, 1, w.Ref, time.Minute)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if at := slices.Index(a.arrived[1], wants[4].Ref); at != 1 { // after the one already on its way
			t.Fatalf("it came as number %d", at+1)
		}
	})
}

func TestACallSlowsARecordingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB)
		defer f.stop()
		a := f.audio()
		defer a.stop()
		a.mu.Lock()
		a.rate = 4_000
		a.mu.Unlock()
		ref, _ := a.record(t, 0, 100_000)
		a.want(1, Want{Ref: ref, From: []Peer{f.nodes[0].id}})
		time.Sleep(10 * time.Second)
		if got, _ := a.stores[1].Part(ref); got > 45_000 {
			t.Fatalf("%d bytes in 10 s, the budget is 4 kB/s", got)
		}
		a.mu.Lock()
		a.rate = 0
		a.mu.Unlock()
		a.wait(t, 1, ref, 5*time.Second)
	})
}

// Each kind of lie: the recording arrives whole from the other holder, the liar
// loses its link, and nothing that was here is fetched again.
func TestAFalsePartCostsItsSenderTheLink(t *testing.T) {
	for _, first := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, siteA, siteB, siteB)
			defer f.stop()
			a := f.audio()
			defer a.stop()
			f.net.Delay(5 * time.Millisecond)
			ref, p := a.record(t, 0, 300_000)
			a.want(2, Want{Ref: ref, From: []Peer{f.nodes[0].id}})
			a.wait(t, 2, ref, 20*time.Second)
			a.mu.Lock()
			a.rate = 60_000
			lies := 0
			a.harm[2] = func(fr mesh.Frame) mesh.Frame {
				var part partFrame
				if fr.Body[0] != framePart || cbor.Unmarshal(fr.Body[1:], &part) != nil || len(part.Data) == 0 {
					return fr
				}
				lies++
				part.Data[len(part.Data)/2] ^= 1
				fr.Body = append([]byte{framePart}, encode(part)...)
				return fr
			}
			a.mu.Unlock()
			from := []Peer{f.nodes[2].id, f.nodes[0].id}
			if !first { // it comes to help
				slices.Reverse(from)
			}
			a.want(1, Want{Ref: ref, From: from})
			a.wait(t, 1, ref, 30*time.Second)
			a.same(t, 1, ref, p)
			time.Sleep(time.Second)
			// Beside another one it sends a few before what shows the first as a lie.
			if lies == 0 || first && lies > 1 || lies > 4 {
				t.Fatalf("%d false parts were sent: the first one should have ended it", lies)
			}
			if by := a.blobs[1].Acked(ref); len(by) != 1 || by[0] != f.nodes[0].id {
				t.Errorf("held by %x", by)
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			if !slices.Equal(a.drops, [][2]Peer{{f.nodes[1].id, f.nodes[2].id}}) {
				t.Errorf("links ended: %x", a.drops)
			}
		})
	}
}

func TestTwoHoldersSendPartsOfOneRecording(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB, siteB)
		defer f.stop()
		a := f.audio()
		defer a.stop()
		f.net.Delay(5 * time.Millisecond)
		ref, p := a.record(t, 0, 1_000_000)
		a.want(2, Want{Ref: ref, From: []Peer{f.nodes[0].id}})
		a.wait(t, 2, ref, 20*time.Second)
		a.mu.Lock()
		a.rate = 20_000
		a.mu.Unlock()
		start := time.Now()
		a.want(1, Want{Ref: ref, From: []Peer{f.nodes[0].id, f.nodes[2].id}})
		time.Sleep(10 * time.Second)
		if p, ok := a.blobs[1].Progress(ref); !ok || p.Asked != 2 || p.Size != 1_000_000 || p.Have < 100_000 {
			t.Errorf("progress after 10 s: %+v %v", p, ok)
		}
		// One of the two goes away in the middle, the other one goes on.
		time.Sleep(5 * time.Second)
		f.cut([]int{0, 1}, []int{2})
		time.Sleep(5 * time.Second)
		f.net.Heal()
		a.wait(t, 1, ref, 2*time.Minute)
		a.same(t, 1, ref, p)
		if took := time.Since(start); took > 40*time.Second {
			t.Errorf("it took %v; one holder alone takes 50 s", took)
		}
		time.Sleep(time.Second)
		if by := a.blobs[1].Acked(ref); len(by) != 2 {
			t.Errorf("%d holders are known", len(by))
		}
	})
}

// The disk is full when a recording is to be fetched: nobody is to blame, and it
// comes when there is room.
func TestARecordingComesWhenThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB)
		defer f.stop()
		a := f.audio()
		defer a.stop()
		ref, p := a.record(t, 0, 100_000)
		a.free.Store(0)
		a.want(1, Want{Ref: ref, From: []Peer{f.nodes[0].id}})
		time.Sleep(time.Minute)
		if have, _ := a.stores[1].Part(ref); have != 0 {
			t.Fatalf("%d bytes were stored on a full disk", have)
		}
		a.free.Store(1 << 40)
		a.wait(t, 1, ref, 2*lastPause)
		a.same(t, 1, ref, p)
	})
}

// Whoever asked for what was not there yet is told when it is, and asks again.
func TestWhoAskedInVainIsToldWhenItIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB, siteB)
		defer f.stop()
		a := f.audio()
		defer a.stop()
		ref, p := a.record(t, 0, 50_000)
		a.want(2, Want{Ref: ref, From: []Peer{f.nodes[1].id}})
		time.Sleep(5 * time.Second)
		a.want(1, Want{Ref: ref, From: []Peer{f.nodes[0].id}})
		a.wait(t, 1, ref, 10*time.Second)
		a.wait(t, 2, ref, 10*time.Second)
		a.same(t, 2, ref, p)
	})
}

// A node of the version before neither asks for proofs nor gives them.
func TestRecordingsCrossVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, siteA, siteB)
		defer f.stop()
		a := f.audio()
		defer a.stop()
		f.net.Delay(5 * time.Millisecond)
		proven := 0
		a.mu.Lock()
		a.harm[1] = func(fr mesh.Frame) mesh.Frame { // it asks as the version before
			var w wantFrame
			if fr.Body[0] == frameWant && cbor.Unmarshal(fr.Body[1:], &w) == nil {
				w.Prove, w.Below = false, 0
				fr.Body = append([]byte{frameWant}, encode(w)...)
			}
			return fr
		}
		a.harm[0] = func(fr mesh.Frame) mesh.Frame {
			var p partFrame
			if fr.Body[0] == framePart && cbor.Unmarshal(fr.Body[1:], &p) == nil && p.Before != nil {
				proven++
			}
			return fr
		}
		a.mu.Unlock()
		ref, p := a.record(t, 0, 200_000)
		a.want(1, Want{Ref: ref, From: []Peer{f.nodes[0].id}})
		a.wait(t, 1, ref, 20*time.Second)
		a.same(t, 1, ref, p)
		if proven != 0 {
			t.Fatalf("%d parts were proven to one that did not ask", proven)
		}
	})
}

// FuzzFrame feeds frames of recordings from outside: nothing may panic, and
// nothing that was not asked for may be stored.
func FuzzFrame(f *testing.F) {
	f.Add(byte(0), encode(wantFrame{Ref: make([]byte, 32), Len: 10}))
	f.Add(byte(0), encode(wantFrame{make([]byte, 32), 1 << 62, 1 << 62, true, 1 << 62}))
	f.Add(byte(1), encode(partFrame{make([]byte, 32), -5, 7, []byte("x"), nil}))
	f.Add(byte(1), encode(partFrame{make([]byte, 32), -64, 1 << 62, []byte("x"), make([]byte, 32)}))
	f.Add(byte(1), encode(partFrame{make([]byte, 32), 0, 0, nil, make([]byte, 32)}))
	f.Add(byte(2), encode(refFrame{make([]byte, 32)}))
	f.Add(byte(3), encode(refFrame{[]byte{1}}))
	dir := f.TempDir()
	s, err := blob.Open(blob.Options{Dir: dir, Reserve: 1, Log: testLog(), Random: rand.NewChaCha8([32]byte{}), Now: time.Now,
		Free: func(string) (int64, int64, error) { return 1 << 40, 1 << 40, nil }})
	if err != nil {
		f.Fatal(err)
	}
	store, err := disktest.NewMedium(1).Open()
	if err != nil {
		f.Fatal(err)
	}
	m := memnet.New().Join(mesh.PeerID{1})
	f.Cleanup(func() { m.Close() })
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		b, err := NewBlobs(BlobConfig{Store: s, Disk: store, Mesh: m, Now: time.Now, Log: testLog(), Wanted: func() []Want { return nil }})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		// A transfer is under way, so that parts are looked at.
		b.begin(site.BlobRef{}, Peer{2}, time.Now())
		defer func() {
			close(b.done)
			for _, j := range b.jobs {
				j.stop(io.EOF)
			}
			wg.Wait()
		}()
		b.event(t.Context(), &wg, blobEvent{kind: mesh.Received, peer: Peer{2}, body: append([]byte{frameBlob | kind&3}, body...)})
		if len(s.List()) != 0 {
			t.Fatal("something was stored")
		}
	})
}
