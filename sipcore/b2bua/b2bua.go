// Package b2bua makes every call of this node: a back-to-back user agent in
// the words of RFC 3261 §6 and RFC 7092. A call belongs to the node that got
// its first INVITE and consists of legs, each a dialog of its own that ends
// here, with a media port of its own (calls.md §1, §4).
//
// Its laws: nothing of one leg's address, identity or credentials is seen on
// another; a call and all it holds ends when one of its ends ends, whatever
// the others do; the 200 to the caller waits for the media; nobody is waited
// for longer than the route says.
//
// In use:
//
//	s, err := b2bua.New(b2bua.Config{Edge: e, View: …, Feature: …})
//	l := transaction.New(transaction.Config{Edge: e, OnRequest: func(tx *transaction.ServerTx) {
//		if !s.Serve(tx) { … }               // not a call's
//	}, OnAck: s.Ack, OnStray: s.Stray})
//	s.Use(l)
//	…
//	s.Drain(ctx); s.Close()
package b2bua

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime/debug"
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

// Config fits a Server into a node. The first group is needed.
type Config struct {
	Edge     *edge.Edge
	View     func() route.View // what routing may depend on, as of now
	Location sipcore.LocationService
	Digest   *digest.Server
	Anchor   sipcore.Anchor
	Node     site.NodeID

	// Feature runs a feature until its call is over: voicemail for a call that
	// nobody took, and what codes lead to. The Call is only its until it
	// returns. An error before the call was answered is told to the caller as
	// the site.Cause in it. It must return soon after c.Context() has ended.
	Feature func(ctx context.Context, name site.FeatureName, c *Call) error

	// Announce tells a caller of this site, as early media, why the call is
	// about to be refused; nil: nobody is told. It must return soon after ctx
	// has ended.
	Announce func(ctx context.Context, cause site.Cause, c *Call)

	// Sound plays something to a port until ctx ends; nil: nobody hears music
	// or ringing in a call that was answered.
	Sound func(ctx context.Context, p sipcore.Port, s Sound) error

	Lines   Lines         // to the outside; nil: there are none
	Recall  time.Duration // how long a caller is parked before who parked him is rung; default 60 s
	Lamps   sipcore.Lamps // what others see of our calls; nil: nothing
	Reach   sipcore.Reach // told how attempts to reach other nodes ended; may be nil
	Records Records       // may be nil

	// MediaAddr is this node's address for media with other nodes of the
	// fleet, and where a phone's view of us is unknown. Needed in a mesh.
	MediaAddr func() netip.Addr

	// Silence ends a leg after that long without RTP if its phone does not
	// answer either (OPTIONS in the dialog); default 20 s. Only ports with a
	// LastPacket method are watched.
	Silence time.Duration

	MaxCalls int           // calls at once, emergencies not counted; default 500
	Grace    time.Duration // how long Drain waits for calls to end; default 30 min

	Logger *slog.Logger     // default: discards
	Now    func() time.Time // default time.Now
	Rand   io.Reader        // default crypto/rand.Reader; tags, Call-IDs, chain ids
}

// Records keeps call records (calls.md §7). Neither method may block for long.
type Records interface {
	Start(Record) // at the answer; on disk when it returns, or as soon as can be
	End(Record)   // when the call ended; calls never answered only get this
}

// A Record is one call as its owner saw it.
type Record struct {
	Chain    string // joins the records of one call at all its nodes
	From, To site.Party
	Device   site.RecordID // that called, zero if none of ours
	Answered string        // "phone", "site <code>", "feature <name>", "" if nobody
	Began    time.Time
	Start    time.Time // of speech, zero if nobody answered
	End      time.Time
	Cause    site.Cause
	Peer     bool // came from another node
	Diverted string
	By       []site.AOR // who transferred it, in order
	Also     []site.AOR // who else talked in it

	BothHeard *bool // speech came from both ends; nil: not measured
	Test      bool  // of the emergency call: it was none
}

// A Server owns the calls of one node.
type Server struct {
	cfg   Config
	log   *slog.Logger
	layer *transaction.Layer
	done  chan struct{}

	mu       sync.Mutex
	legs     map[dialog]*Leg
	calls    map[*Call]struct{}
	draining bool
	closed   bool
	empty    chan struct{}      // closed when draining and no call is left
	running  int                // goroutines
	idle     *sync.Cond         // of mu: running is 0
	parked   map[string]*Call   // by orbit
	urgent   map[netip.Addr]int // emergency calls by the address they came from
	strays   int                // answers that nobody wanted, being ended
}

// maxStrays bounds the answers that are ended at once: each costs requests for
// 32 s towards whoever sent it, or whose address was forged.
const maxStrays = 32

// dialog names a dialog at this end; tags of ours are unguessable, so the
// other end's is compared, not looked up.
type dialog struct{ callID, localTag string }

// New makes a Server; Use must follow.
func New(cfg Config) (*Server, error) {
	if cfg.Edge == nil || cfg.View == nil || cfg.Location == nil || cfg.Digest == nil || cfg.Anchor == nil || cfg.Feature == nil {
		return nil, errors.New("b2bua: Edge, View, Location, Digest, Anchor and Feature are needed")
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
	if cfg.MaxCalls == 0 {
		cfg.MaxCalls = 500
	}
	if cfg.Silence == 0 {
		cfg.Silence = 20 * time.Second
	}
	if cfg.Recall == 0 {
		cfg.Recall = time.Minute
	}
	if cfg.Grace == 0 {
		cfg.Grace = 30 * time.Minute
	}
	if cfg.MediaAddr == nil {
		cfg.MediaAddr = func() netip.Addr { return netip.Addr{} }
	}
	s := &Server{cfg: cfg, log: cfg.Logger, done: make(chan struct{}), legs: map[dialog]*Leg{}, calls: map[*Call]struct{}{}, parked: map[string]*Call{}}
	s.idle = sync.NewCond(&s.mu)
	return s, nil
}

// spawn runs f, which must end when Server.done is closed. Unlike a WaitGroup
// it may be called while Close waits. A panic ends f and nothing else.
func (s *Server) spawn(f func()) {
	s.mu.Lock()
	s.running++
	s.mu.Unlock()
	go func() {
		defer func() {
			if r := recover(); r != nil {
				s.log.Error("A call panicked", "err", fmt.Sprint(r), "stack", string(debug.Stack()))
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.running--; s.running == 0 {
				s.idle.Broadcast()
			}
		}()
		f()
	}()
}

// Use gives the Server its transactions, before the first request.
func (s *Server) Use(l *transaction.Layer) { s.layer = l }

func (s *Server) random(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(s.cfg.Rand, b); err != nil {
		panic("no randomness for SIP dialogs: " + err.Error())
	}
	return b
}

func (s *Server) token() string { return hex.EncodeToString(s.random(10)) }

// newChain makes a chain id (a UUID, RFC 9562 version 4).
func (s *Server) newChain() string {
	b := s.random(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func (s *Server) register(l *Leg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.legs[dialog{l.callID, l.localTag}] = l
}

func (s *Server) forget(l *Leg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := (dialog{l.callID, l.localTag}); s.legs[k] == l { // not when l was only there to end a second answer
		delete(s.legs, k)
	}
}

func (s *Server) find(callID, localTag string) *Leg {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.legs[dialog{callID, localTag}]
}

// full says whether, and why, no call can be taken now.
func (s *Server) full(urgent bool) (site.Cause, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.noRoom(urgent)
}

func (s *Server) noRoom(urgent bool) (site.Cause, bool) {
	switch {
	case s.closed, s.draining && !urgent:
		return site.Draining, true
	case len(s.calls) >= s.cfg.MaxCalls && !urgent:
		return site.NodeFull, true
	}
	return 0, false
}

// begin counts one more call, or says why there cannot be one.
func (s *Server) begin(c *Call, urgent bool) (site.Cause, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cause, full := s.noRoom(urgent); full {
		return cause, false
	}
	s.calls[c] = struct{}{}
	return 0, true
}

func (s *Server) finish(c *Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.calls, c)
	if s.draining && len(s.calls) == 0 && s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

// Count says how many calls there are now.
func (s *Server) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

// Drain takes no new calls and waits until those there are have ended, ctx
// ends, or Config.Grace is over.
func (s *Server) Drain(ctx context.Context) {
	s.mu.Lock()
	s.draining = true
	empty := s.empty // of somebody who drains already
	if empty == nil {
		empty = make(chan struct{})
		if len(s.calls) == 0 {
			close(empty)
		} else {
			s.empty = empty
		}
	}
	s.mu.Unlock()
	t := time.NewTimer(s.cfg.Grace)
	defer t.Stop()
	select {
	case <-empty:
	case <-ctx.Done():
	case <-t.C:
	}
}

// Close ends every call and returns when nothing of them runs any more.
func (s *Server) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.done)
	}
	calls := make([]*Call, 0, len(s.calls))
	for c := range s.calls {
		calls = append(calls, c)
	}
	s.mu.Unlock()
	for _, c := range calls {
		c.end(site.Draining)
	}
	s.mu.Lock()
	for s.running > 0 {
		s.idle.Wait()
	}
	s.mu.Unlock()
}

// send sends a request whose answer changes nothing: the transaction sees to
// itself.
func (s *Server) send(req *sip.Request, d edge.Dest) {
	s.layer.Request(context.Background(), req, d)
}

// Serve takes a request that is a call's: every INVITE, and whatever comes in
// a dialog of ours. It returns false for others, which it has not answered.
func (s *Server) Serve(tx *transaction.ServerTx) bool {
	req := tx.Request()
	tag, _ := req.To().Params.Get("tag")
	if tag == "" {
		if req.Method == sip.INVITE {
			s.invite(tx)
			return true
		}
		return false
	}
	l := s.find(req.CallID().Value(), tag)
	if l == nil {
		switch req.Method {
		case sip.INVITE, sip.BYE, sip.UPDATE, sip.PRACK, sip.INFO:
			tx.Respond(tx.Response(481, ""))
			return true
		}
		return false
	}
	l.serve(tx)
	return true
}

// Ack takes the ACK to a 2xx.
func (s *Server) Ack(ack *sip.Request, _ *edge.Flow) {
	tag, _ := ack.To().Params.Get("tag")
	if l := s.find(ack.CallID().Value(), tag); l != nil {
		l.acknowledged(ack)
	}
}

// Stray takes a 2xx to an INVITE whose transaction is long over: it is
// acknowledged again, or, if nobody knows of it, acknowledged and ended
// (RFC 3261 §13.2.2.4).
func (s *Server) Stray(res *sip.Response, f *edge.Flow) {
	tag, _ := res.From().Params.Get("tag")
	l := s.find(res.CallID().Value(), tag)
	if l == nil {
		s.dismiss(res, f.Dest())
		return
	}
	l.mu.Lock()
	ack, d := l.acks[res.CSeq().SeqNo], l.dest
	theirs, _ := res.To().Params.Get("tag")
	known := ack != nil && theirs == l.remoteTag
	if known {
		ack = ack.Clone()
		message.Remove(ack, "Via")
	}
	l.mu.Unlock()
	if !known {
		s.dismiss(res, f.Dest())
		return
	}
	if err := s.layer.SendAck(context.Background(), ack, d); err != nil {
		s.log.Debug("ACK not repeated", "err", err)
	}
}

// dismiss acknowledges and ends a dialog that nobody wants.
func (s *Server) dismiss(res *sip.Response, d edge.Dest) {
	s.mu.Lock()
	full := s.strays >= maxStrays
	if !full {
		s.strays++
	}
	s.mu.Unlock()
	if full {
		return
	}
	l := (&Leg{srv: s, callID: res.CallID().Value(), state: confirmed, dest: d, nat: true}).own(&Call{srv: s})
	l.localTag, _ = res.From().Params.Get("tag")
	l.remoteTag, _ = res.To().Params.Get("tag")
	l.local, l.remote = *res.From().Address.Clone(), *res.To().Address.Clone()
	l.localSeq = res.CSeq().SeqNo
	l.target = l.remote
	l.mu.Lock()
	l.learn(res, true)
	ack := l.request(sip.ACK, l.localSeq)
	l.mu.Unlock()
	ack.SetBody(nil)
	if err := s.layer.SendAck(context.Background(), ack, d); err != nil {
		s.log.Debug("ACK not sent", "err", err)
	}
	l.mu.Lock()
	l.localSeq++
	req := l.request(sip.BYE, l.localSeq)
	l.mu.Unlock()
	req.AppendHeader(sip.NewHeader("Reason", reason(site.Elsewhere)))
	req.SetBody(nil)
	tx := s.layer.Request(context.Background(), req, d)
	s.spawn(func() {
		select {
		case <-tx.Done():
		case <-s.done:
		}
		s.mu.Lock()
		s.strays--
		s.mu.Unlock()
	})
}
