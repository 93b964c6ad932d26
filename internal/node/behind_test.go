package node

import (
	"testing"
	"time"
)

// TestTheKeepAliveIntervalFindsWhatTheRouterRemembers: it grows while it works,
// and a step that was too long is not tried again.
func TestTheKeepAliveIntervalFindsWhatTheRouterRemembers(t *testing.T) {
	const router = 11 * time.Minute
	k := &keeper{interval: keepFirst}
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
