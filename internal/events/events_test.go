package events

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var start = time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)

func follow(t *testing.T, h *Hub[string], after uint64, missed bool) *Follower[string] {
	t.Helper()
	f, m, err := h.Follow(after)
	if err != nil || m != missed {
		t.Fatalf("follow after %d: missed %t, %v", after, m, err)
	}
	t.Cleanup(f.Close)
	return f
}

// all reads what is there.
func all(t *testing.T, f *Follower[string]) (out string, last uint64, err error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for {
		e, err := f.Next(ctx)
		if err != nil {
			return strings.TrimSpace(out), last, err
		}
		out += e.What + " "
		last = e.ID
	}
}

func TestWhoWasAwayGoesOnWhereItWas(t *testing.T) {
	h := New[string](Config{Start: start, Keep: 4})
	h.Tell("before", 1)
	f := follow(t, h, 0, false)
	for _, s := range []string{"a", "b", "c"} {
		h.Tell(s, 1)
	}
	got, last, err := all(t, f)
	if got != "a b c" || !errors.Is(err, context.Canceled) || f.Last() != last {
		t.Fatalf("%q %v", got, err)
	}
	h.Tell("d", 1)
	if got, _, _ := all(t, follow(t, h, last, false)); got != "d" {
		t.Errorf("resumed: %q", got)
	}
	if got, _, _ := all(t, follow(t, h, f.Last()-3, false)); got != "a b c d" {
		t.Errorf("resumed before all: %q", got)
	}
	for _, s := range []string{"e", "f", "g", "h", "i"} {
		h.Tell(s, 1)
	}
	if got, _, _ := all(t, follow(t, h, last, true)); got != "f g h i" {
		t.Errorf("resumed too late: %q", got)
	}
	// Of another start, or made up: nothing is repeated as if it were new to it.
	after := New[string](Config{Start: start.Add(time.Second)})
	after.Tell("x", 1)
	if got, _, _ := all(t, follow(t, after, last, true)); got != "x" {
		t.Errorf("of an earlier start: %q", got)
	}
	if got, _, _ := all(t, follow(t, h, 1<<63, true)); got != "" {
		t.Errorf("of the future: %q", got)
	}
}

func TestWhoIsSlowIsToldAndDelaysNobody(t *testing.T) {
	h := New[string](Config{Start: start, Keep: 10, KeepBytes: 1000})
	slow, fast := follow(t, h, 0, false), follow(t, h, 0, false)
	for range 11 {
		h.Tell("x", 10)
		if got, _, err := all(t, fast); got != "x" || !errors.Is(err, context.Canceled) {
			t.Fatalf("the other reads %q %v", got, err)
		}
	}
	if got, _, err := all(t, slow); got != "" || !errors.Is(err, ErrSlow) || !strings.Contains(err.Error(), "1 events") {
		t.Errorf("who is slow: %q %v", got, err)
	}
	for range 5 { // fewer than 10, but large
		h.Tell("large", 400)
	}
	if n, b := len(h.ring), h.bytes; n != 2 || b != 800 {
		t.Errorf("%d events of %d bytes are kept, of 1000", n, b)
	}
	h.Tell("huge", 5000)
	if got, _, _ := all(t, follow(t, h, h.next-2, false)); got != "huge" {
		t.Errorf("an event larger than the memory: %q", got)
	}
}

func TestFollowersAreBoundedAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New[string](Config{Start: start, Followers: 2})
		f, _, _ := h.Follow(0)
		g, _, _ := h.Follow(0)
		if _, _, err := h.Follow(0); !errors.Is(err, ErrMany) {
			t.Errorf("a third of two: %v", err)
		}
		g.Close()
		g.Close()
		if g, _, err := h.Follow(0); err != nil {
			t.Error(err)
		} else {
			g.Close()
		}
		done := make(chan error)
		go func() {
			e, err := f.Next(t.Context())
			if e.What != "last" || err != nil {
				t.Errorf("%q %v", e.What, err)
			}
			_, err = f.Next(t.Context())
			done <- err
		}()
		synctest.Wait()
		h.Tell("last", 1)
		h.Close()
		h.Close()
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Errorf("at the end: %v", err)
		}
		h.Tell("too late", 1)
		if _, _, err := h.Follow(0); !errors.Is(err, ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
		f.Close()
	})
}
