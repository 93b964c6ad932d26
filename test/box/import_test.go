package box

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

// staff writes a list of so many users.
func staff(t *testing.T, users int) string {
	t.Helper()
	var b bytes.Buffer
	b.WriteString("number,name,password,e164\n")
	for i := range users {
		fmt.Fprintf(&b, "%06d,Person with the number %06d,secret-%06d,\n", i, i, i)
	}
	name := filepath.Join(t.TempDir(), "staff.csv")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// imports makes users of a list and returns how long that took.
func (b *box) imports(list string) time.Duration {
	b.t.Helper()
	begun := time.Now()
	c := exec.CommandContext(b.t.Context(), program, "--data", b.data, "user", "import", list)
	var words bytes.Buffer
	c.Env, c.Stderr = clean(), &words
	if err := c.Run(); err != nil {
		b.t.Fatalf("%v\n%.2000s", err, words.String())
	}
	return time.Since(begun)
}

func TestImportOfAList(t *testing.T) {
	b := newBox(t)
	b.up("--domain", "shops.example", "--site", "01")
	list := "\ufeffName;Number;PIN;E164\r\n" + // as a spreadsheet writes it
		"Ana;201;4711;+33472001201\r\n" +
		"\"Bo;b\";202;;\r\n" +
		"Cleo;202;;\r\n" + // line 4: taken
		"Dan;2x3;;\r\n" + // line 5: no number
		"\r\n" +
		"Eve;204;1;\r\n" + // line 7: no PIN
		"Finn;205\r\n" + // line 8: too few fields
		"Gil;206;;\r\n"
	a := b.input(list, "user", "import", "-")
	if a.code != 1 || !strings.Contains(a.err, "3 created, 0 were there, 4 refused") {
		t.Errorf("exit %d: %s", a.code, a.err)
	}
	for line, what := range map[int]string{4: `"202"`, 5: `"2x3"`, 7: "4 to 12 digits", 8: "2 fields"} {
		if !strings.Contains(a.err, fmt.Sprintf("line %d: ", line)) || !strings.Contains(a.err, what) {
			t.Errorf("line %d and %s are not named in:\n%s", line, what, a.err)
		}
	}
	got, err := csv.NewReader(strings.NewReader(a.out)).ReadAll()
	if err != nil || len(got) != 4 || got[2][1] != "Bo;b" {
		t.Fatalf("%q, %v", got, err)
	}
	for _, row := range got[1:] { // what it printed is what a telephone needs
		u := as[api.User](b, "user", "get", row[0])
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := b.phone(u, row[3]).Register(ctx); err != nil || u.Name != row[1] {
			t.Errorf("%v: %v", row, err)
		}
		cancel()
	}
	if a := b.input(list, "user", "import", "-"); !strings.Contains(a.err, "0 created, 3 were there, 4 refused") {
		t.Errorf("again: %s", a.err)
	}
	for list, what := range map[string]string{"": "the first line", "name\nAna\n": "number is not among", "number,nome\n": `"nome"`, "number,number\n": "twice"} {
		if a := b.input(list, "user", "import", "-"); a.code != 2 || !strings.Contains(a.err, what) {
			t.Errorf("%q: exit %d, %s", list, a.code, a.err)
		}
	}
	if a := b.input("number,name\n207,\"Zoe\n", "user", "import", "-"); a.code != 1 || !strings.Contains(a.err, "line 2: ") {
		t.Errorf("a quote that does not end: exit %d, %s", a.code, a.err)
	}
}

// TestAnImportGoesOnAfterAKill: whoever was printed is there, each once.
func TestAnImportGoesOnAfterAKill(t *testing.T) {
	users, kills := 4_000, 3
	if long() {
		users, kills = 40_000, 20
	}
	b := newBox(t)
	b.up("--domain", "shops.example", "--site", "01", "--extension-digits", "6")
	list := staff(t, users)
	printed := map[string]bool{}
	for k := range kills {
		c := exec.CommandContext(t.Context(), program, "--data", b.data, "user", "import", list)
		c.Env = clean()
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines, most := bufio.NewScanner(out), users/(kills+2)
		for n := 0; lines.Scan(); n++ {
			if n == most {
				b.kill()
			}
			if n > 0 {
				number, _, _ := strings.Cut(lines.Text(), ",")
				if printed[number] {
					t.Fatalf("%s was made twice", number)
				}
				printed[number] = true
			}
		}
		if err := c.Wait(); err == nil && b.running() {
			t.Fatalf("kill %d: the import had ended before it", k)
		}
		b.up()
		if s := b.status(); s.Users < len(printed) {
			t.Fatalf("%d users were acknowledged, %d are there", len(printed), s.Users)
		}
	}
	took := b.imports(list)
	us, err := ask[[]api.User](b, "GET", "/users?limit=100", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range us {
		if len(u.Clash) != 0 {
			t.Errorf("%s is there twice", u.Number)
		}
	}
	if s := b.status(); s.Users != users {
		t.Errorf("%d users, want %d", s.Users, users)
	}
	t.Logf("%d acknowledged before %d kills; the rest in %v", len(printed), kills, took.Round(time.Millisecond))
}
