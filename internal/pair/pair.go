// Package pair keeps the registrations of one site: the bindings of the phones
// that registered here, and those of the pair's other node, told over the LAN.
//
// Law: a new or moved contact is on this node's disk before the phone hears
// 200, and at the other node right after. A refresh is not a write and is told
// to nobody. The other node's binding is kept until that node says otherwise,
// or until one maximum expiry after evidence that it is gone (calls.md §2).
// Nothing here ever leaves the site.
package pair

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/site"
)

// KV is the corner of the disk where bindings lie. Put and Delete return when
// the change is durable.
type KV interface {
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	Scan(fn func(key string, value []byte) error) error
}

// Config is what a Table needs.
type Config struct {
	Self      site.NodeID
	Disk      KV
	MaxExpiry time.Duration // the longest expiry any phone was granted
	Now       func() time.Time
	Log       *slog.Logger
	Changed   func(site.AOR) // called after a contact came or went, without locks; may be nil
}

// Table is the location service of the site (RFC 3261 §10, §16.5).
type Table struct {
	cfg Config

	// One at a time writes of a key, in memory and on the disk; taken before mu.
	// Channels, so that virtual time can pass while one is held.
	turns [64]chan struct{}

	mu    sync.RWMutex
	byKey map[string]*entry
	byAOR map[site.AOR]map[string]*entry
	from  map[netip.Addr]int // bindings by source address

	feed *feed // to the other node, nil alone
	// expiry wakes when the next of our own bindings runs out.
	expiry *time.Timer
	next   time.Time // when expiry fires; zero: it does not
	closed bool
}

type entry struct {
	b    site.Binding
	mono time.Time // when it runs out, zero: not before its owner says so
}

// Open reads the bindings on disk. They are tried for one maximum expiry: the
// phones behind them had no reason to notice a restart.
func Open(cfg Config) (*Table, error) {
	t := &Table{cfg: cfg, byKey: map[string]*entry{}, byAOR: map[site.AOR]map[string]*entry{}, from: map[netip.Addr]int{}}
	for i := range t.turns {
		t.turns[i] = make(chan struct{}, 1)
	}
	until := cfg.Now().Add(cfg.MaxExpiry)
	err := cfg.Disk.Scan(func(key string, value []byte) error {
		var b site.Binding
		if err := decode.Unmarshal(value, &b); err != nil || b.Key() != key {
			cfg.Log.Warn("A stored binding is damaged and was left out; the phone's next registration replaces it", "err", err)
			return nil
		}
		b.Expires = until
		t.put(b, until)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the bindings: %w", err)
	}
	t.mu.Lock()
	t.schedule()
	t.mu.Unlock()
	return t, nil
}

// put stores b; the caller holds mu or is alone.
func (t *Table) put(b site.Binding, mono time.Time) {
	key := b.Key()
	t.drop(key)
	e := &entry{b, mono}
	t.byKey[key] = e
	m := t.byAOR[b.AOR]
	if m == nil {
		m = map[string]*entry{}
		t.byAOR[b.AOR] = m
	}
	m[key] = e
	t.from[b.Source.Addr()]++
}

func (t *Table) drop(key string) (site.Binding, bool) {
	e := t.byKey[key]
	if e == nil {
		return site.Binding{}, false
	}
	delete(t.byKey, key)
	if ip := e.b.Source.Addr(); t.from[ip] > 1 {
		t.from[ip]--
	} else {
		delete(t.from, ip)
	}
	m := t.byAOR[e.b.AOR]
	delete(m, key)
	if len(m) == 0 {
		delete(t.byAOR, e.b.AOR)
	}
	return e.b, true
}

// Bindings returns what is registered for aor, newest first.
func (t *Table) Bindings(aor site.AOR) []site.Binding {
	now := t.cfg.Now()
	t.mu.RLock()
	out := make([]site.Binding, 0, len(t.byAOR[aor]))
	for _, e := range t.byAOR[aor] {
		if e.mono.IsZero() || e.mono.After(now) {
			out = append(out, e.b)
		}
	}
	t.mu.RUnlock()
	slices.SortFunc(out, func(a, b site.Binding) int {
		return cmp.Or(b.Updated.Compare(a.Updated), cmp.Compare(a.Key(), b.Key()))
	})
	return out
}

// Knows says whether a phone is registered from an address: whoever limits what
// strangers may send asks it.
func (t *Table) Knows(ip netip.Addr) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.from[ip] > 0
}

// Phones counts the bindings of the site.
func (t *Table) Phones() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byKey)
}

// same says that a registration changes nothing but its expiry.
func same(a, b site.Binding) bool {
	a.Expires, a.Updated, a.CSeq, a.CallID = b.Expires, b.Updated, b.CSeq, b.CallID
	return a == b
}

// Bind stores b. Only a new or moved contact touches the disk and the pair.
func (t *Table) Bind(ctx context.Context, b site.Binding) error {
	b.Node = t.cfg.Self
	key := b.Key()
	t.mu.Lock()
	old := t.byKey[key]
	if old != nil && same(old.b, b) {
		old.b, old.mono = b, b.Expires // the source is the same, too
		t.sooner(b.Expires)
		t.mu.Unlock()
		return nil
	}
	t.mu.Unlock()

	value, err := cbor.Marshal(b)
	if err != nil {
		return fmt.Errorf("encode the binding of %s: %w", b.AOR, err)
	}
	// A disk that refuses must not silence the phones: the binding then lives
	// in memory and on the other node (state.md §7).
	done := t.turn(key)
	if err := t.cfg.Disk.Put(ctx, key, value); err != nil {
		if ctx.Err() != nil {
			done()
			return fmt.Errorf("bind %s: %w", b.AOR, context.Cause(ctx))
		}
		t.cfg.Log.Warn("A binding is in memory only; the disk refused it", "aor", b.AOR.String(), "err", err)
	}
	t.mu.Lock()
	t.put(b, b.Expires)
	t.sooner(b.Expires)
	t.feed.tell(item{Put: &b}) // in the order in which they came to be
	t.mu.Unlock()
	done()
	t.changed(b.AOR)
	return nil
}

// turn waits for a key's turn; done ends it.
func (t *Table) turn(key string) (done func()) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	c := t.turns[h.Sum32()%uint32(len(t.turns))]
	c <- struct{}{}
	return func() { <-c }
}

// settle makes the disk say of a key what memory says, whatever happened since
// its caller looked.
func (t *Table) settle(ctx context.Context, key string) error {
	defer t.turn(key)()
	t.mu.RLock()
	e := t.byKey[key]
	var b site.Binding
	if e != nil {
		b = e.b
	}
	t.mu.RUnlock()
	if e == nil {
		return t.cfg.Disk.Delete(ctx, key)
	}
	value, err := cbor.Marshal(b)
	if err != nil {
		return fmt.Errorf("encode the binding of %s: %w", b.AOR, err)
	}
	return t.cfg.Disk.Put(ctx, key, value)
}

// Unbind removes a binding, here and at the other node.
func (t *Table) Unbind(ctx context.Context, key string) error {
	t.mu.Lock()
	b, ok := t.drop(key)
	if ok {
		t.feed.tell(item{Drop: key})
	}
	t.mu.Unlock()
	if !ok {
		return nil
	}
	t.changed(b.AOR)
	if err := t.settle(ctx, key); err != nil {
		t.cfg.Log.Warn("A removed binding is still on disk; it will be tried after a restart", "aor", b.AOR.String(), "err", err)
	}
	return nil
}

func (t *Table) changed(aor site.AOR) {
	if t.cfg.Changed != nil {
		t.cfg.Changed(aor)
	}
}

// sooner makes sure that the timer fires no later than at. A refresh moves its
// binding's end away from the timer, which then finds nothing to do and sets
// itself anew: a REGISTER never looks at the other bindings. mu is held.
func (t *Table) sooner(at time.Time) {
	if t.next.IsZero() || at.Before(t.next) {
		t.arm(at)
	}
}

// schedule sets the one timer to the next binding that runs out. mu is held.
func (t *Table) schedule() {
	var next time.Time
	for _, e := range t.byKey {
		if !e.mono.IsZero() && (next.IsZero() || e.mono.Before(next)) {
			next = e.mono
		}
	}
	t.arm(next)
}

func (t *Table) arm(at time.Time) {
	if t.expiry != nil {
		t.expiry.Stop()
		t.expiry = nil
	}
	t.next = at
	if at.IsZero() || t.closed {
		return
	}
	t.expiry = time.AfterFunc(max(at.Sub(t.cfg.Now()), 0)+10*time.Millisecond, t.expire)
}

func (t *Table) expire() {
	now := t.cfg.Now()
	var gone []site.Binding
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	for key, e := range t.byKey {
		if !e.mono.IsZero() && !e.mono.After(now) {
			gone = append(gone, e.b)
			t.drop(key)
		}
	}
	for _, b := range gone {
		if b.Node == t.cfg.Self {
			t.feed.tell(item{Drop: b.Key()})
		}
	}
	t.schedule()
	t.mu.Unlock()
	for _, b := range gone {
		if err := t.settle(context.Background(), b.Key()); err != nil {
			t.cfg.Log.Debug("An expired binding stays on disk until the disk can be written", "err", err)
		}
		t.changed(b.AOR)
	}
}

// PeerGone is evidence that the other node cannot be reached: what it owned is
// tried for one maximum expiry more.
func (t *Table) PeerGone() {
	until := t.cfg.Now().Add(t.cfg.MaxExpiry)
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.byKey {
		if e.b.Node != t.cfg.Self && e.mono.IsZero() {
			e.mono = until
		}
	}
	t.schedule()
}

// peerBack is evidence that the other node is there: what it owned stays until
// it says otherwise.
func (t *Table) peerBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.byKey {
		if e.b.Node != t.cfg.Self {
			e.mono = time.Time{}
		}
	}
	t.schedule()
}

// own returns our own bindings.
func (t *Table) own() (out []site.Binding) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, e := range t.byKey {
		if e.b.Node == t.cfg.Self {
			out = append(out, e.b)
		}
	}
	return out
}

// learn takes what the other node tells of its own bindings.
func (t *Table) learn(from site.NodeID, it item) error {
	switch {
	case it.Put != nil:
		b := *it.Put
		if b.Node != from {
			return errors.New("the pair told a binding that is not its own")
		}
		t.mu.Lock()
		if mine := t.byKey[b.Key()]; mine != nil && mine.b.Node == t.cfg.Self && mine.b.Updated.After(b.Updated) {
			t.mu.Unlock() // the phone has come back to us since
			return nil
		}
		if known := t.byKey[b.Key()]; known != nil && same(known.b, b) {
			known.b, known.mono = b, time.Time{} // told twice: a snapshot and a change
			t.mu.Unlock()
			return nil
		}
		t.put(b, time.Time{})
		t.mu.Unlock()
		t.save(b)
		t.changed(b.AOR)
	case it.Drop != "":
		t.mu.Lock()
		e := t.byKey[it.Drop]
		if e == nil || e.b.Node != from {
			t.mu.Unlock()
			return nil
		}
		t.drop(it.Drop)
		t.mu.Unlock()
		t.forget(it.Drop)
		t.changed(e.b.AOR)
	case it.All != nil:
		keep := map[string]bool{}
		for _, b := range *it.All {
			keep[b.Key()] = true
			if err := t.learn(from, item{Put: &b}); err != nil {
				return err
			}
		}
		var gone []site.Binding
		t.mu.Lock()
		for key, e := range t.byKey {
			if e.b.Node == from && !keep[key] {
				gone = append(gone, e.b)
				t.drop(key)
			}
		}
		t.mu.Unlock()
		for _, b := range gone {
			t.forget(b.Key())
			t.changed(b.AOR)
		}
	}
	return nil
}

func (t *Table) save(b site.Binding) {
	if err := t.settle(context.Background(), b.Key()); err != nil {
		t.cfg.Log.Warn("A binding of the other node is in memory only", "err", err)
	}
}

func (t *Table) forget(key string) {
	if err := t.settle(context.Background(), key); err != nil {
		t.cfg.Log.Warn("A removed binding is still on disk", "err", err)
	}
}

// Close stops the timers and the feed.
func (t *Table) Close() {
	t.mu.Lock()
	t.closed = true
	if t.expiry != nil {
		t.expiry.Stop()
	}
	f := t.feed
	t.feed = nil
	t.mu.Unlock()
	f.close()
}
