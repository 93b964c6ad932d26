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

// visitProtocol asks a user's home site, or its stand-in, whether a telephone
// that registers at another site knows its password. The answer makes the one
// that was asked write the roam claim; the visited site cannot.
const visitProtocol = "/ccnode/visit/1"

const (
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
	a, err := v.ask(ctx, e.Home, x, q)
	switch {
	case err != nil:
		return fmt.Errorf("ask site %s about user %s: %w", x.Code, aor.User, err)
	case !a.Known || a.User != e.User || c.Userhash:
		return registrar.ErrStranger
	}
	v.keep(visitorKey{c.Username, c.Realm}, aor, a)
	return nil
}

// standInAfter is how long the home site has before its stand-in is asked, too.
const standInAfter = time.Second

// ask asks the home site, one box after the other; and its stand-in when those
// failed or took long. That the home site does not know the telephone counts;
// the stand-in may merely not have heard of it yet.
func (v *visitors) ask(ctx context.Context, home site.ID, x state.Site, q visitQuery) (visitAnswer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		visitAnswer
		err  error
		home bool
	}
	answers := make(chan answer, 2)
	among := func(nodes []site.NodeID, isHome bool) {
		errs := []error{errors.New("no box of it is known")}
		for i, id := range nodes {
			if i == 0 {
				errs = nil
			}
			var a visitAnswer
			var err error
			if id == v.n.id.Node() {
				a = v.n.answerVisit(v.n.member.Site, q)
			} else {
				a, err = v.n.askVisit(ctx, id, q)
			}
			if err == nil && (a.Known || isHome) {
				answers <- answer{a, nil, isHome}
				return
			}
			if err == nil {
				err = errors.New("the stand-in does not know the telephone")
			}
			errs = append(errs, err)
		}
		answers <- answer{visitAnswer{}, errors.Join(errs...), isHome}
	}
	go among((view{v.n}).site(x).Nodes, true) // ends with ctx
	left, asked := 1, false
	second := func() {
		if other, ok := v.n.planNow().StandIn(home); ok && !asked {
			var nodes []site.NodeID
			for _, g := range v.n.book.Members(other) {
				nodes = append(nodes, g.Node())
			}
			left++
			go among(nodes, false) // ends with ctx
		}
		asked = true
	}
	late := time.NewTimer(standInAfter)
	defer late.Stop()
	var errs []error
	for left > 0 {
		select {
		case a := <-answers:
			left--
			if a.err == nil {
				return a.visitAnswer, nil
			}
			errs = append(errs, a.err)
			second()
		case <-late.C:
			second()
		case <-ctx.Done():
			return visitAnswer{}, errors.Join(append(errs, context.Cause(ctx))...)
		}
	}
	return visitAnswer{}, errors.Join(errs...)
}

func (v *visitors) keep(k visitorKey, aor site.AOR, a visitAnswer) {
	// At least until the request that is waiting has been served.
	keep := min(max(time.Duration(a.Keep)*time.Second, 30*time.Second), state.MaxVisitorsFor)
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
	at := n.siteID(site.NodeID(s.Peer()))
	if at.IsZero() || at == n.member.Site {
		return
	}
	_ = json.NewEncoder(patient{s}).Encode(n.answerVisit(at, q))
}

// answerVisit judges a telephone that registers at another site, for our own
// site or as keeper of its, and writes the roam claim.
func (n *Node) answerVisit(at site.ID, q visitQuery) (a visitAnswer) {
	source := at.String()
	c := digest.Credentials{Username: q.Username, Realm: q.Realm, Nonce: q.Nonce, URI: q.URI, Response: q.Response, Algorithm: q.Algorithm, CNonce: q.CNonce, QOP: q.QOP, NC: q.NC}
	if !n.guests.Allow(q.Username, source) {
		n.log.Warn("Too many wrong passwords for a user, from another site", "site", at)
		return a
	}
	of := n.state
	for _, s := range n.homes(at) {
		for _, x := range (credentials{s}).Credentials(q.Username, q.Realm) {
			if !a.Known && x.Lines[0].AOR.User == q.AOR && digest.Matches(x, c, q.Method) {
				of, a = s, visitAnswer{Known: true, Device: x.Device, User: x.Lines[0].User, Name: x.Lines[0].Name, MD5: x.HA1MD5, SHA256: x.HA1SHA256,
					UseSHA256: x.SHA256, Disabled: x.Disabled, Keep: int(s.Own().VisitorsFor / time.Second)}
			}
		}
	}
	if a.Known {
		n.guests.Succeeded(q.Username, source)
	} else {
		n.guests.Failed(q.Username, source)
	}
	if a.Known && !a.Disabled {
		ctx, cancel := context.WithTimeout(context.Background(), registrar.VisitTime)
		defer cancel()
		if err := of.Roam(ctx, a.User, at); err != nil {
			n.log.Error("A roam claim was not written: calls will not follow the telephone", slog.String("user", q.AOR), "err", err)
		}
	}
	return a
}

// homes are the sites whose telephones this node may judge, for a question from
// a site: not that site's own.
func (n *Node) homes(from site.ID) (out []*state.State) {
	if from != n.member.Site {
		out = append(out, n.state)
	}
	for _, id := range n.kept.list() {
		if s := n.kept.state(id); s != nil && id != from {
			out = append(out, s)
		}
	}
	return out
}

// siteID is the site of a member; zero for others.
func (n *Node) siteID(id site.NodeID) site.ID {
	g, err := n.book.Member(id)
	if err != nil {
		return site.ID{}
	}
	return g.Site
}
