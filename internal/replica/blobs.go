package replica

import (
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
	frameHave = 0x43 // to the holder, and to who asked in vain: it is here now, whole and on the medium
	frameBlob = frameWant

	// A piece of a recording is as large as what the line carries in about
	// aboard beyond its latency, so that whoever speaks next waits no longer.
	firstChunk, leastChunk, mostChunk = 2 << 10, 1 << 10, 64 << 10
	aboard                            = 250 * time.Millisecond

	partTime = 30 * time.Second // a holder may take this long to send a part
	atOnce   = 2                // holders that send us something at the same time

	// How often a box on our LAN is asked again for what is on its way there, and
	// how long one that goes first may take to begin.
	nearPause = 5 * time.Second
	yieldFor  = 5 * time.Second
	ahead     = 4 * mostChunk // of one recording, held until what proves it is here
)

// A Want is a recording this node should have, and who may have it, best first.
type Want struct {
	Ref  site.BlobRef
	From []Peer
	// Near is how many of From, from the first on, are on our own LAN and want it,
	// too. While it is on its way to one of them, nobody else is asked: it crosses
	// the WAN once.
	Near int
	// Yield says that one of these goes first: it is given a moment to begin.
	Yield bool
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
// parts small enough that about a quarter of a second of them waits on a slow
// line, in the bulk class, from one or two holders. Each part is proven when it
// comes (blob.Piece); who sent a false one loses the link, and is not asked for a
// while. A holder of the version before, whose parts prove nothing, sends the
// recording from its start, and the whole is verified. What is wanted and cannot
// be had is asked for again with growing pauses; when nothing is wanted, nothing
// is said.
type Blobs struct {
	cfg    BlobConfig
	bucket *disk.Bucket
	events chan blobEvent
	poke   chan struct{}
	done   chan struct{} // closed when Run ends
	serve  chan struct{} // tokens of parts being read and sent

	mu     sync.Mutex // guards what follows
	front  []Want     // asked for on demand, newest first
	coming map[site.BlobRef]Progress
	sought map[site.BlobRef][]Peer // who asked for what was not here
	asking map[site.BlobRef][]Peer // who was asked for what

	// owned by Run
	jobs    map[site.BlobRef]*errand
	active  map[Peer]*transfer
	holders map[Peer]*holder
	yielded map[site.BlobRef]time.Time // since when another box goes first
	timer   *time.Timer
	changed bool // somebody else may be asked now
}

// Progress is how far a recording that is wanted has come.
type Progress struct {
	Have, Size  int64 // stored bytes; Size 0: not known yet
	Asked       int   // holders that are sending now, or were asked to
	Lack        int   // holders that said they do not have it
	Unreachable int   // holders that no link can be had with
	Wrong       int   // holders that sent something else
}

type blobEvent struct {
	kind mesh.Kind
	peer Peer
	body []byte
	end  *errand // one that ended, with err
	err  error
}

// holder is what is known of fetching from a peer.
type holder struct {
	lacks map[site.BlobRef]lack // it said so
	pause time.Duration
	next  time.Time     // do not ask before; zero: now
	gone  bool          // the last link ended, or could not be had
	lied  time.Time     // it sent something that is not the recording
	old   bool          // its parts prove nothing
	least time.Duration // that an answer has taken since the link came up
}

// lack is what a holder said of a recording that it does not have.
type lack struct {
	at         time.Time
	coming     bool  // it is on its way there from elsewhere
	have, size int64 // so much of so much is there
}

type wantFrame struct {
	Ref []byte `cbor:"1,keyasint"`
	Off int64  `cbor:"2,keyasint,omitempty"`
	Len int    `cbor:"3,keyasint"`
	// A holder that knows of these sends a part that ends at Below, or at the
	// end of the recording if that is 0, with what proves it. One of the version
	// before ignores them, and sends from Off on.
	Prove bool  `cbor:"4,keyasint,omitempty"`
	Below int64 `cbor:"5,keyasint,omitempty"`
}

type partFrame struct {
	Ref  []byte `cbor:"1,keyasint"`
	Off  int64  `cbor:"2,keyasint,omitempty"`
	Size int64  `cbor:"3,keyasint"` // of the whole
	Data []byte `cbor:"4,keyasint"`
	// Before is the blob.State at Off; absent in parts that prove nothing.
	Before []byte `cbor:"5,keyasint,omitempty"`
}

type refFrame struct {
	Ref []byte `cbor:"1,keyasint"`
}

// noneFrame has more than a refFrame, which the version before ignores.
type noneFrame struct {
	Ref    []byte `cbor:"1,keyasint"`
	Coming bool   `cbor:"2,keyasint,omitempty"` // from another one than who asks
	Have   int64  `cbor:"3,keyasint,omitempty"` // bytes that are here
	Size   int64  `cbor:"4,keyasint,omitempty"` // of so many
}

// NewBlobs returns a Blobs that works once Run is called and Config.Blobs hands
// it the engine's frames.
func NewBlobs(cfg BlobConfig) (*Blobs, error) {
	if cfg.Store == nil || cfg.Disk == nil || cfg.Mesh == nil || cfg.Now == nil || cfg.Log == nil || cfg.Wanted == nil {
		return nil, errors.New("transfer of recordings: Store, Disk, Mesh, Now, Log and Wanted are required")
	}
	return &Blobs{cfg: cfg, bucket: disk.NewBucket(cfg.Disk, "blobacks"), events: make(chan blobEvent, 256), poke: make(chan struct{}, 1),
		done: make(chan struct{}), serve: make(chan struct{}, 4), jobs: map[site.BlobRef]*errand{},
		active: map[Peer]*transfer{}, holders: map[Peer]*holder{}, coming: map[site.BlobRef]Progress{}, sought: map[site.BlobRef][]Peer{}, asking: map[site.BlobRef][]Peer{},
		yielded: map[site.BlobRef]time.Time{}}, nil
}

// Poke says that what is wanted may have changed, or that there is reason to
// try again.
func (b *Blobs) Poke() {
	select {
	case b.poke <- struct{}{}:
	default:
	}
}

// Fetch puts a recording before all others: somebody waits to hear it. near is
// as Want.Near.
func (b *Blobs) Fetch(ref site.BlobRef, from []Peer, near int) {
	b.mu.Lock()
	b.front = slices.DeleteFunc(b.front, func(w Want) bool { return w.Ref == ref })
	b.front = append([]Want{{Ref: ref, From: from, Near: near}}, b.front[:min(len(b.front), 31)]...)
	b.mu.Unlock()
	b.Poke()
}

// Progress of a recording that is wanted; ok is false when nothing is known of
// it, because nobody was asked yet or it is here.
func (b *Blobs) Progress(ref site.BlobRef) (p Progress, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok = b.coming[ref]
	return p, ok
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
		for _, j := range b.jobs {
			j.stop(context.Cause(ctx))
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
			b.changed = ev.kind != mesh.Received || ev.end != nil
			b.event(ctx, &wg, ev)
			if !b.changed {
				continue // a part like all others
			}
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

func (b *Blobs) send(p Peer, class mesh.Class, kind byte, v any) {
	b.cfg.Mesh.Send(mesh.Frame{Peer: mesh.PeerID(p), Class: class, Body: append([]byte{kind}, encode(v)...)})
}

func (b *Blobs) event(ctx context.Context, wg *sync.WaitGroup, ev blobEvent) {
	now := b.cfg.Now()
	if ev.end != nil {
		b.ended(ctx, wg, ev.end, ev.err, now)
		return
	}
	switch ev.kind {
	case mesh.LinkUp:
		h := b.holder(ev.peer)
		h.pause, h.next, h.lacks, h.gone, h.old, h.least = 0, time.Time{}, nil, false, false, 0
		if t := b.active[ev.peer]; t != nil {
			b.again(t, now) // what was asked opened the link, and was lost
		}
		return
	case mesh.LinkDown:
		b.holder(ev.peer).gone = true
		if t := b.active[ev.peer]; t != nil {
			b.failed(t, fmt.Errorf("the link ended: %w", io.ErrUnexpectedEOF), now)
		}
		return
	}
	kind, body := ev.body[0], ev.body[1:]
	switch kind {
	case frameWant:
		var w wantFrame
		if cbor.Unmarshal(body, &w) == nil && len(w.Ref) == 32 && w.Len > 0 && w.Off >= 0 && w.Below >= 0 {
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
			b.part(wg, ev.peer, p, now)
		}
	case frameNone:
		var r noneFrame
		if cbor.Unmarshal(body, &r) == nil && len(r.Ref) == 32 {
			h, ref := b.holder(ev.peer), site.BlobRef(r.Ref)
			if t := b.active[ev.peer]; t != nil && t.job.ref == ref { // else nobody asked
				if h.lacks == nil {
					h.lacks = map[site.BlobRef]lack{}
				}
				h.lacks[ref] = lack{now, r.Coming, max(r.Have, 0), max(r.Size, 0)}
				b.failed(t, errLacks, now)
			}
		}
	case frameHave:
		var r refFrame
		if cbor.Unmarshal(body, &r) != nil || len(r.Ref) != 32 {
			return
		}
		ref := site.BlobRef(r.Ref)
		if _, lacked := b.holder(ev.peer).lacks[ref]; lacked { // we asked, and it has come there since
			delete(b.holder(ev.peer).lacks, ref)
			b.changed = true
		}
		if b.cfg.Store.Has(ref) {
			wg.Go(func() {
				if b.heldBy(ctx, ref, ev.peer) && b.cfg.Acknowledged != nil {
					b.cfg.Acknowledged(ref, ev.peer)
				}
			})
		}
	}
}
