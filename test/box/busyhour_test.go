package box

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/sipcore/phonetest"
)

// The busy hour of a shop with 24 telephones, 0.2 erlang each: five calls at
// once, of three minutes, so a new one every 36 s.
const (
	shopPhones = 24
	shopCalls  = 5
	everyCall  = 36 * time.Second
	goalCore   = 0.05 // of one core
	mostPlain  = 2.0  // times what a plain relay of the same packets takes
)

// cpu is the processor time a process has used. The kernel counts it in ticks
// of 10 ms.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	user, err1 := strconv.Atoi(string(f[11]))
	system, err2 := strconv.Atoi(string(f[12]))
	if err1 != nil || err2 != nil {
		t.Fatal("the kernel does not say the processor time")
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// TestBusyHour is a part of that hour: telephones that refresh, five calls with
// speech through the box both ways, and one more of them at the usual pace.
//
// What a core does in a given time differs by half between machines, and on one
// by a third between minutes: most of the time goes into waking up for a packet,
// which is dearer where the core had gone to sleep. So beside the box, at the
// same time, a plain relay passes the same number of packets on, and the ratio
// counts. It is 1.2 to 1.5 for the program that took 3.1 % where the goal is 5 %,
// so the goal is 2.0.
func TestBusyHour(t *testing.T) {
	window := everyCall
	if long() {
		window = 5 * everyCall
	} else if testing.Short() {
		t.Skip("takes most of a minute")
	}
	b := newBox(t)
	b.up("--new-fleet", "Shops")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var tels []*phonetest.Phone
	for i := range shopPhones {
		number := strconv.Itoa(201 + i)
		u := as[api.User](b, "user", "create", number, "--name", "Phone "+number)
		p := b.phone(u, u.Devices[0].Password)
		if err := p.Register(ctx); err != nil {
			t.Fatal(err)
		}
		tels = append(tels, p)
	}
	call := func(i int) (a, z *phonetest.Call) {
		a, err := tels[2*i].DialStart(ctx, strconv.Itoa(201+2*i+1))
		if err != nil {
			t.Fatal(err)
		}
		z = <-tels[2*i+1].Incoming()
		z.Ring()
		if err := z.Answer(ctx); err != nil {
			t.Fatal(err)
		}
		if err := a.WaitAnswered(ctx); err != nil {
			t.Fatal(err)
		}
		return a, z
	}
	var first *phonetest.Call
	for i := range shopCalls {
		a, z := call(i)
		if i == 0 {
			first = a
		}
		for _, c := range []*phonetest.Call{a, z} {
			if s := c.Listen(500 * time.Millisecond); s.Tone == 0 {
				t.Fatalf("call %d: nothing is heard: %+v", i, s)
			}
		}
	}
	beside := newPlain(t, 2*shopCalls+1)
	time.Sleep(2 * time.Second) // the box has settled
	hour := func() (times float64) {
		_, before := first.Packets()
		used, plain, began := cpu(t, b.cmd.Process.Pid), cpu(t, beside), time.Now()
		for end := began.Add(window); time.Now().Before(end); {
			time.Sleep(everyCall / 2)
			a, _ := call(shopCalls)
			time.Sleep(everyCall / 2)
			if err := a.Hangup(ctx); err != nil {
				t.Error(err)
			}
		}
		took := time.Since(began)
		used, plain = cpu(t, b.cmd.Process.Pid)-used, cpu(t, beside)-plain
		times = float64(used) / float64(plain)
		_, after := first.Packets()
		t.Logf("%d phones, %d to %d calls at once: %.1f %% of a core in %v (goal %.0f %%), %.2f times a plain relay's %.1f %%, %d MB resident", shopPhones, shopCalls, shopCalls+1,
			100*float64(used)/float64(took), took.Round(time.Second), 100*goalCore, times, 100*float64(plain)/float64(took), b.rss()>>20)
		if want := int64(took / (20 * time.Millisecond)); after-before < want*98/100 {
			t.Errorf("%d packets of speech arrived in a call, want %d", after-before, want)
		}
		return times
	}
	times := hour()
	if times > mostPlain { // a machine that others use, too, gets a second chance
		times = min(times, hour())
	}
	if times > mostPlain {
		t.Errorf("%.2f times the processor time of a plain relay, want at most %.1f times", times, mostPlain)
	}
	if b.rss() > mostMemory {
		t.Errorf("%d MB, want at most %d MB", b.rss()>>20, mostMemory>>20)
	}
}
