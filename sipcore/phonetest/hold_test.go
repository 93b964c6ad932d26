package phonetest

import (
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

func TestWhatIsHeardOnHold(t *testing.T) {
	t.Parallel()
	_, _, out, in := pair(t, site.UDP)
	ctx := within(t, 15*time.Second)
	const d = 400 * time.Millisecond
	ok(t, out.Hears(ctx, 1000))
	if s := out.Listen(d); s.Packets < 10 || s.Tone < 990 || s.Tone > 1010 || out.Held() || in.Held() {
		t.Errorf("in the call: %+v", s)
	}
	ok(t, out.Hold(ctx))
	if !in.Held() || out.Held() {
		t.Errorf("held: %v, holding: %v", in.Held(), out.Held())
	}
	ok(t, out.HearsSilence(ctx, 100*time.Millisecond)) // what was on its way has come
	ok(t, out.HoldInactive(ctx))
	if s := out.Listen(d); s != (Sound{}) {
		t.Errorf("inactive: %+v", s)
	}
	ok(t, out.Resume(ctx))
	ok(t, in.Hears(ctx, 440))
	if s := in.Listen(d); s.Tone < 430 || s.Tone > 450 || in.Held() {
		t.Errorf("resumed: %+v", s)
	}
}
