package b2bua_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/phonetest"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/stack"
)

// relay is an Anchor of plain UDP sockets: what comes to one port leaves from
// the one it is bridged with.
type relay struct {
	mu   sync.Mutex
	open int
}

type relayPort struct {
	r       *relay
	conn    *net.UDPConn
	remote  netip.AddrPort
	bridged *relayPort
	version int
}

func (r *relay) NewPort(p sipcore.PortParams) (sipcore.Port, error) {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.Local, 0)))
	if err != nil {
		return nil, err
	}
	x := &relayPort{r: r, conn: conn}
	r.mu.Lock()
	r.open++
	r.mu.Unlock()
	go x.read() // ends when Close closes the socket
	return x, nil
}

func (r *relay) Bridge(a, b sipcore.Port) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, y := a.(*relayPort), b.(*relayPort)
	x.bridged, y.bridged = y, x
	return nil
}

func (r *relay) ports() int { r.mu.Lock(); defer r.mu.Unlock(); return r.open }

func (x *relayPort) read() {
	var b [2048]byte
	for {
		n, _, err := x.conn.ReadFromUDPAddrPort(b[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		x.r.mu.Lock()
		if y := x.bridged; err == nil && y != nil && y.remote.IsValid() {
			y.conn.WriteToUDPAddrPort(b[:n], y.remote)
		}
		x.r.mu.Unlock()
	}
}

func (x *relayPort) SetRemote(sdp []byte) error {
	var addr netip.Addr
	var port int
	for line := range strings.SplitSeq(strings.ReplaceAll(string(sdp), "\r", ""), "\n") {
		if f := strings.Fields(line); strings.HasPrefix(line, "c=") && len(f) == 3 {
			addr, _ = netip.ParseAddr(f[2])
		} else if strings.HasPrefix(line, "m=audio") && len(f) > 3 {
			port, _ = strconv.Atoi(f[1])
		}
	}
	if !addr.IsValid() {
		return site.BadRequest
	}
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	x.remote = netip.AddrPortFrom(addr, uint16(port))
	return nil
}

// Local is the template with this port's address, or PCMU.
func (x *relayPort) Local(template []byte) ([]byte, error) {
	at := x.conn.LocalAddr().(*net.UDPAddr).AddrPort()
	x.version++
	head := fmt.Sprintf("v=0\r\no=- 1 %d IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\n", x.version, at.Addr(), at.Addr())
	audio := fmt.Sprintf("m=audio %d RTP/AVP ", at.Port())
	if template == nil {
		return []byte(head + audio + "0 101\r\na=rtpmap:101 telephone-event/8000\r\n"), nil
	}
	var b strings.Builder
	b.WriteString(head)
	seen := false
	for line := range strings.SplitSeq(strings.ReplaceAll(string(template), "\r", ""), "\n") {
		switch {
		case strings.HasPrefix(line, "m=audio"):
			seen = true
			b.WriteString(audio + strings.Join(strings.Fields(line)[3:], " ") + "\r\n")
		case seen && strings.HasPrefix(line, "a=") && !strings.HasPrefix(line, "a=rtcp"):
			b.WriteString(line + "\r\n")
		}
	}
	return []byte(b.String()), nil
}

func (x *relayPort) Close() error {
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	x.r.open--
	if y := x.bridged; y != nil {
		y.bridged = nil
	}
	return x.conn.Close()
}

// realShop is one node on loopback sockets, with real registrations.
func realShop(t *testing.T) (*stack.Stack, *relay, *node, netip.AddrPort) {
	t.Helper()
	w := newWorld(t)
	n := &node{w: w, suspects: map[site.ID]bool{}}
	n.id = site.NodeID{1}
	n.site = route.Site{Code: "0001", ExtLen: 3, Nodes: []site.NodeID{n.id}}
	copy(n.site.ID[:], "0001")
	w.nodes[n.id] = n
	n.addr = netip.MustParseAddrPort("127.0.0.1:0")
	w.user(n, "201", "ana")
	w.user(n, "202", "bob")
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("CCNODE_DEBUG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	r := &relay{}
	s, err := stack.New(stack.Config{Node: n.id, Listen: []netip.AddrPort{n.addr}, View: view{n}, Location: n, Credentials: secrets{w}, Anchor: r,
		Reach: n, Records: n, MediaAddr: n.addr.Addr, Summaries: empty{}, Log: log, Now: time.Now, Rand: rand.Reader, Grace: time.Second,
		Feature: func(ctx context.Context, name site.FeatureName, c *b2bua.Call) error { return n.feature(ctx, name, c) }})
	if err != nil {
		t.Fatal(err)
	}
	s.Serve(func(err error) { t.Error(err) })
	for _, a := range s.Addrs() {
		if tcp, ok := strings.CutPrefix(a, "udp:"); ok {
			return s, r, n, netip.MustParseAddrPort(tcp)
		}
	}
	t.Fatal("no UDP socket")
	return nil, nil, nil, netip.AddrPort{}
}

type empty struct{}

func (empty) Summary(site.RecordID) site.Summary { return site.Summary{} }

func registered(t *testing.T, ctx context.Context, at netip.AddrPort, u *user, tone float64) *phonetest.Phone {
	t.Helper()
	p, err := phonetest.New(phonetest.Config{Name: u.Name, User: u.AOR.User, Password: "pw", Domain: domain, Servers: []netip.AddrPort{at}, Tone: tone, NoRefresh: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	if err := p.Register(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

// The whole way on real sockets: registered by password, called by extension,
// heard in both directions, held, resumed, keys pressed, hung up.
func TestTwoTelephonesTalkThroughTheNode(t *testing.T) {
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	s, r, n, at := realShop(t)
	a := registered(t, ctx, at, n.w.users[0], 440)
	b := registered(t, ctx, at, n.w.users[1], 1000)
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	out, err := a.DialStart(ctx, "202")
	must("dial", err)
	in := <-b.Incoming()
	if user, name := in.Caller(); user != "201" || name != "ana" {
		t.Errorf("bob sees %q %q", user, name)
	}
	must("ring", in.Ring())
	must("ringing", out.WaitRinging(ctx))
	must("answer", in.Answer(ctx))
	must("answered", out.WaitAnswered(ctx))
	must("ana hears bob", out.Hears(ctx, 1000))
	must("bob hears ana", in.Hears(ctx, 440))
	if out.RemoteMedia() == in.RemoteMedia() || s.Count() != 1 || r.ports() != 2 {
		t.Errorf("%d calls, %d ports", s.Count(), r.ports())
	}
	must("keys", out.Press(ctx, "15#"))
	must("keys heard", in.WaitKeys(ctx, "15#"))
	must("hold", out.Hold(ctx))
	must("silence on hold", out.HearsSilence(ctx, 300*time.Millisecond))
	must("resume", out.Resume(ctx))
	must("ana hears bob again", out.Hears(ctx, 1000))
	must("bob hears ana again", in.Hears(ctx, 440))
	must("hang up", in.Hangup(ctx))
	select {
	case <-out.Done():
	case <-ctx.Done():
		t.Error("ana was not told that bob hung up")
	}
	a.Close()
	b.Close()
	s.Close()
	if r.ports() != 0 || s.Count() != 0 {
		t.Errorf("%d ports, %d calls are left", r.ports(), s.Count())
	}
	for runtime.NumGoroutine() > before && ctx.Err() == nil {
		runtime.Gosched()
	}
	if left := runtime.NumGoroutine() - before; left > 0 {
		buf := make([]byte, 1<<16)
		t.Errorf("%d goroutines are left:\n%s", left, buf[:runtime.Stack(buf, true)])
	}
}

func TestBusyAndDecline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	s, r, n, at := realShop(t)
	defer s.Close()
	a := registered(t, ctx, at, n.w.users[0], 440)
	b := registered(t, ctx, at, n.w.users[1], 1000)
	for _, status := range []int{486, 603} {
		go func() { (<-b.Incoming()).Reject(status) }()
		var no *phonetest.Refusal
		if _, err := a.Dial(ctx, "202"); !errors.As(err, &no) || no.Status != 486 {
			t.Errorf("%d: %v", status, err)
		}
	}
	if _, err := a.Dial(ctx, "299"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("no such number: %v", err)
	}
	for s.Count() > 0 && ctx.Err() == nil {
		runtime.Gosched()
	}
	if r.ports() != 0 {
		t.Errorf("%d ports are left", r.ports())
	}
}
