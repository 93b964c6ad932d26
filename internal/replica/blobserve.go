package replica

import (
	"context"
	"io"
	"slices"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/mesh"
)

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

// heldBy keeps that a peer holds a recording: it said so, or handed it out.
func (b *Blobs) heldBy(ctx context.Context, ref site.BlobRef, p Peer) bool {
	if err := b.bucket.Put(ctx, string(ref[:])+string(p[:]), []byte{1}); err != nil {
		b.cfg.Log.Error("Who holds a recording was not kept", "blob", ref, "err", err)
		return false
	}
	return true
}

// answer sends a part of a recording, as fast as the budget allows.
func (b *Blobs) answer(ctx context.Context, to Peer, w wantFrame) {
	ref := site.BlobRef(w.Ref)
	r, err := b.cfg.Store.OpenSealed(ref)
	if err != nil {
		b.seeks(to, ref)
		b.send(to, mesh.Bulk, frameNone, b.none(to, ref))
		if b.cfg.Store.Has(ref) { // it came at this moment
			b.send(to, mesh.Bulk, frameHave, refFrame{ref[:]})
		}
		return
	}
	defer r.Close()
	rate, most := 0, int64(min(w.Len, mostChunk))
	if b.cfg.Budget != nil {
		if rate = b.cfg.Budget(to); rate > 0 {
			most = min(most, int64(max(rate/2, 512))) // half a second of it
		}
	}
	if w.Prove {
		piece, err := b.cfg.Store.Piece(ref, w.Below, int(most))
		if err != nil {
			b.cfg.Log.Error("Recording cannot be read to be sent", "blob", ref, "err", err)
			b.send(to, mesh.Bulk, frameNone, refFrame{ref[:]})
			return
		}
		b.paced(ctx, to, rate, partFrame{Ref: ref[:], Off: piece.Off, Size: piece.Size, Data: piece.Data, Before: piece.Before[:]})
		return
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
	b.paced(ctx, to, rate, p)
}

// none is the answer to who asks for a recording that is not here.
func (b *Blobs) none(to Peer, ref site.BlobRef) noneFrame {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := noneFrame{Ref: ref[:], Coming: slices.ContainsFunc(b.asking[ref], func(p Peer) bool { return p != to })}
	if f.Coming {
		f.Have, f.Size = b.coming[ref].Have, b.coming[ref].Size
	}
	return f
}

// most that is remembered of what others asked for in vain.
const maxSought, maxSeekers = 1024, 16

// seeks remembers who is to be told when a recording has come here.
func (b *Blobs) seeks(p Peer, ref site.BlobRef) {
	b.mu.Lock()
	defer b.mu.Unlock()
	who := b.sought[ref]
	if slices.Contains(who, p) || len(who) >= maxSeekers || len(who) == 0 && len(b.sought) >= maxSought {
		return
	}
	b.sought[ref] = append(who, p)
}

// paced sends a part once the part before it is through, at so many bytes a
// second; 0 is at once.
func (b *Blobs) paced(ctx context.Context, to Peer, rate int, p partFrame) {
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
