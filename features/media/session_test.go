package media_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/featurestest"
	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/site"
)

var here = netip.MustParseAddr("127.0.0.1")

// world is an engine and one answered call, in memory or on loopback.
type world struct {
	*testing.T
	engine *media.Engine
	phone  *featurestest.Phone
	call   *featurestest.Call
	m      *media.Session
}

func newWorld(t *testing.T, n *featurestest.Net, law string) *world {
	t.Helper()
	cfg := media.Config{Now: time.Now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler), Drain: 10 * time.Millisecond}
	if n != nil {
		cfg.Listen = n.Listen
	}
	e, err := media.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	listen := cfg.Listen
	if listen == nil {
		listen = featurestest.Loopback
	}
	phone, err := featurestest.NewPhone(listen, here, law)
	if err != nil {
		t.Fatal(err)
	}
	call, err := featurestest.NewCall(t.Context(), e, phone, here, site.Party{}, site.Party{}, "")
	if err != nil {
		t.Fatal(err)
	}
	m, err := call.Answer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t, e, phone, call, m.(*media.Session)}
	t.Cleanup(w.close)
	return w
}

func (w *world) close() {
	w.phone.Close()
	w.call.End(site.Normal)
	if err := w.engine.Close(); err != nil {
		w.Error(err)
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func pcm(b []byte) []int16 {
	out := make([]int16, len(b)/2)
	for i := range out {
		out[i] = int16(binary.LittleEndian.Uint16(b[2*i:]))
	}
	return out
}

// in runs a story in virtual time; everything in it must have ended with it.
func in(t *testing.T, n *featurestest.Net, law string, story func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, n, law)
		story(w)
	})
}

func TestPlayIsHeard(t *testing.T) {
	for _, law := range []string{"PCMU", "PCMA"} {
		in(t, &featurestest.Net{}, law, func(w *world) {
			began := time.Now()
			w.must(w.m.Play(w.Context(), media.Sequence(media.Tone(440, 0.5, time.Second), media.Silence(500*time.Millisecond), media.Tone(1000, 0.5, time.Second)), false))
			if d := time.Since(began); d < 2450*time.Millisecond || d > 2550*time.Millisecond {
				w.Errorf("2.5 s of sound took %v", d)
			}
			synctest.Wait()
			h := w.phone.Heard()
			if len(h) != 20000 {
				w.Errorf("%d samples heard, want 20000", len(h))
			}
			if !media.Hears(h[:8000], 440) || !media.Hears(h[12000:], 1000) || media.Hears(h[8000:12000], 440) {
				w.Error("the tones are not where they were played")
			}
			if a := media.Goertzel(h[:8000], 440); a < 0.48 || a > 0.52 {
				w.Errorf("amplitude %.3f, want 0.5", a)
			}
		})
	}
}

func TestKeysBargeInAndWait(t *testing.T) {
	in(t, &featurestest.Net{}, "PCMU", func(w *world) {
		go func() {
			time.Sleep(time.Second)
			w.must(w.phone.Press(w.Context(), "42#"))
		}()
		began := time.Now()
		err := w.m.Play(w.Context(), media.Silence(time.Minute), true)
		if !errors.Is(err, features.ErrDigit) || time.Since(began) > 1100*time.Millisecond {
			w.Errorf("%v after %v", err, time.Since(began))
		}
		for _, want := range "42#" {
			if got, err := w.m.Digit(w.Context()); got != want || err != nil {
				w.Errorf("key %q, %v, want %q", got, err, want)
			}
		}
		ctx, cancel := context.WithTimeout(w.Context(), 5*time.Second)
		defer cancel()
		if k, err := w.m.Digit(ctx); !errors.Is(err, context.DeadlineExceeded) {
			w.Errorf("one more key %q, %v", k, err)
		}
	})
}

func TestKeysSurviveLoss(t *testing.T) {
	for _, c := range []struct {
		name string
		lose func(n int) bool // n: packets of keys so far, 7 for each press
	}{
		{"start lost", func(n int) bool { return n%7 < 5 }},
		{"end lost", func(n int) bool { return n%7 >= 4 }},
		{"every second", func(n int) bool { return n%2 == 0 }},
		{"all but one", func(n int) bool { return n%7 != 3 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := 0
			net := &featurestest.Net{Lose: func(_, _ netip.AddrPort, b []byte) bool {
				if len(b) != 16 || b[1]&0x7F != 101 {
					return false
				}
				n++
				return c.lose(n - 1)
			}}
			in(t, net, "PCMU", func(w *world) {
				w.must(w.phone.Press(w.Context(), "1155*0#"))
				for _, want := range "1155*0#" {
					if got, err := w.m.Digit(w.Context()); got != want || err != nil {
						w.Fatalf("key %q, %v, want %q", got, err, want)
					}
				}
			})
		})
	}
}

func TestRecordKeepsLengthUnderLoss(t *testing.T) {
	n := 0
	net := &featurestest.Net{Lose: func(_, _ netip.AddrPort, b []byte) bool {
		if len(b) != 172 {
			return false
		}
		n++
		return n%5 == 0 || n > 200 && n < 300 // one in five, and two seconds at once
	}}
	in(t, net, "PCMA", func(w *world) {
		go func() { _ = w.phone.Speak(w.Context(), 600, 8*time.Second) }()
		var b bytes.Buffer
		ctx, cancel := context.WithTimeout(w.Context(), 8*time.Second)
		defer cancel()
		r, err := w.m.Record(ctx, &b, time.Minute, 0)
		if err != nil || r.Stopped != "hangup" {
			w.Fatalf("%+v, %v", r, err)
		}
		if d := r.Duration - 8*time.Second; d.Abs() > 100*time.Millisecond {
			w.Errorf("8 s became %v", r.Duration)
		}
		got := pcm(b.Bytes())
		if int64(len(got)) != int64(r.Duration)*8000/int64(time.Second) {
			w.Errorf("%d samples for %v", len(got), r.Duration)
		}
		if !media.Hears(got[8000:24000], 600) || media.Hears(got[34000:46000], 600) || !media.Hears(got[50000:62000], 600) {
			w.Error("the tone is not where it was spoken")
		}
	})
}

func TestRecordStops(t *testing.T) {
	in(t, &featurestest.Net{}, "PCMU", func(w *world) {
		var b bytes.Buffer
		go func() { _ = w.phone.Speak(w.Context(), 600, 30*time.Second) }()
		if r, err := w.m.Record(w.Context(), &b, 3*time.Second, 0); err != nil || r.Stopped != "limit" || r.Duration != 3*time.Second || b.Len() != 48000 {
			w.Errorf("limit: %+v, %v, %d bytes", r, err, b.Len())
		}
		time.Sleep(28 * time.Second) // the tone ends
		go func() { _ = w.phone.Speak(w.Context(), 600, 2*time.Second) }()
		if r, err := w.m.Record(w.Context(), &b, time.Minute, 4*time.Second); err != nil || r.Stopped != "silence" || (r.Duration-6*time.Second).Abs() > 300*time.Millisecond {
			w.Errorf("silence: %+v, %v", r, err)
		}
		go func() {
			time.Sleep(2 * time.Second)
			w.must(w.phone.Press(w.Context(), "7"))
		}()
		if r, err := w.m.Record(w.Context(), &b, time.Minute, 0); err != nil || r.Stopped != "digit" || (r.Duration-2*time.Second).Abs() > 100*time.Millisecond {
			w.Errorf("digit: %+v, %v", r, err)
		}
		if k, err := w.m.Digit(w.Context()); k != '7' || err != nil {
			w.Errorf("key %q, %v", k, err)
		}
		w.phone.Mute(true) // a phone that sends nothing in silence
		if r, err := w.m.Record(w.Context(), &b, time.Minute, 4*time.Second); err != nil || r.Stopped != "silence" || r.Duration > 5*time.Second {
			w.Errorf("mute: %+v, %v", r, err)
		}
		full := errors.New("disk full")
		w.phone.Mute(false)
		if r, err := w.m.Record(w.Context(), writer(func([]byte) (int, error) { return 0, full }), time.Minute, 0); !errors.Is(err, full) || r.Stopped != "error" {
			w.Errorf("error: %+v, %v", r, err)
		}
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

func TestHangUpEndsEverything(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(w *world, ctx context.Context) error
	}{
		{"play", func(w *world, ctx context.Context) error { return w.m.Play(ctx, media.Silence(time.Hour), true) }},
		{"digit", func(w *world, ctx context.Context) error { _, err := w.m.Digit(ctx); return err }},
		{"record", func(w *world, ctx context.Context) error {
			r, err := w.m.Record(ctx, &bytes.Buffer{}, time.Hour, 0)
			if err == nil {
				err = errors.New(r.Stopped)
			}
			return err
		}},
	} {
		for _, how := range []string{"leg", "context"} {
			t.Run(c.name+" by "+how, func(t *testing.T) {
				in(t, &featurestest.Net{}, "PCMU", func(w *world) {
					ctx, cancel := context.WithCancelCause(w.Context())
					defer cancel(nil)
					ended := make(chan error, 1)
					go func() { ended <- c.do(w, ctx) }()
					time.Sleep(time.Second)
					select {
					case err := <-ended:
						w.Fatalf("it ended by itself: %v", err)
					default:
					}
					if how == "leg" {
						w.call.End(site.Normal)
					} else {
						cancel(site.Draining)
					}
					synctest.Wait()
					select {
					case err := <-ended:
						if err == nil || how == "context" && c.name != "record" && !errors.Is(err, site.Draining) {
							w.Errorf("ended with %v", err)
						}
					default:
						w.Fatal("it did not notice the end")
					}
				})
			})
		}
	}
}

func TestSendKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Two sessions speak to each other.
		n := &featurestest.Net{}
		e, err := media.New(media.Config{Now: time.Now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler), Listen: n.Listen})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = e.Close() }()
		a, err := e.NewPort(media.PortParams{Local: here})
		if err != nil {
			t.Fatal(err)
		}
		b, err := e.NewPort(media.PortParams{Local: here})
		if err != nil {
			t.Fatal(err)
		}
		offer, err := a.Local(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.SetRemote(offer); err != nil {
			t.Fatal(err)
		}
		answer, err := b.Local(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.SetRemote(answer); err != nil {
			t.Fatal(err)
		}
		to := b.Session()
		if err := a.Session().SendKeys(t.Context(), "0123456789*#ABCD", 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		for _, want := range "0123456789*#ABCD" {
			if got, err := to.Digit(t.Context()); got != want || err != nil {
				t.Errorf("key %q, %v, want %q", got, err, want)
			}
		}
		if err := a.Session().SendKeys(t.Context(), "x", time.Second); err == nil {
			t.Error("x was sent")
		}
	})
}

func TestPlayAndRecordOnRealSockets(t *testing.T) {
	w := newWorld(t, nil, "PCMU")
	go func() { _ = w.phone.Speak(w.Context(), 700, 2*time.Second) }()
	w.must(w.m.Play(w.Context(), media.Tone(440, 0.5, 500*time.Millisecond), false))
	var b bytes.Buffer
	r, err := w.m.Record(w.Context(), &b, time.Second, 0)
	if err != nil || r.Duration != time.Second || !media.Hears(pcm(b.Bytes())[1600:], 700) {
		t.Errorf("%+v, %v", r, err)
	}
	mark := 0
	w.must(w.phone.Await(w.Context(), &mark, featurestest.Tone(440)))
	if s := w.call.Port().Stats(); !s.Heard || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
}
