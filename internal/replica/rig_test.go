package replica

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/disk/disktest"
	"carrierclass.net/ccnode/mesh"
)

var (
	testFleet = crdt.FleetID{1}
	siteA     = crdt.SiteScope([10]byte{'a', 0xff, 0xc3}) // site ids are random bytes
	siteB     = crdt.SiteScope([10]byte{'b'})
)

// member is one node of a test fleet.
type member struct {
	name string
	id   crdt.NodeID
	key  ed25519.PrivateKey
	pub  ed25519.PublicKey
	auth crdt.Ref
}

func newMember(name string) *member {
	seed := sha256.Sum256([]byte(name))
	m := &member{name: name, key: ed25519.NewKeyFromSeed(seed[:])}
	m.pub = m.key.Public().(ed25519.PublicKey)
	sum := sha256.Sum256(m.pub)
	copy(m.id[:], sum[:])
	copy(m.auth[:], sum[16:])
	return m
}

func (m *member) sign(msg []byte) []byte { return ed25519.Sign(m.key, msg) }

// gate knows members; the list can grow.
type gate struct {
	mu    sync.Mutex
	known map[crdt.NodeID]*member
	admit func(*crdt.Change, View) Verdict
}

func newGate(ms ...*member) *gate {
	g := &gate{known: map[crdt.NodeID]*member{}}
	for _, m := range ms {
		g.known[m.id] = m
	}
	return g
}

func (g *gate) learn(m *member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.known[m.id] = m
}

func (g *gate) Key(c *crdt.Change) ([]byte, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.known[c.Node]
	if m == nil || m.auth != c.Auth {
		return nil, false
	}
	return m.pub, true
}

func (g *gate) Admit(c *crdt.Change, v View) Verdict {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.admit != nil {
		return g.admit(c, v)
	}
	return Verdict{}
}

// topo is a topology made of plain data.
type topo struct {
	mu    sync.Mutex
	holds map[crdt.Scope]bool
	ns    []antientropy.Neighbour
}

func holding(scopes ...crdt.Scope) *topo {
	t := &topo{holds: map[crdt.Scope]bool{}}
	for _, s := range scopes {
		t.holds[s] = true
	}
	return t
}

func (t *topo) Holds(s crdt.Scope) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.holds[s]
}

func (t *topo) Neighbours() []antientropy.Neighbour {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ns
}

// node is a member with a disk and an engine that runs.
type node struct {
	*member
	t      testing.TB
	store  disk.Store
	gate   *gate
	topo   *topo
	mesh   mesh.Mesh
	e      *Engine
	cfg    Config
	cancel context.CancelFunc
	done   chan error
}

func testLog() *slog.Logger {
	if os.Getenv("CCNODE_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.DiscardHandler)
}

func (m *member) node(t testing.TB, g *gate, tp *topo) *node {
	n := &node{member: m, t: t, gate: g, topo: tp}
	seed := sha256.Sum256([]byte("random " + m.name))
	n.cfg = Config{Node: m.id, Fleet: testFleet, Auth: m.auth, Sign: m.sign, Gate: g, Topo: tp, Now: time.Now,
		Random: rand.NewChaCha8(seed), Log: testLog(), Machine: "box of " + m.name}
	return n
}

// start opens the engine on s and runs it.
func (n *node) start(s disk.Store) error {
	n.store, n.cfg.Disk, n.cfg.Mesh = s, s, n.mesh
	e, err := New(n.cfg)
	if err != nil {
		return err
	}
	n.e = e
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.done = cancel, make(chan error, 1)
	go func() { n.done <- e.Run(ctx) }()
	return nil
}

func (n *node) mustStart(m *disktest.Medium) {
	n.t.Helper()
	s, err := m.Open()
	if err == nil {
		err = n.start(s)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// stop ends the engine and its store.
func (n *node) stop() {
	if n.cancel == nil {
		return
	}
	n.cancel()
	<-n.done
	n.cancel = nil
	n.store.Close()
}

func write(table uint16, record, field, value string) crdt.Write {
	return crdt.Write{Table: table, Record: record, Field: field, Value: []byte(value)}
}

// put writes one cell and returns its receipt.
func (n *node) put(scope crdt.Scope, record, field, value string) (Receipt, error) {
	return n.e.Commit(context.Background(), Mutation{Scope: scope, Writes: []crdt.Write{write(1, record, field, value)}})
}

func (n *node) mustPut(scope crdt.Scope, record, field, value string) Receipt {
	n.t.Helper()
	r, err := n.put(scope, record, field, value)
	if err != nil {
		n.t.Fatalf("%s: %v", n.name, err)
	}
	return r
}

// values of a cell in force and beside it.
func (n *node) values(scope crdt.Scope, record, field string) (out []string) {
	n.e.View(func(v View) {
		for _, x := range v.Set(scope).Versions(crdt.Cell{Scope: scope, Table: 1, Record: record, Field: field}) {
			out = append(out, string(x.Value))
		}
	})
	return out
}

func (n *node) want(scope crdt.Scope, record, field string, values ...string) {
	n.t.Helper()
	if got := n.values(scope, record, field); fmt.Sprint(got) != fmt.Sprint(values) {
		n.t.Fatalf("%s: %s/%s is %v, want %v", n.name, record, field, got, values)
	}
}

func (n *node) fingerprint(scope crdt.Scope) (f crdt.Fingerprint) {
	n.e.View(func(v View) { f = v.Set(scope).Fingerprint() })
	return f
}

var errTaken = errors.New("the number is taken")
