package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// A Format is how samples lie in a WAV file; always 8 kHz, one channel.
type Format uint16

// The numbers are those of the fmt chunk (RFC 2361).
const (
	PCM16 Format = 1
	ALaw  Format = 6
	MuLaw Format = 7
)

func (f Format) law() law {
	switch f {
	case ALaw:
		return aLaw
	case MuLaw:
		return muLaw
	}
	return noLaw
}

func (f Format) size() int {
	if f == PCM16 {
		return 2
	}
	return 1
}

func (f Format) valid() bool { return f == PCM16 || f == ALaw || f == MuLaw }

// HeaderSize is what WAVHeader makes: RIFF, fmt, fact and the head of data.
const HeaderSize = 58

// unknown length: the file goes on to its end. What streams write.
const endless = 0xFFFFFFFF

// ErrWAV means that a file is no WAV we play.
var ErrWAV = errors.New("not a WAV file of 8 kHz, one channel, PCM or G.711")

// WAVHeader makes the head of a file with that many samples; −1 if it is not
// known, as while a recording grows. To serve a finished recording, write a
// true head and then what follows the first HeaderSize bytes.
func WAVHeader(f Format, samples int64) []byte {
	data, riff, fact := uint32(endless), uint32(endless), uint32(endless)
	if n := samples * int64(f.size()); samples >= 0 && n < endless-HeaderSize-1 {
		data, fact = uint32(n), uint32(samples) // #nosec G115: checked
		riff = data + data&1 + HeaderSize - 8
	}
	le := binary.LittleEndian
	b := make([]byte, 0, HeaderSize)
	b = append(b, "RIFF"...)
	b = le.AppendUint32(b, riff)
	b = append(b, "WAVEfmt "...)
	b = le.AppendUint32(b, 18)
	b = le.AppendUint16(b, uint16(f))
	b = le.AppendUint16(b, 1)
	b = le.AppendUint32(b, Rate)
	b = le.AppendUint32(b, uint32(Rate*f.size())) // #nosec G115: 8000 or 16000
	b = le.AppendUint16(b, uint16(f.size()))      // #nosec G115: 1 or 2
	b = le.AppendUint16(b, uint16(8*f.size()))    // #nosec G115: 8 or 16
	b = le.AppendUint16(b, 0)
	b = append(b, "fact"...)
	b = le.AppendUint32(b, 4)
	b = le.AppendUint32(b, fact)
	b = append(b, "data"...)
	return le.AppendUint32(b, data)
}

// A WAVWriter turns 16-bit little-endian PCM into a WAV stream of its format.
type WAVWriter struct {
	w   io.Writer
	f   Format
	buf []byte
	odd []byte // half a sample
}

// NewWAVWriter writes a head of unknown length to w at once.
func NewWAVWriter(w io.Writer, f Format) (*WAVWriter, error) {
	if !f.valid() {
		return nil, fmt.Errorf("write WAV: format %d: %w", f, ErrWAV)
	}
	if _, err := w.Write(WAVHeader(f, -1)); err != nil {
		return nil, fmt.Errorf("write WAV: %w", err)
	}
	return &WAVWriter{w: w, f: f}, nil
}

// Write takes PCM. On an error of the writer below nothing more is written.
func (w *WAVWriter) Write(p []byte) (int, error) {
	n := len(p)
	if len(w.odd) == 1 && n > 0 {
		p = append(w.odd, p...)
	}
	w.odd = nil
	if len(p)%2 == 1 {
		w.odd = []byte{p[len(p)-1]}
		p = p[:len(p)-1]
	}
	w.buf = w.buf[:0]
	switch w.f.law() {
	case muLaw:
		for i := 0; i < len(p); i += 2 {
			w.buf = append(w.buf, toMu[(int(int16(binary.LittleEndian.Uint16(p[i:])))+32768)>>2]) // #nosec G115: the same bits
		}
	case aLaw:
		for i := 0; i < len(p); i += 2 {
			w.buf = append(w.buf, toA[(int(int16(binary.LittleEndian.Uint16(p[i:])))+32768)>>3]) // #nosec G115: the same bits
		}
	default:
		w.buf = append(w.buf, p...)
	}
	if _, err := w.w.Write(w.buf); err != nil {
		return 0, err
	}
	return n, nil
}

// A WAVReader is a Source that reads a WAV file as it comes.
type WAVReader struct {
	r    io.Reader
	f    Format
	left int64 // bytes of data, unless open
	open bool  // no length was given: to the end
	buf  [2 * frame]byte
}

// NewWAVReader reads the head of a file, strictly: 8 kHz, one channel, 16-bit
// PCM or G.711. Anything else gives ErrWAV.
func NewWAVReader(r io.Reader) (*WAVReader, error) {
	bad := func(format string, args ...any) (*WAVReader, error) {
		return nil, fmt.Errorf("read WAV: %s: %w", fmt.Sprintf(format, args...), ErrWAV)
	}
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return bad("%v", err)
	}
	if string(head[:4]) != "RIFF" || string(head[8:]) != "WAVE" {
		return bad("no RIFF/WAVE head")
	}
	w := &WAVReader{r: r}
	le := binary.LittleEndian
	for range 64 {
		if _, err := io.ReadFull(r, head[:8]); err != nil {
			return bad("no data chunk: %v", err)
		}
		size := le.Uint32(head[4:])
		switch string(head[:4]) {
		case "fmt ":
			var b [40]byte
			if w.f != 0 || size < 16 || int(size) > len(b) {
				return bad("fmt chunk of %d bytes", size)
			}
			if _, err := io.ReadFull(r, b[:size+size&1]); err != nil {
				return bad("%v", err)
			}
			w.f = Format(le.Uint16(b[:]))
			bits := le.Uint16(b[14:])
			if !w.f.valid() || le.Uint16(b[2:]) != 1 || le.Uint32(b[4:]) != Rate || int(bits) != 8*w.f.size() ||
				int(le.Uint16(b[12:])) != w.f.size() {
				return bad("format %d, %d channels, %d Hz, %d bits", w.f, le.Uint16(b[2:]), le.Uint32(b[4:]), bits)
			}
		case "data":
			if w.f == 0 {
				return bad("data before fmt")
			}
			w.left, w.open = int64(size), size == endless
			if !w.open && int(size)%w.f.size() != 0 {
				return bad("%d bytes of data are no whole samples", size)
			}
			return w, nil
		default:
			if size > 1<<20 {
				return bad("chunk %q of %d bytes", head[:4], size)
			}
			if _, err := io.CopyN(io.Discard, r, int64(size+size&1)); err != nil {
				return bad("%v", err)
			}
		}
	}
	return bad("no data chunk")
}

// Format of the file.
func (w *WAVReader) Format() Format { return w.f }

// ReadFrame reads up to 160 samples. A file shorter than it says ends with
// io.ErrUnexpectedEOF.
func (w *WAVReader) ReadFrame(pcm []int16) (int, error) {
	size := w.f.size()
	want := min(len(pcm), frame) * size
	if !w.open {
		want = int(min(int64(want), w.left))
	}
	if want == 0 {
		return 0, io.EOF
	}
	n, err := io.ReadFull(w.r, w.buf[:want])
	n -= n % size
	w.left -= int64(n)
	if l := w.f.law(); l != noLaw {
		l.decode(pcm, w.buf[:n])
	} else {
		for i := range n / 2 {
			pcm[i] = int16(binary.LittleEndian.Uint16(w.buf[2*i:])) // #nosec G115: the same bits
		}
	}
	switch {
	case err == nil:
		return n / size, nil
	case w.open && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
		return n / size, io.EOF
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n / size, err
}

// Length is how long audio of f lasts that takes that many bytes, head included.
func (f Format) Length(size int64) time.Duration {
	if size <= HeaderSize || !f.valid() {
		return 0
	}
	return time.Duration((size-HeaderSize)/int64(f.size())) * time.Second / Rate
}
