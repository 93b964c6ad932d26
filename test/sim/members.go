package main

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/overlay"
)

// In most fleets of the simulation all boxes know each other for ever. In one that
// was founded each has a book of its own: the grants hang from a root, the trust
// scope carries them, and whoever the book does not name is not linked with, as
// with internal/node. What is cut: boxes keep no state of other sites, and a box
// that learns that it was revoked goes on.

// found gives the fleet a root, two issuers, the boxes 0 and 1, and a grant for
// each other box, by turns from the one and the other. The boxes have not started.
func (w *world) found() error {
	seed := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("root"), w.seed))
	root, err := trust.RootFromSeed(seed[:])
	if err != nil {
		return err
	}
	w.founding = trust.Found(root)
	w.fleet = w.founding.ID()
	w.keepers = map[[10]byte][10]byte{}
	for i, b := range w.boxes {
		b.stands = nil
		n, rights := b.name(), trust.Rights(0)
		if i < 2 {
			rights = trust.AdmitFleet
		}
		n.Rights = rights
		if i == 0 {
			b.grant, err = root.Issue(w.fleet, n, w.random())
		} else {
			b.grant, err = w.boxes[(i-1)%2].issue(n)
		}
		if err != nil {
			return err
		}
		b.auth = b.grant.ID()
	}
	return nil
}

func (w *world) random() *rand.ChaCha8 {
	return rand.NewChaCha8(sha256.Sum256(binary.BigEndian.AppendUint64([]byte("issue"), w.rng.Uint64())))
}

// name is what a grant of the box says. It may write whatever the plays write.
func (b *box) name() trust.Name {
	id := b.identity()
	return trust.Name{Key: id.Public(), Seal: id.SealKey(), Site: site.ID(b.site), Nonce: b.nonce, Issued: beginning.Unix() + int64(b.w.now/time.Second),
		Extra: []trust.Allow{{Scope: []byte(crdt.Fleet), Tables: []uint16{}}}}
}

func (b *box) identity() *trust.Identity {
	id, err := trust.IdentityFromSeed(b.key.Seed())
	if err != nil {
		panic(err) // the seed of a key
	}
	return id
}

// issue signs a grant under the box's own.
func (b *box) issue(n trust.Name) (*trust.Grant, error) {
	return b.identity().Issue(b.w.fleet, b.grant, n, b.w.random())
}

// enrol tells the fleet of all grants, as those do who admit boxes.
func (w *world) enrol() {
	b := w.boxes[0]
	writes := []crdt.Write{trust.FoundingWrite(w.founding)}
	for _, o := range w.boxes {
		writes = append(writes, trust.GrantWrite(o.grant))
	}
	for part := range slices.Chunk(writes, 8) {
		b.decree(part...)
	}
}

// decree writes into the trust scope.
func (b *box) decree(ws ...crdt.Write) {
	if _, err := b.st.Commit(replica.Mutation{Scope: crdt.Trust, Writes: ws}); err != nil {
		b.w.truth.fault("%s: %v", b, err)
	}
	b.after()
}

// revoke ends a box, and keeps grants that it gave out.
func (b *box) revoke(o *box, keeps ...crdt.Ref) {
	w, err := (&trust.Revocation{Node: site.NodeID(o.id), Reason: "it was stolen", Keeps: keeps}).Write()
	if err != nil {
		b.w.truth.fault("%s: %v", b, err)
		return
	}
	b.decree(w)
}

// openBook is what a box knows when it starts: who it is, and the founder.
func (b *box) openBook() {
	if b.w.founding == nil {
		return
	}
	b.book = trust.NewBook(b.w.founding)
	for _, g := range []*trust.Grant{b.w.boxes[0].grant, b.w.boxes[1].grant, b.grant} {
		if err := b.book.Add(g); err != nil {
			b.w.truth.fault("%s: %v", b, err)
		}
	}
}

// readTrust takes what the trust scope says.
func (b *box) readTrust(v replica.View, _ []crdt.Cell) {
	if b.book != nil {
		b.book.Sync(v.Set(crdt.Trust))
		b.rewire, b.readmit = true, true
	}
}

// admits says whether a box keeps links with another.
func (b *box) admits(o *box) bool {
	if b.book == nil {
		return true
	}
	_, err := b.book.Member(site.NodeID(o.id))
	return err == nil
}

// expel closes links with those that are no members any more, as the mesh does
// when it is told who is.
func (b *box) expel() {
	b.readmit = false
	for _, l := range b.ordered() {
		o, _ := l.other(b)
		if b.admits(o) {
			continue
		}
		l.dead = true
		delete(b.links, o.id)
		b.gone(o, nil)
		b.w.lose(l, o, b.w.delay, errors.New("the other side closed it"))
	}
}

// tree is the overlay as a box computes it.
func (b *box) tree() *overlay.Plan {
	if b.book == nil {
		return b.w.plan
	}
	var all []overlay.Member
	for _, g := range b.book.Members(site.ID{}) {
		all = append(all, overlay.Member{Node: g.Node(), Site: g.Site, Nonce: g.Nonce[:], Class: overlay.Plain})
	}
	if b.plan == nil || !slices.EqualFunc(all, b.planned, overlay.Member.Equal) {
		b.plan, b.planned = overlay.New(all), all
	}
	return b.plan
}

// members are the other boxes that a box knows of.
func (b *box) members(all []*box) []*box {
	if b.book == nil {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(o *box) bool { return !b.admits(o) })
}

// prove tells the fleet that a node signed two changes under one dot.
func (b *box) prove() {
	for _, p := range b.pairs {
		if b.book == nil || p[0].Node == b.id || b.book.Cheats(site.NodeID(p[0].Node)) {
			continue
		}
		w, err := trust.ProofWrite(p[0], p[1])
		if err != nil {
			b.w.truth.fault("%s: %v", b, err)
			continue
		}
		b.pairs = nil
		b.decree(w)
		return
	}
	b.pairs = nil
}

// judge is a gate's verdict by the book.
func (b *box) judge(c *crdt.Change) replica.Verdict {
	v, err := b.book.Admit(c)
	out := replica.Verdict{Outcome: map[trust.Verdict]replica.Outcome{trust.Accept: replica.Accept, trust.Hold: replica.Hold, trust.Refuse: replica.Refuse}[v]}
	if err != nil {
		out.Reason = err.Error()
	}
	return out
}

// removal says whether a change takes a member away.
func (b *box) removal(c *crdt.Change, _ replica.View) bool {
	return b.book != nil && c.Scope == crdt.Trust && !slices.ContainsFunc(c.Writes, func(w crdt.Write) bool {
		return w.Table != trust.TableRevocation && w.Table != trust.TableProof
	})
}

// shut looks whether a box is out: no other member is linked with it, knows it, or
// shows what it writes now.
func (w *world) shut(out *box) {
	cell := crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: fmt.Sprint("late ", out.index), Field: "f"}
	for i := range 3 {
		w.put(out, cell, fmt.Sprint(-1-i))
		w.run(w.now + 5*minute)
	}
	for _, b := range w.boxes {
		switch {
		case w.out[b] || b.st == nil:
		case b.admits(out):
			w.truth.fault("%s takes %s for a member", b, out)
		case b.links[out.id] != nil:
			w.truth.fault("%s is linked with %s", b, out)
		case len(b.visible(cell)) > 0:
			w.truth.fault("%s shows what %s wrote after it was shut out", b, out)
		}
	}
}

var errStranger = fmt.Errorf("%w: the other side does not know this box", mesh.ErrNoAddress)
