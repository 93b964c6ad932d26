package media

// law is one of the two companding laws of ITU-T G.711.
type law uint8

const (
	noLaw law = iota
	muLaw
	aLaw
)

// Tables over all values: 256 to decode, 2^14 (µ) and 2^13 (A) to encode.
var (
	fromMu = tableMu()
	fromA  = tableA()
	toMu   = invert(&fromMu, 2)
	toA    = invert(&fromA, 3)
)

// tableMu is G.711 table 2: sign, three bits of segment, four of step, all
// inverted; 14 bits, here scaled to 16.
func tableMu() (t [256]int16) {
	for i := range t {
		c := ^uint8(i) // #nosec G115: below 256
		v := (int(c&15)<<3+132)<<(c>>4&7) - 132
		if c&0x80 != 0 {
			v = -v
		}
		t[i] = int16(v) // #nosec G115: ≤ 32124
	}
	return t
}

// tableA is G.711 table 1, even bits inverted; 13 bits, here scaled to 16.
func tableA() (t [256]int16) {
	for i := range t {
		c := uint8(i) ^ 0x55 // #nosec G115: below 256
		v := int(c&15)<<4 + 8
		if seg := c >> 4 & 7; seg > 0 {
			v = (v + 256) << (seg - 1)
		}
		if c&0x80 == 0 {
			v = -v
		}
		t[i] = int16(v) // #nosec G115: ≤ 32256
	}
	return t
}

// invert finds the nearest code of every value, in steps of 1<<shift.
func invert(decode *[256]int16, shift int) []uint8 {
	// Sort the codes by value (a counting pass over the 16-bit line), then walk.
	var at [1 << 16]int16
	for i := range at {
		at[i] = -1
	}
	for code := 255; code >= 0; code-- { // of two zeros, the positive: 0xFF
		if i := int(decode[code]) + 32768; at[i] < 0 {
			at[i] = int16(code) // #nosec G115: below 256
		}
	}
	var values, codes []int
	for i, c := range at {
		if c >= 0 {
			values, codes = append(values, i-32768), append(codes, int(c))
		}
	}
	out := make([]uint8, 1<<(16-shift))
	k := 0
	for i := range out {
		v := i<<shift - 32768 + 1<<(shift-1)
		for k+1 < len(values) && abs(values[k+1]-v) <= abs(values[k]-v) {
			k++
		}
		out[i] = uint8(codes[k]) // #nosec G115: below 256
	}
	return out
}

func abs(v int) int {
	if v < 0 {
		return -v
	}
	return v
}

// encode turns 16-bit samples into G.711; dst is as long as pcm.
func (l law) encode(dst []byte, pcm []int16) {
	if l == aLaw {
		for i, s := range pcm {
			dst[i] = toA[(int(s)+32768)>>3]
		}
		return
	}
	for i, s := range pcm {
		dst[i] = toMu[(int(s)+32768)>>2]
	}
}

// decode turns G.711 into 16-bit samples; dst is as long as b.
func (l law) decode(dst []int16, b []byte) {
	t := &fromMu
	if l == aLaw {
		t = &fromA
	}
	for i, c := range b {
		dst[i] = t[c]
	}
}
