package trunk

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/transaction"
)

// Layer sends requests; *transaction.Layer does.
type Layer interface {
	Request(ctx context.Context, req *sip.Request, d edge.Dest) *transaction.ClientTx
}

// Edge is where they leave; *edge.Edge is one.
type Edge interface {
	Connect(ctx context.Context, d edge.Dest) (edge.Dest, error)
	Local(d edge.Dest) (edge.Local, error)
	Write(b []byte, d edge.Dest) error
}

// Config fits the trunks of one node. Layer and Edge are needed.
type Config struct {
	Layer     Layer
	Edge      Edge
	Resolver  edge.Resolver // nil: servers are literal addresses
	Plan      Plan          // how numbers are written where the site is
	Node      string        // tells the nodes of a pair apart in their Contacts; stays the same after a restart
	UserAgent string        // default "ccnode"
	Logger    *slog.Logger  // default: discards
	Now       func() time.Time
	Rand      io.Reader // default crypto/rand.Reader
}

// Trunks are the lines of one site as one node has them. The methods may be
// called from any goroutine.
type Trunks struct {
	cfg Config
	log *slog.Logger
	wg  sync.WaitGroup

	plan atomic.Pointer[Plan]

	mu      sync.Mutex // no line's lock is taken under it, except to read
	lines   []*line    // in the order of Set
	changed chan struct{}
	closing context.Context // of Close; nil until then
}

// A line is one trunk at work.
type line struct {
	all     *Trunks
	token   string        // in our Contact, to know it again
	moved   chan struct{} // our address has changed
	renewed chan struct{} // the setup has changed in what run depends on
	over    chan struct{} // closed when run has ended

	mu     sync.Mutex // guards what follows
	cfg    Trunk
	stop   context.CancelFunc // of the present setup
	gone   bool               // no trunk any more
	state  State
	open   []*channel
	dests  []edge.Dest // best first
	at     edge.Dest   // that registered us last
	flow   *edge.Flow  // of the registration over a stream
	logged Phase
}

// New makes Trunks that have no line yet.
func New(cfg Config) (*Trunks, error) {
	if cfg.Layer == nil || cfg.Edge == nil {
		return nil, errors.New("trunks need a transaction layer and an edge")
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
	cfg.UserAgent = orElse(cfg.UserAgent, "ccnode")
	t := &Trunks{cfg: cfg, log: cfg.Logger, changed: make(chan struct{})}
	t.plan.Store(&cfg.Plan)
	return t, nil
}

// SetPlan says how numbers are written where the site is, from now on.
func (t *Trunks) SetPlan(p Plan) { t.plan.Store(&p) }

// Set makes these the trunks of the site, in order of preference. Those that
// are new are registered at once; those whose setup has changed again, also
// when a wrong password had stopped them; those that are gone are unregistered.
// Calls keep their channels. Nothing changes when one of them is wrong.
func (t *Trunks) Set(trunks []Trunk) error {
	var next []Trunk
	for _, c := range trunks {
		c, err := c.normal()
		if err != nil {
			return err
		}
		c.Realms, c.Numbers, c.Allowed = slices.Clone(c.Realms), slices.Clone(c.Numbers), slices.Clone(c.Allowed)
		if slices.ContainsFunc(next, func(o Trunk) bool { return o.Name == c.Name }) {
			return fmt.Errorf("trunk %q is there twice", c.Name)
		}
		next = append(next, c)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing != nil {
		return errors.New("set trunks: closed")
	}
	old := t.lines
	t.lines = nil
	for _, c := range next {
		i := slices.IndexFunc(old, func(l *line) bool { return l.cfg.Name == c.Name })
		if i >= 0 {
			old[i].change(c)
			t.lines = append(t.lines, old[i])
			continue
		}
		l := &line{all: t, cfg: c, token: known(t.cfg.Node, c.Name), moved: make(chan struct{}, 1), renewed: make(chan struct{}, 1), over: make(chan struct{})}
		l.state = State{Since: t.cfg.Now()}
		t.lines = append(t.lines, l)
		t.wg.Go(func() { defer close(l.over); l.run() })
	}
	for _, l := range old {
		if !slices.Contains(t.lines, l) {
			l.end()
		}
	}
	t.newsLocked()
	return nil
}

// change gives a line a new setup; only the line's own Trunks call it.
func (l *line) change(c Trunk) {
	l.mu.Lock()
	defer l.mu.Unlock()
	same := sameWay(l.cfg, c)
	l.cfg = c
	if same {
		return
	}
	select {
	case l.renewed <- struct{}{}:
	default:
	}
	if l.stop != nil {
		l.stop()
	}
}

func (l *line) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = true
	if l.stop != nil {
		l.stop()
	}
}

// sameAccount says whether a and b are one registration at one place.
func sameAccount(a, b Trunk) bool {
	return a.Kind == b.Kind && a.Server == b.Server && a.Port == b.Port && a.Transport == b.Transport && a.Proxy == b.Proxy &&
		a.Domain == b.Domain && a.User == b.User && a.Hold == b.Hold
}

// sameWay says whether run need not notice that a became b.
func sameWay(a, b Trunk) bool {
	return sameAccount(a, b) && slices.Equal(a.Realms, b.Realms) && a.AuthUser == b.AuthUser && a.Password == b.Password &&
		a.Alive == b.Alive && a.Every == b.Every && a.Expires == b.Expires && a.PublicContact == b.PublicContact
}

// Moved says that an address of this node has changed: all register again.
func (t *Trunks) Moved() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.lines {
		select {
		case l.moved <- struct{}{}:
		default:
		}
	}
}

// Close unregisters everything and returns when that is done, at the latest
// when ctx ends or two seconds have passed. The Layer must still run.
func (t *Trunks) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	t.mu.Lock()
	if t.closing == nil {
		t.closing = ctx
	}
	lines := t.lines
	t.mu.Unlock()
	for _, l := range lines {
		l.end()
	}
	over := make(chan struct{})
	go func() { t.wg.Wait(); close(over) }() // every line ends with its farewell
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("unregister trunks: %w", context.Cause(ctx))
	}
}

// farewell bounds what unregistering may take.
const farewell = 2 * time.Second

// goodbye is the time an ending line has for it.
func (t *Trunks) goodbye() (context.Context, context.CancelFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing != nil {
		return context.WithCancel(t.closing)
	}
	return context.WithTimeout(context.Background(), farewell)
}

// Changed is closed at the next change of any State.
func (t *Trunks) Changed() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

func (t *Trunks) news() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.newsLocked()
}

func (t *Trunks) newsLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *Trunks) all() []*line {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.lines)
}

func (t *Trunks) line(name string) *line {
	for _, l := range t.all() {
		if l.setup().Name == name {
			return l
		}
	}
	return nil
}

func (l *line) setup() Trunk {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cfg
}

// States says how every trunk is, in order of preference.
func (t *Trunks) States() []State {
	var out []State
	for _, l := range t.all() {
		out = append(out, l.now())
	}
	return out
}

// State says how the trunk of that name is.
func (t *Trunks) State(name string) (State, bool) {
	l := t.line(name)
	if l == nil {
		return State{}, false
	}
	return l.now(), true
}

func (l *line) now() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.state
	s.Name, s.Kind, s.Via, s.Server, s.Channels = l.cfg.Name, l.cfg.Kind, l.cfg.Via, l.cfg.Server, l.cfg.Channels
	s.Used = len(l.open)
	for _, c := range l.open {
		if c.Emergency {
			s.Emergencies++
		}
	}
	if !s.Until.After(l.all.cfg.Now()) {
		s.Until = time.Time{}
	}
	return s
}

// Take claims a channel of a trunk. drop, when it is not "", names the call
// that must be ended now to make room for an emergency call. ok is false when
// the trunk is full or unknown: the next one.
func (t *Trunks) Take(name string, c Claim) (lease *Lease, drop string, ok bool) {
	l := t.line(name)
	if l == nil {
		return nil, "", false
	}
	return l.take(c)
}

// Outgoing says how call leaves through the named trunk now; see Compose.
func (t *Trunks) Outgoing(name string, call Call) (Outgoing, error) {
	l := t.line(name)
	if l == nil {
		return Outgoing{}, fmt.Errorf("call through trunk %q: %w", name, ErrUnknown)
	}
	l.mu.Lock()
	cfg, dests, public := l.cfg, l.dests, l.state.Public
	l.mu.Unlock()
	if len(dests) == 0 {
		dests = literal(cfg)
	}
	out, err := Compose(cfg, *t.plan.Load(), call, dests)
	if cfg.PublicContact {
		out.Public = public
	}
	return out, err
}

// Authorize makes the header that answers the 401 or 407 that req got from the
// named trunk; see Authorization.
func (t *Trunks) Authorize(name string, req *sip.Request, res *sip.Response) (sip.Header, error) {
	l := t.line(name)
	if l == nil {
		return nil, fmt.Errorf("answer %d of trunk %q: %w", res.StatusCode, name, ErrUnknown)
	}
	return Authorization(l.setup(), req, res, t.token())
}

func (t *Trunks) bytes(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(t.cfg.Rand, b); err != nil {
		panic("no randomness for trunks: " + err.Error())
	}
	return b
}

func (t *Trunks) token() string { return hex.EncodeToString(t.bytes(8)) }

// known is the parameter by which we know a Contact of ours again. It is the
// same after a restart, so that the provider sees one phone and not two.
func known(node, name string) string {
	h := sha256.Sum256([]byte("trunk " + node + " " + name))
	return hex.EncodeToString(h[:4])
}

// between is a random duration in [a, b).
func (t *Trunks) between(a, b time.Duration) time.Duration {
	f := float64(binary.BigEndian.Uint64(t.bytes(8))>>11) / (1 << 53)
	return a + time.Duration(f*float64(b-a))
}
