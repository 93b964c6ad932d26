package box

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

// pairOf founds a site with two boxes.
func pairOf(t *testing.T) (a, b *box) {
	t.Helper()
	a, b = newBox(t), newBox(t)
	a.up()
	b.up("--join", a.invite().Token)
	return a, b
}

// same waits until two boxes hold the same and owe nothing.
func same(t *testing.T, a, b *box, d time.Duration) {
	t.Helper()
	eventually(t, d, func() error {
		x, y := a.status(), b.status()
		if x.Owed.Changes+y.Owed.Changes > 0 || len(x.Held)+len(y.Held) > 0 {
			return fmt.Errorf("owed %d and %d, held %v and %v", x.Owed.Changes, y.Owed.Changes, x.Held, y.Held)
		}
		if len(x.Scopes) != len(y.Scopes) || len(x.Scopes) == 0 {
			return fmt.Errorf("scopes %v and %v", x.Scopes, y.Scopes)
		}
		for i := range x.Scopes {
			if x.Scopes[i].Fingerprint != y.Scopes[i].Fingerprint {
				return fmt.Errorf("scope %v here, %v there", x.Scopes[i], y.Scopes[i])
			}
		}
		return nil
	})
}

// files of the store, those with content.
func (b *box) files() (out []string) {
	b.t.Helper()
	err := filepath.WalkDir(filepath.Join(b.data, "db"), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(name, "damaged") || d.Name() == "lock" || d.Name() == "ballast" {
			return err
		}
		content, err := os.ReadFile(name)
		if used(content) > 0 {
			out = append(out, name)
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// used is how far a file has content: a log is cut to length only when it is closed.
func used(content []byte) int {
	n := len(content)
	for n > 0 && content[n-1] == 0 {
		n--
	}
	return n
}

// harm damages one file of the store in one of the ways of tired flash, and
// says how.
func (b *box) harm(r *rand.Rand) string {
	b.t.Helper()
	files := b.files()
	if len(files) == 0 {
		return "nothing is left"
	}
	name := files[r.IntN(len(files))]
	content, err := os.ReadFile(name)
	if err != nil {
		b.t.Fatal(err)
	}
	n := used(content)
	at := r.IntN(n)
	how := ""
	switch r.IntN(5) {
	case 0, 1:
		how = fmt.Sprintf("bit flipped at %d", at)
		content[at] ^= 1 << r.IntN(8)
	case 2:
		how = fmt.Sprintf("cut off at %d", at)
		content = content[:at]
	case 3:
		end := min(len(content), at+4096)
		how = fmt.Sprintf("zeros from %d to %d", at, end)
		clear(content[at:end])
	case 4:
		how = "removed"
	}
	if how == "removed" {
		err = os.Remove(name)
	} else {
		err = os.WriteFile(name, content, 0o600)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.TrimPrefix(name, b.data) + " " + how
}

// TestDamagedStoreIsRefilledByThePair: whatever happened to the store's files,
// the box starts, says so, and has everything again from its pair.
func TestDamagedStoreIsRefilledByThePair(t *testing.T) {
	rounds := 8
	if long() {
		rounds = 150
	}
	seed := uint64(20261123) // the short run is the same every time
	if long() {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	a, b := pairOf(t)
	for i := range 30 {
		a.user(fmt.Sprint(201 + i))
	}
	same(t, a, b, 10*time.Second)
	reported := 0
	for round := range rounds {
		hurt, whole := b, a
		if round%3 == 2 {
			hurt, whole = a, b // the founder, too
		}
		// every other time with the tables written out
		if round%2 == 0 {
			hurt.kill()
		} else {
			hurt.term()
		}
		var how []string
		for range 1 + r.IntN(3) {
			how = append(how, hurt.harm(r))
		}
		// Life goes on meanwhile.
		u := whole.user(fmt.Sprint(300 + round))
		hurt.up()
		same(t, a, b, 30*time.Second)
		// A box that has lost changes may list a deleted user until it has them
		// again and has put the directory in order.
		s := hurt.status()
		for end := time.Now().Add(10 * time.Second); s.Users != 31+round; s = hurt.status() {
			if time.Now().After(end) {
				t.Fatalf("after %v: %d users, want %d", how, s.Users, 31+round)
			}
			time.Sleep(50 * time.Millisecond)
		}
		if got, err := ask[api.User](hurt, "GET", "/users/"+u.ID.String(), nil); err != nil || got.Number != u.Number {
			t.Fatalf("after %v: %+v, %v", how, got, err)
		}
		said := strings.Join(s.Warnings, "\n")
		if strings.Contains(said, "store") || strings.Contains(said, "commits") {
			reported++
		} else {
			t.Logf("round %d: nothing to report after %v", round, how)
		}
		// And it can write.
		hurt.user(fmt.Sprint(600 + round))
		same(t, a, b, 10*time.Second)
		whole.must("user", "delete", fmt.Sprint(600+round))
		same(t, a, b, 10*time.Second)
	}
	t.Logf("%d of %d damages were reported", reported, rounds)
	if reported == 0 {
		t.Error("no damage was ever reported")
	}
}

// TestAStoreLostWhole: a founder's own, too, is filled by the pair; it does not
// found anything again.
func TestAStoreLostWhole(t *testing.T) {
	a, b := pairOf(t)
	u := a.user("201")
	same(t, a, b, 10*time.Second)
	before := a.status()
	a.kill()
	a.remove("db")
	a.start()
	a.ready(20 * time.Second)
	same(t, a, b, 10*time.Second)
	after := a.status()
	if after.Node.ID != before.Node.ID || after.Users != 1 || after.Merges != 0 {
		t.Errorf("it came back as %+v with %d users, %d merges", after.Node, after.Users, after.Merges)
	}
	has(t, "status", strings.Join(after.Warnings, "\n"), "store of this box was lost")
	for _, x := range []*box{a, b} {
		p := x.phone(u, u.Devices[0].Password)
		if err := p.Register(t.Context()); err != nil {
			t.Errorf("the old password: %v", err)
		}
	}
	a.user("202")
	same(t, a, b, 10*time.Second)
}

// TestAloneDamageIsReported: what a lone box lost it cannot have again, but it
// never says nothing.
func TestAloneDamageIsReported(t *testing.T) {
	rounds := 8
	if long() {
		rounds = 100
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	lost := 0
	for round := range rounds {
		b := newBox(t)
		b.up()
		var numbers []string
		for i := range 20 {
			numbers = append(numbers, b.user(fmt.Sprint(201+i)).Number)
		}
		if round%2 == 0 {
			b.kill()
		} else {
			b.term()
		}
		how := b.harm(r)
		b.start()
		var s api.Status
		up := false
		eventually(t, 20*time.Second, func() error {
			if !b.running() {
				return nil
			}
			var err error
			s, err = ask[api.Status](b, "GET", "/status", nil)
			up = err == nil
			return err
		})
		if !up { // only if nothing at all was left, and then with words
			said := b.out.String()
			has(t, how, said, "restore")
			t.Logf("%s: refused", how)
			lost++
			continue
		}
		us, err := ask[[]api.User](b, "GET", "/users", nil)
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		missing := 0
		for _, n := range numbers {
			if !slices.ContainsFunc(us, func(u api.User) bool { return u.Number == n }) {
				missing++
			}
		}
		said := strings.Join(s.Warnings, "\n")
		if missing > 0 {
			lost++
			t.Logf("%s: %d of %d users missing, reported", how, missing, len(numbers))
			if !strings.Contains(said, "store") && !strings.Contains(said, "commits") {
				t.Errorf("%s: %d users missing and not a word: %s", how, missing, said)
			}
		}
		if err := options(b.ip, 2*time.Second); err != nil {
			t.Errorf("%s: phones get no answer: %v", how, err)
		}
		b.user("299")
		b.kill()
	}
	t.Logf("%d of %d damages cost something", lost, rounds)
}
