package pair

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// mem is a KV in memory that counts writes and can refuse them.
type mem struct {
	mu     sync.Mutex
	m      map[string][]byte
	writes int
	fail   error
}

func newMem() *mem { return &mem{m: map[string][]byte{}} }

func (d *mem) Put(_ context.Context, k string, v []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return d.fail
	}
	d.writes++
	d.m[k] = v
	return nil
}

func (d *mem) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writes
}

func (d *mem) Delete(_ context.Context, k string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.m, k)
	return d.fail
}

func (d *mem) Scan(fn func(string, []byte) error) error {
	for k, v := range d.m {
		if err := fn(k, v); err != nil {
			return err
		}
	}
	return nil
}

func open(t *testing.T, self byte, d *mem) *Table {
	t.Helper()
	tab, err := Open(Config{Self: site.NodeID{self}, Disk: d, MaxExpiry: 120 * time.Second, Now: time.Now,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

var ana = site.AOR{User: "0001201", Domain: "shops.example"}

func phone(contact string) site.Binding {
	return site.Binding{AOR: ana, Contact: contact, Source: netip.MustParseAddrPort("192.0.2.7:5060"),
		Transport: site.UDP, CallID: "c", Expires: time.Now().Add(90 * time.Second), Updated: time.Now()}
}

func join(t *testing.T, a, b *Table) (cut func(bool)) {
	var mu sync.Mutex
	var down bool
	var live []net.Conn
	link := func(from site.NodeID, to *Table) func(context.Context) (net.Conn, error) {
		return func(context.Context) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if down {
				return nil, errors.New("unreachable")
			}
			x, y := net.Pipe()
			live = append(live, x, y)
			go to.Hear(from, y)
			return x, nil
		}
	}
	a.Share(link(a.cfg.Self, b))
	b.Share(link(b.cfg.Self, a))
	t.Cleanup(func() { a.Close(); b.Close() })
	return func(d bool) {
		mu.Lock()
		defer mu.Unlock()
		down = d
		for _, c := range live {
			c.Close()
		}
		live = nil
	}
}

func TestANewBindingIsAtTheOtherNodeAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da := newMem()
		a, b := open(t, 1, da), open(t, 2, newMem())
		cut := join(t, a, b)
		synctest.Wait()
		before := time.Now()
		if err := a.Bind(context.Background(), phone("sip:ana@192.0.2.7")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		got := b.Bindings(ana)
		if len(got) != 1 || got[0].Node != a.cfg.Self || time.Since(before) > 200*time.Millisecond {
			t.Fatalf("other node has %v after %v", got, time.Since(before))
		}
		if da.count() != 1 {
			t.Errorf("a new binding cost %d writes, want 1", da.count())
		}
		a.Close()
		b.Close()
		cut(true)
	})
}

// The other node was away for so long that the pause is a minute. It speaks:
// what we owe it is told at once, not when the minute is over.
func TestHearingTheOtherNodeEndsThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := open(t, 1, newMem()), open(t, 2, newMem())
		cut := join(t, a, b)
		synctest.Wait()
		cut(true)
		if err := a.Bind(context.Background(), phone("sip:ana@192.0.2.7")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if err := a.Bind(context.Background(), phone("sip:ana@192.0.2.7")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cut(false)
		before := time.Now()
		mine, theirs := net.Pipe()
		go a.Hear(b.cfg.Self, theirs)
		if err := exchange(mine, item{All: &[]site.Binding{}}, 0); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := b.Bindings(ana); len(got) != 1 || time.Since(before) > 200*time.Millisecond {
			t.Errorf("the other node has %v after %v", got, time.Since(before))
		}
		mine.Close()
		a.Close()
		b.Close()
		cut(true)
	})
}

func TestARefreshIsNotAWriteAndOutlivesTheGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := newMem(), newMem()
		a, b := open(t, 1, da), open(t, 2, db)
		cut := join(t, a, b)
		for range 20 { // 20 minutes
			if err := a.Bind(context.Background(), phone("sip:ana@192.0.2.7")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(60 * time.Second)
		}
		if da.count() != 1 || db.count() != 1 {
			t.Errorf("20 refreshes cost %d and %d writes, want 1 each", da.count(), db.count())
		}
		if len(b.Bindings(ana)) != 1 {
			t.Error("the other node forgot a phone that keeps refreshing")
		}
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if len(a.Bindings(ana))+len(b.Bindings(ana)) != 0 {
			t.Error("a binding that ran out is still there")
		}
		a.Close()
		b.Close()
		cut(true)
	})
}

func TestADeadOwnersBindingIsTriedForOneExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := open(t, 1, newMem()), open(t, 2, newMem())
		cut := join(t, a, b)
		a.Bind(context.Background(), phone("sip:ana@192.0.2.7"))
		synctest.Wait()
		cut(true)
		b.Bind(context.Background(), site.Binding{AOR: site.AOR{User: "x"}, Contact: "sip:x@y", Expires: time.Now().Add(time.Hour)})
		time.Sleep(100 * time.Second)
		if len(b.Bindings(ana)) != 1 {
			t.Error("the survivor forgot the phone at once")
		}
		time.Sleep(60 * time.Second)
		if len(b.Bindings(ana)) != 0 {
			t.Error("the survivor still rings a phone whose owner is long gone")
		}
		cut(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if len(a.Bindings(site.AOR{User: "x"})) != 1 {
			t.Error("what was owed in the cut was not told after it")
		}
		a.Close()
		b.Close()
	})
}

func TestAPhoneThatMovesBelongsToItsNewNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := open(t, 1, newMem()), open(t, 2, newMem())
		cut := join(t, a, b)
		p := phone("sip:ana@192.0.2.7")
		p.Instance = "<urn:uuid:1>"
		a.Bind(context.Background(), p)
		synctest.Wait()
		time.Sleep(time.Second)
		q := p
		q.Contact, q.Updated, q.Expires = "sip:ana@192.0.2.7:5070", time.Now(), time.Now().Add(90*time.Second)
		b.Bind(context.Background(), q)
		synctest.Wait()
		for _, tab := range []*Table{a, b} {
			got := tab.Bindings(ana)
			if len(got) != 1 || got[0].Node != b.cfg.Self || got[0].Contact != q.Contact {
				t.Errorf("got %+v, want the one binding at the new node", got)
			}
		}
		b.Unbind(context.Background(), q.Key())
		synctest.Wait()
		if len(a.Bindings(ana)) != 0 {
			t.Error("an unregistered phone is still bound at the other node")
		}
		a.Close()
		b.Close()
		cut(true)
	})
}

func TestBindingsSurviveARestartAndADiskThatRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMem()
		a := open(t, 1, d)
		odd := phone("sip:ana@192.0.2.7")
		odd.UserAgent = "half a character \xc3" // phones send what they like
		a.Bind(context.Background(), odd)
		a.Close()
		d.m["damaged"] = []byte("nonsense")
		a = open(t, 1, d)
		if len(a.Bindings(ana)) != 1 {
			t.Fatal("a binding was lost by a restart")
		}
		d.fail = errors.New("disk full")
		if err := a.Bind(context.Background(), phone("sip:ana@192.0.2.8")); err != nil {
			t.Fatalf("a full disk silenced a phone: %v", err)
		}
		if len(a.Bindings(ana)) != 2 {
			t.Error("the binding is not even in memory")
		}
		a.Close()
	})
}
