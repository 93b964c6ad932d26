package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/config"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
)

// A box that has no key of its site yet gives no settings, and does once the
// key is there. A new key of the site moves nothing; one that is pinned for the
// telephones is another CA at the other port, and after a day the old one is
// shown no more.
func TestSettingsFollowTheKeyOfTheTelephones(t *testing.T) {
	ip := netip.MustParseAddr("127.201.7.1")
	now := time.Now()
	var keys []state.PhoneKey
	n := &Node{cfg: config.Config{PhoneHTTP: 8086, PhoneHTTPS: 8446}, member: &member{Site: site.ID{7}}, now: func() time.Time { return now }, rand: rand.Reader}
	l := &phoneLAN{addr: ip, net: netip.MustParsePrefix("127.0.0.0/8"), ifi: &net.Interface{Name: "lo"}}
	p := &phones{n: n, log: slog.New(slog.DiscardHandler), lans: []*phoneLAN{l}, stir: make(chan struct{}, 1),
		keys: func() []state.PhoneKey { return keys }}
	for i := range p.leaf {
		p.leaf[i] = &phoneLeaf{ips: []netip.Addr{ip}, rand: rand.Reader, now: n.now}
	}
	n.phones = p
	ctx, stop := context.WithCancel(t.Context())
	defer func() { stop(); p.wg.Wait() }()
	ask := func() int {
		r := httptest.NewRequest(http.MethodGet, "/p/001565aabbcc.cfg", nil)
		r.RemoteAddr = "127.0.0.1:4000"
		w := httptest.NewRecorder()
		handler(&l.now, func(s *phoneService) http.Handler { return s.http }).ServeHTTP(w, r)
		_, _ = io.Copy(io.Discard, w.Result().Body)
		return w.Code
	}

	p.follow(ctx)
	if got := ask(); got != http.StatusServiceUnavailable {
		t.Errorf("without a key: %d", got)
	}
	if _, err := (provisioning{n}).Window(ctx); err == nil || !strings.Contains(err.Error(), "no key") {
		t.Errorf("a window without a key: %v", err)
	}
	draw := func(number int) state.PhoneKey {
		k, err := trust.NewSiteKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return state.PhoneKey{Key: k, Number: number, Since: now}
	}
	leaf := func(door int) *tls.Certificate {
		c, err := p.leaf[door].certificate(nil)
		if err != nil {
			return nil
		}
		return c
	}
	keys = []state.PhoneKey{draw(0)}
	p.follow(ctx)
	if got := ask(); got != http.StatusNotFound { // served: the window is closed
		t.Errorf("with a key: %d", got)
	}
	w, err := provisioning{n}.Open(ctx, time.Minute, nil)
	if err != nil || !w.Open {
		t.Fatalf("window %+v, %v", w, err)
	}
	first, served, shown := w.CA, l.now.Load(), leaf(0)
	p.follow(ctx)
	if l.now.Load() != served || leaf(0) != shown || leaf(1) != nil || len(p.odd) != 0 {
		t.Errorf("the same key moved something: %q", p.odd)
	}
	keys = append([]state.PhoneKey{draw(1)}, keys...)
	p.follow(ctx)
	w, err = provisioning{n}.Window(ctx)
	if err != nil || w.Open || w.CA == first || l.now.Load() == served || leaf(1) == nil || leaf(0) == nil {
		t.Errorf("another key: %+v, %v", w, err)
	}
	if l.doors[0].Load() == nil || l.doors[1].Load() != l.now.Load() || len(p.odd) != 0 {
		t.Errorf("the doors are not those of the two keys; %q", p.odd)
	}
	served = l.now.Load()
	now = now.Add(state.ChangeFor)
	p.follow(ctx)
	if l.doors[0].Load() != nil || leaf(0) != nil || l.now.Load() != served {
		t.Error("after a day telephones may still come by what they trusted before")
	}
}
