package labkit

import (
	"encoding/binary"
	"math"
	"time"
)

// A Said is a part of what SIPp's caller says: a tone, a key (RFC 4733, event
// type 101), or silence.
type Said struct {
	Hz  int
	Key byte // 0-9 * #
	For time.Duration
}

// Say is a capture file of RTP, G.711 mu-law in packets of 20 ms, that SIPp
// plays.
func Say(parts ...Said) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = binary.LittleEndian.AppendUint16(b, 2)
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = binary.LittleEndian.AppendUint32(b, 65535)
	b = binary.LittleEndian.AppendUint32(b, 1) // Ethernet
	seq, ts := uint16(1), uint32(0)
	packet := func(kind byte, stamp uint32, payload []byte) {
		rtp := []byte{0x80, kind}
		rtp = binary.BigEndian.AppendUint16(rtp, seq)
		rtp = binary.BigEndian.AppendUint32(rtp, stamp)
		rtp = binary.BigEndian.AppendUint32(rtp, 0x5199)
		rtp = append(rtp, payload...)
		seq++
		n := 14 + 20 + 8 + len(rtp)
		at := time.Duration(ts) * time.Second / 8000
		b = binary.LittleEndian.AppendUint32(b, uint32(at/time.Second))
		b = binary.LittleEndian.AppendUint32(b, uint32(at%time.Second/time.Microsecond))
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
		b = append(b, make([]byte, 12)...)
		b = append(b, 8, 0, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(n-14))
		b = append(b, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1)
		for _, x := range []int{6000, 6000, 8 + len(rtp), 0} {
			b = binary.BigEndian.AppendUint16(b, uint16(x))
		}
		b = append(b, rtp...)
	}
	for _, p := range parts {
		if p.Key != 0 {
			event, begun := keyEvent(p.Key), ts
			for i := range 8 { // 100 ms, the end three times
				end := byte(10)
				if i >= 5 {
					end |= 0x80
				}
				packet(101, begun, []byte{event, end, byte(min(i+1, 6) * 160 >> 8), byte(min(i+1, 6) * 160)})
				ts += 160
			}
			continue
		}
		for range p.For / (20 * time.Millisecond) {
			frame := make([]byte, 160)
			for i := range frame {
				x := 0.0
				if p.Hz != 0 {
					x = 8000 * math.Sin(2*math.Pi*float64(p.Hz)*float64(ts+uint32(i))/8000)
				}
				frame[i] = toULaw(int(x))
			}
			packet(0, ts, frame)
			ts += 160
		}
	}
	return b
}

func keyEvent(k byte) byte {
	switch k {
	case '*':
		return 10
	case '#':
		return 11
	}
	return k - '0'
}

func toULaw(x int) byte {
	sign := byte(0)
	if x < 0 {
		x, sign = -x, 0x80
	}
	x = min(x, 32635) + 132
	exp := 7
	for mask := 0x4000; exp > 0 && x&mask == 0; mask >>= 1 {
		exp--
	}
	return ^(sign | byte(exp<<4) | byte(x>>(exp+3)&15))
}

func ulaw(u byte) int16 {
	u = ^u
	x := (int(u&15)<<3+132)<<(u>>4&7) - 132
	if u&128 != 0 {
		x = -x
	}
	return int16(x)
}
