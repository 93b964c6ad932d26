package pair

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// slow is a disk on which a deletion takes a second.
type slow struct{ *mem }

func (d slow) Delete(ctx context.Context, k string) error {
	time.Sleep(time.Second)
	return d.mem.Delete(ctx, k)
}

// TestAPhoneThatComesBackAsItsBindingEndsIsOnTheDisk: the old binding is being
// taken off the disk while the new one is acknowledged.
func TestAPhoneThatComesBackAsItsBindingEndsIsOnTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMem()
		tab, err := Open(Config{Self: [16]byte{1}, Disk: slow{d}, MaxExpiry: 120 * time.Second, Now: time.Now, Log: open(t, 2, newMem()).cfg.Log})
		if err != nil {
			t.Fatal(err)
		}
		defer tab.Close()
		if err := tab.Bind(t.Context(), phone("sip:1@192.0.2.7")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(90*time.Second + 500*time.Millisecond) // it has run out, and is being deleted
		synctest.Wait()
		if n := len(tab.Bindings(ana)); n != 0 {
			t.Fatalf("%d bindings after they ran out", n)
		}
		if err := tab.Bind(t.Context(), phone("sip:1@192.0.2.7")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		again := open(t, 1, d)
		defer again.Close()
		if len(tab.Bindings(ana)) != 1 || len(again.Bindings(ana)) != 1 {
			t.Error("an acknowledged binding is not on the disk")
		}
	})
}
