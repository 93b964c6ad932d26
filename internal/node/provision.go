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
	site func() (trust.SiteKey, bool) // the key of the site, once it is here
	leaf *phoneLeaf
	lans []*phoneLAN // set at open, then constant
	wg   sync.WaitGroup
	stir chan struct{} // the site's key may have changed

	opened chan struct{} // a person opened or closed the window
	shared atomic.Bool   // the pair's other node has the same

	admin sync.Mutex // one admin password is made at a time

	mu    sync.Mutex          // guards what follows
	odd   []string            // what does not work, for people
	timed []netip.Addr        // where the time is told
	heard []netip.Addr        // where questions by multicast are heard
	away  map[netip.Addr]bool // who asked from other networks, bounded
	epoch trust.Epoch
	ca    *phoneCA // nil: no key of the site yet
	key   trust.SiteKey
}

// phoneLAN is one of our addresses and the network it is in.
type phoneLAN struct {
	addr netip.Addr
	net  netip.Prefix
	ifi  *net.Interface
	pnp  bool // hears multicast: one address of each interface does

	now atomic.Pointer[phoneService] // nil: no key of the site yet
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
	p := &phones{n: n, log: n.log.With("room", "phones"), site: n.state.Keys().Current, stir: make(chan struct{}, 1), opened: make(chan struct{}, 1)}
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
	p.leaf = &phoneLeaf{rand: n.rand, now: n.now}
	for _, l := range lans {
		if err := p.serveWeb(pctx, l); err != nil {
			p.complain("phones cannot fetch their settings: %v", err)
			continue
		}
		p.lans = append(p.lans, l)
		p.leaf.ips = append(p.leaf.ips, l.addr)
	}
	n.phones = p
	if len(p.lans) == 0 {
		return
	}
	cancel := n.engine.Watch(func(_ crdt.Scope, cells []crdt.Cell) {
		for _, c := range cells {
			if c.Table == state.TableKey || c.Table == state.TableWrap {
				select {
				case p.stir <- struct{}{}:
				default:
				}
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
	cfg := &p.n.cfg
	plain, err := listenLAN(l, cfg.PhoneHTTP, "--provision-http-port", p.turnedAway)
	if err != nil {
		return err
	}
	secret, err := listenLAN(l, cfg.PhoneHTTPS, "--provision-https-port", p.turnedAway)
	if err != nil {
		plain.Close()
		return err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: p.leaf.certificate}
	first := provision.NewServer(l.handler(func(s *phoneService) http.Handler { return s.http }), nil)
	rest := provision.NewServer(l.handler(func(s *phoneService) http.Handler { return s.https }), config)
	for _, s := range []*http.Server{first, rest} {
		s.ErrorLog = slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
		context.AfterFunc(ctx, func() { s.Close() })
	}
	p.wg.Go(func() { p.ended(ctx, first.Serve(plain)) }) // both end with ctx
	p.wg.Go(func() { p.ended(ctx, rest.ServeTLS(secret, "", "")) })
	return nil
}

// handler is a part of whatever service there is now.
func (l *phoneLAN) handler(of func(*phoneService) http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := l.now.Load()
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

// follow makes the services anew when the site's key is there, or another.
func (p *phones) follow(ctx context.Context) {
	k, ok := p.site()
	p.mu.Lock()
	same := p.ca != nil && p.epoch == k.Epoch()
	again := p.ca != nil
	p.mu.Unlock()
	if !ok || same {
		return
	}
	ca, err := newPhoneCA(k, p.n.member.Site)
	if err != nil {
		p.complain("phones cannot fetch their settings: %v", err)
		return
	}
	if again {
		p.complain("the site's key was changed: its phones trust this box again once they were started with the window open (ccnode phone window open)")
	}
	p.mu.Lock()
	p.ca, p.epoch, p.key = ca, k.Epoch(), k
	p.mu.Unlock()
	p.leaf.trust(ca)
	urls := fromSiteKey(k, "ccnode phone URLs 1")
	for _, l := range p.lans {
		if err := p.renew(ctx, l, ca, urls[:]); err != nil {
			p.complain("phones cannot fetch their settings at %s: %v", l.addr, err)
		}
	}
}

func (p *phones) renew(ctx context.Context, l *phoneLAN, ca *phoneCA, urls []byte) error {
	cfg := &p.n.cfg
	s, err := provision.New(provision.Config{
		Now: p.n.now, Rand: p.n.rand, Log: p.log, CA: ca.pem, Key: urls,
		HTTP:  netip.AddrPortFrom(l.addr, uint16(cfg.PhoneHTTP)),
		HTTPS: netip.AddrPortFrom(l.addr, uint16(cfg.PhoneHTTPS)),
		LAN:   func(a netip.Addr) (netip.Prefix, bool) { return l.net, l.net.Contains(a) },
		Phone: func(ctx context.Context, m provision.MAC) (*provision.Phone, error) { return p.phone(ctx, m, l) },
	})
	if err != nil {
		return err
	}
	sctx, stop := context.WithCancel(ctx)
	if old := l.now.Swap(&phoneService{s, s.HTTP(), s.HTTPS(), stop}); old != nil {
		old.stop()
	}
	if !l.pnp {
		return nil
	}
	group, own, err := provision.ListenPnP(l.ifi, l.addr)
	if err != nil {
		p.complain("phones that ask by multicast are not heard: %v; type the address that \"ccnode phone window show\" names into each phone", err)
		return nil
	}
	p.mu.Lock()
	if !slices.Contains(p.heard, l.addr) {
		p.heard = append(p.heard, l.addr)
	}
	p.mu.Unlock()
	p.wg.Go(func() { // ends with sctx
		if err := s.ServePnP(sctx, group, own); err != nil {
			p.complain("phones that ask by multicast are not heard any more: %v; start this box again", err)
		}
	})
	return nil
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
