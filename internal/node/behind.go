package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"carrierclass.net/ccnode/internal/config"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
	"carrierclass.net/ccnode/mesh"
)

// A box behind a router that nobody forwards through can be reached only
// while its own connection to a relay is remembered by that router. It, and
// only it, keeps one such connection alive, at the longest interval that it has
// found to work (mesh.md §2; RFC 5382 promises 2 h 4 min, home routers keep less).
//
// The relay speaks: the box asks for a byte after a pause, and asks again when
// it came. A byte of the box's own would prove nothing: many routers take up a
// connection that they forgot with the box's next packet, and until then nobody
// reached it.
const (
	keepProtocol = "/ccnode/keep/2" // 4 bytes there: milliseconds; then one byte back

	keepAck   = 3 * time.Second
	keepRetry = 5 * time.Second // after a relay was lost, doubling to a minute
	// keepAlone is how many bytes above TCP one keep-alive takes at most: with
	// more, something else kept the connection alive meanwhile.
	keepAlone = 160
	// keepWire is what one costs on the wire, in bytes of IP both ways: the
	// relay's byte, our question, the acknowledgement of that (measured.md).
	keepWire = 225
	// keepSoon is how soon after a silence the relay must answer anew for it to
	// have been the router's.
	keepSoon = 20 * time.Second
)

// keeper keeps the connection, and knows what it costs.
type keeper struct {
	n    *Node
	disk *disk.Bucket

	mu       sync.Mutex
	relay    site.NodeID // zero: none holds our connection
	interval time.Duration
	good     time.Duration // longest that worked; 0: none yet
	tooLong  time.Duration // shortest that did not; 0: none yet
	came     int64         // keep-alives since the start

	// of run alone: a pause after which the relay was not heard
	doubt   time.Duration
	doubtAt time.Time
	doubted site.NodeID
}

// interval search: grow while it works; after a failure, stay at what worked.
func (k *keeper) worked(slept time.Duration) (next time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.good = max(k.good, slept)
	if next := min(slept*3/2, config.MaxKeep); k.interval == slept && (k.tooLong == 0 || next < k.tooLong) {
		k.interval = next
	}
	return k.interval
}

func (k *keeper) failed(slept time.Duration) (next time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tooLong = slept // not tried again
	if k.good > 0 && slept > k.good {
		k.interval = k.good
		return k.interval
	}
	// What worked works no more: another router.
	k.good = 0
	k.interval = max(slept/2, config.MinKeep)
	return k.interval
}

const keyInterval = "keep" // milliseconds that worked, and that did not; each 8 bytes

func newKeeper(n *Node) *keeper {
	k := &keeper{n: n, disk: disk.NewBucket(n.store, "nat"), interval: n.cfg.KeepFirst}
	if b, err := k.disk.Get(keyInterval); err == nil && len(b) == 16 {
		good, tooLong := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
		if most := uint64(config.MaxKeep.Milliseconds()); good > 0 && good <= most && tooLong <= most {
			k.good, k.tooLong = time.Duration(good)*time.Millisecond, time.Duration(tooLong)*time.Millisecond
			k.interval = k.good
		}
	}
	return k
}

func (k *keeper) save(ctx context.Context) {
	k.mu.Lock()
	b := binary.BigEndian.AppendUint64(nil, uint64(k.good.Milliseconds()))
	b = binary.BigEndian.AppendUint64(b, uint64(k.tooLong.Milliseconds()))
	k.mu.Unlock()
	if err := k.disk.Put(ctx, keyInterval, b); err != nil && ctx.Err() == nil {
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
		s, err := k.open(ctx, id)
		if err != nil && ctx.Err() == nil { // over a connection that is dead, which is now known
			s, err = k.open(ctx, id)
		}
		k.n.reach.Note(id, err)
		if err != nil {
			errs = append(errs, fmt.Errorf("relay %s: %w", id, err))
			continue
		}
		if k.doubt > 0 && k.doubted == id && time.Since(k.doubtAt) < keepSoon {
			k.failed(k.doubt) // the line and the relay are well: it was the router
			k.save(ctx)
		}
		k.doubt = 0
		k.mu.Lock()
		k.relay = id
		wait := k.interval
		k.mu.Unlock()
		k.n.engine.Nudge([16]byte(id))
		k.hold(ctx, s, id, wait)
		return nil
	}
	if len(errs) == 0 {
		return errors.New("no member of the fleet that can be dialled carries for others")
	}
	return errors.Join(errs...)
}

func (k *keeper) open(ctx context.Context, id site.NodeID) (mesh.Stream, error) {
	s, err := k.n.mesh.OpenStream(ctx, mesh.PeerID(id), keepProtocol)
	if err != nil {
		return nil, err
	}
	if err := heard(ctx, s, 0); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (k *keeper) hold(ctx context.Context, s mesh.Stream, id site.NodeID, wait time.Duration) {
	defer s.Close()
	for {
		before := k.n.mesh.Stats(mesh.PeerID(id))
		start := time.Now()
		err := heard(ctx, s, wait)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && time.Since(start) >= wait: // asked for, and not heard
			k.doubt, k.doubtAt, k.doubted = wait, time.Now(), id
			return
		case err != nil:
			return // it ended before: the relay's doing, or the line's
		}
		after := k.n.mesh.Stats(mesh.PeerID(id))
		k.mu.Lock()
		k.came++
		k.mu.Unlock()
		if after.In-before.In+after.Out-before.Out > keepAlone {
			continue
		}
		if next := k.worked(wait); next != wait {
			k.save(ctx)
			wait = next
		}
	}
}

// heard asks the relay for a byte after a pause, and waits for it.
func heard(ctx context.Context, s mesh.Stream, after time.Duration) error {
	defer context.AfterFunc(ctx, func() { s.Close() })()
	s.SetDeadline(time.Now().Add(after + keepAck))
	defer s.SetDeadline(time.Time{})
	if _, err := s.Write(binary.BigEndian.AppendUint32(nil, uint32(after.Milliseconds()))); err != nil {
		return err
	}
	var b [1]byte
	_, err := s.Read(b[:])
	return err
}

// serveKeep is the relay's side. Who asks can be reached now.
func (n *Node) serveKeep(s mesh.Stream) {
	defer s.Close()
	n.engine.Nudge([16]byte(s.Peer()))
	var ask [4]byte
	have := 0
	for { // ends with the stream, or with a question that no box of ours asks
		k, err := s.Read(ask[have:])
		if have += k; have == len(ask) {
			have = 0
			after := time.Duration(binary.BigEndian.Uint32(ask[:])) * time.Millisecond
			if after > config.MaxKeep {
				return
			}
			s.SetReadDeadline(time.Now().Add(after))
			if after == 0 {
				err = os.ErrDeadlineExceeded
			}
		}
		switch {
		case timedOut(err):
			s.SetReadDeadline(time.Time{})
			if _, err := s.Write([]byte{1}); err != nil {
				return
			}
		case err != nil:
			return
		}
	}
}

func timedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// words say for status what it costs to be reachable.
func (k *keeper) words() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.relay.IsZero() {
		return "this box is behind a router and no relay holds a connection to it: other sites cannot call it until one does"
	}
	found := "looking for the longest that works"
	if k.tooLong > 0 {
		found = fmt.Sprintf("%v is too long for the router", k.tooLong.Round(100*time.Millisecond))
	}
	perHour := float64(time.Hour) / float64(k.interval) * keepWire
	return fmt.Sprintf("reachable through relay %s: one keep-alive every %v (%s), about %.0f bytes an hour; %d so far", k.n.nodeName(k.relay), k.interval.Round(100*time.Millisecond), found, perHour, k.came)
}
