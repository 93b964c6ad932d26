package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"log/slog"
	"math/rand/v2"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh/overlay"
)

// A world is a fleet in one thread: the engines of its boxes, the links between
// them and the time of day. Everything that happens is an event of the queue;
// whatever is random is drawn from the seed, so a seed is a run.
type world struct {
	seed   uint64
	rng    *rand.Rand
	now    time.Duration // since the beginning
	queue  events
	seq    uint64
	boxes  []*box
	byID   map[crdt.NodeID]*box
	plan   *overlay.Plan
	sites  int
	groups []int // which boxes reach each other: by box; all 0: everybody

	delay    time.Duration // of a message, at most
	genuine  map[crdt.ID]bool
	read     map[string]*crdt.Change // all changes there were, by their bytes
	messages int
	bytes    int64
	trace    hash.Hash // of all that happened: equal for equal seeds
	line     []byte
	fleet    crdt.FleetID
	founding *trust.Founding      // nil: all boxes know each other for ever
	out      map[*box]bool        // who is no member any more
	proofs   map[*box]crdt.NodeID // who was told that a node wrote two changes under one name
	large    bool
	people   int               // in the directory that all began with
	dials    map[*box]int      // how often a box dialled; nil: nobody cares
	meter    map[[2]int]int64  // bytes by link, as indexes of its ends; nil: nobody cares
	texts    map[string]string // what the disks of a large world hold, once
	keepers  map[[10]byte][10]byte
	steps    int
	harm     func(*box, disk.Store) disk.Store // a planted bug between engine and disk; nil: none
	truth    truth
	writes   int
	story    *slog.Logger        // what happens, for who looks into a seed
	hear     func(from, to *box) // after a frame arrived; nil: nobody cares
	dropped  []string            // links that an engine dropped, with its reason
}

var (
	beginning = time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	fleetID   = crdt.FleetID{1, 2, 3}
)

// newWorld makes a fleet of n boxes; about every third site has two.
func newWorld(seed uint64, n int) *world { return newFleet(seed, n, n > manyBoxes) }

// newFleet makes one whose boxes have calm disks and short lists of others, if it
// is large.
func newFleet(seed uint64, n int, large bool) *world {
	w := &world{seed: seed, large: large, rng: rand.New(rand.NewPCG(seed, 7)), byID: map[crdt.NodeID]*box{}, genuine: map[crdt.ID]bool{}, read: map[string]*crdt.Change{},
		fleet: fleetID, out: map[*box]bool{}, texts: map[string]string{}, proofs: map[*box]crdt.NodeID{}, keepers: map[[10]byte][10]byte{},
		trace: sha256.New(), groups: make([]int, n), truth: newTruth(), story: slog.New(slog.DiscardHandler)}
	w.delay = time.Duration(1+w.rng.IntN(300)) * time.Millisecond
	var members []overlay.Member
	site := 0
	for i := range n {
		b := newBox(w, i, siteID(site))
		w.boxes = append(w.boxes, b)
		w.byID[b.id] = b
		if i > 0 && w.boxes[i-1].site == b.site || w.rng.IntN(3) > 0 {
			site++
		}
		class := overlay.Plain
		if w.rng.IntN(6) == 0 {
			class = overlay.Inner
		}
		members = append(members, overlay.Member{Node: b.id, Site: b.site, Nonce: b.nonce[:], Class: class})
	}
	w.sites = site
	w.plan = overlay.New(members)
	stands := map[[10]byte][][10]byte{}
	for i := range site + 1 {
		if n > 20_000 {
			break // who stands in for whom takes as long as the sites, squared: minutes
		}
		if k, ok := w.plan.StandIn(siteID(i)); ok && len(w.plan.Nodes(siteID(i))) > 0 {
			stands[k] = append(stands[k], siteID(i))
			w.keepers[siteID(i)] = k
		}
	}
	for _, b := range w.boxes {
		b.stands = stands[b.site]
	}
	return w
}

// keeper is a site's stand-in.
func (w *world) keeper(site [10]byte) (k [10]byte, ok bool) {
	k, ok = w.keepers[site]
	return k, ok
}

// intern returns the one copy of a text.
func (w *world) intern(b []byte) string {
	if s, ok := w.texts[string(b)]; ok {
		return s
	}
	s := string(b)
	w.texts[s] = s
	return s
}

func siteID(i int) (id [10]byte) {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("site"), uint64(i)))
	copy(id[:], sum[:])
	return id
}

// at has something happen later.
func (w *world) at(d time.Duration, do func()) {
	w.seq++
	w.queue.push(event{w.now + max(d, 0), w.seq, do})
}

// run lets events happen until a time.
func (w *world) run(until time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= until {
		e := w.queue.pop()
		w.now = e.at
		w.steps++
		e.do()
	}
	w.now = until
}

// note makes part of the trace what happened.
func (w *world) note(what string, from, to *box, b []byte) {
	if w.story.Enabled(context.Background(), slog.LevelDebug) {
		w.story.Debug(what, "from", from.index, "to", to.index, "body", fmt.Sprintf("%x", b))
	}
	line := w.line[:0]
	for _, n := range []int{int(w.now), from.index, to.index, len(b)} {
		line = binary.BigEndian.AppendUint64(line, uint64(n))
	}
	w.line = append(append(line, what...), b...)
	w.trace.Write(w.line)
}

func (w *world) reaches(a, b *box) bool { return w.groups[a.index] == w.groups[b.index] }

// between draws a duration.
func (w *world) between(from, to time.Duration) time.Duration {
	return from + time.Duration(w.rng.Int64N(int64(to-from)+1))
}

// verify checks a signature once for the whole fleet: the same bytes are genuine
// everywhere.
func (w *world) verify(c *crdt.Change, pub []byte) bool {
	ok, known := w.genuine[c.ID()]
	if !known {
		ok = c.Verify(w.fleet, ed25519.PublicKey(pub))
		w.genuine[c.ID()] = ok
	}
	return ok
}

// decode reads a change once for the whole fleet: a change is never altered.
func (w *world) decode(raw []byte) (*crdt.Change, error) {
	if c := w.read[string(raw)]; c != nil {
		return c, nil
	}
	c, err := crdt.Decode(raw)
	if err == nil {
		w.read[string(raw)] = c
	}
	return c, err
}

func (w *world) sum() string { return fmt.Sprintf("%x", w.trace.Sum(nil)[:8]) }

func less(a, b crdt.NodeID) int { return bytes.Compare(a[:], b[:]) }
