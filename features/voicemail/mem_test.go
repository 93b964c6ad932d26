package voicemail

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"testing"

	"carrierclass.net/ccnode/internal/site"
)

// memBoxes is Mailboxes in memory.
type memBoxes struct {
	mu        sync.Mutex
	messages  map[site.RecordID]site.Message
	greetings map[site.RecordID]map[string]site.BlobRef
	pins      map[site.RecordID]string
	numbers   map[string]site.RecordID
	trusted   bool  // the own phone needs no PIN
	fail      error // of every write
}

func newBoxes() *memBoxes {
	return &memBoxes{messages: make(map[site.RecordID]site.Message), greetings: make(map[site.RecordID]map[string]site.BlobRef),
		pins: make(map[site.RecordID]string), numbers: make(map[string]site.RecordID)}
}

func (b *memBoxes) Messages(id site.RecordID) (out []site.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for m := range maps.Values(b.messages) {
		if m.Mailbox == id && m.Folder != site.Trash {
			out = append(out, m)
		}
	}
	return out
}

func (b *memBoxes) write(do func()) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail == nil {
		do()
	}
	return b.fail
}

func (b *memBoxes) Deliver(ctx context.Context, m site.Message) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return b.write(func() { b.messages[m.ID] = m })
}

func (b *memBoxes) edit(id site.RecordID, do func(m *site.Message)) error {
	return b.write(func() {
		m := b.messages[id]
		do(&m)
		b.messages[id] = m
	})
}

func (b *memBoxes) MarkHeard(_ context.Context, id site.RecordID) error {
	return b.edit(id, func(m *site.Message) { m.Heard = true })
}

func (b *memBoxes) Move(_ context.Context, id site.RecordID, to site.Folder) error {
	return b.edit(id, func(m *site.Message) { m.Folder = to })
}

func (b *memBoxes) Delete(ctx context.Context, id site.RecordID) error {
	return b.Move(ctx, id, site.Trash)
}

func (b *memBoxes) Greeting(id site.RecordID, reason string) (site.BlobRef, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ref, ok := b.greetings[id][reason]
	return ref, ok
}

func (b *memBoxes) SetGreeting(_ context.Context, id site.RecordID, reason string, ref site.BlobRef) error {
	return b.write(func() {
		if b.greetings[id] == nil {
			b.greetings[id] = make(map[string]site.BlobRef)
		}
		if b.greetings[id][reason] = ref; ref.IsZero() {
			delete(b.greetings[id], reason)
		}
	})
}

func (b *memBoxes) Find(number string) (site.RecordID, bool) {
	id, ok := b.numbers[number]
	return id, ok
}

func (b *memBoxes) NeedsPIN(site.RecordID, site.RecordID) bool { return !b.trusted }

func (b *memBoxes) CheckPIN(_ context.Context, id site.RecordID, pin string) (bool, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	have, ok := b.pins[id]
	if !ok {
		return false, "no PIN is set"
	}
	return have == pin, "another PIN"
}

func (b *memBoxes) SetPIN(_ context.Context, id site.RecordID, pin string) error {
	return b.write(func() { b.pins[id] = pin })
}

// only returns the one message there must be.
func (b *memBoxes) only(t *testing.T) site.Message {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.messages) != 1 {
		t.Fatalf("%d messages, want one", len(b.messages))
	}
	return slices.Collect(maps.Values(b.messages))[0]
}

// memBlobs is Blobs in memory. What a crash leaves is in open.
type memBlobs struct {
	mu    sync.Mutex
	blobs map[site.BlobRef][]byte
	away  map[site.BlobRef]chan struct{} // not here yet; closed when it comes
	open  map[*memRecording]struct{}
	room  int // bytes until the disk is full; < 0: no end
}

func newBlobs() *memBlobs {
	return &memBlobs{blobs: make(map[site.BlobRef][]byte), away: make(map[site.BlobRef]chan struct{}), open: make(map[*memRecording]struct{}), room: -1}
}

var errFull = errors.New("no space left on device")

func (b *memBlobs) Create(_ context.Context, note []byte) (Recording, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.room == 0 {
		return nil, errFull
	}
	r := &memRecording{b: b, note: bytes.Clone(note)}
	b.open[r] = struct{}{}
	return r, nil
}

func (b *memBlobs) Open(_ context.Context, ref site.BlobRef) (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok := b.blobs[ref]
	if !ok || b.away[ref] != nil {
		return nil, &fs.PathError{Op: "open", Path: ref.String(), Err: fs.ErrNotExist}
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (b *memBlobs) Await(ctx context.Context, ref site.BlobRef) error {
	b.mu.Lock()
	c := b.away[ref]
	b.mu.Unlock()
	if c == nil {
		return nil
	}
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// send takes a blob away, and arrive brings it.
func (b *memBlobs) send(ref site.BlobRef) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away[ref] = make(chan struct{})
}

func (b *memBlobs) arrive(ref site.BlobRef) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.away[ref])
	delete(b.away, ref)
}

func (b *memBlobs) Unfinished(context.Context) (out []Unfinished, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for r := range b.open {
		out = append(out, Unfinished{Note: r.note, Size: int64(len(r.data)), Recording: r})
	}
	return out, nil
}

func (b *memBlobs) unfinished() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.open)
}

type memRecording struct {
	b    *memBlobs
	note []byte
	data []byte
}

func (r *memRecording) Write(p []byte) (int, error) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if r.b.room >= 0 {
		if r.b.room < len(p) {
			r.b.room = 0
			return 0, errFull
		}
		r.b.room -= len(p)
	}
	r.data = append(r.data, p...)
	return len(p), nil
}

func (r *memRecording) Commit(ctx context.Context) (site.BlobRef, int64, error) {
	if ctx.Err() != nil {
		return site.BlobRef{}, 0, ctx.Err()
	}
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	ref := site.BlobRef(sha256.Sum256(r.data))
	r.b.blobs[ref] = r.data
	return ref, int64(len(r.data)), nil
}

func (r *memRecording) Done() error { return r.Abort() }
func (r *memRecording) Abort() error {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	delete(r.b.open, r)
	return nil
}
