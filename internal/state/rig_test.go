package state

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// memory is an Engine on crdt.Set: the same planning of contexts and actors as
// the real one, without disk and mesh. Replicas exchange by sync.
type memory struct {
	t     testing.TB
	id    *trust.Identity
	grant *trust.Grant
	book  *trust.Book
	holds map[crdt.Scope]bool
	now   func() time.Time

	mu       sync.RWMutex
	sets     map[crdt.Scope]*crdt.Set
	all      []*crdt.Change
	has      map[crdt.ID]bool
	actor    uint32
	next     uint32
	last     crdt.Stamp
	watchers []func(crdt.Scope, []crdt.Cell)
	history  []Past
	refuse   error // Commit's error, for tests of crashes
	denied   []error
}

type memView struct{ m *memory }

func (v memView) Set(scope crdt.Scope) *crdt.Set {
	if s := v.m.sets[scope]; s != nil {
		return s
	}
	return crdt.NewSet(scope)
}

func (m *memory) View(fn func(View)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	fn(memView{m})
}

func (m *memory) Watch(fn func(crdt.Scope, []crdt.Cell)) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers = append(m.watchers, fn)
	return func() {}
}

func (m *memory) Commit(_ context.Context, mu Mutation) (crdt.Stamp, error) {
	c, err := m.commit(mu)
	if err != nil {
		return 0, err
	}
	m.tell(c.Scope, cellsOf(c))
	return c.Stamp, nil
}

func (m *memory) commit(mu Mutation) (*crdt.Change, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse != nil {
		return nil, m.refuse
	}
	if mu.Precondition != nil {
		if err := mu.Precondition(memView{m}); err != nil {
			return nil, err
		}
	}
	set := memView{m}.Set(mu.Scope)
	c := &crdt.Change{Scope: mu.Scope, Node: crdt.NodeID(m.id.Node()), Actor: m.actor, Auth: m.grant.ID(), By: mu.By, Writes: append([]crdt.Write(nil), mu.Writes...)}
	self := crdt.MakeActor(c.Node, m.actor)
	fresh := !m.holds[mu.Scope]
	var seen crdt.Stamp
	for i := range c.Writes {
		w := &c.Writes[i]
		var token crdt.Context
		if mu.Token != nil {
			if token = mu.Token[c.Cell(i)]; token == nil {
				token = crdt.Context{}
			}
		}
		ctx, behind := crdt.Plan(set.Known(c.Cell(i)), token, self)
		w.Ctx, fresh, seen = ctx, fresh || behind, max(seen, ctx.Max())
	}
	if fresh {
		m.next++
		c.Actor = m.next
	}
	m.last = crdt.NextStamp(max(m.last, seen), m.now().UnixMilli())
	c.Stamp = m.last
	if err := crdt.Seal(c, m.book.Fleet(), m.id.Sign); err != nil {
		return nil, err
	}
	if v, err := m.book.Admit(c); v != trust.Accept { // a node may not even write it locally
		m.denied = append(m.denied, err)
		return nil, err
	}
	m.add(c)
	return c, nil
}

func (m *memory) add(c *crdt.Change) {
	if m.has[c.ID()] {
		return
	}
	m.has[c.ID()] = true
	m.all = append(m.all, c)
	if !m.holds[c.Scope] {
		return
	}
	if m.sets[c.Scope] == nil {
		m.sets[c.Scope] = crdt.NewSet(c.Scope)
	}
	for _, d := range m.sets[c.Scope].Add(c).Displaced {
		m.history = append(m.history, Past{Cell: d.Cell, Version: d.Version, By: d.By, At: m.now()})
	}
}

func (m *memory) tell(scope crdt.Scope, cells []crdt.Cell) {
	for _, fn := range m.watchers {
		fn(scope, cells)
	}
}

func cellsOf(c *crdt.Change) (out []crdt.Cell) {
	for i := range c.Writes {
		out = append(out, c.Cell(i))
	}
	return out
}

// take receives a change as a link would bring it.
func (m *memory) take(c *crdt.Change) {
	m.mu.Lock()
	if m.has[c.ID()] {
		m.mu.Unlock()
		return
	}
	key, ok := m.book.Key(c)
	if !ok || !c.Verify(m.book.Fleet(), key) {
		m.mu.Unlock()
		m.t.Errorf("a change of node %x has no key here", c.Node[:4])
		return
	}
	if v, err := m.book.Admit(c); v != trust.Accept {
		m.denied = append(m.denied, err)
		m.mu.Unlock()
		return
	}
	m.last = max(m.last, c.Stamp)
	m.add(c)
	m.mu.Unlock()
	m.tell(c.Scope, cellsOf(c))
}

// world is a fleet of the tests.
type world struct {
	t     testing.TB
	now   time.Time
	rand  io.Reader
	root  *trust.Root
	found *trust.Founding
	boxes []*box
}

// box is one node: a State on a memory.
type box struct {
	*State
	m *memory
}

var (
	siteA = site.ID{0xa}
	siteB = site.ID{0xb}
)

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), rand: rand.NewChaCha8([32]byte{1})}
	var err error
	if w.root, err = trust.NewRoot(w.rand); err != nil {
		t.Fatal(err)
	}
	w.found = trust.Found(w.root)
	return w
}

func (w *world) tick(d time.Duration) { w.now = w.now.Add(d) }

// box adds a node of a site; the first one founds the fleet.
func (w *world) box(of site.ID, code string) *box {
	w.t.Helper()
	id, err := trust.NewIdentity(w.rand)
	if err != nil {
		w.t.Fatal(err)
	}
	name := trust.Name{Key: id.Public(), Seal: id.SealKey(), Site: of, Rights: trust.AdmitSite, Issued: w.now.Unix()}
	book := trust.NewBook(w.found)
	var g *trust.Grant
	first := len(w.boxes) == 0
	if first {
		name.Rights |= trust.AdmitFleet
		g, err = w.root.Issue(w.found.ID(), name, w.rand)
	} else {
		by := w.boxes[0]
		g, err = by.m.id.Issue(w.found.ID(), by.m.grant, name, w.rand)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	own := crdt.SiteScope(of)
	m := &memory{t: w.t, id: id, grant: g, book: book, holds: map[crdt.Scope]bool{crdt.Trust: true, crdt.Fleet: true, own: true},
		now: func() time.Time { return w.now }, sets: map[crdt.Scope]*crdt.Set{}, has: map[crdt.ID]bool{}, actor: 1, next: 1}
	ctx := context.Background()
	if !first {
		if err := w.boxes[0].PutTrust(ctx, "system", g); err != nil {
			w.t.Fatal(err)
		}
		for _, c := range w.boxes[0].m.all {
			if c.Scope == crdt.Trust {
				m.take(c)
			}
		}
	} else if err := book.Add(g); err != nil {
		w.t.Fatal(err)
	}
	s, err := Open(Config{Engine: m, Book: book, Identity: id, Site: of, Now: m.now, Random: w.rand, Log: slog.New(slog.DiscardHandler),
		History: func(_ crdt.Cell, fn func(Past) error) error {
			for _, p := range m.history {
				if err := fn(p); err != nil {
					return err
				}
			}
			return nil
		}})
	if err != nil {
		w.t.Fatal(err)
	}
	b := &box{s, m}
	w.boxes = append(w.boxes, b)
	if first {
		w.must(b.PutTrust(ctx, "system", g))
		w.must(b.SetFleet(ctx, "founder", "Shops", "shops.example"))
	}
	w.sync()
	if !b.HasKey() && len(book.Members(of)) == 1 {
		_, err := b.PutSite(ctx, "founder", Site{ID: of, Code: code, Name: "Store " + code})
		w.must(err)
		w.must(b.DrawKey(ctx, "system"))
	}
	w.must(b.PutNode(ctx, Node{Name: "a", Mesh: []string{"192.0.2.1:7950"}}))
	w.heal()
	return b
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// sync merges everything everywhere: a heal, without the care that follows it.
func (w *world) sync() {
	for range 2 {
		for _, a := range w.boxes {
			for _, b := range w.boxes {
				if a != b {
					for _, c := range a.m.all {
						b.m.take(c)
					}
				}
			}
		}
	}
}

// heal is sync and care until nobody has anything to write.
func (w *world) heal() {
	w.t.Helper()
	for range 10 {
		w.sync()
		quiet := true
		for _, b := range w.boxes {
			n, err := b.Repair(context.Background())
			w.must(err)
			quiet = quiet && n == 0
		}
		if quiet {
			w.equal()
			return
		}
	}
	w.t.Fatal("the fleet never comes to rest")
}

// equal wants the same fingerprints wherever a scope is held.
func (w *world) equal() {
	w.t.Helper()
	seen := map[crdt.Scope]crdt.Fingerprint{}
	for _, b := range w.boxes {
		for scope, f := range b.Fingerprints() {
			if have, ok := seen[scope]; ok && have != f {
				w.t.Errorf("scope %s differs", scope)
			}
			seen[scope] = f
		}
	}
}

func (w *world) create(b *box, number, name string) User {
	w.t.Helper()
	u, err := b.Create(context.Background(), "Ann", Spec{Number: number, Name: name, PIN: "4711"})
	w.must(err)
	return u
}

func (w *world) set(b *box, id site.RecordID, etag string, p Patch) User {
	w.t.Helper()
	w.tick(time.Second)
	u, err := b.Set(context.Background(), "Ann", id, etag, p)
	w.must(err)
	return u
}

func ptr[T any](v T) *T { return &v }
