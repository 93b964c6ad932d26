package node

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/announce"
	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/features/voicemail"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/pair"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/blf"
	"carrierclass.net/ccnode/sipcore/stack"
)

// Protocols between nodes.
const (
	sipProtocol  = "/ccnode/sip/1"  // one SIP connection
	pairProtocol = "/ccnode/pair/1" // bindings, between the nodes of a site
	// Whose a call from outside is, and whom a call back is for; between the same.
	pairLinesProtocol = "/ccnode/lines/1"
	// What the lamps of a site show of calls; between the same.
	pairLampsProtocol = "/ccnode/lamps/1"
)

// telephony is signalling, media and features of the node.
type telephony struct {
	n       *Node
	sip     *stack.Stack
	media   *media.Engine
	records *records
	guests  *visitors
}

// openTelephony starts to serve phones. Everything it needs is in memory by now.
func (n *Node) openTelephony(ctx context.Context, cancel context.CancelCauseFunc, rooms *closer) (err error) {
	t := &telephony{n: n, records: newRecords(disk.NewBucket(n.store, "calls"), n.now, n.zone, n.log)}
	t.records.told = n.events.call
	n.calls = t
	table, err := pair.Open(pair.Config{Self: n.id.Node(), Disk: disk.NewBucket(n.store, "bindings"), MaxExpiry: n.cfg.Expires, Now: n.now, Log: n.log.With("room", "pair")})
	if err != nil {
		return err
	}
	n.pairMu.Lock()
	n.pair, n.pairLines = table, pair.NewLines(n.id.Node(), n.now, n.log.With("room", "pair"))
	lamps := blf.NewTable(n.id.Node())
	n.pairLamps = pair.NewLamps(board{lamps}, n.log.With("room", "pair"))
	lamps.OnSet(n.pairLamps.Tell)
	n.pairMu.Unlock()
	rooms.add(t.records.close)
	rooms.add(n.pairLines.Close)
	rooms.add(n.pairLamps.Close)
	rooms.add(n.pair.Close)
	if err := t.openMedia(); err != nil {
		return err
	}
	rooms.add(func() { t.media.Close() })

	mail, err := voicemail.New(voicemail.Config{Mailboxes: mailboxes{n.state.Mailboxes(), n}, Blobs: audio{n}, Site: func() site.ID { return n.member.Site },
		Zone: func(site.RecordID) *time.Location { return time.Local }, Now: n.now, Rand: n.rand, Logger: n.log.With("room", "voicemail")})
	if err != nil {
		return err
	}
	if k, err := mail.Recover(ctx); err != nil {
		n.log.Warn("Recordings of before the restart could not all be delivered", "err", err)
	} else if k > 0 {
		n.log.Info("Recordings of before the restart were delivered", "messages", k)
	}
	answering, err := n.attendants()
	if err != nil {
		return err
	}
	why, err := announce.NewReasons(n.log.With("room", "announce"))
	if err != nil {
		return err
	}
	registry := &features.Registry{Placement: n.state.Placement, Local: append(mail.Features(), answering...)}

	var listen []netip.AddrPort
	for _, ip := range n.cfg.Listen {
		listen = append(listen, netip.AddrPortFrom(ip, uint16(n.cfg.SIPPort)))
	}
	t.guests = newVisitors(n)
	t.sip, err = stack.New(stack.Config{
		Node: n.id.Node(), Listen: listen, View: view{n}, Location: n.pair, Known: n.pair.Knows, Credentials: t.guests, Visits: t.guests,
		NonceKey: t.nonceKey(), Anchor: anchor{t.media}, Peers: peers{n}, Reach: n.reach, Records: t.records,
		MediaAddr: n.mediaAddr, Summaries: n.state, House: house{n}, Resolver: n.resolver(), Expires: n.cfg.Expires, MaxCalls: n.cfg.MaxCalls, Grace: 10 * time.Second, Bind: n.bindSIP(), Log: n.log, Now: n.now, Rand: n.rand,
		Feature: func(ctx context.Context, name site.FeatureName, c *b2bua.Call) error {
			return registry.ServeCall(ctx, name, call{n, c})
		},
		Sound:    sound,
		Lamps:    lamps,
		Announce: func(ctx context.Context, cause site.Cause, c *b2bua.Call) { why.Say(ctx, cause, call{n, c}) },
	})
	if err != nil {
		return inUse(err, "SIP", fmt.Sprintf("%v port %d", n.cfg.Listen, n.cfg.SIPPort), "--sip-port or --listen")
	}
	t.sip.Serve(func(err error) { cancel(fmt.Errorf("SIP: %w", err)) })
	rooms.add(t.sip.Close)
	dusk, dawn := make(chan struct{}), make(chan struct{})
	go func() { // ends with dusk, before the signalling does
		defer close(dawn)
		n.nightLamp(lamps, dusk)
	}()
	rooms.add(func() { close(dusk); <-dawn })
	stop, followed := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop, before the signalling does
		defer close(followed)
		n.followLines(t.sip.Trunks(), stop)
	}()
	rooms.add(func() { close(stop); <-followed })
	n.mesh.Handle(sipProtocol, func(s mesh.Stream) {
		n.reach.Note(site.NodeID(s.Peer()), nil) // it comes over a connection that carries ours, too
		t.sip.ServePeer(s, site.NodeID(s.Peer()))
	})
	n.mesh.Handle(pairProtocol, func(s mesh.Stream) {
		x, ok := n.state.Node(site.NodeID(s.Peer()))
		if !ok || x.Site != n.member.Site {
			s.Close()
			return
		}
		if err := n.pair.Hear(site.NodeID(s.Peer()), s); err != nil && !errors.Is(err, io.EOF) {
			n.log.Debug("The pair's stream ended", "err", err)
		}
	})
	n.mesh.Handle(pairLinesProtocol, func(s mesh.Stream) {
		x, ok := n.state.Node(site.NodeID(s.Peer()))
		if !ok || x.Site != n.member.Site {
			s.Close()
			return
		}
		if err := n.pairLines.Hear(site.NodeID(s.Peer()), s); err != nil && !errors.Is(err, io.EOF) {
			n.log.Debug("The pair's stream about lines ended", "err", err)
		}
	})
	n.mesh.Handle(pairLampsProtocol, func(s mesh.Stream) {
		x, ok := n.state.Node(site.NodeID(s.Peer()))
		if !ok || x.Site != n.member.Site {
			s.Close()
			return
		}
		if err := n.pairLamps.Hear(site.NodeID(s.Peer()), s); err != nil && !errors.Is(err, io.EOF) {
			n.log.Debug("The pair's stream about calls ended", "err", err)
		}
	})
	n.sharePair()
	n.state.OnMailbox(t.sip.LampChanged)
	return nil
}

// nonceKey is the same at both nodes of a site: made from the site's key.
func (t *telephony) nonceKey() (key [32]byte) {
	k, ok := t.n.state.Keys().Current()
	if !ok {
		_, _ = io.ReadFull(t.n.rand, key[:])
		return key
	}
	m := hmac.New(sha256.New, k[:])
	m.Write([]byte("ccnode digest nonces 1"))
	return [32]byte(m.Sum(nil))
}

// openMedia makes the ports. An advertised address is our name outside; the
// socket is bound to the address inside.
func (t *telephony) openMedia() (err error) {
	n := t.n
	t.media, err = media.New(media.Config{PortMin: uint16(n.cfg.MediaPorts[0]), PortMax: uint16(n.cfg.MediaPorts[1]),
		Now: n.now, Rand: n.rand, Logger: n.log.With("room", "media"),
		Listen: func(ap netip.AddrPort) (media.PacketConn, error) {
			if ap.Addr().String() == n.cfg.Advertise {
				ap = netip.AddrPortFrom(n.cfg.Listen[0], ap.Port())
			}
			if w := n.opt.World; w != nil {
				return w.Media(ap)
			}
			return net.ListenUDP("udp", net.UDPAddrFromAddrPort(ap))
		}})
	return err
}

// mediaAddr is where other sites send us speech.
func (n *Node) mediaAddr() netip.Addr {
	if ip, err := netip.ParseAddr(n.cfg.Advertise); err == nil {
		return ip
	}
	return n.cfg.Listen[0]
}

// peers opens SIP connections to other nodes, over the mesh.
type peers struct{ n *Node }

func (p peers) DialSIP(ctx context.Context, id site.NodeID) (net.Conn, error) {
	c, err := p.n.mesh.OpenStream(ctx, mesh.PeerID(id), sipProtocol)
	if err != nil {
		p.n.pairLamps.Doubt()
	}
	return c, err
}

// anchor is the media engine in signalling's words.
type anchor struct{ e *media.Engine }

func (a anchor) NewPort(p sipcore.PortParams) (sipcore.Port, error) {
	port, err := a.e.NewPort(media.PortParams(p))
	if err != nil {
		return nil, err
	}
	return mediaPort{port}, nil
}

func (a anchor) Bridge(x, y sipcore.Port) error {
	p, q := x.(mediaPort).Port, (*media.Port)(nil)
	if y != nil {
		q = y.(mediaPort).Port
	}
	return a.e.Bridge(p, q)
}

// mediaPort also says when the other end was last heard.
type mediaPort struct{ *media.Port }

// LastPacket is when speech last came; zero while the leg is held.
func (p mediaPort) LastPacket() time.Time {
	if p.Held() {
		return time.Time{}
	}
	return p.Stats().Last
}

// Heard says whether speech ever came from the other end.
func (p mediaPort) Heard() bool { return !p.Stats().Last.IsZero() }

// Fits says whether speech can be passed between two ports as it is.
func (p mediaPort) Fits(other sipcore.Port) bool { return p.Port.Fits(other.(mediaPort).Port) }

// sound plays what a caller hears while nobody talks to him.
func sound(ctx context.Context, p sipcore.Port, s b2bua.Sound) error {
	src := prompts.Music()
	if s == b2bua.RingBack {
		src = media.RingBackTone()
	}
	return p.(mediaPort).Session().Play(ctx, src, false)
}

// call is a call as a feature sees it.
type call struct {
	n *Node
	c *b2bua.Call
}

func (c call) From() site.Party         { return c.c.From() }
func (c call) To() site.Party           { return c.c.To() }
func (c call) Diverted() string         { return c.c.Diverted() }
func (c call) Chain() string            { return c.c.Chain() }
func (c call) Context() context.Context { return c.c.Context() }

func (c call) Answer(ctx context.Context) (features.Media, error) { return session(c.c.Answer(ctx)) }
func (c call) Early(ctx context.Context) (features.Media, error)  { return session(c.c.Early(ctx)) }

func session(p sipcore.Port, err error) (features.Media, error) {
	if err != nil {
		return nil, err
	}
	return p.(mediaPort).Session(), nil
}

func (c call) Reject(cause site.Cause) error { return c.c.Reject(cause) }
func (c call) Hangup(ctx context.Context, cause site.Cause) error {
	return c.c.Hangup(ctx, cause)
}

// sharePair tells our bindings to the other node of the site, while there is one.
func (n *Node) sharePair() {
	n.pairMu.Lock()
	defer n.pairMu.Unlock()
	if n.pair == nil {
		return // phones are not served yet
	}
	var other site.NodeID
	for _, g := range n.book.Members(n.member.Site) {
		if id := g.Node(); id != n.id.Node() {
			other = id
		}
	}
	if other == n.pairNode {
		return
	}
	n.pairNode = other
	if other.IsZero() {
		n.pair.Share(nil)
		n.pairLines.Share(nil)
		n.pairLamps.Share(other, nil)
		return
	}
	n.pairLamps.Share(other, func(ctx context.Context) (net.Conn, error) {
		return n.mesh.OpenStream(ctx, mesh.PeerID(other), pairLampsProtocol)
	})
	n.pairLines.Share(func(ctx context.Context) (net.Conn, error) {
		n.pairLamps.Doubt() // the stream before is lost
		return n.mesh.OpenStream(ctx, mesh.PeerID(other), pairLinesProtocol)
	})
	n.pair.Share(func(ctx context.Context) (net.Conn, error) {
		n.pairLamps.Doubt()
		c, err := n.mesh.OpenStream(ctx, mesh.PeerID(other), pairProtocol)
		n.tried(ctx, other, err)
		if err == nil {
			select {
			case n.pairFound <- struct{}{}:
			default:
			}
		}
		return c, err
	})
}

// drain lets calls end before everything closes.
func (n *Node) drain() {
	if n.calls == nil || n.calls.sip == nil || n.calls.sip.Count() == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	n.log.Info("Waiting for calls to end", "calls", n.calls.sip.Count())
	n.calls.sip.Drain(ctx)
}
