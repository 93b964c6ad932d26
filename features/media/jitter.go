package media

import (
	"sync"
	"time"

	"github.com/pion/rtp"
)

// jitter puts packets back in order. The reader pushes; a recorder pops what
// it may wait no longer for. How long that is follows the jitter measured on
// the stream: four times its mean deviation, between 40 and 200 ms.
type jitter struct {
	mu      sync.Mutex
	queue   []*voice // by time
	free    []*voice
	lost    int // no room
	transit time.Duration
	mean    time.Duration
	has     bool
	began   time.Time
}

// voice is one packet of speech.
type voice struct {
	ssrc, ts uint32
	law      law
	at       time.Time
	data     []byte
}

const maxQueue = 512 // ten seconds: a disk may stall that long

func newJitter(now time.Time) *jitter { return &jitter{began: now} }

func (j *jitter) push(pkt *rtp.Packet, l law, now time.Time) {
	if len(pkt.Payload) == 0 || len(pkt.Payload) > 1600 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	transit := now.Sub(j.began) - time.Duration(pkt.Timestamp)*time.Second/Rate
	if d := (transit - j.transit).Abs(); j.has && d < time.Second {
		j.mean += (d - j.mean) / 16
	}
	j.transit, j.has = transit, true
	if len(j.queue) == maxQueue {
		j.lost++
		return
	}
	var v *voice
	if n := len(j.free); n > 0 {
		v, j.free = j.free[n-1], j.free[:n-1]
	} else {
		v = new(voice)
	}
	v.ssrc, v.ts, v.law, v.at = pkt.SSRC, pkt.Timestamp, l, now
	v.data = append(v.data[:0], pkt.Payload...)
	i := len(j.queue)
	for i > 0 && j.queue[i-1].ssrc == v.ssrc && int32(j.queue[i-1].ts-v.ts) > 0 { // #nosec G115: serial number arithmetic
		i--
	}
	j.queue = append(j.queue, nil)
	copy(j.queue[i+1:], j.queue[i:])
	j.queue[i] = v
}

// hold is how long a packet waits for those before it.
func (j *jitter) hold() time.Duration {
	return min(max(4*j.mean, 40*time.Millisecond), 200*time.Millisecond)
}

// pop hands the packets that are due to take, in order; take answers whether
// the packet follows what it had, and is asked again with due once it waited
// long enough.
func (j *jitter) pop(now time.Time, flush bool, take func(v *voice, due bool) bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	hold := j.hold()
	n := 0
	for n < len(j.queue) && take(j.queue[n], flush || now.Sub(j.queue[n].at) >= hold) {
		n++
	}
	j.free = append(j.free, j.queue[:n]...)
	j.queue = append(j.queue[:0], j.queue[n:]...)
}
