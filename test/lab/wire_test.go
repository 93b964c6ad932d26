package lab

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// rename gives each user a name of its own by requests to a node, all at once,
// and returns the names by extension. Each was acknowledged.
func rename(t *testing.T, n *labkit.Node, from, count int, what string) map[string]string {
	t.Helper()
	names := map[string]string{}
	var all sync.WaitGroup
	for i := range count {
		number, name := ext(from+i), fmt.Sprintf("%s %d", what, i+1)
		names[number] = name
		all.Go(func() {
			if err := n.Ask(http.MethodPatch, "/users/"+number, api.UserPatch{Name: &name}, &api.User{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	return names
}

// lacks counts the names that a node does not show for a site's users.
func lacks(t *testing.T, n *labkit.Node, site string, names map[string]string) (missing int) {
	t.Helper()
	var all []api.User
	if err := n.Get("/users", &all); err != nil {
		t.Fatal(err)
	}
	has := map[string]string{}
	for _, u := range all {
		if u.Site == site {
			has[u.Extension] = u.Name
		}
	}
	for number, name := range names {
		if has[number] != name {
			missing++
			if missing == 1 {
				t.Errorf("%s shows %q for %s of site %s, want %q", n.Host.Name, has[number], number, site, name)
			}
		}
	}
	return missing
}

// A hundred acknowledged edits, fifty at each of two sites, over 64 kbit/s with
// every twentieth packet lost both ways: both sites end up with all of them. An
// edit of a user is two changes where the other site keeps its site's state,
// and of a change 64 octets are a signature, which nothing makes smaller: that
// is the lower bound. The same edits over a clean line are counted, too.
func TestWireSlow(t *testing.T) {
	const each = 50 // edits at each site
	l := labkit.New(t, "a", "b")
	a1 := found(l, "a", "a1")
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	load(t, a1, 300, each)
	load(t, b1, 400, each)
	l.AwaitSettled(30*time.Second, a1, b1)
	edits := func(what string) {
		before := l.Wan()
		start := time.Now()
		var an, bn map[string]string
		var both sync.WaitGroup
		both.Go(func() { an = rename(t, a1, 300, each, "Ana "+what) })
		both.Go(func() { bn = rename(t, b1, 400, each, "Bea "+what) })
		both.Wait()
		acked := time.Since(start)
		l.AwaitSettled(60*time.Second, a1, b1)
		took := time.Since(start)
		quiet(l, 45*time.Second)
		d := l.Wan().Since(before).Sum()
		bytes := d.All().Bytes
		const changes = 4 * each
		t.Logf("%s: %d edits acknowledged in %v, at both sites after %v: %d octets of IP in %d packets, %d of them lost; %.0f a change, %.1f times the signatures alone",
			what, 2*each, acked.Round(time.Millisecond), took.Round(time.Millisecond), bytes, d.All().Packets, d.All().Packets-d.Through.Packets,
			float64(bytes)/changes, float64(bytes)/(64*changes))
		for _, n := range []*labkit.Node{a1, b1} {
			if m := lacks(t, n, "0001", an) + lacks(t, n, "0002", bn); m > 0 {
				t.Errorf("%s: %s lacks %d of %d acknowledged edits", what, n.Host.Name, m, 2*each)
			}
		}
		if bytes > editLimit*changes {
			t.Errorf("%s: %d octets for %d changes, want at most %d each, as if each went alone", what, bytes, changes, editLimit)
		}
	}
	edits("clean")
	l.Slow("a", 64)
	l.Slow("b", 64)
	l.Lose(5)
	edits("slow")
	l.Heal()
}

// smallDisk mounts a file system of its own below a node's data folder, which
// does not exist yet, and returns where.
func smallDisk(t *testing.T, n *labkit.Node, bytes int64) (dir string) {
	t.Helper()
	dir = filepath.Dir(n.Data)
	if err := syscall.Mount("ccnode", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Fatalf("no small disk can be mounted here: %v; give the test the right to mount", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fill writes a file until no more than that many octets are free.
func fill(t *testing.T, dir string, left int64) (file string) {
	t.Helper()
	file = filepath.Join(dir, "someone-else")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		free, _, err := disk.FreeBytes(dir)
		if err != nil {
			t.Fatal(err)
		}
		if free <= left {
			return file
		}
		if _, err := f.Write(make([]byte, min(free-left, 8<<20))); err != nil {
			return file // not a byte more goes in
		}
	}
}

// flip changes bits in the files of a node's store and says where.
func flip(t *testing.T, n *labkit.Node, r *rand.Rand, bits int) (how []string) {
	t.Helper()
	var files []string
	db := filepath.Join(n.Data, "db")
	err := filepath.WalkDir(db, func(name string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "lock" && d.Name() != "ballast" && !strings.Contains(name, "damaged") {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for len(how) < bits && len(files) > 0 {
		i := r.IntN(len(files))
		b, err := os.ReadFile(files[i])
		if err != nil {
			t.Fatal(err)
		}
		used := len(b)
		for used > 0 && b[used-1] == 0 { // a log is cut to length only when it is closed
			used--
		}
		if used == 0 {
			files = append(files[:i], files[i+1:]...)
			continue
		}
		at := r.IntN(used)
		b[at] ^= 1 << r.IntN(8)
		if err := os.WriteFile(files[i], b, 0o600); err != nil {
			t.Fatal(err)
		}
		how = append(how, fmt.Sprintf("%s at %d", filepath.Base(files[i]), at))
	}
	return how
}
