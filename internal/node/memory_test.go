package node

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/config"
	"carrierclass.net/ccnode/internal/replica"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/internal/trust"
)

// crowd writes users of its site into the fleet's directory, in changes of so
// many users each.
func (b *box) crowd(n, each int) {
	b.t.Helper()
	var wg sync.WaitGroup
	gate := make(chan struct{}, 256)
	for from := 0; from < n; from += each {
		m := replica.Mutation{Scope: crdt.Fleet}
		for i := from; i < min(from+each, n); i++ {
			home := b.n.member.Site
			sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("user"), uint64(i)))
			value, err := cbor.Marshal(map[int]any{1: fmt.Sprintf("0001%07d", i), 2: fmt.Sprintf("Person %x", sum[:5]), 3: home[:], 5: uint64(b.n.engine.Now())})
			if err != nil {
				b.t.Fatal(err)
			}
			m.Writes = append(m.Writes, crdt.Write{Table: state.TableDirectory, Record: trust.SiteRecord(home, site.RecordID(sum[:])), Field: "\x01", Value: value})
		}
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			if _, err := b.n.engine.Commit(b.t.Context(), m); err != nil {
				b.t.Error(err)
			}
		})
	}
	wg.Wait()
}

// apart is a box of another site that does not keep the state of a's; that of
// the site that does is on for a moment only.
func apart(t *testing.T, a *box) *box {
	t.Helper()
	b, c := newBox(t, "b").up(a.invite("0002")), newBox(t, "c").up(a.invite("0003"))
	at := a.n.member.Site
	keeps := func() site.ID { id, _ := a.n.planNow().StandIn(at); return id }
	until(t, "somebody else keeps the site", func() bool {
		id := keeps()
		return id == b.n.member.Site || id == c.n.member.Site
	})
	if keeps() == b.n.member.Site {
		b, c = c, b
	}
	c.down()
	return b
}

// resident is a process's memory in bytes, and how much of it is pages of files
// that the kernel can drop at any time.
func resident(t *testing.T, pid int) (all, files int64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		for name, to := range map[string]*int64{"VmRSS:": &all, "RssFile:": &files} {
			if kb, ok := strings.CutPrefix(line, name); ok {
				n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(kb, "kB")), 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				*to = n << 10
			}
		}
	}
	return all, files
}

// TestMemoryOfADirectory: the program started on the disk of a box that knows all
// users of a large fleet. CCNODE_LONG=1 takes 300,000, each in a change of its own.
func TestMemoryOfADirectory(t *testing.T) {
	users, most := 20_000, int64(130<<20)
	if os.Getenv("CCNODE_LONG") == "1" {
		users, most = 300_000, 300<<20
	}
	if n, err := strconv.Atoi(os.Getenv("CCNODE_USERS")); err == nil {
		users = n
	}
	program := os.Getenv("CCNODE_BIN")
	if program == "" {
		program = filepath.Join(t.TempDir(), "ccnode")
		if out, err := exec.Command("go", "build", "-o", program, "carrierclass.net/ccnode/cmd/ccnode").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	a := newBox(t, "a").up("")
	begun := time.Now()
	b := apart(t, a)
	u := b.user("301", "Ana")
	a.crowd(users, 1)
	t.Logf("%d changes written in %v", users, time.Since(begun).Round(time.Second))
	for b.n.state.Entries() <= users && time.Since(begun) < 15*time.Minute {
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("another site's box has them after %v", time.Since(begun).Round(time.Second))
	b.down()
	a.down()
	ip := b.cfg.Listen[0].String()
	up := exec.Command(program, "--data", b.cfg.Data, "up", "--listen", ip, "--sip-port", "5060", "--mesh-port", "5870", "--api-listen", "off")
	var said lines
	up.Stdout, up.Stderr = &said, &said
	begun = time.Now()
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = up.Process.Signal(syscall.SIGTERM)
		_ = up.Wait()
	}()
	c, err := api.NewClient("unix:"+config.Socket(b.cfg.Data), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var st api.Status
	for c.Do(t.Context(), "GET", "/status", nil, &st, "") != nil || st.Users < users {
		if time.Since(begun) > 3*time.Minute {
			t.Fatalf("it does not serve: %+v, %v\n%s", st.Users, c.Do(t.Context(), "GET", "/status", nil, &st, ""), said.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Logf("it serves after %v, with %d users", time.Since(begun).Round(time.Millisecond), st.Users)
	worst := int64(0)
	look := func(what string, quiet bool) {
		rss, files := resident(t, up.Process.Pid)
		if quiet {
			worst = max(worst, rss)
		}
		t.Logf("%s: %d MB resident, %d of them pages of files", what, rss>>20, files>>20)
	}
	look("at once", false)
	time.Sleep(15 * time.Second)
	look("15 s later", true)
	name := "Anna"
	if err := c.Do(t.Context(), "PATCH", "/users/"+u.ID.String(), api.UserPatch{Name: &name}, nil, ""); err != nil {
		t.Error(err)
	}
	var found []api.User
	if err := c.Do(t.Context(), "GET", "/users?limit=200&q=person", nil, &found, ""); err != nil || len(found) != 200 {
		t.Errorf("%d found: %v", len(found), err)
	}
	look("after an edit and a search", false)
	time.Sleep(15 * time.Second)
	look("15 s later", true)
	if worst > most {
		t.Errorf("%d MB, want at most %d", worst>>20, most>>20)
	}
	t.Logf("%d users: %d MB resident", users, worst>>20)
	if t.Failed() {
		t.Log(said.String())
	}
}
