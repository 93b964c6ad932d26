package state_test

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/disk/disktest"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/memnet"
)

// The same state on the real engine: its disk, its gate, its exchange.

type gate struct{ book *trust.Book }

func (g gate) Key(c *crdt.Change) ([]byte, bool) {
	k, ok := g.book.Key(c)
	return k, ok
}

func (g gate) Admit(c *crdt.Change, _ replica.View) replica.Verdict {
	v, err := g.book.Admit(c)
	out := replica.Verdict{Outcome: [...]replica.Outcome{trust.Accept: replica.Accept, trust.Hold: replica.Hold, trust.Refuse: replica.Refuse}[v]}
	if err != nil {
		out.Reason = err.Error()
	}
	return out
}

type engine struct{ e *replica.Engine }

func (w engine) Commit(ctx context.Context, m state.Mutation) (crdt.Stamp, error) {
	r := replica.Mutation{Scope: m.Scope, Writes: m.Writes, By: m.By, Token: m.Token}
	if m.Precondition != nil {
		r.Precondition = func(v replica.View) error { return m.Precondition(v) }
	}
	rc, err := w.e.Commit(ctx, r)
	return rc.Stamp, err
}
func (w engine) View(fn func(state.View))                      { w.e.View(func(v replica.View) { fn(v) }) }
func (w engine) Watch(fn func(crdt.Scope, []crdt.Cell)) func() { return w.e.Watch(fn) }
func (w engine) past(c crdt.Cell, fn func(state.Past) error) error {
	return w.e.History(c, func(p replica.Past) error { return fn(state.Past(p)) })
}

type topology struct {
	own crdt.Scope
	ns  []antientropy.Neighbour
}

func (t topology) Holds(s crdt.Scope) bool             { return s == crdt.Trust || s == crdt.Fleet || s == t.own }
func (t topology) Neighbours() []antientropy.Neighbour { return t.ns }

type node struct {
	*state.State
	t      testing.TB
	id     *trust.Identity
	grant  *trust.Grant
	book   *trust.Book
	at     site.ID
	medium *disktest.Medium
	link   mesh.Mesh
	topo   topology
	eng    *replica.Engine
	stop   func()
}

func log() *slog.Logger {
	if os.Getenv("CCNODE_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.DiscardHandler)
}

func (n *node) start(store disk.Store, random func() io.Reader) {
	n.t.Helper()
	var err error
	n.eng, err = replica.New(replica.Config{Node: crdt.NodeID(n.id.Node()), Fleet: n.book.Fleet(), Auth: n.grant.ID(), Sign: n.id.Sign, Disk: store,
		Gate: gate{n.book}, Topo: n.topo, Mesh: n.link, Now: time.Now, Random: random(), Log: log(), Machine: "box",
		TrustMoved: func(v replica.View, _ []crdt.Cell) { n.book.Sync(v.Set(crdt.Trust)) }})
	if err != nil {
		n.t.Fatal(err)
	}
	n.eng.View(func(v replica.View) { n.book.Sync(v.Set(crdt.Trust)) })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- n.eng.Run(ctx) }()
	w := engine{n.eng}
	n.State, err = state.Open(state.Config{Engine: w, Book: n.book, Identity: n.id, Site: n.at, Now: time.Now, Random: random(), Log: log(), History: w.past})
	if err != nil {
		n.t.Fatal(err)
	}
	go func() { done <- n.State.Run(ctx) }()
	n.stop = func() {
		n.State.Close()
		cancel()
		<-done
		<-done
		if n.link != nil {
			if err := n.link.Close(); err != nil {
				n.t.Error(err)
			}
		}
		if err := store.Close(); err != nil {
			n.t.Error(err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheStateOnTheRealEngineHealsAfterACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(26 * 365 * 24 * time.Hour) // the bubble begins in 2000; the fleet later
		ctx := context.Background()
		var seed byte
		random := func() io.Reader { seed++; return rand.NewChaCha8([32]byte{seed}) }
		rnd := random()
		root, err := trust.NewRoot(rnd)
		must(t, err)
		found := trust.Found(root)
		sites := []site.ID{{0xa}, {0xa}, {0xb}}
		net := memnet.New()
		var nodes []*node
		for i, at := range sites {
			id, err := trust.NewIdentity(rnd)
			must(t, err)
			n := &node{t: t, id: id, at: at, book: trust.NewBook(found), medium: disktest.NewMedium(uint64(i))}
			name := trust.Name{Key: id.Public(), Seal: id.SealKey(), Site: at, Rights: trust.AdmitSite}
			if i == 0 {
				name.Rights |= trust.AdmitFleet
				n.grant, err = root.Issue(found.ID(), name, rnd)
			} else {
				n.grant, err = nodes[0].id.Issue(found.ID(), nodes[0].grant, name, rnd)
				must(t, n.book.Add(nodes[0].grant))
			}
			must(t, err)
			must(t, n.book.Add(n.grant))
			nodes = append(nodes, n)
		}
		var peers []mesh.Peer
		for _, n := range nodes {
			peers = append(peers, mesh.Peer{ID: mesh.PeerID(n.id.Node()), Addrs: []string{"mem"}})
		}
		for i, n := range nodes {
			x := net.Join(mesh.PeerID(n.id.Node()))
			x.Admit(peers)
			n.link = x
			n.topo.own = crdt.SiteScope(n.at)
			for j, o := range nodes {
				if i == j {
					continue
				}
				nb := antientropy.Neighbour{Peer: crdt.NodeID(o.id.Node()), Shared: []crdt.Scope{crdt.Trust, crdt.Fleet}}
				if o.at == n.at {
					nb.Shared = []crdt.Scope{crdt.Trust, n.topo.own, crdt.Fleet}
				} else {
					nb.Holds = []crdt.Scope{crdt.SiteScope(o.at)}
				}
				n.topo.ns = append(n.topo.ns, nb)
			}
			store, err := n.medium.Open()
			must(t, err)
			n.start(store, random)
		}
		a1, a2, b := nodes[0], nodes[1], nodes[2]
		must(t, a1.PutTrust(ctx, "founder", a1.grant, a2.grant, b.grant))
		must(t, a1.SetFleet(ctx, "founder", "Shops", "shops.example"))
		_, err = a1.PutSite(ctx, "founder", state.Site{ID: a1.at, Code: "0001", Name: "One"})
		must(t, err)
		_, err = a1.PutSite(ctx, "founder", state.Site{ID: b.at, Code: "0002", Name: "Two"})
		must(t, err)
		must(t, a1.DrawKey(ctx, "system"))
		must(t, b.DrawKey(ctx, "system"))
		u, err := a1.Create(ctx, "Ann", state.Spec{Number: "201", Name: "Ana"})
		must(t, err)
		settle := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		settle(5 * time.Minute)
		d := u.Devices[0]
		for _, n := range nodes {
			if e, ok := n.Pick("0001201"); !ok || e.Name != "Ana" {
				t.Fatalf("directory: %+v, %v", e, ok)
			}
		}
		if cs := a2.Credentials("201", d.Realm); len(cs) != 1 {
			t.Fatalf("the pair does not know the phone: %+v", cs)
		}

		// The cut: everybody alone.
		net.Cut(func(_, _ mesh.PeerID) bool { return true })
		p := func(s string) *string { return &s }
		_, err = a1.Set(ctx, "Ann", u.ID, "", state.Patch{ForwardAll: p("202")})
		must(t, err)
		time.Sleep(time.Second)
		_, err = a2.Set(ctx, "Bob", u.ID, "", state.Patch{ForwardAll: p("203"), Name: p("Anna")})
		must(t, err)
		must(t, b.Mailboxes().Deliver(ctx, site.Message{ID: site.RecordID{1}, Mailbox: u.ID, From: "0002201", At: time.Now(), Duration: time.Second, Audio: site.BlobRef{1}}))
		_, err = b.Create(ctx, "Chi", state.Spec{Number: "201", Name: "Bea"})
		must(t, err)
		settle(time.Minute)
		if a1.Summary(u.ID) != (site.Summary{}) {
			t.Fatal("the cut does not cut")
		}
		net.Heal()
		settle(40 * time.Minute)
		for i, n := range nodes {
			if got := n.Entries(); got != 2 {
				t.Errorf("node %d: %d entries", i, got)
			}
			if e, _ := n.Pick("0001201"); e.Name != "Anna" {
				t.Errorf("node %d: %+v", i, e)
			}
			if st := n.eng.Status(); len(n.eng.Held()) != 0 {
				t.Errorf("node %d holds %v", i, st)
			}
			for scope, f := range n.Fingerprints() {
				if want := a1.Fingerprints()[scope]; (scope == crdt.Trust || scope == crdt.Fleet || n.at == a1.at) && f != want {
					t.Errorf("node %d: scope %s differs", i, scope)
				}
			}
		}
		for i, n := range []*node{a1, a2} {
			if got := n.Summary(u.ID); got != (site.Summary{New: 1}) {
				t.Errorf("node %d: lamp %+v", i, got)
			}
			ms, err := n.Merges(false)
			must(t, err)
			if len(ms) != 1 || ms[0].InForce != "203" || ms[0].Sides[1].Value != "202" || ms[0].Sides[1].By != "Ann" {
				t.Errorf("node %d: merges %+v", i, ms)
			}
		}
		ms, err := a2.Merges(false)
		must(t, err)
		must(t, a2.Keep(ctx, "Ann", ms[0].ID, ms[0].Sides[1].Version))
		settle(time.Minute)
		if x, _ := a1.User(u.ID); x.ForwardAll != "202" || a1.OpenMerges() != 0 {
			t.Errorf("kept: %q, %d open", x.ForwardAll, a1.OpenMerges())
		}
		if closed, err := a2.Merges(true); err != nil || len(closed) != 1 || !closed[0].Closed {
			t.Errorf("closed: %+v, %v", closed, err)
		}

		// A restart finds everything on disk, in a fresh book.
		a2.stop()
		a2.book = trust.NewBook(found)
		must(t, a2.book.Add(a1.grant))
		must(t, a2.book.Add(a2.grant))
		a2.link = nil
		store, err := a2.medium.Open()
		must(t, err)
		a2.start(store, random)
		if x, err := a2.User(u.ID); err != nil || x.ForwardAll != "202" || len(a2.Credentials("201", d.Realm)) != 1 || a2.Summary(u.ID).New != 1 || len(a2.Nodes(site.ID{})) != 3 {
			t.Errorf("after the restart: %+v, %v", x, err)
		}
		for _, n := range nodes {
			n.stop()
		}
	})
}
