// Package subscribe tells telephones what they asked to be told (RFC 6665):
// it takes SUBSCRIBE, keeps the subscription, and sends NOTIFY at once, at each
// change, and at the end.
//
// Its laws: one NOTIFY of a subscription is under way at a time, and what
// changes meanwhile becomes one more; the same state is not sent twice, except
// to answer a SUBSCRIBE; a storm of changes is told once a second; who does not answer a NOTIFY is forgotten. Nothing is
// kept over a restart: refreshes get 481 and the phone subscribes anew, within
// the greatest expiry at the latest.
//
//	s, err := subscribe.New(subscribe.Config{Edge: e, …, Packages: []subscribe.Package{mwi.New(…)}})
//	s.Use(layer)
//	if s.Serve(tx) { return }   // from transaction.Config.OnRequest
//	s.Changed("message-summary", user)
package subscribe

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
	"carrierclass.net/ccnode/sipcore/route"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// A Package is one kind of event (RFC 6665 §7).
type Package interface {
	Name() string // "message-summary"
	Type() string // media type of its bodies

	// State is what a phone of line's user shall be told now. It must be fast.
	State(line sipcore.Line) []byte
}

// A Watching package is asked about lines that need not be the subscriber's
// own. Any device with a right password may ask; Target says about what.
type Watching interface {
	Package

	// Target is the line that a Request-URI names. A status other than 0 is
	// what to refuse with, for that reason; "" is the usual one.
	Target(v route.View, u route.URI) (line sipcore.Line, status int, reason string)
}

// A Numbered package has the number of the document in its bodies.
type Numbered interface {
	Package

	// Number is what State returned, as the n-th NOTIFY of a subscription, from 0.
	Number(body []byte, n uint32) []byte
}

// Config fits a Server into a node. The first group is needed.
type Config struct {
	Edge     *edge.Edge
	View     func() route.View
	Digest   *digest.Server
	Packages []Package

	MaxExpires time.Duration // granted at most; default 300 s
	MinExpires time.Duration // shorter wishes get 423; default 30 s
	PerDevice  int           // subscriptions of one device; default 20
	Total      int           // and in all; default 5000

	Logger *slog.Logger     // default: discards
	Now    func() time.Time // default time.Now
	Rand   io.Reader        // default crypto/rand.Reader
}

// A Server keeps the subscriptions of one node.
type Server struct {
	cfg   Config
	log   *slog.Logger
	layer *transaction.Layer
	done  chan struct{}

	mu      sync.Mutex
	subs    map[dialog]*subscription
	about   map[site.AOR]map[*subscription]struct{} // the same, by whose state they are about
	closed  bool
	running int
	idle    *sync.Cond
}

type dialog struct{ callID, localTag string }

// New makes a Server; Use must follow.
func New(cfg Config) (*Server, error) {
	if cfg.Edge == nil || cfg.View == nil || cfg.Digest == nil || len(cfg.Packages) == 0 {
		return nil, errors.New("subscribe: Edge, View, Digest and Packages are needed")
	}
	if cfg.MaxExpires == 0 {
		cfg.MaxExpires = 5 * time.Minute
	}
	if cfg.MinExpires == 0 {
		cfg.MinExpires = 30 * time.Second
	}
	if cfg.PerDevice == 0 {
		cfg.PerDevice = 20
	}
	if cfg.Total == 0 {
		cfg.Total = 5000
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	s := &Server{cfg: cfg, log: cfg.Logger, done: make(chan struct{}), subs: map[dialog]*subscription{}, about: map[site.AOR]map[*subscription]struct{}{}}
	s.idle = sync.NewCond(&s.mu)
	return s, nil
}

// Use gives the Server its transactions, before the first request.
func (s *Server) Use(l *transaction.Layer) { s.layer = l }

// Count says how many subscriptions there are.
func (s *Server) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.subs)
}

// Close forgets all subscriptions, without a word: phones find out at their
// next refresh. It returns when nothing runs any more.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.done)
	}
	for _, x := range s.subs {
		x.timer.Stop()
	}
	s.subs, s.about = map[dialog]*subscription{}, map[site.AOR]map[*subscription]struct{}{}
	for s.running > 0 {
		s.idle.Wait()
	}
}

// Changed says that the state of a package changed for a user: whoever
// subscribed is told. It does not wait.
func (s *Server) Changed(pkg string, user site.RecordID) {
	s.mu.Lock()
	var who []*subscription
	for _, x := range s.subs {
		if x.pkg.Name() == pkg && x.line.User == user {
			who = append(who, x)
		}
	}
	s.mu.Unlock()
	for _, x := range who {
		s.notify(x, false)
	}
}

// ChangedAOR is Changed for the line with an AOR, which need not be a user's.
// What it costs does not grow with the subscriptions about other lines.
func (s *Server) ChangedAOR(pkg string, aor site.AOR) {
	s.mu.Lock()
	var who []*subscription
	for x := range s.about[aor] {
		if x.pkg.Name() == pkg {
			who = append(who, x)
		}
	}
	s.mu.Unlock()
	for _, x := range who {
		s.notify(x, false)
	}
}

// add and remove keep the tables; s.mu is held.
func (s *Server) add(x *subscription) {
	s.subs[x.id] = x
	m := s.about[x.line.AOR]
	if m == nil {
		m = map[*subscription]struct{}{}
		s.about[x.line.AOR] = m
	}
	m[x] = struct{}{}
}

func (s *Server) remove(x *subscription) {
	if s.subs[x.id] != x {
		return
	}
	delete(s.subs, x.id)
	m := s.about[x.line.AOR]
	delete(m, x)
	if len(m) == 0 {
		delete(s.about, x.line.AOR)
	}
}

// Serve takes a SUBSCRIBE. It returns false for other methods, which it has
// not answered.
func (s *Server) Serve(tx *transaction.ServerTx) bool {
	req := tx.Request()
	if req.Method != sip.SUBSCRIBE {
		return false
	}
	name, _, _ := strings.Cut(message.Get(req, "Event"), ";")
	pkg := s.find(strings.TrimSpace(name))
	if pkg == nil {
		res := tx.Response(489, "")
		var names []string
		for _, p := range s.cfg.Packages {
			names = append(names, p.Name())
		}
		res.AppendHeader(sip.NewHeader("Allow-Events", strings.Join(names, ", ")))
		tx.Respond(res)
		return true
	}
	if accept := message.Values(req, "Accept"); len(accept) > 0 && !accepts(accept, pkg.Type()) {
		res := tx.Response(406, "")
		res.AppendHeader(sip.NewHeader("Accept", pkg.Type()))
		tx.Respond(res)
		return true
	}
	tag, _ := req.To().Params.Get("tag")
	if tag != "" {
		s.mu.Lock()
		x := s.subs[dialog{req.CallID().Value(), tag}]
		s.mu.Unlock()
		theirs, _ := req.From().Params.Get("tag")
		if x == nil || x.remoteTag != theirs {
			tx.Respond(tx.Response(481, ""))
			return true
		}
		if who, ok := s.authenticate(tx); ok {
			s.refresh(tx, x, who)
		}
		return true
	}
	if who, ok := s.authenticate(tx); ok {
		s.subscribe(tx, pkg, who)
	}
	return true
}

func (s *Server) find(name string) Package {
	for _, p := range s.cfg.Packages {
		if strings.EqualFold(p.Name(), name) {
			return p
		}
	}
	return nil
}

func accepts(accept []string, t string) bool {
	for _, a := range accept {
		a, _, _ = strings.Cut(a, ";")
		a = strings.TrimSpace(a)
		if a == "*/*" || strings.EqualFold(a, t) || a == t[:strings.IndexByte(t, '/')+1]+"*" {
			return true
		}
	}
	return false
}

// authenticate finds out which device asks. When it returns false the request
// has been answered.
func (s *Server) authenticate(tx *transaction.ServerTx) (sipcore.Credential, bool) {
	req := tx.Request()
	view := s.cfg.View()
	aor := route.AOR(view, uri(req.From().Address))
	realm := route.Realm(view, aor)
	who := s.cfg.Digest.Verify(req, "Authorization", realm, tx.Flow().Remote.Addr().String(), aor.User, 0)
	switch {
	case who.Verdict != digest.OK:
		res := tx.Response(401, "")
		res.AppendHeader(sip.NewHeader("WWW-Authenticate", s.cfg.Digest.Challenge(realm, who)))
		tx.Respond(res)
		return who.Credential, false
	case who.Credential.Disabled:
		tx.Respond(tx.Response(403, ""))
		return who.Credential, false
	}
	return who.Credential, true
}

func uri(u sip.Uri) route.URI {
	if u.Scheme == "tel" || u.Scheme == "urn" {
		_, rest, _ := strings.Cut(u.String(), ":")
		return route.URI{Scheme: u.Scheme, User: rest}
	}
	return route.URI{Scheme: u.Scheme, User: strings.Clone(u.User), Host: strings.Clone(u.Host)}
}

// line is whose state is asked for: the line named in the Request-URI, or, for
// phones that name the voicemail's code instead, the one they are. Of a Watching
// package, whoever it says. A status other than 0 refuses.
func (s *Server) line(req *sip.Request, pkg Package, who sipcore.Credential) (line sipcore.Line, status int, reason string) {
	view := s.cfg.View()
	to := route.AOR(view, uri(req.Recipient))
	from := route.AOR(view, uri(req.From().Address))
	asked, _ := lineOf(who.Lines, to)
	own, ok := lineOf(who.Lines, from)
	w, watching := pkg.(Watching)
	switch {
	case !ok: // From must be a line of the device
	case watching:
		return w.Target(view, uri(req.Recipient))
	case asked.AOR == to:
		return asked, 0, ""
	case len(view.Lookup(to.User)) == 0: // nobody's number
		return own, 0, ""
	}
	return sipcore.Line{}, 403, ""
}

func lineOf(lines []sipcore.Line, a site.AOR) (sipcore.Line, bool) {
	for _, l := range lines {
		if l.AOR == a {
			return l, true
		}
	}
	return sipcore.Line{}, false
}

// wish is the expiry asked for, cut to what is granted; ok is false when the
// request was answered 423.
func (s *Server) wish(tx *transaction.ServerTx) (d time.Duration, ok bool) {
	d = s.cfg.MaxExpires
	if v := message.Get(tx.Request(), "Expires"); v != "" {
		if n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 31); err == nil {
			d = time.Duration(n) * time.Second
		}
	}
	if d > 0 && d < s.cfg.MinExpires {
		res := tx.Response(423, "")
		res.AppendHeader(sip.NewHeader("Min-Expires", strconv.Itoa(int(s.cfg.MinExpires/time.Second))))
		tx.Respond(res)
		return 0, false
	}
	return min(d, s.cfg.MaxExpires), true
}

func (s *Server) token() string {
	var b [8]byte
	if _, err := io.ReadFull(s.cfg.Rand, b[:]); err != nil {
		panic("no randomness for subscriptions: " + err.Error())
	}
	return hex.EncodeToString(b[:])
}
