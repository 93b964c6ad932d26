package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/sipcore/phonetest"
)

// fetchFrom asks as a telephone at an address would; ca is whom it trusts. ""
// with a reason is what a phone makes of a refusal.
func fetchFrom(ip, url string, ca []byte) (string, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 3 * time.Second}
	tr := &http.Transport{DialContext: d.DialContext, TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}
	r, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return "", err
	}
	if r.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", url, r.Status)
	}
	return string(b), nil
}

func setting(t *testing.T, file, name string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` = (.*)$`).FindStringSubmatch(file)
	if m == nil {
		t.Fatalf("no %s in:\n%s", name, file)
	}
	return m[1]
}

// TestSecretsOfALostBoxAreReplaced: a box of a pair is stolen. A new key is
// used at once; when a person says so, passwords and PINs are others, and the
// telephone that was adopted comes by its old URL, over the CA it trusts, for
// its new ones. The thief, who can make both, finds the door shut.
func TestSecretsOfALostBoxAreReplaced(t *testing.T) {
	a := newBox(t, "a").up("")
	b := newBox(t, "b").up(a.invite(""))
	c := newBox(t, "c").up(a.invite("0002"))
	ana, ben := a.user("201", "Ana"), a.user("202", "Ben")
	oldPIN := "73519"
	if _, err := a.n.state.Set(t.Context(), "test", ben.ID, "", state.Patch{PIN: &oldPIN}); err != nil {
		t.Fatal(err)
	}
	const mac = "00:15:65:aa:bb:01"
	if _, err := state.Create(t.Context(), a.n.state, "test", site.Phone{Head: site.Head{Name: "till"}, MAC: mac, Vendor: "yealink", Lines: []string{ana.Devices[0].ID.String()}}); err != nil {
		t.Fatal(err)
	}
	if _, err := state.Create(t.Context(), a.n.state, "test", site.Trunk{Head: site.Head{Name: "north"}, Kind: "register", Via: "wan",
		Server: "sip.provider.example", User: "4711", Password: "Of-the-provider-9d2e"}); err != nil {
		t.Fatal(err)
	}
	until(t, "the second box of the pair has the key", func() bool { return len(a.n.state.HeldBy(b.n.id.Node())) == 1 })
	until(t, "both know that they are a pair", func() bool { return a.paired() && b.paired() })

	// The telephone is adopted and has its settings.
	x := provisioning{a.n}
	until(t, "a gives settings", func() bool { _, err := x.Window(t.Context()); return err == nil })
	if _, err := x.Open(t.Context(), time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	const phone, thief = "127.9.9.1", "127.9.9.2"
	first, err := fetchFrom(phone, fmt.Sprintf("http://%s:%d/p/001565aabb01.cfg", a.cfg.Listen[0], a.cfg.PhoneHTTP), nil)
	if err != nil {
		t.Fatal(err)
	}
	oldCA, err := fetchFrom(phone, setting(t, first, "static.trusted_certificates.url"), nil)
	if err != nil {
		t.Fatal(err)
	}
	full, err := fetchFrom(phone, setting(t, first, "static.auto_provision.server.url"), []byte(oldCA))
	if err != nil {
		t.Fatal(err)
	}
	oldURL := setting(t, full, "static.auto_provision.server.url")
	if err := x.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := fetchFrom(phone, oldURL, []byte(oldCA))
	if err != nil {
		t.Fatal(err)
	}
	oldPassword := setting(t, again, "account.1.password")
	register := func(u api.User, password string) error {
		p, err := phonetest.New(phonetest.Config{Servers: []netip.AddrPort{netip.AddrPortFrom(a.cfg.Listen[0], uint16(a.cfg.SIPPort))},
			Domain: "shops.example", User: u.Number, AuthUser: u.Devices[0].SIPUser, Password: password})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		defer stop()
		return p.Register(ctx)
	}
	if err := register(ana, oldPassword); err != nil {
		t.Fatal(err)
	}

	// The box is stolen.
	lost := b.n.id.Node()
	if _, err := a.back.RotateSecrets(t.Context(), "test", lost.String()); err == nil || !strings.Contains(err.Error(), "member") {
		t.Fatalf("of a member: %v", err)
	}
	stolen, _ := b.n.state.Keys().Current()
	b.down()
	if err := a.back.RevokeNode(t.Context(), "test", lost.String(), nil); err != nil {
		t.Fatal(err)
	}
	until(t, "a new key is used", func() bool { return !a.n.state.Exposes() })
	if k, _ := a.n.state.Keys().Current(); k == stolen {
		t.Error("the stolen key is still in use")
	}
	if got, err := fetchFrom(phone, oldURL, []byte(oldCA)); err != nil || setting(t, got, "account.1.password") != oldPassword {
		t.Errorf("a new key of the site moved the telephones: %v", err)
	}

	// A person has all replaced.
	x1, err := a.back.RotateSecrets(t.Context(), "test", lost.String())
	if err != nil {
		t.Fatal(err)
	}
	news := map[string]api.RotatedSecret{}
	for _, r := range x1.Replaced {
		news[r.Kind+" "+r.What+" "+r.Name] = r
	}
	if len(x1.Left) != 1 || x1.Left[0].Name != "north" || !strings.Contains(x1.Left[0].Why, "trunk set north") {
		t.Errorf("left: %+v", x1.Left)
	}
	if r := news["device password Ana"]; r.Phone != "till" || r.New != "" {
		t.Errorf("Ana's password: %+v", r)
	}
	if r := news["device password Ben"]; r.Phone != "" || len(r.New) != 26 {
		t.Errorf("Ben's password: %+v", r)
	}
	pin := news["user PIN Ben"].New
	boxes := a.n.state.Mailboxes()
	if ok, why := boxes.CheckPIN(t.Context(), ben.ID, pin); !ok {
		t.Errorf("the new PIN %q: %s", pin, why)
	}
	if ok, _ := boxes.CheckPIN(t.Context(), ben.ID, oldPIN); ok {
		t.Error("the old PIN is still taken")
	}
	if err := register(ana, oldPassword); err == nil {
		t.Error("the old password is still taken")
	}
	if err := register(ben, news["device password Ben"].New); err != nil {
		t.Errorf("Ben with his new password: %v", err)
	}
	if x1.Until == nil || len(x1.Phones) != 1 || x1.Phones[0].Asked {
		t.Errorf("telephones: until %v, %+v", x1.Until, x1.Phones)
	}

	// The telephone comes by what it knows, and leaves with what is new.
	moved, err := fetchFrom(phone, oldURL, []byte(oldCA))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fetchFrom(thief, oldURL, []byte(oldCA)); err == nil {
		t.Error("a second address was given the new secrets by the old URL")
	}
	newURL := setting(t, moved, "static.auto_provision.server.url")
	newCA, err := fetchFrom(phone, setting(t, moved, "static.trusted_certificates.url"), []byte(oldCA))
	if err != nil {
		t.Fatal(err)
	}
	if newCA == oldCA || newURL == oldURL {
		t.Fatal("nothing is new")
	}
	if err := register(ana, setting(t, moved, "account.1.password")); err != nil {
		t.Errorf("Ana's telephone with its new settings: %v", err)
	}
	settled, err := fetchFrom(phone, newURL, []byte(newCA))
	if err != nil {
		t.Fatal(err)
	}
	if setting(t, settled, "account.1.password") != setting(t, moved, "account.1.password") {
		t.Error("the settings at the new URL are others")
	}
	if _, err := fetchFrom(phone, newURL, []byte(oldCA)); err == nil {
		t.Error("what the thief can sign is shown at the new URL")
	}
	if seen, err := x.Seen(t.Context()); err != nil || !slices.ContainsFunc(seen, func(s api.SeenPhone) bool { return s.Fetched != nil && !s.Owed }) {
		t.Errorf("whether the telephone has its settings: %+v, %v", seen, err)
	}

	// After a restart it is the same, and a second run finds only the provider's.
	a.down()
	a.up("")
	until(t, "settings are given at the new URL", func() bool { _, err := fetchFrom(phone, newURL, []byte(newCA)); return err == nil })
	x2, err := a.back.RotateSecrets(t.Context(), "test", lost.String())
	if err != nil || len(x2.Replaced) != 0 || len(x2.Left) != 1 {
		t.Errorf("again: %+v, %v", x2, err)
	}
	_ = c
}

// TestHowLongAVisitorIsKnown: a telephone of one site registers at another, which
// knows it from then on for as long as its home says.
func TestHowLongAVisitorIsKnown(t *testing.T) {
	a := newBox(t, "a").up("")
	b := newBox(t, "b").up(a.invite("0002"))
	ana := a.user("201", "Ana")
	until(t, "b knows Ana", func() bool { return b.knows("Ana") })
	for _, bad := range []string{"30s", "1000h", "soon", "-1h"} {
		if _, err := a.back.PatchSite(t.Context(), "test", api.SitePatch{VisitorsFor: &bad}); err == nil {
			t.Errorf("visitors are known for %s", bad)
		}
	}
	long := "2h"
	if x, err := a.back.PatchSite(t.Context(), "test", api.SitePatch{VisitorsFor: &long}); err != nil || x.VisitorsFor != "2h0m0s" {
		t.Fatalf("%+v, %v", x, err)
	}
	p, err := phonetest.New(phonetest.Config{Servers: []netip.AddrPort{netip.AddrPortFrom(b.cfg.Listen[0], uint16(b.cfg.SIPPort))},
		Domain: "shops.example", User: ana.Number, AuthUser: ana.Devices[0].SIPUser, Password: passwordOf("Ana")})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	if err := p.Register(ctx); err != nil {
		t.Fatal(err)
	}
	v := b.n.calls.guests
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, x := range v.known {
		if left := x.until.Sub(b.n.now()); left < 119*time.Minute || left > 2*time.Hour {
			t.Errorf("known for %v", left)
		}
	}
	if len(v.known) != 1 {
		t.Errorf("%d visitors are known", len(v.known))
	}
}
