// Command sim runs fleets in one thread: the engine, the exchange and the tree
// that a box runs, with virtual time, a disk that loses what was not synced, cuts
// of every shape, crashes, clocks that jump and backups that are written back, all
// drawn from a seed. It ends with what came out and exits 1 if anything is wrong.
//
//	go run ./test/sim -nodes 12 -seed 7            one run
//	go run ./test/sim -nodes 12 -sweep 1000        seeds 0 to 999, 2 to 12 boxes
//	go run ./test/sim -nodes 10000 -steps 40       a large fleet
//	go run ./test/sim -heal -nodes 1000            two halves meet again
package main

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime/pprof"
	"time"
)

func main() {
	nodes := flag.Int("nodes", 12, "boxes; in a sweep at most so many")
	seed := flag.Uint64("seed", 1, "what all chance is drawn from; in a sweep the first")
	sweep := flag.Int("sweep", 0, "run so many seeds")
	verbose := flag.Bool("v", false, "one seed: tell what happens")
	steps := flag.Int("steps", 80, "things that happen before all is healed")
	parted := flag.Bool("heal", false, "part a fleet with a directory in two halves, and heal it")
	users := flag.Int("users", 300, "-heal: people in the directory")
	edits := flag.Int("edits", 1000, "-heal: edits in each half")
	profile := flag.String("profile", "", "write where the time goes to this file, for go tool pprof")
	flag.Parse()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		defer pprof.StopCPUProfile()
	}
	begun := time.Now()
	if *parted {
		h := heal(*seed, *nodes, *users, *edits)
		h.tell(*seed, *nodes, *users, *edits)
		fmt.Printf("took %v\n", time.Since(begun).Round(time.Millisecond))
		if len(h.faults) > 0 {
			os.Exit(1)
		}
		return
	}
	if *sweep > 0 {
		bad := 0
		var all result
		for i := range *sweep {
			r := run(*seed+uint64(i), 2+int(*seed+uint64(i))%max(*nodes-1, 1), *steps)
			all.writes, all.messages, all.bytes, all.virtual = all.writes+r.writes, all.messages+r.messages, all.bytes+r.bytes, all.virtual+r.virtual
			if len(r.faults) > 0 {
				bad++
				tell(r)
			}
		}
		fmt.Printf("%d schedules, %d with faults; %d writes, %d messages, %.1f years of time in %v\n", *sweep, bad, all.writes, all.messages,
			all.virtual.Hours()/24/365, time.Since(begun).Round(time.Millisecond))
		if bad > 0 {
			os.Exit(1)
		}
		return
	}
	w := newWorld(*seed, *nodes)
	if *verbose {
		w.story = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Duration("at", w.now)
			}
			return a
		}}))
	}
	r := play(w, *steps)
	tell(r)
	fmt.Printf("%d boxes at %d sites, seed %d: %d writes, %d events, %d messages, %d bytes, %v of time in %v; settled %v after the heal; trace %s\n",
		*nodes, r.sites, *seed, r.writes, r.events, r.messages, r.bytes, r.virtual.Round(time.Second), time.Since(begun).Round(time.Millisecond), r.settled.Round(time.Millisecond), r.trace)
	if s := r.spread; s.hops > 0 {
		fmt.Printf("one edit after that reaches all over at most %d links (half of them %d) in %v, %d frames and %d bytes in all\n",
			s.hops, s.median, s.last.Round(time.Millisecond), s.frames, s.bytes)
	}
	fmt.Printf("%d faults\n", len(r.faults))
	if len(r.faults) > 0 {
		os.Exit(1)
	}
}

func tell(r result) {
	for i, f := range r.faults {
		if i == 8 {
			fmt.Printf("  and %d more\n", len(r.faults)-i)
			break
		}
		fmt.Printf("seed %d, %d boxes: %s\n", r.seed, r.nodes, f)
	}
}
