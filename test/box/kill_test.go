package box

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/sipcore/phonetest"
)

// load writes to a box until it dies, and remembers what was acknowledged.
type load struct {
	b  *box
	wg sync.WaitGroup

	mu     sync.Mutex
	made   map[string]bool // numbers of users whose creation was acknowledged
	edits  int             // last acknowledged edit of the busy user's name
	phones []*phonetest.Phone
	bound  map[string]string // number → source address of an acknowledged binding
	next   int
}

func (l *load) number() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	return fmt.Sprintf("%d", l.next)
}

// run starts the writers; they end when the box does not answer any more.
func (l *load) run(ctx context.Context, tried *int) {
	for range 2 {
		l.wg.Go(func() {
			for ctx.Err() == nil {
				var u api.User
				if l.b.client.Do(ctx, "POST", "/users", api.NewUser{Number: l.number(), Password: "12345678"}, &u, "") != nil {
					return
				}
				l.mu.Lock()
				l.made[u.Number] = true
				l.mu.Unlock()
			}
		})
	}
	l.wg.Go(func() { // one user whose name counts up
		for ctx.Err() == nil {
			*tried++
			name := strconv.Itoa(*tried)
			if l.b.client.Do(ctx, "PATCH", "/users/busy", api.UserPatch{E164: ptr("+33" + fmt.Sprintf("%08d", *tried)), ForwardAll: &name}, &api.User{}, "") != nil {
				return
			}
			l.mu.Lock()
			l.edits = *tried
			l.mu.Unlock()
		}
	})
	l.wg.Go(func() { // telephones that register for the first time
		for ctx.Err() == nil {
			var u api.User
			if l.b.client.Do(ctx, "POST", "/users", api.NewUser{Number: l.number(), Password: "12345678"}, &u, "") != nil {
				return
			}
			p, err := phonetest.New(phonetest.Config{User: u.Number, Password: "12345678", Domain: "shops.example", NoRefresh: true,
				Servers: []netip.AddrPort{netip.AddrPortFrom(l.b.ip, 5060)}, Patience: 200 * time.Millisecond})
			if err != nil {
				return
			}
			l.mu.Lock()
			l.made[u.Number] = true
			l.phones = append(l.phones, p)
			l.mu.Unlock()
			rctx, cancel := context.WithTimeout(ctx, time.Second)
			err = p.Register(rctx)
			cancel()
			if err != nil {
				return
			}
			l.mu.Lock()
			l.bound[u.Number] = p.Addr().String()
			l.mu.Unlock()
		}
	})
}

func ptr[T any](v T) *T { return &v }

// TestKillNine: everything the node acknowledged is there after it was killed
// at a random moment under load: users, edits, first registrations.
func TestKillNine(t *testing.T) {
	kills := 20
	if long() {
		kills = 100
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	b := newBox(t)
	b.up("--domain", "shops.example", "--site", "01", "--extension-digits", "5")
	if _, err := ask[api.User](b, "POST", "/users", api.NewUser{Number: "99999", Name: "busy"}); err != nil {
		t.Fatal(err)
	}
	l := &load{b: b, made: map[string]bool{}, next: 10000}
	tried, bindings, restart := 0, 0, time.Duration(0)
	for kill := range kills {
		l.bound = map[string]string{}
		ctx, cancel := context.WithCancel(t.Context())
		l.run(ctx, &tried)
		time.Sleep(time.Duration(20+r.IntN(250)) * time.Millisecond)
		b.kill()
		cancel()
		l.wg.Wait()
		begun := time.Now()
		b.up()
		restart = max(restart, time.Since(begun))
		us, err := ask[[]api.User](b, "GET", "/users", nil)
		if err != nil {
			t.Fatal(err)
		}
		there := map[string]api.User{}
		for _, u := range us {
			there[u.Number] = u
		}
		for n := range l.made {
			if _, ok := there[n]; !ok {
				t.Errorf("kill %d: user %s was acknowledged and is gone", kill, n)
			}
		}
		busy, err := ask[api.User](b, "GET", "/users/busy", nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := strconv.Atoi(busy.ForwardAll); got < l.edits || got > tried || busy.E164 != fmt.Sprintf("+33%08d", got) {
			t.Errorf("kill %d: the busy user's edit is %q and %q, %d was acknowledged and %d tried", kill, busy.ForwardAll, busy.E164, l.edits, tried)
		}
		for n, source := range l.bound {
			w, err := ask[api.Location](b, "GET", "/users/"+n+"/where", nil)
			if err != nil || len(w.Contacts) != 1 || w.Contacts[0].Source != source {
				t.Errorf("kill %d: the registration of %s was acknowledged and is gone: %+v, %v", kill, n, w.Contacts, err)
			}
		}
		bindings += len(l.bound)
		for _, p := range l.phones {
			p.Close()
		}
		l.phones = nil
		if s := b.status(); len(s.Held) > 0 || s.ReadOnly != "" {
			t.Errorf("kill %d: %+v %s", kill, s.Held, s.ReadOnly)
		}
		if t.Failed() {
			t.Fatalf("the node said:\n%s", b.out.String())
		}
	}
	t.Logf("%d kills, 0 lost of %d users, %d edits and %d registrations; longest restart %d ms", kills, len(l.made), l.edits, bindings, restart.Milliseconds())
	if len(l.made) < 10*kills || l.edits < kills || bindings < kills {
		t.Errorf("too little load to prove anything")
	}
}
