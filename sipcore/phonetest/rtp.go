package phonetest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"carrierclass.net/ccnode/sipcore/edge"
)

const (
	typeULaw  = 0   // RFC 3551 §6
	typeEvent = 101 // RFC 4733, when we offer
	kept      = 10 * rate
)

// An audio is the media endpoint of one call: it sends a tone every 20 ms and
// keeps the last seconds of what it hears.
type audio struct {
	// set when opened, then constant
	conn edge.PacketConn
	tone *atomic.Uint64 // of the phone; math.Float64bits of Hz
	now  func() time.Time
	ssrc uint32
	quit chan struct{}
	wg   sync.WaitGroup
	keys chan press

	sent, received atomic.Int64 // packets
	bad            atomic.Int64 // datagrams that are no RTP of this call

	mu     sync.Mutex
	remote netip.AddrPort // invalid: unknown
	event  uint8          // payload type of telephone-event there, 0: none
	send   bool
	hear   bool
	heard  []int16 // at most kept
	total  int64   // samples heard, with those forgotten
	more   chan struct{}
	digits []byte
}

// A press is one key to be sent.
type press struct {
	event byte
	done  chan struct{}
}

// openAudio binds a port of its own at local.
func openAudio(listen func(netip.AddrPort) (edge.PacketConn, error), local netip.Addr, tone *atomic.Uint64, now func() time.Time, rand io.Reader) (*audio, error) {
	if listen == nil {
		listen = func(at netip.AddrPort) (edge.PacketConn, error) {
			return net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		}
	}
	c, err := listen(netip.AddrPortFrom(local, 0))
	if err != nil {
		return nil, fmt.Errorf("open a media port at %s: %w", local, err)
	}
	var b [8]byte
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		c.Close()
		return nil, fmt.Errorf("read random bytes for RTP: %w", err)
	}
	a := &audio{conn: c, tone: tone, now: now, ssrc: binary.BigEndian.Uint32(b[:]), quit: make(chan struct{}), keys: make(chan press, 64), more: make(chan struct{})}
	a.wg.Go(a.receive)                                                                            // ends when conn closes
	a.wg.Go(func() { a.transmit(binary.BigEndian.Uint16(b[4:]), uint32(b[6])<<16|uint32(b[7])) }) // ends with quit
	return a, nil
}

func (a *audio) close() {
	close(a.quit)
	a.conn.Close()
	a.wg.Wait()
}

func (a *audio) port() int { return a.conn.LocalAddr().(*net.UDPAddr).Port }

// set says where to send and what is wanted.
func (a *audio) set(remote netip.AddrPort, event uint8, send, hear bool) {
	a.mu.Lock()
	a.remote, a.event, a.send, a.hear = remote, event, send, hear
	a.mu.Unlock()
}

// transmit sends a frame for each 20 ms that have passed.
func (a *audio) transmit(seq uint16, stamp uint32) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var g generator
	var pcm [frame]int16
	var packet [12 + frame]byte
	packet[0] = 0x80
	binary.BigEndian.PutUint32(packet[8:], a.ssrc)
	next, talking := a.now(), false
	var key *press
	var keyStart uint32
	steps := 0 // of the key: 5 packets of its beginning, 3 of its end, 3 of pause
	for {
		select {
		case <-tick.C:
		case <-a.quit:
			return
		}
		now := a.now()
		if now.Sub(next) > time.Second { // the machine slept
			next = now
		}
		for ; !now.Before(next); next = next.Add(20 * time.Millisecond) {
			a.mu.Lock()
			to, event, on := a.remote, a.event, a.send
			a.mu.Unlock()
			binary.BigEndian.PutUint32(packet[4:], stamp)
			if key == nil {
				select {
				case k := <-a.keys:
					key, keyStart, steps = &k, stamp, 0
				default:
				}
			}
			stamp += frame
			if key != nil {
				if on && event != 0 && to.IsValid() && steps < 8 {
					a.keyPacket(packet[:16], to, seq, keyStart, event, key.event, steps)
					seq++
				}
				if steps++; steps == 11 {
					close(key.done)
					key, talking = nil, false
				}
				continue
			}
			if !on || !to.IsValid() {
				talking = false
				continue
			}
			g.fill(pcm[:], math.Float64frombits(a.tone.Load()))
			for i, s := range pcm {
				packet[12+i] = ulaw(s)
			}
			packet[1] = typeULaw
			if !talking {
				packet[1] |= 0x80 // RFC 3551 §4.1: a talk spurt begins
				talking = true
			}
			binary.BigEndian.PutUint16(packet[2:], seq)
			seq++
			if _, err := a.conn.WriteToUDPAddrPort(packet[:], to); err == nil {
				a.sent.Add(1)
			}
		}
	}
}

// keyPacket sends one packet of a key (RFC 4733 §2.3, §2.5.1.3): the end is said
// three times.
func (a *audio) keyPacket(b []byte, to netip.AddrPort, seq uint16, start uint32, typ, event byte, step int) {
	b[1] = typ
	if step == 0 {
		b[1] |= 0x80
	}
	binary.BigEndian.PutUint16(b[2:], seq)
	binary.BigEndian.PutUint32(b[4:], start)
	b[12], b[13] = event, 10 // −10 dBm0
	if step >= 5 {
		b[13] |= 0x80
	}
	binary.BigEndian.PutUint16(b[14:], uint16(min(step+1, 5)*frame))
	if _, err := a.conn.WriteToUDPAddrPort(b, to); err == nil {
		a.sent.Add(1)
	}
}

// receive reads until the socket closes.
func (a *audio) receive() {
	b := make([]byte, 2048)
	var seq uint16
	var source, lastKey uint32
	known, keyed := false, false
	for {
		n, _, err := a.conn.ReadFromUDPAddrPort(b)
		if err != nil {
			select {
			case <-a.quit:
				return
			default:
				if ne, ok := err.(net.Error); ok && !ne.Timeout() {
					continue // an ICMP error of something we sent
				}
				return
			}
		}
		typ, payload, ok := parseRTP(b[:n])
		if !ok {
			a.bad.Add(1)
			continue
		}
		s, stamp, ssrc := binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
		if known && ssrc == source && int16(s-seq) <= 0 {
			continue // late, or twice
		}
		lost := 0
		if known && ssrc == source {
			lost = int(s - seq - 1)
		}
		known, source, seq = true, ssrc, s
		a.received.Add(1)
		a.mu.Lock()
		switch {
		case typ == typeULaw:
			if lost < 50 {
				a.heard = append(a.heard, make([]int16, lost*frame)...)
				a.total += int64(lost * frame)
			}
			for _, u := range payload {
				a.heard = append(a.heard, linear(u))
			}
			a.total += int64(len(payload))
			if over := len(a.heard) - kept; over > kept {
				a.heard = append([]int16(nil), a.heard[over:]...)
			}
			close(a.more)
			a.more = make(chan struct{})
		case typ == a.event && a.event != 0 && len(payload) >= 4 && payload[0] < 16:
			if !keyed || stamp != lastKey {
				keyed, lastKey = true, stamp
				a.digits = append(a.digits, "0123456789*#ABCD"[payload[0]])
				close(a.more)
				a.more = make(chan struct{})
			}
		default:
			a.bad.Add(1)
		}
		a.mu.Unlock()
	}
}

// parseRTP checks the header (RFC 3550 §5.1) and finds the payload.
func parseRTP(b []byte) (typ uint8, payload []byte, ok bool) {
	if len(b) < 12 || b[0]>>6 != 2 {
		return 0, nil, false
	}
	at := 12 + 4*int(b[0]&0x0f)
	if b[0]&0x10 != 0 { // extension
		if len(b) < at+4 {
			return 0, nil, false
		}
		at += 4 + 4*int(binary.BigEndian.Uint16(b[at+2:]))
	}
	end := len(b)
	if b[0]&0x20 != 0 { // padding
		end -= int(b[len(b)-1])
	}
	if at > end {
		return 0, nil, false
	}
	return b[1] & 0x7f, b[at:end], true
}

// mark is a place in what is heard.
func (a *audio) mark() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.total
}

// since returns what was heard after mark, and a channel that is closed when
// there is more.
func (a *audio) since(mark int64) ([]int16, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := int(min(a.total-mark, int64(len(a.heard))))
	return append([]int16(nil), a.heard[len(a.heard)-n:]...), a.more
}

func (a *audio) keysHeard() (string, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return string(a.digits), a.more
}

// press sends one key and returns when its pause is over.
func (a *audio) press(ctx context.Context, event byte) error {
	k := press{event, make(chan struct{})}
	select {
	case a.keys <- k:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-a.quit:
		return errOver
	}
	select {
	case <-k.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-a.quit:
		return errOver
	}
}
