package b2bua_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/edge/edgetest"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/transaction"
)

const domain = "shops.example"

// A world is a network in memory with nodes and bare SIP endpoints.
type world struct {
	t     *testing.T
	net   *edgetest.Net
	nodes map[site.NodeID]*node
	users []*user
	stops []func()
	hole  map[site.NodeID]bool // streams to it never connect
	off   chan struct{}        // closed by close
	slow  time.Duration        // to connect to another node

	mu      sync.Mutex
	stalled bool // streams keep what is written until they are released
	streams []*stall
}

type user struct {
	route.Entry
	settings route.Settings
	class    route.Class
	at       *node
}

// A node is one ccnode as far as calls go.
type node struct {
	w        *world
	id       site.NodeID
	site     route.Site
	addr     netip.AddrPort
	edge     *edge.Edge
	socket   *lame
	flow     string // by which the newest request outside calls came
	layer    *transaction.Layer
	calls    *b2bua.Server
	media    *anchor
	mu       sync.Mutex
	bindings []site.Binding
	suspects map[site.ID]bool
	notes    []string
	records  []string
	last     b2bua.Record // that ended last
	lines    []route.Line
	feature  func(ctx context.Context, name site.FeatureName, c *b2bua.Call) error
}

func newWorld(t *testing.T) *world {
	return &world{t: t, net: edgetest.New(), nodes: map[site.NodeID]*node{}, hole: map[site.NodeID]bool{}, off: make(chan struct{})}
}

// close switches everything off and checks that nothing is left.
func (w *world) close() {
	w.t.Helper()
	for _, n := range w.nodes {
		n.calls.Close()
		if left := n.calls.Count(); left != 0 {
			w.t.Errorf("%d calls are stuck", left)
		}
		if left := n.media.open(); left != 0 {
			w.t.Errorf("%d media ports are still open", left)
		}
	}
	close(w.off)
	time.Sleep(100 * time.Second) // every transaction ends by itself
	synctest.Wait()
	for _, stop := range w.stops {
		stop()
	}
}

var quiet = edge.Limits{PerSource: 1e6, SourceBurst: 1e6, Total: 1e6, TotalBurst: 1e6}

// node adds a node; code "0001" is site 1.
func (w *world) node(code, letter, addr string, more ...func(*b2bua.Config)) *node {
	w.t.Helper()
	n := &node{w: w, addr: netip.MustParseAddrPort(addr), media: &anchor{}, suspects: map[site.ID]bool{}}
	copy(n.id[:], code+letter)
	n.site = route.Site{Code: code, ExtLen: 3, Emergency: []string{"112"}, Codes: []route.Code{{Digits: "*97", Feature: "mailbox"}}}
	copy(n.site.ID[:], code)
	for _, o := range w.nodes {
		if o.site.Code == code {
			n.site.Nodes = append(n.site.Nodes, o.id)
		}
	}
	n.site.Nodes = append(n.site.Nodes, n.id)
	w.nodes[n.id] = n
	for _, o := range w.nodes {
		if o.site.Code == code {
			o.site.Nodes = n.site.Nodes
		}
	}
	e, err := edge.New(edge.Config{Node: n.id, Peers: peers{w, n}, Limits: quiet, Dial: w.net.Dialer(n.addr.Addr().String())})
	if err != nil {
		w.t.Fatal(err)
	}
	n.socket = &lame{PacketConn: w.net.UDP(addr)}
	e.AddPacket(n.socket)
	e.AddListener(w.net.TCP(addr), site.TCP)
	n.edge = e
	creds, err := digest.NewServer(digest.Config{Store: secrets{w}})
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := b2bua.Config{Edge: e, View: func() route.View { return view{n} }, Location: n, Digest: creds, Anchor: n.media, Node: n.id,
		Reach: n, Records: n, MediaAddr: func() netip.Addr { return n.addr.Addr() },
		Feature: func(ctx context.Context, name site.FeatureName, c *b2bua.Call) error {
			if n.feature == nil {
				return errors.New("nobody serves it")
			}
			return n.feature(ctx, name, c)
		}}
	for _, m := range more {
		m(&cfg)
	}
	if n.calls, err = b2bua.New(cfg); err != nil {
		w.t.Fatal(err)
	}
	n.layer = transaction.New(transaction.Config{Edge: e, OnRequest: func(tx *transaction.ServerTx) {
		if !n.calls.Serve(tx) {
			n.mu.Lock()
			n.flow = tx.Flow().Name
			n.mu.Unlock()
			tx.Respond(tx.Response(405, ""))
		}
	}, OnAck: n.calls.Ack, OnStray: n.calls.Stray})
	n.calls.Use(n.layer)
	w.run(e, n.layer)
	return n
}

func (w *world) run(e *edge.Edge, l *transaction.Layer) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); e.Serve(ctx, l) }()
	w.stops = append(w.stops, func() { cancel(); <-over; l.Wait() })
}

type peers struct {
	w *world
	n *node
}

func (p peers) DialSIP(ctx context.Context, to site.NodeID) (net.Conn, error) {
	if p.w.hole[to] {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	other := p.w.nodes[to]
	if other == nil {
		return nil, errors.New("no such node")
	}
	time.Sleep(p.w.slow)
	x, b := net.Pipe()
	a := &stall{Conn: x, w: p.w}
	p.w.mu.Lock()
	p.w.streams = append(p.w.streams, a)
	p.w.mu.Unlock()
	go other.edge.ServeConn(b, p.n.id)
	return a, nil
}

// A stall is a stream over a link that can be cut and come back.
type stall struct {
	net.Conn
	w    *world
	held [][]byte
}

func (s *stall) Write(b []byte) (int, error) {
	s.w.mu.Lock()
	if s.w.stalled {
		s.held = append(s.held, append([]byte(nil), b...))
		s.w.mu.Unlock()
		return len(b), nil
	}
	s.w.mu.Unlock()
	return s.Conn.Write(b)
}

func (w *world) cut() { w.mu.Lock(); w.stalled = true; w.mu.Unlock() }

// heal lets through what was written meanwhile.
func (w *world) heal() {
	w.mu.Lock()
	w.stalled = false
	streams := w.streams
	w.mu.Unlock()
	for _, s := range streams {
		s.SetWriteDeadline(time.Time{})
		for _, b := range s.held {
			s.Conn.Write(b)
		}
		s.held = nil
	}
}

// user adds somebody with a number at a node; the password is "pw".
func (w *world) user(n *node, ext, name string) *user {
	u := &user{at: n}
	u.User = site.RecordID{byte(len(w.users) + 1)}
	u.AOR = site.AOR{User: n.site.Code + ext, Domain: domain}
	u.Name, u.Home = name, n.site.ID
	u.settings.NoVoicemail = true
	w.users = append(w.users, u)
	return u
}

type secrets struct{ w *world }

func (s secrets) Credentials(name, realm string) (out []sipcore.Credential) {
	for _, u := range s.w.users {
		if u.AOR.User == name && realm == "s"+u.at.site.Code+"."+domain {
			out = append(out, sipcore.Credential{Device: u.User, HA1MD5: digest.HA1(digest.MD5, name, realm, "pw"),
				Lines: []sipcore.Line{{AOR: u.AOR, User: u.User, Name: u.Name}}})
		}
	}
	return
}

type view struct{ n *node }

func (v view) Domain() string  { return domain }
func (v view) Own() route.Site { return v.n.site }
func (v view) SiteByCode(c string) (route.Site, bool) {
	for _, n := range v.n.w.nodes {
		if n.site.Code == c {
			return n.site, true
		}
	}
	return route.Site{}, false
}
func (v view) SiteByID(id site.ID) (route.Site, bool) { return v.SiteByCode(string(id[:4])) }
func (v view) CodeBegins(p string) bool {
	for _, n := range v.n.w.nodes {
		if strings.HasPrefix(n.site.Code, p) {
			return true
		}
	}
	return false
}
func (v view) Local(h string) bool { return h == v.n.addr.Addr().String() }
func (v view) Lookup(number string) (out []route.Entry) {
	for _, u := range v.n.w.users {
		if u.AOR.User == number {
			out = append(out, u.Entry)
		}
	}
	return
}
func (v view) Settings(id site.RecordID) (route.Settings, bool) {
	for _, u := range v.n.w.users {
		if u.User == id && u.at.site.Code == v.n.site.Code {
			return u.settings, true
		}
	}
	return route.Settings{}, false
}
func (v view) Bindings(a site.AOR) int { return len(v.n.Bindings(a)) }
func (v view) Suspect(id site.ID) bool { v.n.mu.Lock(); defer v.n.mu.Unlock(); return v.n.suspects[id] }
func (v view) Lines() []route.Line     { return v.n.lines }
func (v view) Returns(string) bool     { return false }
func (v view) Class(id site.RecordID) route.Class {
	for _, u := range v.n.w.users {
		if u.User == id {
			return u.class
		}
	}
	return ""
}

func (n *node) Bindings(a site.AOR) (out []site.Binding) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, b := range n.bindings {
		if b.AOR == a {
			out = append(out, b)
		}
	}
	return
}
func (n *node) Bind(_ context.Context, b site.Binding) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bindings = append(n.bindings, b)
	return nil
}
func (n *node) Unbind(context.Context, string) error { return nil }
func (n *node) Suspect(site.NodeID) bool             { return false }
func (n *node) Note(id site.NodeID, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notes = append(n.notes, fmt.Sprintf("%s %v", id[:5], err == nil))
}
func (n *node) Start(r b2bua.Record) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records = append(n.records, "start "+r.From.AOR.User+" "+r.To.AOR.User+" "+r.Answered)
}
func (n *node) End(r b2bua.Record) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records = append(n.records, "end "+r.From.AOR.User+" "+r.To.AOR.User+" "+r.Cause.String())
	n.last = r
}

// anchor opens ports that only keep books.
type anchor struct {
	mu    sync.Mutex
	n     int
	ports map[*port]bool
	full  bool

	jammed bool // the next Bridge fails
	narrow bool // the next answer to who speaks only wide fails
}

type port struct {
	a       *anchor
	id      int
	version int
	remote  string
	bridged *port
	hears   string
	last    time.Time
}

func (a *anchor) NewPort(sipcore.PortParams) (sipcore.Port, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.full {
		return nil, site.NodeFull
	}
	a.n++
	p := &port{a: a, id: a.n, last: time.Now()}
	if a.ports == nil {
		a.ports = map[*port]bool{}
	}
	a.ports[p] = true
	return p, nil
}

func (a *anchor) Bridge(x, y sipcore.Port) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.jammed {
		a.jammed = false
		return errors.New("jammed")
	}
	if old := x.(*port).bridged; old != nil {
		old.bridged, x.(*port).bridged = nil, nil
	}
	if y == nil {
		return nil
	}
	if old := y.(*port).bridged; old != nil {
		old.bridged = nil
	}
	x.(*port).bridged = y.(*port)
	y.(*port).bridged = x.(*port)
	return nil
}

func (a *anchor) open() int { a.mu.Lock(); defer a.mu.Unlock(); return len(a.ports) }

// sound notes what a port plays.
func (a *anchor) sound(ctx context.Context, p sipcore.Port, s b2bua.Sound) error {
	set := func(v string) {
		a.mu.Lock()
		defer a.mu.Unlock()
		p.(*port).hears = v
	}
	a.mu.Lock()
	strange := strings.Contains(p.(*port).remote, "wide")
	a.mu.Unlock()
	if strange {
		return site.NotAcceptable
	}
	set(s.String())
	<-ctx.Done()
	set("")
	return context.Cause(ctx)
}

// talks says what an open port hears: who describes itself how, or a sound.
func (a *anchor) hears(remote string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for p := range a.ports {
		switch {
		case p.remote != remote:
		case p.hears != "":
			return p.hears
		case p.bridged != nil && p.bridged.bridged == p:
			return p.bridged.remote
		default:
			return "nothing"
		}
	}
	return "gone"
}

// find returns the open port whose other end described itself as remote.
func (a *anchor) find(remote string) *port {
	a.mu.Lock()
	defer a.mu.Unlock()
	for p := range a.ports {
		if p.remote == remote {
			return p
		}
	}
	return nil
}

func (p *port) SetRemote(b []byte) error {
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	if !strings.HasPrefix(string(b), "v=0 ") {
		return fmt.Errorf("not a description: %w", site.BadRequest)
	}
	p.remote = string(b)
	return nil
}

func (p *port) Local(template []byte) ([]byte, error) {
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	p.version++
	s := fmt.Sprintf("v=0 port%d.%d", p.id, p.version)
	if strings.Contains(string(template), "hold") {
		s += " hold"
	}
	if strings.Contains(p.remote, "only wide") && strings.Contains(string(template), "port") && p.a.narrow {
		p.a.narrow = false
		return nil, site.NotAcceptable
	}
	return []byte(s), nil
}

func (p *port) Close() error {
	p.a.mu.Lock()
	defer p.a.mu.Unlock()
	if !p.a.ports[p] {
		return errors.New("closed twice")
	}
	delete(p.a.ports, p)
	return nil
}

func (p *port) LastPacket() time.Time { p.a.mu.Lock(); defer p.a.mu.Unlock(); return p.last }
func (p *port) Held() bool            { return false }

var _ = sip.INVITE
