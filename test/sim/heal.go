package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/replica"
)

// A healing is what two halves of a fleet said to each other when they met again.
type healing struct {
	links                  int // that carried anything
	max, median, total     int64
	across, acrossMax      int64 // of the links between the halves: all, and the most on one
	took                   time.Duration
	frames                 int
	small, large           int64 // what one half has and the other lacks, compressed: the smaller and the larger
	changes                int   // live at the end
	virtual, split, seeded time.Duration
	cold, warm             time.Duration // an edit reaches all of its half: the first after the cut, and one 5 minutes later
	tried                  int           // dials of a box in these 5 minutes, at most
	faults                 []string
}

// user is the record of one person of the directory.
func user(i int) crdt.Cell {
	return crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: fmt.Sprint("user ", i), Field: "name"}
}

// heal gives a fleet a directory, parts it in two halves, lets each half write so
// many edits, and looks at what passes once the halves meet again.
func heal(seed uint64, nodes, users, edits int) (h healing) {
	w := newFleet(seed, nodes, true)
	fault := w.truth.fault
	defer func() { h.faults, h.virtual = w.truth.faults, w.now }()
	first := w.boxes[0]
	if err := first.start(); err != nil {
		fault("%v", err)
		return h
	}
	for i := range users {
		w.put(first, user(i), fmt.Sprint("person ", i, filler))
	}
	if err := w.share(first, true); err != nil {
		fault("%v", err)
		return h
	}
	h.seeded = w.untilEqual(time.Hour)
	w.run(w.now + 10*time.Minute)
	half := make([]int, nodes)
	for i, at := range w.rng.Perm(nodes) {
		half[at] = i % 2
	}
	w.cut(func(b *box) int { return half[b.index] })
	before := first.live()
	w.dials = map[*box]int{}
	h.cold = w.carries("cold", func(b *box) bool { return half[b.index] == 0 })
	w.run(w.now + 5*time.Minute) // links that died are noticed, others are made
	for _, n := range w.dials {
		h.tried = max(h.tried, n)
	}
	w.dials = nil
	h.warm = w.carries("warm", func(b *box) bool { return half[b.index] == 0 })
	for i := range 2 * edits {
		side := i % 2
		b := w.boxes[w.rng.IntN(nodes)]
		for half[b.index] != side {
			b = w.boxes[w.rng.IntN(nodes)]
		}
		w.put(b, user(w.rng.IntN(max(users, 1))), fmt.Sprint("edit ", i, filler))
		w.run(w.now + w.between(0, 2*time.Second))
	}
	w.run(w.now + 20*time.Minute)
	at := func(side int) *box { return w.boxes[slices.Index(half, side)] }
	for i := range 2 {
		z := int64(squeezed(at(i).since(before)))
		if i == 0 {
			h.small, h.large = z, z
		}
		h.small, h.large = min(h.small, z), max(h.large, z)
	}
	w.meter = map[[2]int]int64{}
	frames := w.messages
	w.cut(func(*box) int { return 0 })
	h.took = w.untilEqual(time.Hour)
	w.run(w.now + 20*time.Minute) // acknowledgements, and what is said for nothing
	h.frames = w.messages - frames
	var all []int64
	for ends, n := range w.meter {
		all = append(all, n)
		h.total += n
		if half[ends[0]] != half[ends[1]] {
			h.across += n
			h.acrossMax = max(h.acrossMax, n)
		}
	}
	slices.SortFunc(all, cmp.Compare)
	if h.links = len(all); h.links > 0 {
		h.max, h.median = all[len(all)-1], all[len(all)/2]
	}
	first.st.View(func(v replica.View) { h.changes = v.Set(crdt.Fleet).Len() })
	return h
}

// put writes what the twin does not follow.
func (w *world) put(b *box, c crdt.Cell, text string) {
	r, err := b.st.Commit(replica.Mutation{Scope: c.Scope, Writes: []crdt.Write{{Table: c.Table, Record: c.Record, Field: c.Field, Value: []byte(text)}}})
	if err != nil {
		w.truth.fault("%s: %v", b, err)
	}
	b.last = r.ID
	b.after()
}

// carries has one of some boxes write something, and lets time pass until they all
// have it.
func (w *world) carries(what string, these func(*box) bool) time.Duration {
	c := fleetCell(what)
	begun := w.now
	some := slices.DeleteFunc(slices.Clone(w.boxes), func(b *box) bool { return !these(b) })
	w.put(some[len(some)/2], c, what)
	for w.now-begun < time.Hour {
		w.run(w.now + 250*time.Millisecond)
		some = slices.DeleteFunc(some, func(b *box) bool { return len(b.visible(c)) > 0 })
		if len(some) == 0 {
			return w.now - begun
		}
	}
	w.truth.fault("after an hour %d boxes of that half have not what was written there", len(some))
	return time.Hour
}

// untilEqual lets time pass until all boxes have the same directory.
func (w *world) untilEqual(within time.Duration) time.Duration {
	begun := w.now
	at := 0 // the first that was seen to differ
	for w.now-begun < within {
		w.run(w.now + 250*time.Millisecond)
		want := w.boxes[len(w.boxes)-1].print()
		if w.boxes[at].print() != want {
			continue
		}
		if at = slices.IndexFunc(w.boxes, func(b *box) bool { return b.print() != want }); at < 0 {
			return w.now - begun
		}
	}
	w.truth.fault("after %v box %d has not the state of the last", within, at)
	return within
}

// live are the ids of the directory.
func (b *box) live() map[crdt.ID]bool {
	out := map[crdt.ID]bool{}
	b.st.View(func(v replica.View) {
		for _, id := range v.Set(crdt.Fleet).IDs() {
			out[id] = true
		}
	})
	return out
}

// since are the live changes that are newer, in the order of their ids: what the
// other half has to be sent.
func (b *box) since(before map[crdt.ID]bool) (out []byte) {
	var ids []crdt.ID
	b.st.View(func(v replica.View) { ids = v.Set(crdt.Fleet).IDs() })
	for _, id := range ids {
		if !before[id] {
			out = append(out, b.raw(id)...)
		}
	}
	return out
}

func (b *box) print() (f crdt.Fingerprint) {
	b.st.View(func(v replica.View) { f = v.Set(crdt.Fleet).Fingerprint() })
	return f
}

// squeezed is how small a good compressor makes it.
func squeezed(b []byte) int {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err) // the options are constant
	}
	defer z.Close()
	return len(z.EncodeAll(b, nil))
}

// tell prints what came out, the verdict last.
func (h healing) tell(seed uint64, nodes, users, edits int) {
	for _, f := range h.faults {
		fmt.Println(f)
	}
	fmt.Printf("%d boxes with %d users, seed %d: halves with %d edits each; %d live changes, %v of time\n",
		nodes, users, seed, edits, h.changes, h.virtual.Round(time.Second))
	fmt.Printf("parted: the first edit reaches its half in %v, one five minutes later in %v; a box dialled at most %d times between\n", h.cold, h.warm, h.tried)
	fmt.Printf("equal again %v after the heal; %d frames on %d links, %d bytes; between the halves %d bytes\n",
		h.took.Round(time.Millisecond), h.frames, h.links, h.total, h.across)
	fmt.Printf("bytes per link: max %d, median %d, between the halves at most %d; what each half lacks, compressed: %d and %d; a link that carries both: %d\n",
		h.max, h.median, h.acrossMax, h.small, h.large, h.small+h.large)
	fmt.Printf("lower bound for the fleet (each box gets the other half once): %d bytes; sent: %.2f times as much\n",
		int64(nodes)*(h.small+h.large)/2, float64(h.total)/(float64(nodes)*float64(h.small+h.large)/2))
	fmt.Printf("%d faults\n", len(h.faults))
}
