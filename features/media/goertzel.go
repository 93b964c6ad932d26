package media

import "math"

// Goertzel is how much of hz is in pcm (8 kHz): the amplitude of that sine, 1
// being full scale (Goertzel 1958; one bin of a Fourier transform).
func Goertzel(pcm []int16, hz float64) float64 {
	if len(pcm) == 0 {
		return 0
	}
	k := 2 * math.Cos(2*math.Pi*hz/Rate)
	var a, b float64
	for _, s := range pcm {
		a, b = float64(s)+k*a-b, a
	}
	power := a*a + b*b - k*a*b
	return 2 * math.Sqrt(max(power, 0)) / float64(len(pcm)) / 32768
}

// Hears says whether a tone of hz makes up most of what is in pcm.
func Hears(pcm []int16, hz float64) bool {
	var sum float64
	for _, s := range pcm {
		sum += float64(s) * float64(s)
	}
	if len(pcm) == 0 {
		return false
	}
	// A sine of amplitude A has a mean square of A²/2.
	a := Goertzel(pcm, hz) * 32768
	return a > 300 && a*a/2 > 0.5*sum/float64(len(pcm))
}
