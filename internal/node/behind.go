package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
)

// A box behind a router that nobody forwards through can be reached only
// while its own connection to a relay is remembered by that router. It, and
// only it, keeps one such connection alive, at the longest interval that it has
// found to work (mesh.md §2; RFC 5382 promises 2 h 4 min, home routers keep less).
const (
	keepProtocol = "/ccnode/keep/1" // one byte there, one byte back

	keepFirst = 2 * time.Minute
	keepMost  = 2 * time.Hour
	keepAck   = 3 * time.Second
	keepRetry = 5 * time.Second // after a relay was lost, doubling to a minute
)

// keeper keeps the connection, and knows what it costs.
type keeper struct {
	n    *Node
	disk *disk.Bucket

	mu       sync.Mutex
	relay    site.NodeID // zero: none holds our connection
	interval time.Duration
	good     time.Duration // longest that worked
	tooLong  time.Duration // shortest that did not; 0: none yet
	sent     int64         // keep-alives since the start
}

// interval search: grow while it works; after a failure, stay at what worked.
func (k *keeper) worked(slept time.Duration) (next time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.good = max(k.good, slept)
	if next := min(slept*3/2, keepMost); k.interval == slept && (k.tooLong == 0 || next < k.tooLong) {
		k.interval = next
	}
	return k.interval
}

func (k *keeper) failed(slept time.Duration) (next time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.good > 0 && slept > k.good:
		k.interval, k.tooLong = k.good, slept // not tried again
	default: // what worked works no more: another router, or the relay went
		k.good, k.tooLong = 0, 0
		k.interval = max(k.interval/2, 15*time.Second)
	}
	return k.interval
}

const keyInterval = "keep"

func newKeeper(n *Node) *keeper {
	k := &keeper{n: n, disk: disk.NewBucket(n.store, "nat"), interval: keepFirst}
	if b, err := k.disk.Get(keyInterval); err == nil && len(b) == 8 {
		k.good = time.Duration(binary.BigEndian.Uint64(b))
		k.interval = max(k.good, 15*time.Second)
	}
	return k
}

func (k *keeper) save(ctx context.Context) {
	k.mu.Lock()
	good := k.good
	k.mu.Unlock()
	if err := k.disk.Put(ctx, keyInterval, binary.BigEndian.AppendUint64(nil, uint64(good))); err != nil && ctx.Err() == nil {
		k.n.log.Debug("The keep-alive interval was not stored", "err", err)
	}
}

// run keeps a connection to one relay until ctx ends.
func (k *keeper) run(ctx context.Context) {
	pause := keepRetry
	for ctx.Err() == nil {
		err := k.keep(ctx)
		k.mu.Lock()
		k.relay = site.NodeID{}
		k.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		if err == nil { // it was held for a while
			pause = keepRetry
			continue
		}
		k.n.log.Debug("No relay holds our connection", "err", err, "again", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Minute)
	}
}

// keep opens a stream to the first relay that can be reached and keeps it alive
// until it breaks. nil: it worked at first.
func (k *keeper) keep(ctx context.Context) error {
	var errs []error
	for _, g := range k.n.book.Members(site.ID{}) {
		id := g.Node()
		if g.Rights&trust.Relay == 0 || id == k.n.id.Node() || len(k.n.addrsOf(id)) == 0 {
			continue
		}
		s, err := k.n.mesh.OpenStream(ctx, mesh.PeerID(id), keepProtocol)
		if err == nil {
			err = echo(s)
		}
		if err != nil {
			k.n.reach.Note(id, err)
			errs = append(errs, fmt.Errorf("relay %s: %w", id, err))
			continue
		}
		k.n.reach.Note(id, nil)
		k.mu.Lock()
		k.relay = id
		wait := k.interval
		k.mu.Unlock()
		k.n.engine.Nudge([16]byte(id))
		k.hold(ctx, s, wait)
		return nil
	}
	if len(errs) == 0 {
		return errors.New("no member of the fleet that can be dialled carries for others")
	}
	return errors.Join(errs...)
}

func (k *keeper) hold(ctx context.Context, s mesh.Stream, wait time.Duration) {
	defer s.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		k.mu.Lock()
		k.sent++
		k.mu.Unlock()
		if err := echo(s); err != nil {
			k.failed(wait)
			k.save(ctx)
			return
		}
		wait = k.worked(wait)
		k.save(ctx)
	}
}

// echo sends one byte and waits for its return.
func echo(s mesh.Stream) error {
	s.SetDeadline(time.Now().Add(keepAck))
	defer s.SetDeadline(time.Time{})
	if _, err := s.Write([]byte{1}); err != nil {
		return err
	}
	var b [1]byte
	_, err := io.ReadFull(s, b[:])
	return err
}

// serveKeep is the relay's side.
func (n *Node) serveKeep(s mesh.Stream) {
	defer s.Close()
	_, _ = io.Copy(s, s)
}

// words say for status what it costs to be reachable.
func (k *keeper) words() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.relay.IsZero() {
		return "this box is behind a router and no relay holds a connection to it: other sites cannot call it until one does"
	}
	const each = 360 // bytes on the wire, there and back, acknowledgements included
	perHour := float64(time.Hour) / float64(k.interval) * each
	return fmt.Sprintf("reachable through relay %s: one keep-alive every %v, about %.0f bytes an hour; %d sent so far", k.n.nodeName(k.relay), k.interval.Round(time.Second), perHour, k.sent)
}
