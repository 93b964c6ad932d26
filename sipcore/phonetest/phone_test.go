package phonetest

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func phone(t *testing.T, cfg Config) *Phone {
	t.Helper()
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// call is the next call to p.
func call(t *testing.T, p *Phone) *Call {
	t.Helper()
	select {
	case c := <-p.Incoming():
		return c
	case <-time.After(5 * time.Second):
		t.Fatal("no call comes")
		return nil
	}
}

// pair is two phones, without any server, in a call.
func pair(t *testing.T, tr site.Transport) (ana, bob *Phone, out, in *Call) {
	t.Helper()
	ana = phone(t, Config{Name: `Ana "A"`, User: "201", Tone: 440, Transport: tr})
	bob = phone(t, Config{Name: "Bob", User: "202", Tone: 1000, Transport: tr})
	ctx := within(t, 5*time.Second)
	out, err := ana.DialStart(ctx, bob.URI())
	ok(t, err)
	in = call(t, bob)
	if user, name := in.Caller(); user != "201" || name != `Ana "A"` {
		t.Errorf("caller shown as %q %q", user, name)
	}
	ok(t, in.Ring())
	ok(t, out.WaitRinging(ctx))
	ok(t, in.Answer(ctx))
	ok(t, out.WaitAnswered(ctx))
	return
}

func TestTwoPhonesTalk(t *testing.T) {
	t.Parallel()
	for _, tr := range []site.Transport{site.UDP, site.TCP} {
		t.Run(string(tr), func(t *testing.T) {
			ana, bob, out, in := pair(t, tr)
			ctx := within(t, 10*time.Second)
			ok(t, out.Hears(ctx, 1000))
			ok(t, in.Hears(ctx, 440))
			short := within(t, 600*time.Millisecond)
			if err := in.Hears(short, 1000); err == nil {
				t.Error("heard a tone that nobody plays")
			}
			ok(t, out.Press(ctx, "1234#"))
			ok(t, in.WaitKeys(ctx, "1234#"))
			ana.Play(700)
			ok(t, in.Hears(ctx, 700))
			bob.Mute()
			ok(t, out.HearsSilence(ctx, 200*time.Millisecond))
			if part, rms := Share(in.Record(300*time.Millisecond), 700); part < 0.9 || rms < 5000 {
				t.Errorf("recording: %.2f of it at 700 Hz, level %.0f", part, rms)
			}
			ok(t, in.Hangup(ctx))
			<-out.Done()
			if e := out.Cause(); e.Here || e.Status != 0 || e.Err != nil {
				t.Errorf("ended: %+v", e)
			}
		})
	}
}

func TestHoldAndResume(t *testing.T) {
	t.Parallel()
	_, _, out, in := pair(t, site.UDP)
	ctx := within(t, 10*time.Second)
	ok(t, out.Hears(ctx, 1000))
	ok(t, out.Hold(ctx))
	ok(t, in.HearsSilence(ctx, 200*time.Millisecond))
	ok(t, out.HearsSilence(ctx, 200*time.Millisecond))
	ok(t, in.Hold(ctx)) // both
	ok(t, out.Resume(ctx))
	ok(t, in.HearsSilence(ctx, 200*time.Millisecond))
	ok(t, in.Resume(ctx))
	ok(t, in.Hears(ctx, 440))
	ok(t, out.Hears(ctx, 1000))
	ok(t, out.Hangup(ctx))
	<-in.Done()
}

func TestRefusedCancelledGivenUp(t *testing.T) {
	t.Parallel()
	ana := phone(t, Config{User: "201"})
	bob := phone(t, Config{User: "202"})
	ctx := within(t, 10*time.Second)

	go func() { in := <-bob.Incoming(); in.Reject(486) }()
	_, err := ana.Dial(ctx, bob.URI())
	var no *Refusal
	if !errors.As(err, &no) || no.Status != 486 {
		t.Fatalf("dialling a busy phone: %v", err)
	}

	out, err := ana.DialStart(ctx, bob.URI())
	ok(t, err)
	in := call(t, bob)
	ok(t, in.Ring())
	ok(t, out.WaitRinging(ctx))
	ok(t, out.Hangup(ctx))
	<-in.Done()
	if e := in.Cause(); e.Status != 487 || e.Here {
		t.Errorf("cancelled call ended: %+v", e)
	}
	if e := out.Cause(); e.Status != 487 || !e.Here {
		t.Errorf("the caller's end: %+v", e)
	}

	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if _, err = ana.Dial(short, bob.URI()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dialling who does not answer: %v", err)
	}
	in = call(t, bob)
	<-in.Done()

	if _, err := ana.Dial(ctx, "202"); err == nil || !strings.Contains(err.Error(), "no server") {
		t.Errorf("dialling without a server: %v", err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	ana, bob, out, in := pair(t, site.UDP)
	ok(t, out.Hears(within(t, 5*time.Second), 1000))
	ana.Close()
	<-out.Done()
	bob.Close()
	<-in.Done()
	ana.Close()
	if _, err := ana.Dial(t.Context(), bob.URI()); err == nil {
		t.Error("a closed phone dials")
	}
	deadline := time.Now().Add(2 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			b := make([]byte, 1<<16)
			t.Fatalf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), b[:runtime.Stack(b, true)])
		}
		runtime.Gosched()
	}
}

func TestMuLawIsG711(t *testing.T) {
	for u := range 256 {
		if got := ulaw(linear(byte(u))); got != byte(u) && u != 0x7f { // 0x7f is minus zero
			t.Errorf("0x%02x is %d is 0x%02x", u, linear(byte(u)), got)
		}
	}
	for _, c := range []struct {
		s int16
		u byte
	}{{0, 0xff}, {32767, 0x80}, {-32768, 0x00}, {1000, 0xce}, {-1000, 0x4e}} {
		if got := ulaw(c.s); got != c.u {
			t.Errorf("%d is 0x%02x, want 0x%02x", c.s, got, c.u)
		}
	}
}
