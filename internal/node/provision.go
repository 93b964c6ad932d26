package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/provision"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/sntp"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
)

// phones is what the telephones of the LAN fetch from this box beside calls:
// their settings, and the time. Nothing of it can keep the box from serving
// calls: what does not work is a warning.
type phones struct {
	n    *Node
	log  *slog.Logger
	keys func() []state.PhoneKey // what is made of them is trusted, once they are here
	leaf [2]*phoneLeaf           // shown at the two ports, see phoneLAN.doors
	lans []*phoneLAN             // set at open, then constant
	wg   sync.WaitGroup
	stir chan struct{} // the site's key may have changed

	opened chan struct{} // a person opened or closed the window
	shared atomic.Bool   // the pair's other node has the same

	admin sync.Mutex // one admin password is made at a time

	mu     sync.Mutex          // guards what follows
	odd    []string            // what does not work, for people
	timed  []netip.Addr        // where the time is told
	heard  []netip.Addr        // where questions by multicast are heard
	away   map[netip.Addr]bool // who asked from other networks, bounded
	ca     *phoneCA            // nil: no key of the site yet
	key    trust.SiteKey
	served trust.SiteKey // what the services are made of
	leave  bool          // the telephones come from the key before this one
	over   *time.Timer   // ends that
}

// phoneLAN is one of our addresses and the network it is in.
type phoneLAN struct {
	addr netip.Addr
	net  netip.Prefix
	ifi  *net.Interface
	pnp  bool // hears multicast: one address of each interface does

	now atomic.Pointer[phoneService] // nil: no key of the site yet

	// Telephones trust the CA of one key, and those that were off are to come
	// for another by what they trusted before: each key after the first has the
	// other of two ports, whose certificate the phone checks before it says
	// anything. The second port is opened with the second key.
	doors  [2]atomic.Pointer[phoneService]
	second sync.Once
}

// phoneService is a provision.Service and what runs for it.
type phoneService struct {
	*provision.Service
	http, https http.Handler
	stop        context.CancelFunc
}

// Connections of phones at one port, of all together and of each.
const (
	maxPhoneConns     = 128
	maxPhoneConnsEach = 8
)

// openPhones starts to serve settings and time.
func (n *Node) openPhones(ctx context.Context, rooms *closer) {
	if n.opt.World != nil {
		return
	}
	p := &phones{n: n, log: n.log.With("room", "phones"), keys: n.state.PhoneKeys, stir: make(chan struct{}, 1), opened: make(chan struct{}, 1)}
	pctx, stop := context.WithCancel(ctx)
	rooms.add(func() { stop(); p.wg.Wait() })
	var lans []*phoneLAN
	heard := map[int]bool{}
	for _, ip := range n.cfg.Listen {
		l, err := networkOf(ip)
		if err != nil {
			p.complain("phones find neither settings nor time at %s: %v", ip, err)
			continue
		}
		lans = append(lans, l)
		l.pnp = ip.Is4() && l.ifi.Flags&net.FlagMulticast != 0 && !heard[l.ifi.Index]
		heard[l.ifi.Index] = heard[l.ifi.Index] || l.pnp
	}
	if !n.cfg.NoNTP {
		p.serveTime(pctx, lans)
	}
	for i := range p.leaf {
		p.leaf[i] = &phoneLeaf{rand: n.rand, now: n.now}
	}
	for _, l := range lans {
		if err := p.serveWeb(pctx, l); err != nil {
			p.complain("phones cannot fetch their settings: %v", err)
			continue
		}
		p.lans = append(p.lans, l)
		for _, leaf := range p.leaf {
			leaf.ips = append(leaf.ips, l.addr)
		}
	}
	n.phones = p
	if len(p.lans) == 0 {
		return
	}
	cancel := n.engine.Watch(func(_ crdt.Scope, cells []crdt.Cell) {
		for _, c := range cells {
			if c.Table == state.TableKey || c.Table == state.TableWrap {
				p.stirUp()
				return
			}
		}
	})
	rooms.add(cancel)
	p.follow(pctx)
	p.shareWindow(pctx)
	p.wg.Go(func() { // ends with pctx
		for {
			select {
			case <-pctx.Done():
				return
			case <-p.stir:
				p.follow(pctx)
			}
		}
	})
}

// complain notes what does not work, for status and log.
func (p *phones) complain(format string, a ...any) {
	words := fmt.Sprintf(format, a...)
	p.log.Warn("Phones are not served in full", "why", words)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.odd = append(p.odd, words)
}

func (p *phones) complaints() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.odd)
}

// warnings is nil-safe: a world has no phones that fetch anything.
func (p *phones) warnings() []string {
	if p == nil {
		return nil
	}
	out := p.complaints()
	if s := p.n.state; zoneOf(s) == "UTC" && len(state.List[site.Phone](s)) > 0 {
		out = append(out, "nobody said in which time zone the shop is: its phones show UTC; ccnode shop create NAME --zone Europe/Paris")
	}
	return out
}

// networkOf finds the network that one of our addresses is in.
func networkOf(ip netip.Addr) (*phoneLAN, error) {
	ip = ip.Unmap()
	if ip.IsUnspecified() {
		return nil, errors.New("name one address with --listen")
	}
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the network interfaces: %w", err)
	}
	for _, ifi := range ifs {
		addrs, err := ifi.Addrs()
		if err != nil {
			continue // it went away
		}
		for _, a := range addrs {
			x, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			own, _ := netip.AddrFromSlice(x.IP)
			bits, _ := x.Mask.Size()
			if of, err := own.Unmap().Prefix(bits); err == nil && (own.Unmap() == ip || ip.IsLoopback() && of.Contains(ip)) {
				return &phoneLAN{addr: ip, net: of, ifi: &ifi}, nil
			}
		}
	}
	return nil, errors.New("no network interface has that address")
}

// serveWeb opens the two ports of one address.
func (p *phones) serveWeb(ctx context.Context, l *phoneLAN) error {
	plain, err := listenLAN(l, p.n.cfg.PhoneHTTP, "--provision-http-port", p.turnedAway)
	if err != nil {
		return err
	}
	if err := p.openDoor(ctx, l, 0); err != nil {
		plain.Close()
		return err
	}
	first := provision.NewServer(handler(&l.now, func(s *phoneService) http.Handler { return s.http }), nil)
	p.serve(ctx, first, func() error { return first.Serve(plain) })
	return nil
}

// doorPort is where the settings of a key are fetched.
func (p *phones) doorPort(door int) int { return p.n.cfg.PhoneHTTPS + door }

// open are the ports where settings are given.
func (p *phones) open() (out []int) {
	for door := range p.leaf {
		if door == 0 || slices.ContainsFunc(p.lans, func(l *phoneLAN) bool { return l.doors[door].Load() != nil }) {
			out = append(out, p.doorPort(door))
		}
	}
	return out
}

// openDoor opens one of the two HTTPS ports of an address.
func (p *phones) openDoor(ctx context.Context, l *phoneLAN, door int) error {
	secret, err := listenLAN(l, p.doorPort(door), "--provision-https-port", p.turnedAway)
	if err != nil {
		return err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: p.leaf[door].certificate}
	rest := provision.NewServer(handler(&l.doors[door], func(s *phoneService) http.Handler { return s.https }), config)
	p.serve(ctx, rest, func() error { return rest.ServeTLS(secret, "", "") })
	return nil
}

// serve runs a server until ctx ends.
func (p *phones) serve(ctx context.Context, s *http.Server, run func() error) {
	s.ErrorLog = slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
	context.AfterFunc(ctx, func() { s.Close() })
	p.wg.Go(func() { p.ended(ctx, run()) })
}

// handler is a part of whatever service there is now.
func handler(at *atomic.Pointer[phoneService], of func(*phoneService) http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := at.Load()
		if s == nil {
			w.Header().Set("Retry-After", "10")
			http.Error(w, "this box is still catching up with its site", http.StatusServiceUnavailable)
			return
		}
		of(s).ServeHTTP(w, r)
	})
}

func (p *phones) ended(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		p.complain("phones cannot fetch their settings any more: %v; start this box again", err)
	}
}

// lanListener lets in who is of the LAN: so many at once, and of one address
// so few that nobody can keep the others out.
type lanListener struct {
	net.Listener
	lan  netip.Prefix
	note func(netip.Addr) // is told who was turned away for being of another network

	mu   sync.Mutex // guards what follows
	all  int
	from map[netip.Addr]int
}

func listenLAN(l *phoneLAN, port int, flag string, note func(netip.Addr)) (net.Listener, error) {
	at := netip.AddrPortFrom(l.addr, uint16(port))
	x, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, inUse(err, "provisioning", at.String(), flag)
	}
	return &lanListener{Listener: x, lan: l.net, note: note, from: map[netip.Addr]int{}}, nil
}

// Accept drops strangers before they cost a handshake. Nobody waits for a
// place: a phone asks again.
func (l *lanListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		a := from.Addr().Unmap().WithZone("")
		if err != nil || !l.lan.Contains(a) || !l.enter(a) {
			if err == nil && !l.lan.Contains(a) {
				l.note(a)
			}
			c.Close()
			continue
		}
		return &lanConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(a) })}, nil
	}
}

func (l *lanListener) enter(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxPhoneConns || l.from[a] >= maxPhoneConnsEach {
		return false
	}
	l.all++
	l.from[a]++
	return true
}

func (l *lanListener) leave(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.from[a]--; l.from[a] == 0 {
		delete(l.from, a)
	}
}

type lanConn struct {
	net.Conn
	leave func()
}

func (c *lanConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// serveTime answers at every address of ours.
func (p *phones) serveTime(ctx context.Context, lans []*phoneLAN) {
	islanded := uint8(10)
	if p.n.member.Letter != "a" {
		islanded = 11
	}
	s, err := sntp.New(sntp.Config{Now: p.n.now, Floor: clockFloor, Islanded: islanded, Log: p.log,
		Status: func() sntp.Status {
			st, err := sntp.System()
			if err != nil {
				p.log.Debug("Clock could not be looked at", "err", err)
			}
			return st
		},
		LAN: func(a netip.Addr) bool {
			for _, l := range lans {
				if l.net.Contains(a) {
					return true
				}
			}
			return false
		}})
	if err != nil {
		p.complain("phones are not told the time: %v", err)
		return
	}
	for _, l := range lans {
		c, err := sntp.Listen(netip.AddrPortFrom(l.addr, 123))
		switch {
		case isInUse(err):
			p.complain("phones are told the time by another program of this box, which has UDP port 123 of %s; if it serves the LAN all is well, and --ntp=false ends this line", l.addr)
			continue
		case errors.Is(err, fs.ErrPermission):
			p.complain("phones are not told the time: no permission to use UDP port 123; give the program CAP_NET_BIND_SERVICE, or end this line with --ntp=false")
			return
		case err != nil:
			p.complain("phones are not told the time: %v", err)
			continue
		}
		p.mu.Lock()
		p.timed = append(p.timed, l.addr)
		p.mu.Unlock()
		p.wg.Go(func() { // ends with ctx
			if err := s.Serve(ctx, c); err != nil {
				p.complain("phones are not told the time any more: %v; start this box again", err)
			}
		})
	}
}

// follow makes the services anew when the telephones' key is there, or another,
// and when the time to come for another is over.
func (p *phones) follow(ctx context.Context) {
	keys := p.keys()
	if len(keys) == 0 {
		return
	}
	now := keys[0]
	var before *state.PhoneKey
	left := time.Duration(0)
	i := slices.IndexFunc(keys, func(k state.PhoneKey) bool { return k.Number&1 != now.Number&1 })
	if i > 0 {
		if left = state.ChangeFor - p.n.now().Sub(now.Since); left > 0 {
			before = &keys[i]
		}
	}
	p.mu.Lock()
	same := p.ca != nil && p.key == now.Key && p.leave == (before != nil)
	if p.over != nil {
		p.over.Stop()
		p.over = nil
	}
	if before != nil {
		p.over = time.AfterFunc(min(left, state.ChangeFor), p.stirUp)
	}
	p.mu.Unlock()
	if same {
		return
	}
	ca, err := newPhoneCA(now.Key, p.n.member.Site)
	var old *phoneCA
	if err == nil && before != nil {
		old, err = newPhoneCA(before.Key, p.n.member.Site)
	}
	if err != nil {
		p.complain("phones cannot fetch their settings: %v", err)
		return
	}
	p.mu.Lock()
	p.ca, p.key, p.leave = ca, now.Key, before != nil
	p.mu.Unlock()
	door := now.Number & 1
	p.leaf[door].trust(ca)
	p.leaf[1-door].trust(old)
	for _, l := range p.lans {
		if err := p.renew(ctx, l, ca, now, before); err != nil {
			p.complain("phones cannot fetch their settings at %s: %v", l.addr, err)
		}
	}
	p.mu.Lock()
	p.served = now.Key
	p.mu.Unlock()
}

// settle waits, not for long, until what is served follows the keys.
func (p *phones) settle(ctx context.Context) {
	end, stop := context.WithTimeout(ctx, 3*time.Second)
	defer stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	p.stirUp()
	for {
		keys := p.keys()
		p.mu.Lock()
		done := len(keys) > 0 && p.served == keys[0].Key
		p.mu.Unlock()
		if done {
			return
		}
		select {
		case <-end.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *phones) stirUp() {
	select {
	case p.stir <- struct{}{}:
	default:
	}
}

// renew makes the services of one address.
func (p *phones) renew(ctx context.Context, l *phoneLAN, ca *phoneCA, now state.PhoneKey, before *state.PhoneKey) error {
	if now.Number > 0 {
		var err error
		l.second.Do(func() { err = p.openDoor(ctx, l, 1) })
		if err != nil {
			return err
		}
	}
	make := func(k state.PhoneKey, next *provision.Service) (*phoneService, error) {
		urls := fromSiteKey(k.Key, "ccnode phone URLs 1")
		s, err := provision.New(provision.Config{
			Now: p.n.now, Rand: p.n.rand, Log: p.log, CA: ca.pem, Key: urls[:], Next: next,
			HTTP:  netip.AddrPortFrom(l.addr, uint16(p.n.cfg.PhoneHTTP)),
			HTTPS: netip.AddrPortFrom(l.addr, uint16(p.doorPort(k.Number&1))),
			LAN:   func(a netip.Addr) (netip.Prefix, bool) { return l.net, l.net.Contains(a) },
			Phone: func(ctx context.Context, m provision.MAC) (*provision.Phone, error) { return p.phone(ctx, m, l) },
		})
		if err != nil {
			return nil, err
		}
		return &phoneService{s, s.HTTP(), s.HTTPS(), func() {}}, nil
	}
	s := l.now.Load()
	door := now.Number & 1
	if s == nil || l.doors[door].Load() != s {
		if s != nil {
			s.stop()
		}
		var err error
		if s, err = make(now, nil); err != nil {
			return err
		}
		sctx, stop := context.WithCancel(ctx)
		s.stop = stop
		p.hearPnP(sctx, l, s)
	}
	var old *phoneService
	if before != nil {
		var err error
		if old, err = make(*before, s.Service); err != nil {
			return err
		}
	}
	l.doors[door].Store(s)
	l.doors[1-door].Store(old)
	l.now.Store(s)
	return nil
}

// hearPnP answers phones that ask by multicast, until ctx ends.
func (p *phones) hearPnP(ctx context.Context, l *phoneLAN, s *phoneService) {
	if !l.pnp {
		return
	}
	group, own, err := provision.ListenPnP(l.ifi, l.addr)
	if err != nil {
		p.complain("phones that ask by multicast are not heard: %v; type the address that \"ccnode phone window show\" names into each phone", err)
		return
	}
	p.mu.Lock()
	if !slices.Contains(p.heard, l.addr) {
		p.heard = append(p.heard, l.addr)
	}
	p.mu.Unlock()
	p.wg.Go(func() {
		if err := s.ServePnP(ctx, group, own); err != nil {
			p.complain("phones that ask by multicast are not heard any more: %v; start this box again", err)
		}
	})
}

// nodes are where the phones of a network find the nodes of the site.
func (p *phones) nodes(l *phoneLAN) (out []phoneNode) {
	for _, x := range p.n.state.Nodes(p.n.member.Site) {
		var best netip.AddrPort
		for _, s := range x.SIP {
			ap, err := netip.ParseAddrPort(s)
			if err != nil {
				continue
			}
			if !best.IsValid() || l.net.Contains(ap.Addr()) && !l.net.Contains(best.Addr()) {
				best = ap
			}
		}
		if x.ID == p.n.id.Node() {
			best = netip.AddrPortFrom(l.addr, uint16(p.n.cfg.SIPPort)) // whatever is written
		}
		if best.IsValid() {
			out = append(out, phoneNode{x.ID, best})
		}
	}
	return out
}

type phoneNode struct {
	id site.NodeID
	at netip.AddrPort
}
