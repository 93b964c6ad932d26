package prompts

import (
	"hash/crc32"
	"math"
	"testing"

	"carrierclass.net/ccnode/features/media"
)

func hear(t testing.TB, n, buf int) []int16 {
	t.Helper()
	src := Music()
	out := make([]int16, 0, n)
	pcm := make([]int16, buf)
	for len(out) < n {
		k, err := src.ReadFrame(pcm)
		if err != nil || k < 1 || k > 160 {
			t.Fatalf("%d samples, %v", k, err)
		}
		out = append(out, pcm[:k]...)
	}
	return out[:n]
}

func TestMusicGoesRound(t *testing.T) {
	twice := hear(t, 2*musicLen+100, 160)
	odd := hear(t, 2*musicLen+100, 77)
	for i, s := range twice {
		if s != odd[i] || i >= musicLen && s != twice[i-musicLen] {
			t.Fatalf("sample %d is %d, %d, %d", i, s, odd[i], twice[i%musicLen])
		}
	}
	if got := len(twice) / media.Rate; got != 40 {
		t.Errorf("twice lasts %d s", got)
	}
}

// Loud enough, never too loud, no hole, no click, also where it goes round.
func TestMusicIsPleasant(t *testing.T) {
	pcm := hear(t, musicLen+1, 160)
	peak, step, seam, sum := 0.0, 0.0, 0.0, 0.0
	for i := 1; i < len(pcm); i++ {
		d := math.Abs(float64(pcm[i]) - float64(pcm[i-1]))
		if i == musicLen {
			seam = d
		}
		peak, step, sum = max(peak, math.Abs(float64(pcm[i]))), max(step, d), sum+float64(pcm[i])
	}
	if peak < 4000 || peak > 12000 || seam > step/2 || step > 6000 || math.Abs(sum/musicLen) > 20 {
		t.Errorf("peak %v, greatest step %v, at the seam %v, mean %v", peak, step, seam, sum/musicLen)
	}
	for at := 0; at+4000 <= musicLen; at += 4000 {
		e := 0.0
		for _, s := range pcm[at : at+4000] {
			e += float64(s) * float64(s)
		}
		if rms := math.Sqrt(e / 4000); rms < 400 || rms > 4000 {
			t.Errorf("half second %d: %v", at/4000, rms)
		}
	}
	// The tune begins with an E, and no F is near.
	if e, f := media.Goertzel(pcm[2000:4000], 659.26), media.Goertzel(pcm[2000:4000], 698.46); e < 0.05 || e < 5*f {
		t.Errorf("E %v, F %v", e, f)
	}
}

// The same music on every machine.
func TestMusicIsTheSameEverywhere(t *testing.T) {
	var b []byte
	for _, s := range hear(t, musicLen, 160) {
		b = append(b, byte(s), byte(s>>8)) // #nosec G115: little endian
	}
	if got := crc32.ChecksumIEEE(b); got != musicSum {
		t.Errorf("%#x, want %#x: if the piece was changed on purpose, this is its new sum", got, uint32(musicSum))
	}
}

const musicSum = 0xebc16852

func BenchmarkMusicFrame(b *testing.B) {
	src := Music()
	var pcm [160]int16
	_, _ = src.ReadFrame(pcm[:])
	b.ReportAllocs()
	for b.Loop() {
		_, _ = src.ReadFrame(pcm[:])
	}
}
