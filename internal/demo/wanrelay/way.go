package wanrelay

import (
	"context"
	"sync"
	"time"
)

// Figures of the imitated network.
const (
	tcpHeader = 40                     // IPv4 and TCP, RFC 9293 without options
	udpHeader = 28                     // IPv4 and UDP
	backlog   = 400 * time.Millisecond // of datagrams a slow line queues before it drops
	maxChunk  = 1400                   // octets of TCP payload carried as one packet
	minChunk  = 256
	mtu       = 9000 // octets of the longest datagram carried
)

// A Count is what one direction between two sites has carried since New:
// payload octets, without headers.
type Count struct {
	TCPBytes   int64
	TCPPackets int64 // pieces of at most 1400 octets
	TCPConns   int64 // connections opened, or tried
	UDPBytes   int64
	UDPPackets int64
	CutBytes   int64 // datagrams swallowed by a cut, their payload
	CutPackets int64
	Overflow   int64 // datagrams a shaped line had no room for
}

// Bytes is everything that was carried.
func (c Count) Bytes() int64 { return c.TCPBytes + c.UDPBytes }

// Minus is what happened between the older count o and c.
func (c Count) Minus(o Count) Count {
	return Count{
		c.TCPBytes - o.TCPBytes, c.TCPPackets - o.TCPPackets, c.TCPConns - o.TCPConns,
		c.UDPBytes - o.UDPBytes, c.UDPPackets - o.UDPPackets,
		c.CutBytes - o.CutBytes, c.CutPackets - o.CutPackets, c.Overflow - o.Overflow,
	}
}

// Plus adds two directions up.
func (c Count) Plus(o Count) Count { return c.Minus(Count{}.Minus(o)) }

// A way is one direction between two sites: a gate, a line with a rate and a
// length, and what went through.
type way struct {
	delay    time.Duration
	datagram chan datagram // from readUDP to carryUDP

	mu    sync.Mutex
	count Count
	kbit  int           // 0: as fast as the machine
	free  time.Time     // when the line has sent what it was given
	open  chan struct{} // closed while the way is open
	cut   bool
}

func newWay(delay time.Duration) *way {
	w := &way{delay: delay, datagram: make(chan datagram, 1024), open: make(chan struct{})}
	close(w.open)
	return w
}

func (w *way) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut == cut {
		return
	}
	w.cut = cut
	if cut {
		w.open = make(chan struct{})
	} else {
		close(w.open)
	}
}

func (w *way) setRate(kbit int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kbit, w.free = kbit, time.Time{}
}

// pass waits until the way is open.
func (w *way) pass(ctx context.Context) error {
	for {
		w.mu.Lock()
		open := w.open
		w.mu.Unlock()
		select {
		case <-open:
		case <-ctx.Done():
			return ctx.Err()
		}
		w.mu.Lock()
		cut := w.cut
		w.mu.Unlock()
		if !cut {
			return nil
		}
	}
}

func (w *way) isCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut
}

// reserve gives the instant at which n octets given to the line now have
// arrived at its other end. It is false when the line may refuse and has more
// than backlog to send already.
func (w *way) reserve(now time.Time, n int, mayRefuse bool) (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kbit == 0 {
		return now.Add(w.delay), true
	}
	if w.free.Before(now) {
		w.free = now
	}
	if mayRefuse && w.free.Sub(now) > backlog {
		return time.Time{}, false
	}
	// n octets at kbit·1000 bit/s take n·8/kbit milliseconds.
	w.free = w.free.Add(time.Duration(n) * 8 * time.Millisecond / time.Duration(w.kbit))
	return w.free.Add(w.delay), true
}

// chunk is how much of a stream is carried at once: 50 ms of the line, so
// that a stream does not make speech wait behind a long packet.
func (w *way) chunk() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kbit == 0 {
		return maxChunk
	}
	return min(max(w.kbit*1000/8/20, minChunk), maxChunk)
}

func (w *way) add(f func(*Count)) {
	w.mu.Lock()
	f(&w.count)
	w.mu.Unlock()
}

// Cut makes everything between the given sites and everybody else vanish,
// both ways, until Heal: Cut("b") makes b an island, Cut("b", "c") makes an
// island of two sites that still hear each other. Sites cut before stay cut.
func (r *Relay) Cut(sites ...string) {
	in := map[string]bool{}
	for _, s := range sites {
		in[s] = true
	}
	for d, w := range r.ways {
		if in[d.From] != in[d.To] {
			w.setCut(true)
		}
	}
	r.log.Info("WAN cut", "sites", sites)
}

// CutWay makes what one site says to another vanish; the other still gets
// through.
func (r *Relay) CutWay(from, to string) {
	if w := r.ways[Direction{from, to}]; w != nil {
		w.setCut(true)
	}
	r.log.Info("WAN cut one way", "from", from, "to", to)
}

// Heal opens every way again. TCP connections that were held go on.
func (r *Relay) Heal() {
	for _, w := range r.ways {
		w.setCut(false)
	}
	r.log.Info("WAN healed")
}

// Shape gives each direction between two sites this rate in kbit/s, headers
// included; 0 lifts it. Datagrams beyond 0.4 s of queue are dropped, streams
// are slowed.
func (r *Relay) Shape(kbit int) {
	for d, w := range r.ways {
		if d.From != d.To {
			w.setRate(max(kbit, 0))
		}
	}
}

// Counters tells what each direction between two different sites carried.
func (r *Relay) Counters() map[Direction]Count {
	out := map[Direction]Count{}
	for d, w := range r.ways {
		if d.From == d.To {
			continue
		}
		w.mu.Lock()
		out[d] = w.count
		w.mu.Unlock()
	}
	return out
}

// Total is the sum of Counters.
func (r *Relay) Total() (sum Count) {
	for _, c := range r.Counters() {
		sum = sum.Plus(c)
	}
	return sum
}
