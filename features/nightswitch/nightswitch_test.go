package nightswitch

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

	"carrierclass.net/ccnode/features/featurestest"
	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/internal/site"
)

var (
	here  = netip.MustParseAddr("127.0.0.1")
	alice = site.Party{Number: "201", User: site.RecordID{1}, Device: site.RecordID{0xA1}}
)

// memSwitch is a Switch in memory. Outsiders have none.
type memSwitch struct {
	hours bool
	mode  Mode
	fail  error
	slow  time.Duration
}

func (s *memSwitch) State(by site.Party) (State, bool) {
	return State{Open: s.mode == Open || s.mode != Closed && s.hours, ByHours: s.hours}, !by.User.IsZero()
}

func (s *memSwitch) Set(ctx context.Context, _ site.Party, m Mode) error {
	select {
	case <-time.After(s.slow):
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.fail == nil {
		s.mode = m
	}
	return s.fail
}

// call makes one call; hangUp ends it after that time, 0: the feature does. It
// returns what was heard and the feature's error.
func call(t *testing.T, s *memSwitch, from site.Party, hangUp time.Duration) (heard map[string]bool, c *featurestest.Call, err error) {
	t.Helper()
	var n featurestest.Net
	log := slog.New(slog.NewTextHandler(&bytes.Buffer{}, nil))
	engine, err := media.New(media.Config{Now: time.Now, Rand: rand.Reader, Logger: log, Drain: 10 * time.Millisecond, Listen: n.Listen})
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	phone, err := featurestest.NewPhone(n.Listen, here, "PCMA")
	if err != nil {
		t.Fatal(err)
	}
	defer phone.Close()
	c, err = featurestest.NewCall(t.Context(), engine, phone, here, from, site.Party{Number: "*80"}, "")
	if err != nil {
		t.Fatal(err)
	}
	f, err := New(Config{Switch: s, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	if f.Name() != Name {
		t.Error(f.Name())
	}
	if hangUp > 0 {
		timer := time.AfterFunc(hangUp, func() { c.End(site.Normal) })
		defer timer.Stop()
	}
	err = f.ServeCall(t.Context(), c)
	synctest.Wait()
	set, _ := prompts.English()
	heard = make(map[string]bool)
	for _, name := range []string{"day-mode", "night-mode", "not-possible", "not-permitted"} {
		clip, _ := set.Clip(name)
		_, heard[name] = featurestest.Spoken(clip)(phone.Heard())
	}
	c.End(site.Normal)
	return heard, c, err
}

func TestEveryCallChangesWhatHolds(t *testing.T) {
	for _, c := range []struct {
		name  string
		hours bool
		mode  Mode
		want  Mode
		words string
	}{
		{"closes during the day", true, Auto, Closed, "night-mode"},
		{"opens at night", false, Auto, Open, "day-mode"},
		{"opens again, and the hours take over", true, Closed, Auto, "day-mode"},
		{"opens at night what was closed by day", false, Closed, Open, "day-mode"},
		{"closes again, and the hours take over", false, Open, Auto, "night-mode"},
		{"closes by day what was opened at night", true, Open, Closed, "night-mode"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &memSwitch{hours: c.hours, mode: c.mode}
			heard, call, err := call(t, s, alice, 0)
			cause, by := call.Ended()
			if err != nil || s.mode != c.want || !heard[c.words] || !by || cause != site.Normal {
				t.Errorf("%s: %s, %v, ended %v %v, %v", c.name, s.mode, heard, cause, by, err)
			}
			for w, ok := range heard {
				if ok && w != c.words {
					t.Errorf("%s: said %q, too", c.name, w)
				}
			}
		})
	}
}

func TestWhoMayNotIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &memSwitch{hours: true, mode: Auto}
		_, c, err := call(t, s, site.Party{Number: "+33472000000"}, 0)
		if !errors.Is(err, site.Forbidden) || c.Answered() || s.mode != Auto {
			t.Errorf("%v, answered %v, %s", err, c.Answered(), s.mode)
		}
	})
}

func TestWhatFailsIsSaid(t *testing.T) {
	for words, fail := range map[string]error{"not-possible": errors.New("disk full"), "not-permitted": site.Forbidden} {
		synctest.Test(t, func(t *testing.T) {
			s := &memSwitch{hours: true, mode: Auto, fail: fail}
			if heard, _, err := call(t, s, alice, 0); err != nil || !heard[words] || heard["night-mode"] {
				t.Errorf("%v, %v", heard, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // a disk that does not answer
		s := &memSwitch{hours: true, mode: Auto, slow: time.Hour}
		if heard, _, err := call(t, s, alice, 0); err != nil || !heard["not-possible"] {
			t.Errorf("%v, %v", heard, err)
		}
	})
}

// Who dials the code and hangs up has still turned the switch; nothing is left
// behind (synctest).
func TestHangUpAtEveryMoment(t *testing.T) {
	for step := 1; step < 40; step++ {
		synctest.Test(t, func(t *testing.T) {
			s := &memSwitch{hours: true, mode: Auto, slow: time.Second}
			began := time.Now()
			at := time.Duration(step) * 70 * time.Millisecond
			_, _, err := call(t, s, alice, at)
			if d := time.Since(began); err != nil || s.mode != Closed || d > max(at, time.Second)+100*time.Millisecond {
				t.Errorf("hung up after %v: %s, %v, after %v", at, s.mode, err, d)
			}
		})
	}
}
