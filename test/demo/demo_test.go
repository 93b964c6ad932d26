// Package demo asserts the story that ccnode demo tells: as an ordinary
// process, on loopback, in the time a newcomer will wait for.
package demo

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

func program(t *testing.T) string {
	t.Helper()
	if p := os.Getenv("CCNODE_BIN"); p != "" {
		return p
	}
	p := filepath.Join(t.TempDir(), "ccnode")
	c := exec.Command("go", "build", "-o", p, "../../cmd/ccnode")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return p
}

func TestTheIslandThatHeals(t *testing.T) {
	p := program(t)
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	begun := time.Now()
	out, err := exec.CommandContext(ctx, p, "demo").CombinedOutput()
	took := time.Since(begun)
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("the demo failed: %v", err)
	}
	if took > 90*time.Second {
		t.Errorf("the demo took %v, want under 90 s", took)
	}
	m := regexp.MustCompile(`(\d+) passed, (\d+) failed`).FindSubmatch(out)
	if m == nil || string(m[2]) != "0" {
		t.Fatalf("no table, or failures in it")
	}
	for _, shown := range []string{"an idle mesh with refreshing phones is silent", "Bob's lamp lights", "both forwards are accounted for at A-a",
		"the disable won at A-b", "nothing held, nothing owed", "an invite works once"} {
		if !bytes.Contains(out, []byte("pass  ")) || !bytes.Contains(out, []byte(shown)) {
			t.Errorf("the table does not show: %s", shown)
		}
	}
}
