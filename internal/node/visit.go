package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/registrar"
)

// visitProtocol asks a user's home site whether a telephone that registers at
// another site knows its password. The answer makes the home site write the
// roam claim; the visited site cannot.
const visitProtocol = "/ccnode/visit/1"

const (
	visitKeep = 12 * time.Hour // how long the visited site may know a telephone by itself
	// maxVisitors bounds the telephones of other sites known here.
	maxVisitors = 1000
	// maxIntroductions bounds the questions on their way at once.
	maxIntroductions = 64
	maxVisitMessage  = 8 << 10
)

type visitQuery struct {
	AOR       string `json:"aor"` // the number
	Method    string `json:"method"`
	Username  string `json:"username"`
	Realm     string `json:"realm"`
	Nonce     string `json:"nonce"`
	URI       string `json:"uri"`
	Response  string `json:"response"`
	Algorithm string `json:"algorithm,omitempty"`
	CNonce    string `json:"cnonce,omitempty"`
	QOP       string `json:"qop,omitempty"`
	NC        string `json:"nc,omitempty"`
}

type visitAnswer struct {
	Known     bool          `json:"known"`
	Device    site.RecordID `json:"device"`
	User      site.RecordID `json:"user"`
	Name      string        `json:"name,omitempty"`
	MD5       string        `json:"md5,omitempty"`
	SHA256    string        `json:"sha256,omitempty"`
	UseSHA256 bool          `json:"useSha256,omitempty"`
	Disabled  bool          `json:"disabled,omitempty"`
	Keep      int           `json:"keep"` // seconds
}

// visitors are the telephones of other sites that are known here, in memory
// only: a stolen disk does not hold them.
type visitors struct {
	n   *Node
	now func() time.Time

	mu    sync.Mutex
	known map[visitorKey]visitor
	asked map[visitorKey]*introduction
}

type visitorKey struct{ username, realm string }

type visitor struct {
	credential sipcore.Credential
	until      time.Time
}

// introduction is a question on its way: retransmissions wait for the same one.
type introduction struct {
	response string
	done     chan struct{}
	err      error
}

func newVisitors(n *Node) *visitors {
	return &visitors{n: n, now: n.now, known: map[visitorKey]visitor{}, asked: map[visitorKey]*introduction{}}
}

// Credentials implements sipcore.Credentials: the site's own, then visitors'.
// A visitor whom the directory calls disabled, or does not know any more, is
// treated so at once, whatever the home site said earlier.
func (v *visitors) Credentials(username, realm string) []sipcore.Credential {
	if own := (credentials{v.n.state}).Credentials(username, realm); len(own) > 0 {
		return own
	}
	k := visitorKey{username, realm}
	v.mu.Lock()
	x, ok := v.known[k]
	if ok && !v.now().Before(x.until) {
		delete(v.known, k)
		ok = false
	}
	v.mu.Unlock()
	if !ok {
		return nil
	}
	e, ok := v.n.state.Entry(x.credential.Lines[0].User)
	if !ok {
		return nil
	}
	x.credential.Disabled = x.credential.Disabled || e.Disabled
	return []sipcore.Credential{x.credential}
}

// Away implements registrar.Visits.
func (v *visitors) Away(aor site.AOR) bool {
	e, ok := v.n.state.Pick(aor.User)
	return ok && e.Kind == state.UserEntry && e.Home != v.n.member.Site
}

// Introduce implements registrar.Visits.
func (v *visitors) Introduce(ctx context.Context, aor site.AOR, method string, c digest.Credentials) error {
	k := visitorKey{c.Username, c.Realm}
	v.mu.Lock()
	if q := v.asked[k]; q != nil && q.response == c.Response {
		v.mu.Unlock()
		select {
		case <-q.done:
			return q.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if len(v.asked) >= maxIntroductions {
		v.mu.Unlock()
		return errors.New("too many visitors register at once")
	}
	q := &introduction{response: c.Response, done: make(chan struct{})}
	v.asked[k] = q
	v.mu.Unlock()
	q.err = v.introduce(ctx, aor, method, c)
	v.mu.Lock()
	if v.asked[k] == q {
		delete(v.asked, k)
	}
	v.mu.Unlock()
	close(q.done)
	return q.err
}

func (v *visitors) introduce(ctx context.Context, aor site.AOR, method string, c digest.Credentials) error {
	e, ok := v.n.state.Pick(aor.User)
	if !ok {
		return registrar.ErrStranger
	}
	x, _ := v.n.state.Site(e.Home)
	q := visitQuery{AOR: aor.User, Method: method, Username: c.Username, Realm: c.Realm, Nonce: c.Nonce, URI: c.URI, Response: c.Response,
		Algorithm: c.Algorithm, CNonce: c.CNonce, QOP: c.QOP, NC: c.NC}
	var errs []error
	for _, id := range (view{v.n}).site(x).Nodes {
		a, err := v.n.askVisit(ctx, id, q)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !a.Known || a.User != e.User || c.Userhash {
			return registrar.ErrStranger
		}
		v.keep(visitorKey{c.Username, c.Realm}, aor, a)
		return nil
	}
	return fmt.Errorf("ask site %s about user %s: %w", x.Code, aor.User, errors.Join(errs...))
}

func (v *visitors) keep(k visitorKey, aor site.AOR, a visitAnswer) {
	// At least until the request that is waiting has been served.
	keep := min(max(time.Duration(a.Keep)*time.Second, 30*time.Second), visitKeep)
	now := v.now()
	v.mu.Lock()
	defer v.mu.Unlock()
	for o, x := range v.known {
		if !now.Before(x.until) {
			delete(v.known, o)
		}
	}
	if _, have := v.known[k]; !have && len(v.known) >= maxVisitors {
		for o := range v.known { // any: it will be asked about again
			delete(v.known, o)
			break
		}
	}
	v.known[k] = visitor{until: now.Add(keep), credential: sipcore.Credential{Device: a.Device, HA1MD5: a.MD5, HA1SHA256: a.SHA256, SHA256: a.UseSHA256,
		Disabled: a.Disabled, Lines: []sipcore.Line{{AOR: aor, User: a.User, Name: a.Name}}}}
}

func (n *Node) askVisit(ctx context.Context, id site.NodeID, q visitQuery) (a visitAnswer, err error) {
	s, err := n.mesh.OpenStream(ctx, mesh.PeerID(id), visitProtocol)
	n.tried(ctx, id, err)
	if err != nil {
		return a, fmt.Errorf("reach node %s: %w", id, err)
	}
	defer s.Close()
	gaveUp := context.AfterFunc(ctx, func() { s.Close() })
	defer gaveUp()
	if err = json.NewEncoder(s).Encode(q); err == nil {
		err = json.NewDecoder(io.LimitReader(s, maxVisitMessage)).Decode(&a)
	}
	if err != nil {
		n.tried(ctx, id, err)
		return a, fmt.Errorf("ask node %s: %w", id, err)
	}
	return a, nil
}

// serveVisit answers another site about a telephone of ours. Guesses are
// counted for each user and site, as they are for telephones.
func (n *Node) serveVisit(s mesh.Stream) {
	defer s.Close()
	var q visitQuery
	if err := json.NewDecoder(io.LimitReader(patient{s}, maxVisitMessage)).Decode(&q); err != nil {
		return
	}
	a, at := visitAnswer{}, n.siteID(site.NodeID(s.Peer()))
	if at.IsZero() || at == n.member.Site {
		return
	}
	source := at.String()
	c := digest.Credentials{Username: q.Username, Realm: q.Realm, Nonce: q.Nonce, URI: q.URI, Response: q.Response, Algorithm: q.Algorithm, CNonce: q.CNonce, QOP: q.QOP, NC: q.NC}
	if !n.guests.Allow(q.Username, source) {
		n.log.Warn("Too many wrong passwords for a user, from another site", "site", n.siteOfNode(site.NodeID(s.Peer())))
	} else {
		for _, x := range (credentials{n.state}).Credentials(q.Username, q.Realm) {
			if x.Lines[0].AOR.User == q.AOR && digest.Matches(x, c, q.Method) {
				a = visitAnswer{Known: true, Device: x.Device, User: x.Lines[0].User, Name: x.Lines[0].Name, MD5: x.HA1MD5, SHA256: x.HA1SHA256,
					UseSHA256: x.SHA256, Disabled: x.Disabled, Keep: int(visitKeep / time.Second)}
				break
			}
		}
		if a.Known {
			n.guests.Succeeded(q.Username, source)
		} else {
			n.guests.Failed(q.Username, source)
		}
	}
	if a.Known && !a.Disabled {
		ctx, cancel := context.WithTimeout(context.Background(), registrar.VisitTime)
		defer cancel()
		if err := n.state.Roam(ctx, a.User, at); err != nil {
			n.log.Error("A roam claim was not written: calls will not follow the telephone", slog.String("user", q.AOR), "err", err)
		}
	}
	_ = json.NewEncoder(patient{s}).Encode(a)
}

// siteID is the site of a member; zero for others.
func (n *Node) siteID(id site.NodeID) site.ID {
	g, err := n.book.Member(id)
	if err != nil {
		return site.ID{}
	}
	return g.Site
}
