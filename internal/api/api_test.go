package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// shop is a Backend with one user; what a test does not use panics, which the
// handler must survive.
type shop struct {
	Backend
	patched string // If-Match the last edit came with
	by      string
}

func (s *shop) Shop() Shop                    { return Shop{} }
func (s *shop) Status(context.Context) Status { return Status{Version: "test"} }
func (s *shop) User(_ context.Context, who string) (User, error) {
	if who != "201" {
		return User{}, NotFound("no user "+who, `"ccnode user list" shows who there is`)
	}
	return User{Number: "0001201", Name: "Ana", ETag: "seen-1"}, nil
}
func (s *shop) PatchUser(_ context.Context, by, who, etag string, p UserPatch) (User, error) {
	s.patched, s.by = etag, by
	return s.User(context.Background(), who)
}
func (s *shop) Recovery(context.Context) (Recovery, error) {
	return Recovery{Words: []string{"abandon"}}, nil
}

func serve(t *testing.T) (*shop, *Client, *httptest.Server) {
	t.Helper()
	s := &shop{}
	h := Handler(Config{Backend: s, Build: "test", Token: "secret", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	sock := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	hs := &http.Server{Handler: h, ConnContext: Local}
	go hs.Serve(l)
	t.Cleanup(func() { hs.Close() })
	c, err := NewClient("unix:"+sock, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	net := httptest.NewServer(h)
	t.Cleanup(net.Close)
	return s, c, net
}

func TestNobodyGetsInOverTheNetworkWithoutTheToken(t *testing.T) {
	_, _, srv := serve(t)
	for token, want := range map[string]int{"": 401, "wrong": 401, "secret": 200} {
		c, _ := NewClient(srv.URL, token, srv.Client())
		var st Status
		err := c.Do(context.Background(), "GET", "/status", nil, &st, "")
		var e *Error
		got := 200
		if errors.As(err, &e) {
			got = e.Status
		} else if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("token %q: got %d, want %d", token, got, want)
		}
	}
}

func TestRecoveryWordsStayOnTheConsole(t *testing.T) {
	_, console, srv := serve(t)
	var r Recovery
	if err := console.Do(context.Background(), "GET", "/recovery", nil, &r, ""); err != nil || len(r.Words) != 1 {
		t.Errorf("console: got %v, %v", r, err)
	}
	c, _ := NewClient(srv.URL, "secret", srv.Client())
	r = Recovery{}
	if err := c.Do(context.Background(), "GET", "/recovery", nil, &r, ""); err == nil || len(r.Words) != 0 {
		t.Errorf("the words went over the network: %v", r)
	}
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	s, c, _ := serve(t)
	err := c.Do(context.Background(), "GET", "/users/999", nil, &User{}, "")
	var e *Error
	if !errors.As(err, &e) || e.Status != 404 || !strings.Contains(e.What, "user list") {
		t.Errorf("got %v", err)
	}
	if err := c.Do(context.Background(), "PATCH", "/users/201", map[string]any{"ringSeconds": 1}, &User{}, ""); err == nil || !strings.Contains(err.Error(), "ringSeconds") {
		t.Errorf("a bad field is not named: %v", err)
	}
	if err := c.Do(context.Background(), "PATCH", "/users/201", map[string]any{"nmae": "typo"}, &User{}, ""); err == nil || !strings.Contains(err.Error(), "nmae") {
		t.Errorf("an unknown field is not named: %v", err)
	}
	if s.by != "" {
		t.Error("a bad edit reached the node")
	}
	name := "Ana Maria"
	if err := c.Do(context.Background(), "PATCH", "/users/201", UserPatch{Name: &name}, &User{}, "seen-1"); err != nil {
		t.Fatal(err)
	}
	if s.patched != "seen-1" || s.by != "console" {
		t.Errorf("what the person saw did not arrive: %q by %q", s.patched, s.by)
	}
}

func TestAPanicIsAnAnswer(t *testing.T) {
	_, c, _ := serve(t)
	err := c.Do(context.Background(), "GET", "/invites", nil, &[]Invite{}, "") // the test's shop has none
	var e *Error
	if !errors.As(err, &e) || e.Status != 500 {
		t.Errorf("got %v, want a 500", err)
	}
}

func TestOpenAPIIsGeneratedAndWhole(t *testing.T) {
	_, _, srv := serve(t)
	r, err := srv.Client().Get(srv.URL + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]any
	}
	if err := json.NewDecoder(r.Body).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || len(doc.Paths) < 15 || doc.Paths["/api/v1/users/{user}"]["patch"] == nil {
		t.Errorf("got %s with %d paths", doc.OpenAPI, len(doc.Paths))
	}
}

func TestAClientSaysThatNoNodeRuns(t *testing.T) {
	c, err := NewClient("unix:"+filepath.Join(t.TempDir(), "none.sock"), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	err = c.Do(context.Background(), "GET", "/status", nil, &Status{}, "")
	if !errors.Is(err, ErrNoNode) || !strings.Contains(err.Error(), "ccnode up") {
		t.Errorf("got %v", err)
	}
}
