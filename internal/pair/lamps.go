package pair

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/site"
)

// LampsKept is how long the calls of the other node are shown after it was last
// known to be there. A node that lost only its stream is back with a new one
// before that, since it tries again after 1, 2 and 4 s; the calls of one that
// died are over.
const LampsKept = 10 * time.Second

// A Lamp is one call as the lamps of one line show it.
type Lamp struct {
	AOR       site.AOR   `cbor:"1,keyasint"`
	Recipient bool       `cbor:"2,keyasint,omitempty"`
	Confirmed bool       `cbor:"3,keyasint,omitempty"`
	Parked    bool       `cbor:"4,keyasint,omitempty"`
	Remote    site.Party `cbor:"5,keyasint"`
}

// A LampCall is all that the lamps show of one call; nothing when it is over.
type LampCall struct {
	Chain string `cbor:"1,keyasint"`
	Lamps []Lamp `cbor:"2,keyasint,omitempty"`
}

// A LampBoard keeps the calls of both nodes. Its methods must be fast.
type LampBoard interface {
	Chains() []string            // of this node's calls, oldest first
	Call(chain string) LampCall  // as it is now
	Learn(site.NodeID, LampCall) // of the other node
	Keep(from site.NodeID, chains map[string]bool)
}

// A lampItem is one thing told on a stream of Lamps; each gets one byte back.
type lampItem struct {
	All   bool       `cbor:"1,keyasint,omitempty"` // replaces everything told before
	Calls []LampCall `cbor:"2,keyasint,omitempty"`
}

const (
	maxLampItem  = 8 << 20 // a snapshot of 10,000 calls
	mostLampCall = 10_000
)

// Lamps is the memory that the nodes of a pair share of their calls: each tells
// the other what its own show on lamps, all when a stream opens and what is
// different later. It is on no disk, and nothing of it leaves the site. It is
// silent while nothing changes, so that a node that dies without a word is
// found out by what there is to tell it, or by Doubt.
type Lamps struct {
	board LampBoard
	log   *slog.Logger

	changing sync.Mutex // one Share or Close at a time

	mu     sync.Mutex
	feed   *lampFeed
	peers  map[site.NodeID]*lampPeer
	closed bool
}

// lampPeer is what we know of the presence of another node.
type lampPeer struct {
	streams map[net.Conn]struct{}
	newest  net.Conn
	gone    *time.Timer // runs while it is not known to be there
	seq     uint64      // of gone
}

// NewLamps makes Lamps of a node that is alone until Share.
func NewLamps(board LampBoard, log *slog.Logger) *Lamps {
	return &Lamps{board: board, log: log, peers: map[site.NodeID]*lampPeer{}}
}

// Tell says that a call of this node shows something else. It does not wait.
func (l *Lamps) Tell(chain string) {
	l.mu.Lock()
	f := l.feed
	l.mu.Unlock()
	if f != nil {
		f.tell(chain)
	}
}

// Doubt is a reason to think that the other node may be gone: whoever knows that
// something else could not be told to it says so. It is asked for a sign of life
// then, and at no other time. It does not wait.
func (l *Lamps) Doubt() {
	l.mu.Lock()
	f := l.feed
	l.mu.Unlock()
	if f != nil {
		poke(f.check)
	}
}

// Share starts telling other over streams that dial opens. Nil: there is no
// other node any more, and what it told is forgotten.
func (l *Lamps) Share(other site.NodeID, dial func(context.Context) (net.Conn, error)) {
	l.changing.Lock()
	defer l.changing.Unlock()
	var f *lampFeed
	l.mu.Lock()
	old := l.feed
	if l.feed = nil; dial != nil && !l.closed {
		f = newLampFeed(l, other, dial)
		l.feed = f
	}
	var left []site.NodeID
	for id := range l.peers {
		if id != other || dial == nil {
			left = append(left, id)
		}
	}
	l.mu.Unlock()
	old.close()
	for _, id := range left {
		l.forget(id, 0)
	}
	if f != nil {
		go f.run() // ends with close, which waits
	}
}

// Close ends all streams.
func (l *Lamps) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.Share(site.NodeID{}, nil)
}

var errLampsClosed = errors.New("the lamps are closed")

// Hear takes what the other node tells over one stream, until the stream ends.
func (l *Lamps) Hear(from site.NodeID, c net.Conn) error {
	defer c.Close()
	if !l.opened(from, c) {
		return errLampsClosed
	}
	defer l.ended(from, c)
	r := bufio.NewReader(c)
	for {
		it, err := readLamps(r)
		if err != nil {
			return err
		}
		if err := l.learn(from, c, it); err != nil {
			return err
		}
		c.SetWriteDeadline(time.Now().Add(ackWait))
		if _, err := c.Write([]byte{1}); err != nil {
			return err
		}
	}
}

func (l *Lamps) opened(from site.NodeID, c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	p := l.peers[from]
	if p == nil {
		p = &lampPeer{streams: map[net.Conn]struct{}{}}
		l.peers[from] = p
	}
	p.streams[c], p.newest = struct{}{}, c
	p.stay()
	return true
}

func (p *lampPeer) stay() {
	if p.gone != nil {
		p.gone.Stop()
		p.gone = nil
	}
}

func (l *Lamps) ended(from site.NodeID, c net.Conn) {
	l.mu.Lock()
	p := l.peers[from]
	if p == nil {
		l.mu.Unlock()
		return
	}
	delete(p.streams, c)
	if len(p.streams) == 0 {
		l.leaves(from, p)
	}
	l.mu.Unlock()
}

// leaves starts the time after which a node is taken to be gone. l.mu is held.
func (l *Lamps) leaves(from site.NodeID, p *lampPeer) {
	if p.gone != nil || l.closed {
		return
	}
	p.seq++
	seq := p.seq
	p.gone = time.AfterFunc(LampsKept, func() { l.forget(from, seq) })
}

// unreachable is evidence that the other node cannot be told anything: unless
// it is heard, its calls are shown for LampsKept only.
func (l *Lamps) unreachable(other site.NodeID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.peers[other]; p != nil {
		l.leaves(other, p)
	}
}

// reached is evidence that the other node lives: what it tells over a stream
// that is open counts. One without a stream has to come back with its calls.
func (l *Lamps) reached(other site.NodeID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.peers[other]; p != nil && len(p.streams) > 0 {
		p.stay()
	}
}

// forget drops what a node told, and its streams: if it lives, it notices and
// tells everything again. seq is that of the timer that found it gone, or 0.
func (l *Lamps) forget(from site.NodeID, seq uint64) {
	l.mu.Lock()
	p := l.peers[from]
	if p == nil || seq != 0 && (p.seq != seq || p.gone == nil) {
		l.mu.Unlock()
		return
	}
	p.stay()
	for c := range p.streams {
		c.Close()
	}
	delete(l.peers, from)
	l.board.Keep(from, nil)
	l.mu.Unlock()
	l.log.Debug("The other node's calls are not shown any more")
}

// learn takes one item. l.mu keeps the board in step with the peers: what comes
// over a stream that a newer one, or forget, has replaced is refused.
func (l *Lamps) learn(from site.NodeID, c net.Conn, it lampItem) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.peers[from]
	if p == nil || p.newest != c {
		return errors.New("another stream has taken the place of this one")
	}
	p.stay()
	for _, call := range it.Calls {
		l.board.Learn(from, call)
	}
	if it.All {
		keep := map[string]bool{}
		for _, call := range it.Calls {
			keep[call.Chain] = true
		}
		l.board.Keep(from, keep)
	}
	if f := l.feed; f != nil && f.other == from {
		f.hurry()
	}
	return nil
}

func writeLamps(c net.Conn, it lampItem) error {
	body, err := cbor.Marshal(it)
	if err != nil {
		return fmt.Errorf("encode for the pair: %w", err)
	}
	c.SetWriteDeadline(time.Now().Add(ackWait))
	_, err = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

func readLamps(r *bufio.Reader) (it lampItem, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return it, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxLampItem {
		return it, fmt.Errorf("the pair sent %d bytes at once; at most %d are taken", n, maxLampItem)
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(n))) // no memory for what never comes
	if err != nil {
		return it, err
	}
	if len(body) < int(n) {
		return it, io.ErrUnexpectedEOF
	}
	if err := decode.Unmarshal(body, &it); err != nil {
		return it, fmt.Errorf("read what the pair tells of its calls: %w", err)
	}
	if len(it.Calls) > mostLampCall {
		return it, fmt.Errorf("the pair told %d calls at once; at most %d are taken", len(it.Calls), mostLampCall)
	}
	return it, nil
}
