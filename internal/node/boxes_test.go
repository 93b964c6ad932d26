package node

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/config"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/mdns"
	"carrierclass.net/ccnode/mesh/p2p"
)

// patienceOfTests is how long anything may take before a test gives up.
const patienceOfTests = 20 * time.Second

// box is a folder, an address of the loopback network, and the node that runs
// on them now, if any: TCP, Badger and UDP are the real ones.
type box struct {
	t     testing.TB
	cfg   config.Config
	ahead atomic.Int64 // of the real clock, in nanoseconds
	quota crdt.Quota   // of what one other may bring; zero: the default

	n      *Node
	back   *backend
	log    *lines
	browse func(context.Context, []netip.Addr, func(mdns.Info)) error
	stop   context.CancelFunc
	ended  chan error
	told   chan string
}

// lines keeps what a node logged, to show it when its test fails.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// newBox has an empty folder and an address of its own.
func newBox(t testing.TB, name string) *box {
	t.Helper()
	dir, err := os.MkdirTemp("", "cc-") // short: a socket's path holds 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &box{t: t, log: &lines{}}
	ip := netip.AddrFrom4([4]byte{127, byte(120 + rand.IntN(80)), byte(rand.IntN(256)), byte(1 + rand.IntN(250))})
	b.cfg = config.Config{Data: filepath.Join(dir, "d"), Name: name, Fleet: "shops", Domain: "shops.example", Listen: []netip.Addr{ip},
		SIPPort: 5060, MeshPort: 5870, // the address is ours alone, and nobody draws these ports
		APIListen: "off", NoMulticast: true}
	if err := b.cfg.Defaults(); err != nil {
		t.Fatal(err)
	}
	if err := b.cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.down()
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, b.log)
		}
	})
	return b
}

// is gives the box, while it belongs to no fleet, a key whose id is as wanted.
func (b *box) is(wanted func(site.NodeID) bool) {
	b.t.Helper()
	for {
		id, err := trust.NewIdentity(crand.Reader)
		if err != nil {
			b.t.Fatal(err)
		}
		if !wanted(id.Node()) {
			continue
		}
		b.key(id.Seed())
		return
	}
}

func (b *box) key(seed []byte) {
	b.t.Helper()
	if err := os.MkdirAll(b.cfg.Data, 0o700); err != nil {
		b.t.Fatal(err)
	}
	if err := writeFile(filepath.Join(b.cfg.Data, keyFile), seed); err != nil {
		b.t.Fatal(err)
	}
}

// start runs the node as "ccnode up" does, and does not wait for it.
func (b *box) start(join string) {
	b.t.Helper()
	if b.ended != nil {
		b.t.Fatalf("%s runs already", b.cfg.Name)
	}
	cfg := b.cfg
	cfg.Join = join
	told := make(chan string, 64)
	b.n = newNode(Options{Config: cfg, Version: "test", Quota: b.quota, Log: slog.New(slog.NewTextHandler(b.log, nil)),
		Now: func() time.Time { return time.Now().Add(time.Duration(b.ahead.Load())) },
		Tell: func(lines ...string) {
			for _, l := range lines {
				told <- l
			}
		}})
	if b.browse != nil {
		b.n.browse = b.browse
	}
	b.back = &backend{b.n}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	b.stop, b.ended, b.told = stop, ended, told
	go func(n *Node) { ended <- n.serve(ctx) }(b.n) // ends with stop
}

// hear waits until the node says something to the person in front of it that
// contains what, and returns it.
func (b *box) hear(what string) string {
	b.t.Helper()
	wait := time.After(patienceOfTests)
	for {
		select {
		case l := <-b.told:
			if strings.Contains(l, what) {
				return l
			}
		case err := <-b.ended:
			b.ended = nil
			b.t.Fatalf("%s ended instead of saying %q: %v", b.cfg.Name, what, err)
		case <-wait:
			b.t.Fatalf("%s did not say %q in %v", b.cfg.Name, what, patienceOfTests)
		}
	}
}

// up starts the node and waits until it serves phones.
func (b *box) up(join string) *box {
	b.t.Helper()
	b.start(join)
	b.hear("ccnode: ")
	return b
}

// refused starts the node, which must end by itself, and returns why it did.
func (b *box) refused(join string) string {
	b.t.Helper()
	b.start(join)
	return b.end()
}

// end waits until the node ends by itself.
func (b *box) end() string {
	b.t.Helper()
	select {
	case err := <-b.ended:
		b.ended = nil
		b.stop()
		if err == nil {
			b.t.Fatalf("%s ended without saying why", b.cfg.Name)
		}
		return err.Error()
	case <-time.After(patienceOfTests):
		b.t.Fatalf("%s did not end in %v", b.cfg.Name, patienceOfTests)
		return ""
	}
}

// down stops the node, if it runs, and waits until it has.
func (b *box) down() {
	b.t.Helper()
	if b.ended == nil {
		return
	}
	b.stop()
	select {
	case err := <-b.ended:
		if err != nil {
			b.t.Errorf("%s ended with: %v", b.cfg.Name, err)
		}
	case <-time.After(patienceOfTests):
		b.t.Errorf("%s did not stop in %v", b.cfg.Name, patienceOfTests)
	}
	b.ended = nil
}

func (b *box) peer() mesh.PeerID { return mesh.PeerID(b.n.id.Node()) }

func (b *box) meshAddr() string { return p2p.JoinHostPort(b.cfg.Listen[0], b.cfg.MeshPort) }

// invite makes a token for a box of the site, or of our own.
func (b *box) invite(site string) string { return b.inviteFor(site, "").Token }

func (b *box) inviteFor(site, life string) api.Invite {
	b.t.Helper()
	i, err := b.back.CreateInvite(b.t.Context(), "test", api.NewInvite{Site: site, Expires: life})
	if err != nil {
		b.t.Fatalf("%s: make an invite: %v", b.cfg.Name, err)
	}
	return i
}

// user makes one, whose password is known.
func (b *box) user(number, name string) api.User {
	b.t.Helper()
	u, err := b.back.CreateUser(b.t.Context(), "test", api.NewUser{Number: number, Name: name, Password: passwordOf(name)})
	if err != nil {
		b.t.Fatalf("%s: make user %s: %v", b.cfg.Name, name, err)
	}
	return u
}

func passwordOf(name string) string { return "Secret-of-" + name + "-8f3a" }

// knows says whether the user called name is in the directory of this node.
func (b *box) knows(name string) bool {
	us, _, err := b.back.Users(context.Background(), api.UserSearch{})
	if err != nil {
		return false
	}
	for _, u := range us {
		if u.Name == name {
			return true
		}
	}
	return false
}

// until waits for what the network and the disk bring about.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	wait := time.After(patienceOfTests)
	for !ok() {
		select {
		case <-tick.C:
		case <-wait:
			t.Fatalf("not in %v: %s", patienceOfTests, what)
		}
	}
}

// same says whether all nodes hold the same changes of what all of them hold.
func same(bs ...*box) bool {
	first := bs[0].n.state.Fingerprints()
	for _, b := range bs[1:] {
		for scope, f := range b.n.state.Fingerprints() {
			if g, ok := first[scope]; ok && g != f {
				return false
			}
		}
	}
	return true
}

// contains says whether err says all of the words.
func contains(text string, words ...string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}
