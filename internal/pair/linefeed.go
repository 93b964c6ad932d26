package pair

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/site"
)

// A lineItem is one thing said on a stream of Lines. Questions have an ID, and
// get one item with the same ID back.
type lineItem struct {
	ID      uint64   `cbor:"1,keyasint,omitempty"`
	Claim   *claim   `cbor:"2,keyasint,omitempty"`
	Release []byte   `cbor:"3,keyasint,omitempty"`
	Rescues []Rescue `cbor:"4,keyasint,omitempty"`
	Swap    bool     `cbor:"5,keyasint,omitempty"` // tell all rescues of yours, too
	Yes     bool     `cbor:"6,keyasint,omitempty"`
}

type claim struct {
	Exact []byte `cbor:"1,keyasint"`
	Alike []byte `cbor:"2,keyasint"`
}

// maxLineItem bounds an item from outside: all rescues of a node.
const maxLineItem = 64 << 10

// lineFeed is our stream to the other node. It is opened when there is
// something to say and kept then; it is silent while nobody calls.
type lineFeed struct {
	l      *Lines
	dial   func(context.Context) (net.Conn, error)
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	kick   chan struct{} // there is something to say
	debt   chan struct{} // rescues are owed: tried until they are there

	mu   sync.Mutex
	conn net.Conn // nil: none
	next uint64
	asks map[uint64]chan<- lineItem
	up   chan struct{} // closed when there is a stream
}

func newLineFeed(l *Lines, dial func(context.Context) (net.Conn, error)) *lineFeed {
	f := &lineFeed{l: l, dial: dial, kick: make(chan struct{}, 1), debt: make(chan struct{}, 1), asks: map[uint64]chan<- lineItem{}, up: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

func (f *lineFeed) start() {
	f.wg.Go(f.run)
	f.owe() // the other node may know whom somebody calls back for
}

func (f *lineFeed) close() {
	if f == nil {
		return
	}
	f.cancel()
	f.wg.Wait()
}

func (f *lineFeed) owe() {
	select {
	case f.debt <- struct{}{}:
	default:
	}
}

// run opens streams and says what is owed.
func (f *lineFeed) run() {
	wait, owed := backoff, false
	var again <-chan time.Time
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-f.kick: // a call waits: now, whatever failed before
		case <-f.debt:
			owed = true
		case <-again:
		}
		again = nil
		err := f.open()
		if err == nil && owed {
			err = f.swap()
		}
		if err == nil {
			wait, owed = backoff, false
			continue
		}
		f.l.log.Debug("The pair's other node cannot be told of the lines", "err", err)
		if owed {
			again = time.After(wait)
			wait = min(2*wait, maxWait)
		}
	}
}

// open makes sure that there is a stream.
func (f *lineFeed) open() error {
	f.mu.Lock()
	have := f.conn != nil
	f.mu.Unlock()
	if have {
		return nil
	}
	ctx, cancel := context.WithTimeout(f.ctx, 3*time.Second)
	defer cancel()
	c, err := f.dial(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.conn = c
	close(f.up)
	f.mu.Unlock()
	f.wg.Go(func() { f.read(c) })
	return nil
}

func (f *lineFeed) read(c net.Conn) {
	stop := context.AfterFunc(f.ctx, func() { c.Close() })
	defer stop()
	r := bufio.NewReader(c)
	for {
		it, err := readLine(r)
		if err != nil {
			f.lost(c)
			return
		}
		f.mu.Lock()
		ch := f.asks[it.ID]
		delete(f.asks, it.ID)
		f.mu.Unlock()
		if ch != nil {
			ch <- it // has room
		}
	}
}

// lost forgets a stream; who waits for an answer gets none.
func (f *lineFeed) lost(c net.Conn) {
	c.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn == c {
		f.conn, f.up = nil, make(chan struct{})
		clear(f.asks)
	}
}

// send writes one item on the present stream.
func (f *lineFeed) send(it lineItem, answer chan<- lineItem) (id uint64, err error) {
	f.mu.Lock()
	c := f.conn
	if c == nil {
		f.mu.Unlock()
		return 0, errors.New("no stream")
	}
	if answer != nil {
		f.next++
		it.ID = f.next
		f.asks[it.ID] = answer
	}
	err = writeLine(c, it) // in order; deadlines keep it short
	f.mu.Unlock()
	if err != nil {
		f.lost(c)
	}
	return it.ID, err
}

// ask sends a question as soon as there is a stream, if that is before ctx ends.
func (f *lineFeed) ask(ctx context.Context, it lineItem, yes chan<- bool) {
	go func() { // ends with ctx
		f.mu.Lock()
		up := f.up
		f.mu.Unlock()
		select {
		case f.kick <- struct{}{}:
		default:
		}
		select {
		case <-up:
		case <-ctx.Done():
			return
		}
		answer := make(chan lineItem, 1)
		id, err := f.send(it, answer)
		if err != nil {
			return
		}
		select {
		case a := <-answer:
			yes <- a.Yes // has room
		case <-ctx.Done():
			f.forget(id)
		}
	}()
}

func (f *lineFeed) forget(id uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.asks, id)
}

// say sends what needs no answer, if there is a stream.
func (f *lineFeed) say(it lineItem) { _, _ = f.send(it, nil) }

// swap tells our rescues and takes those of the other node.
func (f *lineFeed) swap() error {
	answer := make(chan lineItem, 1)
	id, err := f.send(lineItem{Rescues: f.l.all(), Swap: true}, answer)
	if err != nil {
		return err
	}
	t := time.NewTimer(ackWait)
	defer t.Stop()
	select {
	case a := <-answer:
		f.l.learn(a.Rescues)
		return nil
	case <-t.C:
	case <-f.ctx.Done():
	}
	f.mu.Lock()
	c := f.conn
	delete(f.asks, id)
	f.mu.Unlock()
	if c != nil {
		f.lost(c) // it leads nowhere
	}
	return errors.New("no answer")
}

func writeLine(c net.Conn, it lineItem) error {
	body, err := cbor.Marshal(it)
	if err != nil {
		return fmt.Errorf("encode for the pair: %w", err)
	}
	c.SetWriteDeadline(time.Now().Add(SettleWithin))
	_, err = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

func readLine(r *bufio.Reader) (it lineItem, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return it, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxLineItem {
		return it, fmt.Errorf("the pair sent %d bytes at once; at most %d are taken", n, maxLineItem)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return it, err
	}
	if err := decode.Unmarshal(body, &it); err != nil {
		return it, fmt.Errorf("read what the pair tells of its lines: %w", err)
	}
	return it, nil
}

// Hear answers the other node on one stream, until the stream ends.
func (l *Lines) Hear(from site.NodeID, c net.Conn) error {
	defer c.Close()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return errLinesClosed
	}
	l.streams++
	stream := l.streams
	l.heard[c] = struct{}{}
	l.mu.Unlock()
	defer l.deaf(c, stream)
	r := bufio.NewReader(c)
	for {
		it, err := readLine(r)
		if err != nil {
			return err
		}
		l.learn(it.Rescues)
		out := lineItem{ID: it.ID}
		switch {
		case it.Claim != nil:
			out.Yes = l.claimed(*it.Claim, from, stream)
		case it.Release != nil:
			l.released(it.Release)
		case it.Swap:
			out.Rescues = l.all()
		}
		if it.ID == 0 {
			continue
		}
		if err := writeLine(c, out); err != nil {
			return err
		}
	}
}

// deaf forgets the calls the other node had told of over a stream: it may be dead.
func (l *Lines) deaf(c net.Conn, stream uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.heard, c)
	for k, t := range l.theirs {
		if t.stream == stream {
			delete(l.theirs, k)
		}
	}
	for k, t := range l.similar {
		if t.stream == stream {
			delete(l.similar, k)
		}
	}
}
