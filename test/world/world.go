// Package world runs whole fleets in one process, in virtual time, and tells
// stories with them: scripts in testdata, one for each promise of the product.
//
// Every box is internal/node with all its rooms: engine, state, trust, blobs,
// signalling, media, voicemail, the pair. Three things stand in for the real
// ones, at the seams made for it (node.World): the mesh is mesh/memnet, SIP and
// RTP travel over sipcore/edge/edgetest, the store is disktest's medium.
// Recordings and keys are files, as always. The telephones are phonetest's. Time
// is testing/synctest's: a day of silence passes in a second.
//
// Not in the stories therefore, and proven by test/lab and test/box instead:
// TCP, Noise, NAT and mDNS; Badger and the flash below it; processes and their
// signals; the interface's HTTP.
package world

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/memnet"
	"carrierclass.net/ccnode/sipcore/edge/edgetest"
)

// began is when stories begin: a bubble's clock starts in 2000, before any
// grant could have been given.
var began = time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)

// wanDelay is the way from one box to another.
const wanDelay = 20 * time.Millisecond

// A World is a fleet, its telephones and the networks between them. It lives in
// a bubble of testing/synctest and is used by one goroutine.
type World struct {
	called map[string]string // names that away gave, and whose they are

	// set by New, then constant
	name string
	dir  string
	wan  *memnet.Network
	air  *edgetest.Net
	logs *logs

	// owned by the story
	sites   []*place
	boxes   []*box
	phones  map[string]*phone
	tokens  map[string]string // by the name of the box they are for
	marks   traffic           // at the last "mark"
	plugged int               // telephones so far
	figures []string          // what the story measured, for go test -v
	quota   crdt.Quota        // of the boxes that are started next; zero: the default

	mu    sync.Mutex // guards what the networks ask, below; nothing is called while it is held
	group map[string]int
	dead  map[string]bool
	loose map[[2]netip.Addr]bool // a telephone, and a box it has no cable to

	listeners map[string]*listener       // by box: who reads its events
	hosts     map[netip.Addr]string      // boxes by address
	peers     map[mesh.PeerID]string     // boxes by identity
	heard     map[netip.AddrPort][]reply // SIP responses that arrived at a telephone
}

// A place is a site: one box, or a pair.
type place struct {
	name string
	n    byte // second byte of its addresses
	code string
	next int // extension given out next
}

// New makes an empty world; what it keeps on disk is below dir.
func New(name, dir string) *World {
	time.Sleep(time.Until(began))
	w := &World{name: name, dir: dir, wan: memnet.New(), air: edgetest.New(), logs: &logs{}, phones: map[string]*phone{}, tokens: map[string]string{},
		dead: map[string]bool{}, hosts: map[netip.Addr]string{}, peers: map[mesh.PeerID]string{}, heard: map[netip.AddrPort][]reply{}}
	w.wan.Delay(wanDelay)
	w.wan.Cut(w.cutPeers)
	w.air.Fate = w.fate
	w.air.Tap = w.listen
	return w
}

// Close switches everything off and returns when nothing runs any more.
func (w *World) Close() {
	for _, p := range w.phones {
		p.off()
	}
	for _, b := range w.boxes {
		b.stop()
	}
	for _, b := range w.boxes {
		b.wait()
	}
	for _, l := range w.listeners {
		l.cancel()
		<-l.done
	}
	synctest.Wait()
}

// Log is what the boxes said, for people who look for a fault.
func (w *World) Log() string { return w.logs.String() }

// rand is a source of its own for each name, the same in every run.
func (w *World) rand(name string) *rand.ChaCha8 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s", w.name, name)
	var seed [32]byte
	copy(seed[:], h.Sum(nil))
	return rand.NewChaCha8(seed)
}

// apart says whether a partition or a death is between two boxes.
func (w *World) apart(a, b string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead[a] || w.dead[b] || w.group != nil && w.group[a] != w.group[b]
}

func (w *World) cutPeers(a, b mesh.PeerID) bool {
	w.mu.Lock()
	x, y := w.peers[a], w.peers[b]
	w.mu.Unlock()
	return w.apart(x, y)
}

// fate of a datagram: a telephone reaches the boxes of its site, boxes reach
// each other unless the network is cut.
func (w *World) fate(from, to netip.AddrPort, _ []byte) (lost bool, after time.Duration) {
	w.mu.Lock()
	x, y := w.hosts[from.Addr()], w.hosts[to.Addr()]
	dead := w.dead[x] || w.dead[y] || w.loose[[2]netip.Addr{from.Addr(), to.Addr()}] || w.loose[[2]netip.Addr{to.Addr(), from.Addr()}]
	w.mu.Unlock()
	switch {
	case dead:
		return true, 0
	case x == "" || y == "":
		return from.Addr().As4()[1] != to.Addr().As4()[1], time.Millisecond
	}
	return w.apart(x, y), wanDelay
}

// partition splits the network into groups of sites or boxes, "A B-a" and so on.
func (w *World) partition(groups []string) error {
	in := map[string]int{}
	for i, g := range groups {
		for _, name := range strings.Fields(g) {
			bs, err := w.named(name)
			if err != nil {
				return err
			}
			for _, b := range bs {
				in[b.name] = i + 1
			}
		}
	}
	for _, b := range w.boxes {
		if in[b.name] == 0 && b.life > 0 {
			return fmt.Errorf("box %s is on no side of the partition", b.name)
		}
	}
	w.mu.Lock()
	w.group = in
	w.mu.Unlock()
	return nil
}

func (w *World) heal() {
	w.mu.Lock()
	w.group = nil
	w.mu.Unlock()
}

// named finds boxes: all of a site, or one.
func (w *World) named(name string) (out []*box, err error) {
	for _, b := range w.boxes {
		if b.name == name || b.site.name == name {
			out = append(out, b)
		}
	}
	if out == nil {
		return nil, fmt.Errorf("there is no box or site %s", name)
	}
	return out, nil
}

// asked is the box somebody at a site, or at a box, would ask.
func (w *World) asked(name string) (*box, error) {
	bs, err := w.named(name)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(bs, func(b *box) bool { return b.api != nil })
	if i < 0 {
		return nil, fmt.Errorf("no box of %s is on", name)
	}
	return bs[i], nil
}

func (w *World) path(name string) string { return filepath.Join(w.dir, name) }

// traffic is what the mesh has carried, in bytes.
type traffic struct{ wan, lan int64 }

// carried counts what all boxes sent since the beginning: between sites, and
// between the boxes of a pair.
func (w *World) carried() (t traffic) {
	for _, b := range w.boxes {
		for _, wire := range b.wires {
			for _, o := range w.boxes {
				n := wire.Stats(o.id).Out
				if o.site == b.site {
					t.lan += n
				} else {
					t.wan += n
				}
			}
		}
	}
	return t
}
