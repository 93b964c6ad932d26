package box

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/trust"
)

// TestTheFoundingBoxBurnsDown: the only box that may admit others is gone with
// its disk. The sheet makes another one an issuer; what the burnt one admitted
// stays, a new box joins, and no disk has seen the root. Then the new issuer is
// taken over: what it admitted goes with it, but for whom a person keeps.
func TestTheFoundingBoxBurnsDown(t *testing.T) {
	a, b, c := newBox(t), newBox(t), newBox(t)
	a.up()
	warned := func(x *box) bool {
		return strings.Contains(strings.Join(x.status().Warnings, "\n"), "holds the fleet's root key")
	}
	if !warned(a) {
		t.Error("nobody is warned of the root on the founding box")
	}
	sheet := as[api.Recovery](a, "recovery", "show")
	b.up("--join", a.invite("--site", "0002").Token)
	c.up("--join", a.invite("--site", "0003").Token)
	a.must("recovery", "confirm", sheet.Words[0], sheet.Words[23])
	if warned(a) {
		t.Error("the warning stays")
	}
	nodes := func(n int, bs ...*box) {
		t.Helper()
		eventually(t, 15*time.Second, func() error {
			for _, x := range bs {
				if st := x.status(); st.Fleet.Nodes != n {
					return fmt.Errorf("%s knows %d boxes, want %d", st.Node.Name, st.Fleet.Nodes, n)
				}
			}
			return nil
		})
	}
	nodes(3, a, b, c)
	burnt := a.status().Node.ID
	a.kill()
	if err := os.RemoveAll(a.data); err != nil {
		t.Fatal(err)
	}

	if x := b.cli("invite", "create", "--site", "0004"); x.code == 0 {
		t.Fatal("a box without the right invites")
	}
	say := func(change func(w []string)) answer {
		w := append([]string{}, sheet.Words...)
		change(w)
		return b.input(strings.Join(w, " ")+"\n", "recover")
	}
	if x := say(func(w []string) { w[6] = "telefone" }); x.code == 0 || !strings.Contains(x.err, `word 7, "telefone"`) {
		t.Errorf("a word that is none: %d %s", x.code, x.err)
	}
	if x := say(func(w []string) { w[0], w[1], w[2] = w[1], w[2], w[0] }); x.code == 0 || !strings.Contains(x.err, "check does not fit") {
		t.Errorf("swapped words: %d %s", x.code, x.err)
	}
	if x := b.cli("recover", "zoo"); x.code == 0 || strings.Contains(x.out, "may admit") {
		t.Error("words are taken from the command line")
	}
	if x := say(func([]string) {}); x.code != 0 {
		t.Fatalf("recover: %d %s", x.code, x.err)
	}
	if x := b.cli("node", "revoke", burnt); x.code == 0 || !strings.Contains(x.err, "--keep") {
		t.Fatalf("who rests on the burnt box is not asked about: %d %s", x.code, x.err)
	}
	b.must("node", "revoke", burnt, "--keep", "all")
	nodes(2, b, c)

	d := newBox(t)
	d.up("--join", b.invite("--site", "0004").Token)
	nodes(3, b, c, d)
	d.user("201")
	known := func(x *box, number string) {
		t.Helper()
		eventually(t, 15*time.Second, func() error { _, err := ask[api.User](x, "GET", "/users/"+number, nil); return err })
	}
	known(c, "0004201")

	// No disk has the words, nor the key that they stand for.
	root, err := trust.RootFromWords(sheet.Words)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Wipe()
	secrets := [][]byte{[]byte(strings.Join(sheet.Words[:3], " ")), []byte(strings.Join(sheet.Words[20:], " ")), root.Seed()}
	for _, x := range []*box{b, c, d} {
		err := filepath.WalkDir(x.data, func(name string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() || e.Name() == "ballast" {
				return nil
			}
			content, err := os.ReadFile(name)
			for _, s := range secrets {
				if bytes.Contains(content, s) {
					t.Errorf("%s has the root in it", name)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	// c is made an issuer, and taken over: it admits a stranger, and has an
	// invite out.
	b.must("node", "raise", c.status().Node.ID, "--admit")
	eventually(t, 15*time.Second, func() error {
		if x := c.cli("invite", "create", "--site", "0009"); x.code != 0 {
			return fmt.Errorf("%s", x.err)
		}
		return nil
	})
	mine, stranger, late := newBox(t), newBox(t), newBox(t)
	mine.up("--join", c.invite("--site", "0005").Token)
	stranger.up("--join", c.invite("--site", "0006").Token)
	out := c.invite("--site", "0007").Token
	nodes(5, b, c, d)
	id := mine.status().Node.ID
	b.must("node", "revoke", c.status().Node.ID, "--keep", id)
	nodes(3, b, d, mine)
	_, _ = ask[api.User](stranger, "POST", "/users", api.NewUser{Number: "201", Name: "Stranger"}) // whether it may, there, does not matter
	mine.user("201")
	known(d, "0005201")
	late.start("--join", out)
	time.Sleep(2 * time.Second)
	nodes(3, b, d, mine)
	if _, err := ask[api.User](b, "GET", "/users/0006201", nil); err == nil {
		t.Error("the stranger is believed")
	}
}
