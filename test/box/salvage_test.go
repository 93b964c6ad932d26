package box

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

// contents is a digest of every file of a folder.
func contents(t *testing.T, dir string) [32]byte {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(name)
		fmt.Fprintln(h, name, len(b))
		h.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

// harmed copies what counts of a data folder and damages one to three places of
// it as tired flash does.
func harmed(t *testing.T, data string, r *rand.Rand) (dir, how string) {
	t.Helper()
	dir = folder(t)
	var files []string
	err := filepath.WalkDir(data, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "ballast" {
			return err
		}
		rel, _ := filepath.Rel(data, name)
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, rel)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
		if used(b) > 0 && (strings.HasPrefix(rel, "db/badger") || strings.HasPrefix(rel, "blobs")) {
			files = append(files, to)
		}
		return os.WriteFile(to, b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 1 + r.IntN(3) {
		name := files[r.IntN(len(files))]
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := r.IntN(max(used(b), 1))
		what := "bit flipped"
		switch k := r.IntN(6); {
		case len(b) == 0:
			continue
		case k == 0:
			b, what = b[:at], "torn"
		case k == 1:
			clear(b[at:min(at+4096, len(b))])
			what = "zeros"
		default:
			b[at] ^= 1 << r.IntN(8)
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		how += fmt.Sprintf("%s at %d of %s; ", what, at, strings.TrimPrefix(name, dir))
	}
	return dir, how
}

// TestSalvageOfADeadBox: a box that was cut off took changes and a voicemail, and
// died. It was shut out. Its pair reads its disk: all of it is found, nothing of
// it enters before a person says so, then what was typed and said is there. The
// disk is not written to, and flipped bits cost what they hit.
func TestSalvageOfADeadBox(t *testing.T) {
	b, a := pairOf(t) // a is the one that dies
	callee, caller := a.user("201"), a.user("203")
	same(t, a, b, 10*time.Second)
	id := a.status().Node.ID
	b.kill() // from here on a is alone
	if _, err := ask[api.User](a, "PATCH", "/users/201", api.UserPatch{Name: ptr("Ann typed this")}); err != nil {
		t.Fatal(err)
	}
	made := a.user("205")
	a.leave(caller, "201", 1.2)
	eventually(t, 10*time.Second, func() error {
		if ms := as[[]api.Message](a, "voicemail", "list", "201"); len(ms) != 1 {
			return fmt.Errorf("voicemail list: %+v", ms)
		}
		return nil
	})
	a.kill()
	b.up()
	b.must("node", "revoke", id)

	before := contents(t, a.data)
	dry := as[api.Salvaged](b, "node", "salvage", a.data, "--dry-run")
	if len(dry.New) < 4 || dry.Known == 0 || len(dry.Recordings) != 1 || dry.Forged != 0 || dry.Damaged != (api.SalvageDamage{}) || len(dry.Held) != 0 {
		t.Fatalf("a dry run found %+v", dry)
	}
	news := map[string]bool{}
	said := ""
	for _, c := range dry.New {
		news[c.ID] = true
		said += strings.Join(c.Writes, "; ") + "\n"
	}
	has(t, "the list of what is new", said, "name = Ann typed this", "number = ", "voicemail for user", "password = ")
	if strings.Contains(said, made.Devices[0].Password) {
		t.Error("a secret is shown")
	}
	if n := len(b.status().Held); n != 0 {
		t.Fatalf("%d changes are held after a dry run", n)
	}

	seed := uint64(20261124)
	rounds := 6
	if long() {
		seed, rounds = uint64(time.Now().UnixNano()), 200
	}
	r := rand.New(rand.NewPCG(seed, 0))
	lost, worst := 0, 0
	for range rounds {
		dir, how := harmed(t, a.data, r)
		x := as[api.Salvaged](b, "node", "salvage", dir, "--dry-run")
		have := map[string]bool{} // with a torn log, what was covered since may be there instead
		for _, c := range x.New {
			have[c.ID] = true
		}
		if x.Forged != 0 {
			t.Errorf("seed %d, %s: a change was taken that nobody signed: %+v", seed, how, x)
		}
		gone := len(dry.Recordings) - len(x.Recordings)
		for c := range news {
			if !have[c] {
				gone++
			}
		}
		if gone > 0 && x.Damaged == (api.SalvageDamage{}) && !strings.Contains(how, "torn") {
			t.Errorf("seed %d, %s: %d are gone without a word: %+v", seed, how, gone, x)
		}
		lost, worst = lost+gone, max(worst, gone)
		os.RemoveAll(dir)
	}
	t.Logf("%d new changes and %d recording; damaged disks lost %.1f of them on average, %d at worst", len(dry.New), len(dry.Recordings), float64(lost)/float64(rounds), worst)

	got := as[api.Salvaged](b, "node", "salvage", a.data)
	if len(got.New) != len(dry.New) || len(got.Recordings) != 1 {
		t.Fatalf("salvaged %+v", got)
	}
	if contents(t, a.data) != before {
		t.Error("the disk was written to")
	}
	b.kill() // what is held survives
	b.up()
	untouched := func() {
		t.Helper()
		if u, err := ask[api.User](b, "GET", "/users/201", nil); err != nil || u.Name != callee.Name {
			t.Fatalf("201 is %+v, %v: nobody has accepted anything", u, err)
		}
		if _, err := ask[api.User](b, "GET", "/users/205", nil); err == nil {
			t.Fatal("205 is there and nobody has accepted it")
		}
		if ms := as[[]api.Message](b, "voicemail", "list", "201"); len(ms) != 0 {
			t.Fatalf("voicemail nobody has accepted: %+v", ms)
		}
	}
	untouched()
	if n := len(b.status().Held); n != len(dry.New) {
		t.Fatalf("%d changes are held, %d were new", n, len(dry.New))
	}
	if again := as[api.Salvaged](b, "node", "salvage", a.data); len(again.New) != 0 || len(again.Held) != len(dry.New) || len(again.Recordings) != 0 {
		t.Fatalf("a second time: %+v", again)
	}

	one := ""
	for _, c := range dry.New {
		if strings.Contains(strings.Join(c.Writes, ""), "name = Ann typed this") { // the directory's entry is another change
			one = c.ID
		}
	}
	if v := as[[]api.SalvageVerdict](b, "node", "accept", one[:12]); len(v) != 1 || v[0].Outcome != "accepted" {
		t.Fatalf("accepted one: %+v", v)
	}
	if u, err := ask[api.User](b, "GET", "/users/201", nil); err != nil || u.Name != "Ann typed this" {
		t.Fatalf("201 is %+v, %v; accepted %s of %+v", u, err, one, dry.New)
	}
	if _, err := ask[api.User](b, "GET", "/users/205", nil); err == nil {
		t.Fatal("205 came with another change")
	}
	for _, v := range as[[]api.SalvageVerdict](b, "node", "accept", "--all") {
		if v.Outcome != "accepted" && v.Outcome != "left" {
			t.Errorf("%+v", v)
		}
	}
	ms := as[[]api.Message](b, "voicemail", "list", "201")
	if len(ms) != 1 || ms[0].Audio != "here" || ms[0].Seconds < 1 {
		t.Fatalf("what was said: %+v", ms)
	}
	wav := filepath.Join(folder(t), "m.wav")
	b.must("voicemail", "play", "201", ms[0].ID.String(), "--out", wav)
	if st, err := os.Stat(wav); err != nil || st.Size() < 8000 {
		t.Errorf("what was said cannot be heard: %v, %v", st, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := b.phone(made, made.Devices[0].Password).Register(ctx); err != nil {
		t.Errorf("the telephone of a salvaged user: %v", err)
	}
	text := b.must("node", "salvage", a.data, "--dry-run")
	has(t, "what is printed", text, "disk", "changes read", "nothing was taken")
}

// TestSalvageSaysWhatIsWrong: no disk, a stranger's disk, nothing to accept.
func TestSalvageSaysWhatIsWrong(t *testing.T) {
	a, b := newBox(t), newBox(t)
	a.up()
	b.up()
	b.user("201")
	b.kill()
	for want, args := range map[string][]string{
		"is no data folder":     {"node", "salvage", t.TempDir()},
		"belonged to another":   {"node", "salvage", b.data},
		"their ids, or --all":   {"node", "accept"},
		"that begins with":      {"node", "accept", "0123456789"},
		"no data folder of a b": {"node", "salvage", filepath.Join(a.data, "nowhere")},
	} {
		if x := a.cli(args...); x.code == 0 || !strings.Contains(x.err, want) {
			t.Errorf("ccnode %s: exit %d, %q; want %q", strings.Join(args, " "), x.code, x.err, want)
		}
	}
	if out := a.must("node", "accept", "--all"); !strings.Contains(out, "nothing waits") {
		t.Errorf("accept --all: %s", out)
	}
	if n := len(a.status().Held); n != 0 {
		t.Errorf("%d changes of another fleet are held", n)
	}
}
