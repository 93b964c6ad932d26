package phonetest

import "math"

const (
	rate  = 8000 // samples a second
	frame = 160  // samples in 20 ms
)

// ulaw is one sample in G.711 µ-law (ITU-T G.711 table 2a): the sign, the
// position of the highest bit, and the four bits after it, all inverted.
func ulaw(s int16) byte {
	v, sign := int(s), byte(0)
	if v < 0 {
		v, sign = -v, 0x80
	}
	v = min(v, 32635) + 132
	exp := byte(7)
	for mask := 0x4000; exp > 0 && v&mask == 0; mask >>= 1 {
		exp--
	}
	return ^(sign | exp<<4 | byte(v>>(exp+3))&0x0f)
}

// linear is the sample that u stands for.
func linear(u byte) int16 {
	u = ^u
	v := (int(u&0x0f)<<3+132)<<(u>>4&7) - 132
	if u&0x80 != 0 {
		v = -v
	}
	return int16(v)
}

// share says how much of the power of the samples is at freq: 1 for a pure
// tone, about 2/len for noise (Goertzel, 1958). rms is their level.
func share(samples []int16, freq float64) (part, rms float64) {
	if len(samples) == 0 {
		return 0, 0
	}
	k := 2 * math.Cos(2*math.Pi*freq/rate)
	var s1, s2, power float64
	for _, x := range samples {
		v := float64(x)
		power += v * v
		s1, s2 = v+k*s1-s2, s1
	}
	if power == 0 {
		return 0, 0
	}
	n := float64(len(samples))
	at := s1*s1 + s2*s2 - k*s1*s2
	return at * 2 / (n * power), math.Sqrt(power / n)
}

const (
	loud = 300 // rms of what counts as audible; a phone's own tone has 5,600
	pure = 0.7 // share of the power that makes a tone
)

// has says whether the samples are the tone.
func has(samples []int16, freq float64) bool {
	part, rms := share(samples, freq)
	return rms >= loud && part >= pure
}

// A generator makes a tone without clicks when its frequency changes.
type generator struct{ phase float64 }

func (g *generator) fill(out []int16, freq float64) {
	for i := range out {
		if freq <= 0 {
			out[i] = 0
			continue
		}
		out[i] = int16(8000 * math.Sin(g.phase))
		if g.phase += 2 * math.Pi * freq / rate; g.phase > 2*math.Pi {
			g.phase -= 2 * math.Pi
		}
	}
}
