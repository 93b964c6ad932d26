package transaction_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/edge/edgetest"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// An end is one SIP element on a network in memory.
type end struct {
	t    *testing.T
	e    *edge.Edge
	l    *transaction.Layer
	addr netip.AddrPort
	stop func()

	mu    sync.Mutex
	acks  []*sip.Request
	stray []*sip.Response
}

func newEnd(t *testing.T, n *edgetest.Net, addr string, serve func(*transaction.ServerTx), more ...func(*transaction.Config)) *end {
	t.Helper()
	x := &end{t: t, addr: netip.MustParseAddrPort(addr)}
	e, err := edge.New(edge.Config{Dial: n.Dialer(x.addr.Addr().String()), Limits: edge.Limits{PerSource: 1e6, SourceBurst: 1e6, Total: 1e6, TotalBurst: 1e6}})
	if err != nil {
		t.Fatal(err)
	}
	e.AddPacket(n.UDP(addr))
	e.AddListener(n.TCP(addr), site.TCP)
	cfg := transaction.Config{Edge: e, OnRequest: serve,
		OnAck:   func(a *sip.Request, _ *edge.Flow) { x.mu.Lock(); x.acks = append(x.acks, a); x.mu.Unlock() },
		OnStray: func(r *sip.Response, _ *edge.Flow) { x.mu.Lock(); x.stray = append(x.stray, r); x.mu.Unlock() },
	}
	for _, m := range more {
		m(&cfg)
	}
	x.e, x.l = e, transaction.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); e.Serve(ctx, x.l) }()
	x.stop = func() { cancel(); <-over; x.l.Wait() }
	return x
}

func (x *end) ackCount() int { x.mu.Lock(); defer x.mu.Unlock(); return len(x.acks) }

var calls int

func request(method sip.RequestMethod, to string) *sip.Request {
	calls++
	req := sip.NewRequest(method, sip.Uri{Scheme: "sip", User: "bob", Host: to})
	req.AppendHeader(&sip.FromHeader{Address: sip.Uri{Scheme: "sip", User: "alice", Host: "a.example"}, Params: sip.HeaderParams{{K: "tag", V: "f1"}}})
	req.AppendHeader(&sip.ToHeader{Address: sip.Uri{Scheme: "sip", User: "bob", Host: "b.example"}})
	id := sip.CallIDHeader(fmt.Sprintf("call-%d", calls))
	req.AppendHeader(&id)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: 1, MethodName: method})
	mf := sip.MaxForwardsHeader(70)
	req.AppendHeader(&mf)
	req.SetBody(nil)
	return req
}

func udp(x *end) edge.Dest { return edge.Dest{Transport: site.UDP, Addr: x.addr} }
func tcp(x *end) edge.Dest { return edge.Dest{Transport: site.TCP, Addr: x.addr} }

func statuses(tx *transaction.ClientTx) (out []int) {
	for r := range tx.Responses() {
		out = append(out, r.StatusCode)
		if r.StatusCode >= 200 {
			break
		}
	}
	return
}

// tap counts datagrams by method or status, per direction.
func tap(n *edgetest.Net) func(prefix string) []time.Time {
	var mu sync.Mutex
	type seen struct {
		at   time.Time
		line string
	}
	var all []seen
	n.Tap = func(_, _ netip.AddrPort, b []byte) {
		line, _, _ := strings.Cut(string(b), "\r\n")
		mu.Lock()
		all = append(all, seen{time.Now(), line})
		mu.Unlock()
	}
	return func(prefix string) (out []time.Time) {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range all {
			if strings.HasPrefix(s.line, prefix) {
				out = append(out, s.at)
			}
		}
		return
	}
}

func ends(t *testing.T, serve func(*transaction.ServerTx), more ...func(*transaction.Config)) (*edgetest.Net, *end, *end) {
	n := edgetest.New()
	return n, newEnd(t, n, "10.0.0.1:5060", func(tx *transaction.ServerTx) { tx.Respond(tx.Response(501, "")) }), newEnd(t, n, "10.0.0.2:5060", serve, more...)
}

func TestRequestIsAnswered(t *testing.T) {
	for _, to := range []func(*end) edge.Dest{udp, tcp} {
		synctest.Test(t, func(t *testing.T) {
			_, a, b := ends(t, func(tx *transaction.ServerTx) {
				if err := tx.Respond(tx.Response(200, "")); err != nil {
					t.Error(err)
				}
			})
			defer a.stop()
			defer b.stop()
			tx := a.l.Request(t.Context(), request(sip.OPTIONS, "10.0.0.2"), to(b))
			if got := fmt.Sprint(statuses(tx)); got != "[200]" || tx.Err() != nil {
				t.Errorf("got %s, %v", got, tx.Err())
			}
			time.Sleep(40 * time.Second)
			synctest.Wait()
			if s, c := b.l.Open(); s != 0 || c != 0 {
				t.Errorf("%d server and %d client transactions are still kept", s, c)
			}
		})
	}
}
