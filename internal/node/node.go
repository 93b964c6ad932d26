// Package node builds every room of the house, opens them in order and closes
// them in reverse. It is the only place where rooms that do not know each other
// meet.
package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/blob"
	"carrierclass.net/ccnode/internal/config"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/pair"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/mesh/mdns"
	"carrierclass.net/ccnode/mesh/overlay"
	"carrierclass.net/ccnode/mesh/p2p"
	"carrierclass.net/ccnode/sipcore/digest"
)

// Options of a node. Now and Rand default to the system's.
type Options struct {
	Config  config.Config
	Version string
	Log     *slog.Logger
	Tell    func(lines ...string) // speaks to the person who started the node
	Now     func() time.Time
	Rand    io.Reader
	World   *World // nil: the real one
	// Quota bounds what one other box can make this one keep. Zero: the default.
	Quota crdt.Quota
}

// Node is one running box.
type Node struct {
	opt    Options
	cfg    config.Config
	log    *slog.Logger
	now    func() time.Time
	rand   io.Reader
	id     *trust.Identity
	member *member
	start  time.Time
	odd    []string // what was found wrong at the start, for people
	refill bool     // the store was lost; the others fill it
	before []string // where phones registered before this start, as our own record said; nil: no other place

	memberMu  sync.Mutex // guards what changes in member: Sponsor, Filled, Chain
	admitting sync.Mutex // held while the mesh is told who belongs to the fleet

	planning sync.Mutex       // guards what follows
	plan     *overlay.Plan    // the tree of these members
	planned  []overlay.Member // what plan was made of
	planAt   time.Time        // when it was made

	folder    *disk.Folder
	store     disk.Store
	blobs     *blob.Store
	book      *trust.Book
	mesh      Wire
	engine    *replica.Engine
	state     *state.State
	pair      *pair.Table
	pairLines *pair.Lines
	pairLamps *pair.Lamps
	reach     *reach
	lost      lost          // whom the exchange goes round
	standsOf  *overlay.Plan // guarded by planning: of which stands knows some
	stands    map[site.ID]site.ID
	members   chan struct{} // they or their addresses have changed
	rewire    chan struct{} // lost, the members or the keepers have changed
	kept      keptSites     // the state of other sites
	guests    *digest.Guard // wrong passwords that other sites tell us of
	sessions  *sessions     // of administrators
	far       farUsers      // what was seen of other sites' users
	api       atomic.Pointer[http.Handler]
	calls     *telephony
	events    *teller
	phones    *phones // nil in a world
	fetch     *replica.Blobs
	keeper    *keeper // nil: this box can be dialled
	arrivals  arrivals
	lan       neighbours
	certFP    string
	web       *web

	announce mdns.Announcer
	browse   func(context.Context, []netip.Addr, func(mdns.Info)) error // looks for members on the LAN
	wg       sync.WaitGroup

	linesStir chan struct{} // records were changed that may concern the trunks

	linesMu       sync.Mutex // guards what follows
	lastEmergency *api.Emergency

	nightTurned chan struct{} // by telephone

	pairFound chan struct{} // the other node of the site can be told something again

	pairMu   sync.Mutex
	pairNode site.NodeID // with whom bindings are shared; zero alone

	bytesAt time.Time // since when the mesh counts
}

// Run starts the node and serves until ctx ends. What it was told by a person
// at founding or joining is printed through Options.Tell.
func Run(ctx context.Context, opt Options) error { return newNode(opt).serve(ctx) }

func newNode(opt Options) *Node {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Rand == nil {
		opt.Rand = rand.Reader
	}
	n := &Node{opt: opt, cfg: opt.Config, log: opt.Log, now: opt.Now, rand: &lockedReader{r: opt.Rand}, start: opt.Now(), bytesAt: opt.Now(),
		linesStir: make(chan struct{}, 1), pairFound: make(chan struct{}, 1), nightTurned: make(chan struct{}, 1)}
	n.members = make(chan struct{}, 1)
	n.rewire, n.kept.sites = make(chan struct{}, 1), map[site.ID]*state.State{}
	n.kept.over, n.kept.asked = map[site.ID]time.Time{}, map[site.ID]bool{}
	n.reach, n.guests, n.sessions = newReach(n.now), digest.NewGuard(n.now), newSessions()
	n.browse = mdns.Browse
	return n
}

func (n *Node) serve(told context.Context) error {
	ctx, cancel := context.WithCancelCause(told)
	defer cancel(nil)
	err := n.run(ctx, cancel)
	if told.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // it was told to stop while it started
	}
	return advise(err, n.cfg.Data)
}

// advise says what to do about what the operating system refused.
func advise(err error, data string) error {
	switch {
	case err == nil || errors.Is(err, disk.ErrNoSpace):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: free some space on the disk of %s, then start again", err, data)
	case errors.Is(err, syscall.EIO):
		return fmt.Errorf("%w: the disk of %s has errors: replace it; what other boxes hold comes back from them", err, data)
	}
	return err
}

// closer undoes the opening of rooms in reverse.
type closer []func()

func (c *closer) add(fn func()) { *c = append(*c, fn) }
func (c closer) close() {
	for i := len(c) - 1; i >= 0; i-- {
		c[i]()
	}
}

func (n *Node) run(ctx context.Context, cancel context.CancelCauseFunc) (err error) {
	var rooms closer
	defer func() {
		cancel(err) // the rooms' goroutines end, whatever the reason
		rooms.close()
	}()

	if n.folder, err = disk.LockFolder(n.cfg.Data); err != nil {
		return err
	}
	rooms.add(func() { n.folder.Close() })
	if n.id, err = identity(n.cfg.Data, n.rand); err != nil {
		return err
	}
	var lost error // what is wrong with the membership's file
	n.member, lost = readMember(n.cfg.Data)
	var listeners []net.Listener
	if n.opt.World == nil {
		if listeners, n.certFP, err = listenWeb(n.cfg, n.rand, n.now()); err != nil {
			return err
		}
	}
	n.web = serveWeb(listeners, n.log)
	rooms.add(n.web.close)

	if n.store, err = n.openStore(); err != nil {
		return err
	}
	rooms.add(func() {
		if err := n.store.Close(); err != nil {
			n.log.Error("Closing the store failed", "err", err)
		}
	})

	if n.member == nil {
		if err := n.remembered(lost); err != nil {
			return err
		}
	}
	if err := n.openMesh(ctx, &rooms); err != nil {
		return err
	}
	fresh := n.member == nil
	if fresh {
		switch n.cfg.Join {
		case "":
			err = n.found()
		case "lan":
			err = n.joinLAN(ctx)
		default:
			err = n.joinToken(ctx, n.cfg.Join)
		}
		if err != nil {
			return err
		}
	} else if n.cfg.Join != "" {
		n.opt.Tell("this box is a member already; it goes on as " + n.member.Letter + ".s" + n.member.Code + "." + n.member.Domain)
	}
	if err := n.openState(ctx, cancel, &rooms); err != nil {
		return err
	}
	if err := n.ready(ctx, fresh); err != nil {
		return err
	}
	if err := n.openTelephony(ctx, cancel, &rooms); err != nil {
		return err
	}

	n.openPhones(ctx, &rooms)

	token, err := adminToken(n.cfg.Data, n.rand)
	if err != nil {
		return err
	}
	door := api.Handler(api.Config{Backend: &backend{n}, Build: n.opt.Version, Token: token, Log: n.log.With("room", "api")})
	n.api.Store(&door)
	n.web.open(door)
	rooms.add(n.web.close)        // nobody asks rooms that are closing
	rooms.add(n.events.hub.Close) // first of all: who follows is told the end
	n.welcome(fresh)
	if n.opt.World != nil {
		n.opt.World.Ready(&backend{n})
	}
	<-ctx.Done()
	n.drain()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

func (n *Node) openStore() (disk.Store, error) {
	if w := n.opt.World; w != nil {
		return w.Store()
	}
	return disk.OpenBadger(disk.Options{Dir: filepath.Join(n.cfg.Data, "db"), Reserve: n.cfg.ReserveBytes, SetAside: true, Now: n.now, Log: n.log.With("room", "disk")})
}

// openMesh binds the port for other nodes.
func (n *Node) openMesh(ctx context.Context, rooms *closer) (err error) {
	if w := n.opt.World; w != nil {
		if n.mesh, err = w.Mesh(mesh.PeerID(n.id.Node())); err != nil {
			return err
		}
		rooms.add(func() { n.mesh.Close() })
		return nil
	}
	var listen []netip.AddrPort
	for _, ip := range n.cfg.Listen {
		listen = append(listen, netip.AddrPortFrom(ip, uint16(n.cfg.MeshPort)))
	}
	var from netip.Addr
	if len(n.cfg.Listen) == 1 && n.cfg.Listen[0].IsValid() && !n.cfg.Listen[0].IsUnspecified() {
		from = n.cfg.Listen[0]
	}
	n.mesh, err = p2p.New(p2p.Config{Key: n.id.Private(), Listen: listen, DialFrom: from, Now: n.now, Log: n.log.With("room", "mesh"),
		Relay: n.mayRelay})
	if err != nil {
		return inUse(err, "mesh", fmt.Sprint(listen), "--mesh-port or --listen")
	}
	rooms.add(func() { n.mesh.Close() })
	return nil
}

// mayRelay: between two members, if our grant says that we carry for others.
func (n *Node) mayRelay(from, to mesh.PeerID) bool {
	if n.book == nil {
		return false
	}
	own, err := n.book.Member(n.id.Node())
	if err != nil || own.Rights&trust.Relay == 0 {
		return false
	}
	_, err1 := n.book.Member(site.NodeID(from))
	_, err2 := n.book.Member(site.NodeID(to))
	return err1 == nil && err2 == nil
}

// recordingRate is how many bytes of recordings are sent to a box in a second at
// most; 0 is no limit, as over the LAN to a box of the own site.
func (n *Node) recordingRate(to replica.Peer) int {
	if g := n.book.Ever(site.NodeID(to)); g != nil && g.Site == n.member.Site {
		return 0
	}
	return n.cfg.RecordingsKbit * 1000 / 8
}

// openState reads the state from disk and starts the exchange.
func (n *Node) openState(ctx context.Context, cancel context.CancelCauseFunc, rooms *closer) (err error) {
	fleet, chain, err := n.chain()
	if err != nil {
		return err
	}
	n.book = trust.NewBook(chain.Founding)
	n.book.Failed = func(table uint16, rec string, p any) {
		n.log.Error("A record of trust made this program fail, it is left out", "table", table, "record", fmt.Sprintf("%x", rec), "panic", p, "stack", string(debug.Stack()))
	}
	if err := n.book.AddChain(chain); err != nil {
		return fmt.Errorf("read the membership: %w", err)
	}
	if n.blobs, err = blob.Open(blob.Options{Dir: filepath.Join(n.cfg.Data, "blobs"), Reserve: n.cfg.ReserveBytes, Free: disk.FreeBytes, Random: n.rand, Now: n.now, Log: n.log.With("room", "blob")}); err != nil {
		return err
	}
	if n.fetch, err = replica.NewBlobs(replica.BlobConfig{Store: n.blobs, Disk: n.store, Mesh: n.mesh, Now: n.now, Log: n.log.With("room", "blobs"),
		Wanted: n.wanted, Arrived: n.arrivals.here, Budget: n.recordingRate}); err != nil {
		return err
	}
	n.engine, err = replica.New(replica.Config{
		Node: crdt.NodeID(n.id.Node()), Fleet: fleet, Auth: chain.Last().ID(), Sign: n.id.Sign,
		Disk: n.store, Gate: gate{n.book}, Topo: topology{n}, Mesh: n.mesh,
		Now: n.now, Random: n.rand, Log: n.log.With("room", "replica"), Synced: n.synced, Wall: n.wall(), Machine: n.machine(), Blobs: n.fetch, LinkChanged: n.linkChanged,
		Vouches:    trust.Vouches,
		TrustMoved: func(v replica.View, cells []crdt.Cell) { n.book.Moved(v.Set(crdt.Trust), cells) },
		Equivocal:  n.equivocal,
		Offered:    n.offered,
		Remember:   state.Remembered,
		Program:    n.opt.Version,
		Quota:      n.opt.Quota, Removal: n.removal,
		First: n.neededFirst,
	})
	if err != nil {
		return err
	}
	n.engine.View(func(v replica.View) { n.book.Sync(v.Set(crdt.Trust)) })
	n.recall(fleet)
	ectx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	w := writer{n.engine}
	n.state, err = state.Open(state.Config{Engine: w, Book: n.book, Identity: n.id, Site: n.member.Site, Now: n.now,
		Random: n.rand, Synced: n.synced, Log: n.log.With("room", "state"), History: w.history, HistorySince: n.engine.HistorySince, Taken: n.taken})
	if err != nil {
		stop()
		return err
	}
	n.reviewKept()
	rooms.add(n.kept.close)
	go func() { // ends with stop, below; what it calls finds n.state
		defer close(done)
		if err := n.engine.Run(ectx); err != nil && ectx.Err() == nil {
			cancel(fmt.Errorf("replica: %w", err))
		}
	}()
	rooms.add(func() { stop(); <-done })
	rooms.add(n.state.Close)
	round := make(chan struct{})
	go func() { defer close(round); n.goRound(ectx) }() // ends with stop
	rooms.add(func() { stop(); <-round })
	n.events = newTeller(n)
	go n.events.run(ectx) // ends with stop
	rooms.add(func() { stop(); <-n.events.done })
	rooms.add(n.engine.Watch(n.events.merged))
	// Members and their addresses move the mesh and the exchange; messages name
	// recordings that are wanted here.
	own := string(n.member.Site[:])
	cancelWatch := n.engine.Watch(func(scope crdt.Scope, cells []crdt.Cell) {
		for _, c := range cells {
			if c.Table == trust.TableKeeper && scope != crdt.Trust && scope != crdt.Fleet || c.Table == state.TableSite && scope == crdt.Fleet && c.Record == own && !state.ThinLine(c) {
				n.stirExchange()
				continue
			}
			if scope == crdt.Trust || scope == crdt.Fleet && (c.Table == state.TableNode || state.ThinLine(c)) {
				select {
				case n.members <- struct{}{}:
				default:
				}
				return
			}
			switch c.Table {
			case state.TableTrunk, state.TableInbound, state.TableUser:
				n.linesChanged()
			}
			if c.Table == state.TableMessage || c.Table == state.TableUser || c.Table == state.TableMenu {
				n.fetch.Poke()
				return
			}
		}
	})
	rooms.add(cancelWatch)
	following := make(chan struct{})
	go func() { defer close(following); n.follow(ectx) }() // ends with stop
	rooms.add(func() { stop(); <-following })
	n.mesh.HandleStrangers(joinProtocol, n.serveJoin)
	n.mesh.Handle(apiProtocol, n.serveRemote)
	n.mesh.Handle(elsewhereProtocol, n.serveElsewhere)
	n.mesh.Handle(visitProtocol, n.serveVisit)
	n.mesh.Handle(keepProtocol, n.serveKeep)
	n.moved(ctx)
	n.watchNetwork(ctx, rooms)
	return nil
}

// linkChanged takes the exchange's experience as evidence for calls: a node that
// just came is no longer suspect, one that did not answer is.
func (n *Node) linkChanged(ev mesh.Event) {
	switch {
	case ev.Kind == mesh.LinkUp:
		n.reach.Note(site.NodeID(ev.Peer), nil)
	case ev.Kind == mesh.LinkDown && errors.Is(ev.Err, mesh.ErrSilent):
		n.reach.Note(site.NodeID(ev.Peer), ev.Err)
	}
	n.lost.link(ev.Peer, ev.Kind == mesh.LinkUp)
	if n.lost.note(ev.Peer, ev.Kind == mesh.LinkDown && ev.Err != nil) || n.state != nil && len(n.addrsOf(site.NodeID(ev.Peer))) == 0 {
		n.stirExchange()
	}
}

// chain reads our own proof of membership.
func (n *Node) chain() (crdt.FleetID, *trust.Chain, error) {
	f, err := n.member.fleetID()
	if err != nil {
		return f, nil, err
	}
	c, err := trust.VerifyChain(n.member.Chain, f, n.id.Public())
	if err != nil {
		return f, nil, fmt.Errorf("read the membership: %w; join again with a new invite", err)
	}
	return f, c, nil
}

// watchNetwork tells the engine and the neighbours when addresses came or went.
func (n *Node) watchNetwork(ctx context.Context, rooms *closer) {
	wctx, stop := context.WithCancel(ctx)
	rooms.add(n.announce.Close) // when nobody announces any more
	rooms.add(func() { stop(); n.wg.Wait() })
	if n.opt.World != nil {
		return // its addresses do not change
	}
	n.wg.Go(func() {
		err := p2p.WatchNetwork(wctx, func() {
			n.engine.NetworkChanged()
			n.announceLAN()
		})
		if err != nil && wctx.Err() == nil {
			n.log.Warn("Changes of the network will not be noticed at once", "err", err)
		}
	})
}

func (n *Node) announceLAN() {
	if n.cfg.NoMulticast || n.member == nil {
		return
	}
	var key [32]byte
	copy(key[:], n.id.Public())
	err := n.announce.Update(mdns.Info{Node: n.id.Node().String(), Key: key, Fleet: n.member.Domain, Site: n.member.Code,
		Name: n.member.SiteName, Port: n.cfg.MeshPort, Addrs: n.cfg.Listen})
	if err != nil {
		n.log.Debug("Not announced on the LAN", "err", err)
	}
}

// meshAddrs are where other nodes find this one. If a router forwards to it,
// other sites use the router's address, and only the pair our own.
func (n *Node) meshAddrs() (out []string) {
	mark := ""
	if n.cfg.Advertise != "" {
		out = append(out, hostPort(n.cfg.Advertise, n.cfg.MeshPort))
		mark = lanPrefix
	}
	if n.cfg.AdvertiseOnly {
		return out
	}
	if n.cfg.BehindNAT {
		mark = lanPrefix
	}
	for _, ip := range n.cfg.Listen {
		if len(out) < 4 {
			out = append(out, mark+p2p.JoinHostPort(ip, n.cfg.MeshPort))
		}
	}
	return out
}

func hostPort(host string, port int) string {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host + ":" + strconv.Itoa(port)
	}
	return p2p.JoinHostPort(ip, port)
}

// lockedReader lets many goroutines draw from one source.
type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedReader) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(b)
}
