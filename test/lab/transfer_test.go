package lab

import (
	"math"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// A speaker is a telephone of any make.
type speaker interface{ LastHeard() labkit.Sound }

// hears waits until a telephone has heard nearly nothing but hz for a second.
func hears(t *testing.T, l *labkit.Lab, who string, p speaker, hz int) {
	t.Helper()
	start := time.Now()
	for p.LastHeard().Last(1.2).Heard(hz) < 1 {
		if time.Since(start) > 6*time.Second {
			s := p.LastHeard()
			t.Fatalf("%s hears %d Hz for %.1f s of its last %.1f s (all: %.1f s)", who, hz, s.Last(1.2).Heard(hz), min(1.2, s.Seconds()), s.Seconds())
		}
		time.Sleep(100 * time.Millisecond) // of speech
	}
}

// hearsMusic waits until a telephone has heard something for a second that is
// not hz, nor silence.
func hearsMusic(t *testing.T, who string, p speaker, hz int) {
	t.Helper()
	start := time.Now()
	for {
		s := p.LastHeard().Last(1)
		var sum float64
		for _, x := range s.Samples {
			sum += float64(x) * float64(x)
		}
		rms := math.Sqrt(sum / float64(max(1, len(s.Samples))))
		if s.Seconds() > 0.9 && rms > 100 && s.Heard(hz) == 0 {
			return
		}
		if time.Since(start) > 6*time.Second {
			t.Fatalf("%s hears no music: %d Hz for %.1f s, effective amplitude %.0f", who, hz, s.Heard(hz), rms)
		}
		time.Sleep(100 * time.Millisecond) // of music
	}
}

// ended waits until no call is left at the node, and gives the records of
// those since a time.
func ended(t *testing.T, l *labkit.Lab, n *labkit.Node, since time.Time, want int) (out []api.Call) {
	t.Helper()
	l.Within(8*time.Second, "no call is left", func() bool { return n.Status().Calls == 0 })
	var all []api.Call
	if err := n.Get("/calls?since="+url.QueryEscape("10m"), &all); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Ended == nil {
			t.Errorf("GET /calls still has %+v", c)
		} else if !c.Since.Before(since) {
			out = append(out, c)
			t.Logf("record: %s to %s, also %v, transferred by %v, %s", c.From, c.To, c.Also, c.TransferredBy, c.Cause)
		}
	}
	if len(out) != want {
		t.Errorf("%d records, want %d", len(out), want)
	}
	return out
}

// by checks that exactly one of the records tells of a transfer, by that
// number, none if it is "", and that it names all three who talked.
func by(t *testing.T, number string, records []api.Call) {
	t.Helper()
	var all []string
	for _, r := range records {
		all = append(all, r.TransferredBy...)
	}
	if got := strings.Join(all, " "); got != number {
		t.Errorf("the records tell of transfers by %q, want %q", got, number)
	}
	for _, r := range records {
		who := append([]string{r.From, r.To}, r.Also...)
		slices.Sort(who)
		if got := strings.Join(who, " "); r.TransferredBy != nil && got != "0001201 0001202 0001203" {
			t.Errorf("the record of the transferred call names %s", got)
		}
	}
}

// TestTransfers has baresip transfer, park and pick up. It has no attended
// transfer (baresip 1.0): linphone does that.
func TestTransfers(t *testing.T) {
	l := labkit.New(t, "a")
	phones := l.Host("a", "phones")
	box := found(l, "a", "a1")
	ana := registered(t, phones, box.Account(box.User("201", "--name", "Ana"), 60), 440)
	bob := registered(t, phones, box.Account(box.User("202", "--name", "Bob"), 60), 1000)
	cid := registered(t, phones, box.Account(box.User("203", "--name", "Cid"), 60), 700)
	blind := func(p *labkit.Baresip, to string) {
		t.Helper()
		if _, err := p.Command("transfer", to); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("blind, by the caller", func(t *testing.T) {
		start := time.Now()
		call(t, ana, bob, "202")
		am, cm := ana.Mark(), cid.Mark()
		blind(ana, "sip:203@shops.example")
		cid.Await(cm, "CALL_INCOMING", 5*time.Second)
		cid.Accept()
		ana.Await(am, "CALL_CLOSED", 5*time.Second)
		hears(t, l, "Bob", bob, cid.Hz)
		hears(t, l, "Cid", cid, bob.Hz)
		hangUp(t, cid, bob)
		by(t, "0001201", ended(t, l, box, start, 1))
	})
	t.Run("blind, by the called, to nobody", func(t *testing.T) {
		start := time.Now()
		call(t, ana, bob, "202")
		bm := bob.Mark()
		blind(bob, "sip:299@shops.example")
		bob.Await(bm, "TRANSFER_FAILED", 5*time.Second) // baresip hangs up when it fails: Ana waits, and it rings
		bob.Await(bm, "CALL_INCOMING", 5*time.Second)
		bob.Accept()
		hears(t, l, "Ana", ana, bob.Hz)
		hears(t, l, "Bob", bob, ana.Hz)
		hangUp(t, ana, bob)
		ended(t, l, box, start, 1)
	})
	t.Run("hold", func(t *testing.T) {
		start := time.Now()
		call(t, ana, bob, "202")
		ana.Hold()
		hearsMusic(t, "Bob", bob, ana.Hz)
		ana.Resume()
		hears(t, l, "Bob", bob, ana.Hz)
		hears(t, l, "Ana", ana, bob.Hz)
		hangUp(t, ana, bob)
		ended(t, l, box, start, 1)
	})
	t.Run("park", func(t *testing.T) {
		start := time.Now()
		call(t, ana, bob, "202")
		bm := bob.Mark()
		blind(bob, "sip:*71@shops.example")
		bob.Await(bm, "CALL_CLOSED", 5*time.Second)
		hearsMusic(t, "Ana", ana, bob.Hz)
		cm := cid.Mark()
		cid.Dial("*71")
		cid.Await(cm, "CALL_ESTABLISHED", 5*time.Second)
		hears(t, l, "Ana", ana, cid.Hz)
		hears(t, l, "Cid", cid, ana.Hz)
		hangUp(t, cid, ana)
		by(t, "0001202", ended(t, l, box, start, 2))
	})
	t.Run("pick-up", func(t *testing.T) {
		start := time.Now()
		am, bm, cm := ana.Mark(), bob.Mark(), cid.Mark()
		ana.Dial("202")
		bob.Await(bm, "CALL_INCOMING", 5*time.Second)
		cid.Dial("**202")
		cid.Await(cm, "CALL_ESTABLISHED", 5*time.Second)
		ana.Await(am, "CALL_ESTABLISHED", 5*time.Second)
		bob.Await(bm, "CALL_CLOSED", 5*time.Second)
		talk(t, ana, cid)
		hangUp(t, ana, cid)
		ended(t, l, box, start, 2)
	})
}
