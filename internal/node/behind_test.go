package node

import (
	"testing"
	"time"
)

// TestTheKeepAliveIntervalFindsWhatTheRouterRemembers: it grows while it works,
// and a step that was too long is not tried again.
func TestTheKeepAliveIntervalFindsWhatTheRouterRemembers(t *testing.T) {
	const router = 11 * time.Minute
	k := &keeper{interval: 2 * time.Minute}
	lost := 0
	for range 40 {
		slept := k.interval
		if slept > router {
			lost++
			k.failed(slept)
		} else {
			k.worked(slept)
		}
	}
	if lost > 1 {
		t.Errorf("lost the connection %d times of 40, want once", lost)
	}
	if k.good < router/2 || k.good > router {
		t.Errorf("settled at %v for a router that remembers %v", k.good, router)
	}
}

// TestAnIntervalThatIsTooLongAtFirstIsMadeShorter: what never worked is halved,
// and not tried again once something works.
func TestAnIntervalThatIsTooLongAtFirstIsMadeShorter(t *testing.T) {
	for _, router := range []time.Duration{20 * time.Second, 31 * time.Second, time.Minute, 119 * time.Second} {
		k := &keeper{interval: 2 * time.Minute}
		last := 0
		for i := range 40 {
			if slept := k.interval; slept > router {
				last = i
				k.failed(slept)
			} else {
				k.worked(slept)
			}
		}
		if last > 5 || k.interval > router || k.interval < router/2 {
			t.Errorf("a router that remembers %v: %v after failures until step %d", router, k.interval, last)
		}
	}
}

// TestARouterThatRemembersLessThanBefore: what worked for long works no more.
func TestARouterThatRemembersLessThanBefore(t *testing.T) {
	k := &keeper{interval: time.Hour, good: time.Hour, tooLong: 2 * time.Hour}
	for range 20 {
		if slept := k.interval; slept > 4*time.Minute {
			k.failed(slept)
		} else {
			k.worked(slept)
		}
	}
	if k.interval > 4*time.Minute || k.interval < 2*time.Minute {
		t.Errorf("settled at %v, good %v, too long %v", k.interval, k.good, k.tooLong)
	}
}
