package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/blob"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/mesh"
)

// Frames of recordings begin with a byte that no message of the exchange has.
const (
	frameWant = 0x40 // receiver: bytes of a blob from an offset on
	framePart = 0x41 // holder: some of them
	frameNone = 0x42 // holder: it is not here
	frameHave = 0x43 // receiver: it is here now, whole and on the medium
	frameBlob = frameWant

	firstChunk, leastChunk, mostChunk = 4 << 10, 2 << 10, 64 << 10

	partTime  = 30 * time.Second // a holder may take this long to send a part
	atOnce    = 2                // recordings on their way here at the same time
	fastReply = 250 * time.Millisecond
	slowReply = 600 * time.Millisecond
)

// A Want is a recording this node should have, and who may have it, best first.
type Want struct {
	Ref  site.BlobRef
	From []Peer
}

// BlobConfig is what Blobs needs. Everything without a default is required.
type BlobConfig struct {
	Store *blob.Store
	Disk  disk.Store // remembers who acknowledged what
	Mesh  mesh.Mesh
	Now   func() time.Time
	Log   *slog.Logger

	// Wanted lists what should be here and may be missing, most wanted first.
	// It is asked after Poke, from a goroutine of Blobs.
	Wanted func() []Want
	// Arrived is called after a wanted recording is here. May be nil.
	Arrived func(site.BlobRef)
	// Acknowledged is called when a peer says that it holds a recording. May be
	// nil. Acked tells the same later, and after a restart.
	Acknowledged func(ref site.BlobRef, by Peer)
	// Budget limits what is sent to a peer, in bytes a second; 0 is no limit.
	// It is asked for every part, so that a call that begins is felt at once.
	// Nil: no limit.
	Budget func(Peer) int
}

// Blobs brings recordings here and hands out those that are here. It fetches in
// parts small enough that at most about half a second of them waits on a slow
// line, in the bulk class, one recording per holder at a time. What is wanted
// and cannot be had is asked for again with growing pauses; when nothing is
// wanted, nothing is said.
type Blobs struct {
	cfg    BlobConfig
	bucket *disk.Bucket
	events chan blobEvent
	poke   chan struct{}
	done   chan struct{} // closed when Run ends
	serve  chan struct{} // tokens of parts being read and sent

	mu    sync.Mutex // guards front
	front []Want     // asked for on demand, newest first

	// owned by Run
	active  map[Peer]*transfer
	holders map[Peer]*holder
	timer   *time.Timer
}

type blobEvent struct {
	kind mesh.Kind
	peer Peer
	body []byte
	end  *transfer // a transfer that ended, with err
	err  error
}

// holder is what is known of fetching from a peer.
type holder struct {
	lacks map[site.BlobRef]time.Time // it said so, then
	pause time.Duration
	next  time.Time // do not ask before; zero: now
}

type transfer struct {
	ref   site.BlobRef
	peer  Peer
	off   int64
	chunk int
	asked time.Time
	w     *io.PipeWriter
	dead  bool
}

type wantFrame struct {
	Ref []byte `cbor:"1,keyasint"`
	Off int64  `cbor:"2,keyasint,omitempty"`
	Len int    `cbor:"3,keyasint"`
}

type partFrame struct {
	Ref  []byte `cbor:"1,keyasint"`
	Off  int64  `cbor:"2,keyasint,omitempty"`
	Size int64  `cbor:"3,keyasint"` // of the whole
	Data []byte `cbor:"4,keyasint"`
}

type refFrame struct {
	Ref []byte `cbor:"1,keyasint"`
}

// NewBlobs returns a Blobs that works once Run is called and Config.Blobs hands
// it the engine's frames.
func NewBlobs(cfg BlobConfig) (*Blobs, error) {
	if cfg.Store == nil || cfg.Disk == nil || cfg.Mesh == nil || cfg.Now == nil || cfg.Log == nil || cfg.Wanted == nil {
		return nil, errors.New("transfer of recordings: Store, Disk, Mesh, Now, Log and Wanted are required")
	}
	return &Blobs{cfg: cfg, bucket: disk.NewBucket(cfg.Disk, "blobacks"), events: make(chan blobEvent, 256), poke: make(chan struct{}, 1),
		done: make(chan struct{}), serve: make(chan struct{}, 4), active: map[Peer]*transfer{}, holders: map[Peer]*holder{}}, nil
}

// Poke says that what is wanted may have changed, or that there is reason to
// try again.
func (b *Blobs) Poke() {
	select {
	case b.poke <- struct{}{}:
	default:
	}
}

// Fetch puts a recording before all others: somebody waits to hear it.
func (b *Blobs) Fetch(ref site.BlobRef, from []Peer) {
	b.mu.Lock()
	b.front = slices.DeleteFunc(b.front, func(w Want) bool { return w.Ref == ref })
	b.front = append([]Want{{ref, from}}, b.front[:min(len(b.front), 31)]...)
	b.mu.Unlock()
	b.Poke()
}

// Acked lists the peers that hold a recording, as they said or showed. Whoever wrote
// the entry that names it may let go of it once the entry's home is among them.
func (b *Blobs) Acked(ref site.BlobRef) (by []Peer) {
	err := b.bucket.ScanPrefix(string(ref[:]), func(key string, _ []byte) error {
		if len(key) == len(ref)+len(Peer{}) {
			by = append(by, Peer([]byte(key[len(ref):])))
		}
		return nil
	})
	if err != nil {
		b.cfg.Log.Error("Acknowledgements of recordings cannot be read", "err", err)
	}
	return by
}

// Forget drops what is remembered of a recording that was deleted.
func (b *Blobs) Forget(ctx context.Context, ref site.BlobRef) error {
	for _, p := range b.Acked(ref) {
		if err := b.bucket.Delete(ctx, string(ref[:])+string(p[:])); err != nil {
			return err
		}
	}
	return nil
}

// handle takes an event of the mesh from the engine; it says whether it was of
// recordings alone.
func (b *Blobs) handle(ev mesh.Event) bool {
	mine := ev.Kind == mesh.Received && len(ev.Body) > 0 && ev.Body[0]&^3 == frameBlob
	if ev.Kind == mesh.Received && !mine {
		return false
	}
	select {
	case b.events <- blobEvent{kind: ev.Kind, peer: Peer(ev.Peer), body: ev.Body}:
	case <-b.done:
	default:
		if mine {
			// A part that is lost is asked for again; a want is repeated.
			b.cfg.Log.Warn("A frame of a recording was dropped: too many at once")
		} else {
			b.Poke()
		}
	}
	return mine
}

// Run does the work until ctx ends.
func (b *Blobs) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	b.timer = time.NewTimer(time.Hour)
	defer func() {
		b.timer.Stop()
		close(b.done)
		for _, t := range b.active {
			t.w.CloseWithError(context.Cause(ctx))
		}
		wg.Wait()
	}()
	b.plan(&wg)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-b.poke:
			for _, h := range b.holders {
				h.lacks = nil
			}
		case <-b.timer.C:
		case ev := <-b.events:
			b.event(ctx, &wg, ev)
		}
		b.plan(&wg)
	}
}

func (b *Blobs) holder(p Peer) *holder {
	h := b.holders[p]
	if h == nil {
		h = &holder{}
		b.holders[p] = h
	}
	return h
}

// plan starts what can be started and sets the timer for the rest.
func (b *Blobs) plan(wg *sync.WaitGroup) {
	now := b.cfg.Now()
	b.mu.Lock()
	b.front = slices.DeleteFunc(b.front, func(w Want) bool { return b.cfg.Store.Has(w.Ref) })
	wants := slices.Clone(b.front)
	b.mu.Unlock()
	wants = append(wants, b.cfg.Wanted()...)
	next := time.Time{}
	later := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, w := range wants {
		if b.cfg.Store.Has(w.Ref) || b.fetching(w.Ref) {
			continue
		}
		for _, p := range w.From {
			h := b.holder(p)
			if said, lacks := h.lacks[w.Ref]; lacks && now.Before(said.Add(lastPause)) {
				later(said.Add(lastPause))
				continue
			}
			if b.active[p] != nil || len(b.active) >= atOnce {
				break // its end plans again
			}
			if now.Before(h.next) {
				later(h.next)
				continue
			}
			b.begin(wg, w.Ref, p, now)
			break
		}
	}
	for _, t := range b.active {
		late := t.asked.Add(partTime)
		if !now.Before(late) {
			t.fail(fmt.Errorf("no answer for %v", partTime))
			continue
		}
		later(late)
	}
	if next.IsZero() {
		b.timer.Stop()
	} else {
		b.timer.Reset(max(next.Sub(now), 0))
	}
}

func (b *Blobs) fetching(ref site.BlobRef) bool {
	for _, t := range b.active {
		if t.ref == ref {
			return true
		}
	}
	return false
}

// begin asks p for the first part and lets a goroutine store what comes.
func (b *Blobs) begin(wg *sync.WaitGroup, ref site.BlobRef, p Peer, now time.Time) {
	r, w := io.Pipe()
	t := &transfer{ref: ref, peer: p, off: b.cfg.Store.Partial(ref), chunk: firstChunk, w: w}
	b.active[p] = t
	wg.Go(func() { // ends when the pipe is closed
		err := b.cfg.Store.PutVerified(ref, r)
		_ = r.CloseWithError(io.ErrClosedPipe)
		select {
		case b.events <- blobEvent{end: t, err: err}:
		case <-b.done:
		}
	})
	b.ask(t, now)
}

func (b *Blobs) ask(t *transfer, now time.Time) {
	t.asked = now
	b.send(t.peer, mesh.Bulk, frameWant, wantFrame{t.ref[:], t.off, t.chunk})
}

func (b *Blobs) send(p Peer, class mesh.Class, kind byte, v any) {
	b.cfg.Mesh.Send(mesh.Frame{Peer: mesh.PeerID(p), Class: class, Body: append([]byte{kind}, encode(v)...)})
}

// fail ends a transfer; its goroutine reports the end.
func (t *transfer) fail(err error) {
	if !t.dead {
		t.dead = true
		t.w.CloseWithError(err)
	}
}

func (b *Blobs) event(ctx context.Context, wg *sync.WaitGroup, ev blobEvent) {
	now := b.cfg.Now()
	if ev.end != nil {
		b.ended(ev.end, ev.err, now)
		if ref, from := ev.end.ref, ev.end.peer; ev.err == nil {
			wg.Go(func() { b.heldBy(ctx, ref, from) })
		}
		return
	}
	switch ev.kind {
	case mesh.LinkUp:
		h := b.holder(ev.peer)
		h.pause, h.next, h.lacks = 0, time.Time{}, nil
		if t := b.active[ev.peer]; t != nil && !t.dead {
			b.ask(t, now) // what was asked opened the link, and was lost
		}
		return
	case mesh.LinkDown:
		if t := b.active[ev.peer]; t != nil {
			t.fail(fmt.Errorf("the link ended: %w", io.ErrUnexpectedEOF))
		}
		return
	}
	kind, body := ev.body[0], ev.body[1:]
	switch kind {
	case frameWant:
		var w wantFrame
		if cbor.Unmarshal(body, &w) == nil && len(w.Ref) == 32 && w.Len > 0 && w.Off >= 0 {
			select {
			case b.serve <- struct{}{}:
				wg.Go(func() {
					defer func() { <-b.serve }()
					b.answer(ctx, ev.peer, w)
				})
			default: // it asks again
			}
		}
	case framePart:
		var p partFrame
		if cbor.Unmarshal(body, &p) == nil && len(p.Ref) == 32 {
			b.part(ev.peer, p, now)
		}
	case frameNone:
		var r refFrame
		if cbor.Unmarshal(body, &r) == nil && len(r.Ref) == 32 {
			h, ref := b.holder(ev.peer), site.BlobRef(r.Ref)
			if t := b.active[ev.peer]; t != nil && t.ref == ref { // else nobody asked
				if h.lacks == nil {
					h.lacks = map[site.BlobRef]time.Time{}
				}
				h.lacks[ref] = now
				t.fail(errLacks)
			}
		}
	case frameHave:
		var r refFrame
		if cbor.Unmarshal(body, &r) == nil && len(r.Ref) == 32 && b.cfg.Store.Has(site.BlobRef(r.Ref)) {
			ref := site.BlobRef(r.Ref)
			wg.Go(func() {
				if b.heldBy(ctx, ref, ev.peer) && b.cfg.Acknowledged != nil {
					b.cfg.Acknowledged(ref, ev.peer)
				}
			})
		}
	}
}

// heldBy keeps that a peer holds a recording: it said so, or handed it out.
func (b *Blobs) heldBy(ctx context.Context, ref site.BlobRef, p Peer) bool {
	if err := b.bucket.Put(ctx, string(ref[:])+string(p[:]), []byte{1}); err != nil {
		b.cfg.Log.Error("Who holds a recording was not kept", "blob", ref, "err", err)
		return false
	}
	return true
}

var errLacks = errors.New("the holder does not have it")

// part takes bytes of a transfer and asks for the next ones.
func (b *Blobs) part(from Peer, p partFrame, now time.Time) {
	t := b.active[from]
	if t == nil || t.dead || !bytes.Equal(t.ref[:], p.Ref) || p.Off != t.off {
		return
	}
	if len(p.Data) == 0 && p.Off < p.Size || p.Off+int64(len(p.Data)) > p.Size {
		t.fail(errors.New("the holder sent a part that cannot be"))
		return
	}
	switch took := now.Sub(t.asked); {
	case took < fastReply:
		t.chunk = min(2*t.chunk, mostChunk)
	case took > slowReply:
		t.chunk = max(t.chunk/2, leastChunk)
	}
	if _, err := t.w.Write(p.Data); err != nil {
		t.fail(err)
		return
	}
	t.off += int64(len(p.Data))
	if t.off >= p.Size {
		t.dead = true
		t.w.Close() // its goroutine verifies and reports
		return
	}
	b.ask(t, now)
}

// ended notes how a transfer went.
func (b *Blobs) ended(t *transfer, err error, now time.Time) {
	t.dead = true
	if b.active[t.peer] == t {
		delete(b.active, t.peer)
	}
	h := b.holder(t.peer)
	if err == nil {
		h.pause, h.next = 0, time.Time{}
		b.send(t.peer, mesh.Bulk, frameHave, refFrame{t.ref[:]})
		if b.cfg.Arrived != nil {
			b.cfg.Arrived(t.ref)
		}
		return
	}
	if errors.Is(err, errLacks) {
		return // the next holder is asked
	}
	h.pause = min(max(2*h.pause, firstPause), lastPause)
	h.next = now.Add(h.pause)
	b.cfg.Log.Info("Recording did not arrive yet", "blob", t.ref, "peer", mesh.PeerID(t.peer), "bytes", t.off, "err", err)
}

// answer sends a part of a recording, as fast as the budget allows.
func (b *Blobs) answer(ctx context.Context, to Peer, w wantFrame) {
	ref := site.BlobRef(w.Ref)
	r, err := b.cfg.Store.OpenSealed(ref)
	if err != nil {
		b.send(to, mesh.Bulk, frameNone, refFrame{ref[:]})
		return
	}
	defer r.Close()
	rate, most := 0, int64(min(w.Len, mostChunk))
	if b.cfg.Budget != nil {
		if rate = b.cfg.Budget(to); rate > 0 {
			most = min(most, int64(max(rate/2, 512))) // half a second of it
		}
	}
	p := partFrame{Ref: ref[:], Off: w.Off, Size: r.Stored(), Data: make([]byte, max(0, min(most, r.Stored()-w.Off)))}
	if _, err := r.Seek(w.Off, io.SeekStart); err == nil {
		_, err = io.ReadFull(r, p.Data)
	}
	if err != nil {
		b.cfg.Log.Error("Recording cannot be read to be sent", "blob", ref, "err", err)
		b.send(to, mesh.Bulk, frameNone, refFrame{ref[:]})
		return
	}
	if rate > 0 {
		pause := time.NewTimer(time.Duration(len(p.Data)) * time.Second / time.Duration(rate))
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
	}
	b.send(to, mesh.Bulk, framePart, p)
}
