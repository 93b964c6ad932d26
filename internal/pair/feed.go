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

// decode takes the texts of telephones as they are: a name that is not UTF-8 is
// no reason to lose a binding.
var decode = func() cbor.DecMode {
	m, err := cbor.DecOptions{UTF8: cbor.UTF8DecodeInvalid}.DecMode()
	if err != nil {
		panic(err) // the options are constant
	}
	return m
}()

// item is one thing the owner of bindings tells the other node. Exactly one
// field is set.
type item struct {
	Put  *site.Binding   `cbor:"1,keyasint,omitempty"`
	Drop string          `cbor:"2,keyasint,omitempty"`
	All  *[]site.Binding `cbor:"3,keyasint,omitempty"` // replaces everything told before
}

const (
	maxItem = 4 << 20 // a snapshot of 10,000 bindings
	ackWait = 2 * time.Second
	backoff = time.Second
	atOnce  = 100 * time.Millisecond // the least pause when a phone gave a reason, doubling to 1.6 s
	maxWait = time.Minute
)

// feed tells our bindings to the other node: a snapshot when the stream opens,
// then each change, each acknowledged. It speaks only when something is owed.
type feed struct {
	t    *Table
	dial func(context.Context) (net.Conn, error)

	mu     sync.Mutex
	owed   []item
	fresh  bool // the next stream begins with a snapshot anyway
	wake   chan struct{}
	need   chan struct{} // a phone came or went: worth trying now
	again  chan struct{} // ends the pause after a failure
	cancel context.CancelFunc
	done   chan struct{}
}

// Share starts telling our bindings over streams that dial opens, and again
// from the beginning when the pair's other node changes. Nil: there is no other
// node any more; what it owned is tried for one maximum expiry more.
func (t *Table) Share(dial func(context.Context) (net.Conn, error)) {
	var f *feed
	var ctx context.Context
	if dial != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(context.Background())
		f = &feed{t: t, dial: dial, fresh: true, wake: make(chan struct{}, 1), need: make(chan struct{}, 1), again: make(chan struct{}, 1),
			cancel: cancel, done: make(chan struct{})}
	}
	t.mu.Lock()
	old := t.feed
	closed := t.closed
	if closed {
		old = nil
	} else {
		t.feed = f
	}
	t.mu.Unlock()
	old.close()
	switch {
	case closed:
		if f != nil {
			f.cancel()
		}
		return
	case f == nil:
		t.PeerGone()
		return
	}
	go f.run(ctx) // ends with close, which waits
	f.poke()
}

func (f *feed) close() {
	if f == nil {
		return
	}
	f.cancel()
	<-f.done
}

func (f *feed) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// retry ends the pause after a failure: the other node has just been heard.
func (f *feed) retry() {
	if f == nil {
		return
	}
	select {
	case f.again <- struct{}{}:
	default:
	}
}

func (f *feed) tell(it item) {
	if f == nil {
		return
	}
	f.mu.Lock()
	if !f.fresh { // else the snapshot will say it
		f.owed = append(f.owed, it)
	}
	f.mu.Unlock()
	select {
	case f.need <- struct{}{}:
	default:
	}
	f.poke()
}

func (f *feed) run(ctx context.Context) {
	defer close(f.done)
	wait, hurried := backoff, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		}
		select {
		case <-f.need: // this attempt is for it
		default:
		}
		err := f.stream(ctx)
		if ctx.Err() != nil {
			return
		}
		f.mu.Lock()
		f.fresh, f.owed = true, nil
		f.mu.Unlock()
		if errors.Is(err, errEnded) { // it had worked
			wait, hurried = backoff, 0
		}
		f.t.PeerGone()
		f.t.cfg.Log.Debug("The pair's other node cannot be told", "err", err, "again", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			wait = min(2*wait, maxWait)
		case <-f.again:
			wait, hurried = backoff, 0
		case <-f.need:
			pause := time.NewTimer(atOnce << hurried)
			hurried = min(hurried+1, 4)
			select {
			case <-pause.C:
			case <-f.again:
				wait, hurried = backoff, 0
			case <-ctx.Done():
				pause.Stop()
				return
			}
		}
		f.poke() // it is still owed
	}
}

// errEnded: the other side ended a stream on which it had taken everything. It
// died, or was restarted: then it has to be told everything again, because it
// keeps what it read from its disk for one expiry only.
var errEnded = errors.New("the other node ended the stream")

// stream tells over one connection until it breaks; it returns why it broke.
func (f *feed) stream(ctx context.Context) error {
	dctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	c, err := f.dial(dctx)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	f.mu.Lock()
	f.fresh, f.owed = false, nil
	f.mu.Unlock()
	all := f.t.own()
	if err := exchange(c, item{All: &all}, len(all)); err != nil {
		return err
	}
	f.t.peerBack()
	gone := make(chan struct{})
	acks := make(chan error)
	over := make(chan struct{})
	go func() { // ends when c closes
		defer close(gone)
		var b [1]byte
		for {
			_, err := io.ReadFull(c, b[:])
			select {
			case acks <- err:
			case <-over:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() { close(over); c.Close(); <-gone }()
	for {
		f.mu.Lock()
		owed := f.owed
		f.owed = nil
		f.mu.Unlock()
		for _, it := range owed {
			if err := write(c, it); err != nil {
				return err
			}
			select {
			case err := <-acks:
				if err != nil {
					return err
				}
			case <-time.After(ackWait):
				return errors.New("no acknowledgement")
			}
		}
		if len(owed) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		case err := <-acks:
			return fmt.Errorf("%w: %v", errEnded, err)
		}
	}
}

// exchange tells a snapshot. The other side puts each binding on its disk.
func exchange(c net.Conn, it item, bindings int) error {
	if err := write(c, it); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(5*time.Second + time.Duration(bindings)*20*time.Millisecond))
	defer c.SetReadDeadline(time.Time{})
	var b [1]byte
	_, err := io.ReadFull(c, b[:])
	return err
}

func write(c net.Conn, it item) error {
	body, err := cbor.Marshal(it)
	if err != nil {
		return fmt.Errorf("encode for the pair: %w", err)
	}
	c.SetWriteDeadline(time.Now().Add(ackWait))
	_, err = c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	return err
}

// Hear takes what the other node tells over one stream, until the stream ends.
func (t *Table) Hear(from site.NodeID, c net.Conn) error {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxItem {
			return fmt.Errorf("the pair sent %d bytes at once; at most %d are taken", n, maxItem)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return err
		}
		var it item
		if err := decode.Unmarshal(body, &it); err != nil {
			return fmt.Errorf("read what the pair tells: %w", err)
		}
		if err := t.learn(from, it); err != nil {
			return err
		}
		t.mu.Lock()
		f := t.feed
		t.mu.Unlock()
		f.retry()
		if _, err := c.Write([]byte{1}); err != nil {
			return err
		}
	}
}
