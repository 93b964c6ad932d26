package node

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
)

// asAdmin appoints an administrator at a box and logs in there.
func (b *box) asAdmin(name string, in api.NewAdmin) *trust.Session {
	b.t.Helper()
	in.Name, in.Password = name, "correct horse battery"
	if _, err := b.back.CreateAdmin(b.t.Context(), "test", in); err != nil {
		b.t.Fatal(err)
	}
	s, err := b.back.LogIn(b.t.Context(), "console", api.LogIn{Name: name, Password: in.Password})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, _, err := b.back.Who(b.t.Context(), s.Token)
	if err != nil {
		b.t.Fatal(err)
	}
	return sessionIn(ctx)
}

// served is what a box answers another one that asks for an administrator.
func (b *box) served(box mesh.PeerID, head elsewhereHead, method, path, body string) (status int, text string) {
	b.t.Helper()
	x, y := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); b.n.serveElsewhere(from{x, box}) }()
	defer func() { y.Close(); <-done }()
	h := http.Header{}
	if body != "" {
		h.Set("Content-Type", "application/json")
	}
	a, err := askElsewhere(y, head, method, path, h, []byte(body))
	if err != nil {
		return 0, err.Error()
	}
	all, err := io.ReadAll(a.Body)
	if err != nil {
		b.t.Error(err)
	}
	return a.StatusCode, string(all)
}

// TestWhoMayAskElsewhere: a session counts for the box and the sites it names, for
// what administrators may, until it ends or is revoked.
func TestWhoMayAskElsewhere(t *testing.T) {
	a := newBox(t, "a").up("")
	c := newBox(t, "c").up(a.invite("0002"))
	a.user("201", "Ana")
	u := c.user("301", "Cleo")
	ann, bob := a.asAdmin("ann", api.NewAdmin{Fleet: true}), a.asAdmin("bob", api.NewAdmin{})
	until(t, "c knows both", func() bool { return len(c.n.book.Admins()) == 2 })
	me, there := mesh.PeerID(a.n.id.Node()), c.n.member.Site
	get := func(s *trust.Session, path string) (int, string) {
		return c.served(me, elsewhereHead{there, s.Bytes()}, "GET", "/api/v1"+path, "")
	}
	if code, text := get(ann, "/users/301"); code != 200 || !strings.Contains(text, "Cleo") {
		t.Errorf("ann: %d %s", code, text)
	}
	for path, want := range map[string]int{"/recovery": 403, "/admins": 403, "/invites": 403, "/events": 403, "/nodes/x/secrets": 403, "/users/999": 404, "/status": 200, "/nothing": 404} {
		if code, text := get(ann, path); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, text, want)
		}
	}
	if code, text := get(bob, "/users/301"); code != 403 || !strings.Contains(text, "other sites") {
		t.Errorf("bob, of the other site: %d %s", code, text)
	}
	head := elsewhereHead{there, ann.Bytes()}
	if code, text := c.served(mesh.PeerID(c.n.id.Node()), head, "GET", "/api/v1/users", ""); code != 403 || !strings.Contains(text, "for node") {
		t.Errorf("another box shows her session: %d %s", code, text)
	}
	forged := ann.Bytes()
	forged[len(forged)-1] ^= 1
	if code, text := c.served(me, elsewhereHead{there, forged}, "GET", "/api/v1/users", ""); code != 403 {
		t.Errorf("a forged one: %d %s", code, text)
	}
	if code, text := c.served(me, elsewhereHead{site.ID{9}, ann.Bytes()}, "GET", "/api/v1/users", ""); code != 503 {
		t.Errorf("a site that is neither here nor kept here: %d %s", code, text)
	}
	// c keeps a's state: it shows a's users, and changes none.
	until(t, "c keeps a's state", func() bool {
		return c.n.kept.state(a.n.member.Site) != nil && c.n.kept.state(a.n.member.Site).Own().Code != ""
	})
	own := elsewhereHead{a.n.member.Site, ann.Bytes()}
	ana, err := a.n.state.Find("201")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "c shows what it keeps", func() bool {
		code, text := c.served(me, own, "GET", "/api/v1/users/"+ana.String(), "")
		return code == 200 && strings.Contains(text, "Ana")
	})
	if code, text := c.served(me, own, "PATCH", "/api/v1/users/"+ana.String(), `{"name":"Eve"}`); code != 503 {
		t.Errorf("a keeper changes a user: %d %s", code, text)
	}
	if code, text := c.served(me, head, "PATCH", "/api/v1/users/"+u.ID.String()+"?site=0001", `{"name":"Clea"}`); code != 200 || !strings.Contains(text, "Clea") {
		t.Errorf("asked to pass it on, it does what it was asked itself: %d %s", code, text)
	}
	if _, err := a.back.RevokeAdmin(t.Context(), "test", "ann"); err != nil {
		t.Fatal(err)
	}
	until(t, "c hears of the revocation", func() bool { return len(c.n.book.Admins()) == 1 })
	if code, text := get(ann, "/users/301"); code != 403 || !strings.Contains(text, "it was revoked") {
		t.Errorf("revoked: %d %s", code, text)
	}
}

// FuzzElsewhere: whatever a member sends as an administrator's request, with or
// without a session that counts, is answered to its end and changes no rights;
// whatever answers a request is an answer or an error.
func FuzzElsewhere(f *testing.F) {
	b := newBox(f, "a").up("")
	b.user("201", "Ana")
	s := b.asAdmin("ann", api.NewAdmin{Fleet: true})
	me := mesh.PeerID(b.n.id.Node())
	head, err := json.Marshal(elsewhereHead{b.n.member.Site, s.Bytes()})
	if err != nil {
		f.Fatal(err)
	}
	head = append(head, '\n')
	f.Add(byte(0), append(bytes.Clone(head), "GET /api/v1/users HTTP/1.1\r\nHost: x\r\n\r\n"...))
	f.Add(byte(1), []byte("PATCH /api/v1/users/201?site=0002 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{\"name\":\"Zoe\"}"))
	f.Add(byte(1), []byte("GET /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n\r\n"))
	f.Add(byte(1), []byte("POST /api/v1/admins HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n12\r\n{\"name\":\"eve\",\"fle\r\n0\r\n\r\n"))
	f.Add(byte(2), []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"))
	f.Add(byte(2), []byte("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\x1f\x8b\x08\r\n0\r\n\r\n"))
	members, admins := len(b.n.book.Standings()), len(b.n.book.Admins())
	f.Fuzz(func(t *testing.T, kind byte, in []byte) {
		if kind%3 == 2 {
			a, err := askElsewhere(struct {
				io.Reader
				io.Writer
			}{bytes.NewReader(in), io.Discard}, elsewhereHead{}, "GET", "/", http.Header{}, nil)
			if err == nil && (a == nil || a.Body == nil) {
				t.Fatal("neither an answer nor an error")
			}
			return
		}
		if kind%3 == 1 {
			in = append(bytes.Clone(head), in...)
		}
		x, y := net.Pipe()
		go io.Copy(io.Discard, y) // ends with y
		go func() {
			y.Write(in)
			y.Close()
		}()
		done := make(chan struct{})
		go func() { defer close(done); b.n.serveElsewhere(from{x, me}) }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatalf("%q is served without an end", in)
		}
		if m, a := len(b.n.book.Standings()), len(b.n.book.Admins()); m != members || a != admins {
			t.Fatalf("%d members and %d administrators, there were %d and %d", m, a, members, admins)
		}
	})
}
