package edge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/edge/edgetest"
	"carrierclass.net/ccnode/sipcore/message"
)

const options = "OPTIONS sip:a@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bKx\r\nFrom: <sip:b@example.com>;tag=1\r\n" +
	"To: <sip:a@example.com>\r\nCall-ID: 1@x\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"

// answering is a handler that answers every request 200, by way of an Edge.
type answering struct {
	recorder
	e      *edge.Edge
	body   int
	panics bool
	flows  chan *edge.Flow
	closed atomic.Int64
}

func (a *answering) HandleRequest(req *sip.Request, f *edge.Flow, raw []byte) {
	a.recorder.HandleRequest(req, f, raw)
	if a.flows != nil {
		a.flows <- f
	}
	if a.panics {
		panic("a bug")
	}
	res := message.NewResponse(req, 200, "", "t")
	if a.body > 0 {
		res.SetBody(bytes.Repeat([]byte("b"), a.body))
	}
	a.e.Send(res, f.Reply())
}

func (a *answering) FlowClosed(*edge.Flow) { a.closed.Add(1) }

func answer(t *testing.T, n *edgetest.Net, change ...func(*edge.Config)) *answering {
	h := &answering{}
	h.e = world(t, n, h, change...)
	return h
}

// A client is the other end of a connection.
type client struct {
	net.Conn
	got chan string // what was read, until it is closed
}

func dial(t *testing.T, n *edgetest.Net, from string) *client {
	t.Helper()
	c, err := n.Dialer(from)(t.Context(), netip.MustParseAddrPort("10.0.0.1:5060"))
	if err != nil {
		t.Fatal(err)
	}
	x := &client{c, make(chan string, 1000)}
	go func() {
		defer close(x.got)
		buf := make([]byte, 65536)
		for {
			n, err := c.Read(buf)
			if n > 0 {
				x.got <- string(buf[:n])
			}
			if err != nil {
				return
			}
		}
	}()
	return x
}

// all returns what came until now, and whether the connection was closed.
func (c *client) all() (text string, closed bool) {
	synctest.Wait()
	for {
		select {
		case s, ok := <-c.got:
			if !ok {
				return text, true
			}
			text += s
		default:
			return text, false
		}
	}
}

// TestAStrangerNeverGetsSomebodyElsesRequest: idle connections from the very
// address that a request is for, and from its host, hear nothing of it.
func TestAStrangerNeverGetsSomebodyElsesRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := edgetest.New()
		h := answer(t, n)
		stranger, neighbour := dial(t, n, "10.0.0.66"), dial(t, n, "10.0.0.7")
		defer stranger.Close()
		defer neighbour.Close()
		io.WriteString(stranger, strings.Replace(options, "UDP", "TCP", 1))
		stranger.all()
		for _, to := range []string{stranger.LocalAddr().String(), neighbour.LocalAddr().String(), "10.0.0.7:5060", "10.0.0.1:5060"} {
			msg, _ := message.Parse([]byte(options), false)
			err := h.e.Send(msg, edge.Dest{Transport: site.TCP, Addr: netip.MustParseAddrPort(to)})
			if to != "10.0.0.1:5060" && err == nil {
				t.Errorf("sent to %s, where nobody listens", to)
			}
		}
		for _, c := range []*client{stranger, neighbour} {
			if got, _ := c.all(); got != "" {
				t.Errorf("%s was sent %q", c.LocalAddr(), got)
			}
		}
	})
}

// TestRequestsGoOutOnTheNamedFlow and nowhere else, and end with it.
func TestRequestsGoOutOnTheNamedFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := edgetest.New()
		h := answer(t, n)
		h.flows = make(chan *edge.Flow, 2)
		one, two := dial(t, n, "10.0.0.9"), dial(t, n, "10.0.0.9")
		defer two.Close()
		io.WriteString(one, strings.Replace(options, "UDP", "TCP", 1))
		f := <-h.flows
		io.WriteString(two, strings.Replace(options, "UDP", "TCP", 1))
		g := <-h.flows
		one.all()
		two.all()
		if f.Name == g.Name || f.Same(g) || h.e.Flow(f.Name) != f {
			t.Fatalf("flows %+v and %+v", f, g)
		}
		msg, _ := message.Parse([]byte(options), false)
		if err := h.e.Send(msg, f.Dest()); err != nil {
			t.Fatal(err)
		}
		if got, _ := one.all(); !strings.HasPrefix(got, "OPTIONS") {
			t.Errorf("the flow got %q", got)
		}
		if got, _ := two.all(); got != "" {
			t.Errorf("the other flow got %q", got)
		}
		one.Close()
		synctest.Wait()
		<-f.Closed()
		if err := h.e.Send(msg, f.Dest()); err == nil || h.e.Flow(f.Name) != nil || h.closed.Load() != 1 {
			t.Errorf("a dead flow took a message: %v", err)
		}
	})
}

func TestResponsesGoBackTheWayTheyCame(t *testing.T) {
	for _, c := range []struct{ via, to, want string }{
		{"10.0.0.9:5060;branch=z9hG4bKx", "10.0.0.9:5060", "10.0.0.9:5060;branch=z9hG4bKx"},
		{"10.0.0.9;branch=z9hG4bKx", "10.0.0.9:5060", "10.0.0.9;branch=z9hG4bKx"},
		{"10.0.0.9:7000;branch=z9hG4bKx", "10.0.0.9:7000", "10.0.0.9:7000;branch=z9hG4bKx"},
		{"10.0.0.9:7000;branch=z9hG4bKx;rport", "10.0.0.9:4711", "10.0.0.9:7000;branch=z9hG4bKx;rport=4711;received=10.0.0.9"},
		{"192.168.5.5:7000;rport;branch=z9hG4bKx", "10.0.0.9:4711", "192.168.5.5:7000;rport=4711;branch=z9hG4bKx;received=10.0.0.9"},
		{"phone.example:7000;branch=z9hG4bKx", "10.0.0.9:7000", "phone.example:7000;branch=z9hG4bKx;received=10.0.0.9"},
		{"192.168.5.5;branch=z9hG4bKx;received=10.6.6.6;maddr=10.6.6.6", "10.0.0.9:5060", "192.168.5.5;branch=z9hG4bKx;received=10.0.0.9;maddr=10.6.6.6"},
		{"[::ffff:10.0.0.9]:7000;branch=z9hG4bKx", "10.0.0.9:7000", "[::ffff:10.0.0.9]:7000;branch=z9hG4bKx"},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := edgetest.New()
			answer(t, n)
			phone := n.UDP("10.0.0.9:4711")
			defer phone.Close()
			var to, via string
			n.Tap = func(from, dst netip.AddrPort, b []byte) {
				if from.Port() == 5060 && from.Addr().String() == "10.0.0.1" {
					to = dst.String()
					_, via, _ = strings.Cut(string(b), "Via: SIP/2.0/UDP ")
					via, _, _ = strings.Cut(via, "\r\n")
				}
			}
			phone.WriteToUDPAddrPort([]byte(strings.Replace(options, "10.0.0.9:5060;branch=z9hG4bKx", c.via, 1)), netip.MustParseAddrPort("10.0.0.1:5060"))
			synctest.Wait()
			if to != c.to || via != c.want {
				t.Errorf("%s: answered to %s with %s; want %s with %s", c.via, to, via, c.to, c.want)
			}
		})
	}
}

func TestLargeAnswersAreSentOverUDP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := edgetest.New()
		h := answer(t, n)
		h.body = 4000
		size := 0
		n.Tap = func(from, _ netip.AddrPort, b []byte) {
			if from.Addr().String() == "10.0.0.1" {
				size = len(b)
			}
		}
		phone := n.UDP("10.0.0.9:5060")
		defer phone.Close()
		phone.WriteToUDPAddrPort([]byte(options), netip.MustParseAddrPort("10.0.0.1:5060"))
		synctest.Wait()
		if size < 4000 {
			t.Errorf("an answer of %d octets", size)
		}
	})
}

func TestKeepAliveOnStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := edgetest.New()
		h := answer(t, n)
		c := dial(t, n, "10.0.0.9")
		defer c.Close()
		io.WriteString(c, "\r\n\r\n")
		if got, _ := c.all(); got != "\r\n" {
			t.Errorf("pong %q", got)
		}
		io.WriteString(c, "\r\n")
		if got, _ := c.all(); got != "" {
			t.Errorf("a pong was answered %q", got)
		}
		io.WriteString(c, strings.Replace(options, "UDP", "TCP", 1))
		if got, _ := c.all(); !strings.HasPrefix(got, "SIP/2.0 200") || len(h.take()) != 1 {
			t.Errorf("after a ping: %q", got)
		}
	})
}

func TestDeadlines(t *testing.T) {
	for _, c := range []struct {
		name   string
		do     func(c *client, h *answering)
		closed time.Duration
	}{
		{"silent", func(*client, *answering) {}, 10 * time.Second},
		{"dripping", func(c *client, _ *answering) {
			for i := range 100 {
				if _, err := io.WriteString(c, options[i:i+1]); err != nil {
					return
				}
				time.Sleep(700 * time.Millisecond)
			}
		}, 10 * time.Second},
		{"pinging and nothing else", func(c *client, _ *answering) {
			for range 30 {
				io.WriteString(c, "\r\n\r\n")
				time.Sleep(10 * time.Second)
			}
		}, 5*time.Minute + 110*time.Second}, // idle runs from the last ping
		{"one message, then idle", func(c *client, _ *answering) { io.WriteString(c, options) }, 2 * time.Minute},
		{"kept", func(c *client, h *answering) {
			h.flows = make(chan *edge.Flow, 2)
			io.WriteString(c, options)
			f := <-h.flows
			f.Keep()
			io.WriteString(c, options)
		}, 30 * time.Minute},
		{"half a message", func(c *client, _ *answering) { io.WriteString(c, options+options[:50]) }, 10 * time.Second},
		{"length without body", func(c *client, _ *answering) {
			io.WriteString(c, strings.Replace(options, "Length: 0", "Length: 9999", 1))
		}, 10 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := edgetest.New()
				h := answer(t, n)
				x := dial(t, n, "10.0.0.9")
				defer x.Close()
				begin := time.Now()
				ended := make(chan time.Duration, 1)
				go func() {
					for range x.got {
					}
					ended <- time.Since(begin)
				}()
				did := make(chan bool)
				go func() { defer close(did); c.do(x, h) }()
				defer func() { <-did }()
				if got := <-ended; got != c.closed {
					t.Errorf("closed after %s, want %s", got, c.closed)
				}
			})
		})
	}
}

func TestConnectionCaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := edgetest.New()
		answer(t, n, func(c *edge.Config) { c.Limits.Conns = 50 })
		var open []*client
		count := func() (n int) {
			for _, c := range open {
				if _, closed := c.all(); !closed {
					n++
				}
			}
			return
		}
		for range 30 {
			open = append(open, dial(t, n, "10.0.0.66"))
		}
		if got := count(); got != 20 {
			t.Errorf("one address has %d connections, want 20", got)
		}
		phone := dial(t, n, "10.0.0.9")
		defer phone.Close()
		io.WriteString(phone, options)
		if got, _ := phone.all(); !strings.HasPrefix(got, "SIP/2.0 200") {
			t.Errorf("another phone got %q", got)
		}
		for i := range 60 {
			open = append(open, dial(t, n, fmt.Sprint("10.0.1.", i)))
		}
		if got := count(); got != 49 {
			t.Errorf("%d connections beside the phone's, want 49", got)
		}
		for _, c := range open {
			c.Close()
		}
		synctest.Wait()
		again := dial(t, n, "10.0.0.66")
		defer again.Close()
		io.WriteString(again, options)
		if got, _ := again.all(); !strings.HasPrefix(got, "SIP/2.0 200") {
			t.Errorf("places were not freed: %q", got)
		}
	})
}

func TestSlowReaderLosesItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := edgetest.New()
		h := answer(t, n)
		h.flows = make(chan *edge.Flow, 1)
		c, err := n.Dialer("10.0.0.9")(t.Context(), netip.MustParseAddrPort("10.0.0.1:5060")) // never read
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, options)
		f := <-h.flows
		begin := time.Now()
		var failed error
		for i := 0; i < 1000 && failed == nil; i++ {
			failed = h.e.Write(make([]byte, 1000), f.Dest())
		}
		if failed == nil || time.Since(begin) != 0 {
			t.Errorf("a megabyte was queued: %v; writing waited %s", failed, time.Since(begin))
		}
		<-f.Closed()
	})
}

// failing is a listener that runs out of file descriptors for a while.
type failing struct {
	net.Listener
	fails atomic.Int64
}

func (f *failing) Accept() (net.Conn, error) {
	if f.fails.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return f.Listener.Accept()
}

func TestOutOfFileDescriptorsIsNotTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := edgetest.New()
		h := &answering{}
		e, err := edge.New(edge.Config{})
		if err != nil {
			t.Fatal(err)
		}
		h.e = e
		l := &failing{Listener: n.TCP("10.0.0.1:5060")}
		l.fails.Store(50)
		e.AddListener(l, site.TCP)
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error)
		go func() { over <- e.Serve(ctx, h) }()
		c := dial(t, n, "10.0.0.9")
		io.WriteString(c, options)
		if got, _ := c.all(); !strings.HasPrefix(got, "SIP/2.0 200") {
			t.Errorf("got %q", got)
		}
		cancel()
		if err := <-over; err != nil {
			t.Errorf("Serve ended with %v", err)
		}
		c.Close()
	})
}

func TestPanicIs500AndLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := edgetest.New()
		var log bytes.Buffer
		h := answer(t, n, func(c *edge.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		h.panics = true
		c := dial(t, n, "10.0.0.9")
		defer c.Close()
		io.WriteString(c, options+options)
		got, closed := c.all()
		if strings.Count(got, "SIP/2.0 500") != 2 || closed {
			t.Errorf("closed %v, got %q", closed, got)
		}
		if n := strings.Count(log.String(), "made a handler panic"); n != 2 {
			t.Errorf("logged %d times", n)
		}
	})
}

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := edgetest.New()
		known := netip.MustParseAddr("10.0.0.9")
		h := answer(t, n, func(c *edge.Config) {
			c.Limits = edge.Limits{PerSource: 10, SourceBurst: 20, Total: 100, TotalBurst: 100, Emergencies: 5,
				Known: func(a netip.Addr) bool { return a == known }, Emergency: edge.EmergencyNumbers("112")}
		})
		send := func(from string, count int, raw string) int {
			s := n.UDP(from + ":5060")
			defer s.Close()
			for range count {
				s.WriteToUDPAddrPort([]byte(raw), netip.MustParseAddrPort("10.0.0.1:5060"))
			}
			synctest.Wait()
			return len(h.take())
		}
		if got := send("10.0.0.66", 1000, options); got != 20 {
			t.Errorf("one source got %d messages in at once, want 20", got)
		}
		time.Sleep(time.Second)
		if got := send("10.0.0.66", 1000, options); got != 10 {
			t.Errorf("%d a second later, want 10", got)
		}
		for i := range 50 {
			send(fmt.Sprintf("10.0.7.%d", i), 20, options)
		}
		if got := send("10.0.8.1", 5, options); got != 0 {
			t.Errorf("%d from a stranger over the total", got)
		}
		if got := send(known.String(), 5, options); got != 5 {
			t.Errorf("%d of 5 from a phone we know", got)
		}
		urgent := strings.ReplaceAll(strings.Replace(options, "sip:a@example.com SIP", "sip:112@example.com SIP", 1), "OPTIONS", "INVITE")
		if got := send("10.0.8.2", 50, urgent); got != 5 {
			t.Errorf("%d emergency messages, want 5", got)
		}
	})
}

// TestForgedSourcesCostNoMemory sends 300,000 datagrams, each from a new source.
func TestForgedSourcesCostNoMemory(t *testing.T) {
	h := &recorder{}
	e, err := edge.New(edge.Config{})
	if err != nil {
		t.Fatal(err)
	}
	flood := &flood{count: 300000, over: make(chan struct{})}
	e.AddPacket(flood)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() { done <- e.Serve(ctx, h) }()
	<-flood.over
	h.take()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 2<<20 {
		t.Errorf("heap grew by %d kB", grown>>10)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type flood struct {
	count int
	over  chan struct{}
	at    int
	end   chan struct{}
}

func (f *flood) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	if f.at == f.count {
		close(f.over)
		f.at++
	}
	if f.at > f.count {
		if f.at++; f.at > f.count+2 {
			return 0, netip.AddrPort{}, net.ErrClosed
		}
		return 0, netip.AddrPort{}, errors.New("quiet")
	}
	f.at++
	return copy(b, "GARBAGE that is no SIP message at all\r\n\r\n"), netip.AddrPortFrom(netip.AddrFrom4([4]byte{20, byte(f.at >> 16), byte(f.at >> 8), byte(f.at)}), 5060), nil
}
func (f *flood) WriteToUDPAddrPort(b []byte, _ netip.AddrPort) (int, error) { return len(b), nil }
func (f *flood) LocalAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5060}
}
func (f *flood) Close() error { return nil }

// peers opens streams between two edges, as the mesh does.
type peers func(ctx context.Context, node site.NodeID) (net.Conn, error)

func (p peers) DialSIP(ctx context.Context, node site.NodeID) (net.Conn, error) { return p(ctx, node) }

func TestStreamsBetweenNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := edgetest.New()
		idA, idB := site.NodeID{1}, site.NodeID{2}
		b := &answering{flows: make(chan *edge.Flow, 9)}
		be, err := edge.New(edge.Config{Node: idB})
		if err != nil {
			t.Fatal(err)
		}
		b.e = be
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error)
		go func() { over <- be.Serve(ctx, b) }()
		dials := 0
		a := answer(t, n, func(c *edge.Config) {
			c.Node = idA
			c.Peers = peers(func(_ context.Context, node site.NodeID) (net.Conn, error) {
				if node != idB {
					return nil, errors.New("away")
				}
				dials++
				x, y := net.Pipe()
				go be.ServeConn(y, idA)
				return x, nil
			})
		})
		to := edge.Dest{Peer: idB}
		local, err := a.e.Local(to)
		if err != nil || local.Host != idA.String()+".node.invalid" {
			t.Fatal(local, err)
		}
		msg, _ := message.Parse([]byte(strings.Replace(options, "SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bKx", local.Via("z9hG4bKm").Value(), 1)), false)
		for range 3 {
			if err := a.e.Send(msg, to); err != nil {
				t.Fatal(err)
			}
		}
		f := <-b.flows
		if f.Peer != idA || f.Transport != site.Mesh {
			t.Errorf("came from %s %s", f.Transport, f.Peer)
		}
		synctest.Wait()
		if got := len(a.take()); got != 3 || dials != 1 {
			t.Errorf("%d answers, %d dials", got, dials)
		}
		// The same stream serves the other way.
		if err := b.e.Send(msg, edge.Dest{Peer: idA}); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := a.take(); len(got) != 1 {
			t.Errorf("%d requests the other way", len(got))
		}
		time.Sleep(24 * time.Hour) // quiet streams between nodes stay
		if err := a.e.Send(msg, to); err != nil || dials != 1 {
			t.Errorf("%v, %d dials", err, dials)
		}
		if err := a.e.Send(msg, edge.Dest{Peer: site.NodeID{9}}); err == nil {
			t.Error("sent to a node that is away")
		}
		cancel()
		<-over
		synctest.Wait()
	})
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	first, err := edge.New(edge.Config{Listen: []edge.Listen{{site.TCP, netip.MustParseAddrPort("127.0.0.1:0")}, {site.UDP, netip.MustParseAddrPort("127.0.0.1:0")}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Listen(); err != nil {
		t.Fatal(err)
	}
	taken := first.Addrs()[1]
	second, err := edge.New(edge.Config{Listen: []edge.Listen{{site.TCP, netip.MustParseAddrPort("127.0.0.1:0")}, taken}})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Listen(); err == nil || !strings.Contains(err.Error(), taken.Addr.String()) {
		t.Errorf("got %v", err)
	}
	if _, err := edge.New(edge.Config{Listen: []edge.Listen{{"sctp", netip.AddrPort{}}}}); err == nil {
		t.Error("sctp was taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	h := &answering{e: first}
	go func() { done <- first.Serve(ctx, h) }()

	// Over the sockets of the kernel, both ways.
	for _, l := range first.Addrs() {
		c, err := net.Dial(string(l.Transport), l.Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		via := fmt.Sprintf("SIP/2.0/%s %s;rport;", strings.ToUpper(string(l.Transport)), c.LocalAddr())
		io.WriteString(c, strings.Replace(options, "SIP/2.0/UDP 10.0.0.9:5060;", via, 1))
		buf := make([]byte, 2000)
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if k, err := c.Read(buf); err != nil || !strings.HasPrefix(string(buf[:k]), "SIP/2.0 200") {
			t.Errorf("%s: %q %v", l.Transport, buf[:k], err)
		}
		c.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestOneConnectionForManyRequests: those that come while it is opened wait
// for it, and share its failure.
func TestOneConnectionForManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := edgetest.New()
		var dials atomic.Int64
		h := answer(t, n, func(c *edge.Config) {
			inner := n.Dialer("10.0.0.1")
			c.Dial = func(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
				dials.Add(1)
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return nil, ctx.Err()
				}
				return inner(ctx, a)
			}
		})
		ln := n.TCP("10.0.0.9:5060")
		defer ln.Close()
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go io.Copy(io.Discard, c)
			}
		}()
		try := func(addr string, want bool) {
			d := edge.Dest{Transport: site.TCP, Addr: netip.MustParseAddrPort(addr)}
			impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			errs := make(chan error, 10)
			go func() {
				if _, err := h.e.Connect(impatient, d); err == nil {
					t.Error("connected in no time")
				}
				errs <- nil
			}()
			synctest.Wait()
			for range 9 {
				go func() { _, err := h.e.Connect(t.Context(), d); errs <- err }()
			}
			<-errs
			for range 9 {
				if err := <-errs; (err == nil) != want {
					t.Errorf("%s: %v", addr, err)
				}
			}
		}
		try("10.0.0.9:5060", true)
		if got := dials.Swap(0); got != 2 {
			t.Errorf("%d dials, want the impatient one and one more", got)
		}
		try("10.0.0.8:5060", false)
		if got := dials.Load(); got < 2 || got > 3 {
			t.Errorf("%d dials", got)
		}
	})
}

// TestNothingIsLostBeforeServe: a stream of another node may come first.
func TestNothingIsLostBeforeServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, err := edge.New(edge.Config{})
		if err != nil {
			t.Fatal(err)
		}
		h := &answering{e: e}
		x, y := net.Pipe()
		served := make(chan bool)
		go func() { e.ServeConn(y, site.NodeID{7}); close(served) }()
		go io.WriteString(x, options)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error)
		go func() { over <- e.Serve(ctx, h) }()
		buf := make([]byte, 1000)
		if n, err := x.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "SIP/2.0 200") {
			t.Errorf("%q %v", buf[:n], err)
		}
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
		<-served
	})
}
