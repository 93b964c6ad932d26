package media

import (
	"bytes"
	"io"
	"math"
	"time"

	"carrierclass.net/ccnode/features"
)

// A Clip is a short piece of audio in memory, G.711 or PCM as it was read.
type Clip struct {
	f    Format
	data []byte
}

// ParseClip reads a whole WAV file.
func ParseClip(b []byte) (Clip, error) {
	r := bytes.NewReader(b)
	w, err := NewWAVReader(r)
	if err != nil {
		return Clip{}, err
	}
	data := b[len(b)-r.Len():]
	if !w.open {
		if w.left > int64(len(data)) {
			return Clip{}, io.ErrUnexpectedEOF
		}
		data = data[:w.left]
	}
	return Clip{f: w.f, data: data[:len(data)-len(data)%w.f.size()]}, nil
}

// Duration of the clip.
func (c Clip) Duration() time.Duration { return c.f.Length(int64(len(c.data)) + HeaderSize) }

// Source starts the clip from its beginning.
func (c Clip) Source() features.Source {
	return &WAVReader{r: bytes.NewReader(c.data), f: c.f, left: int64(len(c.data))}
}

// Sequence plays sources one after the other, without a gap.
func Sequence(sources ...features.Source) features.Source { return &sequence{sources} }

type sequence struct{ rest []features.Source }

func (s *sequence) ReadFrame(pcm []int16) (int, error) {
	for len(s.rest) > 0 {
		n, err := s.rest[0].ReadFrame(pcm)
		if err == io.EOF { //nolint:errorlint // sources give it bare
			s.rest = s.rest[1:]
			err = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.EOF
}

// Silence lasts for d.
func Silence(d time.Duration) features.Source { return &tone{left: samples(d)} }

// Tone is a sine of hz at level (1 is full scale) for d, with 5 ms of slope at
// both ends so that it does not click.
func Tone(hz, level float64, d time.Duration) features.Source {
	n := samples(d)
	return &tone{step: 2 * math.Pi * hz / Rate, level: level * 32767, left: n, all: n}
}

// BusyTone is 425 Hz, half a second on and half a second off (ITU-T E.180),
// for d.
func BusyTone(d time.Duration) features.Source {
	var all []features.Source
	for ; d > 0; d -= time.Second {
		all = append(all, Tone(425, 0.2, min(d, time.Second/2)), Silence(max(0, min(d-time.Second/2, time.Second/2))))
	}
	return Sequence(all...)
}

// Congestion is 425 Hz, a quarter of a second on and a quarter off (ITU-T
// E.180: the call cannot be made as dialled), for d.
func Congestion(d time.Duration) features.Source {
	const half = time.Second / 4
	var all []features.Source
	for ; d > 0; d -= 2 * half {
		all = append(all, Tone(425, 0.2, min(d, half)), Silence(max(0, min(d-half, half))))
	}
	return Sequence(all...)
}

// RingBackTone is 425 Hz, one second on and four off (ITU-T E.180), for ever.
func RingBackTone() features.Source { return &rings{} }

type rings struct {
	now features.Source
	off bool
}

func (r *rings) ReadFrame(pcm []int16) (int, error) {
	for {
		if r.now == nil {
			r.now = Tone(425, 0.2, time.Second)
			if r.off {
				r.now = Silence(4 * time.Second)
			}
			r.off = !r.off
		}
		n, err := r.now.ReadFrame(pcm)
		if err == io.EOF { //nolint:errorlint // sources give it bare
			r.now = nil
			continue
		}
		return n, err
	}
}

type tone struct {
	step, level float64
	at          int64
	left, all   int64
}

func (t *tone) ReadFrame(pcm []int16) (int, error) {
	n := int(min(int64(len(pcm)), frame, t.left))
	if n == 0 {
		return 0, io.EOF
	}
	for i := range n {
		v := 0.0
		if t.step != 0 {
			edge := float64(min(t.at, t.all-1-t.at, 40)) / 40
			v = math.Sin(float64(t.at)*t.step) * t.level * edge
		}
		pcm[i] = int16(max(-32767, min(32767, v)))
		t.at++
	}
	t.left -= int64(n)
	return n, nil
}

// PCM plays samples.
func PCM(all []int16) features.Source { return &pcmSource{all} }

type pcmSource struct{ rest []int16 }

func (p *pcmSource) ReadFrame(pcm []int16) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(pcm[:min(len(pcm), frame)], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// ReadAll reads a source to its end, at most limit long.
func ReadAll(src features.Source, limit time.Duration) ([]int16, error) {
	var out []int16
	var pcm [frame]int16
	for int64(len(out)) < samples(limit) {
		n, err := src.ReadFrame(pcm[:])
		out = append(out, pcm[:n]...)
		if err == io.EOF { //nolint:errorlint // sources give it bare
			return out, nil
		}
		if err != nil {
			return out, err
		}
	}
	return out, nil
}
