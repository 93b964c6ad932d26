package media

import (
	"encoding/binary"
	"strings"
	"time"

	"github.com/pion/rtp"
)

const keyNames = "0123456789*#ABCD"

// keyEvent is the payload of RFC 4733 §2.3.
type keyEvent struct {
	event    uint8
	end      bool
	volume   uint8
	duration uint16
}

func parseKey(b []byte) (k keyEvent, ok bool) {
	if len(b) < 4 {
		return k, false
	}
	return keyEvent{event: b[0], end: b[1]&0x80 != 0, volume: b[1] & 0x3F, duration: binary.BigEndian.Uint16(b[2:])}, true
}

func (k keyEvent) put(b []byte) {
	b[0], b[1] = k.event, k.volume&0x3F
	if k.end {
		b[1] |= 0x80
	}
	binary.BigEndian.PutUint16(b[2:], k.duration)
}

func eventOf(key rune) (uint8, bool) {
	i := strings.IndexRune(keyNames, key)
	return uint8(max(i, 0)), i >= 0 // #nosec G115: sixteen
}

// keyReader makes keys of events. All packets of one press have the same
// timestamp (RFC 4733 §2.2), so whichever of them arrives first is the press:
// the start may be lost, the end comes three times.
type keyReader struct {
	seen bool
	ssrc uint32
	ts   uint32
	last keyEvent
	at   time.Time
}

func (r *keyReader) read(pkt *rtp.Packet, now time.Time) (rune, bool) {
	k, ok := parseKey(pkt.Payload)
	if !ok || int(k.event) >= len(keyNames) {
		return 0, false
	}
	old := *r
	if old.seen && old.ssrc == pkt.SSRC {
		d := int32(pkt.Timestamp - old.ts) // #nosec G115: serial number arithmetic
		switch {
		case d == 0:
			r.last.end = r.last.end || k.end
			r.last.duration = max(r.last.duration, k.duration)
			r.at = now
			return 0, false
		case d < 0 && d > -10*Rate:
			return 0, false // a late copy of an earlier press
		}
		// Longer than the 16-bit duration: the next segment begins where this
		// one stopped (§2.5.1.3). And senders that count the timestamp up
		// inside one press: no mark, no end before, a duration that grows.
		same := k.event == old.last.event && !old.last.end && now.Sub(old.at) < 500*time.Millisecond
		if same && (uint32(d) == uint32(old.last.duration) && old.last.duration == 0xFFFF ||
			!pkt.Marker && k.duration > old.last.duration) {
			r.ts, r.last, r.at = pkt.Timestamp, k, now
			return 0, false
		}
	}
	*r = keyReader{seen: true, ssrc: pkt.SSRC, ts: pkt.Timestamp, last: k, at: now}
	return rune(keyNames[k.event]), true
}
