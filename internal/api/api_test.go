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

	"carrierclass.net/ccnode/internal/site"
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

func TestAPatchChangesWhatItNames(t *testing.T) {
	m := site.Menu{Head: site.Head{ID: site.RecordID{1}, Name: "Main", ETag: "e"}, Number: "310", Tries: 2, Dial: true,
		Open: site.MenuPart{Keys: map[string]string{"1": "201", "2": "202"}}}
	if err := MergePatch([]byte(`{"id":"aaaaaaaaaaaaaaaa","tries":null,"open":{"keys":{"2":null,"3":"203"}}}`), &m); err != nil {
		t.Fatal(err)
	}
	if k := m.Open.Keys; m.ID != (site.RecordID{1}) || m.ETag != "e" || m.Tries != 0 || !m.Dial || len(k) != 2 || k["1"] != "201" || k["3"] != "203" {
		t.Errorf("%+v", m)
	}
	for _, bad := range []string{"", "[]", "3", `{"tris":2}`, `{"tries":"x"}`, `{} {}`, `{"open":{"keys":{"2":5}}}`} {
		was := m
		var e *Error
		if err := MergePatch([]byte(bad), &m); !errors.As(err, &e) || e.Status != 422 && e.Status != 400 || m.Name != was.Name {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestTheDocumentSaysWhatBodiesAre(t *testing.T) {
	_, _, srv := serve(t)
	r, err := http.Get(srv.URL + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var d struct {
		Paths map[string]map[string]struct {
			RequestBody struct {
				Content map[string]struct {
					Schema struct {
						Ref string `json:"$ref"`
					}
				}
			}
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
		t.Fatal(err)
	}
	for path, method := range map[string]string{"/api/v1/menus": "post", "/api/v1/menus/{record}": "patch"} {
		if ref := d.Paths[path][method].RequestBody.Content["application/json"].Schema.Ref; ref != "#/components/schemas/Menu" {
			t.Errorf("%s %s takes %q", method, path, ref)
		}
	}
}
