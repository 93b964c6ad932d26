package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/disk/disktest"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/overlay"
)

// A box is one node: its key, its disk, and, while it runs, its engine.
type box struct {
	w      *world
	index  int
	id     crdt.NodeID
	key    ed25519.PrivateKey
	auth   crdt.Ref
	nonce  [8]byte
	site   [10]byte
	stands [][10]byte // whose stand-in its site is

	medium    medium
	store     disk.Store
	st        *replica.Stepper // nil while it is off
	life      int              // starts so far
	skew      time.Duration    // of its time of day
	synced    bool             // its time of day is kept right
	links     map[crdt.NodeID]*link
	dialling  map[crdt.NodeID]bool
	lost      map[[16]byte]bool
	rewire    bool
	readmit   bool              // who is a member may have changed
	machine   string            // what it runs on
	grant     *trust.Grant      // nil, as what follows, if the fleet was not founded
	book      *trust.Book       // of this start
	plan      *overlay.Plan     // of planned
	planned   []overlay.Member  // by the book
	pairs     [][2]*crdt.Change // under one dot, to be proven
	fails     []byte            // its program fails on a change that contains this
	known     []*box            // in a large world: whom it has to do with
	met       map[*box]bool     // the same
	armed     time.Duration     // when the next Step is due; 0: none
	wake      uint64
	unsynced  []byte        // under harm: what a power cut leaves
	tokenless bool          // under harm: tabs are saved as if read now
	image     []byte        // an old state of the disk
	base      *replica.Base // what the next start begins with, as its disk does; nil: it reads the disk
	tabs      []tab         // what somebody has open on a screen
	last      crdt.ID       // of its last write
}

func newBox(w *world, i int, site [10]byte) *box {
	seed := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("box"), uint64(i)^w.seed<<20))
	b := &box{w: w, index: i, site: site, key: ed25519.NewKeyFromSeed(seed[:]), machine: fmt.Sprint("machine ", i), synced: (w.seed+uint64(i))%4 == 3, lost: map[[16]byte]bool{}}
	sum := sha256.Sum256(b.key.Public().(ed25519.PublicKey))
	copy(b.id[:], sum[:])
	copy(b.auth[:], sum[16:])
	copy(b.nonce[:], seed[8:])
	if w.large {
		b.medium = &calm{intern: w.intern}
	} else {
		b.medium = disktest.NewMedium(w.seed*1000 + uint64(i))
	}
	return b
}

// decode is the world's, unless this box's program fails on the change.
func (b *box) decode(raw []byte) (*crdt.Change, error) {
	if b.fails != nil && bytes.Contains(raw, b.fails) {
		panic("planted: this program fails on that")
	}
	return b.w.decode(raw)
}

func (b *box) String() string { return fmt.Sprint("box ", b.index) }

// start opens the disk and runs the engine on it.
func (b *box) start() error {
	b.life++
	b.links, b.dialling = map[crdt.NodeID]*link{}, map[crdt.NodeID]bool{}
	clear(b.lost)
	store, err := b.medium.Open()
	if err != nil {
		return fmt.Errorf("%s: %w", b, err)
	}
	seed := sha256.Sum256(fmt.Append(nil, b.w.seed, b.index, b.life))
	if w := b.w.harm; w != nil {
		store = w(b, store)
	}
	b.store = store
	b.openBook()
	cfg := replica.Config{Node: b.id, Fleet: b.w.fleet, Auth: b.auth, Sign: func(m []byte) []byte { return ed25519.Sign(b.key, m) },
		Disk: store, Gate: gate{b}, Topo: topology{b}, Mesh: port{b}, Random: rand.NewChaCha8(seed), Log: b.w.story.With("box", b.index),
		Now:  func() time.Time { return beginning.Add(b.w.now) },
		Wall: func() time.Time { return beginning.Add(b.w.now + b.skew) }, Verify: b.w.verify, Decode: b.decode,
		Equivocal: func(c, o *crdt.Change) {
			b.w.proofs[b] = c.Node
			b.pairs = append(b.pairs, [2]*crdt.Change{c, o})
		},
		Synced:     func() bool { return b.synced },
		TrustMoved: b.readTrust, Removal: b.removal,
		LinkChanged: b.linkChanged, Machine: b.machine, Program: fmt.Sprintf("%q", b.fails)}
	if base := b.base; base != nil {
		b.base = nil
		b.st, err = replica.NewStepperOn(cfg, base)
	} else {
		b.st, err = replica.NewStepper(cfg)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", b, err)
	}
	b.st.View(func(v replica.View) { b.readTrust(v, nil) })
	b.after()
	return nil
}

// off ends the engine; what was not synced may be lost (crash) or not.
func (b *box) off(crash bool) {
	if b.st == nil {
		return
	}
	b.st.Stop()
	b.st = nil
	b.wake++
	b.armed = 0
	if crash {
		b.medium.Crash()
		if b.unsynced != nil {
			b.medium.Restore(b.unsynced)
		}
	}
	b.unsynced = nil
	b.store.Close()
	for _, l := range b.ordered() {
		o, _ := l.other(b)
		l.dead = true
		b.w.lose(l, o, 35*time.Second, mesh.ErrSilent)
	}
	b.links = nil
	b.life++ // nothing that was on its way arrives
	b.tabs = nil
}

// ordered lists the links, always in the same order.
func (b *box) ordered() (out []*link) {
	out = slices.Collect(maps.Values(b.links))
	slices.SortFunc(out, func(x, y *link) int {
		o, _ := x.other(b)
		p, _ := y.other(b)
		return o.index - p.index
	})
	return out
}

func (b *box) handle(ev mesh.Event) {
	if b.st == nil {
		return
	}
	b.st.Handle(ev)
	b.after()
}

func (b *box) gone(o *box, why error) {
	b.handle(mesh.Event{Kind: mesh.LinkDown, Peer: mesh.PeerID(o.id), Err: why})
}

// linkChanged keeps the evidence that the exchange goes by, as a node does.
func (b *box) linkChanged(ev mesh.Event) {
	gone := ev.Kind == mesh.LinkDown && ev.Err != nil
	if b.lost[ev.Peer] != gone {
		b.lost[ev.Peer] = gone
		b.rewire = true
	}
}

// after does what the engine's owner does when something happened.
func (b *box) after() {
	if b.readmit {
		b.expel()
	}
	if len(b.pairs) > 0 {
		b.prove()
	}
	for b.rewire {
		b.rewire = false
		if err := b.st.Reconfigure(); err != nil && !errors.Is(err, replica.ErrReadOnly) {
			b.w.truth.fault("%s: %v", b, err)
		}
	}
	next := b.st.Next()
	if next.IsZero() {
		b.armed = 0
		b.wake++
		return
	}
	due := max(next.Sub(beginning), b.w.now)
	if b.armed == due {
		return
	}
	b.armed = due
	b.wake++
	wake := b.wake
	b.w.at(due-b.w.now, func() {
		if b.wake == wake && b.st != nil {
			b.armed = 0
			b.st.Step()
			b.after()
		}
	})
}

// gate knows all boxes, or those of the box's book.
type gate struct{ *box }

func (g gate) Key(c *crdt.Change) ([]byte, bool) {
	if g.book != nil {
		k, ok := g.book.Key(c)
		return k, ok
	}
	b := g.w.byID[c.Node]
	if b == nil || b.auth != c.Auth {
		return nil, false
	}
	return b.key.Public().(ed25519.PublicKey), true
}

func (g gate) Admit(c *crdt.Change, _ replica.View) replica.Verdict {
	if g.book != nil {
		return g.judge(c)
	}
	return replica.Verdict{}
}

// topology is what internal/node makes of the plan.
type topology struct{ *box }

func (t topology) Holds(s crdt.Scope) bool {
	id, ok := s.Site()
	return !ok || id == t.site || slices.Contains(t.stands, id)
}

func (t topology) down(id [16]byte) bool { return t.lost[id] }

func (t topology) Neighbours() (out []antientropy.Neighbour) {
	p := t.tree()
	shared := map[crdt.NodeID][]crdt.Scope{}
	for _, id := range p.Neighbours(t.id, t.down) {
		shared[id] = []crdt.Scope{crdt.Trust, crdt.Fleet}
	}
	between := func(other, whose [10]byte) {
		for _, id := range p.Between(t.id, other, t.down) {
			shared[id] = append(shared[id], crdt.SiteScope(whose))
		}
	}
	keeper, kept := t.w.keeper(t.site)
	if kept {
		between(keeper, t.site)
	}
	pair := []crdt.Scope{crdt.Trust, crdt.Fleet, crdt.SiteScope(t.site)}
	for _, s := range t.stands {
		between(s, s)
		pair = append(pair, crdt.SiteScope(s))
	}
	for _, o := range t.members(t.w.concern(t.box)) {
		n := antientropy.Neighbour{Peer: o.id, Shared: shared[o.id]}
		switch {
		case o.site == t.site:
			n.Shared = pair
		case slices.Contains(t.stands, o.site):
			n.May = []crdt.Scope{crdt.SiteScope(o.site)}
		default:
			n.Holds = []crdt.Scope{crdt.SiteScope(o.site)}
		}
		if kept && o.site == keeper {
			n.May = append(n.May, crdt.SiteScope(t.site))
		}
		slices.SortFunc(n.Shared, crdt.Scope.Compare)
		if len(n.Shared)+len(n.May)+len(n.Holds) > 0 {
			out = append(out, n)
		}
	}
	return out
}

// concern are the other boxes that one has to do with. A box of the product
// lists the whole fleet. Here, in a large world, only those that it ever exchanged
// with or that ever dialled it are listed, so that ten thousand lists fit; nobody
// leaves anything at other sites there.
func (w *world) concern(b *box) []*box {
	if !w.large {
		return slices.DeleteFunc(slices.Clone(w.boxes), func(o *box) bool { return o == b })
	}
	down := func(id [16]byte) bool { return b.lost[id] }
	for _, id := range w.plan.Neighbours(b.id, down) {
		b.meet(w.byID[id])
	}
	for _, id := range w.plan.Nodes(b.site) {
		b.meet(w.byID[id])
	}
	if k, ok := w.keeper(b.site); ok {
		for _, id := range w.plan.Nodes(k) {
			b.meet(w.byID[id])
		}
	}
	for _, s := range b.stands {
		for _, id := range w.plan.Nodes(s) {
			b.meet(w.byID[id])
		}
	}
	return b.known
}

// meet lists another box, for good.
func (b *box) meet(o *box) (news bool) {
	if o == b || b.met[o] {
		return false
	}
	if b.met == nil {
		b.met = map[*box]bool{}
	}
	b.met[o] = true
	b.known = append(b.known, o)
	return true
}

// dialled makes sure that who comes in is listed.
func (b *box) dialled(o *box) {
	if b.w.large && b.meet(o) {
		b.rewire = true
		b.after()
	}
}

const manyBoxes = 50

// raw is a change as its disk has it; nil: it has not.
func (b *box) raw(id crdt.ID) (out []byte) {
	_ = b.store.View(func(r disk.Reader) error {
		out, _ = r.Get(append([]byte("c/"), id[:]...))
		return nil
	})
	return out
}
