package digest

import (
	"hash/maphash"
	"sync"
	"time"
)

// A Guard slows down who guesses passwords: after 10 wrong tries in 5 minutes
// for one user from one source, only one try in 10 s is looked at; the others
// are refused unseen, with the same answer. After 1,000 wrong tries in an hour
// for one user, sources that never succeeded for that user get one look a
// minute. A shop's own phone, at its own address, is never locked out by others.
//
// Memory is fixed: counters by hash, four places each; the least telling gives way.
// What is counted is forgotten at a restart.
type Guard struct {
	now  func() time.Time
	seed maphash.Seed

	mu    sync.Mutex
	table [2048][4]tries
}

// A tries counts wrong answers of one (user, source), or one user.
type tries struct {
	key   uint64
	begin time.Time // of the counting period
	bad   int
	look  time.Time // when one was last looked at over the limit
	good  bool      // a right password came from here
}

const (
	badPerSource = 10
	sourcePeriod = 5 * time.Minute
	badPerUser   = 1000
	userPeriod   = time.Hour
)

// NewGuard makes a Guard.
func NewGuard(now func() time.Time) *Guard {
	return &Guard{now: now, seed: maphash.MakeSeed()}
}

func (g *Guard) hash(parts ...string) uint64 {
	var h maphash.Hash
	h.SetSeed(g.seed)
	for _, p := range parts {
		h.WriteString(p)
		h.WriteByte(0)
	}
	return h.Sum64() | 1
}

// worth orders the counters by how much would be lost with them: places where
// somebody belongs stay longest, whatever is thrown at the table.
func (t *tries) worth() int {
	if t.good {
		return 1<<30 + t.bad
	}
	return t.bad
}

// find returns the counter for key, a new one if make is set, else nil.
func (g *Guard) find(key uint64, period time.Duration, now time.Time, make bool) *tries {
	set := &g.table[key>>10%2048]
	victim := &set[0]
	for i := range set {
		t := &set[i]
		if t.key == key {
			if now.Sub(t.begin) > period {
				t.begin, t.bad = now, 0
			}
			return t
		}
		if victim.key != 0 && (t.key == 0 || t.worth() < victim.worth()) {
			victim = t
		}
	}
	if !make {
		return nil
	}
	*victim = tries{key: key, begin: now}
	return victim
}

// Allow says whether a try is to be looked at.
func (g *Guard) Allow(user, source string) bool {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.find(g.hash(user, source), sourcePeriod, now, false)
	if t != nil && t.bad >= badPerSource && !t.glance(now, 10*time.Second) {
		return false
	}
	if t != nil && t.good {
		return true
	}
	u := g.find(g.hash(user), userPeriod, now, false)
	return u == nil || u.bad < badPerUser || u.glance(now, time.Minute)
}

func (t *tries) glance(now time.Time, every time.Duration) bool {
	if now.Sub(t.look) < every {
		return false
	}
	t.look = now
	return true
}

// Failed notes a wrong password.
func (g *Guard) Failed(user, source string) {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.find(g.hash(user, source), sourcePeriod, now, true).bad++
	g.find(g.hash(user), userPeriod, now, true).bad++
}

// Succeeded notes a right one.
func (g *Guard) Succeeded(user, source string) {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.find(g.hash(user, source), sourcePeriod, now, true)
	t.bad, t.good = 0, true
}
