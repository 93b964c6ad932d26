package menu

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/featurestest"
	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/internal/site"
)

var (
	here  = netip.MustParseAddr("127.0.0.1")
	alice = site.Party{Number: "201", User: site.RecordID{1}, Device: site.RecordID{0xA1}}
	shop  = site.Party{Number: "500", User: site.RecordID{50}}
)

var set = func() *prompts.Set {
	s, err := prompts.English()
	if err != nil {
		panic(err)
	}
	return s
}()

// id names a record in these stories.
func id(n byte) site.RecordID { return site.RecordID{n} }

// house is a node with an attendant, as much of it as the attendant sees.
type house struct {
	*testing.T
	net    *featurestest.Net
	engine *media.Engine
	cfg    Config
	log    bytes.Buffer

	mu     sync.Mutex
	menus  map[site.RecordID]Menu
	closed bool

	blobs map[site.BlobRef][]byte
	files int // open ones
}

func (h *house) For(to site.Party) (Menu, bool) { return h.Menu(to.User) }

func (h *house) Menu(id site.RecordID) (Menu, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, ok := h.menus[id]
	return m, ok
}

func (h *house) Open(site.RecordID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.closed
}

// blobs is Blobs in memory that counts what is open.
type blobs struct{ h *house }

type file struct {
	io.Reader
	h *house
}

func (b blobs) Open(_ context.Context, ref site.BlobRef) (io.ReadCloser, error) {
	data, ok := b.h.blobs[ref]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: ref.String(), Err: fs.ErrNotExist}
	}
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	b.h.files++
	return file{bytes.NewReader(data), b.h}, nil
}

func (f file) Close() error {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	f.h.files--
	return nil
}

func newHouse(t *testing.T, menus ...Menu) *house {
	t.Helper()
	h := &house{T: t, net: &featurestest.Net{}, menus: make(map[site.RecordID]Menu), blobs: make(map[site.BlobRef][]byte)}
	for _, m := range menus {
		h.menus[m.ID] = m
	}
	log := slog.New(slog.NewTextHandler(&h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	h.engine, err = media.New(media.Config{Now: time.Now, Rand: rand.Reader, Logger: log, Drain: 10 * time.Millisecond, Listen: h.net.Listen})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if h.files != 0 {
			t.Errorf("%d files are open", h.files)
		}
		if open, _ := h.engine.Ports(); open != 0 {
			t.Errorf("%d ports are open", open)
		}
		if err := h.engine.Close(); err != nil {
			t.Error(err)
		}
	})
	h.cfg = Config{Menus: h, Blobs: blobs{h}, Prompts: set, Logger: log}
	return h
}

func (h *house) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// caller is one call to a menu, seen from the caller's end.
type caller struct {
	*house
	phone *featurestest.Phone
	call  *featurestest.Call
	mark  int
	done  chan error
	ctx   context.Context
	stop  context.CancelFunc // the node stops
}

// connects is what becomes of callers who are sent on.
type connects = func(ctx context.Context, to features.Target) (features.Outcome, error)

// dial calls the shop.
func (h *house) dial(f connects) *caller {
	h.Helper()
	phone, err := featurestest.NewPhone(h.net.Listen, here, "PCMU")
	h.must(err)
	node, stop := context.WithCancel(h.Context())
	call, err := featurestest.NewCall(h.Context(), h.engine, phone, here, alice, shop, "")
	h.must(err)
	call.Connects = f
	ctx, cancel := context.WithTimeout(h.Context(), time.Hour)
	c := &caller{house: h, phone: phone, call: call, done: make(chan error, 1), ctx: ctx, stop: stop}
	h.Cleanup(func() { call.End(site.Normal); phone.Close(); stop(); cancel() })
	a, err := New(h.cfg)
	h.must(err)
	go func() { c.done <- a.ServeCall(node, call) }()
	return c
}

// hear waits until all these prompts were spoken, in this order.
func (c *caller) hear(names ...string) {
	c.Helper()
	for _, name := range names {
		clip, ok := set.Clip(name)
		if !ok {
			c.Fatalf("no prompt %q", name)
		}
		if err := c.phone.Await(c.ctx, &c.mark, featurestest.Spoken(clip)); err != nil {
			c.Fatalf("%q was not spoken: %v", name, err)
		}
	}
}

// unheard fails if a prompt was spoken since the mark.
func (c *caller) unheard(name string) {
	c.Helper()
	clip, _ := set.Clip(name)
	if _, found := featurestest.Spoken(clip)(c.phone.Heard()[min(c.mark, len(c.phone.Heard())):]); found {
		c.Errorf("%q was spoken", name)
	}
}

// times is how often a prompt was spoken in the whole call.
func (c *caller) times(name string) (n int) {
	c.Helper()
	clip, _ := set.Clip(name)
	pcm := c.phone.Heard()
	for {
		used, found := featurestest.Spoken(clip)(pcm)
		if !found {
			return n
		}
		n++
		pcm = pcm[used:]
	}
}

func (c *caller) press(keys string) { c.Helper(); c.must(c.phone.Press(c.ctx, keys)) }

// ended waits for the attendant to return and says how it ended the call.
func (c *caller) ended() (cause site.Cause, byMenu bool) {
	c.Helper()
	select {
	case err := <-c.done:
		c.must(err)
	case <-c.ctx.Done():
		c.Fatal("the menu did not end")
	}
	return c.call.Ended()
}

// goodbye hears the end.
func (c *caller) goodbye() {
	c.Helper()
	c.hear("goodbye")
	if cause, by := c.ended(); !by || cause != site.Normal {
		c.Errorf("ended %v, %v", cause, by)
	}
}

// sent checks where the caller was sent.
func (c *caller) sent(want ...features.Target) {
	c.Helper()
	got := c.call.Sent()
	if len(got) != len(want) {
		c.Errorf("sent to %+v, want %+v", got, want)
		return
	}
	for i := range got {
		if got[i] != want[i] {
			c.Errorf("sent to %+v, want %+v", got[i], want[i])
		}
	}
}

// answered is a connection that somebody takes, for a minute.
func answered(ctx context.Context, _ features.Target) (features.Outcome, error) {
	select {
	case <-time.After(time.Minute):
		return features.Outcome{Answered: true, Cause: site.Normal}, nil
	case <-ctx.Done():
		return features.Outcome{}, context.Cause(ctx)
	}
}

// refused rings for ten seconds in vain.
func refused(cause site.Cause) connects {
	return func(ctx context.Context, _ features.Target) (features.Outcome, error) {
		select {
		case <-time.After(10 * time.Second):
			return features.Outcome{Cause: cause}, nil
		case <-ctx.Done():
			return features.Outcome{}, context.Cause(ctx)
		}
	}
}

// in tells a story in virtual time.
func in(t *testing.T, tell func(h *house), menus ...Menu) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { tell(newHouse(t, menus...)) })
}
