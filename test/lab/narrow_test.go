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

// A line of 64 kbit/s each way with a round trip of 300 ms is full both ways, with
// recordings and with changes that catch up. Each call to a user of the other site
// rings that user's telephone: none is diverted to a mailbox, or refused, because
// the site was taken for dead.
func TestCallsOverAFullLine(t *testing.T) {
	const (
		ringLimit = 3 * time.Second // of a call
		coldLimit = 5 * time.Second // of the first: six round trips to open the connection for signalling, and to ring
	)
	calls, leavers, speech := long(14, 200), long(2, 6), long(25*time.Second, 60*time.Second)
	l := labkit.New(t, "a", "b")
	a1 := found(l, "a", "a1")
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	far := map[*labkit.Node]*labkit.Host{a1: l.Host("a", "phones-a"), b1: l.Host("b", "phones-b")}
	callers := map[*labkit.Node]*labkit.Baresip{}
	for _, n := range []*labkit.Node{a1, b1} {
		n.User("202", "--name", "Away")
		callers[n] = registered(t, far[n], n.Account(n.User("201", "--name", "Caller"), 600), 440)
		load(t, n, 300, 50)
	}
	l.AwaitSettled(45*time.Second, a1, b1)
	l.Line(64, 300*time.Millisecond)

	var all, busy sync.WaitGroup
	for k, n := range []*labkit.Node{a1, b1} {
		for i := range leavers { // each says something else: a recording is named by what it says
			p := registered(t, far[n], n.Account(n.User(ext(210+i)), 600), 500+100*i+37*k)
			all.Go(func() { leave(t, p, "202", speech) })
		}
	}
	all.Wait()
	l.Within(20*time.Second, "recordings are on their way", func() bool { return b1.Status().Owed.Blobs > 0 && a1.Status().Owed.Blobs > 0 })
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop); busy.Wait() })
	defer end()
	for _, n := range []*labkit.Node{a1, b1} { // what a backlog is: more changes than the line carries
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(30 * time.Millisecond):
				}
				name := fmt.Sprintf("Seller %d of a name that is not short", i)
				if err := n.Ask(http.MethodPatch, "/users/"+ext(300+i%50), api.UserPatch{Name: &name}, &api.User{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	time.Sleep(5 * time.Second) // the backlog grows
	before, start := l.Wan(), time.Now()
	var took []time.Duration
	var cold time.Duration
	diverted := 0
	for i := range calls {
		from, to, number := callers[a1], callers[b1], "80002201"
		if i%2 == 1 {
			from, to, number = callers[b1], callers[a1], "80001201"
		}
		mark, rings, dialled := from.Mark(), to.Mark(), time.Now()
		from.Dial(number)
		if _, ok := to.Await2(rings, "CALL_INCOMING", 10*time.Second); !ok {
			diverted++
			from.Await(mark, "CALL_ESTABLISHED|CALL_CLOSED", 5*time.Second)
			from.Hangup()
			time.Sleep(time.Second)
			continue
		}
		if i == 0 {
			cold = time.Since(dialled)
		} else {
			took = append(took, time.Since(dialled))
		}
		from.Hangup()
		from.Await(mark, "CALL_CLOSED", 5*time.Second)
		to.Await(rings, "CALL_CLOSED", 10*time.Second)
		time.Sleep(300 * time.Millisecond)
	}
	elapsed, d := time.Since(start), l.Wan().Since(before)
	owed := b1.Status().Owed.Blobs > 0 && a1.Status().Owed.Blobs > 0
	end()
	slices.Sort(took)
	rate := func(from, to string) float64 {
		return float64(d[[2]string{from, to}].All().Bytes) * 8 / elapsed.Seconds() / 1000
	}
	if len(took) == 0 {
		t.Fatalf("all of %d calls were diverted", calls)
	}
	t.Logf("%d of %d calls diverted; the first rings after %v, the others after median %v, worst %v; meanwhile %.0f and %.0f of 64 kbit/s",
		diverted, calls, cold.Round(time.Millisecond), took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), rate("a", "b"), rate("b", "a"))
	if diverted > 0 {
		t.Errorf("%d of %d calls were diverted, want none", diverted, calls)
	}
	if w := took[len(took)-1]; w > ringLimit {
		t.Errorf("a telephone rings after %v, want %v", w, ringLimit)
	}
	if cold > coldLimit {
		t.Errorf("the first call rings after %v, want %v", cold, coldLimit)
	}
	if !owed || rate("a", "b") < 45 || rate("b", "a") < 45 {
		t.Errorf("the line was not full all the time (recordings owed both ways: %v): the test says nothing", owed)
	}
}

// A site has been cut off while five thousand changes were made elsewhere. While
// they catch up at 64 kbit/s, what a person changes now is at the other site as
// soon as over an idle line, almost: it does not wait for its turn.
func TestAnEditPassesABacklog(t *testing.T) {
	const (
		users = 560 // and what a person sets of each
		limit = 2 * time.Second
	)
	l := labkit.New(t, "a", "b")
	a1 := found(l, "a", "a1")
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	a1.User("201", "--name", "Ana")
	load(t, a1, 300, 50)
	l.AwaitSettled(45*time.Second, a1, b1)
	l.Cut("b")
	var making sync.WaitGroup
	numbers := make(chan int)
	for range 50 {
		making.Go(func() {
			for i := range numbers {
				err := a1.Ask(http.MethodPost, "/users", api.NewUser{Number: ext(i), Name: fmt.Sprintf("Seller %d", i), Password: "Lab-Password-17"}, &api.User{})
				ring, yes, to, class := 30+i%60, true, "201", "national"
				for _, p := range []api.UserPatch{{RingSeconds: &ring}, {AlwaysPIN: &yes}, {ForwardBusy: &to}, {ForwardOffline: &to}, {ForwardNoAnswer: &to}, {Class: &class}, {DoNotDisturb: &yes}} {
					if err == nil {
						err = a1.Ask(http.MethodPatch, "/users/"+ext(i), p, &api.User{})
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range users {
		numbers <- 400 + i
	}
	close(numbers)
	making.Wait()
	owed := a1.Status().Owed.Changes
	l.Line(64, 300*time.Millisecond)
	l.Heal()
	start, before := time.Now(), l.Wan()
	l.Within(90*time.Second, "the backlog is on its way", func() bool {
		return l.Wan().Since(before)[[2]string{"a", "b"}].All().Bytes > 20_000
	})
	var took []time.Duration
	since := time.Now()
	before = l.Wan()
	for i := range long(8, 20) {
		time.Sleep(1500 * time.Millisecond)
		name := fmt.Sprintf("Ana %d", i)
		if err := a1.Ask(http.MethodPatch, "/users/0001201", api.UserPatch{Name: &name}, &api.User{}); err != nil {
			t.Error(err)
		}
		took = append(took, l.Within(150*time.Second, name+" is at the other site", func() bool {
			var u api.User
			return b1.Get("/users/0001201", &u) == nil && u.Name == name
		}))
		if a1.Status().Owed.Changes == 0 {
			t.Fatalf("all had arrived after %v: the measurement says nothing; an edit took %v", time.Since(start), took)
		}
	}
	rate := float64(l.Wan().Since(before)[[2]string{"a", "b"}].All().Bytes) * 8 / time.Since(since).Seconds() / 1000
	slices.Sort(took)
	t.Logf("%d changes owed at the heal; an edit is at the other site after median %v, worst %v; meanwhile %.0f of 64 kbit/s; %d still owed %v after the heal", owed, took[len(took)/2].Round(time.Millisecond),
		took[len(took)-1].Round(time.Millisecond), rate, a1.Status().Owed.Changes, time.Since(start).Round(time.Second))
	if w := took[len(took)-1]; w > limit {
		t.Errorf("an edit takes %v behind a backlog, want %v", w, limit)
	}
	if rate < 45 {
		t.Errorf("the backlog uses %.0f of 64 kbit/s", rate)
	}
	l.Line(0, 0)
	l.AwaitSettled(60*time.Second, a1, b1)
}
