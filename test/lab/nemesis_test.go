package lab

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// writer makes users at a node, one after the other, and remembers those that
// were acknowledged. A node that is down refuses; the writer tries again.
type writer struct {
	node *labkit.Node
	mu   sync.Mutex
	done []string // full numbers
}

func (w *writer) run(stop *atomic.Bool, prefix string) {
	for i := 0; !stop.Load(); i++ {
		var u api.User
		name := fmt.Sprintf("%s %d", prefix, i)
		err := w.node.Ask("POST", "/users", api.NewUser{Number: ext(100 + i), Name: name, Password: "irrelevant-here"}, &u)
		if err == nil {
			w.mu.Lock()
			w.done = append(w.done, u.ID.String()+" "+name)
			w.mu.Unlock()
		}
		time.Sleep(long(60*time.Millisecond, 700*time.Millisecond)) // an administrator in a hurry
	}
}

// Four nodes at three sites. For a while sites are cut off and healed, nodes
// killed and started, links lost one way, in an order drawn from a seed, and
// all the while every node takes new users. Afterwards no acknowledged user is
// missing anywhere and all nodes hold the same.
func TestRandomCuts(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("CCNODE_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("CCNODE_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	l := labkit.New(t, "a", "b", "c")
	sites := []string{"a", "b", "c"}
	a1 := found(l, "a", "a1")
	nodes := []*labkit.Node{a1, join(l, "a", "a2", a1), join(l, "b", "b1", a1, "--site", "0002"), join(l, "c", "c1", a1, "--site", "0003")}
	l.AwaitSettled(30*time.Second, nodes...)

	var stop atomic.Bool
	var wg sync.WaitGroup
	// The two nodes of a draw from the same numbers: what one knows to be taken
	// it refuses, what it cannot know becomes a clash, and both are kept.
	writers := make([]*writer, len(nodes))
	for i, n := range nodes {
		writers[i] = &writer{node: n}
		wg.Go(func() { writers[i].run(&stop, n.Host.Name) })
	}
	kills, cuts := 0, 0
	start := time.Now()
	for time.Since(start) < long(40*time.Second, 10*time.Minute) {
		switch r.IntN(5) {
		case 0:
			l.Cut(sites[r.IntN(3)])
			cuts++
		case 1:
			from := r.IntN(3)
			l.CutWay(sites[from], sites[(from+1+r.IntN(2))%3])
			cuts++
		case 2:
			l.Lose(30)
		case 3:
			l.Heal()
		case 4:
			n := nodes[r.IntN(len(nodes))]
			n.Kill()
			kills++
			time.Sleep(time.Duration(r.IntN(800)) * time.Millisecond)
			n.Up()
		}
		time.Sleep(time.Duration(300+r.IntN(1500)) * time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	away := time.Since(start)
	l.Heal()
	took := l.AwaitSettled(away+30*time.Second, nodes...)

	acknowledged := 0
	for _, n := range nodes {
		var all []api.User
		if err := n.Get("/users", &all); err != nil {
			t.Fatal(err)
		}
		has := map[string]bool{}
		for _, u := range all {
			has[u.ID.String()+" "+u.Name] = true
		}
		acknowledged = 0
		for _, w := range writers {
			acknowledged += len(w.done)
			lost := 0
			for _, u := range w.done {
				if !has[u] {
					lost++
					if lost == 1 {
						t.Errorf("%s lacks %q, acknowledged at %s", n.Host.Name, u, w.node.Host.Name)
					}
				}
			}
			if lost > 1 {
				t.Errorf("%s lacks %d of %d acknowledged at %s", n.Host.Name, lost, len(w.done), w.node.Host.Name)
			}
		}
	}
	t.Logf("%d cuts, %d kills, %d acknowledged users, settled %v after the heal", cuts, kills, acknowledged, took.Round(100*time.Millisecond))
	if kills == 0 || cuts == 0 || acknowledged < 100 {
		t.Errorf("%d kills, %d cuts, %d users: this proves nothing", kills, cuts, acknowledged)
	}
}
