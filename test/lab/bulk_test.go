package lab

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// While recordings fill a line of 64 kbit/s, a change of state reaches the other
// site, and its telephone rings, as if the line were little used: audio waits for
// everything else, and about a quarter of a second of it is under way.
func TestRecordingsYield(t *testing.T) {
	const (
		changeLimit = time.Second     // median, from the request to the other site's answer
		ringLimit   = 2 * time.Second // worst
	)
	leavers, speech := long(2, 3), long(25*time.Second, 45*time.Second)
	l := labkit.New(t, "a", "b")
	a1 := found(l, "a", "a1")
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	a1.User("202", "--name", "Away")
	phones, far := l.Host("a", "phones"), l.Host("b", "far")
	ana := registered(t, phones, a1.Account(a1.User("201", "--name", "Ana"), 600), 440)
	cat := registered(t, far, b1.Account(b1.User("203", "--name", "Cat"), 600), 700)
	l.AwaitSettled(45*time.Second, a1, b1)
	shows := func(name string) bool {
		var all []api.User
		return b1.Get("/users", &all) == nil && slices.ContainsFunc(all, func(x api.User) bool { return x.Name == name })
	}
	change := func(name string) time.Duration {
		if err := a1.Ask(http.MethodPatch, "/users/0001201", api.UserPatch{Name: &name}, &api.User{}); err != nil {
			t.Error(err)
		}
		return l.Within(20*time.Second, name+" is at the other site", func() bool { return shows(name) })
	}
	ring := func() time.Duration {
		mark, rings, start := ana.Mark(), cat.Mark(), time.Now()
		ana.Dial("0002203")
		cat.Await(rings, "CALL_INCOMING", 10*time.Second)
		took := time.Since(start)
		ana.Hangup()
		ana.Await(mark, "CALL_CLOSED", 5*time.Second)
		cat.Await(rings, "CALL_CLOSED", 10*time.Second)
		return took
	}
	measure := func(what string, rounds int) (changes, rung []time.Duration) {
		for i := range rounds {
			changes = append(changes, change(fmt.Sprintf("Ana %s %d", what, i)))
			if i%2 == 0 {
				rung = append(rung, ring())
			}
		}
		slices.Sort(changes)
		slices.Sort(rung)
		t.Logf("%s: %d changes, median %v, worst %v; %d calls ring after median %v, worst %v", what, len(changes), changes[len(changes)/2].Round(time.Millisecond),
			changes[len(changes)-1].Round(time.Millisecond), len(rung), rung[len(rung)/2].Round(time.Millisecond), rung[len(rung)-1].Round(time.Millisecond))
		return changes, rung
	}
	l.Slow("a", 64)
	l.Slow("b", 64)
	ring() // opens the connection for signalling
	measure("idle", 5)

	var all sync.WaitGroup
	for i := range leavers {
		p := registered(t, phones, a1.Account(a1.User(ext(210+i)), 600), 500+100*i)
		all.Go(func() { leave(t, p, "202", speech) })
	}
	all.Wait()
	audio := int64(leavers) * int64(speech/time.Second) * 8000
	l.Within(20*time.Second, "recordings are on their way", func() bool { return b1.Status().Owed.Blobs > 0 })
	before, start := l.Wan(), time.Now()
	changes, rung := measure("busy", 10)
	took := time.Since(start)
	if b1.Status().Owed.Blobs == 0 {
		t.Fatal("the recordings had arrived before the end of the measurement: it says nothing")
	}
	rate := float64(l.Wan().Since(before)[[2]string{"a", "b"}].All().Bytes) * 8 / took.Seconds()
	t.Logf("%d kB of recordings; meanwhile %.0f of 64 kbit/s went to b", audio/1000, rate/1000)
	if rate < 32_000 {
		t.Errorf("the line was not busy: %.0f bit/s", rate)
	}
	if m := changes[len(changes)/2]; m > changeLimit {
		t.Errorf("a change takes %v beside recordings, want %v", m, changeLimit)
	}
	if w := rung[len(rung)-1]; w > ringLimit {
		t.Errorf("a telephone rings after %v beside recordings, want %v", w, ringLimit)
	}
	l.Within(time.Duration(audio/6000+30)*time.Second, "the recordings are there", func() bool { return b1.Status().Owed.Blobs == 0 && a1.Status().Only.Blobs == 0 })
	t.Logf("all recordings are at the other site after %v", time.Since(start).Round(time.Second))
}

// A recording is on its way over a slow line when the line is cut, and when the
// box that fetches it is killed. It goes on where it was: what crosses the line
// is little more than the recording.
func TestARecordingGoesOnAfterCutAndKill(t *testing.T) {
	l := labkit.New(t, "a", "b")
	a1 := found(l, "a", "a1")
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	a1.User("202", "--name", "Away")
	ana := registered(t, l.Host("a", "phones"), a1.Account(a1.User("201", "--name", "Ana"), 600), 440)
	l.AwaitSettled(45*time.Second, a1, b1)
	l.Slow("b", 128)
	leave(t, ana, "202", 20*time.Second)
	before := l.Wan()
	carried := func() int64 { return l.Wan().Since(before)[[2]string{"a", "b"}].All().Bytes }
	l.Within(20*time.Second, "a third of the recording has crossed", func() bool { return carried() > 55_000 })
	l.Cut("b")
	time.Sleep(5 * time.Second)
	l.Heal()
	at := carried()
	l.Within(90*time.Second, "another third has crossed", func() bool { return carried() > at+45_000 })
	b1.Kill()
	b1.Up()
	l.Within(90*time.Second, "the recording is there", func() bool { return b1.Status().Owed.Blobs == 0 && a1.Status().Only.Blobs == 0 })
	got := carried()
	t.Logf("%d octets of IP for a recording of about 168,000", got)
	if got > 240_000 {
		t.Errorf("%d octets of IP for a recording of about 168,000: it began anew", got)
	}
	if out := b1.Status(); out.Owed.Blobs != 0 {
		t.Errorf("b1 waits for %d recordings", out.Owed.Blobs)
	}
}
