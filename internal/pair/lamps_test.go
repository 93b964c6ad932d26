package pair

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/internal/site"
)

// board is a LampBoard of two nodes.
type board struct {
	mu     sync.Mutex
	own    map[string][]Lamp
	theirs map[string]LampCall
	told   int
}

func newBoard() *board { return &board{own: map[string][]Lamp{}, theirs: map[string]LampCall{}} }

func (b *board) Chains() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.own))
}
func (b *board) Call(chain string) LampCall {
	b.mu.Lock()
	defer b.mu.Unlock()
	return LampCall{chain, b.own[chain]}
}
func (b *board) Learn(from site.NodeID, c LampCall) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told++
	if len(c.Lamps) == 0 {
		delete(b.theirs, c.Chain)
		return
	}
	b.theirs[c.Chain] = c
}
func (b *board) Keep(from site.NodeID, chains map[string]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps.DeleteFunc(b.theirs, func(chain string, _ LampCall) bool { return !chains[chain] })
}
func (b *board) set(chain string, lamps ...Lamp) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.own[chain] = lamps
	if len(lamps) == 0 {
		delete(b.own, chain)
	}
}
func (b *board) shows() string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, chain := range slices.Sorted(maps.Keys(b.theirs)) {
		for _, l := range b.theirs[chain].Lamps {
			out = append(out, fmt.Sprintf("%s %s %v %s", chain, l.AOR.User, l.Confirmed, l.Remote.Display))
		}
	}
	return strings.Join(out, ", ")
}

type lampNode struct {
	id    site.NodeID
	board *board
	lamps *Lamps
}

func newLampNode(id byte) *lampNode {
	n := &lampNode{id: site.NodeID{id}, board: newBoard()}
	n.lamps = NewLamps(n.board, slog.New(slog.DiscardHandler))
	return n
}

func (n *lampNode) set(chain string, lamps ...Lamp) {
	n.board.set(chain, lamps...)
	n.lamps.Tell(chain)
}

// patch joins two nodes with a cable that can be cut.
func patch(t *testing.T, k *cable, a, b *lampNode) {
	link := func(from, to *lampNode) func(context.Context) (net.Conn, error) {
		return func(context.Context) (net.Conn, error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.dials++
			if k.down {
				return nil, errors.New("unreachable")
			}
			x, y := net.Pipe()
			k.ends = append(k.ends, x, y)
			go to.lamps.Hear(from.id, y)
			return x, nil
		}
	}
	a.lamps.Share(b.id, link(a, b))
	b.lamps.Share(a.id, link(b, a))
	t.Cleanup(func() { a.lamps.Close(); b.lamps.Close(); k.cut(true) })
	synctest.Wait()
}

var rings = Lamp{AOR: site.AOR{User: "0001202", Domain: "shops.example"}, Recipient: true, Remote: site.Party{Display: "Ana"}}

func talks() Lamp { l := rings; l.Confirmed = true; return l }

func TestThePairShowsTheCallsOfBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, k := newLampNode(1), newLampNode(2), &cable{}
		a.set("before", rings)
		patch(t, k, a, b)
		if got := b.board.shows(); got != "before 0001202 false Ana" {
			t.Errorf("when the link came up: %q", got)
		}
		a.set("call", rings)
		a.set("before")
		b.set("other", talks())
		if got := b.board.shows(); got != "call 0001202 false Ana" {
			t.Errorf("told: %q", got)
		}
		if got := a.board.shows(); got != "other 0001202 true Ana" {
			t.Errorf("the other way: %q", got)
		}
		a.set("call", talks())
		if got := b.board.shows(); got != "call 0001202 true Ana" {
			t.Errorf("answered: %q", got)
		}
		told, dials := b.board.told, k.dials
		time.Sleep(24 * time.Hour)
		if b.board.told != told || k.dials != dials {
			t.Errorf("an idle pair told %d calls over %d new streams in a day", b.board.told-told, k.dials-dials)
		}
	})
}

func TestALostStreamPutsNoLampOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, k := newLampNode(1), newLampNode(2), &cable{}
		patch(t, k, a, b)
		a.set("call", rings)
		synctest.Wait()
		k.cut(false)
		for range 100 {
			if got := b.board.shows(); got != "call 0001202 false Ana" {
				t.Fatalf("shown through a lost stream: %q", got)
			}
			time.Sleep(200 * time.Millisecond)
		}
		a.set("call")
		if got := b.board.shows(); got != "" {
			t.Errorf("after the call: %q", got)
		}
	})
}

// A first attempt that the other node refuses, as when it has not heard yet that
// we are of its site, is no reason to end what it tells us.
func TestARefusedBeginningIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, k := newLampNode(1), newLampNode(2), &cable{}
		t.Cleanup(func() { a.lamps.Close(); b.lamps.Close(); k.cut(true) })
		var heard, dials atomic.Int32
		b.lamps.Share(a.id, func(context.Context) (net.Conn, error) {
			x, y := net.Pipe()
			heard.Add(1)
			go a.lamps.Hear(b.id, y)
			return x, nil
		})
		synctest.Wait()
		a.lamps.Share(b.id, func(context.Context) (net.Conn, error) {
			if dials.Add(1) == 1 {
				return nil, errors.New("it does not know us")
			}
			x, y := net.Pipe()
			go b.lamps.Hear(a.id, y)
			return x, nil
		})
		time.Sleep(time.Hour)
		if heard.Load() != 1 || dials.Load() != 2 {
			t.Errorf("%d streams came and %d went, want 1 and 2", heard.Load(), dials.Load())
		}
	})
}

func TestTheLampsOfALostNodeGoOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, k := newLampNode(1), newLampNode(2), &cable{}
		patch(t, k, a, b)
		a.set("call", rings)
		synctest.Wait()
		k.cut(true)
		time.Sleep(LampsKept - time.Millisecond)
		if b.board.shows() == "" {
			t.Error("out too early")
		}
		time.Sleep(2 * time.Millisecond)
		if got := b.board.shows(); got != "" {
			t.Errorf("a lost node shows %q", got)
		}
		a.set("call", talks())
		k.cut(false)
		time.Sleep(maxWait)
		if got := b.board.shows(); got != "call 0001202 true Ana" {
			t.Errorf("when it is back: %q", got)
		}
		k.cut(true)
		b.lamps.Share(site.NodeID{}, nil)
		if got := b.board.shows(); got != "" {
			t.Errorf("of a node that left the site: %q", got)
		}
	})
}

// A node that stops without a word is found out when it is told something.
func TestTheLampsOfADeafNodeGoOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newLampNode(1), newLampNode(2)
		t.Cleanup(func() { a.lamps.Close(); b.lamps.Close() })
		x, y := net.Pipe() // a tells b once and is never heard again
		go b.lamps.Hear(a.id, y)
		go bufio.NewReader(x).WriteTo(discard{})
		if err := writeLamps(x, lampItem{All: true, Calls: []LampCall{{"call", []Lamp{rings}}}}); err != nil {
			t.Fatal(err)
		}
		b.lamps.Share(a.id, func(context.Context) (net.Conn, error) {
			p, q := net.Pipe()
			go bufio.NewReader(q).WriteTo(discard{})
			return p, nil
		})
		if b.board.shows() == "" {
			t.Fatal("nothing was learnt")
		}
		time.Sleep(ackWait + LampsKept + time.Millisecond)
		if got := b.board.shows(); got != "" {
			t.Errorf("a deaf node shows %q", got)
		}
	})
}

// A node that dies without a word, while nobody calls, is found out as soon as
// anything else cannot be told to it.
func TestADoubtedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, k := newLampNode(1), newLampNode(2), &cable{}
		patch(t, k, a, b)
		a.set("call", rings)
		synctest.Wait()
		dials := k.dials
		b.lamps.Doubt()
		time.Sleep(time.Hour)
		if b.board.shows() == "" || k.dials != dials {
			t.Error("a node that is there was taken for gone")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := newLampNode(2)
		t.Cleanup(b.lamps.Close)
		x, y := net.Pipe() // told b of a call, and stays open
		go b.lamps.Hear(site.NodeID{1}, y)
		go bufio.NewReader(x).WriteTo(discard{})
		if err := writeLamps(x, lampItem{All: true, Calls: []LampCall{{"call", []Lamp{rings}}}}); err != nil {
			t.Fatal(err)
		}
		var dead atomic.Bool
		b.lamps.Share(site.NodeID{1}, func(context.Context) (net.Conn, error) {
			p, q := net.Pipe()
			lives := !dead.Swap(true)
			go func() { // takes the snapshot, and dies
				r := bufio.NewReader(q)
				if _, err := readLamps(r); err == nil && lives {
					q.Write([]byte{1})
				}
				r.WriteTo(discard{})
			}()
			return p, nil
		})
		time.Sleep(time.Hour)
		if b.board.shows() == "" {
			t.Error("silence was taken for death")
		}
		b.lamps.Doubt()
		time.Sleep(ackWait + LampsKept + time.Millisecond)
		if got := b.board.shows(); got != "" {
			t.Errorf("a dead node shows %q", got)
		}
	})
}

func FuzzLamps(f *testing.F) {
	frame := func(it lampItem) []byte {
		b, err := cbor.Marshal(it)
		if err != nil {
			f.Fatal(err)
		}
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
	}
	f.Add(frame(lampItem{All: true, Calls: []LampCall{{"one", []Lamp{rings}}, {"two", nil}}}))
	f.Add([]byte{0, 127, 255, 255, 0xa1})
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, in []byte) {
		n := newLampNode(1)
		x, y := net.Pipe()
		defer x.Close()
		if !n.lamps.opened(site.NodeID{2}, y) {
			t.Fatal("closed")
		}
		r := bufio.NewReader(bytes.NewReader(in))
		for {
			it, err := readLamps(r)
			if err != nil {
				return
			}
			if err := n.lamps.learn(site.NodeID{2}, y, it); err != nil {
				t.Fatal(err)
			}
			back, err := cbor.Marshal(it)
			if err != nil {
				t.Fatal(err)
			}
			var same lampItem
			if err := decode.Unmarshal(back, &same); err != nil {
				t.Fatal(err)
			}
		}
	})
}
