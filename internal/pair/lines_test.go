package pair

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/site"
)

// A cable between two Lines: it can be cut, or swallow what is sent.
type cable struct {
	mu    sync.Mutex
	down  bool
	deaf  bool
	ends  []net.Conn
	dials int
}

func (k *cable) link(from site.NodeID, to *Lines) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.dials++
		if k.down {
			return nil, errors.New("unreachable")
		}
		x, y := net.Pipe()
		k.ends = append(k.ends, x, y)
		if k.deaf {
			go func() { _, _ = bufio.NewReader(y).WriteTo(discard{}) }()
			return x, nil
		}
		go to.Hear(from, y)
		return x, nil
	}
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func (k *cable) cut(down bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.down = down
	for _, c := range k.ends {
		c.Close()
	}
	k.ends = nil
}

func two(t *testing.T, k *cable) (a, b *Lines) {
	a = NewLines(site.NodeID{1}, time.Now, slog.New(slog.DiscardHandler))
	b = NewLines(site.NodeID{2}, time.Now, slog.New(slog.DiscardHandler))
	a.Share(k.link(a.self, b))
	b.Share(k.link(b.self, a))
	t.Cleanup(func() { a.Close(); b.Close(); k.cut(true) })
	synctest.Wait()
	return a, b
}

func settle(l *Lines, x Arrival) (bool, func()) {
	release, mine := l.Settle(context.Background(), x)
	return mine, release
}

func TestOneNodeHasACallThatArrivesAtBoth(t *testing.T) {
	for i := range 20 { // each node gets some of those that arrive in one instant
		synctest.Test(t, func(t *testing.T) {
			a, b := two(t, &cable{})
			x := Arrival{Exact: fmt.Sprint("call ", i), Alike: "line +1 +2"}
			var at [2]bool
			var wg sync.WaitGroup
			began := time.Now()
			for n, l := range []*Lines{a, b} {
				wg.Go(func() { at[n], _ = settle(l, x) })
			}
			wg.Wait()
			if at[0] == at[1] {
				t.Errorf("call %d: a has it: %v, b has it: %v", i, at[0], at[1])
			}
			if took := time.Since(began); took >= SettleWithin {
				t.Errorf("it took %v", took)
			}
		})
	}
}

func TestTheSecondCopyFindsTheCallTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := two(t, &cable{})
		x := Arrival{Exact: "one", Alike: "line +1 +2"}
		mine, over := settle(a, x)
		if !mine {
			t.Fatal("nobody else has it")
		}
		if again, _ := settle(a, x); again {
			t.Error("the same request, merged (RFC 3261 §8.2.2.2), is a call twice")
		}
		time.Sleep(500 * time.Millisecond)
		if other, _ := settle(b, x); other {
			t.Error("both have it")
		}
		if other, _ := settle(b, Arrival{Exact: "by another Call-ID", Alike: x.Alike}); other {
			t.Error("both have it, by two Call-IDs")
		}
		if other, _ := settle(b, Arrival{Exact: "of another caller", Alike: "line +3 +2"}); !other {
			t.Error("another call was taken for the same")
		}
		if same, _ := settle(a, Arrival{Exact: "second call of the caller", Alike: x.Alike}); !same {
			t.Error("a second call at the node that has the first was refused")
		}
		time.Sleep(Moment)
		over() // nobody was there: the provider tries the other node
		synctest.Wait()
		if other, _ := settle(b, x); !other {
			t.Error("the other node refuses a call that the first has given up")
		}
	})
}

func TestALaterCallOfTheSameCallerIsACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := two(t, &cable{})
		if mine, _ := settle(a, Arrival{"one", "line +1 +2"}); !mine {
			t.Fatal("nobody else has it")
		}
		time.Sleep(Moment)
		if mine, _ := settle(b, Arrival{"two", "line +1 +2"}); !mine {
			t.Error("refused")
		}
	})
}

func TestEachServesWhatItGetsWithoutALink(t *testing.T) {
	for what, k := range map[string]*cable{"cut": {down: true}, "deaf": {deaf: true}} {
		synctest.Test(t, func(t *testing.T) {
			a, b := two(t, k)
			for _, l := range []*Lines{a, b} {
				began := time.Now()
				if mine, _ := settle(l, Arrival{"one", "line +1 +2"}); !mine {
					t.Errorf("%s: nobody serves it", what)
				}
				if took := time.Since(began); took > SettleWithin {
					t.Errorf("%s: it took %v", what, took)
				}
			}
		})
	}
}

func TestADeadNodeHasNoCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &cable{}
		a, b := two(t, k)
		if mine, _ := settle(a, Arrival{"one", "line +1 +2"}); !mine {
			t.Fatal("nobody else has it")
		}
		k.cut(true)
		synctest.Wait()
		if mine, _ := settle(b, Arrival{"one", "line +1 +2"}); !mine {
			t.Error("the provider tries the survivor, which refuses")
		}
	})
}

func TestACallBackIsKnownAtBothNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &cable{}
		a, b := two(t, k)
		r := func(line string) Rescue {
			return Rescue{"+33472001200", line, time.Now(), time.Now().Add(time.Hour)}
		}
		a.Rescue(r("0001201"))
		synctest.Wait()
		if got := b.Rescued("+33472001200"); got != "0001201" {
			t.Errorf("the other node would ring %q", got)
		}
		k.cut(true) // the later call counts, on whichever side of a cut it was made
		synctest.Wait()
		time.Sleep(time.Minute)
		b.Rescue(r("0001202"))
		time.Sleep(time.Minute)
		if got := a.Rescued("+33472001200"); got != "0001201" {
			t.Errorf("through a cut: %q", got)
		}
		k.cut(false)
		time.Sleep(maxWait)
		synctest.Wait()
		if got := a.Rescued("+33472001200"); got != "0001202" {
			t.Errorf("after the cut: %q", got)
		}
		// One that comes up later asks.
		c := NewLines(site.NodeID{3}, time.Now, slog.New(slog.DiscardHandler))
		defer c.Close()
		c.Share(k.link(c.self, b))
		synctest.Wait()
		if got := c.Rescued("+33472001200"); got != "0001202" {
			t.Errorf("after a restart: %q", got)
		}
		time.Sleep(time.Hour)
		if got := b.Rescued("+33472001200"); got != "" {
			t.Errorf("an hour later: %q", got)
		}
	})
}

func TestAnIdlePairSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &cable{}
		two(t, k)
		time.Sleep(24 * time.Hour)
		if k.dials != 2 {
			t.Errorf("%d streams in a day", k.dials)
		}
	})
}

func FuzzLines(f *testing.F) {
	item, err := cbor.Marshal(lineItem{ID: 1, Claim: &claim{[]byte("x"), nil}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(item))), item...))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := NewLines(site.NodeID{1}, time.Now, slog.New(slog.DiscardHandler))
		r := bufio.NewReader(bytes.NewReader(b))
		for {
			it, err := readLine(r)
			if err != nil {
				return
			}
			l.learn(it.Rescues)
			if it.Claim != nil {
				l.claimed(*it.Claim, site.NodeID{2}, 1)
			}
			l.released(it.Release)
		}
	})
}
