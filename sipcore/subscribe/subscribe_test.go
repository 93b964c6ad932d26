package subscribe_test

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
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/edge/edgetest"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/mwi"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/subscribe"
	"carrierclass.net/ccnode/sipcore/transaction"
)

var ana = sipcore.Line{AOR: site.AOR{User: "0001201", Domain: "shops.example"}, User: site.RecordID{1}}

// a shop in which ana's device has the line 201, and 202 is somebody else's.
type shop struct {
	route.View
	mu  sync.Mutex
	box site.Summary
}

func (s *shop) Domain() string { return "shops.example" }
func (s *shop) Own() route.Site {
	return route.Site{ID: site.ID{1}, Code: "0001", Codes: []route.Code{{Digits: "*97", Feature: "mailbox"}}}
}
func (s *shop) Local(string) bool                      { return false }
func (s *shop) CodeBegins(p string) bool               { return strings.HasPrefix("0001", p) }
func (s *shop) SiteByCode(c string) (route.Site, bool) { return s.Own(), c == "0001" }
func (s *shop) Summary(site.RecordID) site.Summary     { s.mu.Lock(); defer s.mu.Unlock(); return s.box }
func (s *shop) set(n, o int)                           { s.mu.Lock(); defer s.mu.Unlock(); s.box = site.Summary{New: n, Old: o} }
func (s *shop) Lookup(n string) []route.Entry {
	if n == "0001201" || n == "0001202" {
		return []route.Entry{{User: site.RecordID{n[6] - '0'}, AOR: site.AOR{User: n, Domain: "shops.example"}, Home: site.ID{1}}}
	}
	return nil
}
func (s *shop) Credentials(name, realm string) []sipcore.Credential {
	if name != "0001201" {
		return nil
	}
	return []sipcore.Credential{{Device: site.RecordID{9}, HA1MD5: digest.HA1(digest.MD5, name, realm, "pw"), Lines: []sipcore.Line{ana}}}
}

type bench struct {
	t     *testing.T
	shop  *shop
	subs  *subscribe.Server
	phone *transaction.Layer
	stops []func()

	mu     sync.Mutex
	got    []string // NOTIFYs: state, CSeq and counts
	answer int      // to NOTIFY
	slow   time.Duration
	seq    uint32
	tag    string
}

var quiet = edge.Limits{PerSource: 1e6, SourceBurst: 1e6, Total: 1e6, TotalBurst: 1e6}

func newBench(t *testing.T, change ...func(*subscribe.Config)) *bench {
	b := &bench{t: t, shop: &shop{}, answer: 200}
	n := edgetest.New()
	serve := func(addr string, on func(*transaction.ServerTx)) (*edge.Edge, *transaction.Layer) {
		e, err := edge.New(edge.Config{Limits: quiet})
		if err != nil {
			t.Fatal(err)
		}
		e.AddPacket(n.UDP(addr))
		l := transaction.New(transaction.Config{Edge: e, OnRequest: on})
		ctx, cancel := context.WithCancel(context.Background())
		over := make(chan struct{})
		go func() { defer close(over); e.Serve(ctx, l) }()
		b.stops = append(b.stops, func() { cancel(); <-over; l.Wait() })
		return e, l
	}
	dg, err := digest.NewServer(digest.Config{Store: b.shop})
	if err != nil {
		t.Fatal(err)
	}
	e, l := serve("10.0.0.1:5060", func(tx *transaction.ServerTx) {
		if !b.subs.Serve(tx) {
			tx.Respond(tx.Response(405, ""))
		}
	})
	cfg := subscribe.Config{Edge: e, View: func() route.View { return b.shop }, Digest: dg, Packages: []subscribe.Package{mwi.New(b.shop)}}
	for _, c := range change {
		c(&cfg)
	}
	if b.subs, err = subscribe.New(cfg); err != nil {
		t.Fatal(err)
	}
	b.subs.Use(l)
	_, b.phone = serve("10.0.0.11:5060", func(tx *transaction.ServerTx) {
		r := tx.Request()
		counts := ""
		for line := range strings.SplitSeq(string(r.Body()), "\r\n") {
			if v, ok := strings.CutPrefix(line, "Voice-Message: "); ok {
				counts = v
			}
		}
		b.mu.Lock()
		b.got = append(b.got, fmt.Sprintf("%s %d %s", message.Get(r, "Subscription-State"), r.CSeq().SeqNo, strings.TrimSuffix(counts, " (0/0)")))
		status, slow := b.answer, b.slow
		b.mu.Unlock()
		time.Sleep(slow)
		if status != 0 {
			tx.Respond(tx.Response(status, ""))
		}
	})
	return b
}

func (b *bench) close() {
	time.Sleep(100 * time.Second)
	b.subs.Close()
	time.Sleep(100 * time.Second)
	for _, s := range b.stops {
		s()
	}
}

func (b *bench) notifies() string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.got, ", ")
}

// subscribe sends one SUBSCRIBE with the right password and returns the answer.
func (b *bench) subscribe(to string, expires int, more ...func(*sip.Request)) *sip.Response {
	var last *sip.Response
	auth := ""
	for range 2 {
		b.seq++
		req := sip.NewRequest(sip.SUBSCRIBE, sip.Uri{Scheme: "sip", User: to, Host: "shops.example"})
		req.AppendHeader(&sip.FromHeader{Address: sip.Uri{Scheme: "sip", User: "0001201", Host: "shops.example"}, Params: sip.HeaderParams{{K: "tag", V: "ours"}}})
		toH := &sip.ToHeader{Address: sip.Uri{Scheme: "sip", User: to, Host: "shops.example"}}
		if b.tag != "" {
			toH.Params = sip.HeaderParams{{K: "tag", V: b.tag}}
		}
		id := sip.CallIDHeader("sub-1")
		req.AppendHeader(toH)
		req.AppendHeader(&id)
		req.AppendHeader(&sip.CSeqHeader{SeqNo: b.seq, MethodName: sip.SUBSCRIBE})
		req.AppendHeader(&sip.ContactHeader{Address: sip.Uri{Scheme: "sip", User: "201", Host: "10.0.0.11", Port: 5060}})
		req.AppendHeader(sip.NewHeader("Event", "message-summary"))
		req.AppendHeader(sip.NewHeader("Expires", fmt.Sprint(expires)))
		for _, m := range more {
			m(req)
		}
		if auth != "" {
			req.AppendHeader(sip.NewHeader("Authorization", auth))
		}
		req.SetBody(nil)
		tx := b.phone.Request(context.Background(), req, edge.Dest{Transport: site.UDP, Addr: netip.MustParseAddrPort("10.0.0.1:5060")})
		for last = range tx.Responses() {
		}
		if last == nil {
			b.t.Fatal(tx.Err())
		}
		if last.StatusCode != 401 {
			break
		}
		c, _ := digest.ParseChallenge(message.Get(last, "WWW-Authenticate"))
		auth, _ = c.Answer("SUBSCRIBE", req.Recipient.String(), "0001201", "pw", "c", 1)
	}
	if last.IsSuccess() {
		b.tag, _ = last.To().Params.Get("tag")
	}
	return last
}

func TestLampFollowsTheMailbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.close()
		b.shop.set(1, 0)
		res := b.subscribe("0001201", 3600)
		if res.StatusCode != 200 || message.Get(res, "Expires") != "300" {
			t.Fatalf("%d, expires %s", res.StatusCode, message.Get(res, "Expires"))
		}
		if got := b.notifies(); got != "active;expires=300 1 1/0" {
			t.Errorf("at once: %s", got)
		}
		b.shop.set(0, 1)
		b.subs.Changed(mwi.Name, ana.User)
		if got := b.notifies(); !strings.HasSuffix(got, ", active;expires=300 2 0/1") {
			t.Errorf("after a change: %s", got)
		}
		before := b.notifies()
		b.subs.Changed(mwi.Name, ana.User) // nothing changed
		b.subs.Changed("dialog", ana.User)
		b.subs.Changed(mwi.Name, site.RecordID{7})
		if got := b.notifies(); got != before {
			t.Errorf("told without need: %s", got)
		}
		time.Sleep(200 * time.Second)
		b.subscribe("0001201", 120) // a refresh is answered with the state
		if got := b.notifies(); !strings.HasSuffix(got, ", active;expires=120 3 0/1") {
			t.Errorf("refresh: %s", got)
		}
		if b.subs.Count() != 1 {
			t.Errorf("%d subscriptions", b.subs.Count())
		}
		b.subscribe("0001201", 0)
		if got := b.notifies(); !strings.HasSuffix(got, ", terminated;reason=timeout 4 0/1") || b.subs.Count() != 0 {
			t.Errorf("the end: %s, %d left", got, b.subs.Count())
		}
		if got := b.subscribe("0001201", 300).StatusCode; got != 481 {
			t.Errorf("a refresh of nothing: %d", got)
		}
	})
}

func TestSubscriptionEndsWhenNotRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.close()
		b.subscribe("0001201", 60)
		time.Sleep(61 * time.Second)
		if got := b.notifies(); !strings.HasSuffix(got, "terminated;reason=timeout 2 0/0") || b.subs.Count() != 0 {
			t.Errorf("%s, %d left", got, b.subs.Count())
		}
	})
}

func TestChangesWhileANotifyIsUnderWayBecomeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.close()
		b.slow = 100 * time.Millisecond
		b.subscribe("0001201", 300)
		for i := range 50 {
			b.shop.set(i+1, 0)
			b.subs.Changed(mwi.Name, ana.User)
		}
		time.Sleep(time.Second)
		got := b.notifies()
		if n := strings.Count(got, "active"); n > 2 || !strings.HasSuffix(got, "50/0") {
			t.Errorf("got %s", got)
		}
	})
}

func TestWhoDoesNotAnswerIsForgotten(t *testing.T) {
	for _, status := range []int{0, 481, 405} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			defer b.close()
			b.answer = status
			b.subscribe("0001201", 300)
			time.Sleep(33 * time.Second)
			synctest.Wait()
			if b.subs.Count() != 0 {
				t.Errorf("answered %d: still there", status)
			}
		})
	}
}

func TestSubscribeRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		defer b.close()
		set := func(name, value string) func(*sip.Request) {
			return func(r *sip.Request) { message.Remove(r, name); r.AppendHeader(sip.NewHeader(name, value)) }
		}
		for _, c := range []struct {
			name   string
			to     string
			expire int
			more   func(*sip.Request)
			want   int
		}{
			{"somebody else's mailbox", "0001202", 300, nil, 403},
			{"unknown package", "0001201", 300, set("Event", "presence"), 489},
			{"no package", "0001201", 300, func(r *sip.Request) { message.Remove(r, "Event") }, 489},
			{"other body", "0001201", 300, set("Accept", "text/plain"), 406},
			{"any body", "0001201", 300, set("Accept", "application/*"), 200},
			{"too often", "0001201", 5, nil, 423},
			{"by the voicemail's code", "*97", 300, nil, 200},
			{"somebody else in From", "0001201", 300, func(r *sip.Request) { r.From().Address.User = "0001299" }, 403},
		} {
			b.tag = ""
			more := []func(*sip.Request){}
			if c.more != nil {
				more = append(more, c.more)
			}
			if got := b.subscribe(c.to, c.expire, more...).StatusCode; got != c.want {
				t.Errorf("%s: %d, want %d", c.name, got, c.want)
			}
		}
	})
}

// broken is a mailbox with a bug.
type broken struct{}

func (broken) Summary(site.RecordID) site.Summary { panic("a bug") }

// A bug in a package ends the subscription, not the node.
func TestPanicInAPackageEndsOnlyItsSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *subscribe.Config) { c.Packages = []subscribe.Package{mwi.New(broken{})} })
		defer b.close()
		if got := b.subscribe("0001201", 300).StatusCode; got != 200 {
			t.Errorf("got %d", got)
		}
		synctest.Wait()
		if got := b.subs.Count(); got != 0 {
			t.Errorf("%d subscriptions are left", got)
		}
	})
}
