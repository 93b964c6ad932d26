// Package phonetest is a whole telephone, for tests and for the demonstration:
// it registers, dials, rings, answers, holds, transfers, picks up, presses keys,
// hears tones and shows the message lamp. It speaks real SIP and RTP on real sockets, with a
// media endpoint of its own that shares nothing with the product's.
//
// Its law: it behaves as the standards say, not as our server would like it.
// It retries at its next server what nobody answers within Config.Patience,
// and registers there.
//
// RFC 3261, 3264, 3515, 3550, 3551 (PCMU only), 3842, 3891, 4733, 5589 and 6665.
//
// In use:
//
//	ana, err := phonetest.New(phonetest.Config{User: "0001201", Password: "…", Servers: …, Tone: 440})
//	defer ana.Close()
//	err = ana.Register(ctx)
//	c, err := ana.Dial(ctx, "202")
//	err = c.Hears(ctx, 1000)
//	err = c.Hangup(ctx)
package phonetest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// Config says whose telephone it is. Only User is needed for one that is dialled
// by its address.
type Config struct {
	Name     string           // display name
	Servers  []netip.AddrPort // best first; none: calls go straight to addresses
	Domain   string           // of its AOR; "": the server's address
	User     string           // user part of its AOR
	AuthUser string           // digest user name; "": User
	Password string

	Local     netip.Addr     // address to use; default: the one that reaches the server
	Transport site.Transport // site.UDP (default) or site.TCP
	Tone      float64        // Hz it speaks with; 0: silence
	Expires   time.Duration  // asked for; default 90 s
	Patience  time.Duration  // without any answer before the next server is tried; default 1 s
	NoRefresh bool           // registration and subscription are not renewed by themselves

	// Listen binds datagram sockets for SIP and RTP, port 0 is any; default: the
	// system's. With it, Transport is UDP.
	Listen func(netip.AddrPort) (edge.PacketConn, error)

	Logger *slog.Logger     // default: discards
	Now    func() time.Time // default time.Now
	Rand   io.Reader        // default crypto/rand.Reader
}

// A Phone is one telephone with one line. Its methods may be called from any goroutine.
type Phone struct {
	// set by New, then constant
	cfg      Config
	log      *slog.Logger
	edge     *edge.Edge
	layer    *transaction.Layer
	local    edge.Local
	instance string
	tone     atomic.Uint64 // math.Float64bits
	incoming chan *Call
	sent     chan *Call      // calls made because a REFER asked for them
	ctx      context.Context // the phone's life
	cancel   context.CancelCauseFunc
	wg       sync.WaitGroup
	served   chan struct{}

	mu        sync.Mutex
	server    int // index in Servers of the one that answered last
	calls     map[string]*Call
	referrals map[string]*referral // by Call-ID: the newest REFER of each call
	texts     []string
	syncs     []string
	auth      map[string]*authentication // by method
	closed    bool
	reg       registration
	lamp      lamp
	regTurn   chan struct{} // holds one token: one REGISTER at a time
	mwiTurn   chan struct{}
}

var (
	errClosed   = errors.New("the phone is closed")
	errOver     = errors.New("the call is over")
	errNoServer = errors.New("no server is configured")
)

// New binds the phone's sockets and switches it on. It does not register.
func New(cfg Config) (*Phone, error) {
	if cfg.User == "" {
		return nil, errors.New("make a phone: User is empty")
	}
	if cfg.AuthUser == "" {
		cfg.AuthUser = cfg.User
	}
	if cfg.Transport == "" {
		cfg.Transport = site.UDP
	}
	if cfg.Expires == 0 {
		cfg.Expires = 90 * time.Second
	}
	if cfg.Patience == 0 {
		cfg.Patience = time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	cfg.Rand = &lockedRand{r: cfg.Rand} // the edge and the transactions read it too
	if !cfg.Local.IsValid() {
		cfg.Local = localFor(cfg.Servers)
	}
	p := &Phone{cfg: cfg, log: cfg.Logger, incoming: make(chan *Call, 16), sent: make(chan *Call, 16), served: make(chan struct{}),
		calls: map[string]*Call{}, referrals: map[string]*referral{}, auth: map[string]*authentication{}, regTurn: make(chan struct{}, 1), mwiTurn: make(chan struct{}, 1)}
	p.cfg.Name = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(cfg.Name) // as it stands between quotes
	p.tone.Store(math.Float64bits(cfg.Tone))
	p.reg.changed, p.reg.moved = make(chan struct{}), make(chan struct{}, 1)
	p.lamp.changed, p.lamp.moved = make(chan struct{}), make(chan struct{}, 1)
	p.reg.callID = p.token(16)
	id := p.token(16)
	p.instance = fmt.Sprintf("urn:uuid:%s-%s-4%s-8%s-%s", id[:8], id[8:12], id[13:16], id[17:20], id[20:])

	var err error
	listen := netip.AddrPortFrom(cfg.Local, 0)
	ec := edge.Config{Supported: []string{"replaces"}, Listen: []edge.Listen{{Transport: cfg.Transport, Addr: listen}}, Logger: cfg.Logger, Now: cfg.Now, Rand: cfg.Rand}
	if cfg.Listen != nil {
		ec.Listen = nil
	}
	if p.edge, err = edge.New(ec); err != nil {
		return nil, fmt.Errorf("make a phone: %w", err)
	}
	if cfg.Listen != nil {
		var pc edge.PacketConn
		if pc, err = cfg.Listen(listen); err == nil {
			p.edge.AddPacket(pc)
		}
	} else {
		err = p.edge.Listen()
	}
	if err != nil {
		return nil, fmt.Errorf("make a phone: %w", err)
	}
	at := p.edge.Addrs()[0]
	p.local = edge.Local{Transport: at.Transport, Host: message.Host(at.Addr.Addr()), Port: int(at.Addr.Port())}
	p.layer = transaction.New(transaction.Config{Edge: p.edge, OnRequest: p.request, OnAck: p.ack, Logger: cfg.Logger, Now: cfg.Now, Rand: cfg.Rand})
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	go func() { // ends with ctx; Close waits
		defer close(p.served)
		if err := p.edge.Serve(p.ctx, p.layer); err != nil && p.ctx.Err() == nil {
			p.log.Error("The phone's SIP socket failed", "err", err)
		}
	}()
	return p, nil
}

// localFor is the address that the system would use towards the first server.
func localFor(servers []netip.AddrPort) netip.Addr {
	if len(servers) > 0 {
		if c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(servers[0])); err == nil {
			defer c.Close()
			return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// Close switches the phone off as pulling its plug does: it says nothing to
// anybody. It returns when no goroutine of the phone is left.
func (p *Phone) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		<-p.served
		return nil
	}
	p.closed = true
	calls := p.list()
	p.mu.Unlock()
	p.cancel(errClosed)
	for _, c := range calls {
		c.end(End{Here: true, Err: errClosed})
	}
	<-p.served
	p.wg.Wait()
	p.layer.Wait()
	return nil
}

func (p *Phone) list() (out []*Call) {
	for _, c := range p.calls {
		out = append(out, c)
	}
	return out
}

// spawn starts f unless the phone is closed; Close waits for it.
func (p *Phone) spawn(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.wg.Go(f)
	return true
}

// token is n random bytes in hexadecimal.
func (p *Phone) token(n int) string {
	b := make([]byte, n)
	if _, err := io.ReadFull(p.cfg.Rand, b); err != nil {
		panic("phonetest: random source failed: " + err.Error())
	}
	return hex.EncodeToString(b)
}

// Addr is where the phone listens for SIP.
func (p *Phone) Addr() netip.AddrPort { return p.edge.Addrs()[0].Addr }

// URI is how the phone is dialled directly.
func (p *Phone) URI() string { u := p.contact(); return u.String() }

func (p *Phone) contact() sip.Uri { return p.local.URI(p.cfg.User) }

// Incoming delivers calls to this phone. While 16 wait there, more are busy.
func (p *Phone) Incoming() <-chan *Call { return p.incoming }

// Play makes the phone speak with a tone of freq Hz, in every call.
func (p *Phone) Play(freq float64) { p.tone.Store(math.Float64bits(freq)) }

// Mute makes the phone send silence.
func (p *Phone) Mute() { p.Play(0) }

// Server is the server that answered last; the zero value without servers.
func (p *Phone) Server() netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.cfg.Servers) == 0 {
		return netip.AddrPort{}
	}
	return p.cfg.Servers[p.server]
}

// aor is the phone's own name.
func (p *Phone) aor() sip.Uri {
	u := sip.Uri{Scheme: "sip", User: p.cfg.User, Host: p.cfg.Domain}
	if u.Host == "" {
		s := p.Server()
		if !s.IsValid() {
			return sip.Uri{Scheme: "sip", User: p.cfg.User, Host: p.local.Host, Port: p.local.Port}
		}
		u.Host, u.Port = message.Host(s.Addr()), int(s.Port())
	}
	return u
}

// uri makes what a person dials a URI; direct says that it is not for the server.
func (p *Phone) uri(dialled string) (u sip.Uri, direct bool, err error) {
	if strings.HasPrefix(dialled, "sip:") {
		if u, err = message.ParseURI(dialled); err != nil {
			return u, false, fmt.Errorf("dial %s: %w", dialled, err)
		}
		_, direct = message.Addr(u.Host)
		for _, s := range p.cfg.Servers {
			if u.Host == message.Host(s.Addr()) && (u.Port == int(s.Port()) || u.Port == 0) {
				direct = false
			}
		}
		return u, direct, nil
	}
	u = p.aor()
	u.User = strings.ReplaceAll(dialled, "#", "%23")
	return u, false, nil
}
