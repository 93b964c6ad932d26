package peers

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/crdt/antientropy"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/p2p"
)

// members is the gate and the topology of a small fleet: everybody holds the
// fleet's scope and shares it with whom it is told.
type members struct {
	mu   sync.Mutex
	keys map[crdt.NodeID]ed25519.PublicKey
	ns   map[crdt.NodeID][]antientropy.Neighbour
}

func (m *members) Key(c *crdt.Change) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.keys[c.Node]
	return k, ok
}

func (m *members) Admit(*crdt.Change, replica.View) replica.Verdict { return replica.Verdict{} }

// view of the members by one of them.
type view struct {
	*members
	id crdt.NodeID
}

func (v view) Holds(s crdt.Scope) bool { return s == crdt.Trust || s == crdt.Fleet }
func (v view) Neighbours() []antientropy.Neighbour {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ns[v.id]
}

// own is a replica of ours: the engine on Badger with fsync, and the mesh of
// the product.
type own struct {
	t    testing.TB
	all  *members
	id   crdt.NodeID
	mesh *p2p.Mesh
	e    *replica.Engine
}

func newOwn(t testing.TB, all *members, name string) *own {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	key := ed25519.NewKeyFromSeed(seed[:])
	pub := key.Public().(ed25519.PublicKey)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	o := &own{t: t, all: all, id: crdt.NodeID(p2p.PeerID(pub))}
	all.mu.Lock()
	all.keys[o.id] = pub
	all.mu.Unlock()
	store, err := disk.OpenBadger(disk.Options{Dir: t.TempDir(), Reserve: 1 << 20, Ballast: -1, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if o.mesh, err = p2p.New(p2p.Config{Key: key, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Now: time.Now, Log: log}); err != nil {
		t.Fatal(err)
	}
	o.e, err = replica.New(replica.Config{Node: o.id, Fleet: crdt.FleetID{1}, Auth: crdt.Ref{1}, Sign: func(b []byte) []byte { return ed25519.Sign(key, b) },
		Disk: store, Gate: all, Topo: view{all, o.id}, Mesh: o.mesh, Now: time.Now, Random: rand.NewChaCha8(seed), Log: log, Machine: name})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.e.Run(ctx) }() // ends with ctx
	t.Cleanup(func() {
		cancel()
		<-done
		o.mesh.Close()
		store.Close()
	})
	return o
}

// meet makes two replicas neighbours: o dials p over the line, p waits.
func (o *own) meet(p *own, x *line) {
	o.t.Helper()
	shared := []crdt.Scope{crdt.Trust, crdt.Fleet}
	o.all.mu.Lock()
	o.all.ns[o.id] = append(o.all.ns[o.id], antientropy.Neighbour{Peer: p.id, Shared: shared})
	o.all.ns[p.id] = append(o.all.ns[p.id], antientropy.Neighbour{Peer: o.id, Shared: shared})
	o.all.mu.Unlock()
	p.mesh.Admit([]mesh.Peer{{ID: mesh.PeerID(o.id)}})
	o.mesh.Admit([]mesh.Peer{{ID: mesh.PeerID(p.id), Addrs: []string{x.addr().String()}}})
	for _, y := range []*own{p, o} {
		if err := y.e.TopologyChanged(o.t.Context()); err != nil {
			o.t.Fatal(err)
		}
	}
	o.mesh.Dial(mesh.PeerID(p.id))
}

func (o *own) put(key string, value []byte) error {
	_, err := o.e.Commit(o.t.Context(), replica.Mutation{Scope: crdt.Fleet, Writes: []crdt.Write{{Table: 1, Record: key, Field: "\x01", Value: value}}})
	return err
}

func (o *own) has(key string) (ok bool) {
	o.e.View(func(v replica.View) {
		ok = len(v.Set(crdt.Fleet).Versions(crdt.Cell{Scope: crdt.Fleet, Table: 1, Record: key, Field: "\x01"})) > 0
	})
	return ok
}

// again says that the network is back, as the kernel would.
func (o *own) again() { o.e.NetworkChanged() }

func (o *own) addr() string { return o.mesh.Addrs()[0].String() }
