package pair

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// Limits of what the nodes of a pair settle about their lines.
const (
	// SettleWithin is the most a caller from outside waits for the other node.
	SettleWithin = 200 * time.Millisecond
	// Moment is how close together two calls of one caller to one number, by
	// different Call-IDs, are taken for one call that the provider doubled.
	Moment = time.Second

	mostArrivals = 4096
	mostRescues  = 256
)

// An Arrival is a call that came from outside, as both nodes would see it.
type Arrival struct {
	Exact string // Call-ID, From tag and CSeq: the same in each copy of a forked INVITE
	Alike string // line, caller and number called; "" where that proves nothing
}

// A Rescue says which telephone a call to a number rings first, because an
// emergency call that showed the number came from there (calls.md §3 step 0).
type Rescue struct {
	Number string    `cbor:"1,keyasint"`
	Line   string    `cbor:"2,keyasint"` // number of the telephone
	At     time.Time `cbor:"3,keyasint"` // of the emergency call; the newest counts
	Until  time.Time `cbor:"4,keyasint"`
}

// Lines is what the nodes of a pair must know at once of each other's outside
// lines: which of them has a call that arrived at both, and whom an emergency
// centre wants that calls back. It is memory of both nodes, and nothing of it
// leaves the site. Without the other node each decides alone.
type Lines struct {
	self site.NodeID
	now  func() time.Time
	log  *slog.Logger

	mu       sync.Mutex
	mine     map[digest]*arrival
	alike    map[digest]*arrival
	theirs   map[digest]theirs
	similar  map[digest]theirs
	rescues  map[string]Rescue
	peer     *lineFeed
	streams  uint64
	heard    map[net.Conn]struct{}
	closed   bool
	changing sync.Mutex // one Share or Close at a time
}

type digest [16]byte

func digestOf(s string) (d digest) {
	h := sha256.Sum256([]byte(s))
	copy(d[:], h[:])
	return d
}

// theirs is a call that the other node has.
type theirs struct {
	call   digest // its exact one
	stream uint64 // that told us; with it goes what it told
	at     time.Time
}

// arrival is one call of ours.
type arrival struct {
	exact, alike digest
	at           time.Time
	won, lost    bool
	decided      chan struct{}
}

func (a *arrival) decide(won bool) {
	if a.won || a.lost {
		return
	}
	a.won, a.lost = won, !won
	close(a.decided)
}

// NewLines makes Lines of a node that is alone until Share.
func NewLines(self site.NodeID, now func() time.Time, log *slog.Logger) *Lines {
	return &Lines{self: self, now: now, log: log, mine: map[digest]*arrival{}, alike: map[digest]*arrival{}, theirs: map[digest]theirs{},
		similar: map[digest]theirs{}, rescues: map[string]Rescue{}, heard: map[net.Conn]struct{}{}}
}

// Settle says whether a call that arrived here is this node's. It waits for the
// other node no longer than SettleWithin; a node that does not answer has no
// say. release must be called when the call is over: a provider that tries one
// node after the other then reaches the second.
func (l *Lines) Settle(ctx context.Context, x Arrival) (release func(), mine bool) {
	a := &arrival{exact: digestOf(x.Exact), decided: make(chan struct{}), at: l.now()}
	if x.Alike != "" {
		a.alike = digestOf(x.Alike)
	}
	l.mu.Lock()
	if l.mine[a.exact] != nil || l.taken(a) {
		l.mu.Unlock()
		return func() {}, false
	}
	if len(l.mine) >= mostArrivals {
		l.mu.Unlock()
		return func() {}, true
	}
	l.mine[a.exact] = a
	if x.Alike != "" {
		l.alike[a.alike] = a
	}
	f := l.peer
	l.mu.Unlock()
	release = sync.OnceFunc(func() { l.release(a) })
	if f == nil {
		l.settled(a, true)
		return release, true
	}
	wait, cancel := context.WithTimeout(ctx, SettleWithin)
	defer cancel()
	answer := make(chan bool, 1)
	f.ask(wait, lineItem{Claim: &claim{a.exact[:], a.alike[:]}}, answer)
	select {
	case <-a.decided:
	case yes := <-answer:
		l.settled(a, yes)
	case <-wait.Done():
		l.log.Debug("A call from outside is taken without the other node's word")
		l.settled(a, true)
	}
	l.mu.Lock()
	mine = a.won
	l.mu.Unlock()
	if !mine {
		release()
		return func() {}, false
	}
	return release, true
}

func (l *Lines) settled(a *arrival, won bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.decide(won)
}

// taken says whether the other node has the call; l.mu is held.
func (l *Lines) taken(a *arrival) bool {
	if _, ok := l.theirs[a.exact]; ok {
		return true
	}
	t, ok := l.similar[a.alike]
	return ok && a.alike != (digest{}) && a.at.Sub(t.at) < Moment
}

func (l *Lines) release(a *arrival) {
	l.mu.Lock()
	if l.mine[a.exact] == a {
		delete(l.mine, a.exact)
	}
	if l.alike[a.alike] == a {
		delete(l.alike, a.alike)
	}
	f, won := l.peer, a.won
	l.mu.Unlock()
	if f != nil && won {
		f.say(lineItem{Release: a.exact[:]})
	}
}

// claimed answers the other node, which got a call: true, it is theirs.
func (l *Lines) claimed(c claim, from site.NodeID, stream uint64) bool {
	var exact, alike digest
	copy(exact[:], c.Exact)
	copy(alike[:], c.Alike)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	by := exact
	own := l.mine[exact]
	if own == nil && alike != (digest{}) {
		if o := l.alike[alike]; o != nil && now.Sub(o.at) < Moment {
			own, by = o, alike
		}
	}
	if own != nil && !own.lost {
		own.decide(l.first(by, from)) // the same at both nodes, if both still wait
		if own.won {
			return false
		}
	}
	for k, t := range l.similar {
		if now.Sub(t.at) >= Moment {
			delete(l.similar, k)
		}
	}
	t := theirs{exact, stream, now}
	if len(l.theirs) < mostArrivals {
		l.theirs[exact] = t
	}
	if alike != (digest{}) && len(l.similar) < mostArrivals {
		l.similar[alike] = t
	}
	return true
}

// first says whether we, and not other, have a call that arrives at both in the
// same instant: each node gets its half of them.
func (l *Lines) first(call digest, other site.NodeID) bool {
	a, b := l.self, other
	if call[0]&1 == 1 {
		a, b = b, a
	}
	return bytes.Compare(a[:], b[:]) < 0
}

func (l *Lines) released(exact []byte) {
	var d digest
	copy(d[:], exact)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.theirs, d)
	for k, t := range l.similar {
		if t.call == d {
			delete(l.similar, k)
		}
	}
}

// Rescue notes whom a call back is for, here and at the other node.
func (l *Lines) Rescue(all ...Rescue) {
	l.learn(all)
	l.mu.Lock()
	f := l.peer
	l.mu.Unlock()
	if f != nil {
		f.owe()
	}
}

func (l *Lines) learn(all []Rescue) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for k, r := range l.rescues {
		if !now.Before(r.Until) {
			delete(l.rescues, k)
		}
	}
	for _, r := range all {
		old, known := l.rescues[r.Number]
		if r.Number == "" || r.Line == "" || !now.Before(r.Until) || known && !r.At.After(old.At) || !known && len(l.rescues) >= mostRescues {
			continue
		}
		l.rescues[r.Number] = r
	}
}

// Rescued is the telephone a call to number rings first, "" if there is none.
func (l *Lines) Rescued(number string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r, ok := l.rescues[number]; ok && l.now().Before(r.Until) {
		return r.Line
	}
	return ""
}

func (l *Lines) all() (out []Rescue) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, r := range l.rescues {
		if now.Before(r.Until) {
			out = append(out, r)
		}
	}
	return out
}

// Share opens the way to the other node of the pair; nil: there is none.
func (l *Lines) Share(dial func(context.Context) (net.Conn, error)) {
	l.changing.Lock()
	defer l.changing.Unlock()
	var f *lineFeed
	l.mu.Lock()
	if dial != nil && !l.closed {
		f = newLineFeed(l, dial)
	}
	old := l.peer
	l.peer = f
	l.mu.Unlock()
	old.close()
	if f != nil {
		f.start()
	}
}

// Close ends all streams.
func (l *Lines) Close() {
	l.mu.Lock()
	l.closed = true
	for c := range l.heard {
		c.Close()
	}
	l.mu.Unlock()
	l.Share(nil)
}

var errLinesClosed = errors.New("the lines are closed")
