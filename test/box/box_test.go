// Package box tests the real program from outside: one statically built binary,
// started as an ordinary process with a data folder of its own on an address in
// 127.0.0.0/8, spoken to over SIP, its REST interface and its command line.
// What it proves is the chapter "Bad input": whatever is wrong is said clearly,
// with what to do; the node serves what it can; nothing acknowledged is lost.
package box

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/config"
)

// program is the binary under test, built once.
var program string

func TestMain(m *testing.M) {
	if v := os.Getenv(plainEnv); v != "" {
		to, streams, _ := strings.Cut(v, " ")
		n, err := strconv.Atoi(streams)
		if err == nil {
			err = plainRelay(to, n)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(func() int {
		if program = os.Getenv("CCNODE_BIN"); program != "" {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "ccbox")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		_ = os.Chmod(dir, 0o755) // some tests run it as another user
		program = filepath.Join(dir, "ccnode")
		c := exec.Command("go", "build", "-o", program, "../../cmd/ccnode")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

func long() bool { return os.Getenv("CCNODE_LONG") == "1" }

// box is one machine: an address, a data folder, and at times a process.
type box struct {
	t      *testing.T
	ip     netip.Addr
	data   string
	client *api.Client
	as     *syscall.Credential

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	out  words
}

// words collects what a process says.
type words struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.b.Len() < 4<<20 {
		w.b.Write(p)
	}
	return len(p), nil
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

func (w *words) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b.Reset()
}

var taken sync.Map

// address finds one in 127.0.0.0/8 that nobody uses.
func address(t *testing.T) netip.Addr {
	t.Helper()
	for range 100 {
		ip := netip.AddrFrom4([4]byte{127, byte(64 + rand.IntN(60)), byte(rand.IntN(256)), byte(1 + rand.IntN(254))})
		if _, used := taken.LoadOrStore(ip, true); used {
			continue
		}
		free := true
		for _, p := range []uint16{5060, 5870, 8443} {
			l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, p)))
			if err != nil {
				free = false
				break
			}
			l.Close()
		}
		if free {
			return ip
		}
	}
	t.Fatal("no free address in 127.0.0.0/8")
	return netip.Addr{}
}

// folder makes a short path: a unix socket lives in it.
func folder(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("", "ccb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

func newBox(t *testing.T) *box {
	t.Helper()
	return boxIn(t, filepath.Join(folder(t), "d"))
}

func boxIn(t *testing.T, data string) *box {
	t.Helper()
	c, err := api.NewClient("unix:"+config.Socket(data), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, ip: address(t), data: data, client: c}
	t.Cleanup(func() {
		if t.Failed() && b.running() {
			t.Logf("what the node at %s said:\n%s", b.ip, b.out.String())
		}
		b.kill()
	})
	return b
}

// clean is the environment without settings of the person who runs the tests.
func clean() (env []string) {
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "CCNODE_") {
			env = append(env, v)
		}
	}
	return env
}

func (b *box) command(args ...string) *exec.Cmd {
	args = append([]string{"up", "--data", b.data, "--listen", b.ip.String(), "--api-listen", b.ip.String() + ":8443", "--no-mdns"}, args...)
	c := exec.Command(program, args...)
	c.Env = clean()
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: b.as}
	return c
}

// start starts the node and returns at once.
func (b *box) start(args ...string) {
	b.t.Helper()
	b.out.reset()
	b.cmd = b.command(args...)
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.out
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	cmd, done := b.cmd, make(chan struct{})
	b.done = done
	go func() { _ = cmd.Wait(); close(done) }() // ends with the process
}

// up starts the node and waits until it serves.
func (b *box) up(args ...string) {
	b.t.Helper()
	b.start(args...)
	b.ready(20 * time.Second)
}

func (b *box) ready(d time.Duration) {
	b.t.Helper()
	eventually(b.t, d, func() error {
		select {
		case <-b.done:
			b.t.Fatalf("the node ended:\n%s", b.out.String())
		default:
		}
		_, err := ask[api.Status](b, "GET", "/status", nil)
		return err
	})
}

// refuses starts a node that cannot start, and returns its exit code and words.
func (b *box) refuses(args ...string) (int, string) {
	b.t.Helper()
	b.start(args...)
	select {
	case <-b.done:
	case <-time.After(40 * time.Second):
		b.t.Fatalf("the node does not give up:\n%s", b.out.String())
	}
	return b.cmd.ProcessState.ExitCode(), b.out.String()
}

func (b *box) running() bool {
	if b.done == nil {
		return false
	}
	select {
	case <-b.done:
		return false
	default:
		return true
	}
}

func (b *box) kill() { b.end(syscall.SIGKILL) }

// term asks the node to stop and returns its exit code.
func (b *box) term() int {
	b.t.Helper()
	b.end(syscall.SIGTERM)
	return b.cmd.ProcessState.ExitCode()
}

func (b *box) end(sig syscall.Signal) {
	if !b.running() {
		return
	}
	_ = b.cmd.Process.Signal(sig)
	select {
	case <-b.done:
	case <-time.After(20 * time.Second):
		_ = b.cmd.Process.Kill()
		<-b.done
		b.t.Errorf("the node did not end within 20 s of %v:\n%s", sig, b.out.String())
	}
}

// answer is what a command printed and how it ended.
type answer struct {
	code     int
	out, err string
}

// run executes the program as a person would, without a node of its own.
func run(t *testing.T, args ...string) answer {
	t.Helper()
	return typed(t, "", args...)
}

// typed is run with something on the standard input.
func typed(t *testing.T, input string, args ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, program, args...)
	c.Env, c.Stdin = clean(), strings.NewReader(input)
	var out, words bytes.Buffer
	c.Stdout, c.Stderr = &out, &words
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return answer{c.ProcessState.ExitCode(), out.String(), words.String()}
}

// cli runs a command against the box.
func (b *box) cli(args ...string) answer {
	b.t.Helper()
	return run(b.t, append([]string{"--data", b.data}, args...)...)
}

// input is cli with something on the standard input.
func (b *box) input(text string, args ...string) answer {
	b.t.Helper()
	return typed(b.t, text, append([]string{"--data", b.data}, args...)...)
}

// must runs a command that has to work and returns what it printed.
func (b *box) must(args ...string) string {
	b.t.Helper()
	a := b.cli(args...)
	if a.code != 0 {
		b.t.Fatalf("ccnode %s: exit %d: %s", strings.Join(args, " "), a.code, a.err)
	}
	return a.out
}

// as runs a command with -o json and decodes what it printed.
func as[T any](b *box, args ...string) (v T) {
	b.t.Helper()
	decode(b.t, b.must(append(args, "-o", "json")...), &v)
	return v
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("not the JSON of %T: %v\n%s", v, err, text)
	}
}

// ask speaks to the box's REST interface.
func ask[T any](b *box, method, path string, in any) (T, error) {
	var out T
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	err := b.client.Do(ctx, method, path, in, &out, "")
	return out, err
}

func (b *box) status() api.Status {
	b.t.Helper()
	s, err := ask[api.Status](b, "GET", "/status", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// eventually asks again until there is no error.
func eventually(t *testing.T, d time.Duration, fn func() error) {
	t.Helper()
	end := time.Now().Add(d)
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %v", d, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// has fails unless text holds every part.
func has(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s does not say %q:\n%s", what, p, text)
		}
	}
}
