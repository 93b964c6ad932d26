package labkit

import (
	"math"
	"path/filepath"
	"testing"
)

func TestToneIsHeardAndNoOther(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tone.wav")
	if err := Tone(8000, 440, 2).WriteWAV(file); err != nil {
		t.Fatal(err)
	}
	s, err := ReadWAV(file)
	if err != nil || s.Rate != 8000 || s.Seconds() != 2 {
		t.Fatalf("read back %v s at %d Hz, %v", s.Seconds(), s.Rate, err)
	}
	if l := s.Level(440); math.Abs(l-8192) > 10 {
		t.Errorf("440 Hz has level %v, want its amplitude 8192", l)
	}
	if l := s.Level(1000); l > 10 {
		t.Errorf("1000 Hz has level %v in a tone of 440", l)
	}
	if h, o := s.Heard(440), s.Heard(1000); h != 2 || o != 0 {
		t.Errorf("heard %v s of 440 Hz and %v s of 1000 Hz", h, o)
	}
	silence := Sound{8000, make([]int16, 8000)}
	if h := silence.Heard(440); h != 0 {
		t.Errorf("heard %v s in silence", h)
	}
}

func TestReadWAVRefuses(t *testing.T) {
	for _, b := range []string{"", "RIFF", "RIFF....WAVE", "RIFF....WAVEdata\x02\x00\x00\x00ab", "RIFF....WAVEfmt \xff\xff\xff\xffx"} {
		if _, err := parseWAV([]byte(b)); err == nil {
			t.Errorf("%q was read as sound", b)
		}
	}
}
