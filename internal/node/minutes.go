package node

import (
	"strings"
	"sync"
	"time"

	"carrierclass.net/ccnode/sipcore/b2bua"
)

// A meter counts what was spoken over each trunk today, by calls out of this
// node: what limits them holds without asking anybody. Calls under way count,
// too. The day is that of the shop.
type meter struct {
	now  func() time.Time
	zone func() *time.Location

	mu   sync.Mutex
	day  string
	used map[string]time.Duration // by trunk
	open map[string]b2bua.Record  // by key of the record
}

func newMeter(now func() time.Time, zone func() *time.Location) *meter {
	return &meter{now: now, zone: zone, used: map[string]time.Duration{}, open: map[string]b2bua.Record{}}
}

// over is the trunk that a call went out by, "" if it did not.
func over(r b2bua.Record) string {
	name, _ := strings.CutPrefix(r.Answered, "trunk ")
	if name == r.Answered {
		return ""
	}
	return name
}

// turn begins a new day. mu is held.
func (m *meter) turn() (midnight time.Time) {
	now := m.now().In(m.zone())
	if day := now.Format(time.DateOnly); day != m.day {
		m.day = day
		clear(m.used)
	}
	return time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
}

// since is how long of a talk was after midnight.
func since(start, end, midnight time.Time) time.Duration {
	if start.Before(midnight) {
		start = midnight
	}
	return max(0, end.Sub(start))
}

// start counts a call that was answered.
func (m *meter) start(key string, r b2bua.Record) {
	if over(r) == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open[key] = r
}

// end counts a call that is over, or was before the node started.
func (m *meter) end(key string, r b2bua.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.open, key)
	if trunk := over(r); trunk != "" && !r.Start.IsZero() {
		midnight := m.turn()
		m.used[trunk] += since(r.Start, r.End, midnight)
	}
}

// today is what was spoken over a trunk since midnight.
func (m *meter) today(trunk string) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	midnight := m.turn()
	total := m.used[trunk]
	for _, r := range m.open {
		if over(r) == trunk {
			total += since(r.Start, m.now(), midnight)
		}
	}
	return total
}
