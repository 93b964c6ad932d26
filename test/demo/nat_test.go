package demo

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/config"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/phonetest"
)

// box is one process on an address of its own.
type box struct {
	ip     netip.Addr
	client *api.Client
}

func start(t *testing.T, program, ip string, args ...string) *box {
	t.Helper()
	dir, err := os.MkdirTemp("", "ccnode-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, append([]string{"up", "--data", dir, "--listen", ip, "--api-listen", "off", "--no-mdns"}, args...)...)
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Signal(syscall.SIGTERM)
		c.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("box %s said:\n%s", ip, b)
		}
	})
	b := &box{ip: netip.MustParseAddr(ip)}
	if b.client, err = api.NewClient("unix:"+config.Socket(dir), "", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "box "+ip+" is up", func() error {
		return b.client.Do(t.Context(), "GET", "/status", nil, &api.Status{}, "")
	})
	return b
}

func eventually(t *testing.T, d time.Duration, what string, fn func() error) {
	t.Helper()
	end := time.Now().Add(d)
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s: %v", d, what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func send[T any](t *testing.T, b *box, method, path string, in any) (out T) {
	t.Helper()
	if err := b.client.Do(t.Context(), method, path, in, &out, ""); err != nil {
		t.Fatal(err)
	}
	return out
}

func phone(t *testing.T, b *box, number string, tone float64) *phonetest.Phone {
	t.Helper()
	u := send[api.User](t, b, "POST", "/users", api.NewUser{Number: number})
	ip := b.ip.As4()
	ip[3] += 100
	p, err := phonetest.New(phonetest.Config{Servers: []netip.AddrPort{netip.AddrPortFrom(b.ip, 5060)}, Domain: "shops.example",
		User: u.Number, Password: u.Devices[0].Password, Local: netip.AddrFrom4(ip), Transport: site.UDP, Tone: tone})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := p.Register(ctx); err != nil {
		t.Fatal(err)
	}
	return p
}

func talk(t *testing.T, from, to *phonetest.Phone, dialled string, fromTone, toTone float64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := from.DialStart(ctx, dialled)
	if err != nil {
		t.Fatal(err)
	}
	var in *phonetest.Call
	select {
	case in = <-to.Incoming():
	case <-c.Done():
		t.Fatalf("%s: ended with %d", dialled, c.Cause().Status)
	case <-ctx.Done():
		t.Fatalf("%s never rang", dialled)
	}
	for _, err := range []error{in.Answer(ctx), c.WaitAnswered(ctx), c.Hears(ctx, toTone), in.Hears(ctx, fromTone), c.Hangup(ctx)} {
		if err != nil {
			t.Fatalf("%s: %v", dialled, err)
		}
	}
}

// TestASiteThatCannotBeDialledIsReachedThroughARelay: C has no address anybody
// knows; it keeps one connection to A, and B reaches it through that.
func TestASiteThatCannotBeDialledIsReachedThroughARelay(t *testing.T) {
	p := program(t)
	a := start(t, p, "127.3.1.1", "--domain", "shops.example")
	tokenB := send[api.Invite](t, a, "POST", "/invites", api.NewInvite{Site: "0002"}).Token
	tokenC := send[api.Invite](t, a, "POST", "/invites", api.NewInvite{Site: "0003"}).Token
	b := start(t, p, "127.3.2.1", "--join", tokenB)
	c := start(t, p, "127.3.3.1", "--join", tokenC, "--behind-nat")
	bob, chi := phone(t, b, "201", 620), phone(t, c, "201", 1000)
	eventually(t, 10*time.Second, "B knows Chi", func() error {
		return b.client.Do(t.Context(), "GET", "/users/0003201", nil, &api.User{}, "")
	})
	st := send[api.Status](t, b, "GET", "/status", nil)
	for _, x := range st.Peers {
		if x.SiteCode == "0003" && len(x.Addrs) > 0 {
			t.Fatalf("B knows addresses of C: %v", x.Addrs)
		}
	}
	eventually(t, 10*time.Second, "C says what being reachable costs", func() error {
		for _, w := range send[api.Status](t, c, "GET", "/status", nil).Warnings {
			if strings.Contains(w, "reachable through relay") {
				return nil
			}
		}
		return fmt.Errorf("no such line")
	})
	talk(t, bob, chi, "80003201", 620, 1000)
	talk(t, chi, bob, "80002201", 1000, 620)
}
