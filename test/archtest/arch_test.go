// Package archtest holds the map of the house against the code: which room
// opens onto which, where each library lives, and what is pure.
package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "carrierclass.net/ccnode/"

// doors lists, for each room, the rooms it opens onto. The entry with the
// longest matching path wins. Every room opens onto the rooms inside it.
var doors = map[string][]string{
	"internal/site":          {},
	"internal/config":        {"internal/site"},
	"crdt":                   {},
	"crdt/antientropy":       {"crdt"},
	"crdt/crdttest":          {"crdt"},
	"sipcore":                {"sipcore", "internal/site"},
	"sipcore/route":          {"internal/site"},
	"features":               {"features", "internal/site"},
	"mesh":                   {"mesh"},
	"internal/trust":         {"internal/site", "crdt"},
	"internal/state":         {"internal/site", "internal/trust", "crdt"},
	"internal/disk":          {"internal/site", "crdt"},
	"internal/blob":          {"internal/site"},
	"internal/disk/disktest": {"internal/disk"},
	"internal/pair":          {"internal/site"},
	"internal/replica":       {"internal/site", "internal/disk", "internal/blob", "crdt", "mesh"},
	"internal/api":           {"internal/site"},
	"internal/provision":     {"internal/site"},
	"internal/sntp":          {},
	"internal/web":           {},
	"internal/schedule":      {},
	"internal/events":        {},
	"internal/node":          {"internal", "crdt", "sipcore", "features", "mesh"},
	"internal/demo":          {"internal", "mesh/mdns", "sipcore/phonetest", "features/media"},
	"cmd/ccnode":             {"internal", "mesh"},
	"image":                  {"image"},
	"test":                   {"test", "internal", "crdt", "sipcore", "features", "mesh"},
}

// fences name the rooms that may know a library exists.
var fences = map[string][]string{
	"github.com/emiago/sipgo":       {"sipcore", "test"},
	"github.com/pion/rtp":           {"features/media", "test"},
	"github.com/pion/rtcp":          {"features/media", "test"},
	"github.com/pion/sdp":           {"features/media", "test"},
	"github.com/dgraph-io/badger":   {"internal/disk"},
	"github.com/libp2p":             {"mesh/p2p", "mesh/mdns"},
	"github.com/grandcat/zeroconf":  {"mesh/mdns"},
	"github.com/danielgtaylor/huma": {"internal/api"},
	"github.com/spf13/cobra":        {"cmd/ccnode"},
	"github.com/fxamacker/cbor":     {"crdt", "internal", "mesh"},
}

// pure rooms compute. They see neither the world nor the clock.
var (
	pure   = []string{"crdt", "internal/schedule", "sipcore/route", "mesh/invite", "mesh/overlay", "mesh/pairing"}
	world  = []string{"context", "crypto/rand", "log", "log/slog", "math/rand", "math/rand/v2", "net", "os", "sync", "sync/atomic", "syscall"}
	clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
)

func within(room string, rooms []string) bool {
	return slices.ContainsFunc(rooms, func(r string) bool {
		return room == r || strings.HasPrefix(room, r+"/")
	})
}

func TestHouse(t *testing.T) {
	root := os.DirFS("../..")
	seen := 0
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || (strings.HasPrefix(d.Name(), ".") && name != ".")) {
			return fs.SkipDir
		}
		if d.IsDir() || path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		src, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, src, 0)
		if err != nil {
			return err
		}
		seen++
		for _, complaint := range complaints(path.Dir(name), fset, f) {
			t.Error(complaint)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 3 {
		t.Fatalf("walked %d files: the test does not see the house", seen)
	}
}

// TestCatchesViolations keeps the map honest: each line breaks one rule.
func TestCatchesViolations(t *testing.T) {
	for _, c := range []struct{ room, src string }{
		{"sipcore/registrar", `package x; import _ "carrierclass.net/ccnode/features"`},
		{"features/voicemail", `package x; import _ "github.com/emiago/sipgo/sip"`},
		{"crdt", `package x; import _ "os"`},
		{"sipcore/route", `package x; import "time"; var t = time.Now()`},
		{"crdt/antientropy", `package x; func f() { go f() }`},
		{"elsewhere", `package x`},
	} {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, "x.go", c.src, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(complaints(c.room, fset, f)) == 0 {
			t.Errorf("no complaint about %q in %s", c.src, c.room)
		}
	}
}

func complaints(room string, fset *token.FileSet, f *ast.File) (out []string) {
	entry := room
	for doors[entry] == nil && entry != "." {
		entry = path.Dir(entry)
	}
	if entry == "." {
		return []string{room + " is not on the map"}
	}
	say := func(pos token.Pos, s string) { out = append(out, fset.Position(pos).String()+": "+s) }
	isPure := within(room, pure) && !strings.HasSuffix(room, "test")
	for _, spec := range f.Imports {
		imp, _ := strconv.Unquote(spec.Path.Value)
		if in, ok := strings.CutPrefix(imp, module); ok && !within(in, append([]string{room}, doors[entry]...)) {
			say(spec.Pos(), "no door from "+room+" to "+in)
		}
		for lib, rooms := range fences {
			if strings.HasPrefix(imp, lib) && !within(room, rooms) {
				say(spec.Pos(), imp+" stays in "+strings.Join(rooms, ", "))
			}
		}
		if isPure && slices.Contains(world, imp) {
			say(spec.Pos(), room+" is pure")
		}
	}
	if !isPure {
		return out
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			say(n.Pos(), room+" has no goroutines")
		case *ast.ChanType:
			say(n.Pos(), room+" has no channels")
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, n.Sel.Name) {
				say(n.Pos(), room+" has no clock; take the time as an argument")
			}
		}
		return true
	})
	return out
}
