package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What a box with little memory wants of Go's collector: room for garbage that
// does not grow with what is kept, and memory given back after a busy time
// (an import, a compaction of the store) although nothing is allocated any more.
const (
	headroom  = 32 << 20 // garbage before the next collection
	leastGOGC = 20       // beyond 160 MB of live data processor time counts more
	mostGOGC  = 200
	lookFirst = time.Second / 4  // after the start, while what is kept grows; then
	lookEvery = 10 * time.Second // less and less often
	quiet     = 8 << 20          // allocated between two looks
	firstTrim = 1                // quiet looks before memory is given back,
	lastTrim  = 4                // and once more, for what the store lets go of later
	mostIdle  = 16 << 20         // garbage and free room at a look, busy or not
	leastRoom = 96 << 20         // what a box of any size may take before the collector hurries
)

// gogc is the percentage that leaves the headroom over that much live data.
func gogc(live uint64) int {
	if live == 0 {
		return mostGOGC
	}
	return int(min(max(headroom*100/live, leastGOGC), mostGOGC))
}

// room is the memory beyond which the collector works harder and gives pages
// back at once: between two looks nobody else holds the process small. It is
// far enough above what is kept that it cannot become the usual way.
func room(live uint64) int64 { return int64(max(leastRoom, live+live/2+headroom)) }

// thrift keeps the process small until ctx ends. What the environment says
// (GOGC, GOMEMLIMIT) wins.
func thrift(ctx context.Context) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
	percent, still, allocated, before := leastGOGC, 0, uint64(0), uint64(0) // reading the state makes much garbage
	debug.SetGCPercent(percent)
	debug.SetMemoryLimit(leastRoom)
	pause := lookFirst
	look := time.NewTimer(pause)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		metrics.Read(s)
		live, allocs := s[0].Value.Uint64(), s[1].Value.Uint64()
		pause = min(2*pause, lookEvery)
		if live > before+before/16 { // a large state is being read: its limit grows with it
			pause = lookFirst
		}
		before = live
		look.Reset(pause)
		debug.SetMemoryLimit(room(live))
		if want := gogc(live); want < percent*9/10 || want > percent*11/10 {
			debug.SetGCPercent(want)
			percent = want
		}
		still++
		if allocs-allocated > quiet {
			still = 0
		}
		allocated = allocs
		if still == firstTrim || still == lastTrim || s[2].Value.Uint64()+s[3].Value.Uint64() > live+mostIdle {
			debug.FreeOSMemory()
			if still == firstTrim || still == lastTrim {
				pageOut()
			}
		}
	}
}
