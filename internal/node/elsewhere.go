package node

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
)

// elsewhereProtocol puts an administrator's request to a box of another site: a
// line of JSON with the session, then one HTTP/1.1 request, then its answer. The
// site's own box does what is asked, under its own grant and in the person's
// name, so it has seen what it changes, and what it changes is no merge.
const elsewhereProtocol = "/ccnode/admin/1"

const (
	maxElsewhereHead = 4 << 10
	maxElsewhere     = 16 << 20 // an announcement of half an hour
	elsewhereWait    = 3 * time.Second
	worthZipping     = 600
)

type elsewhereHead struct {
	Site    site.ID `json:"site"`    // whose answer is wanted
	Session []byte  `json:"session"` // trust.Session
}

type sessionKey struct{}

// sessionIn is the session under which ctx asks; nil: console or token.
func sessionIn(ctx context.Context) *trust.Session {
	s, _ := ctx.Value(sessionKey{}).(*trust.Session)
	return s
}

var errNotAsked = errors.New("no box of it could be asked")

// SiteByCode implements api.Elsewhere.
func (b *backend) SiteByCode(code string) (site.ID, bool, error) {
	x, ok := b.n.state.SiteByCode(code)
	if !ok {
		return site.ID{}, false, api.NotFound(fmt.Sprintf("there is no site %q", code), "\"ccnode status\" shows codes")
	}
	return x.ID, x.ID == b.n.member.Site, nil
}

// Forward implements api.Elsewhere.
func (b *backend) Forward(ctx context.Context, at site.ID, r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxElsewhere+1))
	if err != nil {
		return nil, err
	}
	u := *r.URL
	q := u.Query()
	q.Del("site")
	u.RawQuery = q.Encode()
	a, err := b.n.elsewhere(ctx, at, r.Method, u.RequestURI(), http.Header{"If-Match": r.Header["If-Match"], "Content-Type": r.Header["Content-Type"]}, body)
	if errors.Is(err, errNotAsked) {
		x, _ := b.n.state.Site(at)
		return nil, api.Unavailable(fmt.Sprintf("site %s: %v", x.Code, err), "try again when it can be reached")
	}
	return a, err
}

// elsewhere asks the boxes of a site, one after the other. errNotAsked: none
// could be reached, or none answered.
func (n *Node) elsewhere(ctx context.Context, at site.ID, method, path string, h http.Header, body []byte) (*http.Response, error) {
	x, _ := n.state.Site(at)
	return n.elsewhereAt(ctx, (view{n}).site(x).Nodes, at, method, path, h, body)
}

func (n *Node) elsewhereAt(ctx context.Context, nodes []site.NodeID, at site.ID, method, path string, h http.Header, body []byte) (*http.Response, error) {
	s := sessionIn(ctx)
	switch {
	case s == nil:
		return nil, api.Denied("another site wants to know who asks", "log in as an administrator of it (ccnode login), or name a node of that site with --api")
	case len(body) > maxElsewhere:
		return nil, &api.Error{Status: http.StatusRequestEntityTooLarge, What: "that is too long to be sent to another site", Do: "name a node of that site with --api"}
	}
	errs := []error{errNotAsked}
	for _, id := range nodes {
		a, err := n.elsewhereFrom(ctx, id, elsewhereHead{at, s.Bytes()}, method, path, h, body)
		if err == nil {
			return a, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (n *Node) elsewhereFrom(ctx context.Context, id site.NodeID, head elsewhereHead, method, path string, h http.Header, body []byte) (*http.Response, error) {
	octx, cancel := context.WithTimeout(ctx, elsewhereWait)
	defer cancel()
	c, err := n.mesh.OpenStream(octx, mesh.PeerID(id), elsewhereProtocol)
	n.tried(ctx, id, err)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	gaveUp := context.AfterFunc(ctx, func() { c.Close() })
	defer gaveUp()
	a, err := askElsewhere(patient{c}, head, method, path, h, body)
	if err != nil {
		n.tried(ctx, id, err)
		return nil, fmt.Errorf("ask %s: %w", id, err)
	}
	return a, nil
}

func askElsewhere(s io.ReadWriter, head elsewhereHead, method, path string, h http.Header, body []byte) (*http.Response, error) {
	r, err := http.NewRequest(method, "http://box"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, vs := range h {
		r.Header[k] = vs
	}
	r.Header.Set("Accept-Encoding", "gzip")
	r.Header.Set("User-Agent", "")
	var out bytes.Buffer // in as few pieces as the link takes
	if err := json.NewEncoder(&out).Encode(head); err == nil {
		err = r.Write(&out)
	}
	if err != nil {
		return nil, err
	}
	if _, err := s.Write(out.Bytes()); err != nil {
		return nil, err
	}
	a, err := http.ReadResponse(bufio.NewReader(io.LimitReader(s, maxElsewhere+maxElsewhereHead)), r)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	rd := io.Reader(a.Body)
	if a.Header.Get("Content-Encoding") == "gzip" {
		if rd, err = gzip.NewReader(a.Body); err != nil {
			return nil, err
		}
	}
	all, err := io.ReadAll(io.LimitReader(rd, maxElsewhere+1))
	if err == nil && len(all) > maxElsewhere {
		err = errors.New("the answer is too long")
	}
	a.Body = io.NopCloser(bytes.NewReader(all))
	return a, err
}

// serveElsewhere answers another box's administrators.
func (n *Node) serveElsewhere(s mesh.Stream) {
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r := bufio.NewReader(io.LimitReader(patient{s}, maxElsewhere+2*maxElsewhereHead))
	line, err := r.ReadSlice('\n') // at most the reader's 4 KiB
	var head elsewhereHead
	if err != nil || json.Unmarshal(line, &head) != nil {
		return
	}
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	w := &recorded{header: http.Header{}}
	if err := n.answerElsewhere(ctx, w, site.NodeID(s.Peer()), head, req); err != nil {
		w = &recorded{header: http.Header{"Content-Type": {"application/problem+json"}}}
		e := &api.Error{Status: http.StatusForbidden, What: err.Error()}
		errors.As(err, &e)
		w.WriteHeader(e.Status)
		_ = json.NewEncoder(w).Encode(map[string]any{"status": e.Status, "title": http.StatusText(e.Status), "detail": e.Error()})
	}
	out := bufio.NewWriter(patient{s})
	if err := w.answer(strings.Contains(req.Header.Get("Accept-Encoding"), "gzip")).Write(out); err == nil {
		_ = out.Flush()
	}
}

// answerElsewhere judges who asks, and has the interface answer.
func (n *Node) answerElsewhere(ctx context.Context, w http.ResponseWriter, box site.NodeID, head elsewhereHead, r *http.Request) error {
	s, err := trust.DecodeSession(head.Session)
	if err == nil {
		err = n.book.CheckSession(s, box, head.Site, n.fleetTime())
	}
	if err != nil {
		return err
	}
	n.log.Info("An administrator asks through another site's box", "name", s.Admin.Name, "box", n.nodeName(box), "what", r.Method+" "+r.URL.Path)
	if head.Site != n.member.Site {
		return n.answerKept(w, head.Site, r)
	}
	h := n.api.Load()
	if h == nil {
		return api.Unavailable("the box starts", "try again in a moment")
	}
	x := n.session(s)
	r.Header.Del("Authorization")
	r.RemoteAddr = ""
	(*h).ServeHTTP(w, r.WithContext(api.AsSession(context.WithValue(ctx, sessionKey{}, (*trust.Session)(nil)), &x)))
	return nil
}

// fleetTime is the time by this box's clock, or, if nobody sets that, by what
// the fleet wrote.
func (n *Node) fleetTime() time.Time {
	now := n.now()
	if !n.synced() {
		if t := time.UnixMilli(n.engine.Status().Clock.Millis()); t.After(now) {
			return t
		}
	}
	return now
}

// answerKept shows a user of a site whose state is kept here. To change it is for
// the site's own boxes.
func (n *Node) answerKept(w http.ResponseWriter, of site.ID, r *http.Request) error {
	kept := n.kept.state(of)
	text, ok := strings.CutPrefix(r.URL.Path, "/api/"+api.Version+"/users/")
	if kept == nil || !ok || r.Method != http.MethodGet {
		return api.Unavailable("this box is of another site", "ask when the site itself can be reached")
	}
	id, err := site.ParseRecordID(text)
	if err != nil {
		return api.NotFound(err.Error(), "give the id")
	}
	u, err := kept.User(id)
	if err != nil {
		return refuse(err)
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(n.userOf(kept, u))
}

// recorded holds an answer until it is sent.
type recorded struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorded) Header() http.Header { return w.header }
func (w *recorded) WriteHeader(s int)   { w.status = cmp.Or(w.status, s) }
func (w *recorded) Write(b []byte) (int, error) {
	if w.body.Len()+len(b) > maxElsewhere {
		return 0, errors.New("the answer is too long for another site")
	}
	return w.body.Write(b)
}

func (w *recorded) answer(zip bool) *http.Response {
	body := w.body.Bytes()
	if zip && len(body) > worthZipping {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write(body); err == nil && z.Close() == nil && b.Len() < len(body) {
			body = b.Bytes()
			w.header.Set("Content-Encoding", "gzip")
		}
	}
	return &http.Response{StatusCode: cmp.Or(w.status, http.StatusOK), ProtoMajor: 1, ProtoMinor: 1, Header: w.header, ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body))}
}

// author is who writes under a session.
func author(s *trust.Session) state.Author {
	return state.Author{Auth: s.Auth(), By: s.By(), Ext: s.Ext()}
}
