package p2p

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"carrierclass.net/ccnode/mesh"
)

// The link: a head of [kind+flags 1][acknowledged 4][length 4], then the body.
// Each side counts the frames it has received and says so in the head of
// whatever it sends next; a head alone follows when nothing is sent within
// ackDelay. Quiet frames are not counted.
const (
	frameUrgent = 1
	frameBulk   = 2
	frameAck    = 3
	frameQuiet  = 0x80

	headSize = 9
	// ackDelay lets the answer above us carry the acknowledgement: it usually
	// comes after an fsync.
	ackDelay = 250 * time.Millisecond
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
	acked    uint32
	inflight []flight
	bulkOut  int    // bytes of unacknowledged bulk
	got      uint32 // received frames that want one
	told     uint32 // what we acknowledged
	ackTimer *time.Timer
	deadline *time.Timer
	wake     chan struct{}
	gone     chan struct{}
	once     sync.Once
}

type flight struct {
	n    uint32
	size int
	bulk bool
	at   time.Time
}

func newLink(m *Mesh, p *peer, c *conn, ours bool, now time.Time) *link {
	return &link{m: m, peer: p, id: p.ID, c: c, ours: ours, since: now, wake: make(chan struct{}, 1), gone: make(chan struct{})}
}

// Close ends the connection; the reader and the writer end with it.
func (l *link) Close() error {
	l.once.Do(func() {
		close(l.gone)
		l.mu.Lock()
		if l.ackTimer != nil {
			l.ackTimer.Stop()
		}
		if l.deadline != nil {
			l.deadline.Stop()
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
func (l *link) next() (head [headSize]byte, body []byte, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var f mesh.Frame
	kind := byte(0)
	switch {
	case len(l.urgent) > 0:
		f, l.urgent = l.urgent[0], l.urgent[1:]
		kind = frameUrgent
	case len(l.bulk) > 0 && l.bulkOut < bulkWindow:
		f, l.bulk = l.bulk[0], l.bulk[1:]
		kind = frameBulk
	case l.got != l.told && l.ackTimer == nil:
		kind = frameAck
	default:
		return head, nil, false
	}
	l.queued -= len(f.Body)
	if kind != frameAck && !f.Quiet {
		l.sent++
		l.inflight = append(l.inflight, flight{l.sent, len(f.Body), kind == frameBulk, time.Now()})
		if kind == frameBulk {
			l.bulkOut += len(f.Body)
		}
		l.arm()
	}
	if f.Quiet {
		kind |= frameQuiet
	}
	head[0] = kind
	binary.BigEndian.PutUint32(head[1:], l.got)
	binary.BigEndian.PutUint32(head[5:], uint32(len(f.Body)))
	l.told = l.got
	if l.ackTimer != nil {
		l.ackTimer.Stop()
		l.ackTimer = nil
	}
	return head, f.Body, true
}

// arm sets the deadline for what is in flight: the acknowledgement time, and
// what the bytes take on a thin line. mu is held.
func (l *link) arm() {
	if l.deadline != nil {
		l.deadline.Stop()
		l.deadline = nil
	}
	if len(l.inflight) == 0 {
		return
	}
	size := 0
	for _, f := range l.inflight {
		size += f.size
	}
	l.deadline = time.AfterFunc(l.m.cfg.AckTimeout+time.Duration(size)*time.Second/4096, func() { l.fail(mesh.ErrSilent) })
}

func (l *link) write() {
	for {
		head, body, ok := l.next()
		if !ok {
			select {
			case <-l.wake:
				continue
			case <-l.gone:
				return
			}
		}
		l.c.SetWriteDeadline(time.Now().Add(giveUp * time.Millisecond))
		if _, err := l.c.Write(append(head[:], body...)); err != nil {
			l.fail(fmt.Errorf("send to the peer: %w", err))
			return
		}
	}
}

func (l *link) read() {
	r := bufio.NewReaderSize(l.c, 4096)
	for {
		var head [headSize]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			l.fail(closing(err))
			return
		}
		kind, ack, size := head[0], binary.BigEndian.Uint32(head[1:]), binary.BigEndian.Uint32(head[5:])
		if size > mesh.MaxFrame {
			l.fail(fmt.Errorf("the peer announced a frame of %d bytes, at most %d", size, mesh.MaxFrame))
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			l.fail(closing(err))
			return
		}
		l.acknowledged(ack)
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

func closing(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the peer closed the link")
	}
	return err
}

func (l *link) acknowledged(n uint32) {
	l.mu.Lock()
	var rtt time.Duration
	for len(l.inflight) > 0 && int32(n-l.inflight[0].n) >= 0 {
		f := l.inflight[0]
		l.inflight = l.inflight[1:]
		if f.bulk {
			l.bulkOut -= f.size
		}
		rtt = time.Since(f.at)
	}
	if rtt > 0 {
		l.acked = n
		l.arm()
	}
	l.mu.Unlock()
	if rtt > 0 {
		l.m.mu.Lock()
		l.peer.stats.RoundTrip = rtt
		l.m.mu.Unlock()
		l.poke()
	}
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

// received hands a body on; it waits while the reader of the events is slow.
func (l *link) received(body []byte) bool {
	m := l.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.queue) > 256 && !m.closed {
		m.room.Wait()
	}
	if l.peer.link != l || m.closed {
		return false
	}
	l.peer.stats.Heard = m.cfg.Now()
	m.post(mesh.Event{Kind: mesh.Received, Peer: l.id, Body: body})
	return true
}

func (m *Mesh) heard(l *link) {
	m.mu.Lock()
	l.peer.stats.Heard = m.cfg.Now()
	m.mu.Unlock()
}
