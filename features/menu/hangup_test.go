package menu

import (
	"context"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/internal/site"
)

// everything is a story that goes through all a menu does: greeting, recorded
// greeting, waiting, wrong keys, a menu within, an extension, a connection
// that fails, the fallback, a talk.
func everything(h *house, v *caller) {
	for _, keys := range []string{"7", "5", "*", "8", "66", "99#", "2"} {
		time.Sleep(2500 * time.Millisecond)
		if v.phone.Press(v.ctx, keys) != nil {
			return
		}
	}
}

func everywhere() []Menu {
	m := front()
	m.Open.Dial = true
	m.Open.Greeting = append(say("welcome"), Spoken{Blob: site.BlobRef{7}})
	return []Menu{m, {ID: id(51), Open: Page{Greeting: say("closed"), Keys: map[rune]Destination{'*': {Kind: Back}}}}}
}

// The caller hangs up, or the node stops, at any moment: the menu ends at
// once, and no goroutine (synctest), file or port (newHouse) is left.
func TestHangUpAtEveryMoment(t *testing.T) {
	reached := make(map[string]bool)
	for step := range 200 {
		at := time.Duration(step) * 330 * time.Millisecond
		in(t, func(h *house) {
			h.blobs[site.BlobRef{7}] = wav(1)
			v := h.dial(func(ctx context.Context, to features.Target) (features.Outcome, error) {
				if to.Feature != "" || to.Record == id(2) {
					return answered(ctx, to)
				}
				return refused(site.NoSuchNumber)(ctx, to)
			})
			gone := make(chan struct{})
			go func() { defer close(gone); everything(h, v) }()
			time.Sleep(at)
			before := time.Now()
			if step%2 == 0 {
				v.call.End(site.Normal)
			} else {
				v.stop()
			}
			_, by := v.ended()
			if d := time.Since(before); d > 40*time.Millisecond {
				h.Errorf("hung up after %v, the menu ended %v later", at, d)
			}
			if by && step%2 == 0 && len(v.call.Sent()) == 0 {
				h.Errorf("hung up after %v, but the menu hung up itself", at)
			}
			for _, to := range v.call.Sent() {
				reached[to.Extension+"/"+string(to.Feature)] = true
			}
			v.phone.Close()
			<-gone
		}, everywhere()...)
	}
	if len(reached) < 2 {
		t.Errorf("the story does not go far enough: %v", reached)
	}
}

// A call that cannot be sent on is refused before it is answered, and so is
// one to no menu.
func TestRefusedBeforeTheAnswer(t *testing.T) {
	in(t, func(h *house) {
		v := h.dial(nil)
		if err := <-v.done; err == nil || !strings.Contains(err.Error(), site.NoSuchNumber.Error()) {
			h.Error(err)
		}
		if v.call.Answered() {
			h.Error("answered")
		}
	})
	in(t, func(h *house) {
		a, err := New(h.cfg)
		h.must(err)
		v := h.dial(nil)
		plain := struct{ features.Call }{v.call}
		if err := a.ServeCall(h.Context(), plain); err == nil {
			h.Error("served")
		}
		v.call.End(site.Normal)
		v.ended()
	}, front())
}
