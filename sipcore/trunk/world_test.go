package trunk_test

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/edge/edgetest"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/transaction"
	"carrierclass.net/ccnode/sipcore/trunk"
)

const (
	shopAddr     = "192.168.1.2:5060"
	providerAddr = "203.0.113.5:5060"
)

var france = trunk.Plan{Country: "33", Trunk: "0", Abroad: "00"}

// An end is one SIP element on a network in memory.
type end struct {
	e    *edge.Edge
	l    *transaction.Layer
	stop func()
}

func newEnd(t *testing.T, n *edgetest.Net, addr string, serve func(*transaction.ServerTx)) *end {
	t.Helper()
	at := netip.MustParseAddrPort(addr)
	e, err := edge.New(edge.Config{Dial: n.Dialer(at.Addr().String())})
	if err != nil {
		t.Fatal(err)
	}
	e.AddPacket(n.UDP(addr))
	e.AddListener(n.TCP(addr), site.TCP)
	x := &end{e: e, l: transaction.New(transaction.Config{Edge: e, OnRequest: serve})}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); e.Serve(ctx, x.l) }()
	x.stop = sync.OnceFunc(func() { cancel(); <-over; x.l.Wait() })
	return x
}

// A provider is a small registrar, as strict as it is told to be.
type provider struct {
	*end
	t *testing.T

	mu         sync.Mutex
	password   string
	realm      string
	algorithms []string // of the challenges, in this order
	status     int      // of the challenge: 401 or 407; 0: no password wanted
	oneTime    bool     // a nonce is good for one request, and no stale is said
	allStale   bool     // every answer is called stale
	refuse     int      // answer to everything
	after      string   // Retry-After with it
	least      int      // Min-Expires
	grant      int      // 0: what was asked for
	silent     bool
	listing    func(req *sip.Request, contact *sip.ContactHeader) []*sip.ContactHeader
	change     func(res *sip.Response)
	intercept  func(*transaction.ServerTx) bool // answers before anything else

	nonces   int
	used     map[string]bool
	got      []seen
	bindings map[string]int // Contact URI: expiry
}

type seen struct {
	at      time.Time
	req     *sip.Request
	status  int
	expires string
	flow    *edge.Flow
}

func (p *provider) serve(tx *transaction.ServerTx) {
	p.mu.Lock()
	defer p.mu.Unlock()
	req := tx.Request()
	s := seen{at: time.Now(), req: req, expires: message.Get(req, "Expires"), flow: tx.Flow()}
	if p.intercept != nil && p.intercept(tx) {
		return
	}
	if !p.silent {
		res := p.answer(tx, req)
		if p.change != nil {
			p.change(res)
		}
		s.status = res.StatusCode
		if err := tx.Respond(res); err != nil {
			p.t.Error(err)
		}
	}
	p.got = append(p.got, s)
}

func (p *provider) answer(tx *transaction.ServerTx, req *sip.Request) *sip.Response {
	if p.refuse != 0 {
		res := tx.Response(p.refuse, "")
		if p.after != "" {
			res.AppendHeader(sip.NewHeader("Retry-After", p.after))
		}
		return res
	}
	if req.Method != sip.REGISTER {
		return tx.Response(200, "")
	}
	if p.status != 0 {
		if stale, ok := p.verify(req); !ok {
			res := tx.Response(p.status, "")
			name := "WWW-Authenticate"
			if p.status == 407 {
				name = "Proxy-Authenticate"
			}
			p.nonces++
			for _, a := range p.algorithms {
				c := digest.Challenge{Realm: p.realm, Nonce: fmt.Sprintf("n%d", p.nonces), Algorithm: a, QOPAuth: true, Stale: stale}
				res.AppendHeader(sip.NewHeader(name, c.Header()))
			}
			return res
		}
	}
	var asked int
	fmt.Sscan(message.Get(req, "Expires"), &asked)
	if asked > 0 && asked < p.least {
		res := tx.Response(423, "")
		res.AppendHeader(sip.NewHeader("Min-Expires", fmt.Sprint(p.least)))
		return res
	}
	granted := asked
	if p.grant != 0 && asked != 0 {
		granted = p.grant
	}
	c := req.Contact().Clone()
	if granted == 0 {
		delete(p.bindings, c.Address.String())
	} else {
		p.bindings[c.Address.String()] = granted
	}
	c.Params = sip.HeaderParams{{K: "expires", V: fmt.Sprint(granted)}}
	res := tx.Response(200, "")
	list := []*sip.ContactHeader{c}
	if granted == 0 {
		list = nil
	}
	if p.listing != nil {
		list = p.listing(req, c)
	}
	for _, c := range list {
		res.AppendHeader(c)
	}
	return res
}

// verify is written anew here, with no help of the code it checks.
func (p *provider) verify(req *sip.Request) (stale, ok bool) {
	name := "Authorization"
	if p.status == 407 {
		name = "Proxy-Authorization"
	}
	v := message.Get(req, name)
	if v == "" {
		return false, false
	}
	c, err := digest.ParseCredentials(v)
	if err != nil {
		p.t.Errorf("%s: %v", v, err)
		return false, false
	}
	h := func(s string) string {
		if c.Algorithm == "SHA-256" {
			return fmt.Sprintf("%x", sha256.Sum256([]byte(s)))
		}
		return fmt.Sprintf("%x", md5.Sum([]byte(s)))
	}
	if c.URI != req.Recipient.String() {
		p.t.Errorf("credentials for %s in a request to %s", c.URI, req.Recipient.String())
	}
	want := h(h(c.Username+":"+p.realm+":"+p.password) + ":" + c.Nonce + ":" + c.NC + ":" + c.CNonce + ":auth:" + h("REGISTER:"+c.URI))
	if c.Response != want || c.Username != "0472001201" {
		return false, false
	}
	if p.allStale {
		return true, false
	}
	key := c.Nonce
	if !p.oneTime {
		key += c.NC
	}
	if p.used[key] {
		return false, false
	}
	p.used[key] = true
	return false, true
}

// registers are the REGISTERs that came, as "status/expires".
func (p *provider) registers() (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.got {
		if s.req.Method == sip.REGISTER {
			out = append(out, fmt.Sprintf("%d/%s", s.status, s.expires))
		}
	}
	return out
}

func (p *provider) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *provider) count() int { return len(p.registers()) }

func (p *provider) last() seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got[len(p.got)-1]
}

// A world is a shop and its provider.
type world struct {
	t    *testing.T
	net  *edgetest.Net
	p    *provider
	shop *end
	tr   *trunk.Trunks

	serve func(*transaction.ServerTx) // what the shop does with requests
}

func account() trunk.Trunk {
	return trunk.Trunk{Name: "provider", Server: "203.0.113.5", Domain: "sip.example", User: "0472001201", Password: "secret",
		Number: "+33472001201", Numbers: []string{"+33472001201", "+3347200130*"}}
}

// within runs f in a bubble of time with a shop whose trunk is account().
func within(t *testing.T, before func(*world), f func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, net: edgetest.New()}
		w.p = &provider{t: t, password: "secret", realm: "sip.example", algorithms: []string{"MD5"}, status: 401,
			used: map[string]bool{}, bindings: map[string]int{}}
		if before != nil {
			before(w)
		}
		w.p.end = newEnd(t, w.net, providerAddr, w.p.serve)
		w.shop = newEnd(t, w.net, shopAddr, func(tx *transaction.ServerTx) {
			if w.serve == nil {
				tx.Respond(tx.Response(501, ""))
				return
			}
			w.serve(tx)
		})
		var err error
		w.tr, err = trunk.New(trunk.Config{Layer: w.shop.l, Edge: w.shop.e, Plan: france})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := w.tr.Close(t.Context()); err != nil {
				t.Log("close:", err)
			}
			w.shop.stop()
			w.p.stop()
		}()
		f(w)
	})
}

func (w *world) use(trunks ...trunk.Trunk) {
	w.t.Helper()
	if err := w.tr.Set(trunks); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func (w *world) state() trunk.State {
	w.t.Helper()
	s, ok := w.tr.State("provider")
	if !ok {
		w.t.Fatal("no trunk called provider")
	}
	return s
}

func (w *world) want(phase trunk.Phase) trunk.State {
	w.t.Helper()
	s := w.state()
	if s.Phase != phase {
		w.t.Fatalf("phase %q, want %q: %v (%s)", s.Phase, phase, s, s.Err)
	}
	return s
}

func (w *world) said(want ...string) {
	w.t.Helper()
	if got := w.p.registers(); strings.Join(got, " ") != strings.Join(want, " ") {
		w.t.Fatalf("REGISTERs %v, want %v", got, want)
	}
}

func sleep(d time.Duration) { time.Sleep(d); synctest.Wait() }
