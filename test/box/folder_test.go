package box

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// asNobody runs the box as a user without rights, which matters when the tests
// run as root: root is not stopped by permissions.
func (b *box) asNobody() {
	b.t.Helper()
	parent := filepath.Dir(b.data)
	if os.Geteuid() == 0 {
		b.as = &syscall.Credential{Uid: 65534, Gid: 65534}
		if err := os.Chown(parent, 65534, 65534); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *box) write(name string, content []byte) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.data, name), content, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) read(name string) []byte {
	b.t.Helper()
	c, err := os.ReadFile(filepath.Join(b.data, name))
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *box) remove(name string) {
	b.t.Helper()
	if err := os.RemoveAll(filepath.Join(b.data, name)); err != nil {
		b.t.Fatal(err)
	}
}

// TestFoldersThatCannotBeUsed: each is named, with what to do, and nothing in
// it is touched.
func TestFoldersThatCannotBeUsed(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(*box)
		says    string
	}{
		{"a file instead of a folder", func(b *box) {
			if err := os.WriteFile(b.data, []byte("mine"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "not a directory|choose a folder"},
		{"unreadable", func(b *box) {
			if err := os.Mkdir(b.data, 0); err != nil {
				t.Fatal(err)
			}
		}, "permission denied|choose a folder this user may write to"},
		{"read-only", func(b *box) {
			if err := os.Mkdir(b.data, 0o555); err != nil {
				t.Fatal(err)
			}
		}, "permission denied|choose a folder this user may write to"},
		{"a parent that may not be written", func(b *box) {
			b.data = "/proc/ccnode"
		}, "/proc/ccnode|choose a folder this user may write to"},
		{"a path too long for a socket", func(b *box) {
			b.data = filepath.Join(b.data, strings.Repeat("x", 100))
		}, "too long|under 90"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t)
			b.asNobody()
			c.prepare(b)
			t.Cleanup(func() { _ = os.Chmod(b.data, 0o700) })
			code, said := b.refuses()
			if code != refused {
				t.Errorf("exit %d", code)
			}
			for _, part := range strings.Split(c.says, "|") {
				has(t, "the refusal", said, part)
			}
			if strings.Count(strings.TrimSpace(said), "\n") > 1 {
				t.Errorf("not a sentence for a person:\n%s", said)
			}
		})
	}
}

// TestDamagedSmallFiles: a box that cannot prove who it is does not become
// somebody else, and does not overwrite what it had.
func TestDamagedSmallFiles(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(*box)
		says   string // "": it must start
	}{
		{"node.key cut off", func(b *box) { b.write("node.key", b.read("node.key")[:20]) }, "node.key|damaged|set the folder aside|new invite"},
		{"node.key empty", func(b *box) { b.write("node.key", nil) }, "node.key|damaged|new invite"},
		{"node.key of another box", func(b *box) {
			k := b.read("node.key")
			k[3] ^= 1
			b.write("node.key", k)
		}, "membership|new invite"},
		{"node.key missing", func(b *box) { b.remove("node.key") }, "node.key|missing|new invite"},
		{"member.json missing", func(b *box) { b.remove("member.json") }, ""}, // the store has a copy
		{"member.json empty", func(b *box) { b.write("member.json", nil) }, ""},
		{"member.json cut off", func(b *box) { b.write("member.json", b.read("member.json")[:100]) }, ""},
		{"member.json of nobody", func(b *box) { b.write("member.json", []byte("{}")) }, ""},
		{"member.json and the store gone", func(b *box) { b.write("member.json", []byte("{}")); b.remove("db") }, "member.json|damaged|new invite"},
		{"member.json without its chain", func(b *box) {
			b.write("member.json", []byte(strings.Replace(string(b.read("member.json")), "\"chain\": \"", "\"chain\": \"AAAA", 1)))
		}, "membership|new invite"},
		{"the store gone", func(b *box) { b.remove("db") }, "db|missing|restore|start empty"},
		{"root.key cut off", func(b *box) { b.write("root.key", []byte("short")) }, ""},
		{"https.pem damaged", func(b *box) { b.write("https.pem", []byte("nonsense")) }, ""},
		{"admin.token emptied", func(b *box) { b.write("admin.token", nil) }, ""},
		{"the mark damaged", func(b *box) { b.write("db/mark", []byte("nonsense")) }, ""},
		{"the blobs gone", func(b *box) { b.remove("blobs") }, ""},
		{"a folder where the socket was", func(b *box) {
			b.remove("api.sock")
			if err := os.MkdirAll(filepath.Join(b.data, "api.sock"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"leftovers of a power cut", func(b *box) {
			b.write(".new-123", []byte("half"))
			b.write("lock", []byte("99999999\n"))
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t)
			b.up()
			b.user("201")
			id := b.status().Node.ID
			b.kill()
			c.damage(b)
			if c.says == "" {
				b.up()
				s := b.status()
				if s.Node.ID != id || s.Users != 1 {
					t.Errorf("it came back as %+v with %d users", s.Node, s.Users)
				}
				if strings.HasPrefix(c.name, "member.json") {
					has(t, "status", strings.Join(s.Warnings, "\n"), "member.json", "restored from the store")
				}
				b.user("202")
				return
			}
			kept := fmt.Sprint(os.ReadFile(filepath.Join(b.data, "member.json")))
			code, said := b.refuses()
			if code != refused {
				t.Errorf("exit %d", code)
			}
			for _, part := range strings.Split(c.says, "|") {
				has(t, "the refusal", said, part)
			}
			if now := fmt.Sprint(os.ReadFile(filepath.Join(b.data, "member.json"))); now != kept {
				t.Error("it overwrote its membership")
			}
		})
	}
}
