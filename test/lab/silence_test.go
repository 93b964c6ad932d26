package lab

import (
	"testing"
	"time"

	"carrierclass.net/ccnode/test/lab/labkit"
)

// quiet waits until nothing has crossed the WAN for three seconds, so that
// what is counted next is not the end of what went before.
func quiet(l *labkit.Lab, within time.Duration) {
	l.T.Helper()
	end := time.Now().Add(within)
	for m := l.Wan(); ; {
		time.Sleep(3 * time.Second)
		now := l.Wan()
		if now.Since(m).Sum().All().Packets == 0 {
			return
		}
		if time.Now().After(end) {
			l.T.Fatalf("the WAN does not fall silent within %v; in the last 3 s %+v", within, now.Since(m))
		}
		m = now
	}
}

// load makes users at a node through its interface, each with a telephone's
// password, and returns them for SIPp.
func load(t *testing.T, n *labkit.Node, from, count int) (out []labkit.User) {
	t.Helper()
	for i := range count {
		out = append(out, n.NewAccount(ext(from+i)).Load(ext(from+(i+count/2)%count)))
	}
	return out
}

// Three nodes at two sites, all phones registered and refreshing, one of them
// with its lamp: not one octet crosses the WAN.
func TestSilence(t *testing.T) {
	l := labkit.New(t, "a", "b")
	a1 := found(l, "a", "a1")
	a2 := join(l, "a", "a2", a1)
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	pa, pb := l.Host("a", "phones-a"), l.Host("b", "phones-b")
	ana := a1.Account(a1.User("201"), 60)
	ana.MWI = true
	registered(t, pa, ana, 440)
	registered(t, pb, b1.Account(b1.User("201"), 60), 1000)
	ua, ub := load(t, a1, 210, 10), load(t, b1, 210, 10)
	l.AwaitSettled(30*time.Second, a1, a2, b1)

	window := watched(t, 60*time.Second, 600*time.Second)
	life := func(h *labkit.Host, at *labkit.Node, users []labkit.User) *labkit.Sipp {
		return h.StartSipp(labkit.Load{
			Scenario: "refresh", Server: at.Host.Addr.String() + ":5060", Users: users, Calls: len(users), Rate: 10, Pause: 5 * time.Second,
			Keys:   map[string]string{"contact_port": "7000", "expires": "60", "times": ext(int(window.Seconds())/5 + 8)},
			Within: window + 2*time.Minute,
		})
	}
	la, lb := life(pa, a1, ua), life(pb, b1, ub)
	quiet(l, 45*time.Second)

	before, done := l.Wan(), la.Tally()
	time.Sleep(window)
	d := l.Wan().Since(before)
	if d.Sum().All() != (labkit.Count{}) {
		t.Errorf("in %v of silence: %+v", window, d)
	}
	t.Logf("in %v: %d packets between the sites", window, d.Sum().All().Packets)
	if n := len(la.Tally().Took) - len(done.Took); n < 10*int(window.Seconds())/5*8/10 {
		t.Errorf("only %d refreshes happened meanwhile; this proves nothing", n)
	}
	if n := len(lb.Tally().Took); n == 0 {
		t.Error("no phone refreshed at b")
	}
	if ok, why := labkit.Settled(a1, a2, b1); !ok {
		t.Error(why)
	}
}

// Two hundred phones register again and again; the WAN hears nothing of it.
func TestRefreshIsLocal(t *testing.T) {
	l := labkit.New(t, "a", "b")
	a1 := found(l, "a", "a1")
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	phones := l.Host("a", "phones")
	users := load(t, a1, 300, 200)
	refresh := func(times string, rate int) labkit.Tally {
		t.Helper()
		y, err := phones.Sipp(labkit.Load{
			Scenario: "refresh", Server: a1.Host.Addr.String() + ":5060", Users: users, Calls: len(users), Rate: rate, Limit: 200, Pause: time.Second,
			Keys: map[string]string{"contact_port": "7000", "expires": "60", "times": times}, Within: 2 * time.Minute,
		})
		if err != nil {
			t.Fatal(err)
		}
		return y
	}
	refresh("1", 100)
	l.AwaitSettled(30*time.Second, a1, b1)
	quiet(l, 30*time.Second)
	before := l.Wan()
	y := refresh(long("10", "300"), 100)
	if d := l.Wan().Since(before); d.Sum().All() != (labkit.Count{}) {
		t.Errorf("%d refreshes sent %+v over the WAN", len(y.Took), d)
	}
	t.Logf("%d refreshes, p95 %v", len(y.Took), y.Percentile(95))
	if st := a1.Status(); st.Phones != 200 {
		t.Errorf("%d phones are registered, want 200", st.Phones)
	}
}
