package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// An administrator at one shop's box looks after another shop: while the line
// stands the other shop's box does it; in a cut the change is kept, over a kill
// -9, and counts when the line is back, without a merge, because it had seen what
// was there.
func TestAnAdministratorElsewhere(t *testing.T) {
	l := labkit.New(t, "a", "b")
	a1 := found(l, "a", "a1")
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	a1.User("201", "--name", "Ana")
	pw := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(pw, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a1.Must("admin", "create", "ann", "--fleet", "--password-file", pw)
	a1.Must("admin", "create", "bob", "--password-file", pw)
	l.AwaitSettled(30*time.Second, a1, b1)
	if out, err := b1.CLI("login", "bob", "--password-file", pw); err == nil || !strings.Contains(out, "administrator of sites 0001") {
		t.Errorf("bob of site 0001 logs in at site 0002: %v %s", err, out)
	}
	for _, args := range [][]string{{"user", "set", "0001201", "--name", "Eve"}, {"--at", "0001", "user", "list"}} {
		if out, err := b1.CLI(args...); err == nil || !strings.Contains(out, "log in as an administrator") {
			t.Errorf("ccnode %v without a log-in: %v %s", args, err, out)
		}
	}
	token := strings.TrimSpace(b1.Must("login", "ann", "--password-file", pw))
	ann := func(args ...string) string {
		t.Helper()
		return b1.Must(append([]string{"--token", token}, args...)...)
	}
	quiet(l, 45*time.Second)
	before := l.Wan()
	if out := ann("user", "set", "0001201", "--forward-all", "202"); !strings.Contains(out, "202") || strings.Contains(out, "waits") {
		t.Errorf("she changes a user of the other shop: %s", out)
	}
	quiet(l, 45*time.Second)
	t.Logf("an edit at another shop's user, done there: %d octets of IP", l.Wan().Since(before).Sum().All().Bytes)
	if out := a1.Must("user", "get", "201"); !strings.Contains(out, "202") {
		t.Errorf("the shop itself shows %s", out)
	}
	if out := a1.Must("history", "201"); !strings.Contains(out, "ann") {
		t.Errorf("who did it: %s", out)
	}
	if out := ann("--at", "0001", "user", "create", "203", "--name", "Cleo"); !strings.Contains(out, "password") || !strings.Contains(out, "0001203") {
		t.Errorf("she makes a user there: %s", out)
	}
	b1.User("301", "--name", "Bea")
	for what, want := range map[string][]string{
		"user list":   {"Cleo", "Ana"},
		"history 203": {"Cleo", "ann"},
		"merges":      {""},
		"calls":       {""},
		"status":      {"0001"},
	} {
		out := ann(append([]string{"--at", "0001"}, strings.Fields(what)...)...)
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s of the other shop: no %q in %s", what, w, out)
			}
		}
		if what == "user list" && strings.Contains(out, "Bea") {
			t.Errorf("the users of site 0001: %s", out)
		}
	}
	for args, want := range map[string]string{"--at 0777 merges": "no site", "--at 0001 node revoke b1": "--api", "--at 0001 user set 777 --name X": "777"} {
		if out, err := b1.CLI(append([]string{"--token", token}, strings.Fields(args)...)...); err == nil || !strings.Contains(out, want) {
			t.Errorf("ccnode %s: %v %s", args, err, out)
		}
	}
	l.AwaitSettled(30*time.Second, a1, b1)

	ann("user", "get", "0001201")
	l.Cut("b")
	start := time.Now()
	if out := ann("user", "set", "0001201", "--name", "Zoe"); !strings.Contains(out, "waits for site 0001") && !strings.Contains(out, "Zoe") {
		t.Errorf("in a cut: %s", out)
	}
	t.Logf("in a cut a change was kept after %v", time.Since(start).Round(time.Millisecond))
	if out, err := b1.CLI("--token", token, "user", "set", "0001201", "--pin", "4711"); err == nil || !strings.Contains(out, "own key") && !strings.Contains(out, "its own boxes") {
		t.Errorf("a PIN in a cut: %v %s", err, out)
	}
	if out, err := b1.CLI("--token", token, "--at", "0001", "merges"); err == nil || !strings.Contains(out, "try again when it can be reached") {
		t.Errorf("what only the other shop knows: %v %s", err, out)
	}
	a1.Must("user", "set", "201", "--dnd")
	b1.Kill()
	b1.Up()
	l.Heal()
	l.AwaitSettled(60*time.Second, a1, b1)
	var u api.User
	if err := a1.Get("/users/201", &u); err != nil || u.Name != "Zoe" || !u.DoNotDisturb || u.ForwardAll != "202" {
		t.Errorf("after the heal: %+v, %v", u, err)
	}
	var merges []api.Merge
	if err := a1.Get("/merges", &merges); err != nil || len(merges) != 0 {
		t.Errorf("merges: %+v, %v", merges, err)
	}
	if out, err := b1.CLI("--token", token, "whoami"); err == nil {
		t.Errorf("a session outlived its process: %s", out)
	}
}
