package labkit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
)

// A Sound is mono 16-bit audio.
type Sound struct {
	Rate    int // samples per second
	Samples []int16
}

// Seconds is how long it lasts.
func (s Sound) Seconds() float64 { return float64(len(s.Samples)) / float64(s.Rate) }

// Tone is a sine of hz at a quarter of full scale.
func Tone(rate, hz int, seconds float64) Sound {
	s := Sound{rate, make([]int16, int(seconds*float64(rate)))}
	for i := range s.Samples {
		s.Samples[i] = int16(8192 * math.Sin(2*math.Pi*float64(hz)*float64(i)/float64(rate)))
	}
	return s
}

// Level is the amplitude of a frequency in the sound, by Goertzel's algorithm
// (1958) over its whole length: a sine of amplitude A gives A, absence gives
// a value near 0.
func (s Sound) Level(hz int) float64 {
	if len(s.Samples) == 0 {
		return 0
	}
	w := 2 * math.Pi * float64(hz) / float64(s.Rate)
	c := 2 * math.Cos(w)
	var a, b float64
	for _, x := range s.Samples {
		a, b = float64(x)+c*a-b, a
	}
	power := a*a + b*b - c*a*b
	return 2 * math.Sqrt(max(power, 0)) / float64(len(s.Samples))
}

// Heard is for how many seconds a frequency was there: windows of 100 ms in
// which it has at least a tenth of full amplitude of Tone and outweighs other.
func (s Sound) Heard(hz int) float64 {
	win := s.Rate / 10
	n := 0
	for i := 0; i+win <= len(s.Samples); i += win {
		part := Sound{s.Rate, s.Samples[i : i+win]}
		if l := part.Level(hz); l > 800 && l > 0.5*part.rms()*math.Sqrt2 {
			n++
		}
	}
	return float64(n) / 10
}

func (s Sound) rms() float64 {
	var sum float64
	for _, x := range s.Samples {
		sum += float64(x) * float64(x)
	}
	return math.Sqrt(sum / float64(max(len(s.Samples), 1)))
}

// Last is the end of the sound.
func (s Sound) Last(seconds float64) Sound {
	return Sound{s.Rate, s.Samples[max(0, len(s.Samples)-int(seconds*float64(s.Rate))):]}
}

// WriteWAV writes the sound as RIFF/WAVE PCM.
func (s Sound) WriteWAV(path string) error {
	n := 2 * len(s.Samples)
	b := make([]byte, 0, 44+n)
	b = append(b, "RIFF"...)
	b = binary.LittleEndian.AppendUint32(b, uint32(36+n))
	b = append(b, "WAVEfmt "...)
	b = binary.LittleEndian.AppendUint32(b, 16)
	b = binary.LittleEndian.AppendUint16(b, 1) // PCM
	b = binary.LittleEndian.AppendUint16(b, 1)
	b = binary.LittleEndian.AppendUint32(b, uint32(s.Rate))
	b = binary.LittleEndian.AppendUint32(b, uint32(2*s.Rate))
	b = binary.LittleEndian.AppendUint16(b, 2)
	b = binary.LittleEndian.AppendUint16(b, 16)
	b = append(b, "data"...)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	for _, x := range s.Samples {
		b = binary.LittleEndian.AppendUint16(b, uint16(x))
	}
	return os.WriteFile(path, b, 0o644)
}

// ReadWAV reads mono 16-bit PCM. A file whose writer did not finish it, so
// that its data length is wrong, is read to its end.
func ReadWAV(path string) (Sound, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Sound{}, err
	}
	s, err := parseWAV(b)
	if err != nil {
		return Sound{}, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

func parseWAV(b []byte) (s Sound, err error) {
	if len(b) < 12 || string(b[:4]) != "RIFF" || string(b[8:12]) != "WAVE" {
		return s, errors.New("not a WAVE file")
	}
	for b = b[12:]; len(b) >= 8; {
		id, n := string(b[:4]), int(binary.LittleEndian.Uint32(b[4:8]))
		b = b[8:]
		if n > len(b) || id == "data" && n == 0 {
			n = len(b)
		}
		body := b[:n]
		switch id {
		case "fmt ":
			if n < 16 || body[0] != 1 || body[2] != 1 || body[14] != 16 {
				return s, errors.New("not mono 16-bit PCM")
			}
			s.Rate = int(binary.LittleEndian.Uint32(body[4:8]))
		case "data":
			if s.Rate == 0 {
				return s, errors.New("data before format")
			}
			for ; len(body) >= 2; body = body[2:] {
				s.Samples = append(s.Samples, int16(binary.LittleEndian.Uint16(body)))
			}
			return s, nil
		}
		b = b[min(len(b), n+n%2):]
	}
	return s, fmt.Errorf("no data: %w", io.ErrUnexpectedEOF)
}

// ReadULaw reads a WAVE file of G.711 mu-law at 8 kHz, as the product serves
// recordings.
func ReadULaw(b []byte) (Sound, error) {
	i := bytes.Index(b, []byte("data"))
	j := bytes.Index(b, []byte("fmt "))
	if len(b) < 12 || string(b[8:12]) != "WAVE" || j < 0 || i < 0 || i+8 > len(b) || j+10 > len(b) {
		return Sound{}, errors.New("not a WAVE file")
	}
	if format := binary.LittleEndian.Uint16(b[j+8:]); format != 7 {
		return Sound{}, fmt.Errorf("format %d, not mu-law", format)
	}
	s := Sound{Rate: 8000}
	for _, u := range b[i+8:] {
		s.Samples = append(s.Samples, ulaw(u))
	}
	return s, nil
}
