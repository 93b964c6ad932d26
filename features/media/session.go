package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtp"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/internal/site"
)

// Rate is the sample rate of everything a session plays and records.
const Rate = 8000

// A frame is 20 ms.
const (
	frame     = Rate / 50
	frameTime = 20 * time.Millisecond
)

// A Session is the feature's end of a leg: it implements features.Media on a
// port. Play, Record, Digit and SendKeys belong to one goroutine at a time.
type Session struct {
	p    *Port
	done chan struct{} // closed by end
	once sync.Once

	// owned by the goroutine that plays
	seq  uint16
	ts   uint32
	sent time.Time
	pcm  [frame]int16
	buf  [12 + frame]byte

	keys keyReader // owned by the port's reader

	mu      sync.Mutex
	pressed []rune
	keyed   chan struct{} // holds one token while pressed may not be empty

	rec atomic.Pointer[jitter] // nil while nothing is recorded
}

var _ features.Media = (*Session)(nil)

// Session is what a feature uses of this port: the same one at every call. A
// bridge takes the sound away from it until it ends.
func (p *Port) Session() *Session {
	p.e.topology.Lock()
	defer p.e.topology.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.session == nil {
		p.session = &Session{p: p, done: make(chan struct{}), keyed: make(chan struct{}, 1)}
		if p.closed {
			p.session.end()
		}
		if p.peer == nil {
			p.point()
		}
	}
	return p.session
}

func (s *Session) end() { s.once.Do(func() { close(s.done) }) }

// receive takes a packet from the port's reader; it never blocks.
func (s *Session) receive(f *flow, pkt *rtp.Packet, now time.Time) {
	if f.isKeys[pkt.PayloadType] {
		if key, ok := s.keys.read(pkt, now); ok {
			s.Press(key)
		}
		return
	}
	if j := s.rec.Load(); j != nil {
		if l := f.hears[pkt.PayloadType]; l != noLaw {
			j.push(pkt, l, now)
		}
	}
}

// Press is a key that came another way than RTP, by SIP INFO for example.
func (s *Session) Press(key rune) {
	s.mu.Lock()
	if len(s.pressed) < 64 {
		s.pressed = append(s.pressed, key)
	}
	s.mu.Unlock()
	select {
	case s.keyed <- struct{}{}:
	default:
	}
}

// waiting says whether a key waits to be read.
func (s *Session) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pressed) > 0
}

// Digit waits for one key: '0'–'9', '*', '#', 'A'–'D'. It ends with the cause
// of ctx, or net.ErrClosed when the leg is gone.
func (s *Session) Digit(ctx context.Context) (rune, error) {
	for {
		s.mu.Lock()
		if len(s.pressed) > 0 {
			key := s.pressed[0]
			s.pressed = s.pressed[1:]
			s.mu.Unlock()
			return key, nil
		}
		s.mu.Unlock()
		select {
		case <-s.keyed:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-s.done:
			return 0, net.ErrClosed
		}
	}
}

// Play sends src, one frame every 20 ms. See features.Media.
func (s *Session) Play(ctx context.Context, src features.Source, barge bool) error {
	f := s.p.flow.Load()
	if f == nil || f.law == noLaw {
		return fmt.Errorf("play: the other end speaks no G.711: %w", site.NotAcceptable)
	}
	next := s.p.e.cfg.Now()
	s.resume(next)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for first := true; ; first = false {
		n := 0
		for n < frame {
			m, err := src.ReadFrame(s.pcm[n:])
			if m < 0 || m > frame-n {
				return fmt.Errorf("play: a source gave %d of %d samples", m, frame-n)
			}
			n += m
			if errors.Is(err, io.EOF) {
				if n == 0 {
					return nil
				}
				break
			}
			if err != nil {
				return fmt.Errorf("play: %w", err)
			}
			if m == 0 {
				return fmt.Errorf("play: %w", io.ErrNoProgress)
			}
		}
		clear(s.pcm[n:])
		if err := s.pace(ctx, timer, next, barge); err != nil {
			return err
		}
		if f = s.p.flow.Load(); f.law != noLaw {
			s.say(f, first)
		}
		next = next.Add(frameTime)
		if late := s.p.e.cfg.Now().Sub(next); late > 100*time.Millisecond { // a stall: do not send a burst
			next = next.Add(late)
		}
	}
}

// pace waits until at, or for a reason to stop.
func (s *Session) pace(ctx context.Context, timer *time.Timer, at time.Time, barge bool) error {
	timer.Reset(at.Sub(s.p.e.cfg.Now()))
	for {
		if barge && s.waiting() {
			return features.ErrDigit
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.done:
			return net.ErrClosed
		case <-s.keyed:
			if barge {
				continue
			}
			// Kept in pressed; Digit looks there first.
		case <-timer.C:
			return nil
		}
	}
}

// resume moves the timestamp over the time in which nothing was sent.
func (s *Session) resume(now time.Time) {
	if s.sent.IsZero() {
		s.ts = 0
	} else if gap := now.Sub(s.sent) - frameTime; gap > 0 {
		s.ts += uint32(min(gap, time.Hour).Seconds() * Rate)
	}
}

// say sends the frame in pcm.
func (s *Session) say(f *flow, mark bool) {
	f.law.encode(s.buf[12:], s.pcm[:])
	s.send(f.lawPT, mark, s.buf[:], frame)
}

// send puts a head before a payload that starts at b[12].
func (s *Session) send(pt uint8, mark bool, b []byte, samples uint32) {
	h := rtp.Header{Version: 2, Marker: mark, PayloadType: pt, SequenceNumber: s.seq, Timestamp: s.ts}
	if _, err := h.MarshalTo(b); err != nil {
		return // cannot be: twelve bytes are there
	}
	now := s.p.e.cfg.Now()
	s.p.forward(b, pt, s, Rate, now)
	s.seq++
	s.ts += samples
	s.sent = now
}

// ErrNoKeys means that the other end did not agree to RFC 4733.
var ErrNoKeys = errors.New("the other end takes no telephone-event")

// SendKeys presses keys, each for the time given and a pause of 60 ms after it
// (RFC 4733 §2.5.1).
func (s *Session) SendKeys(ctx context.Context, keys string, each time.Duration) error {
	f := s.p.flow.Load()
	if f == nil || f.keysPT < 0 {
		return ErrNoKeys
	}
	pt := uint8(f.keysPT) // #nosec G115: below 128
	packets := max(2, int(min(each, 5*time.Second)/frameTime))
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := s.p.e.cfg.Now()
	var b [16]byte
	for _, key := range keys {
		event, ok := eventOf(key)
		if !ok {
			return fmt.Errorf("press %q: not a key of a telephone", key)
		}
		s.resume(next)
		for i := range packets + 2 { // the last of them is sent three times
			n := min(i+1, packets)
			ev := keyEvent{event: event, end: n == packets, volume: 10, duration: uint16(n * frame)} // #nosec G115: ≤ 40000
			ev.put(b[12:])
			if i < packets {
				if err := s.pace(ctx, timer, next, false); err != nil {
					return err
				}
				next = next.Add(frameTime)
			}
			s.send(pt, i == 0, b[:], 0)
		}
		s.ts += uint32(packets * frame) // #nosec G115: ≤ 40000
		if err := s.pace(ctx, timer, next.Add(60*time.Millisecond), false); err != nil {
			return err
		}
		next = s.p.e.cfg.Now()
	}
	return nil
}
