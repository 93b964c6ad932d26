package b2bua_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/message"
)

// loose takes ports out of bridges, too.
type loose struct{ sipcore.Anchor }

func (l loose) Bridge(x, y sipcore.Port) error {
	if y == nil {
		return nil
	}
	return l.Anchor.Bridge(x, y)
}

// speaker announces for as long as it is told to, as early media.
type speaker struct {
	last time.Duration
	mu   sync.Mutex
	said []site.Cause
	cut  int // announcements that ended early
}

func (s *speaker) config(cfg *b2bua.Config) {
	cfg.Anchor = loose{cfg.Anchor}
	cfg.Announce = s.announce
}

func (s *speaker) announce(ctx context.Context, cause site.Cause, c *b2bua.Call) {
	if _, err := c.Early(ctx); err != nil {
		return
	}
	s.mu.Lock()
	s.said = append(s.said, cause)
	s.mu.Unlock()
	select {
	case <-time.After(s.last):
	case <-ctx.Done():
		s.mu.Lock()
		s.cut++
		s.mu.Unlock()
	}
}

func TestCallersAreToldWhyBeforeTheRefusal(t *testing.T) {
	for _, c := range []struct {
		name, number, sdp string
		last, takes       time.Duration
		want              int
		reason            string
		saw               string
	}{
		{"no such number", "299", "v=0 ana", 2 * time.Second, 2 * time.Second, 404, "cause=1;", "[407 100 183 404]"},
		{"it never ends", "299", "v=0 ana", time.Hour, 8 * time.Second, 404, "cause=1;", "[407 100 183 404]"},
		{"no offer", "299", "", 2 * time.Second, 0, 404, "cause=1;", "[407 100 404]"},
		{"nobody registered", "204", "v=0 ana", time.Second, time.Second, 480, "cause=20;", "[407 100 183 480]"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			defer w.close()
			s := &speaker{last: c.last}
			n := w.node("0001", "a", "10.0.0.1:5060", s.config)
			ana := w.phone(w.user(n, "201", "ana"), "10.0.0.11:5060")
			w.user(n, "204", "dan")
			began := time.Now()
			h := ana.call(c.number, c.sdp)
			if got := h.status(); got != c.want || !strings.Contains(message.Get(h.res, "Reason"), c.reason) {
				t.Errorf("%s: got %d %q", c.name, got, message.Get(h.res, "Reason"))
			}
			if d := time.Since(began); d != c.takes {
				t.Errorf("%s: refused after %v, want %v", c.name, d, c.takes)
			}
			synctest.Wait()
			if got := h.provisional(); got != c.saw {
				t.Errorf("%s: ana saw %s, want %s", c.name, got, c.saw)
			}
		})
	}
}

func TestWhoHangsUpIsToldNoFurther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		s := &speaker{last: 5 * time.Second}
		n := w.node("0001", "a", "10.0.0.1:5060", s.config)
		ana := w.phone(w.user(n, "201", "ana"), "10.0.0.11:5060")
		h := ana.call("299", "v=0 ana")
		time.Sleep(time.Second)
		began := time.Now()
		h.cancel()
		if got := h.status(); got != 487 {
			t.Errorf("got %d", got)
		}
		synctest.Wait()
		if d := time.Since(began); d != 0 || s.cut != 1 || n.calls.Count() != 0 {
			t.Errorf("%v after the CANCEL: %d cut short, %d calls", d, s.cut, n.calls.Count())
		}
	})
}

// What a feature said already is not said again, and other nodes are told by
// their own node.
func TestNobodyIsToldTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		here, there := &speaker{last: time.Second}, &speaker{last: time.Second}
		a := w.node("0001", "a", "10.0.0.1:5060", here.config)
		b := w.node("0002", "a", "10.0.1.1:5060", there.config)
		ana := w.phone(w.user(a, "201", "ana"), "10.0.0.11:5060")
		w.user(b, "301", "zoe")
		h := ana.call("80002301", "v=0 ana")
		if got := h.status(); got != 480 {
			t.Errorf("got %d", got)
		}
		if len(here.said) != 1 || here.said[0] != site.Offline || len(there.said) != 0 {
			t.Errorf("told %v here, %v there", here.said, there.said)
		}
		a.feature = func(ctx context.Context, _ site.FeatureName, c *b2bua.Call) error {
			if _, err := c.Early(ctx); err != nil {
				return err
			}
			return errors.Join(site.NodeFull)
		}
		h = ana.call("*97", "v=0 ana", func(*sip.Request) {})
		if got := h.status(); got != 480 || len(here.said) != 1 {
			t.Errorf("got %d, told %v", got, here.said)
		}
	})
}
