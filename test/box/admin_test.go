package box

import (
	"crypto/tls"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

// as a person: commands with what a log-in printed.
func (b *box) by(t *testing.T, token string, args ...string) answer {
	t.Helper()
	return b.cli(append([]string{"--token", token}, args...)...)
}

// net is the box's interface as others on the network see it.
func (b *box) net(t *testing.T, token string) *api.Client {
	t.Helper()
	c, err := api.NewClient("https://"+b.ip.String()+":8443", token, &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}) // the certificate is the box's own
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAdministrators: a person is appointed, logs in at both boxes of the shop,
// through the socket and over the network; what they do bears their name; what
// they may not, they are told; a changed password and a revocation count at the
// other box; guessing has its pauses.
func TestAdministrators(t *testing.T) {
	a, b := pairOf(t)
	a.user("201")
	file := func(text string) string {
		name := filepath.Join(folder(t), "pw")
		if err := os.WriteFile(name, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	const first, second = "correct horse battery", "another staple, longer"
	ann := as[api.Admin](a, "admin", "create", "ann", "--fleet", "--password-file", file(first))
	if !ann.Fleet || ann.Password != "" || ann.Issuer == "" {
		t.Errorf("appointed %+v", ann)
	}
	bob := as[api.Admin](a, "admin", "create", "bob")
	if bob.Fleet || len(bob.Sites) != 1 || bob.Sites[0] != "0001" || len(bob.Password) < 20 {
		t.Errorf("appointed %+v", bob)
	}
	for want, args := range map[string][]string{
		"there is an administrator": {"admin", "create", "Ann"},
		"12 or more":                {"admin", "create", "eve", "--password-file", file("short")},
		"something else":            {"admin", "create", "console"},
		"no site":                   {"admin", "create", "eve", "--sites", "0777"},
		"name sites, or the fleet":  {"admin", "create", "eve", "--fleet", "--sites", "0001"},
		"there is no administrator": {"admin", "revoke", "eve"},
	} {
		if x := a.cli(args...); x.code == 0 || !strings.Contains(x.err, want) {
			t.Errorf("ccnode %s: exit %d, %q; want %q", strings.Join(args, " "), x.code, x.err, want)
		}
	}
	eventually(t, 10*time.Second, func() error {
		if got := b.must("admin", "list"); !strings.Contains(got, "ann") || !strings.Contains(got, "bob") {
			return errors.New("the other box knows only " + got)
		}
		return nil
	})

	// Through the socket of the other box: what ann does bears her name.
	at := strings.TrimSpace(b.must("login", "ann", "--password-file", file(first)))
	if x := b.by(t, at, "whoami"); x.code != 0 || !strings.Contains(x.out, "ann") || !strings.Contains(x.out, "the fleet") {
		t.Errorf("whoami: %+v", x)
	}
	if got := b.must("whoami"); !strings.Contains(got, "console") {
		t.Errorf("without a session: %s", got)
	}
	if x := b.by(t, at, "user", "set", "201", "--name", "Ana"); x.code != 0 {
		t.Fatalf("ann cannot: %+v", x)
	}
	eventually(t, 10*time.Second, func() error {
		if got := a.must("history", "201"); !strings.Contains(got, "ann") {
			return errors.New("who changed it: " + got)
		}
		return nil
	})

	// Over the network, with the password.
	var s api.Session
	web := a.net(t, "")
	if err := web.Do(t.Context(), http.MethodPost, "/login", api.LogIn{Name: "bob", Password: bob.Password}, &s, ""); err != nil {
		t.Fatal(err)
	}
	web = a.net(t, s.Token)
	if s.Ends == nil || time.Until(*s.Ends) > 12*time.Hour+time.Minute || s.Admin == nil {
		t.Errorf("the session: %+v", s)
	}
	if err := web.Do(t.Context(), http.MethodPost, "/users", api.NewUser{Number: "202"}, &api.User{}, ""); err != nil {
		t.Errorf("bob makes a user of his site: %v", err)
	}
	for what, err := range map[string]error{
		"an invite":         web.Do(t.Context(), http.MethodPost, "/invites", api.NewInvite{}, nil, ""),
		"the recovery":      web.Do(t.Context(), http.MethodGet, "/recovery", nil, nil, ""),
		"a revocation":      web.Do(t.Context(), http.MethodPost, "/nodes/"+b.status().Node.ID+"/revoke", struct{}{}, nil, ""),
		"one of the fleet":  web.Do(t.Context(), http.MethodPost, "/admins", api.NewAdmin{Name: "eve", Fleet: true}, nil, ""),
		"the end of theirs": web.Do(t.Context(), http.MethodDelete, "/admins/ann", nil, nil, ""),
	} {
		if err == nil || !strings.Contains(err.Error(), "ask an administrator of the fleet") {
			t.Errorf("bob of site 0001 asks for %s: %v", what, err)
		}
	}
	if err := a.net(t, api.SessionToken+"made-up").Do(t.Context(), http.MethodGet, "/users", nil, nil, ""); err == nil || !strings.Contains(err.Error(), "log in again") {
		t.Errorf("a token nobody gave: %v", err)
	}
	if x := a.by(t, api.SessionToken+"made-up", "user", "list"); x.code == 0 {
		t.Error("through the socket a false session is the console")
	}
	if x := a.by(t, s.Token, "logout"); x.code != 0 {
		t.Errorf("logout: %+v", x)
	}
	if x := a.by(t, s.Token, "whoami"); x.code == 0 || !strings.Contains(x.err, "log in again") {
		t.Errorf("after logout: %+v", x)
	}

	// A changed password counts at the other box; the open session goes on.
	a.must("admin", "passwd", "ann", "--old-file", file(first), "--new-file", file(second))
	eventually(t, 10*time.Second, func() error {
		if x := b.cli("login", "ann", "--password-file", file(second)); x.code != 0 {
			return errors.New(x.err)
		}
		return nil
	})
	if x := b.by(t, at, "whoami"); x.code != 0 {
		t.Errorf("a new password ends a session: %+v", x)
	}

	// Ann is revoked at one box; her session at the other ends, and what she follows.
	ended := make(chan error, 1)
	heard := make(chan struct{}, 100)
	go func() {
		ended <- b.net(t, at).Follow(t.Context(), 0, func(api.Event) error { heard <- struct{}{}; return nil })
	}()
	<-heard // hello
	a.must("admin", "revoke", "ann")
	eventually(t, 10*time.Second, func() error {
		if x := b.by(t, at, "user", "set", "201", "--name", "Eve was here"); x.code == 0 || !strings.Contains(x.err, "log in again") {
			return errors.New("a revoked administrator goes on: " + x.out + x.err)
		}
		return nil
	})
	a.user("203")
	select {
	case <-ended:
	case <-time.After(25 * time.Second):
		t.Error("a revoked administrator still follows what happens")
	}
	if x := b.cli("login", "ann", "--password-file", file(second)); x.code == 0 {
		t.Error("a revoked administrator logs in")
	}

	// Whoever guesses waits, and so does a name; the owner of another gets in.
	said := ""
	for range 6 {
		said = b.cli("login", "bob", "--password-file", file("not his password")).err
	}
	if !strings.Contains(said, "try again in") {
		t.Errorf("the sixth guess: %s", said)
	}
	eventually(t, 30*time.Second, func() error {
		if x := b.cli("login", "bob", "--password-file", file(bob.Password)); x.code != 0 {
			return errors.New(x.err)
		}
		return nil
	})
}
