package trunk_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/trunk"
)

func TestRegisters(t *testing.T) {
	within(t, nil, func(w *world) {
		w.use(account())
		s := w.want(trunk.Registered)
		w.said("401/120", "200/120")
		if left := time.Until(s.Until); left != 120*time.Second {
			t.Errorf("registered for %s", left)
		}
		if s.Public.String() != shopAddr || s.NAT || s.ALG || s.Status != 200 || s.Others != 0 {
			t.Errorf("%+v", s)
		}
		req := w.p.last().req
		if got := req.Contact().Address.String(); !strings.HasPrefix(got, "sip:0472001201@192.168.1.2:5060;line=") {
			t.Errorf("Contact %s", got)
		}
		if req.Recipient.String() != "sip:sip.example" || req.To().Address.String() != "sip:0472001201@sip.example" {
			t.Errorf("%s, To %s", req.Recipient.String(), req.To().Address.String())
		}
	})
}

// Refreshes come after half to three quarters of the time, with the nonce that
// is known, in one exchange; the registration never lapses.
func TestRefreshes(t *testing.T) {
	within(t, nil, func(w *world) {
		w.use(account())
		for range 40 {
			sleep(15 * time.Second)
			if s := w.want(trunk.Registered); s.Until.Before(time.Now().Add(30 * time.Second)) {
				t.Fatalf("only %s left", time.Until(s.Until))
			}
		}
		got := w.p.registers()
		if n := len(got) - 1; n < 600/90 || n > 600/60+1 {
			t.Errorf("%d registrations in ten minutes", n)
		}
		pauses := map[time.Duration]bool{}
		for i := 2; i < len(got); i++ {
			if got[i] != "200/120" {
				t.Errorf("refresh %d: %s", i, got[i])
			}
			d := w.p.got[i].at.Sub(w.p.got[i-1].at)
			if pauses[d] = true; d < time.Minute || d > 90*time.Second {
				t.Errorf("refresh after %s", d)
			}
			if a, b := w.p.got[i].req.CSeq().SeqNo, w.p.got[i-1].req.CSeq().SeqNo; a <= b {
				t.Errorf("CSeq %d after %d", a, b)
			}
		}
		if len(pauses) < 3 {
			t.Errorf("no jitter: %v", pauses)
		}
	})
}

func TestNonceForOneRequest(t *testing.T) {
	within(t, func(w *world) { w.p.oneTime = true }, func(w *world) {
		w.use(account())
		sleep(10 * time.Minute)
		w.want(trunk.Registered)
		for i, s := range w.p.registers() {
			if want := []string{"401/120", "200/120"}[i%2]; s != want {
				t.Fatalf("%d: %s, want %s", i, s, want)
			}
		}
	})
}

func TestStrongestChallenge(t *testing.T) {
	for _, status := range []int{401, 407} {
		within(t, func(w *world) {
			w.p.algorithms, w.p.status = []string{"MD5", "AKAv1-MD5", "SHA-256", "MD5"}, status
		}, func(w *world) {
			w.use(account())
			w.want(trunk.Registered)
			name := map[int]string{401: "Authorization", 407: "Proxy-Authorization"}[status]
			if v := message.Get(w.p.last().req, name); !strings.Contains(v, "algorithm=SHA-256") {
				t.Errorf("%s: %s", name, v)
			}
		})
	}
	within(t, func(w *world) { w.p.algorithms = []string{"AKAv1-MD5"} }, func(w *world) {
		w.use(account())
		if s := w.want(trunk.Refused); !strings.Contains(s.Err, "no challenge") || s.Status != 401 {
			t.Errorf("%+v", s)
		}
	})
}

// A wrong password is said twice, then for five minutes not again, however the
// provider refuses it; a new one is tried at once.
func TestWrongPassword(t *testing.T) {
	for _, forbidden := range []bool{false, true} {
		within(t, func(w *world) {
			w.p.password = "other"
			if forbidden {
				w.p.change = func(res *sip.Response) {
					if len(w.p.got)%2 == 1 {
						res.StatusCode, res.Reason = 403, "Forbidden"
						message.Remove(res, "WWW-Authenticate")
					}
				}
			}
		}, func(w *world) {
			w.use(account())
			w.want(trunk.Refused)
			sleep(3 * time.Second)
			s := w.want(trunk.WrongPassword)
			n := w.p.count()
			if n != 4 {
				t.Errorf("%v", w.p.registers())
			}
			if pause := time.Until(s.Again); pause < 5*time.Minute-3*time.Second || pause > 8*time.Minute {
				t.Errorf("again in %s", pause)
			}
			sleep(290 * time.Second)
			if w.p.count() != n {
				t.Errorf("hammered: %v", w.p.registers())
			}
			sleep(10 * time.Minute)
			if c := w.p.count(); c <= n || c > n+6 {
				t.Errorf("%d more", c-n)
			}
			w.want(trunk.WrongPassword)
			right := account()
			right.Password = "other"
			w.p.set(func() { w.p.change = nil })
			w.use(right)
			w.want(trunk.Registered)
		})
	}
}

func TestWrongRealm(t *testing.T) {
	within(t, func(w *world) { w.p.realm = "evil.example" }, func(w *world) {
		a := account()
		a.Realms = []string{"sip.example", "provider"}
		w.use(a)
		if s := w.want(trunk.WrongRealm); !strings.Contains(s.Err, "evil.example") {
			t.Errorf("%s", s.Err)
		}
		sleep(time.Minute)
		for _, s := range w.p.got {
			if message.Get(s.req, "Authorization") != "" {
				t.Fatal("a stranger got an answer to its challenge")
			}
		}
		w.p.set(func() { w.p.realm = "Provider" }) // as it is spelt matters to the digest, not to us
		sleep(5 * time.Minute)
		w.want(trunk.Registered)
	})
}

func TestAlwaysStale(t *testing.T) {
	within(t, func(w *world) { w.p.allStale = true }, func(w *world) {
		w.use(account())
		w.want(trunk.WrongClock)
		if n := w.p.count(); n != 3 {
			t.Errorf("%v", w.p.registers())
		}
		w.p.set(func() { w.p.allStale = false })
		sleep(5 * time.Second)
		w.want(trunk.Registered)
	})
}

func TestIntervalTooBrief(t *testing.T) {
	within(t, func(w *world) { w.p.least = 300 }, func(w *world) {
		w.use(account())
		s := w.want(trunk.Registered)
		w.said("401/120", "423/120", "200/300")
		if time.Until(s.Until) != 300*time.Second {
			t.Errorf("until %s", time.Until(s.Until))
		}
		sleep(4 * time.Minute)
		w.said("401/120", "423/120", "200/300", "200/300")
	})
	within(t, func(w *world) { w.p.least = 1e6 }, func(w *world) {
		w.use(account())
		w.want(trunk.Refused)
	})
}

// A provider that says nothing is asked again after pauses that double up to
// five minutes, and found at once when it is back.
func TestSilence(t *testing.T) {
	within(t, func(w *world) { w.p.silent = true }, func(w *world) {
		w.use(account())
		w.want(trunk.Trying)
		sleep(11 * time.Second)
		s := w.want(trunk.NoAnswer)
		if s.Err == "" || s.Status != 0 || s.Usable(time.Now()) {
			t.Errorf("%+v", s)
		}
		sleep(2 * time.Hour)
		n := w.p.count()
		if n < 20 || n > 35 {
			t.Errorf("%d requests in two hours", n)
		}
		if pause := time.Until(w.state().Again); pause > 375*time.Second {
			t.Errorf("next in %s", pause)
		}
		w.p.set(func() { w.p.silent = false })
		sleep(6*time.Minute + 30*time.Second)
		w.want(trunk.Registered)
	})
}

// After success, and when our address has changed, pauses are short again.
func TestPausesBeginAnew(t *testing.T) {
	within(t, func(w *world) { w.p.refuse = 500 }, func(w *world) {
		soon := func(when string) {
			t.Helper()
			if pause := time.Until(w.state().Again); pause > 2500*time.Millisecond {
				t.Errorf("%s: again in %s", when, pause)
			}
		}
		w.use(account())
		sleep(time.Hour)
		if pause := time.Until(w.state().Again); pause < time.Second {
			sleep(pause + time.Second)
		}
		w.tr.Moved()
		sleep(time.Millisecond)
		soon("moved")
		sleep(time.Hour)
		w.p.set(func() { w.p.refuse = 0 })
		sleep(7 * time.Minute)
		w.want(trunk.Registered)
		w.p.set(func() { w.p.refuse = 500 })
		for w.state().Phase == trunk.Registered {
			sleep(time.Second)
		}
		soon("refused after success")
	})
}

// A registration that cannot be renewed is still one until its time.
func TestSilenceAfterRegistration(t *testing.T) {
	within(t, nil, func(w *world) {
		w.use(account())
		w.p.set(func() { w.p.silent = true })
		sleep(102 * time.Second)
		if s := w.want(trunk.NoAnswer); !s.Usable(time.Now()) || !strings.Contains(s.String(), "still registered until") {
			t.Errorf("%v", s)
		}
		sleep(20 * time.Second)
		if s := w.want(trunk.NoAnswer); s.Usable(time.Now()) || !s.Until.IsZero() {
			t.Errorf("%v", s)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	within(t, func(w *world) { w.p.refuse, w.p.after = 503, "120 (maintenance);duration=60" }, func(w *world) {
		w.use(account())
		s := w.want(trunk.Refused)
		if pause := time.Until(s.Again); s.Status != 503 || pause < 120*time.Second || pause > 132*time.Second {
			t.Errorf("%d, again in %s", s.Status, pause)
		}
		sleep(119 * time.Second)
		w.said("503/120")
		w.p.set(func() { w.p.refuse = 0 })
		sleep(14 * time.Second)
		w.want(trunk.Registered)
	})
}

func TestAnswersTwice(t *testing.T) {
	within(t, nil, func(w *world) {
		twice := 0
		w.p.change = func(res *sip.Response) {
			twice++
			if err := w.p.e.Send(res, edge.Dest{Transport: site.UDP, Addr: netip.MustParseAddrPort(shopAddr)}); err != nil {
				t.Error(err)
			}
		}
		w.use(account())
		sleep(30 * time.Second)
		w.want(trunk.Registered)
		w.said("401/120", "200/120")
		if twice != 2 {
			t.Errorf("%d answers were doubled", twice)
		}
	})
}

func TestUnregistersOnClose(t *testing.T) {
	within(t, nil, func(w *world) {
		w.use(account())
		if err := w.tr.Close(w.t.Context()); err != nil {
			t.Error(err)
		}
		w.said("401/120", "200/120", "200/0")
		w.want(trunk.Closed)
		if len(w.p.bindings) != 0 {
			t.Errorf("left behind: %v", w.p.bindings)
		}
	})
	within(t, nil, func(w *world) { // nobody waits for a dead provider
		w.use(account())
		w.p.set(func() { w.p.silent = true })
		begin := time.Now()
		w.tr.Close(w.t.Context())
		if d := time.Since(begin); d > 2*time.Second {
			t.Errorf("Close took %s", d)
		}
	})
}

func TestRemovedTrunkIsUnregistered(t *testing.T) {
	within(t, nil, func(w *world) {
		w.use(account())
		w.use()
		w.said("401/120", "200/120", "200/0")
		if len(w.tr.States()) != 0 {
			t.Error(w.tr.States())
		}
	})
}

func TestTCPRegistersAgainWhenTheConnectionBreaks(t *testing.T) {
	within(t, nil, func(w *world) {
		a := account()
		a.Transport = site.TCP
		w.use(a)
		w.want(trunk.Registered)
		if f := w.p.last().flow; f.Transport != site.TCP {
			t.Fatalf("came by %s", f)
		}
		w.p.stop()
		sleep(time.Second)
		w.p.end = newEnd(t, w.net, providerAddr, w.p.serve)
		sleep(25 * time.Second)
		if w.p.count() != 3 {
			t.Errorf("%v", w.p.registers())
		}
		w.want(trunk.Registered)
	})
}

func TestWatching(t *testing.T) {
	within(t, nil, func(w *world) {
		w.use(account())
		changed := w.tr.Changed()
		sleep(30 * time.Second)
		select {
		case <-changed:
			t.Error("told of nothing")
		default:
		}
		w.p.set(func() { w.p.refuse = 500 })
		sleep(61 * time.Second)
		select {
		case <-changed:
		default:
			t.Error("a refusal was not told")
		}
		w.want(trunk.Refused)
	})
}
