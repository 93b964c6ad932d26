package node

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"carrierclass.net/ccnode/crdt"
)

// TestARefilledBoxTakesNobodyOutOfTheDirectory: a box that lost its store looks
// after the directory before it has all of its site's users again. Nobody may
// become unknown to the fleet by that.
func TestARefilledBoxTakesNobodyOutOfTheDirectory(t *testing.T) {
	a := newBox(t, "a").up("")
	b := newBox(t, "b").up(a.invite("0002"))
	c := newBox(t, "c").up(a.invite("0002"))
	const users = 400
	for i := range users {
		b.user(fmt.Sprint(200+i), fmt.Sprint("User", i))
	}
	until(t, "the founder knows all", func() bool { return len(a.n.state.Directory()) == users })
	var least atomic.Int64
	least.Store(users)
	stop := a.n.engine.Watch(func(_ crdt.Scope, _ []crdt.Cell) {
		if n := int64(len(a.n.state.Directory())); n < least.Load() {
			least.Store(n)
		}
	})
	defer stop()
	c.down()
	if err := os.RemoveAll(filepath.Join(c.cfg.Data, "db")); err != nil {
		t.Fatal(err)
	}
	c.up("")
	until(t, "the second box has the site's users", func() bool { return len(c.n.state.Users(false)) >= users && same(b, c) })
	until(t, "all hold the same", func() bool { return same(a, b, c) })
	if n := least.Load(); n < users || len(a.n.state.Directory()) != users {
		t.Errorf("the founder knew %d of %d users for a while, and knows %d", n, users, len(a.n.state.Directory()))
	}
}
