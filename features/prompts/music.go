package prompts

import (
	"math"
	"sync"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/media"
)

// Music is what a caller hears while he is held: a small piece of our own in C
// that goes round every 20 seconds and never ends. It is nobody else's work, so
// nobody is owed for it. Each Source begins at the beginning; they share the
// samples, which are worked out once.
func Music() features.Source { return &music{} }

// The piece: eight bars of four at 96 beats a minute.
const (
	quaver   = media.Rate * 60 / 96 / 2
	bars     = 8
	musicLen = bars * 8 * quaver // 20 s
)

// A bar has a chord, whose notes go up and down in quavers, and a tune above
// it, "pitch@quaver". Pitches are MIDI numbers: 60 is C in the middle of a piano.
var piece = [bars]struct {
	chord [4]int
	tune  []note
}{
	{[4]int{48, 60, 64, 67}, []note{{76, 0, 4}, {79, 4, 4}}},                                     // C
	{[4]int{45, 60, 64, 69}, []note{{77, 0, 2}, {76, 2, 2}, {72, 4, 4}}},                         // A minor
	{[4]int{53, 60, 65, 69}, []note{{69, 0, 3}, {72, 3, 1}, {77, 4, 4}}},                         // F
	{[4]int{55, 62, 65, 71}, []note{{76, 0, 2}, {74, 2, 6}}},                                     // G seventh
	{[4]int{48, 60, 64, 67}, []note{{72, 0, 2}, {76, 2, 2}, {79, 4, 4}}},                         // C
	{[4]int{52, 59, 64, 67}, []note{{83, 0, 3}, {81, 3, 1}, {79, 4, 4}}},                         // E minor
	{[4]int{50, 62, 65, 69}, []note{{77, 0, 2}, {76, 2, 2}, {74, 4, 2}, {71, 6, 2}}},             // D minor
	{[4]int{55, 62, 65, 71}, []note{{74, 0, 2}, {71, 2, 2}, {67, 4, 2}, {71, 6, 1}, {74, 7, 1}}}, // G seventh, back to C
}

// figure is the order in which the notes of a chord are plucked.
var figure = [8]int{0, 1, 2, 3, 2, 3, 1, 2}

type note struct{ pitch, at, length int } // in quavers of its bar

// A voice is how notes sound: three partials, and how slowly they fade.
type voice struct {
	partials [3]int64 // weights; their sum is the loudness
	fade     uint     // the level falls by 2^−fade in 8 samples
}

var (
	pluck = voice{[3]int64{1700, 1000, 380}, 9}
	flute = voice{[3]int64{2800, 600, 200}, 11}
)

// All of it is whole numbers, so that every kind of machine plays the same.
var rendered = sync.OnceValue(func() []int16 {
	var sine [1024]int64
	for i := range sine {
		sine[i] = int64(math.Round(32767 * math.Sin(2*math.Pi*float64(i)/1024)))
	}
	mix := make([]int32, musicLen)
	for b, bar := range piece {
		for i, n := range figure {
			pluck.play(mix, sine[:], bar.chord[n], (b*8+i)*quaver, 5*quaver)
		}
		for _, n := range bar.tune {
			flute.play(mix, sine[:], n.pitch, (b*8+n.at)*quaver, n.length*quaver)
		}
	}
	out := make([]int16, len(mix))
	for i, v := range mix {
		out[i] = int16(max(-16000, min(16000, v))) // #nosec G115: bounded
	}
	return out
})

// play mixes one note in; what sounds beyond the end sounds at the beginning.
func (v voice) play(mix []int32, sine []int64, pitch, at, length int) {
	const slope, tail = 160, 400 // samples
	hz := 440 * math.Pow(2, float64(pitch-69)/12)
	step := uint32(math.Round(hz / media.Rate * (1 << 32)))
	level, phase := int64(1<<20), uint32(0)
	for i := range length + tail {
		if i%8 == 0 {
			level -= level >> v.fade
		}
		edge := int64(min(slope, i))
		if left := int64(length+tail-i) * slope / tail; left < edge {
			edge = left
		}
		s := int64(0)
		for k, weight := range v.partials {
			if step < 1<<31/uint32(k+1) { // #nosec G115: below 3; a partial above half the rate would fold back
				s += weight * sine[phase*uint32(k+1)>>22] // #nosec G115: the same
			}
		}
		mix[(at+i)%len(mix)] += int32(s / 32767 * level >> 20 * edge / slope) // #nosec G115: below 4000
		phase += step
	}
}

type music struct{ at int }

func (m *music) ReadFrame(pcm []int16) (int, error) {
	all := rendered()
	n := copy(pcm[:min(len(pcm), 160)], all[m.at:])
	m.at = (m.at + n) % len(all)
	return n, nil
}
