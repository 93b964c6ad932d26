package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/features/voicemail"
	"carrierclass.net/ccnode/internal/blob"
	"carrierclass.net/ccnode/internal/site"
)

// audio is the blobs as voicemail uses them.
type audio struct{ n *Node }

func (a audio) Create(_ context.Context, note []byte) (voicemail.Recording, error) {
	r, err := a.n.blobs.Create(note)
	if err != nil {
		return nil, err
	}
	return recording{r}, nil
}

type recording struct{ *blob.Recording }

func (r recording) Commit(context.Context) (site.BlobRef, int64, error) { return r.Recording.Commit() }

// Open reads a recording that is here; asking for one that is not puts it
// before all others.
func (a audio) Open(_ context.Context, ref site.BlobRef) (io.ReadCloser, error) {
	r, err := a.n.blobs.Open(ref)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, blob.ErrDamaged) {
		from, near := a.n.holders(ref)
		a.n.fetch.Fetch(ref, from, near)
		return nil, fmt.Errorf("%w (%w)", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (a audio) Await(ctx context.Context, ref site.BlobRef) error {
	return a.n.arrivals.wait(ctx, a.n.blobs, ref)
}

func (a audio) Unfinished(context.Context) (out []voicemail.Unfinished, err error) {
	for _, o := range a.n.blobs.Orphans() {
		out = append(out, voicemail.Unfinished{Note: o.Meta, Size: o.Size, Recording: &orphan{s: a.n.blobs, name: o.Name}})
	}
	return out, nil
}

// orphan ends what a node that died was recording.
type orphan struct {
	s     *blob.Store
	name  string
	ended bool
}

func (o *orphan) Write([]byte) (int, error) { return 0, fs.ErrClosed }
func (o *orphan) Commit(ctx context.Context) (site.BlobRef, int64, error) {
	ref, size, err := o.s.Recover(ctx, o.name)
	o.ended = err == nil
	return ref, size, err
}
func (o *orphan) Done() error { return o.s.Done(o.name) }
func (o *orphan) Abort() error {
	if o.ended {
		return nil
	}
	return o.s.Discard(o.name)
}

// arrivals lets somebody wait for a recording.
type arrivals struct {
	mu      sync.Mutex
	waiting map[site.BlobRef][]chan struct{}
}

func (a *arrivals) wait(ctx context.Context, s *blob.Store, ref site.BlobRef) error {
	ch := make(chan struct{})
	a.mu.Lock()
	if a.waiting == nil {
		a.waiting = map[site.BlobRef][]chan struct{}{}
	}
	a.waiting[ref] = append(a.waiting[ref], ch)
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.waiting[ref] = slices.DeleteFunc(a.waiting[ref], func(o chan struct{}) bool { return o == ch }); len(a.waiting[ref]) == 0 {
			delete(a.waiting, ref)
		}
	}()
	if s.Has(ref) {
		return nil
	}
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *arrivals) here(ref site.BlobRef) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ch := range a.waiting[ref] {
		close(ch)
	}
	delete(a.waiting, ref)
}

// wavOf serves a stored recording as a file whose head knows its length.
func (n *Node) wavOf(ref site.BlobRef) (io.ReadCloser, error) {
	r, err := n.blobs.Open(ref)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r, media.HeaderSize); err != nil {
		r.Close()
		return nil, fmt.Errorf("read recording %s: %w", ref, err)
	}
	size, err := n.blobs.Size(ref)
	if err != nil {
		r.Close()
		return nil, err
	}
	head := media.WAVHeader(media.MuLaw, size-media.HeaderSize)
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(newBytes(head), r), r}, nil
}
