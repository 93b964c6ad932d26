package mwi_test

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/mwi"
	"carrierclass.net/ccnode/sipcore/phonetest"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/subscribe"
	"carrierclass.net/ccnode/sipcore/transaction"
)

var ana = sipcore.Line{AOR: site.AOR{User: "0001201", Domain: "shops.example"}, User: site.RecordID{1}}

// A shop has one user, ana, and her mailbox.
type shop struct {
	route.View
	mu  sync.Mutex
	box site.Summary
}

func (s *shop) Domain() string                         { return "shops.example" }
func (s *shop) Own() route.Site                        { return route.Site{ID: site.ID{1}, Code: "0001"} }
func (s *shop) Local(string) bool                      { return false }
func (s *shop) CodeBegins(p string) bool               { return strings.HasPrefix("0001", p) }
func (s *shop) SiteByCode(c string) (route.Site, bool) { return s.Own(), c == "0001" }
func (s *shop) Lookup(string) []route.Entry            { return nil }
func (s *shop) Summary(site.RecordID) site.Summary     { s.mu.Lock(); defer s.mu.Unlock(); return s.box }
func (s *shop) set(n, o int)                           { s.mu.Lock(); s.box = site.Summary{New: n, Old: o}; s.mu.Unlock() }
func (s *shop) Credentials(name, realm string) []sipcore.Credential {
	if name != "0001201" {
		return nil
	}
	return []sipcore.Credential{{Device: site.RecordID{9}, HA1MD5: digest.HA1(digest.MD5, name, realm, "pw"), Lines: []sipcore.Line{ana}}}
}

// A node serves SUBSCRIBE only.
type node struct {
	addr netip.AddrPort
	subs *subscribe.Server
	stop func()
}

func (s *shop) node(t *testing.T, tr site.Transport, at netip.AddrPort) *node {
	t.Helper()
	e, err := edge.New(edge.Config{Listen: []edge.Listen{{Transport: tr, Addr: at}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Listen(); err != nil {
		t.Fatal(err)
	}
	dg, err := digest.NewServer(digest.Config{Key: [32]byte{byte(e.Addrs()[0].Addr.Port())}, Store: s})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{addr: e.Addrs()[0].Addr}
	if n.subs, err = subscribe.New(subscribe.Config{Edge: e, View: func() route.View { return s }, Digest: dg, Packages: []subscribe.Package{mwi.New(s)}}); err != nil {
		t.Fatal(err)
	}
	l := transaction.New(transaction.Config{Edge: e, OnRequest: func(tx *transaction.ServerTx) {
		if !n.subs.Serve(tx) {
			tx.Respond(tx.Response(405, ""))
		}
	}})
	n.subs.Use(l)
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); e.Serve(ctx, l) }()
	n.stop = sync.OnceFunc(func() { n.subs.Close(); cancel(); <-over; l.Wait() })
	t.Cleanup(n.stop)
	return n
}

var anywhere = netip.MustParseAddrPort("127.0.0.1:0")

func phone(t *testing.T, tr site.Transport, servers ...netip.AddrPort) *phonetest.Phone {
	t.Helper()
	p, err := phonetest.New(phonetest.Config{User: "0001201", Password: "pw", Domain: "shops.example", Servers: servers, Transport: tr, Patience: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheLampOfATelephone(t *testing.T) {
	for _, tr := range []site.Transport{site.UDP, site.TCP} {
		t.Run(string(tr), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			defer cancel()
			s := &shop{}
			n := s.node(t, tr, anywhere)
			p := phone(t, tr, n.addr)
			ok(t, p.SubscribeMWI(ctx))
			ok(t, p.WaitLamp(ctx, 0))
			if on, _, _ := p.Lamp(); on {
				t.Error("the lamp of an empty mailbox is on")
			}
			s.set(2, 1)
			n.subs.Changed(mwi.Name, ana.User)
			ok(t, p.WaitLamp(ctx, 2))
			if on, new, old := p.Lamp(); !on || new != 2 || old != 1 {
				t.Errorf("lamp: %v %d/%d", on, new, old)
			}
			s.set(0, 3)
			n.subs.Changed(mwi.Name, ana.User)
			ok(t, p.WaitLamp(ctx, 0))
			told := p.Notifies()
			ok(t, p.SubscribeMWI(ctx)) // a refresh, in the dialog
			ok(t, p.WaitNotifies(ctx, told+1))
			if n.subs.Count() != 1 {
				t.Errorf("%d subscriptions after a refresh", n.subs.Count())
			}
			ok(t, p.UnsubscribeMWI(ctx))
			ok(t, p.WaitNotifies(ctx, told+2)) // it is forgotten before its last NOTIFY
			if n.subs.Count() != 0 {
				t.Error("still subscribed")
			}
		})
	}
}

// A node that was started again knows no subscription: the refresh gets 481,
// and the telephone subscribes anew.
func TestTheLampComesBackAfterARestart(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	s := &shop{}
	n := s.node(t, site.UDP, anywhere)
	p := phone(t, site.UDP, n.addr)
	ok(t, p.SubscribeMWI(ctx))
	ok(t, p.WaitLamp(ctx, 0))
	n.stop()
	s.set(1, 0)
	s.node(t, site.UDP, n.addr)
	ok(t, p.SubscribeMWI(ctx))
	ok(t, p.WaitLamp(ctx, 1))
}

func TestTheLampMovesToTheNextServer(t *testing.T) {
	for _, tr := range []site.Transport{site.UDP, site.TCP} {
		t.Run(string(tr), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			defer cancel()
			s := &shop{}
			a, b := s.node(t, tr, anywhere), s.node(t, tr, anywhere)
			p := phone(t, tr, a.addr, b.addr)
			ok(t, p.SubscribeMWI(ctx))
			ok(t, p.WaitLamp(ctx, 0))
			a.stop()
			s.set(4, 0)
			ok(t, p.SubscribeMWI(ctx)) // what the renewal does
			ok(t, p.WaitLamp(ctx, 4))
			if p.Server() != b.addr || b.subs.Count() != 1 {
				t.Errorf("at %s, %d subscriptions there", p.Server(), b.subs.Count())
			}
		})
	}
}
