package announce

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/features/featurestest"
	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/internal/site"
)

// Every line of the table of calls: what is heard, by a phone, from a real port.
func TestWhatCallersHear(t *testing.T) {
	words, err := prompts.English()
	if err != nil {
		t.Fatal(err)
	}
	for cause, want := range map[site.Cause]string{
		site.NoSuchNumber: "not-in-service", site.NoAnswer: "no-answer", site.Offline: "no-answer", site.Unreachable: "greeting-unreachable",
		site.NoLine: "lines-busy", site.LineDown: "lines-busy", site.NodeFull: "lines-busy", site.Forbidden: "not-permitted", site.Incomplete: "tone",
		site.Busy: "", site.Refused: "", site.Cancelled: "", site.NotAcceptable: "", site.Failure: "",
	} {
		synctest.Test(t, func(t *testing.T) {
			net := &featurestest.Net{}
			here := netip.MustParseAddr("127.0.0.1")
			engine, err := media.New(media.Config{Now: time.Now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler), Drain: 10 * time.Millisecond, Listen: net.Listen})
			if err != nil {
				t.Fatal(err)
			}
			defer engine.Close()
			phone, err := featurestest.NewPhone(net.Listen, here, "PCMA")
			if err != nil {
				t.Fatal(err)
			}
			defer phone.Close()
			call, err := featurestest.NewCall(t.Context(), engine, phone, here, site.Party{}, site.Party{}, "")
			if err != nil {
				t.Fatal(err)
			}
			defer call.End(site.Normal)
			r, err := NewReasons(slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			r.Say(t.Context(), cause, call)
			took := time.Since(began)
			if want == "" {
				if took != 0 {
					t.Errorf("%v: kept for %v", cause, took)
				}
				return
			}
			if took < 2*time.Second || took > 8*time.Second || call.Answered() {
				t.Errorf("%v: told for %v, answered %v", cause, took, call.Answered())
			}
			heard := featurestest.Tone(425)
			if clip, ok := words.Clip(want); ok {
				heard = featurestest.Spoken(clip)
			}
			time.Sleep(time.Second)
			if _, ok := heard(phone.Heard()); !ok {
				t.Errorf("%v: %q was not heard", cause, want)
			}
		})
	}
}

func TestSayingEndsWithTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := &featurestest.Net{}
		here := netip.MustParseAddr("127.0.0.1")
		engine, err := media.New(media.Config{Now: time.Now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler), Drain: 10 * time.Millisecond, Listen: net.Listen})
		if err != nil {
			t.Fatal(err)
		}
		defer engine.Close()
		phone, err := featurestest.NewPhone(net.Listen, here, "PCMU")
		if err != nil {
			t.Fatal(err)
		}
		defer phone.Close()
		call, err := featurestest.NewCall(t.Context(), engine, phone, here, site.Party{}, site.Party{}, "")
		if err != nil {
			t.Fatal(err)
		}
		defer call.End(site.Normal)
		r, err := NewReasons(slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		began := time.Now()
		r.Say(ctx, site.NoSuchNumber, call)
		if d := time.Since(began); d != 500*time.Millisecond {
			t.Errorf("told for %v after the caller had hung up at 500 ms", d)
		}
	})
}
