package box

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/sipcore/phonetest"
)

// rss is the resident memory of the box's process in bytes.
func (b *box) rss() int64 { return b.memory("VmRSS:") }

// memory is a line of what the kernel says of the process, in bytes: VmHWM: is
// the most it had resident.
func (b *box) memory(line string) int64 {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))
	if err != nil {
		b.t.Fatal(err)
	}
	for _, l := range bytes.Split(text, []byte("\n")) {
		if v, ok := bytes.CutPrefix(l, []byte(line)); ok {
			kb, err := strconv.ParseInt(string(bytes.Fields(v)[0]), 10, 64)
			if err != nil {
				b.t.Fatal(err)
			}
			return kb << 10
		}
	}
	b.t.Fatalf("the kernel does not say %s", line)
	return 0
}

// mostMemory is what a node with 10,000 users and 1,000 phones may take.
const mostMemory = 150 << 20

// TestMemory makes 10,000 users through the interface, registers 1,000 phones
// at a node that was started again, and looks at the process when it is quiet.
func TestMemory(t *testing.T) {
	if testing.Short() && !long() {
		t.Skip("takes half a minute")
	}
	const users, phones = 10_000, 1_000
	b := newBox(t)
	b.up("--domain", "shops.example", "--site", "01", "--extension-digits", "5")
	begun := time.Now()
	var wg sync.WaitGroup
	next := make(chan int)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				n := api.NewUser{Number: fmt.Sprintf("%05d", i), Name: fmt.Sprintf("Person with the number %05d", i), Password: fmt.Sprintf("secret-%05d", i), E164: fmt.Sprintf("+3347%07d", i)}
				if _, err := ask[api.User](b, "POST", "/users", n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range users {
		next <- i
	}
	close(next)
	wg.Wait()
	took := time.Since(begun)
	made := b.rss()
	t.Logf("%d users made in %.1f s; then %d MB resident", users, took.Seconds(), made>>20)
	b.term()
	begun = time.Now()
	b.up()
	ready := time.Since(begun)
	t.Logf("restarted with them in %d ms, %d MB resident", ready.Milliseconds(), b.rss()>>20)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	slots := make(chan struct{}, 16)
	for i := range phones {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			p, err := phonetest.New(phonetest.Config{User: fmt.Sprintf("01%05d", i), Password: fmt.Sprintf("secret-%05d", i), Domain: "shops.example",
				Servers: []netip.AddrPort{netip.AddrPortFrom(b.ip, 5060)}, NoRefresh: true, Expires: 120 * time.Second})
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			if err := p.Register(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := b.status()
	if s.Users != users || s.Phones != phones {
		t.Errorf("%d users and %d phones", s.Users, s.Phones)
	}
	worst := int64(0)
	for range 10 { // what it settles at, and what it was on the way
		time.Sleep(500 * time.Millisecond)
		worst = max(worst, b.rss())
	}
	t.Logf("10,000 users, 1,000 phones: %d MB resident, at most %d MB in 5 s", b.rss()>>20, worst>>20)
	if worst > mostMemory {
		t.Errorf("%d MB, want at most %d MB", worst>>20, mostMemory>>20)
	}
	if ready > 5*time.Second {
		t.Errorf("a restart with %d users takes %v", users, ready)
	}
	// Listing all of them is the most anybody asks for at once.
	if us, err := ask[[]api.User](b, "GET", "/users", nil); err != nil || len(us) != users {
		t.Errorf("%d users, %v", len(us), err)
	}
	t.Logf("after listing all users: %d MB", b.rss()>>20)
}
