package world

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	rewrite = flag.Bool("rewrite", false, "write what happens into the stories; read them before committing")
	logAll  = flag.Bool("logs", false, "show what the boxes say")
)

// TestStories tells every story in testdata and compares.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			story, err := Parse(string(text))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			began := time.Now()
			var got Story
			var log string
			var figures []string
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				w := New(name, dir)
				begun := time.Now()
				got = w.Tell(story)
				told := time.Since(begun)
				w.Close()
				log, figures = w.Log(), w.figures
				t.Logf("the story took %v", told.Round(time.Second))
			})
			t.Logf("telling it took %v", time.Since(began).Round(time.Millisecond))
			for _, f := range figures {
				t.Log(f)
			}
			bad := false
			for i, b := range story {
				if got[i].Want == b.Want {
					continue
				}
				bad = true
				if !*rewrite {
					t.Errorf("%s:%d: %s\ngot:\n%swant:\n%s", file, b.At, strings.Join(b.Lines, "\n"), indent(got[i].Want), indent(b.Want))
				}
			}
			if bad && *rewrite {
				if err := os.WriteFile(file, []byte(got.Text()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if *logAll {
				t.Log("\n" + log)
			}
		})
	}
}

func indent(s string) string {
	if s == "" {
		return "  (nothing)\n"
	}
	return "  " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n  ") + "\n"
}

// TestParse: a script is read and written again as it was.
func TestParse(t *testing.T) {
	const text = "# A story.\nfleet A B; wait 1s\n\ncall x y   # and wait\n----\nx: 200 OK\n\nwait 2s\n"
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if len(s) != 3 || s[1].Want != "x: 200 OK\n" || s[2].Want != "" {
		t.Errorf("got %+v", s)
	}
	if got := s.Text(); got != text {
		t.Errorf("got %q, want %q", got, text)
	}
	if _, err := Parse("\n----\nx\n"); err == nil {
		t.Error("output without a command is accepted")
	}
}
