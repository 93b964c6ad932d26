package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/mesh"
)

// A link carries frames in order, or not at all, like a connection of TCP.
type link struct {
	ends [2]*box
	dead bool             // nothing passes any more; the ends may not know yet
	last [2]time.Duration // when the last frame to each end arrives
	told [2]bool          // the end knows that it is gone
}

func (l *link) other(b *box) (o *box, end int) {
	if l.ends[0] == b {
		return l.ends[1], 1
	}
	return l.ends[0], 0
}

// port is a box's mesh: what its engine sends goes into the world's queue.
type port struct{ *box }

var errNoWay = errors.New("no answer to the dial")

func (p port) Send(f mesh.Frame) {
	w, b := p.w, p.box
	l := b.links[crdt.NodeID(f.Peer)]
	if l == nil {
		p.Dial(f.Peer)
		return
	}
	to, end := l.other(b)
	w.messages++
	w.bytes += int64(len(f.Body))
	if w.meter != nil {
		w.meter[[2]int{min(b.index, to.index), max(b.index, to.index)}] += int64(len(f.Body))
	}
	w.note("send", b, to, f.Body)
	when := max(w.now+w.between(time.Millisecond, w.delay), l.last[end])
	l.last[end] = when
	life := to.life
	w.at(when-w.now, func() {
		if !l.dead && to.life == life && to.links[b.id] == l {
			to.handle(mesh.Event{Kind: mesh.Received, Peer: mesh.PeerID(b.id), Body: f.Body})
			if w.hear != nil {
				w.hear(b, to)
			}
		}
	})
}

func (p port) Dial(id mesh.PeerID) {
	w, b, to := p.w, p.box, p.w.byID[crdt.NodeID(id)]
	if to == nil || b.links[to.id] != nil || b.dialling[to.id] {
		return
	}
	b.dialling[to.id] = true
	if w.dials != nil {
		w.dials[b]++
	}
	life := b.life
	fail := func(why error) {
		if b.life == life {
			delete(b.dialling, to.id)
			if b.links[to.id] == nil {
				b.handle(mesh.Event{Kind: mesh.LinkDown, Peer: id, Err: why})
			}
		}
	}
	w.at(w.between(time.Millisecond, w.delay), func() {
		switch {
		case b.life != life:
		case b.links[to.id] != nil: // it dialled us meanwhile
			delete(b.dialling, to.id)
		case to.st == nil && w.reaches(b, to):
			fail(errNoWay) // nobody listens there
		case w.reaches(b, to) && !(b.admits(to) && to.admits(b)):
			fail(errStranger)
		case !w.reaches(b, to):
			w.at(w.between(time.Second, 8*time.Second), func() { fail(errNoWay) }) // a black hole
		default:
			delete(b.dialling, to.id)
			l := &link{ends: [2]*box{b, to}}
			b.links[to.id], to.links[b.id] = l, l
			w.note("link", b, to, nil)
			to.dialled(b)
			b.handle(mesh.Event{Kind: mesh.LinkUp, Peer: id})
			if to.links[b.id] == l {
				to.handle(mesh.Event{Kind: mesh.LinkUp, Peer: mesh.PeerID(b.id), Inbound: true})
			}
		}
	})
}

func (p port) Drop(id mesh.PeerID, why error) {
	l := p.links[crdt.NodeID(id)]
	if l == nil {
		return
	}
	if !errors.Is(why, mesh.ErrSilent) { // silence is what a cut looks like
		p.w.dropped = append(p.w.dropped, fmt.Sprintf("box %d dropped its link with box %d: %v", p.index, p.w.byID[crdt.NodeID(id)].index, why))
	}
	l.dead = true
	to, _ := l.other(p.box)
	delete(p.links, to.id)
	life := p.life
	p.w.at(time.Millisecond, func() {
		if p.life == life && p.links[to.id] == nil { // a mesh tells of the old link before the new one
			p.gone(to, nil)
		}
	})
	p.w.lose(l, to, p.w.delay, errors.New("the other side closed it"))
}

// lose tells an end within some time that its link is gone.
func (w *world) lose(l *link, b *box, within time.Duration, why error) {
	o, end := l.other(b)
	end = 1 - end
	life := b.life
	w.at(w.between(0, within), func() {
		if b.life == life && b.links[o.id] == l && !l.told[end] {
			l.told[end] = true
			delete(b.links, o.id)
			b.gone(o, why)
		}
	})
}

// sever ends a link: both ends notice in their own time.
func (w *world) sever(l *link, within time.Duration) {
	if l.dead {
		return
	}
	l.dead = true
	for _, b := range l.ends {
		w.lose(l, b, within, mesh.ErrSilent)
	}
}

// cut puts boxes into groups that do not reach each other.
func (w *world) cut(group func(*box) int) {
	for _, b := range w.boxes {
		w.groups[b.index] = group(b)
	}
	for _, b := range w.boxes {
		for _, l := range b.ordered() {
			if l.ends[0] == b && !w.reaches(l.ends[0], l.ends[1]) {
				w.sever(l, 40*time.Second)
			}
		}
	}
}

// The rest of mesh.Mesh is not used by the engine.
func (p port) Admit([]mesh.Peer)         {}
func (p port) Events() <-chan mesh.Event { return nil }
func (p port) OpenStream(context.Context, mesh.PeerID, string) (mesh.Stream, error) {
	return nil, mesh.ErrNoAddress
}
func (p port) Handle(string, func(mesh.Stream))          {}
func (p port) HandleStrangers(string, func(mesh.Stream)) {}
func (p port) Stats(mesh.PeerID) mesh.Stats              { return mesh.Stats{} }
func (p port) Total() (in, out int64)                    { return 0, 0 }
func (p port) Close() error                              { return nil }
