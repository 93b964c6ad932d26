package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"carrierclass.net/ccnode/internal/blob"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/mesh"
)

// helpAfter is how long one holder sends alone; then a second one helps.
const helpAfter = 2 * time.Second

// errand is a recording on its way here.
type errand struct {
	ref     site.BlobRef
	since   time.Time
	in      *blob.Incoming      // nil: it is being finished, or comes from its start
	held    map[int64]heldPiece // by end: they came before what proves them
	helpers []Peer              // whose pieces it is made of
	w       *io.PipeWriter      // not nil: it comes from its start, unproven until its end
	off     int64               // of what comes next then
	ending  bool                // a goroutine has it, and will report
}

type heldPiece struct {
	blob.Piece
	from Peer
}

// transfer is one holder sending parts of an errand; one part is asked for at a time.
type transfer struct {
	job   *errand
	peer  Peer
	chunk int
	asked time.Time
	want  wantFrame
	start int64 // what was asked for: from here
	end   int64 // to here; 0: the end, wherever that is
	idle  bool  // all that is missing was asked of others
}

var (
	errLacks = errors.New("the holder does not have it")
	errOlder = errors.New("the holder is of a version before, and another one sends")
)

// plan starts what can be started and sets the timer for the rest.
func (b *Blobs) plan(wg *sync.WaitGroup) {
	now := b.cfg.Now()
	for _, t := range b.active {
		if !t.idle && !now.Before(t.asked.Add(partTime)) {
			b.failed(t, fmt.Errorf("no answer for %v", partTime), now)
		}
	}
	b.mu.Lock()
	b.front = slices.DeleteFunc(b.front, func(w Want) bool { return b.cfg.Store.Has(w.Ref) })
	front := slices.Clone(b.front)
	b.mu.Unlock()
	wants := append(slices.Clone(front), b.cfg.Wanted()...)
	next := time.Time{}
	later := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, w := range wants {
		if b.jobs[w.Ref] == nil && !b.cfg.Store.Has(w.Ref) {
			b.choose(wg, w, now, later)
		}
	}
	for _, w := range wants {
		if j := b.jobs[w.Ref]; j != nil && !j.ending && j.w == nil && b.serving(j) < atOnce {
			if help := j.since.Add(helpAfter); now.Before(help) {
				later(help)
			} else {
				b.choose(wg, w, now, later)
			}
		}
	}
	for _, t := range b.active {
		if !t.idle {
			later(t.asked.Add(partTime))
		}
	}
	b.report(front, wants)
	if next.IsZero() {
		b.timer.Stop()
	} else {
		b.timer.Reset(max(next.Sub(now), 0))
	}
}

// choose asks the best holder that may be asked now.
func (b *Blobs) choose(wg *sync.WaitGroup, w Want, now time.Time, later func(time.Time)) {
	helping := b.jobs[w.Ref] != nil
	for i, p := range w.From {
		h := b.holder(p)
		said, lacks := h.lacks[w.Ref]
		if near := i < w.Near && lacks && !helping && !h.gone; near && (said.coming || w.Yield && b.yields(w.Ref, now)) {
			pause := nearPause
			if !said.coming {
				pause = yieldFor / 4
			}
			if again := said.at.Add(pause); now.Before(again) {
				later(again)
				return
			}
		} else if lacks && now.Before(said.at.Add(lastPause)) {
			later(said.at.Add(lastPause))
			continue
		}
		if !h.lied.IsZero() && now.Before(h.lied.Add(lastPause)) {
			later(h.lied.Add(lastPause))
			continue
		}
		if helping && (b.active[p] != nil || h.old) {
			continue
		}
		if b.active[p] != nil || len(b.active) >= atOnce {
			return // its end plans again
		}
		if now.Before(h.next) {
			later(h.next)
			continue
		}
		if !b.begin(w.Ref, p, now) {
			later(h.next)
		}
		return
	}
}

// yields says whether another box still has the time to begin with a recording.
func (b *Blobs) yields(ref site.BlobRef, now time.Time) bool {
	since, ok := b.yielded[ref]
	if !ok {
		since, b.yielded[ref] = now, now
	}
	return now.Before(since.Add(yieldFor))
}

// report tells Progress of what somebody waits for and what is on its way.
func (b *Blobs) report(front, wants []Want) {
	coming := map[site.BlobRef]Progress{}
	asking := map[site.BlobRef][]Peer{}
	for p, t := range b.active {
		asking[t.job.ref] = append(asking[t.job.ref], p)
	}
	wanted := make(map[site.BlobRef]bool, len(wants))
	for _, w := range wants {
		wanted[w.Ref] = true
	}
	maps.DeleteFunc(b.yielded, func(ref site.BlobRef, _ time.Time) bool { return !wanted[ref] })
	for i, w := range wants {
		j := b.jobs[w.Ref]
		if j == nil && i >= len(front) {
			continue
		}
		var x Progress
		if j != nil && j.in != nil && j.in.Begun() {
			x.Have, x.Size = j.in.Size()-j.in.Below(), j.in.Size()
		} else if j != nil && j.w != nil {
			x.Have = j.off
		} else {
			x.Have, x.Size = b.cfg.Store.Part(w.Ref)
		}
		for _, p := range w.From {
			h := b.holder(p)
			said, lacks := h.lacks[w.Ref]
			if said.coming && said.have > x.Have && !h.gone {
				x.Have, x.Size = said.have, said.size
			}
			switch t := b.active[p]; {
			case said.coming && !h.gone: // it comes from there then
			case lacks:
				x.Lack++
			case !h.lied.IsZero() && h.lied.Add(lastPause).After(b.cfg.Now()):
				x.Wrong++
			case h.gone:
				x.Unreachable++
			case t != nil && t.job.ref == w.Ref:
				x.Asked++
			}
		}
		coming[w.Ref] = x
	}
	b.mu.Lock()
	b.coming, b.asking = coming, asking
	b.mu.Unlock()
}

// serving is how many holders send parts of j.
func (b *Blobs) serving(j *errand) (n int) {
	for _, t := range b.active {
		if t.job == j {
			n++
		}
	}
	return n
}

// begin asks p for the first part, or for what others were not asked for. It
// says false if nothing can be stored here now.
func (b *Blobs) begin(ref site.BlobRef, p Peer, now time.Time) bool {
	j := b.jobs[ref]
	if j == nil {
		in, err := b.cfg.Store.Fetch(ref)
		if err != nil {
			b.blame(p, now)
			b.cfg.Log.Warn("Recording cannot be fetched", "blob", ref, "err", err)
			return false
		}
		j = &errand{ref: ref, since: now, in: in, held: map[int64]heldPiece{}}
		b.jobs[ref] = j
	}
	t := &transfer{job: j, peer: p, chunk: firstChunk}
	b.active[p] = t
	b.ask(t, now)
	return true
}

// ask asks for the part that is missing and that nobody was asked for.
func (b *Blobs) ask(t *transfer, now time.Time) {
	j := t.job
	t.idle = false
	switch {
	case j.w != nil:
		t.want = wantFrame{Ref: j.ref[:], Off: j.off, Len: t.chunk}
	case !j.in.Begun():
		for _, o := range b.active {
			if o != t && o.job == j && !o.idle {
				t.idle = true // until the size is known
				return
			}
		}
		t.start, t.end = 0, 0
		t.want = wantFrame{Ref: j.ref[:], Off: b.cfg.Store.Partial(j.ref), Len: t.chunk, Prove: true}
	default:
		end, lower := b.gap(t)
		if end == 0 {
			t.idle = true
			return
		}
		t.end = end
		t.start = (max(lower, end-int64(t.chunk)) + blob.Block - 1) / blob.Block * blob.Block
		t.want = wantFrame{Ref: j.ref[:], Off: b.cfg.Store.Partial(j.ref), Len: int(t.end - t.start), Prove: true, Below: t.end}
	}
	b.again(t, now)
}

// again sends what was asked last.
func (b *Blobs) again(t *transfer, now time.Time) {
	if t.idle {
		return
	}
	t.asked = now
	b.send(t.peer, mesh.Bulk, frameWant, t.want)
}

// gap is the uppermost part of an errand that is neither here nor asked for; end 0:
// there is none. Whoever is too far ahead asks for what the others are late with.
func (b *Blobs) gap(t *transfer) (end, lower int64) {
	j := t.job
	at := j.in.Below()
	for at > 0 {
		if at < j.in.Below()-ahead {
			return j.in.Below(), 0
		}
		down := at
		if p, ok := j.held[at]; ok {
			down = p.Off
		}
		for _, o := range b.active {
			if o != t && o.job == j && !o.idle {
				if o.end == at {
					down = min(down, o.start)
				} else if o.end < at {
					lower = max(lower, o.end)
				}
			}
		}
		for e := range j.held {
			if e < at {
				lower = max(lower, e)
			}
		}
		if down == at {
			return at, lower
		}
		at, lower = down, 0
	}
	return 0, 0
}

// part takes bytes of a transfer and asks for the next ones.
func (b *Blobs) part(wg *sync.WaitGroup, from Peer, p partFrame, now time.Time) {
	t := b.active[from]
	if t == nil || t.idle || !bytes.Equal(t.job.ref[:], p.Ref) {
		return
	}
	j := t.job
	if len(p.Before) == 0 || j.w != nil {
		b.unproven(wg, t, p, now)
		return
	}
	if len(p.Before) != len(blob.State{}) {
		b.lied(t.peer, fmt.Errorf("a part of recording %s with a proof of %d bytes", j.ref, len(p.Before)), now)
		return
	}
	piece := blob.Piece{Size: p.Size, Off: p.Off, Before: blob.State(p.Before), Data: p.Data}
	if end := piece.End(); t.end == 0 && end != p.Size || t.end != 0 && (end != t.end || p.Off < t.start) {
		return // the answer to an older question
	}
	b.holder(from).fit(t, now)
	switch {
	case !j.in.Begun() || piece.End() == j.in.Below():
		if !b.add(j, piece, from, now) {
			return
		}
	case piece.End() < j.in.Below():
		if _, had := j.held[piece.End()]; !had {
			j.held[piece.End()] = heldPiece{piece, from}
		}
	}
	if j.in.Whole() {
		b.finish(wg, j)
		return
	}
	b.mu.Lock()
	if x, ok := b.coming[j.ref]; ok {
		x.Have, x.Size = j.in.Size()-j.in.Below(), j.in.Size()
		b.coming[j.ref] = x
	}
	b.mu.Unlock()
	for _, o := range b.active {
		if o == t || o.job == j && o.idle {
			b.ask(o, now)
		}
	}
}

// add proves and stores a piece and those that waited for it. It says whether
// whoever sent the first one may go on.
func (b *Blobs) add(j *errand, p blob.Piece, from Peer, now time.Time) bool {
	for who, first := from, true; ; first = false {
		err := j.in.Add(p)
		switch {
		case errors.Is(err, blob.ErrMismatch):
			b.lied(who, err, now)
			return !first
		case err != nil:
			for _, t := range b.active {
				if t.job == j {
					b.failed(t, err, now)
				}
			}
			return false
		}
		if !slices.Contains(j.helpers, who) {
			j.helpers = append(j.helpers, who)
		}
		h, ok := j.held[j.in.Below()]
		if !ok {
			return true
		}
		delete(j.held, j.in.Below())
		p, who = h.Piece, h.from
	}
}

// fit makes the next part as large as the line carries in about the time that
// may wait on it.
func (h *holder) fit(t *transfer, now time.Time) {
	took := now.Sub(t.asked)
	if h.least == 0 || took < h.least {
		h.least = took
	} else {
		h.least += h.least / 64 // the way may have become another one
	}
	switch waited := took - h.least; {
	case waited < aboard/2:
		t.chunk = min(2*t.chunk, mostChunk)
	case waited > aboard:
		t.chunk = max(int(int64(t.chunk)*int64(aboard)/int64(waited))*3/4, leastChunk)
	}
}

// finish lets a goroutine put a whole recording on the medium.
func (b *Blobs) finish(wg *sync.WaitGroup, j *errand) {
	for p, t := range b.active {
		if t.job == j {
			delete(b.active, p)
		}
	}
	in := j.in
	j.in, j.ending = nil, true
	b.changed = true
	wg.Go(func() {
		err := in.Finish()
		select {
		case b.events <- blobEvent{end: j, err: err}:
		case <-b.done:
		}
	})
}

// unproven takes a part from a holder of the version before: it comes from the
// start, and only the whole shows whether it is true.
func (b *Blobs) unproven(wg *sync.WaitGroup, t *transfer, p partFrame, now time.Time) {
	j := t.job
	b.holder(t.peer).old = true
	if j.w == nil {
		if b.serving(j) > 1 {
			b.failed(t, errOlder, now)
			return
		}
		b.forward(wg, j)
	}
	if p.Off != j.off {
		b.ask(t, now)
		return
	}
	if p.Size < 0 || len(p.Data) == 0 && p.Off < p.Size || int64(len(p.Data)) > p.Size-p.Off {
		b.failed(t, errors.New("the holder sent a part that cannot be"), now)
		return
	}
	b.holder(t.peer).fit(t, now)
	if _, err := j.w.Write(p.Data); err != nil {
		b.failed(t, err, now)
		return
	}
	j.off += int64(len(p.Data))
	if j.off < p.Size {
		b.ask(t, now)
		return
	}
	j.helpers = []Peer{t.peer}
	delete(b.active, t.peer)
	b.changed = true
	j.ending = true
	j.w.Close() // its goroutine verifies and reports
}

func (b *Blobs) forward(wg *sync.WaitGroup, j *errand) {
	j.in.Close()
	j.in = nil
	r, w := io.Pipe()
	j.w, j.off = w, b.cfg.Store.Partial(j.ref)
	wg.Go(func() { // ends when the pipe is closed
		err := b.cfg.Store.PutVerified(j.ref, r)
		_ = r.CloseWithError(io.ErrClosedPipe)
		select {
		case b.events <- blobEvent{end: j, err: err}:
		case <-b.done:
		}
	})
}

// lied ends the link with a holder that sent something false, and asks it
// nothing for a while. What it sent cost us nothing else.
func (b *Blobs) lied(p Peer, why error, now time.Time) {
	h := b.holder(p)
	known := !h.lied.IsZero() && now.Before(h.lied.Add(lastPause))
	h.lied = now
	if t := b.active[p]; t != nil {
		b.failed(t, why, now)
	}
	if known {
		return // what was on its way, or held, when the first one showed
	}
	b.cfg.Log.Warn("A box sent something that is not the recording; its link is ended", "peer", mesh.PeerID(p), "err", why)
	b.cfg.Mesh.Drop(mesh.PeerID(p), why)
}

func (b *Blobs) blame(p Peer, now time.Time) {
	h := b.holder(p)
	h.pause = min(max(2*h.pause, firstPause), lastPause)
	h.next = now.Add(h.pause)
}

// failed ends a transfer; what its holder was asked for is asked of others.
func (b *Blobs) failed(t *transfer, err error, now time.Time) {
	if b.active[t.peer] != t {
		return
	}
	delete(b.active, t.peer)
	b.changed = true
	j := t.job
	if !errors.Is(err, errLacks) && !errors.Is(err, errOlder) {
		b.blame(t.peer, now)
		b.cfg.Log.Info("Recording did not arrive yet", "blob", j.ref, "peer", mesh.PeerID(t.peer), "err", err)
	}
	switch {
	case j.w != nil:
		j.ending = true
		j.w.CloseWithError(err) // its goroutine reports
	case b.serving(j) == 0:
		j.stop(err)
		delete(b.jobs, j.ref)
	default:
		for _, o := range b.active {
			if o.job == j && o.idle {
				b.ask(o, now)
			}
		}
	}
}

// stop lets go of an errand; what is here of it stays for the next one.
func (j *errand) stop(err error) {
	if j.w != nil {
		j.w.CloseWithError(err)
	}
	if j.in != nil {
		j.in.Close()
	}
}

// ended notes that an errand is done, or was in vain.
func (b *Blobs) ended(ctx context.Context, wg *sync.WaitGroup, j *errand, err error, now time.Time) {
	for _, t := range b.active {
		if t.job == j {
			b.failed(t, err, now)
		}
	}
	delete(b.jobs, j.ref)
	if err != nil {
		for _, p := range j.helpers {
			b.blame(p, now)
		}
		b.cfg.Log.Info("Recording was not stored", "blob", j.ref, "err", err)
		return
	}
	for _, p := range j.helpers {
		h := b.holder(p)
		h.pause, h.next = 0, time.Time{}
		b.send(p, mesh.Bulk, frameHave, refFrame{j.ref[:]})
		wg.Go(func() { b.heldBy(ctx, j.ref, p) })
	}
	b.mu.Lock()
	sought := b.sought[j.ref]
	delete(b.sought, j.ref)
	b.mu.Unlock()
	for _, p := range sought {
		if !slices.Contains(j.helpers, p) {
			b.send(p, mesh.Bulk, frameHave, refFrame{j.ref[:]})
		}
	}
	if b.cfg.Arrived != nil {
		b.cfg.Arrived(j.ref)
	}
}
