package voicemail

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/featurestest"
	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/internal/site"
)

var (
	here  = netip.MustParseAddr("127.0.0.1")
	alice = site.Party{AOR: site.AOR{User: "0017201", Domain: "f"}, Number: "201", Display: "Alice", User: site.RecordID{1}, Device: site.RecordID{0xA1}}
	bob   = site.Party{AOR: site.AOR{User: "0017202", Domain: "f"}, Number: "202", Display: "Bob", User: site.RecordID{2}, Device: site.RecordID{0xB1}, Site: site.ID{9}}
)

var set = func() *prompts.Set {
	s, err := prompts.English()
	if err != nil {
		panic(err)
	}
	return s
}()

// house is a node with voicemail, as much of it as voicemail sees.
type house struct {
	*testing.T
	net    *featurestest.Net // nil: loopback
	engine *media.Engine
	boxes  *memBoxes
	blobs  *memBlobs
	v      *Voicemail
	log    bytes.Buffer
}

func newHouse(t *testing.T, n *featurestest.Net) *house {
	t.Helper()
	h := &house{T: t, net: n, boxes: newBoxes(), blobs: newBlobs()}
	log := slog.New(slog.NewTextHandler(&h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	cfg := media.Config{Now: time.Now, Rand: rand.Reader, Logger: log, Drain: 10 * time.Millisecond}
	if n != nil {
		cfg.Listen = n.Listen
	}
	var err error
	if h.engine, err = media.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.engine.Close(); err != nil {
			t.Error(err)
		}
	})
	h.restart()
	h.boxes.numbers["202"], h.boxes.pins[bob.User] = bob.User, "4711"
	return h
}

// restart makes the process anew; boxes and blobs stay.
func (h *house) restart() {
	h.Helper()
	var err error
	h.v, err = New(Config{Mailboxes: h.boxes, Blobs: h.blobs, Prompts: set, Now: time.Now, Rand: rand.Reader,
		Logger: slog.New(slog.NewTextHandler(&h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		h.Fatal(err)
	}
}

func (h *house) must(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// visit is one call to a feature, seen from the caller's end.
type visit struct {
	*house
	phone *featurestest.Phone
	call  *featurestest.Call
	mark  int // how far into what was heard we are
	done  chan error
	ctx   context.Context
}

func (h *house) dial(name site.FeatureName, from, to site.Party, diverted string) *visit {
	h.Helper()
	listen := featurestest.Loopback
	if h.net != nil {
		listen = h.net.Listen
	}
	phone, err := featurestest.NewPhone(listen, here, "PCMU")
	h.must(err)
	call, err := featurestest.NewCall(h.Context(), h.engine, phone, here, from, to, diverted)
	h.must(err)
	ctx, cancel := context.WithTimeout(h.Context(), 5*time.Minute)
	h.Cleanup(cancel)
	v := &visit{house: h, phone: phone, call: call, done: make(chan error, 1), ctx: ctx}
	h.Cleanup(func() { call.End(site.Normal); phone.Close() })
	reg := features.Registry{Placement: func(site.FeatureName) site.Placement { return site.Placement{Kind: site.InProcess} }, Local: h.v.Features()}
	go func() { v.done <- reg.ServeCall(call.Context(), name, call) }()
	return v
}

// hear waits until all these prompts were spoken, one after the other.
func (v *visit) hear(names ...string) {
	v.Helper()
	for _, name := range names {
		clip, ok := set.Clip(name)
		if !ok {
			v.Fatalf("no prompt %q", name)
		}
		if err := v.phone.Await(v.ctx, &v.mark, featurestest.Spoken(clip)); err != nil {
			v.Fatalf("%q was not spoken: %v", name, err)
		}
	}
}

func (v *visit) tone(hz float64) {
	v.Helper()
	if err := v.phone.Await(v.ctx, &v.mark, featurestest.Tone(hz)); err != nil {
		v.Fatalf("no tone of %v Hz: %v", hz, err)
	}
}

func (v *visit) press(keys string) { v.Helper(); v.must(v.phone.Press(v.ctx, keys)) }

func (v *visit) speak(hz float64, d time.Duration) { v.Helper(); v.must(v.phone.Speak(v.ctx, hz, d)) }

// ended waits for the feature to return.
func (v *visit) ended() error {
	v.Helper()
	select {
	case err := <-v.done:
		return err
	case <-v.ctx.Done():
		v.Fatal("the feature did not end")
		return nil
	}
}

func (v *visit) hangUp(c site.Cause) error {
	v.Helper()
	v.call.End(c)
	return v.ended()
}

// in tells a story in virtual time.
func in(t *testing.T, tell func(h *house)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { tell(newHouse(t, &featurestest.Net{})) })
}

// leaveOne leaves bob a message of hz and d.
func (h *house) leaveOne(hz float64, d time.Duration) {
	h.Helper()
	v := h.dial(Leave, alice, bob, "no answer")
	v.hear("leave-message")
	v.tone(1000)
	v.speak(hz, d)
	h.must(v.hangUp(site.Normal))
}

// audio decodes what a message holds.
func (h *house) audio(m site.Message) []int16 {
	h.Helper()
	c, err := media.ParseClip(h.blobs.blobs[m.Audio])
	h.must(err)
	pcm, err := media.ReadAll(c.Source(), time.Hour)
	h.must(err)
	return pcm
}

// The same path over loopback, with the pauses of real time left out.
func TestLeaveAndListenOnRealSockets(t *testing.T) {
	h := newHouse(t, nil)
	v := h.dial(Leave, alice, bob, "busy")
	v.hear("greeting-busy")
	v.press("#")
	v.tone(1000)
	v.speak(440, 1800*time.Millisecond)
	h.must(v.hangUp(site.Normal))
	if m := h.boxes.only(t); !media.Hears(h.audio(m)[1600:12000], 440) || (m.Duration-1800*time.Millisecond).Abs() > 400*time.Millisecond {
		t.Errorf("%+v", m)
	}
	v = h.dial(Listen, bob, site.Party{}, "")
	v.press("4711#")
	v.hear("you-have", "1", "new-message", "message")
	v.tone(440)
	v.press("3")
	v.hear("deleted")
	h.must(v.hangUp(site.Normal))
	if len(h.boxes.Messages(bob.User)) != 0 {
		t.Error("the deleted message is still there")
	}
}

func TestLeaveThenListenThenDelete(t *testing.T) { in(t, story) }

func story(h *house) {
	began := time.Now()
	v := h.dial(Leave, alice, bob, "no answer")
	v.hear("greeting", "leave-message")
	v.tone(1000)
	v.speak(440, 3*time.Second)
	h.must(v.hangUp(site.Normal))
	if !v.call.Answered() {
		h.Error("not answered")
	}
	m := h.boxes.only(h.T)
	if m.Mailbox != bob.User || m.Site != bob.Site || m.From != "201" || m.FromName != "Alice" || m.CutOff || m.Heard || m.Folder != site.Inbox ||
		m.ID.IsZero() || m.At.Before(began) {
		h.Errorf("delivered %+v", m)
	}
	if (m.Duration-3*time.Second).Abs() > 300*time.Millisecond || m.Duration != media.MuLaw.Length(m.Size) {
		h.Errorf("3 s became %v in %d bytes", m.Duration, m.Size)
	}
	if pcm := h.audio(m); !media.Hears(pcm[4000:20000], 440) {
		h.Error("the message is not what was said")
	}
	if n := h.blobs.unfinished(); n != 0 {
		h.Errorf("%d recordings unfinished", n)
	}

	v = h.dial(Listen, bob, site.Party{}, "")
	v.hear("enter-pin")
	v.press("4711#")
	v.hear("you-have", "1", "new-message", "message", "1", "from", "2", "0", "1", "received", "at")
	v.tone(440)
	v.hear("message-keys")
	if m := h.boxes.only(h.T); !m.Heard {
		h.Error("heard to its end, and still new")
	}
	v.press("1")
	v.tone(440)
	v.press("3")
	v.hear("deleted", "no-more")
	v.press("*")
	v.hear("goodbye")
	h.must(v.ended())
	if c, ok := v.call.Ended(); !ok || c != site.Normal {
		h.Errorf("the feature ended the call with %v, %v", c, ok)
	}
	if len(h.boxes.Messages(bob.User)) != 0 {
		h.Error("the deleted message is still there")
	}
	if bytes.Contains(h.log.Bytes(), []byte("4711")) {
		h.Error("a PIN in the log")
	}
}

func TestWhyTheCallCame(t *testing.T) {
	for reason, want := range map[string]string{"": "greeting", "all": "greeting", "busy": "greeting-busy", "offline": "greeting-offline", "unreachable": "greeting-unreachable"} {
		in(t, func(h *house) {
			v := h.dial(Leave, alice, bob, reason)
			v.hear(want, "leave-message")
			h.must(v.hangUp(site.Normal))
		})
	}
}

func TestHowAMessageEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		do     func(v *visit)
		length time.Duration // 0: nothing is delivered
		cutoff bool
	}{
		{"hash", func(v *visit) { v.speak(500, 4*time.Second); v.press("#"); v.hear("message-saved", "goodbye") }, 4 * time.Second, false},
		{"other keys do not end it", func(v *visit) {
			v.speak(500, 2*time.Second)
			v.press("12*")
			v.speak(500, 2*time.Second)
			v.press("#")
			v.hear("message-saved")
		}, 4480 * time.Millisecond, false},
		{"silence", func(v *visit) { v.speak(500, 4*time.Second); v.hear("message-saved", "goodbye") }, 12 * time.Second, false},
		{"limit", func(v *visit) { v.speak(500, 181*time.Second); v.hear("message-limit", "message-saved") }, 3 * time.Minute, false},
		{"hang-up", func(v *visit) { v.speak(500, 4*time.Second); v.call.End(site.Normal) }, 4 * time.Second, false},
		{"node stops", func(v *visit) { v.speak(500, 4*time.Second); v.call.End(site.Draining) }, 4 * time.Second, true},
		{"line breaks", func(v *visit) { v.speak(500, 4*time.Second); v.call.End(site.MediaLost) }, 4 * time.Second, true},
		{"too short", func(v *visit) { v.speak(500, time.Second); v.press("#"); v.hear("too-short", "goodbye") }, 0, false},
		{"hang-up at once", func(v *visit) { v.speak(500, time.Second); v.call.End(site.Normal) }, 0, false},
		{"nothing said", func(v *visit) { v.hear("too-short") }, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(h *house) {
				v := h.dial(Leave, alice, bob, "busy")
				v.hear("leave-message")
				v.tone(1000)
				c.do(v)
				h.must(v.ended())
				if c.length == 0 {
					if n := len(h.boxes.messages); n != 0 {
						h.Errorf("%d messages delivered", n)
					}
				} else if m := h.boxes.only(h.T); (m.Duration-c.length).Abs() > 400*time.Millisecond || m.CutOff != c.cutoff {
					h.Errorf("%v, cut off %v; want %v, %v", m.Duration, m.CutOff, c.length, c.cutoff)
				}
				if n := h.blobs.unfinished(); n != 0 {
					h.Errorf("%d recordings left over", n)
				}
			})
		})
	}
}

func TestHangUpAtEveryMoment(t *testing.T) {
	// One call for each half second or so from before the greeting to after goodbye.
	for at := time.Duration(0); at < 14*time.Second; at += 450 * time.Millisecond {
		in(t, func(h *house) {
			v := h.dial(Leave, alice, bob, "")
			go func() {
				if v.phone.Await(v.ctx, &v.mark, featurestest.Tone(1000)) == nil && v.phone.Speak(v.ctx, 500, 3*time.Second) == nil {
					_ = v.phone.Press(v.ctx, "#")
				}
			}()
			time.Sleep(at)
			v.call.End(site.Normal)
			if err := v.ended(); err != nil && !errors.Is(err, site.Normal) {
				h.Errorf("hung up after %v: %v", at, err)
			}
			if h.blobs.unfinished() != 0 {
				h.Errorf("hung up after %v: a recording is left over", at)
			}
			for _, m := range h.boxes.messages {
				if m.Duration < 1500*time.Millisecond || m.Audio.IsZero() {
					h.Errorf("hung up after %v: delivered %+v", at, m)
				}
			}
		})
	}
}

func TestAKeySkipsTheGreeting(t *testing.T) {
	in(t, func(h *house) {
		v := h.dial(Leave, alice, bob, "")
		time.Sleep(500 * time.Millisecond)
		began := time.Now()
		v.press("##")
		v.tone(1000)
		if d := time.Since(began); d > 1500*time.Millisecond {
			h.Errorf("the tone came after %v", d)
		}
		v.speak(500, 3*time.Second)
		h.must(v.hangUp(site.Normal))
		h.boxes.only(h.T)
	})
}

func TestNoRoomForAMessage(t *testing.T) {
	in(t, func(h *house) {
		h.blobs.room = 0
		v := h.dial(Leave, alice, bob, "")
		v.hear("cannot-take", "goodbye")
		if err := v.ended(); !errors.Is(err, site.NodeFull) || !errors.Is(err, errFull) || v.call.Answered() {
			h.Errorf("%v, answered %v", err, v.call.Answered())
		}
	})
	in(t, func(h *house) { // full in the middle: what is on disk is delivered, as cut off
		h.blobs.room = 40000
		v := h.dial(Leave, alice, bob, "")
		v.hear("leave-message")
		v.tone(1000)
		v.speak(500, 8*time.Second)
		h.must(v.ended())
		if m := h.boxes.only(h.T); !m.CutOff || m.Size < 30000 || m.Size > 40000 {
			h.Errorf("%+v", m)
		}
	})
	in(t, func(h *house) { // the state does not take it: said, and tried again at the next start
		v := h.dial(Leave, alice, bob, "")
		v.hear("leave-message")
		v.tone(1000)
		v.speak(500, 4*time.Second)
		h.boxes.fail = errors.New("read only")
		v.press("#")
		v.hear("cannot-take")
		h.must(v.ended())
		h.boxes.fail = nil
		h.restart()
		if n, err := h.v.Recover(h.Context()); n != 1 || err != nil {
			h.Fatalf("%d recovered, %v", n, err)
		}
		h.boxes.only(h.T)
		if h.blobs.unfinished() != 0 {
			h.Error("still unfinished")
		}
	})
}

func TestAPowerCutLeavesAMessage(t *testing.T) {
	for _, c := range []struct {
		said time.Duration
		want int
	}{{5 * time.Second, 1}, {time.Second, 0}} {
		in(t, func(h *house) {
			v := h.dial(Leave, alice, bob, "")
			v.hear("leave-message")
			v.tone(1000)
			v.speak(500, c.said)
			// The power goes: what is in the blob store is all there is.
			kept := newBlobs()
			h.blobs.mu.Lock()
			for r := range h.blobs.open {
				kept.open[&memRecording{b: kept, note: bytes.Clone(r.note), data: bytes.Clone(r.data)}] = struct{}{}
			}
			h.blobs.mu.Unlock()
			other := newHouse(h.T, &featurestest.Net{})
			other.blobs = kept
			other.restart()
			n, err := other.v.Recover(h.Context())
			if n != c.want || err != nil {
				h.Fatalf("%d recovered, %v", n, err)
			}
			if kept.unfinished() != 0 {
				h.Error("still unfinished")
			}
			if n == 1 {
				m := other.boxes.only(h.T)
				if !m.CutOff || m.From != "201" || (m.Duration-c.said).Abs() > 500*time.Millisecond || !media.Hears(other.audio(m)[4000:30000], 500) {
					h.Errorf("recovered %+v", m)
				}
			}
			_ = v.hangUp(site.Normal)
		})
	}
}

func TestNoMailbox(t *testing.T) {
	in(t, func(h *house) {
		v := h.dial(Leave, alice, site.Party{AOR: site.AOR{User: "9", Domain: "f"}}, "")
		if err := v.ended(); !errors.Is(err, site.NoSuchNumber) {
			h.Error(err)
		}
	})
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("an empty configuration was taken")
	}
	if _, err := New(Config{Mailboxes: newBoxes(), Blobs: newBlobs(), Now: time.Now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler), Quiet: -1}); err == nil {
		t.Error("a negative duration was taken")
	}
}
