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
	mostCore   = 0.05 // of one core
)

// cpu is the processor time the box's process has used. The kernel counts it in
// ticks of 10 ms.
func (b *box) cpu() time.Duration {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.cmd.Process.Pid))
	if err != nil {
		b.t.Fatal(err)
	}
	f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	user, err1 := strconv.Atoi(string(f[11]))
	system, err2 := strconv.Atoi(string(f[12]))
	if err1 != nil || err2 != nil {
		b.t.Fatal("the kernel does not say the processor time")
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// TestBusyHour is a part of that hour: telephones that refresh, five calls with
// speech through the box both ways, and one more of them at the usual pace.
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
	time.Sleep(2 * time.Second) // the box has settled
	hour := func() (share float64) {
		_, before := first.Packets()
		used, began := b.cpu(), time.Now()
		for end := began.Add(window); time.Now().Before(end); {
			time.Sleep(everyCall / 2)
			a, _ := call(shopCalls)
			time.Sleep(everyCall / 2)
			if err := a.Hangup(ctx); err != nil {
				t.Error(err)
			}
		}
		took := time.Since(began)
		share = float64(b.cpu()-used) / float64(took)
		_, after := first.Packets()
		t.Logf("%d phones, %d to %d calls at once: %.1f %% of a core in %v, %d MB resident", shopPhones, shopCalls, shopCalls+1, 100*share, took.Round(time.Second), b.rss()>>20)
		if want := int64(took / (20 * time.Millisecond)); after-before < want*98/100 {
			t.Errorf("%d packets of speech arrived in a call, want %d", after-before, want)
		}
		return share
	}
	share := hour()
	if share > mostCore { // a machine that others use, too, gets a second chance
		share = min(share, hour())
	}
	if share > mostCore {
		t.Errorf("%.1f %% of a core, want at most %.0f %%", 100*share, 100*mostCore)
	}
	if b.rss() > mostMemory {
		t.Errorf("%d MB, want at most %d MB", b.rss()>>20, mostMemory>>20)
	}
}
