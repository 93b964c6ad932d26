// Package stack puts the rooms of signalling together for one node: it opens
// and closes them in order. What they need from the house comes in through
// Config; SIP does not leave this side of the door.
package stack

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/blf"
	"carrierclass.net/ccnode/sipcore/core"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/mwi"
	"carrierclass.net/ccnode/sipcore/registrar"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/subscribe"
	"carrierclass.net/ccnode/sipcore/transaction"
	"carrierclass.net/ccnode/sipcore/trunk"
)

// Config is everything signalling needs of the house. All of it is required
// unless said otherwise.
type Config struct {
	Node   site.NodeID
	Listen []netip.AddrPort       // UDP and TCP each
	Bind   func(*edge.Edge) error // gives the edge its sockets; nil: the system's, at Listen

	View        route.View // answers as of now
	Location    sipcore.LocationService
	Known       func(netip.Addr) bool // addresses phones are registered from, at either node; nil: none
	Credentials sipcore.Credentials
	NonceKey    [32]byte      // the same at both nodes of a pair
	NonceShared time.Duration // how long a nonce of the other node is taken here
	Anchor      sipcore.Anchor
	Peers       sipcore.Peers
	Reach       sipcore.Reach
	Records     b2bua.Records
	MediaAddr   func() netip.Addr
	Summaries   mwi.Summaries
	House       House         // nil: there are no lines to the outside
	Resolver    edge.Resolver // of providers' names; nil: addresses only

	// Feature runs a feature for a call; see b2bua.Config.
	Feature func(ctx context.Context, name site.FeatureName, c *b2bua.Call) error

	// Sound plays what an end of a call hears while nobody talks to it; see
	// b2bua.Config. May be nil.
	Sound func(ctx context.Context, p sipcore.Port, s b2bua.Sound) error

	// Lamps are what telephones see of each other; nil: nothing. OnChange is the
	// Stack's then.
	Lamps *blf.Table

	// Announce says why a call is about to be refused; see b2bua.Config.
	Announce func(ctx context.Context, cause site.Cause, c *b2bua.Call)

	// Visits introduces telephones of other sites; nil: none register here.
	Visits registrar.Visits

	Expires  time.Duration // granted to phones on the LAN at most
	MaxCalls int
	Grace    time.Duration // for calls to end when draining

	Log  *slog.Logger
	Now  func() time.Time
	Rand io.Reader
}

// A telephone with key modules shows some hundred lamps; a site has some such.
const (
	perDevice          = 150
	subscriptionsTotal = 10_000
)

// Stack is the signalling of one node.
type Stack struct {
	cfg   Config
	edge  *edge.Edge
	core  *core.Core
	calls *b2bua.Server
	subs  *subscribe.Server

	trunks *trunk.Trunks

	urgent atomic.Pointer[urgent]

	stop context.CancelFunc
	done chan error
}

// New binds the sockets. Serve must follow.
func New(cfg Config) (*Stack, error) {
	c := &Stack{cfg: cfg, done: make(chan error, 1)}
	var listen []edge.Listen
	for _, a := range cfg.Listen {
		listen = append(listen, edge.Listen{Transport: site.UDP, Addr: a}, edge.Listen{Transport: site.TCP, Addr: a})
	}
	var err error
	c.edge, err = edge.New(edge.Config{Listen: listen, Node: cfg.Node, Peers: cfg.Peers, Supported: b2bua.Supported, Limits: edge.Limits{Known: cfg.Known, Emergency: c.emergency}, Logger: cfg.Log.With("room", "edge"), Now: cfg.Now, Rand: cfg.Rand})
	if err != nil {
		return nil, err
	}
	if cfg.Bind == nil {
		cfg.Bind = (*edge.Edge).Listen
	}
	if err := cfg.Bind(c.edge); err != nil {
		return nil, err
	}
	dg, err := digest.NewServer(digest.Config{Key: cfg.NonceKey, Store: cfg.Credentials, Shared: cfg.NonceShared, Now: cfg.Now, Rand: cfg.Rand})
	if err != nil {
		return nil, err
	}
	aor := core.AOR(func(u route.URI) site.AOR { return route.AOR(cfg.View, u) })
	realm := func(a site.AOR) string { return route.Realm(cfg.View, a) }
	reg := registrar.New(registrar.Config{Edge: c.edge, Location: cfg.Location, Digest: dg, AOR: aor, Realm: realm, Node: cfg.Node, Visits: cfg.Visits,
		LANExpires: cfg.Expires, Logger: cfg.Log.With("room", "registrar"), Now: cfg.Now})
	lines, err := c.openLines()
	if err != nil {
		return nil, err
	}
	packages, events := []subscribe.Package{mwi.New(cfg.Summaries)}, []string{mwi.Name}
	var lamps sipcore.Lamps
	if cfg.Lamps != nil {
		lamps = cfg.Lamps
		packages, events = append(packages, blf.New(cfg.Lamps, func() route.View { return cfg.View })), append(events, blf.Name)
	}
	c.calls, err = b2bua.New(b2bua.Config{
		Lines: lines, Sound: cfg.Sound, Lamps: lamps,
		Edge: c.edge, View: func() route.View { return cfg.View }, Location: cfg.Location, Digest: dg, Anchor: cfg.Anchor, Node: cfg.Node,
		Feature: cfg.Feature, Announce: cfg.Announce, Reach: cfg.Reach, Records: cfg.Records, MediaAddr: cfg.MediaAddr, MaxCalls: cfg.MaxCalls, Grace: cfg.Grace,
		Logger: cfg.Log.With("room", "b2bua"), Now: cfg.Now, Rand: cfg.Rand,
	})
	if err != nil {
		return nil, err
	}
	c.core = core.New(core.Config{Edge: c.edge, Registrar: reg, Calls: c.calls, Events: events, Emergency: c.emergencyCall, Logger: cfg.Log.With("room", "transaction"), Now: cfg.Now, Rand: cfg.Rand})
	c.calls.Use(c.core.Layer())
	c.subs, err = subscribe.New(subscribe.Config{Edge: c.edge, View: func() route.View { return cfg.View }, Digest: dg,
		Packages: packages, PerDevice: perDevice, Total: subscriptionsTotal, Logger: cfg.Log.With("room", "subscribe"), Now: cfg.Now, Rand: cfg.Rand})
	if err != nil {
		return nil, err
	}
	c.subs.Use(c.core.Layer())
	c.core.Use(subscriptions{c.subs})
	if cfg.Lamps != nil {
		cfg.Lamps.OnChange(func(a site.AOR) { c.subs.ChangedAOR(blf.Name, a) })
	}
	return c, nil
}

// emergency says whether a message that is over the limits goes to one of the
// site's emergency numbers, dialled with the digit for an outside line or
// without. It is asked in a flood, so the numbers are looked up now and then.
func (c *Stack) emergency(raw []byte) bool {
	e := c.urgent.Load()
	if now := c.cfg.Now(); e == nil || now.Sub(e.at) > 10*time.Second {
		own := c.cfg.View.Own()
		numbers := slices.Clone(own.Emergency)
		for _, n := range own.Emergency {
			if own.Outside != "" {
				numbers = append(numbers, own.Outside+n)
			}
		}
		e = &urgent{now, edge.EmergencyNumbers(numbers...)}
		c.urgent.Store(e)
	}
	return e.is(raw)
}

// emergencyCall is emergency for a request that has been read.
func (c *Stack) emergencyCall(req *sip.Request) bool {
	return req.Method == sip.INVITE && route.Urgent(c.cfg.View, core.URI(&req.Recipient))
}

// urgent is how emergency calls are known, as of some moment.
type urgent struct {
	at time.Time
	is func(raw []byte) bool
}

// Serve starts reading; failed is called if that ends by itself.
func (c *Stack) Serve(failed func(error)) {
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	go func() { // ends with Close
		err := c.core.Serve(ctx)
		if ctx.Err() == nil {
			failed(err)
		}
		c.done <- err
	}()
}

// ServePeer serves one signalling stream of another node.
func (c *Stack) ServePeer(conn net.Conn, from site.NodeID) { c.edge.ServeConn(conn, from) }

// LampChanged says that a mailbox reads differently now.
func (c *Stack) LampChanged(user site.RecordID) { c.subs.Changed(mwi.Name, user) }

// Addrs says where phones register, like "udp:192.0.2.1:5060".
func (c *Stack) Addrs() (out []string) {
	for _, l := range c.edge.Addrs() {
		out = append(out, string(l.Transport)+":"+l.Addr.String())
	}
	return out
}

// Calls lists the calls there are; Count counts them.
func (c *Stack) Calls() []b2bua.CallState { return c.calls.Calls() }
func (c *Stack) Count() int               { return c.calls.Count() }

// Drain takes no new calls and waits for those there are, within ctx and the
// grace.
func (c *Stack) Drain(ctx context.Context) { c.calls.Drain(ctx) }

// Close ends all calls and closes the sockets.
func (c *Stack) Close() {
	c.subs.Close()
	c.calls.Close()
	if c.trunks != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		if err := c.trunks.Close(ctx); err != nil {
			c.cfg.Log.Debug("Trunks were not unregistered", "err", err)
		}
		cancel()
	}
	if c.stop != nil {
		c.stop()
		<-c.done
	}
}

// subscriptions fits the server of subscriptions into the method table.
type subscriptions struct{ *subscribe.Server }

func (s subscriptions) ServeSubscribe(tx *transaction.ServerTx) bool { return s.Serve(tx) }
