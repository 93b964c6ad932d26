package node

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"carrierclass.net/ccnode/internal/api"
)

// TestFoundAndRestart: an empty folder becomes a fleet; the next start from the
// same folder is the same box with the same state, and founds nothing.
func TestFoundAndRestart(t *testing.T) {
	b := newBox(t, "a").up("")
	if !b.n.member.Founder || !b.n.member.First {
		t.Fatalf("the founder's membership is %+v", b.n.member)
	}
	u := b.user("201", "Ana")
	id, fleet, at := b.n.id.Node(), b.n.book.Fleet(), b.n.member.Site
	sheet, err := b.back.Recovery(t.Context())
	if err != nil || len(sheet.Words) != 24 {
		t.Fatalf("recovery sheet of the founder: %d words, %v", len(sheet.Words), err)
	}
	files := small(t, b)
	key, _ := b.n.state.Keys().Current()
	b.down()

	b.up("")
	prints := b.n.state.Fingerprints()
	b.down()
	b.up("") // a start writes nothing
	if b.n.id.Node() != id || b.n.book.Fleet() != fleet || b.n.member.Site != at {
		t.Errorf("after the restart it is %s of fleet %x at %s, was %s of %x at %s", b.n.id.Node(), b.n.book.Fleet(), b.n.member.Site, id, fleet, at)
	}
	if got, ok := b.n.state.Keys().Current(); !ok || got != key {
		t.Errorf("the site has another key after the restart")
	}
	if got := b.n.state.Fingerprints(); !maps.Equal(got, prints) {
		t.Errorf("state after the restart is %v, was %v", got, prints)
	}
	if got, err := b.back.User(t.Context(), "201"); err != nil || got.ID != u.ID || got.Name != "Ana" || !b.mayRegister(u, "Ana") {
		t.Errorf("Ana after the restart: %+v, %v", got, err)
	}
	again, err := b.back.Recovery(t.Context())
	if err != nil || !slices.Equal(again.Words, sheet.Words) {
		t.Errorf("the recovery sheet changed with a restart: %v", err)
	}
	for name, was := range files {
		if now := small(t, b)[name]; !bytes.Equal(now, was) {
			t.Errorf("%s was written anew by a restart", name)
		}
	}

	// Once the person has the words on paper, the box forgets them for good.
	if err := b.back.ConfirmRecovery(t.Context(), "nonsense", sheet.Words[23]); err == nil {
		t.Error("a wrong first word was taken for the sheet")
	}
	if err := b.back.ConfirmRecovery(t.Context(), sheet.Words[0], sheet.Words[23]); err != nil {
		t.Fatal(err)
	}
	b.down()
	b.up("")
	if _, err := b.back.Recovery(t.Context()); err == nil {
		t.Error("a second recovery sheet was made")
	}
	if _, err := os.Stat(b.n.path(rootFile)); err == nil {
		t.Error("the root key is on the disk again")
	}
	if b.n.book.Fleet() != fleet || !b.knows("Ana") {
		t.Error("without the root key it is not the same fleet any more")
	}
}

// small are the files that a restart must not touch.
func small(t *testing.T, b *box) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, name := range []string{keyFile, rootFile, "admin.token"} {
		x, err := os.ReadFile(filepath.Join(b.cfg.Data, name))
		if err != nil {
			t.Fatal(err)
		}
		out[name] = x
	}
	return out
}

// TestNothingAcknowledgedIsLost: the folder as kill -9 would leave it, taken
// while several people write, holds all that was acknowledged before.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	b := newBox(t, "a").up("")
	var (
		mu    sync.Mutex
		acked []api.User
		wg    sync.WaitGroup
	)
	const writers, each = 4, 12
	enough := make(chan struct{})
	var once sync.Once
	ctx, stop := context.WithCancel(t.Context())
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				name := fmt.Sprintf("Writer%d-%d", w, i)
				u, err := b.back.CreateUser(ctx, "test", api.NewUser{Number: fmt.Sprint(200 + w*100 + i), Name: name, Password: passwordOf(name)})
				if err != nil {
					return // the copy was taken
				}
				mu.Lock()
				acked = append(acked, u)
				if len(acked) >= writers*each/2 {
					once.Do(func() { close(enough) })
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	mu.Lock()
	before := slices.Clone(acked)
	mu.Unlock()
	copied := copyFolder(t, b.cfg.Data)
	stop()
	wg.Wait()
	b.down()

	b.cfg.Data = copied
	b.up("")
	for _, u := range before {
		got, err := b.back.User(t.Context(), u.Number)
		if err != nil || got.ID != u.ID || !b.mayRegister(u, u.Name) {
			t.Errorf("%s was acknowledged and is not there after the crash: %v", u.Name, err)
		}
	}
	if d := b.n.engine.Status().Damage; len(d) > 0 {
		t.Errorf("the store came back damaged: %v", d)
	}
	b.user("999", "After")
	b.down()
	b.up("")
	if !b.knows("After") {
		t.Error("what was written after the crash is not there")
	}
	if len(before) < writers*each/2 {
		t.Errorf("only %d writes were acknowledged before the copy", len(before))
	}
}

// copyFolder is what a killed process leaves: the pages the kernel has.
func copyFolder(t *testing.T, from string) string {
	t.Helper()
	to := from + "2"
	// The files that count the commits come first: a store that is ahead of them
	// is what a kill can leave, one that is behind them is not.
	for _, store := range []bool{false, true} {
		err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			dst := filepath.Join(to, strings.TrimPrefix(path, from))
			switch {
			case d.IsDir():
				return os.MkdirAll(dst, 0o700)
			case !d.Type().IsRegular() || d.Name() == "ballast" || store != strings.Contains(path, "/badger/"):
				return nil
			}
			x, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(dst, x, 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// ha1 is what a telephone makes of its password (RFC 2617 §3.2.2.2).
func ha1(user, realm, password string) string {
	sum := md5.Sum([]byte(user + ":" + realm + ":" + password))
	return hex.EncodeToString(sum[:])
}

// mayRegister says whether a telephone of u, which has the password of name,
// would be let in at this node.
func (b *box) mayRegister(u api.User, name string) bool {
	d := u.Devices[0]
	for _, c := range (credentials{b.n.state}).Credentials(d.SIPUser, d.Realm) {
		if c.HA1MD5 == ha1(d.SIPUser, d.Realm, passwordOf(name)) && !c.Disabled {
			return true
		}
	}
	return false
}
