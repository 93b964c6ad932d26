package blob

import (
	"bufio"
	"bytes"
	crand "crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("CCNODE_BLOB_WRITER"); dir != "" {
		if err := writeUntilKilled(dir, os.Getenv("CCNODE_BLOB_SEED")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func openOnDisk(dir string) (*Store, error) {
	return Open(Options{Dir: dir, Reserve: 1 << 20, Random: crand.Reader, Log: slog.New(slog.DiscardHandler), Sync: time.Millisecond,
		Free: func(string) (int64, int64, error) { return 1 << 40, 1 << 40, nil }})
}

// said is what the message of a name says.
func said(name string) []byte {
	sum := sha256.Sum256([]byte(name))
	p := make([]byte, 1+int(sum[0])*int(sum[1])*4)
	_, _ = rand.NewChaCha8(sum).Read(p)
	return p
}

// writeUntilKilled records messages and takes over recordings of others, and
// tells what it finished. It returns only with an error.
func writeUntilKilled(dir, seed string) error {
	s, err := openOnDisk(dir)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		name := seed + "." + strconv.Itoa(i)
		p := said(name)
		if i%3 == 2 {
			if err := s.PutVerified(sha256.Sum256(p), bytes.NewReader(p)); err != nil {
				return err
			}
			fmt.Println("put", name)
			continue
		}
		r, err := s.Create([]byte(name))
		if err != nil {
			return err
		}
		for rest := p; len(rest) > 0; {
			n, err := r.Write(rest[:min(len(rest), 1600)])
			if err != nil {
				return err
			}
			rest = rest[n:]
		}
		if _, _, err := r.Commit(); err != nil {
			return err
		}
		fmt.Println("committed", name)
		if err := r.Done(); err != nil {
			return err
		}
		fmt.Println("done", name)
	}
}

// TestKilledInAPut: a process that is killed at any moment of a put leaves what
// it acknowledged, nothing that is not whole, and of what it had not finished
// an orphan that still knows for whom it is.
func TestKilledInAPut(t *testing.T) {
	kills := 25
	if os.Getenv("CCNODE_LONG") != "" {
		kills = 300
	}
	dir := filepath.Join(t.TempDir(), "recordings")
	finished := map[site.BlobRef]string{}
	orphans := 0
	for kill := range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CCNODE_BLOB_WRITER="+dir, "CCNODE_BLOB_SEED="+strconv.Itoa(kill))
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(15+rand.IntN(60))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		ended := map[string]string{}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if how, name, ok := strings.Cut(lines.Text(), " "); ok {
				ended[name] = how
				finished[sha256.Sum256(said(name))] = name
			}
		}
		_ = cmd.Wait()
		timer.Stop()
		if stderr.Len() > 0 {
			t.Fatal(stderr.String())
		}

		s, err := openOnDisk(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range s.Orphans() {
			orphans++
			name := string(o.Meta)
			if !strings.HasPrefix(name, strconv.Itoa(kill)+".") {
				t.Fatalf("kill %d: an orphan of %d bytes does not know for whom it is: %q", kill, o.Size, name)
			}
			if ended[name] == "done" {
				t.Fatalf("kill %d: %s was done and is an orphan", kill, name)
			}
			if o.Size == 0 {
				if err := s.Discard(o.Name); err != nil {
					t.Fatal(err)
				}
				continue
			}
			ref, _, err := s.Recover(t.Context(), o.Name)
			if err != nil {
				t.Fatalf("kill %d: %v", kill, err)
			}
			if p := read(t, s, ref); !bytes.HasPrefix(said(name), p) || ended[name] == "committed" && len(p) != len(said(name)) {
				t.Fatalf("kill %d: the orphan of %s holds something else", kill, name)
			}
			if err := s.Done(o.Name); err != nil {
				t.Fatal(err)
			}
		}
		for _, ref := range s.List() {
			if p := read(t, s, ref); sha256.Sum256(p) != ref {
				t.Fatalf("kill %d: a blob is visible that is not whole", kill)
			}
		}
		for ref, name := range finished {
			if !s.Has(ref) {
				t.Fatalf("kill %d: %s was finished and is gone", kill, name)
			}
		}
	}
	t.Logf("%d kills: 0 of %d finished lost, %d unfinished found again", kills, len(finished), orphans)
	if len(finished) < kills || orphans < kills/5 {
		t.Error("too little was under way to prove anything")
	}
}
