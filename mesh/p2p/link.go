package p2p

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"carrierclass.net/ccnode/mesh"
)

// The link: a head of [kind+flags 1][acknowledged][length], then the body. Each
// side counts the frames it has received, and says in the head of whatever it
// sends next how many came since it said so last; a head alone follows when
// nothing is sent within ackDelay. Quiet frames are not counted. Both numbers
// are LEB128 of 32 bits: a head takes three or four bytes.
const (
	frameUrgent = 1
	frameBulk   = 2
	frameAck    = 3
	frameQuiet  = 0x80

	headSize = 1 + 2*binary.MaxVarintLen32 // at most
	// ackDelay lets the answer above us carry the acknowledgement: it usually
	// comes after an fsync.
	ackDelay = 250 * time.Millisecond
	// calmDelay is longer than a kernel holds an acknowledgement back (200 ms on
	// Linux): after it, the kernel is asked to do so again.
	calmDelay = 400 * time.Millisecond
)

type link struct {
	m     *Mesh
	peer  *peer
	id    mesh.PeerID
	c     *conn
	ours  bool
	since time.Time
	why   error

	mu       sync.Mutex
	urgent   []mesh.Frame
	bulk     []mesh.Frame
	queued   int
	sent     uint32 // frames that want an acknowledgement
	inflight []flight
	bulkOut  int    // bytes of unacknowledged bulk
	got      uint32 // received frames that want one
	told     uint32 // what we acknowledged
	ackTimer *time.Timer
	calm     *time.Timer // nil: nothing came since patient
	wake     chan struct{}
	gone     chan struct{}
	once     sync.Once

	// While something is in flight, a timer looks whether it gets on.
	watch    *time.Timer // nil: nothing is in flight
	progress time.Time   // when an acknowledgement came, or the peer's kernel took bytes
	taken    int64       // bytes the peer's kernel had taken at the last look
	stalled  atomic.Bool // our own reader waits, acknowledgements with it
}

type flight struct {
	n     uint32
	size  int
	bulk  bool
	at    time.Time
	end   int64     // bytes of the connection up to its end; 0: not written yet
	there time.Time // when the peer's kernel was seen to have all of it
}

func newLink(m *Mesh, p *peer, c *conn, ours bool, now time.Time) *link {
	return &link{m: m, peer: p, id: p.ID, c: c, ours: ours, since: now, wake: make(chan struct{}, 1), gone: make(chan struct{})}
}

// relayed says whether the link goes over another connection than its own.
func (l *link) relayed() bool { return l.c.relayed() }

// Close ends the connection; the reader and the writer end with it.
func (l *link) Close() error {
	l.once.Do(func() {
		close(l.gone)
		l.mu.Lock()
		if l.ackTimer != nil {
			l.ackTimer.Stop()
		}
		if l.watch != nil {
			l.watch.Stop()
		}
		if l.calm != nil {
			l.calm.Stop()
		}
		l.mu.Unlock()
		l.c.Close()
		l.m.disown(l)
	})
	return nil
}

// fail ends the link and reports it, if it is still the peer's link.
func (l *link) fail(why error) {
	l.m.mu.Lock()
	if l.peer.link == l {
		l.m.downLocked(l.peer, why)
	}
	l.m.mu.Unlock()
	l.Close()
}

func (l *link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *link) send(f mesh.Frame) {
	if len(f.Body) > mesh.MaxFrame {
		l.fail(fmt.Errorf("a frame of %d bytes, at most %d", len(f.Body), mesh.MaxFrame))
		return
	}
	l.mu.Lock()
	if l.queued+len(f.Body) > queueLimit {
		l.mu.Unlock()
		l.fail(errors.New("too much waits for this link"))
		return
	}
	l.queued += len(f.Body)
	if f.Class == mesh.Bulk {
		l.bulk = append(l.bulk, f)
	} else {
		l.urgent = append(l.urgent, f)
	}
	l.mu.Unlock()
	l.poke()
}

// next takes what is to be sent now: urgent first; bulk only while little of
// it is unacknowledged; else an acknowledgement that is due.
func (l *link) next() (head, body []byte, n uint32, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var f mesh.Frame
	kind := byte(0)
	switch {
	case len(l.urgent) > 0:
		f, l.urgent[0], l.urgent = l.urgent[0], mesh.Frame{}, l.urgent[1:]
		kind = frameUrgent
	case len(l.bulk) > 0 && l.bulkOut < bulkWindow:
		f, l.bulk[0], l.bulk = l.bulk[0], mesh.Frame{}, l.bulk[1:]
		kind = frameBulk
	case l.got != l.told && l.ackTimer == nil:
		kind = frameAck
	default:
		return nil, nil, 0, false
	}
	l.queued -= len(f.Body)
	if kind != frameAck && !f.Quiet {
		l.sent++
		n = l.sent
		l.inflight = append(l.inflight, flight{n: n, size: len(f.Body), bulk: kind == frameBulk, at: time.Now()})
		if kind == frameBulk {
			l.bulkOut += len(f.Body)
		}
		if l.watch == nil {
			l.progress = time.Now()
			l.taken, _ = l.c.raw.taken()
			l.watch = time.AfterFunc(l.lookEvery(), l.look)
		}
	}
	if f.Quiet {
		kind |= frameQuiet
	}
	head = appendHead(make([]byte, 0, headSize+len(f.Body)), kind, l.got-l.told, uint32(len(f.Body)))
	l.told = l.got
	if l.ackTimer != nil {
		l.ackTimer.Stop()
		l.ackTimer = nil
	}
	return head, f.Body, n, true
}

func (l *link) lookEvery() time.Duration { return l.m.cfg.AckTimeout / 12 }

// look ends the link when what is in flight does not get on: for the
// acknowledgement time the peer's kernel took nothing, or it has all of the
// oldest frame and the peer does not say so. What is between may keep bytes back,
// so a large frame has as much longer as it takes at 4 kB/s. A thin line that is
// shared with calls is slow and gets on; a dead one does not, however much is
// sent after it died.
func (l *link) look() {
	l.mu.Lock()
	if len(l.inflight) == 0 {
		l.watch = nil
		l.mu.Unlock()
		return
	}
	now, f := time.Now(), &l.inflight[0]
	allowed := l.m.cfg.AckTimeout + time.Duration(f.size)*time.Second/4096
	taken, known := l.c.raw.taken()
	switch {
	case l.stalled.Load(): // the acknowledgement may wait in our own socket
		l.progress, f.there = now, time.Time{}
	case !known: // over a relay we do not see the peer's kernel
		for _, more := range l.inflight[1:] {
			allowed += time.Duration(more.size) * time.Second / 4096
		}
	case f.end != 0 && taken >= f.end:
		if f.there.IsZero() {
			f.there = now
		}
		l.progress = f.there
	case taken > l.taken:
		l.progress = now
	}
	l.taken = taken
	if now.Sub(l.progress) < allowed {
		l.watch.Reset(l.lookEvery())
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	l.fail(mesh.ErrSilent)
}

// written notes where frame n ends in the connection.
func (l *link) written(n uint32) {
	end := l.c.raw.wrote.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.inflight) - 1; i >= 0; i-- {
		if l.inflight[i].n == n {
			l.inflight[i].end = end
			return
		}
	}
}

// together is how many bytes of small frames are written at once: one packet
// costs less than two.
const together = 1200

func (l *link) write() {
	var out []byte
	var ends []uint32 // the frames in it that want an acknowledgement
	for {
		head, body, n, ok := l.next()
		if ok {
			out = append(append(out, head...), body...)
			if n != 0 {
				ends = append(ends, n)
			}
			if len(out) < together {
				continue
			}
		}
		if len(out) == 0 {
			select {
			case <-l.wake:
				continue
			case <-l.gone:
				return
			}
		}
		// Whether frames get on is seen to by look; this is for the rest.
		l.c.SetWriteDeadline(time.Now().Add(giveUp*time.Millisecond + time.Duration(len(out))*time.Second/2048))
		if _, err := l.c.Write(out); err != nil {
			l.fail(fmt.Errorf("send to the peer: %w", err))
			return
		}
		for _, n := range ends {
			l.written(n)
		}
		if out = out[:0]; cap(out) > 64<<10 {
			out = nil
		}
		ends = ends[:0]
	}
}

func (l *link) read() {
	r := bufio.NewReaderSize(l.c, 4096)
	for {
		kind, acks, size, err := readHead(r)
		if err != nil {
			l.fail(closing(err))
			return
		}
		if size > mesh.MaxFrame {
			l.fail(fmt.Errorf("the peer announced a frame of %d bytes, at most %d", size, mesh.MaxFrame))
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			l.fail(closing(err))
			return
		}
		l.soothe()
		if err := l.acknowledged(acks); err != nil {
			l.fail(err)
			return
		}
		switch kind &^ frameQuiet {
		case frameUrgent, frameBulk:
			if kind&frameQuiet == 0 {
				l.owe()
			}
			if !l.received(body) {
				return
			}
		case frameAck:
			l.m.heard(l)
		default:
			l.fail(fmt.Errorf("the peer sent a frame of unknown kind %d", kind))
			return
		}
	}
}

// appendHead writes a head; acks is how many frames are acknowledged anew.
func appendHead(b []byte, kind byte, acks, size uint32) []byte {
	b = append(b, kind)
	b = binary.AppendUvarint(b, uint64(acks))
	return binary.AppendUvarint(b, uint64(size))
}

func readHead(r io.ByteReader) (kind byte, acks, size uint32, err error) {
	if kind, err = r.ReadByte(); err != nil {
		return 0, 0, 0, err
	}
	if acks, err = readUint32(r); err == nil {
		size, err = readUint32(r)
	}
	return kind, acks, size, err
}

func readUint32(r io.ByteReader) (uint32, error) {
	n, err := binary.ReadUvarint(r)
	if err == nil && n > math.MaxUint32 {
		err = fmt.Errorf("the peer sent %d as a number of 32 bits", n)
	}
	return uint32(n), err
}

func closing(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the peer closed the link")
	}
	return err
}

// acknowledged notes that the peer has received so many frames more.
func (l *link) acknowledged(more uint32) error {
	if more == 0 {
		return nil
	}
	l.mu.Lock()
	if int64(more) > int64(len(l.inflight)) {
		flying := len(l.inflight)
		l.mu.Unlock()
		return fmt.Errorf("the peer acknowledged %d frames of %d that are on their way", more, flying)
	}
	var rtt time.Duration
	for _, f := range l.inflight[:more] {
		if f.bulk {
			l.bulkOut -= f.size
		}
		rtt = time.Since(f.at)
	}
	l.inflight = l.inflight[more:]
	l.progress = time.Now()
	l.mu.Unlock()
	l.m.mu.Lock()
	l.peer.stats.RoundTrip = rtt
	l.m.mu.Unlock()
	l.poke()
	return nil
}

// owe notes that a frame came which wants an acknowledgement.
func (l *link) owe() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got++
	if l.ackTimer == nil {
		l.ackTimer = time.AfterFunc(ackDelay, func() {
			l.mu.Lock()
			l.ackTimer = nil
			l.mu.Unlock()
			l.poke()
		})
	}
}

// soothe makes the kernel patient again when the frames have stopped coming.
func (l *link) soothe() {
	c, ok := l.c.raw.Conn.(*net.TCPConn)
	if !ok {
		return // over a relay: its own
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.calm == nil {
		l.calm = time.AfterFunc(calmDelay, func() {
			l.mu.Lock()
			l.calm = nil
			l.mu.Unlock()
			patient(c)
		})
	}
}

// received hands a body on; it waits while the reader of the events is slow.
func (l *link) received(body []byte) bool {
	m := l.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for (len(m.queue) > 256 || m.queued > receivedLimit) && !m.closed && l.peer.link == l {
		l.stalled.Store(true)
		m.room.Wait()
	}
	l.stalled.Store(false)
	if l.peer.link != l || m.closed {
		return false
	}
	l.peer.stats.Heard = m.cfg.Now()
	m.post(mesh.Event{Kind: mesh.Received, Peer: l.id, Body: body}, nil)
	return true
}

func (m *Mesh) heard(l *link) {
	m.mu.Lock()
	l.peer.stats.Heard = m.cfg.Now()
	m.mu.Unlock()
}
