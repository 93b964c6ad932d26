// Package registrar accepts REGISTER requests (RFC 3261 §10) and keeps this
// site's bindings. It answers when a new binding is on this node's disk, and
// waits for no other node. No transaction is kept: each retransmission is
// served anew and changes nothing.
//
// Its law: who is not known by password learns nothing. Known and unknown
// numbers are challenged alike; only after a right answer does a 403 say that
// a line is not theirs.
package registrar

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
)

// Responder sends responses without a transaction; *edge.Edge is one.
type Responder interface {
	Respond(req *sip.Request, f *edge.Flow, status int, reason string, headers ...sip.Header)
}

// Config fits a Registrar into a node. The first group is needed.
type Config struct {
	Edge     Responder
	Location sipcore.LocationService
	Digest   *digest.Server
	AOR      func(to *sip.Uri) site.AOR // canonical form of a To URI (calls.md §1); never fails
	Realm    func(aor site.AOR) string  // from the site code in the number, never from a user's record
	Node     site.NodeID

	MinExpires time.Duration // shorter wishes get 423; default 60 s
	LANExpires time.Duration // granted at most, on the LAN; spread down to ¾ of it; default 120 s
	NATExpires time.Duration // granted at most behind NAT; default 60 s
	Contacts   int           // bindings of one AOR; default 10

	// Visits introduces telephones of other sites; nil: none register here.
	Visits Visits

	// Busy says that refreshes should come back later (503, Retry-After). It is
	// never asked for a device that has no binding: that one is let in.
	Busy func() bool
	// Bound is told of each binding made or refreshed, Gone of each removed by
	// its device. Either may be nil; neither may block.
	Bound func(b site.Binding, fresh bool)
	Gone  func(b site.Binding)

	Logger *slog.Logger     // default: discards
	Now    func() time.Time // default time.Now
	Jitter func(n int) int  // [0,n), for Retry-After; default math/rand/v2
}

// A Registrar serves REGISTER.
type Registrar struct {
	cfg   Config
	log   *slog.Logger
	seed  maphash.Seed
	locks [256]sync.Mutex // by AOR: check of order and update are one step
}

// New makes a Registrar. Hand Quick to transaction.Config.Quick.
func New(cfg Config) *Registrar {
	orDur := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	orDur(&cfg.MinExpires, time.Minute)
	orDur(&cfg.LANExpires, 2*time.Minute)
	orDur(&cfg.NATExpires, time.Minute)
	if cfg.Contacts == 0 {
		cfg.Contacts = 10
	}
	if cfg.Busy == nil {
		cfg.Busy = func() bool { return false }
	}
	if cfg.Bound == nil {
		cfg.Bound = func(site.Binding, bool) {}
	}
	if cfg.Gone == nil {
		cfg.Gone = func(site.Binding) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Jitter == nil {
		cfg.Jitter = rand.IntN
	}
	return &Registrar{cfg: cfg, log: cfg.Logger, seed: maphash.MakeSeed()}
}

// A refusal is a status with its extra header.
type refusal struct {
	status int
	reason string
	header sip.Header
}

func (r *refusal) Error() string { return strconv.Itoa(r.status) + " " + r.reason }

func refuse(status int, reason string) error { return &refusal{status: status, reason: reason} }

// ServeRegister answers one REGISTER (RFC 3261 §10.3). It waits for the disk
// when a binding is new, moved or removed.
func (r *Registrar) ServeRegister(req *sip.Request, f *edge.Flow) {
	if rest := r.Quick(req, f); rest != nil {
		rest()
	}
}

// Quick answers what needs no waiting, which is nearly everything: challenges,
// refusals, questions, refreshes. Otherwise it returns the rest of the work,
// which may wait. Hand it to transaction.Config.Quick.
func (r *Registrar) Quick(req *sip.Request, f *edge.Flow) (rest func()) {
	aor := r.cfg.AOR(&req.To().Address)
	realm := r.cfg.Realm(aor)
	source := f.Remote.Addr().String()
	who := r.cfg.Digest.Verify(req, "Authorization", realm, source, aor.User, r.fingerprint(req, f))
	if who.Verdict != digest.OK {
		if c, ok := r.visitor(req, aor, realm, who); ok {
			return func() { r.introduce(req, f, aor, realm, c) }
		}
		if who.Verdict == digest.Wrong {
			r.log.Debug("Registration refused: wrong password or unknown user", "source", source)
		}
		r.cfg.Edge.Respond(req, f, 401, "", sip.NewHeader("WWW-Authenticate", r.cfg.Digest.Challenge(realm, who)))
		return nil
	}
	bindings, err := r.register(req, f, aor, who, false)
	if err == errWait {
		return func() { r.finish(req, f, aor, who) }
	}
	r.answer(req, f, aor, bindings, err)
	return nil
}

func (r *Registrar) finish(req *sip.Request, f *edge.Flow, aor site.AOR, who digest.Result) {
	bindings, err := r.register(req, f, aor, who, true)
	r.answer(req, f, aor, bindings, err)
}

// errWait: the work would have to wait, and nothing was done.
var errWait = errors.New("would wait")

func (r *Registrar) answer(req *sip.Request, f *edge.Flow, aor site.AOR, bindings []site.Binding, err error) {
	var no *refusal
	switch {
	case errors.As(err, &no):
		var extra []sip.Header
		if no.header != nil {
			extra = append(extra, no.header)
		}
		r.cfg.Edge.Respond(req, f, no.status, no.reason, extra...)
		return
	case err != nil:
		r.log.Error("A binding could not be stored", "aor", aor.String(), "err", err)
		r.cfg.Edge.Respond(req, f, 500, "")
		return
	}
	f.Keep()
	now := r.cfg.Now()
	headers := make([]sip.Header, 0, len(bindings)+1)
	for _, b := range bindings {
		headers = append(headers, contact(b, now))
	}
	headers = append(headers, sip.NewHeader("Date", now.UTC().Format(http.TimeFormat)))
	r.cfg.Edge.Respond(req, f, 200, "", headers...)
}

// register does what an authenticated request asks for and returns the
// bindings there are afterwards (step 8). Unless it may wait it does nothing
// that could, and returns errWait.
func (r *Registrar) register(req *sip.Request, f *edge.Flow, aor site.AOR, who digest.Result, wait bool) ([]site.Binding, error) {
	if who.Credential.Disabled {
		return nil, refuse(403, "Disabled")
	}
	line, ok := lineOf(who.Credential.Lines, aor)
	if !ok { // step 4
		return nil, refuse(403, "")
	}
	want, all, err := r.wishes(req, f)
	if err != nil {
		return nil, err
	}
	if all && !wait {
		return nil, errWait
	}

	lock := &r.locks[maphash.String(r.seed, aor.User)%uint64(len(r.locks))]
	if !wait {
		if !lock.TryLock() { // somebody waits for the disk
			return nil, errWait
		}
	} else {
		lock.Lock()
	}
	defer lock.Unlock()
	have := r.cfg.Location.Bindings(aor)
	if len(want) == 0 && !all { // step 6: a question
		return have, nil
	}
	callID, cseq := strings.Clone(req.CallID().Value()), req.CSeq().SeqNo
	ctx := context.Background()

	if all { // step 6: only what is this device's own to remove
		for _, b := range have {
			if b.Device == who.Credential.Device && b.CallID == callID && b.CSeq > cseq {
				return nil, refuse(500, "CSeq Out Of Order")
			}
		}
		for _, b := range have {
			if b.Device == who.Credential.Device {
				if err := r.unbind(ctx, b); err != nil {
					return nil, err
				}
			}
		}
		return r.cfg.Location.Bindings(aor), nil
	}

	// Step 7: all contacts are checked before any is changed.
	old := make(map[string]site.Binding, len(have))
	for _, b := range have {
		old[b.Key()] = b
	}
	now := r.cfg.Now()
	count, refreshes, news := len(have), false, false
	for i := range want {
		w := &want[i]
		w.b.AOR, w.b.User, w.b.Device = aor, line.User, who.Credential.Device
		w.b.CallID, w.b.CSeq, w.b.Updated = callID, cseq, now
		w.key = w.b.Key()
		was, ok := old[w.key]
		switch {
		case ok && was.CallID == callID && was.CSeq > cseq:
			return nil, refuse(500, "CSeq Out Of Order")
		case ok && was.CallID == callID && was.CSeq == cseq:
			w.done = true // a retransmission
		case ok && was.Expires.Sub(now) > 30*time.Second && w.expires > 0:
			refreshes = true
		case !ok && w.expires > 0:
			news = true
			if count++; count > r.cfg.Contacts {
				return nil, refuse(403, "Too Many Contacts")
			}
		}
	}
	if refreshes && !news && r.cfg.Busy() {
		return nil, &refusal{503, "", sip.NewHeader("Retry-After", strconv.Itoa(2+r.cfg.Jitter(9)))}
	}
	for _, w := range want {
		if was, ok := old[w.key]; !wait && !w.done && (!ok || w.expires == 0 || moved(was, w.b)) {
			return nil, errWait
		}
	}
	for _, w := range want {
		was, ok := old[w.key]
		switch {
		case w.done:
		case w.expires > 0:
			w.b.Expires = now.Add(w.expires)
			if err := r.cfg.Location.Bind(ctx, w.b); err != nil {
				return nil, err
			}
			r.cfg.Bound(w.b, !ok || moved(was, w.b))
		case ok:
			if err := r.unbind(ctx, was); err != nil {
				return nil, err
			}
		}
	}
	return r.cfg.Location.Bindings(aor), nil
}

// moved says that b is more than a refresh of was.
func moved(was, b site.Binding) bool {
	return was.Contact != b.Contact || was.Flow != b.Flow || was.Source != b.Source || was.Node != b.Node ||
		was.Device != b.Device || was.User != b.User || was.Transport != b.Transport
}

func (r *Registrar) unbind(ctx context.Context, b site.Binding) error {
	if err := r.cfg.Location.Unbind(ctx, b.Key()); err != nil {
		return err
	}
	r.cfg.Gone(b)
	return nil
}

func lineOf(lines []sipcore.Line, aor site.AOR) (sipcore.Line, bool) {
	for _, l := range lines {
		if l.AOR.User == aor.User && strings.EqualFold(l.AOR.Domain, aor.Domain) {
			return l, true
		}
	}
	return sipcore.Line{}, false
}

// fingerprint tells a retransmission from anything else with the same digest.
func (r *Registrar) fingerprint(req *sip.Request, f *edge.Flow) uint64 {
	var h maphash.Hash
	h.SetSeed(r.seed)
	for _, x := range req.Headers() {
		switch x.(type) {
		case *sip.ViaHeader, *sip.ContactHeader, *sip.CSeqHeader, *sip.FromHeader, *sip.ToHeader, *sip.CallIDHeader:
			x.StringWrite(&h)
		default:
			if n := x.Name(); strings.EqualFold(n, "Expires") || strings.EqualFold(n, "Authorization") {
				h.WriteString(x.Value())
			}
		}
		h.WriteByte(0)
	}
	h.WriteString(f.Name)
	a := f.Remote.Addr().As16()
	h.Write(a[:])
	h.WriteByte(byte(f.Remote.Port() >> 8))
	h.WriteByte(byte(f.Remote.Port()))
	return h.Sum64() | 1
}

// contact prints a binding for the list in a 200 (step 8). What the phone gave
// was read by message.Parse and is printed as it was.
func contact(b site.Binding, now time.Time) sip.Header {
	var s strings.Builder
	s.Grow(len(b.Contact) + len(b.Instance) + 64)
	s.WriteByte('<')
	s.WriteString(b.Contact)
	s.WriteByte('>')
	if b.Q != 1000 {
		s.WriteString(";q=")
		s.WriteString(strconv.FormatFloat(float64(b.Q)/1000, 'f', -1, 64))
	}
	if b.Instance != "" {
		s.WriteString(`;+sip.instance="<`)
		s.WriteString(b.Instance)
		s.WriteString(`>"`)
		if b.RegID > 0 {
			s.WriteString(";reg-id=")
			s.WriteString(strconv.Itoa(b.RegID))
		}
	}
	left := max(0, int((b.Expires.Sub(now)+500*time.Millisecond)/time.Second))
	s.WriteString(";expires=")
	s.WriteString(strconv.Itoa(left))
	return sip.NewHeader("Contact", s.String())
}
