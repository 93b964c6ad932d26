package pair

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// lampFeed is our stream to the other node. It is opened at once and kept.
type lampFeed struct {
	l     *Lamps
	other site.NodeID
	dial  func(context.Context) (net.Conn, error)

	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	wake   chan struct{} // something is owed
	check  chan struct{} // it may be gone
	again  chan struct{} // the other node was heard: it is worth trying now

	mu   sync.Mutex
	owed map[string]struct{} // chains; what they show is looked up when they are told
	list []string            // the same, in order
}

func newLampFeed(l *Lamps, other site.NodeID, dial func(context.Context) (net.Conn, error)) *lampFeed {
	f := &lampFeed{l: l, other: other, dial: dial, done: make(chan struct{}), wake: make(chan struct{}, 1), check: make(chan struct{}, 1), again: make(chan struct{}, 1), owed: map[string]struct{}{}}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

func (f *lampFeed) close() {
	if f == nil {
		return
	}
	f.cancel()
	<-f.done
}

func (f *lampFeed) tell(chain string) {
	f.mu.Lock()
	if _, ok := f.owed[chain]; !ok && len(f.list) < mostLampCall { // more: the stream is dead, and the next one begins with all
		f.owed[chain] = struct{}{}
		f.list = append(f.list, chain)
	}
	f.mu.Unlock()
	poke(f.wake)
}

func (f *lampFeed) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.list
	f.list = nil
	clear(f.owed)
	return out
}

func (f *lampFeed) hurry() { poke(f.again) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (f *lampFeed) run() {
	defer close(f.done)
	for wait := backoff; ; {
		worked, err := f.stream()
		if f.ctx.Err() != nil {
			return
		}
		if worked {
			wait = backoff
		}
		f.l.unreachable(f.other)
		f.l.log.Debug("The pair's other node cannot be told of calls", "err", err, "again", wait)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
			wait = min(2*wait, maxWait)
		case <-f.again:
			wait = backoff
		case <-f.ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// stream tells over one connection until it breaks; worked says that the other
// node took everything first.
func (f *lampFeed) stream() (worked bool, err error) {
	ctx, cancel := context.WithTimeout(f.ctx, 3*time.Second)
	defer cancel()
	c, err := f.dial(ctx)
	if err != nil {
		return false, err
	}
	defer c.Close()
	stop := context.AfterFunc(f.ctx, func() { c.Close() })
	defer stop()
	acks, gone := make(chan error, 1), make(chan struct{})
	go func() { // ends when c closes
		defer close(gone)
		var b [1]byte
		for {
			_, err := io.ReadFull(c, b[:])
			select {
			case acks <- err:
			case <-f.ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() { c.Close(); drain(acks, gone) }()

	select {
	case <-f.check: // the snapshot finds out
	default:
	}
	f.take() // and says it
	all := f.l.board.Chains()
	if err := f.exchange(c, acks, all, true); err != nil {
		return false, err
	}
	for {
		select {
		case <-f.ctx.Done():
			return true, f.ctx.Err()
		case err := <-acks:
			return true, fmt.Errorf("%w: %v", errEnded, err)
		case <-f.check:
			if err := f.exchange(c, acks, nil, false); err != nil {
				return true, err
			}
		case <-f.wake:
		}
		if owed := f.take(); len(owed) > 0 {
			if err := f.exchange(c, acks, owed, false); err != nil {
				return true, err
			}
		}
	}
}

// drain lets the reader of acknowledgements end.
func drain(acks <-chan error, gone <-chan struct{}) {
	for {
		select {
		case <-acks:
		case <-gone:
			return
		}
	}
}

// exchange tells calls as they are now and waits for the acknowledgement.
func (f *lampFeed) exchange(c net.Conn, acks <-chan error, chains []string, all bool) error {
	it := lampItem{All: all}
	for _, chain := range chains {
		call := f.l.board.Call(chain)
		if all && len(call.Lamps) == 0 {
			continue // over since
		}
		it.Calls = append(it.Calls, call)
	}
	if err := writeLamps(c, it); err != nil {
		return err
	}
	t := time.NewTimer(ackWait)
	defer t.Stop()
	select {
	case err := <-acks:
		if err == nil {
			f.l.reached(f.other)
		}
		return err
	case <-f.ctx.Done():
		return f.ctx.Err()
	case <-t.C:
		return errors.New("no acknowledgement")
	}
}
