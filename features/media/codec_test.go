package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"github.com/pion/rtp"
	"github.com/zaf/g711"

	"carrierclass.net/ccnode/features"
)

// Ours against another implementation, over every value there is.
func TestG711AgainstAnother(t *testing.T) {
	for i := range 256 {
		if got, want := fromMu[i], g711.DecodeUlawFrame(uint8(i)); got != want {
			t.Errorf("µ %02x decodes to %d, want %d", i, got, want)
		}
		if got, want := fromA[i], g711.DecodeAlawFrame(uint8(i)); got != want {
			t.Errorf("A %02x decodes to %d, want %d", i, got, want)
		}
	}
	worse := 0
	for v := math.MinInt16; v <= math.MaxInt16; v++ {
		var b [1]byte
		s := []int16{int16(v)}
		for _, c := range []struct {
			l     law
			other uint8
			table *[256]int16
		}{{muLaw, g711.EncodeUlawFrame(int16(v)), &fromMu}, {aLaw, g711.EncodeAlawFrame(int16(v)), &fromA}} {
			c.l.encode(b[:], s)
			// Never further from the truth than a decision's half step of 4 in 65536.
			if abs(int(c.table[b[0]])-v) > abs(int(c.table[c.other])-v)+8 {
				worse++
			}
		}
	}
	if worse > 0 {
		t.Errorf("%d values are coded worse than by the other", worse)
	}
}

// What was decoded is encoded as it was: a recording of G.711 loses nothing.
func TestG711RoundTrip(t *testing.T) {
	for _, l := range []law{muLaw, aLaw} {
		for i := range 256 {
			var s [1]int16
			var b [1]byte
			l.decode(s[:], []byte{byte(i)})
			l.encode(b[:], s[:])
			if b[0] != byte(i) && (l != muLaw || i != 0x7F || b[0] != 0xFF) { // the two zeros of µ-law
				t.Errorf("law %d: %02x became %02x", l, i, b[0])
			}
		}
	}
}

func wavOf(t testing.TB, f Format, pcm []int16) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWAVWriter(&b, f)
	must(t, err)
	var raw []byte
	for _, s := range pcm {
		raw = binary.LittleEndian.AppendUint16(raw, uint16(s))
	}
	for len(raw) > 0 { // odd pieces
		n := min(7, len(raw))
		if _, err := w.Write(raw[:n]); err != nil {
			t.Fatal(err)
		}
		raw = raw[n:]
	}
	return b.Bytes()
}

func TestWAVRoundTrip(t *testing.T) {
	pcm, err := ReadAll(Tone(440, 0.5, time.Second), time.Minute)
	must(t, err)
	for _, f := range []Format{PCM16, ALaw, MuLaw} {
		b := wavOf(t, f, pcm)
		if f.Length(int64(len(b))) != time.Second {
			t.Errorf("format %d: %v", f, f.Length(int64(len(b))))
		}
		// As it grows, and with a true head.
		for _, file := range [][]byte{b, append(WAVHeader(f, int64(len(pcm))), b[HeaderSize:]...)} {
			r, err := NewWAVReader(iotest.OneByteReader(bytes.NewReader(file)))
			must(t, err)
			got, err := ReadAll(r, time.Minute)
			must(t, err)
			if len(got) != len(pcm) || !Hears(got, 440) {
				t.Errorf("format %d: %d samples of %d", f, len(got), len(pcm))
			}
			c, err := ParseClip(file)
			must(t, err)
			if c.Duration() != time.Second {
				t.Errorf("clip of %v", c.Duration())
			}
		}
		r, err := NewWAVReader(bytes.NewReader(append(WAVHeader(f, int64(len(pcm))), b[HeaderSize:len(b)-100]...)))
		must(t, err)
		if _, err := ReadAll(r, time.Minute); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a file cut short: %v", err)
		}
	}
}

// Another program understands what we write.
func TestWAVAgainstSox(t *testing.T) {
	sox, err := exec.LookPath("sox")
	if err != nil {
		t.Skip("sox is not installed")
	}
	pcm, err := ReadAll(Tone(440, 0.5, time.Second), time.Minute)
	must(t, err)
	for _, f := range []Format{PCM16, ALaw, MuLaw} {
		b := wavOf(t, f, pcm)
		b = append(WAVHeader(f, int64(len(pcm))), b[HeaderSize:]...)
		name := filepath.Join(t.TempDir(), "x.wav")
		must(t, os.WriteFile(name, b, 0o600))
		out, err := exec.Command(sox, name, "-t", "wav", "-e", "signed-integer", "-b", "16", "-").Output()
		must(t, err)
		c, err := ParseClip(out)
		must(t, err)
		got, err := ReadAll(c.Source(), time.Minute)
		must(t, err)
		if len(got) != len(pcm) || !Hears(got, 440) {
			t.Errorf("format %d: sox read %d samples", f, len(got))
		}
	}
}

func TestWAVRefusals(t *testing.T) {
	good := wavOf(t, MuLaw, make([]int16, 100))
	edit := func(at int, with ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], with)
		return b
	}
	for name, b := range map[string][]byte{
		"empty": nil, "short": good[:20], "no data": good[:50], "RIFX": edit(0, []byte("RIFX")...), "AVI": edit(8, []byte("AVI ")...),
		"format": edit(20, 3), "stereo": edit(22, 2), "16 kHz": edit(24, 0x80, 0x3E), "bits": edit(34, 16),
		"fmt too long": edit(16, 99), "fact too long": edit(42, 0, 0, 0, 1), "two fmt": append(bytes.Clone(good[:38]), good[12:]...),
	} {
		if _, err := NewWAVReader(bytes.NewReader(b)); !errors.Is(err, ErrWAV) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewWAVWriter(io.Discard, 3); !errors.Is(err, ErrWAV) {
		t.Error(err)
	}
}

func TestSources(t *testing.T) {
	all, err := ReadAll(Sequence(Silence(0), Tone(440, 1, 30*time.Millisecond), PCM([]int16{1, 2, 3}), Silence(time.Millisecond)), time.Minute)
	if err != nil || len(all) != 240+3+8 || all[241] != 2 {
		t.Errorf("%d samples, %v", len(all), err)
	}
	boom := errors.New("boom")
	if _, err := ReadAll(Sequence(Silence(time.Second), failing{boom}), time.Minute); !errors.Is(err, boom) {
		t.Error(err)
	}
	if a := Goertzel(all[:0], 440); a != 0 || Hears(nil, 440) {
		t.Error("something is heard in nothing")
	}
	pure, _ := ReadAll(Tone(697, 0.25, time.Second), time.Minute)
	if a := Goertzel(pure, 697); math.Abs(a-0.25) > 0.01 || Goertzel(pure, 770) > 0.01 {
		t.Errorf("697 Hz: %.3f, 770 Hz: %.3f", a, Goertzel(pure, 770))
	}
}

func TestBusyTone(t *testing.T) {
	pcm, err := ReadAll(BusyTone(2300*time.Millisecond), time.Minute)
	if err != nil || len(pcm) != 2300*8 {
		t.Fatalf("%d samples, %v", len(pcm), err)
	}
	for i := range 4 {
		if part := pcm[i*4000 : (i+1)*4000]; Hears(part, 425) != (i%2 == 0) {
			t.Errorf("half second %d", i)
		}
	}
}

type failing struct{ err error }

func (f failing) ReadFrame([]int16) (int, error) { return 0, f.err }

var _ features.Source = failing{}

func key(ts uint32, event byte, end bool, duration uint16, mark bool) *rtp.Packet {
	var b [4]byte
	keyEvent{event: event, end: end, volume: 10, duration: duration}.put(b[:])
	return &rtp.Packet{Header: rtp.Header{SSRC: 1, Timestamp: ts, Marker: mark}, Payload: b[:]}
}

func TestKeysOfOddSenders(t *testing.T) {
	for _, c := range []struct {
		name    string
		packets []*rtp.Packet
		want    string
	}{
		{"one press", []*rtp.Packet{key(0, 5, false, 160, true), key(0, 5, false, 320, false), key(0, 5, true, 480, false), key(0, 5, true, 480, false), key(0, 5, true, 480, false)}, "5"},
		{"only an end", []*rtp.Packet{key(0, 5, true, 480, false)}, "5"},
		{"the same twice", []*rtp.Packet{key(0, 5, true, 480, false), key(1000, 5, false, 160, true)}, "55"},
		{"the same twice, ends and start lost", []*rtp.Packet{key(0, 5, false, 480, true), key(1000, 5, false, 320, false)}, "55"},
		{"an end after the next press", []*rtp.Packet{key(0, 5, false, 160, true), key(1000, 6, false, 160, true), key(0, 5, true, 480, false)}, "56"},
		{"longer than its field", []*rtp.Packet{key(0, 5, false, 0xFFFF, true), key(0xFFFF, 5, false, 160, false), key(0xFFFF, 5, true, 320, false)}, "5"},
		{"timestamps that run", []*rtp.Packet{key(0, 5, false, 160, true), key(160, 5, false, 320, false), key(320, 5, false, 480, false), key(320, 5, true, 640, false)}, "5"},
		{"flash and nonsense", []*rtp.Packet{key(0, 16, false, 160, true), {Payload: []byte{1, 2, 3}}, key(9, 15, true, 160, false)}, "D"},
		{"wrapped", []*rtp.Packet{key(math.MaxUint32-10, 1, true, 160, true), key(500, 2, true, 160, true)}, "12"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r keyReader
			got := ""
			for i, p := range c.packets {
				if k, ok := r.read(p, time.Unix(0, int64(i)*2e7)); ok {
					got += string(k)
				}
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
