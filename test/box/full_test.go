package box

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/disk"
	"carrierclass.net/ccnode/sipcore/phonetest"
)

// smallDisk mounts a file system of its own.
func smallDisk(t *testing.T, bytes int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make a small disk")
	}
	dir := folder(t)
	if err := syscall.Mount("ccnode", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Skipf("no small disk can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// fillTo writes a file until no more than that many bytes are free.
func fillTo(t *testing.T, dir string, left int64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "someone-else"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		free, _, err := disk.FreeBytes(dir)
		if err != nil {
			t.Fatal(err)
		}
		if free <= left {
			return
		}
		if _, err := f.Write(make([]byte, min(free-left, 8<<20))); err != nil {
			if errors.Is(err, syscall.ENOSPC) {
				return
			}
			t.Fatal(err)
		}
	}
}

// talk lets one phone call another and both be heard.
func talk(t *testing.T, from, to *phonetest.Phone, number string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	answered := make(chan error, 1)
	go func() {
		select {
		case in := <-to.Incoming():
			err := in.Answer(ctx)
			if err == nil {
				err = in.Hears(ctx, 440)
			}
			answered <- err
		case <-ctx.Done():
			answered <- errors.New("it does not ring")
		}
	}()
	c, err := from.Dial(ctx, number)
	if err != nil {
		t.Fatalf("call %s: %v", number, err)
	}
	if err := c.Hears(ctx, 440); err != nil {
		t.Error(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if err := c.Hangup(ctx); err != nil {
		t.Error(err)
	}
}

// TestAFullDisk: telephony goes on, writes are refused with what to do, and
// with room again everything goes on by itself. What was acknowledged stays.
func TestAFullDisk(t *testing.T) {
	dir := smallDisk(t, 420<<20)
	b := boxIn(t, filepath.Join(dir, "d"))
	b.up()
	u1, u2 := b.user("201"), b.user("202")
	b.user("203") // has no phone
	p1, p2 := b.phone(u1, u1.Devices[0].Password), b.phone(u2, u2.Devices[0].Password)
	for _, p := range []*phonetest.Phone{p1, p2} {
		if err := p.Register(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	users := 3
	goesOn := func(what string) {
		t.Helper()
		if err := options(b.ip, 2*time.Second); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		for _, p := range []*phonetest.Phone{p1, p2} {
			if err := p.Refresh(t.Context()); err != nil {
				t.Errorf("%s: refresh: %v", what, err)
			}
		}
		fresh := b.phone(u1, u1.Devices[0].Password) // a second phone of Ana's, never seen before
		if err := fresh.Register(t.Context()); err != nil {
			t.Errorf("%s: a new phone: %v", what, err)
		} else if err := fresh.Unregister(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		fresh.Close()
		talk(t, p1, p2, "202")
		if us, err := ask[[]api.User](b, "GET", "/users", nil); err != nil || len(us) != users {
			t.Errorf("%s: %d users, %v", what, len(us), err)
		}
	}
	refuses := func(what string) {
		t.Helper()
		for _, args := range [][]string{{"user", "create", "299"}, {"user", "set", "201", "--name", "X"}, {"invite", "create"}} {
			a := b.cli(args...)
			if a.code != refused {
				t.Errorf("%s: %v: exit %d %s", what, args, a.code, a.out)
			}
			has(t, what, a.err, "free some", "calls go on")
		}
		if s := b.status(); s.ReadOnly == "" {
			t.Errorf("%s: status does not say that it is read-only", what)
		}
		has(t, what, b.must("status"), "READ ONLY", "free some")
		// A caller of somebody without a phone is told, and no message seems to have been left.
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c, err := p1.Dial(ctx, "203")
		if err == nil {
			select {
			case <-c.Done():
			case <-ctx.Done():
				t.Errorf("%s: voicemail goes on as if it recorded", what)
			}
		}
		if ms, err := ask[[]api.Message](b, "GET", "/users/203/messages", nil); err != nil || len(ms) != 0 {
			t.Errorf("%s: messages %v, %v", what, ms, err)
		}
	}

	fillTo(t, dir, 200<<20)
	refuses("below the reserve")
	goesOn("below the reserve")

	fillTo(t, dir, 0)
	refuses("not a byte free")
	goesOn("not a byte free")

	b.kill()
	fillTo(t, dir, 0)
	b.up()
	refuses("started without a byte free")
	goesOn("started without a byte free")

	if err := os.Remove(filepath.Join(dir, "someone-else")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() error {
		_, err := ask[api.User](b, "POST", "/users", api.NewUser{Number: "204"})
		return err
	})
	users++
	goesOn("with room again")
	if s := b.status(); s.ReadOnly != "" || len(s.Warnings) > 0 && strings.Contains(strings.Join(s.Warnings, "\n"), "store") {
		t.Errorf("with room again: %q, %q", s.ReadOnly, s.Warnings)
	}
	u4, err := ask[api.User](b, "PATCH", "/users/204", api.UserPatch{Password: ptr("")})
	if err != nil {
		t.Fatal(err)
	}
	b.leave(u4, "203", 1.2)
	eventually(t, 10*time.Second, func() error {
		if ms, err := ask[[]api.Message](b, "GET", "/users/203/messages", nil); err != nil || len(ms) != 1 {
			return fmt.Errorf("messages %v, %w", ms, err)
		}
		return nil
	})
	b.kill()
	b.up()
	if us, err := ask[[]api.User](b, "GET", "/users", nil); err != nil || len(us) != users {
		t.Errorf("after all that: %d users, %v", len(us), err)
	}
}

// TestAnEmptyBoxOnAFullDisk does not start, and says why.
func TestAnEmptyBoxOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, 64<<20)
	fillTo(t, dir, 0)
	b := boxIn(t, filepath.Join(dir, "d"))
	code, said := b.refuses()
	if code != refused {
		t.Errorf("exit %d", code)
	}
	has(t, "the refusal", said, "no space left", "free some")
}
