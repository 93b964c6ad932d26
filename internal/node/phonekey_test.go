package node

import (
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
	"carrierclass.net/ccnode/internal/trust"
)

// A box that has no key of its site yet gives no settings, and does once the
// key is there; with another key it is another CA, and somebody is told.
func TestSettingsFollowTheKeyOfTheSite(t *testing.T) {
	var key *trust.SiteKey
	ip := netip.MustParseAddr("127.0.0.1")
	n := &Node{cfg: config.Config{PhoneHTTP: 8086, PhoneHTTPS: 8446}, member: &member{Site: site.ID{7}}, now: time.Now, rand: rand.Reader}
	l := &phoneLAN{addr: ip, net: netip.MustParsePrefix("127.0.0.0/8"), ifi: &net.Interface{Name: "lo"}}
	p := &phones{n: n, log: slog.New(slog.DiscardHandler), lans: []*phoneLAN{l},
		leaf: &phoneLeaf{ips: []netip.Addr{ip}, rand: rand.Reader, now: time.Now},
		site: func() (trust.SiteKey, bool) {
			if key == nil {
				return trust.SiteKey{}, false
			}
			return *key, true
		}}
	n.phones = p
	ask := func() int {
		r := httptest.NewRequest(http.MethodGet, "/p/001565aabbcc.cfg", nil)
		r.RemoteAddr = "127.0.0.1:4000"
		w := httptest.NewRecorder()
		l.handler(func(s *phoneService) http.Handler { return s.http }).ServeHTTP(w, r)
		_, _ = io.Copy(io.Discard, w.Result().Body)
		return w.Code
	}

	p.follow(t.Context())
	if got := ask(); got != http.StatusServiceUnavailable {
		t.Errorf("without a key: %d", got)
	}
	if _, err := (provisioning{n}).Window(t.Context()); err == nil || !strings.Contains(err.Error(), "no key") {
		t.Errorf("a window without a key: %v", err)
	}
	draw := func() {
		k, err := trust.NewSiteKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key = &k
		p.follow(t.Context())
	}
	draw()
	if got := ask(); got != http.StatusNotFound { // served: the window is closed
		t.Errorf("with a key: %d", got)
	}
	w, err := provisioning{n}.Open(t.Context(), time.Minute, nil)
	if err != nil || !w.Open {
		t.Fatalf("window %+v, %v", w, err)
	}
	first, served := w.CA, l.now.Load()
	leaf := func() *tls.Certificate {
		c, err := p.leaf.certificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	shown := leaf()
	p.follow(t.Context())
	if l.now.Load() != served || leaf() != shown || len(p.odd) != 0 {
		t.Errorf("the same key moved something: %q", p.odd)
	}
	draw()
	w, err = provisioning{n}.Window(t.Context())
	if err != nil || w.Open || w.CA == first || l.now.Load() == served || leaf() == shown {
		t.Errorf("another key: %+v, %v", w, err)
	}
	if len(p.odd) != 1 || !strings.Contains(p.odd[0], "phone window open") {
		t.Errorf("people are told %q", p.odd)
	}
}
