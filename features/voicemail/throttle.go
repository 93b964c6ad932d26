package voicemail

import (
	"sync"
	"time"
)

// throttle slows those down who guess PINs: after every third failure of one
// key nobody gets in by it for a while, one minute at first and twice as long
// each time, up to an hour. A day without failures forgets.
type throttle struct {
	mu    sync.Mutex
	tries map[string]*tries
}

type tries struct {
	failed int
	until  time.Time
	last   time.Time
}

const maxTries = 3

// blocked says whether key must wait.
func (t *throttle) blocked(key string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.tries[key]
	return e != nil && now.Before(e.until)
}

func (t *throttle) fail(key string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.tries) >= 10000 {
		for k, e := range t.tries {
			if now.Sub(e.last) > time.Hour {
				delete(t.tries, k)
			}
		}
	}
	e := t.tries[key]
	if e == nil || now.Sub(e.last) > 24*time.Hour {
		e = &tries{}
		t.tries[key] = e
	}
	e.failed++
	e.last = now
	if e.failed%maxTries == 0 {
		e.until = now.Add(min(time.Minute<<min(e.failed/maxTries-1, 10), time.Hour))
	}
}

func (t *throttle) succeed(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.tries, key)
}
