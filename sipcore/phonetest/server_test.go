package phonetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/registrar"
	"carrierclass.net/ccnode/sipcore/transaction"
)

const realm = "s0001.shops.example"

// A shop is where two servers keep their bindings and know their phones.
type shop struct {
	mu   sync.Mutex
	all  map[string]site.Binding
	keys [32]byte
}

func (s *shop) Bindings(aor site.AOR) (out []site.Binding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.all {
		if b.AOR == aor && b.Expires.After(time.Now()) {
			out = append(out, b)
		}
	}
	return
}

func (s *shop) Bind(_ context.Context, b site.Binding) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[b.Key()] = b
	return nil
}

func (s *shop) Unbind(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, key)
	return nil
}

func (s *shop) Credentials(user, r string) []sipcore.Credential {
	if r != realm {
		return nil
	}
	return []sipcore.Credential{{Device: site.RecordID([]byte((user + "..........")[:10])), HA1MD5: digest.HA1(digest.MD5, user, realm, "p"+user),
		Lines: []sipcore.Line{{AOR: site.AOR{User: user, Domain: "shops.example"}}}}}
}

// A server is one node of the shop: the product's registrar, and a proxy that
// challenges and forwards INVITE, without Record-Route.
type server struct {
	addr netip.AddrPort
	stop func()
}

func (s *shop) serve(t testing.TB, tr site.Transport, node byte) *server {
	t.Helper()
	e, err := edge.New(edge.Config{Listen: []edge.Listen{{Transport: tr, Addr: netip.MustParseAddrPort("127.0.0.1:0")}},
		Limits: edge.Limits{PerSource: 1e6, SourceBurst: 1e6, Total: 1e6, TotalBurst: 1e6, ConnsPerIP: 5000}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Listen(); err != nil {
		t.Fatal(err)
	}
	s.keys[0] = node
	d, err := digest.NewServer(digest.Config{Key: s.keys, Store: s})
	if err != nil {
		t.Fatal(err)
	}
	aor := func(u *sip.Uri) site.AOR { return site.AOR{User: u.User, Domain: "shops.example"} }
	r := registrar.New(registrar.Config{Edge: e, Location: s, Digest: d, AOR: aor, Realm: func(site.AOR) string { return realm }, Node: site.NodeID{node}, MinExpires: time.Second})
	var l *transaction.Layer
	l = transaction.New(transaction.Config{Edge: e,
		Stateless: map[sip.RequestMethod]func(*sip.Request, *edge.Flow){sip.REGISTER: r.ServeRegister},
		OnRequest: func(tx *transaction.ServerTx) {
			req := tx.Request()
			who := d.Verify(req, "Proxy-Authorization", realm, tx.Flow().Remote.Addr().String(), "", 0)
			if who.Verdict != digest.OK {
				res := tx.Response(407, "")
				res.AppendHeader(sip.NewHeader("Proxy-Authenticate", d.Challenge(realm, who)))
				tx.Respond(res)
				return
			}
			bs := s.Bindings(aor(&req.Recipient))
			if len(bs) == 0 {
				tx.Respond(tx.Response(404, ""))
				return
			}
			to, _ := message.ParseURI(bs[0].Contact)
			fwd := sip.NewRequest(req.Method, to)
			for _, h := range req.CloneHeaders() {
				if h.Name() != "Proxy-Authorization" {
					fwd.AppendHeader(h)
				}
			}
			fwd.SetBody(req.Body())
			dest := edge.Dest{Transport: site.UDP, Addr: bs[0].Source}
			if bs[0].Flow != "" {
				dest = e.Flow(bs[0].Flow).Dest()
			}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go func() {
				select {
				case <-tx.Cancelled():
					cancel()
				case <-ctx.Done():
				}
			}()
			out := l.Request(ctx, fwd, dest)
			for res := range out.Responses() {
				back := sip.NewResponse(res.StatusCode, res.Reason)
				for i, h := range res.CloneHeaders() {
					if i > 0 { // without our Via
						back.AppendHeader(h)
					}
				}
				back.SetBody(res.Body())
				tx.Respond(back)
				if res.StatusCode >= 200 {
					return
				}
			}
		}})
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() { defer close(over); e.Serve(ctx, l) }()
	sv := &server{addr: e.Addrs()[0].Addr, stop: sync.OnceFunc(func() { cancel(); <-over; l.Wait() })}
	t.Cleanup(sv.stop)
	return sv
}

func line(t *testing.T, user string, tr site.Transport, tone float64, servers ...*server) *Phone {
	cfg := Config{User: user, Password: "p" + user, Domain: "shops.example", Transport: tr, Tone: tone, Patience: 200 * time.Millisecond}
	for _, s := range servers {
		cfg.Servers = append(cfg.Servers, s.addr)
	}
	return phone(t, cfg)
}

func TestRegisterAndDialThroughAServer(t *testing.T) {
	t.Parallel()
	for _, tr := range []site.Transport{site.UDP, site.TCP} {
		t.Run(string(tr), func(t *testing.T) {
			s := &shop{all: map[string]site.Binding{}}
			a := s.serve(t, tr, 1)
			ana, bob := line(t, "0001201", tr, 440, a), line(t, "0001202", tr, 1000, a)
			ctx := within(t, 10*time.Second)
			ok(t, ana.Register(ctx))
			ok(t, bob.Register(ctx))
			if bob.Registered() < 80*time.Second || bob.Granted() > 90*time.Second {
				t.Errorf("granted %v", bob.Granted())
			}
			out, err := ana.DialStart(ctx, "0001202")
			ok(t, err)
			in := call(t, bob)
			ok(t, in.Ring())
			ok(t, out.WaitRinging(ctx))
			ok(t, in.Answer(ctx))
			ok(t, out.WaitAnswered(ctx))
			ok(t, in.Hears(ctx, 440))
			ok(t, out.Hears(ctx, 1000))
			ok(t, in.Hangup(ctx))
			<-out.Done()

			ok(t, bob.Refresh(ctx))
			ok(t, bob.Unregister(ctx))
			if len(s.Bindings(site.AOR{User: "0001202", Domain: "shops.example"})) != 0 || bob.Registered() != 0 {
				t.Error("still registered")
			}
			var no *Refusal
			if _, err := ana.Dial(ctx, "0001202"); !errors.As(err, &no) || no.Status != 404 {
				t.Errorf("dialling who has gone: %v", err)
			}
			eve := phone(t, Config{User: "0001203", Password: "guess", Domain: "shops.example", Servers: []netip.AddrPort{a.addr}, Transport: tr})
			if err := eve.Register(ctx); !errors.As(err, &no) || no.Status != 401 {
				t.Errorf("registering with a wrong password: %v", err)
			}
		})
	}
}

func TestNextServerTakesOver(t *testing.T) {
	t.Parallel()
	for _, tr := range []site.Transport{site.UDP, site.TCP} {
		t.Run(string(tr), func(t *testing.T) {
			s := &shop{all: map[string]site.Binding{}}
			a, b := s.serve(t, tr, 1), s.serve(t, tr, 2)
			ana, bob := line(t, "0001201", tr, 440, a, b), line(t, "0001202", tr, 1000, b, a)
			ctx := within(t, 10*time.Second)
			ok(t, ana.Register(ctx))
			ok(t, bob.Register(ctx))
			a.stop()
			go func() {
				if in := <-bob.Incoming(); in != nil {
					in.Answer(ctx)
				}
			}()
			out, err := ana.Dial(ctx, "0001202")
			ok(t, err)
			ok(t, out.Hears(ctx, 1000))
			if ana.Server() != b.addr {
				t.Errorf("uses %s", ana.Server())
			}
			for { // the registration follows by itself
				bs := s.Bindings(site.AOR{User: "0001201", Domain: "shops.example"})
				if len(bs) == 1 && bs[0].Node == (site.NodeID{2}) {
					break
				}
				select {
				case <-time.After(5 * time.Millisecond):
				case <-ctx.Done():
					t.Fatal(fmt.Sprint("registration did not move: ", bs))
				}
			}
			ok(t, out.Hangup(ctx))
		})
	}
}

func TestRenewsByItself(t *testing.T) {
	t.Parallel()
	s := &shop{all: map[string]site.Binding{}}
	a := s.serve(t, site.UDP, 1)
	p := phone(t, Config{User: "0001201", Password: "p0001201", Domain: "shops.example", Servers: []netip.AddrPort{a.addr}, Expires: 2 * time.Second})
	ctx := within(t, 5*time.Second)
	ok(t, p.Register(ctx))
	p.mu.Lock()
	changed := p.reg.changed
	p.mu.Unlock()
	select {
	case <-changed:
	case <-ctx.Done():
		t.Fatal("not renewed")
	}
	if p.Registered() < time.Second {
		t.Errorf("renewed for %v", p.Registered())
	}
}
