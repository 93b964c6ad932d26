package labkit

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/config"
)

// Binary is the product: CCNODE_BIN, or built from this checkout.
var Binary = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("CCNODE_BIN"); bin != "" {
		_, err := os.Stat(bin)
		return bin, err
	}
	_, file, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(file), "../../..")
	bin := filepath.Join(root, "bin", "ccnode")
	c := exec.Command("go", "build", "-o", bin, "./cmd/ccnode")
	c.Dir = root
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build ccnode: %w\n%s", err, out)
	}
	return bin, nil
})

// A Node is the product running on a host, with its data folder.
type Node struct {
	*Process
	Host   *Host
	Data   string
	bin    string
	flags  []string
	client *api.Client
}

// Box is a host with the product on it, not yet started.
func (h *Host) Box(flags ...string) *Node {
	t := h.lab.T
	t.Helper()
	bin, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{Host: h, Data: filepath.Dir(h.File("data/x")), bin: bin, flags: flags}
	if n.client, err = api.NewClient("unix:"+config.Socket(n.Data), "", nil); err != nil {
		t.Fatal(err)
	}
	return n
}

// Start starts the product with its flags and more, and does not wait.
func (n *Node) Start(more ...string) {
	n.Host.lab.T.Helper()
	args := append([]string{"--data", n.Data, "up", "--listen", n.Host.Addr.String(), "--api-listen", "off", "--name", n.Host.Name}, n.flags...)
	n.Process = n.Host.Start("ccnode "+n.Host.Name, n.bin, append(args, more...)...)
}

// Up starts the product and waits until it is ready.
func (n *Node) Up(more ...string) {
	n.Host.lab.T.Helper()
	n.Start(more...)
	n.Ready(15 * time.Second)
}

// Ready waits until the node answers at its interface and at its SIP port.
func (n *Node) Ready(within time.Duration) time.Duration {
	t := n.Host.lab.T
	t.Helper()
	start := time.Now()
	for {
		var st api.Status
		err := n.Get("/status", &st)
		if err == nil && len(st.Node.SIP) > 0 {
			return time.Since(start)
		}
		if !n.Running() {
			t.Fatalf("ccnode on %s ended: %s\n%s", n.Host.Name, n.State(), n.Tail(40))
		}
		if time.Since(start) > within {
			t.Fatalf("ccnode on %s is not ready after %v: %v", n.Host.Name, within, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Get asks the node's interface.
func (n *Node) Get(path string, out any) error { return n.Ask(http.MethodGet, path, nil, out) }

// Ask sends a request to the node's interface, with at most ten seconds for
// the answer.
func (n *Node) Ask(method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return n.client.Do(ctx, method, path, in, out, "")
}

// CLI runs the command line against the node: what it printed, and the error
// of its exit status.
func (n *Node) CLI(args ...string) (string, error) {
	c := exec.Command(n.bin, append([]string{"--data", n.Data}, args...)...)
	out, err := c.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("ccnode %s on %s: %w: %s", strings.Join(args, " "), n.Host.Name, err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// JSON runs the command line with -o json and reads its answer.
func (n *Node) JSON(out any, args ...string) {
	t := n.Host.lab.T
	t.Helper()
	text, err := n.CLI(append([]string{"-o", "json"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(text), out); err != nil {
		t.Fatalf("ccnode %s: %v in %s", strings.Join(args, " "), err, text)
	}
}

// Must runs the command line and ends the test if it fails.
func (n *Node) Must(args ...string) string {
	t := n.Host.lab.T
	t.Helper()
	out, err := n.CLI(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Status is what the node knows.
func (n *Node) Status() (st api.Status) {
	t := n.Host.lab.T
	t.Helper()
	if err := n.Get("/status", &st); err != nil {
		t.Fatalf("status of %s: %v", n.Host.Name, err)
	}
	return st
}

// User creates a user by the command line.
func (n *Node) User(number string, more ...string) (u api.User) {
	n.Host.lab.T.Helper()
	n.JSON(&u, append([]string{"user", "create", number}, more...)...)
	return u
}

// Invite makes a token.
func (n *Node) Invite(more ...string) (i api.Invite) {
	n.Host.lab.T.Helper()
	n.JSON(&i, append([]string{"invite", "create"}, more...)...)
	return i
}

// Account is what the telephone of a user is told when it registers at this
// node. The user must have been created just now: a password is shown once.
func (n *Node) Account(u api.User, expires int) Account {
	t := n.Host.lab.T
	t.Helper()
	if len(u.Devices) == 0 || u.Devices[0].Password == "" {
		t.Fatalf("no password was shown for %s", u.Number)
	}
	d := u.Devices[0]
	return Account{
		User: u.Number, Domain: n.Status().Fleet.Domain, AuthUser: d.SIPUser, Password: d.Password,
		Server: n.Host.Addr.String() + ":5060", Expires: expires,
	}
}

// Load is the same as a line of a SIPp load; calls is the number it dials.
func (a Account) Load(calls string) User {
	return User{Name: a.User, AuthUser: a.AuthUser, Password: a.Password, Domain: a.Domain, Calls: calls}
}

// Prints is a scope's fingerprint at this node: equal on two nodes that hold
// the same.
func (n *Node) Prints(scope string) string {
	n.Host.lab.T.Helper()
	for _, s := range n.Status().Scopes {
		if s.Scope == scope {
			return s.Fingerprint
		}
	}
	return ""
}

// Settled tells whether the nodes owe each other nothing, hold nothing back,
// agree on every scope that two of them hold, and have keepers that have all.
func Settled(nodes ...*Node) (bool, string) {
	prints := map[string]string{}
	for _, n := range nodes {
		var st api.Status
		if err := n.Get("/status", &st); err != nil {
			return false, err.Error()
		}
		if st.Owed.Changes != 0 || st.Owed.Outbox != 0 || st.Owed.Blobs != 0 || len(st.Held) != 0 {
			return false, fmt.Sprintf("%s owes %+v, holds back %v", n.Host.Name, st.Owed, st.Held)
		}
		if st.Fleet.Sites > 1 && len(st.Keepers) == 0 {
			return false, fmt.Sprintf("%s: no other site keeps the state of its site", n.Host.Name)
		}
		for _, k := range st.Keepers {
			if k.State != "keeps" {
				return false, fmt.Sprintf("%s: site %s %s the state of its site", n.Host.Name, k.Site, k.State)
			}
		}
		for _, s := range st.Scopes {
			if !s.Complete {
				return false, fmt.Sprintf("%s: scope %s is still filling", n.Host.Name, s.Scope)
			}
			if other, ok := prints[s.Scope]; ok && other != s.Fingerprint {
				return false, fmt.Sprintf("%s: scope %s is %s here and %s elsewhere", n.Host.Name, s.Scope, s.Fingerprint, other)
			}
			prints[s.Scope] = s.Fingerprint
		}
	}
	return true, ""
}

// AwaitSettled waits for Settled.
func (l *Lab) AwaitSettled(within time.Duration, nodes ...*Node) time.Duration {
	l.T.Helper()
	start := time.Now()
	for {
		ok, why := Settled(nodes...)
		if ok {
			return time.Since(start)
		}
		if time.Since(start) > within {
			l.T.Fatalf("not settled after %v: %s", within, why)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Holds names a file of the node's data folder in which a text stands in the
// clear; "" if none does.
func (n *Node) Holds(text string) (file string) {
	filepath.WalkDir(n.Data, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || file != "" || !d.Type().IsRegular() {
			return nil
		}
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), text) {
			file = path
		}
		return nil
	})
	return file
}

// Received is how many octets have come to the host's own port so far.
func (h *Host) Received() int64 {
	h.lab.T.Helper()
	var links []struct {
		Stats64 struct{ Rx struct{ Bytes int64 } }
	}
	if err := json.Unmarshal([]byte(h.Must("ip", "-s", "-j", "link", "show", "eth0")), &links); err != nil || len(links) != 1 {
		h.lab.T.Fatalf("count what %s received: %v", h.Name, err)
	}
	return links[0].Stats64.Rx.Bytes
}

// NewAccount makes a user through the node's interface, with a password of the
// lab's.
func (n *Node) NewAccount(number string) Account {
	t := n.Host.lab.T
	t.Helper()
	var u api.User
	const password = "Lab-Password-17"
	if err := n.Ask(http.MethodPost, "/users", api.NewUser{Number: number, Password: password}, &u); err != nil {
		t.Fatal(err)
	}
	if len(u.Devices) == 0 {
		t.Fatalf("user %s has no device", number)
	}
	u.Devices[0].Password = password
	return n.Account(u, 60)
}
