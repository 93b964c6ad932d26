package labkit

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A test that is killed leaves its namespaces; the next lab removes them, and
// ends what ran there. The other test is this program again.
func TestKilledLabIsSwept(t *testing.T) {
	if os.Getenv("LABKIT_VICTIM") != "" {
		h := New(t, "a").Host("a", "x")
		// A child that no death signal reaches.
		h.Must("sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $! >"+os.Getenv("LABKIT_VICTIM"))
		fmt.Println("ready")
		select {}
	}
	Need(t, "ip", "nft", "nsenter", "tc")
	pidFile := t.TempDir() + "/pid"
	victim := exec.Command(os.Args[0], "-test.run=^TestKilledLabIsSwept$")
	victim.Env = append(os.Environ(), "LABKIT_VICTIM="+pidFile)
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := out.Read(buf); err != nil || string(buf) != "ready" {
		t.Fatalf("the other test said %q, %v", buf, err)
	}
	victim.Process.Kill()
	victim.Wait()
	left := fmt.Sprintf("%s%d-", prefix, victim.Process.Pid)
	namespaces := func() string {
		list, err := exec.Command("ip", "netns", "list").Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(list)
	}
	if !strings.Contains(namespaces(), left) {
		t.Fatal("the killed test left nothing; this test proves nothing")
	}
	var orphan int
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Sscan(string(b), &orphan)
	if syscall.Kill(orphan, 0) != nil {
		t.Fatal("the orphan does not run; this test proves nothing")
	}
	l := New(t, "a")
	if strings.Contains(namespaces(), left) {
		t.Errorf("still there:\n%s", namespaces())
	}
	l.Within(3*time.Second, "the orphan is gone", func() bool { return syscall.Kill(orphan, 0) != nil })
}
