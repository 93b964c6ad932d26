package box

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// TestMemoryOfMany is a box with 300,000 users, after a restart. CCNODE_USERS
// makes fewer: the figure is then that of so many.
func TestMemoryOfMany(t *testing.T) {
	if !long() {
		t.Skip("takes many minutes: CCNODE_LONG=1")
	}
	users, most := 300_000, int64(300<<20)
	if n, err := strconv.Atoi(os.Getenv("CCNODE_USERS")); err == nil {
		users = n
	}
	b := newBox(t)
	b.up("--domain", "shops.example", "--site", "01", "--extension-digits", "6")
	begun := time.Now()
	b.imports(staff(t, users))
	t.Logf("%d users made in %.0f s; then %d MB resident", users, time.Since(begun).Seconds(), b.rss()>>20)
	b.term()
	begun = time.Now()
	b.start()
	b.ready(5 * time.Minute)
	t.Logf("restarted with them in %.1f s", time.Since(begun).Seconds())
	time.Sleep(5 * time.Second)
	if s := b.status(); s.Users != users {
		t.Errorf("%d users", s.Users)
	}
	rss := b.rss()
	t.Logf("%d users after a restart: %d MB resident, goal %d MB", users, rss>>20, most>>20)
	if rss > most {
		t.Errorf("%d MB, want at most %d MB", rss>>20, most>>20)
	}
}
