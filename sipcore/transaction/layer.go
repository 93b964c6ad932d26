// Package transaction is the transaction layer of RFC 3261 §17 with the
// correction of RFC 6026: it retransmits, absorbs retransmissions, matches
// responses, acknowledges refusals, and gives the transaction user one
// ServerTx for each new request and one ClientTx for each it sends.
//
// Its laws: nothing a user does or fails to do holds up another transaction;
// what is kept after a final response is the response's bytes, not the request,
// and after a challenge (401, 407) nothing, so that a flood costs no memory;
// a CANCEL, ACK or response counts only when it comes from where the
// transaction's other end is.
//
// In use:
//
//	l := transaction.New(transaction.Config{Edge: e,
//		OnRequest: func(tx *transaction.ServerTx) { … tx.Respond(tx.Response(180, "")) … },
//		OnAck:     func(ack *sip.Request, f *edge.Flow) { … },
//		Quick:     map[sip.RequestMethod]func(*sip.Request, *edge.Flow) func(){sip.REGISTER: registrar.Quick},
//	})
//	tx := l.Request(ctx, invite, dest)     // puts our Via on top
//	for res := range tx.Responses() { … }  // then tx.Err() says why it ended
package transaction

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
)

// Timers of RFC 3261 Table 4.
const (
	T1 = 500 * time.Millisecond
	T2 = 4 * time.Second
	T4 = 5 * time.Second
)

// Config fits a Layer between an Edge and its users. Edge and OnRequest are needed.
type Config struct {
	Edge *edge.Edge

	// OnRequest takes each new request except ACK, CANCEL and those in
	// Stateless, on a goroutine of its own. It may return before it answers.
	OnRequest func(*ServerTx)

	// OnAck takes each ACK that acknowledges a 2xx (RFC 3261 §13.3.1.4), on
	// a goroutine of its own, retransmitted ones too. May be nil.
	OnAck func(ack *sip.Request, f *edge.Flow)

	// OnStray takes each 2xx to an INVITE that came after its transaction was
	// forgotten, on a goroutine of its own; its dialog acknowledges it again.
	// May be nil.
	OnStray func(res *sip.Response, f *edge.Flow)

	// Stateless methods are served without a transaction: each retransmission
	// comes anew, on a goroutine of its own, and is answered with Edge.Respond.
	Stateless map[sip.RequestMethod]func(req *sip.Request, f *edge.Flow)

	// Quick methods are served like Stateless ones, but on the goroutine that
	// reads the socket: serve must not wait for anything. What would have to
	// wait it returns, to be run on a goroutine of its own. Waking one costs as
	// much as answering a REGISTER.
	Quick map[sip.RequestMethod]func(req *sip.Request, f *edge.Flow) (rest func())

	// Emergency says that a request must be taken however full we are.
	Emergency func(*sip.Request) bool

	PerSource int           // server transactions without final response from one address, twice that inside dialogs; default 1000
	Total     int           // and in all, also the bound on handlers; default 10000
	TimerC    time.Duration // how long an INVITE may ring; default 3 min (RFC 3261 §16.6 step 11)

	Logger *slog.Logger     // default: discards
	Now    func() time.Time // default time.Now; must not jump (monotonic)
	Rand   io.Reader        // default crypto/rand.Reader; branches
}

// A Layer holds the transactions of one Edge. It is an edge.Handler.
type Layer struct {
	cfg    Config
	edge   *edge.Edge
	log    *slog.Logger
	seed   maphash.Seed
	shards [32]shard
	wg     sync.WaitGroup

	mu     sync.Mutex
	source map[netip.Addr]int // open server transactions and handlers
	total  int
}

// New makes a Layer; hand it to Edge.Serve.
func New(cfg Config) *Layer {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Reader
	}
	if cfg.PerSource == 0 {
		cfg.PerSource = 1000
	}
	if cfg.Total == 0 {
		cfg.Total = 10000
	}
	if cfg.TimerC == 0 {
		cfg.TimerC = 3 * time.Minute
	}
	if cfg.OnAck == nil {
		cfg.OnAck = func(*sip.Request, *edge.Flow) {}
	}
	if cfg.OnStray == nil {
		cfg.OnStray = func(*sip.Response, *edge.Flow) {}
	}
	if cfg.Emergency == nil {
		cfg.Emergency = func(*sip.Request) bool { return false }
	}
	l := &Layer{cfg: cfg, edge: cfg.Edge, log: cfg.Logger, seed: maphash.MakeSeed(), source: map[netip.Addr]int{}}
	for i := range l.shards {
		l.shards[i].init(cfg.Now)
	}
	return l
}

// A key names a transaction at this end (RFC 3261 §17.1.3, §17.2.3). The
// source is part of it: nobody else can cancel, acknowledge or answer.
type key struct {
	branch string
	sentBy string // server transactions only
	method sip.RequestMethod
	client bool
	ip     netip.Addr
	peer   site.NodeID
}

const cookie = "z9hG4bK"

// serverKey names the server transaction that req belongs to: for ACK and
// CANCEL that of the INVITE.
func serverKey(req *sip.Request, f *edge.Flow) key {
	via := req.Via()
	k := key{method: req.Method, ip: f.Remote.Addr(), peer: f.Peer}
	if k.method == sip.ACK || k.method == sip.CANCEL {
		k.method = sip.INVITE
	}
	k.branch, _ = via.Params.Get("branch")
	k.sentBy = via.SentBy()
	if len(k.branch) <= len(cookie) || k.branch[:len(cookie)] != cookie {
		// RFC 2543 matching (RFC 3261 §17.2.3): the cookie alone is no branch.
		tag, _ := req.From().Params.Get("tag")
		k.branch = "2543 " + via.Value() + " " + req.CallID().Value() + " " + tag + " " +
			strconv.Itoa(int(req.CSeq().SeqNo)) + " " + req.Recipient.String()
	}
	return k
}

func (l *Layer) shard(k key) *shard {
	return &l.shards[maphash.String(l.seed, k.branch)%uint64(len(l.shards))]
}

// HandleRequest implements edge.Handler.
func (l *Layer) HandleRequest(req *sip.Request, f *edge.Flow, _ []byte) {
	if serve := l.cfg.Quick[req.Method]; serve != nil {
		if rest := serve(req, f); rest != nil {
			l.handle(req, f, rest)
		}
		return
	}
	if serve := l.cfg.Stateless[req.Method]; serve != nil {
		l.handle(req, f, func() { serve(req, f) })
		return
	}
	k := serverKey(req, f)
	sh := l.shard(k)
	s := sh.server(k)
	switch {
	case req.Method == sip.ACK:
		if tag, _ := req.To().Params.Get("tag"); s == nil && tag == l.edge.Tag(req) {
			return // of a challenge, which left nothing here
		}
		if s == nil || s.ack() {
			l.handle(req, f, func() { l.cfg.OnAck(req, f) })
		}
	case req.Method == sip.CANCEL:
		if s == nil || !s.invite {
			l.edge.Respond(req, f, 481, "")
			return
		}
		res := message.NewResponse(req, 200, "", s.tag)
		if err := l.edge.Send(res, f.Reply()); err != nil {
			l.log.Debug("Answer to CANCEL not sent", "to", f.String(), "err", err)
		}
		s.cancel(message.Get(req, "Reason"))
	case s != nil:
		s.again()
	default:
		l.begin(k, sh, req, f)
	}
}

// begin starts a server transaction and its user.
func (l *Layer) begin(k key, sh *shard, req *sip.Request, f *edge.Flow) {
	if !l.admit(req, f) {
		return
	}
	s := &server{layer: l, shard: sh, key: k, invite: req.Method == sip.INVITE, tag: l.edge.Tag(req), dest: f.Reply(),
		reliable: f.Transport.Reliable(), cancelled: make(chan struct{}), done: make(chan struct{})}
	if !sh.addServer(s) {
		l.release(f) // two sockets, the same request, the same instant
		return
	}
	tx := &ServerTx{server: s, req: req, flow: f}
	s.start(tx)
	l.wg.Go(func() {
		defer l.recovered(req, func() { tx.Respond(tx.Response(500, "")) })
		l.cfg.OnRequest(tx)
	})
}

// admit counts one more piece of work for the source of f, or refuses it.
func (l *Layer) admit(req *sip.Request, f *edge.Flow) bool {
	ip := f.Remote.Addr()
	total, perSource := l.cfg.Total, l.cfg.PerSource
	if req.To().Params.Has("tag") { // inside a dialog: calls that stand come first
		total, perSource = 2*total, 2*perSource
	}
	if f.Transport == site.Mesh {
		perSource = total
	}
	l.mu.Lock()
	full := l.total >= total || l.source[ip] >= perSource
	if full {
		l.mu.Unlock()
		urgent := l.cfg.Emergency(req)
		if !urgent {
			l.tooMany(req, f)
			return false
		}
		l.mu.Lock()
	}
	l.total++
	l.source[ip]++
	l.mu.Unlock()
	return true
}

// tooMany answers a request for which there is no room. A phone gets 503 only
// for a REGISTER: it would leave the node, and take its emergency calls along
// (RFC 3261 §21.5.4).
func (l *Layer) tooMany(req *sip.Request, f *edge.Flow) {
	later := sip.NewHeader("Retry-After", strconv.Itoa(2+int(l.random(1)[0])%9))
	switch {
	case req.Method == sip.ACK:
	case f.Transport == site.Mesh, req.Method == sip.REGISTER:
		l.edge.Respond(req, f, 503, "", later)
	case req.Method == sip.INVITE && !req.To().Params.Has("tag"):
		l.edge.Respond(req, f, 480, "", sip.NewHeader("Reason", `Q.850;cause=42;text="Switching equipment congestion"`))
	default: // inside a dialog 480 could end it (RFC 5057)
		l.edge.Respond(req, f, 500, "", later)
	}
}

func (l *Layer) release(f *edge.Flow) { l.releaseIP(f.Remote.Addr()) }

func (l *Layer) releaseIP(ip netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.source[ip]--; l.source[ip] <= 0 {
		delete(l.source, ip)
	}
}

// handle runs do for a message that has no transaction.
func (l *Layer) handle(req *sip.Request, f *edge.Flow, do func()) {
	if !l.admit(req, f) {
		return
	}
	l.wg.Go(func() {
		defer l.release(f)
		defer l.recovered(req, func() {
			if req.Method != sip.ACK {
				l.edge.Respond(req, f, 500, "")
			}
		})
		do()
	})
}

func (l *Layer) recovered(req *sip.Request, answer func()) {
	if r := recover(); r != nil {
		l.log.Error("A SIP handler panicked", "method", req.Method, "err", fmt.Sprint(r), "stack", string(debug.Stack()))
		answer()
	}
}

// HandleResponse implements edge.Handler.
func (l *Layer) HandleResponse(res *sip.Response, f *edge.Flow) {
	branch, _ := res.Via().Params.Get("branch")
	k := key{branch: branch, method: res.CSeq().MethodName, client: true, ip: f.Remote.Addr(), peer: f.Peer}
	if c := l.shard(k).client(k); c != nil {
		c.receive(res)
		return
	}
	vias := 0
	for _, h := range res.Headers() {
		if _, ok := h.(*sip.ViaHeader); ok {
			vias++
		}
	}
	if k.method == sip.INVITE && res.IsSuccess() && vias == 1 {
		l.wg.Go(func() {
			defer l.recovered(&sip.Request{Method: sip.INVITE}, func() {})
			l.cfg.OnStray(res, f)
		})
	}
}

// FlowClosed implements edge.FlowHandler: transactions that wait for an answer
// on f will get none, and callers who waited for ours have gone.
func (l *Layer) FlowClosed(f *edge.Flow) {
	for i := range l.shards {
		clients, servers := l.shards[i].onFlow(f)
		for _, c := range clients {
			c.fail(fmt.Errorf("%w: %s closed", ErrTransport, f))
		}
		for _, s := range servers {
			s.cancel(`SIP;cause=503;text="Connection lost"`)
		}
	}
}

// Wait returns when no handler runs any more; call it after Edge.Serve returned.
func (l *Layer) Wait() { l.wg.Wait() }

// Open counts the transactions in the tables, for tests and for people.
func (l *Layer) Open() (servers, clients int) {
	for i := range l.shards {
		sh := &l.shards[i]
		sh.mu.Lock()
		servers += len(sh.servers)
		clients += len(sh.clients)
		sh.mu.Unlock()
	}
	return
}

// Reasons why a ClientTx ends without a final response.
var (
	ErrTimeout   = errors.New("no answer")         // timer B, F, or after CANCEL
	ErrTransport = errors.New("cannot be reached") // no connection, or it broke
	ErrDone      = errors.New("transaction has ended")
)

func (l *Layer) random(n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(l.cfg.Rand, b); err != nil {
		panic("no randomness for SIP branches: " + err.Error())
	}
	return b
}

// Branch makes a new branch parameter.
func (l *Layer) Branch() string { return cookie + hex.EncodeToString(l.random(12)) }

// SendAck sends the ACK to a 2xx, which has no transaction; it gets a Via of
// its own. Prefer ClientTx.Ack, which answers retransmissions of the 2xx too.
func (l *Layer) SendAck(ctx context.Context, ack *sip.Request, d edge.Dest) error {
	d, _, err := l.via(ctx, ack, d)
	if err != nil {
		return err
	}
	return l.edge.Send(ack, d)
}

// via connects d and puts our Via on top of req.
func (l *Layer) via(ctx context.Context, req *sip.Request, d edge.Dest) (edge.Dest, string, error) {
	d, err := l.edge.Connect(ctx, d)
	if err != nil {
		return d, "", err
	}
	local, err := l.edge.Local(d)
	if err != nil {
		return d, "", err
	}
	branch := l.Branch()
	req.PrependHeader(local.Via(branch))
	return d, branch, nil
}
