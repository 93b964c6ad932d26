package node

import (
	"testing"
	"time"

	"carrierclass.net/ccnode/sipcore/b2bua"
)

// A call counts for the day it was spoken on, in the shop's time; one that goes
// on counts already.
func TestMinutesOfToday(t *testing.T) {
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 10, 22, 50, 0, 0, time.UTC) // 23:50 in Paris
	m := newMeter(func() time.Time { return now }, func() *time.Location { return paris })
	want := func(what string, a, b time.Duration) {
		t.Helper()
		if x, y := m.today("a"), m.today("b"); x != a || y != b {
			t.Errorf("%s: %v over a, %v over b; want %v, %v", what, x, y, a, b)
		}
	}
	long := b2bua.Record{Answered: "trunk a", Start: now.Add(-5 * time.Minute)}
	m.start("1", long)
	m.start("2", b2bua.Record{Answered: "phone", Start: now})
	want("a call goes on", 5*time.Minute, 0)
	m.end("3", b2bua.Record{Answered: "trunk b", Start: now.Add(-time.Hour), End: now.Add(-time.Minute)})
	m.end("4", b2bua.Record{Answered: "phone", Start: now.Add(-time.Hour), End: now})
	m.end("5", b2bua.Record{Answered: "trunk b"}) // nobody answered
	m.end("6", b2bua.Record{Answered: "trunk b", Start: now.Add(-48 * time.Hour), End: now.Add(-47 * time.Hour)})
	want("calls are over", 5*time.Minute, 59*time.Minute)
	now = now.Add(12 * time.Minute) // 00:02
	want("midnight", 2*time.Minute, 0)
	long.End = now.Add(time.Minute)
	now = now.Add(2 * time.Minute)
	m.end("1", long)
	want("it is over", 3*time.Minute, 0)
}
