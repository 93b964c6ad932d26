package node

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

// TestASlowFollowerIsToldAndMayBeginAnew: what it may still read comes first of
// all if it was quick; if not, the end says why and where, and who begins again
// from there hears that something is missing.
func TestASlowFollowerIsToldAndMayBeginAnew(t *testing.T) {
	n := &Node{now: func() time.Time { return time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC) }, log: slog.New(slog.DiscardHandler)}
	n.events = newTeller(n)
	b := &backend{n}
	next := func(f api.Feed) (api.Event, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return f.Next(ctx)
	}
	slow, err := b.Follow(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	hello, err := next(slow)
	if err != nil || hello.Kind != api.EventHello || hello.Merges == nil || hello.ID == 0 {
		t.Fatalf("first: %+v %v", hello, err)
	}
	for range 5000 {
		n.events.tell(api.Event{Kind: api.EventRecord, Record: &api.RecordChange{Kind: "user", Record: "user 201"}})
	}
	end, err := next(slow)
	if err != nil || end.Kind != api.EventEnd || !strings.Contains(end.Why, "too slowly") || end.ID != hello.ID {
		t.Fatalf("the end: %+v %v", end, err)
	}
	if e, err := next(slow); err == nil {
		t.Errorf("after the end: %+v", e)
	}
	slow.Close()
	again, err := b.Follow(t.Context(), end.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	var kinds []string
	for range 3 {
		e, err := next(again)
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, e.Kind)
	}
	if got := strings.Join(kinds, " "); got != "hello missed record" {
		t.Errorf("anew: %s", got)
	}
	// As many as may, and no more.
	var all []api.Feed
	for {
		f, err := b.Follow(t.Context(), 0)
		if err != nil {
			var e *api.Error
			if !errors.As(err, &e) || e.Status != 503 || len(all) < 10 || len(all) > 100 {
				t.Errorf("after %d: %v", len(all), err)
			}
			break
		}
		all = append(all, f)
	}
	for _, f := range all {
		f.Close()
	}
}
