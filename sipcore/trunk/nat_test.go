package trunk_test

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
	"carrierclass.net/ccnode/sipcore/trunk"
)

const public = "198.51.100.7"

// behindNAT lets the provider answer as if it had seen the router's address.
func behindNAT(res *sip.Response) {
	via := res.Via()
	via.Params = append(via.Params[:0:0], via.Params...)
	via.Params.Remove("received")
	via.Params.Remove("rport")
	via.Params.Add("received", public)
	via.Params.Add("rport", "61000")
}

func moveContact(host string, port int) func(*sip.Request, *sip.ContactHeader) []*sip.ContactHeader {
	return func(_ *sip.Request, c *sip.ContactHeader) []*sip.ContactHeader {
		c.Address.Host, c.Address.Port = host, port
		return []*sip.ContactHeader{c}
	}
}

func TestNATAndALGAreNoticed(t *testing.T) {
	for _, c := range []struct {
		name     string
		list     func(*sip.Request, *sip.ContactHeader) []*sip.ContactHeader
		change   func(*sip.Response)
		nat, alg bool
	}{
		{"plain NAT", nil, behindNAT, true, false},
		{"the provider corrects our Contact", moveContact(public, 61000), behindNAT, true, false},
		{"Contact rewritten to yet another port", moveContact(public, 1024), behindNAT, true, true},
		{"Contact rewritten, token lost", func(_ *sip.Request, c *sip.ContactHeader) []*sip.ContactHeader {
			c.Address.UriParams, c.Address.Host = nil, "10.9.9.9"
			return []*sip.ContactHeader{c}
		}, behindNAT, true, true},
		{"Via comes back altered", nil, func(res *sip.Response) { behindNAT(res); res.Via().Host = public }, true, true},
		{"nothing between", nil, nil, false, false},
	} {
		within(t, func(w *world) { w.p.listing, w.p.change = c.list, c.change }, func(w *world) {
			w.use(account())
			s := w.want(trunk.Registered)
			if s.NAT != c.nat || s.ALG != c.alg || s.Listed == "" {
				t.Errorf("%s: NAT %v, ALG %v, %q", c.name, s.NAT, s.ALG, s.Listed)
			}
			if strings.Contains(s.String(), "ALG") != c.alg {
				t.Errorf("%s: %s", c.name, s)
			}
			if c.nat && s.Public != netip.MustParseAddrPort(public+":61000") {
				t.Errorf("%s: public %s", c.name, s.Public)
			}
		})
	}
}

// The expiry that counts is that of our own contact.
func TestManyContacts(t *testing.T) {
	contact := func(uri, expires string) *sip.ContactHeader {
		_, u, _, err := message.ParseAddress("<" + uri + ">")
		if err != nil {
			t.Fatal(err)
		}
		return &sip.ContactHeader{Address: u, Params: sip.HeaderParams{{K: "expires", V: expires}}}
	}
	for _, c := range []struct {
		name   string
		list   func(own *sip.ContactHeader) []*sip.ContactHeader
		grant  time.Duration
		others int
		listed bool
	}{
		{"ours is last", func(own *sip.ContactHeader) []*sip.ContactHeader {
			return []*sip.ContactHeader{contact("sip:0472001201@192.168.1.3:5060;line=00000000", "3600"), contact("sip:0472001201@10.0.0.9", "7"), own}
		}, 60 * time.Second, 2, true},
		{"ours without token", func(own *sip.ContactHeader) []*sip.ContactHeader {
			own.Address.UriParams = nil
			return []*sip.ContactHeader{contact("sip:other@10.0.0.9", "9"), own}
		}, 60 * time.Second, 1, true},
		{"ours is not there", func(own *sip.ContactHeader) []*sip.ContactHeader {
			return []*sip.ContactHeader{contact("sip:x@10.0.0.8", "50"), contact("sip:x@10.0.0.9", "40")}
		}, 40 * time.Second, 2, false},
		{"none listed", func(*sip.ContactHeader) []*sip.ContactHeader { return nil }, 120 * time.Second, 0, false},
		{"expired ones do not count", func(own *sip.ContactHeader) []*sip.ContactHeader {
			return []*sip.ContactHeader{contact("sip:x@10.0.0.8", "0"), own}
		}, 60 * time.Second, 0, true},
	} {
		within(t, func(w *world) {
			w.p.grant = 60
			w.p.listing = func(_ *sip.Request, own *sip.ContactHeader) []*sip.ContactHeader { return c.list(own) }
		}, func(w *world) {
			w.use(account())
			s := w.want(trunk.Registered)
			if got := time.Until(s.Until); got != c.grant || s.Others != c.others || (s.Listed != "") != c.listed {
				t.Errorf("%s: %s, %d others, listed %q", c.name, got, s.Others, s.Listed)
			}
			if (s.Err == "") != (c.listed || c.others == 0) {
				t.Errorf("%s: %q", c.name, s.Err)
			}
		})
	}
}

// moving is an edge whose address changes.
type moving struct {
	*edge.Edge
	mu   sync.Mutex
	host string
}

func (m *moving) Local(d edge.Dest) (edge.Local, error) {
	l, err := m.Edge.Local(d)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.host != "" {
		l.Host = m.host
	}
	return l, err
}

func TestAddressChange(t *testing.T) {
	within(t, nil, func(w *world) {
		m := &moving{Edge: w.shop.e}
		w.tr, _ = trunk.New(trunk.Config{Layer: w.shop.l, Edge: m, Plan: france})
		w.use(account())
		before := w.state().Contact
		m.mu.Lock()
		m.host = "192.168.1.77"
		m.mu.Unlock()
		w.tr.Moved()
		sleep(time.Second)
		w.said("401/120", "200/120", "200/0", "200/120")
		s := w.want(trunk.Registered)
		if !strings.Contains(s.Contact, "@192.168.1.77:") {
			t.Errorf("Contact %s", s.Contact)
		}
		if _, left := w.p.bindings[before]; left || len(w.p.bindings) != 1 {
			t.Errorf("bindings %v", w.p.bindings)
		}
	})
}

// A registrar that takes a nonce once only refuses none of this.
func TestAddressChangeWithNoncesForOneRequest(t *testing.T) {
	within(t, func(w *world) { w.p.oneTime = true }, func(w *world) {
		m := &moving{Edge: w.shop.e}
		w.tr, _ = trunk.New(trunk.Config{Layer: w.shop.l, Edge: m, Plan: france})
		w.use(account())
		m.mu.Lock()
		m.host = "192.168.1.77"
		m.mu.Unlock()
		w.tr.Moved()
		sleep(time.Second)
		w.said("401/120", "200/120", "401/0", "200/0", "401/120", "200/120")
		if err := w.tr.Close(w.t.Context()); err != nil {
			t.Error(err)
		}
		w.said("401/120", "200/120", "401/0", "200/0", "401/120", "200/120", "401/0", "200/0")
	})
}

func TestPublicContact(t *testing.T) {
	within(t, func(w *world) { w.p.change = behindNAT }, func(w *world) {
		a := account()
		a.PublicContact = true
		w.use(a)
		sleep(time.Second)
		s := w.want(trunk.Registered)
		if !strings.HasPrefix(s.Contact, "sip:0472001201@"+public+":61000;") || len(w.p.bindings) != 1 {
			t.Errorf("%s, %v", s.Contact, w.p.bindings)
		}
		w.said("401/120", "200/120") // the challenge told the address already
	})
}

// A NAT that gives another port each time is followed, but not endlessly.
func TestPublicContactOfAChangingNAT(t *testing.T) {
	port := 61000
	within(t, func(w *world) {
		w.p.change = func(res *sip.Response) {
			behindNAT(res)
			res.Via().Params.Remove("rport")
			res.Via().Params.Add("rport", strconv.Itoa(port))
		}
	}, func(w *world) {
		a := account()
		a.PublicContact = true
		w.use(a)
		w.p.set(func() { port = 62000 })
		sleep(2 * time.Minute)
		if s := w.want(trunk.Registered); !strings.HasPrefix(s.Contact, "sip:0472001201@"+public+":62000;") || len(w.p.bindings) != 1 {
			t.Errorf("%s, %v", s.Contact, w.p.bindings)
		}
		change := w.p.change
		w.p.set(func() { w.p.change = func(res *sip.Response) { port++; change(res) } })
		n := w.p.count()
		sleep(10 * time.Minute)
		if more := w.p.count() - n; more > 40 {
			t.Errorf("%d requests in ten minutes", more)
		}
		w.want(trunk.Registered)
	})
}

func TestKeepAlive(t *testing.T) {
	for _, c := range []struct {
		alive trunk.Alive
		what  string
		n     int
	}{{trunk.Silent, "", 0}, {trunk.CRLF, "\r\n\r\n", 10}, {trunk.Options, "OPTIONS ", 10}} {
		within(t, nil, func(w *world) {
			var mu sync.Mutex
			n, other := 0, 0
			w.net.Tap = func(from, to netip.AddrPort, b []byte) {
				if to.String() != providerAddr {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if c.what != "" && strings.HasPrefix(string(b), c.what) {
					n++
				} else if !strings.HasPrefix(string(b), "REGISTER ") {
					other++
				}
			}
			a := account()
			a.Alive, a.Every = c.alive, 10*time.Second
			w.use(a)
			sleep(100 * time.Second)
			mu.Lock()
			defer mu.Unlock()
			if n < c.n-1 || n > c.n+3 || other != 0 {
				t.Errorf("%q: %d keep-alives and %d other things in 100 s", c.alive, n, other)
			}
			w.want(trunk.Registered)
		})
	}
}

// Two OPTIONS without answer bring the next registration forward.
func TestDeafProvider(t *testing.T) {
	within(t, nil, func(w *world) {
		a := account()
		a.Alive, a.Every, a.Expires = trunk.Options, 10*time.Second, time.Hour
		w.use(a)
		w.p.set(func() { w.p.silent = true })
		sleep(45 * time.Second)
		w.want(trunk.NoAnswer)
		w.p.set(func() { w.p.silent = false })
		sleep(20 * time.Second)
		w.want(trunk.Registered)
	})
}

func TestPeer(t *testing.T) {
	within(t, nil, func(w *world) {
		g := trunk.Trunk{Name: "provider", Via: trunk.LAN, Server: "203.0.113.5"}
		w.use(g)
		if s := w.want(trunk.Ready); !s.Usable(time.Now()) || s.Via != trunk.LAN {
			t.Errorf("%+v", s)
		}
		sleep(time.Hour)
		if len(w.p.got) != 0 {
			t.Errorf("a peer that asked for nothing got %d requests", len(w.p.got))
		}
		g.Alive = trunk.Options
		w.use(g)
		w.want(trunk.Reachable)
		w.p.set(func() { w.p.silent = true })
		sleep(90 * time.Second)
		w.want(trunk.NoAnswer)
		w.p.set(func() { w.p.silent = false })
		sleep(45 * time.Second)
		w.want(trunk.Reachable)
	})
}

// names is a resolver.
type names struct {
	mu    sync.Mutex
	dests []edge.Dest
	err   error
}

func (n *names) Resolve(context.Context, string, int, site.Transport) ([]edge.Dest, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dests, n.err
}

func (n *names) say(err error, dests ...edge.Dest) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dests, n.err = dests, err
}

// The second address is asked when the first says nothing, and the one that
// answered goes first from then on, also for calls. What was known serves on
// when the resolver does not.
func TestNames(t *testing.T) {
	var toDead atomic.Int32
	dead := edge.Dest{Transport: site.UDP, Addr: netip.MustParseAddrPort("203.0.113.99:5060")}
	within(t, func(w *world) {
		w.net.Tap = func(_, to netip.AddrPort, _ []byte) {
			if to == dead.Addr {
				toDead.Add(1)
			}
		}
	}, func(w *world) {
		live := edge.Dest{Transport: site.UDP, Addr: netip.MustParseAddrPort(providerAddr)}
		n := &names{err: context.DeadlineExceeded}
		w.tr, _ = trunk.New(trunk.Config{Layer: w.shop.l, Edge: w.shop.e, Plan: france, Resolver: n})
		a := account()
		a.Server = "sip.example"
		w.use(a)
		w.want(trunk.NoAddress)
		n.say(nil, dead, live)
		sleep(15 * time.Second)
		w.want(trunk.Registered)
		if out, err := w.tr.Outgoing("provider", trunk.Call{Dialled: "112"}); err != nil || out.Dests[0].Addr != live.Addr {
			t.Errorf("%v %v", out.Dests, err)
		}
		n.say(nil, dead) // it did register us, whatever its name says now
		w.p.set(func() { w.p.silent = true })
		sleep(2 * time.Minute)
		if _, ok := w.tr.Inbound(invite("sip:0472001201@192.168.1.2"), &edge.Flow{Transport: site.UDP, Remote: live.Addr}); !ok {
			t.Error("the registrar is a stranger")
		}
		w.p.set(func() { w.p.silent = false })
		n.say(nil, dead, live)
		sleep(5 * time.Minute)
		n.say(context.DeadlineExceeded)
		sleep(5 * time.Minute)
		w.want(trunk.Registered)
		n.say(nil, dead, live)
		sleep(5 * time.Minute)
		n.say(nil, dead, live)
		before := toDead.Load()
		sleep(90 * time.Second)
		if n := toDead.Load() - before; n != 0 || before == 0 {
			t.Errorf("%d datagrams to an address that never answered", n)
		}
		out, err := w.tr.Outgoing("provider", trunk.Call{Dialled: "+33123456789"})
		if err != nil || len(out.Dests) != 2 || out.Dests[0].Addr != live.Addr {
			t.Errorf("%v %v", out.Dests, err)
		}
	})
}

func TestHeldTrunkIsNotRegistered(t *testing.T) {
	within(t, nil, func(w *world) {
		a := account()
		a.Hold = true
		w.use(a)
		w.want(trunk.Held)
		sleep(time.Hour)
		w.said()
		a.Hold = false
		w.use(a)
		w.want(trunk.Registered)
		a.Hold = true
		w.use(a)
		w.said("401/120", "200/120", "200/0")
	})
}

func TestClocksDiffer(t *testing.T) {
	within(t, func(w *world) {
		w.p.change = func(res *sip.Response) { res.AppendHeader(sip.NewHeader("Date", "Mon, 23 Nov 2026 04:00:00 GMT")) }
	}, func(w *world) {
		w.use(account())
		if s := w.want(trunk.Registered); s.ClockOff < 365*24*time.Hour || !strings.Contains(s.String(), "clocks differ") {
			t.Errorf("%s", s.ClockOff)
		}
	})
}

var _ trunk.Layer = (*transaction.Layer)(nil)
