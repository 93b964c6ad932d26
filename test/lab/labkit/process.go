package labkit

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A Process is a program running on a host.
type Process struct {
	Host *Host
	Name string

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and its output is read
	err  error         // of Wait; read after done

	mu    sync.Mutex // guards what follows
	lines []string
	news  chan struct{} // closed and renewed at each line
}

// Start runs a program on the host until it ends, Kill, or the test's end.
func (h *Host) Start(label, name string, args ...string) *Process {
	h.lab.T.Helper()
	return h.StartIn("", nil, label, name, args...)
}

// StartIn is Start in a folder, with variables added to the environment.
func (h *Host) StartIn(dir string, env []string, label, name string, args ...string) *Process {
	h.lab.T.Helper()
	p := &Process{Host: h, Name: label, done: make(chan struct{}), news: make(chan struct{})}
	p.cmd = exec.Command("nsenter", append([]string{"--net=/run/netns/" + h.NS, "--", name}, args...)...)
	p.cmd.Dir = dir
	p.cmd.Env = append(os.Environ(), env...)
	// nsenter becomes the program, so a signal to it is a signal to the program.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	r, w, err := os.Pipe()
	if err != nil {
		h.lab.T.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := start(p.cmd); err != nil {
		h.lab.T.Fatalf("start %s on %s: %v", label, h.Name, err)
	}
	w.Close()
	h.lab.mu.Lock()
	h.lab.procs = append(h.lab.procs, p)
	h.lab.mu.Unlock()
	go func() { // ends with the process
		p.read(r)
		r.Close()
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p
}

// starter is a thread that starts programs and lives as long as the test: the
// kernel ends a program with the very thread that started it (Pdeathsig), and
// Go's other threads come and go with Host.Do.
var starter = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() { // ends with the test process
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

func start(c *exec.Cmd) error {
	done := make(chan error)
	starter() <- func() { done <- c.Start() }
	return <-done
}

func (p *Process) read(r io.Reader) {
	sc := bufio.NewReader(r)
	for {
		line, err := sc.ReadString('\n')
		if line != "" {
			p.mu.Lock()
			p.lines = append(p.lines, strings.TrimRight(line, "\r\n"))
			if len(p.lines) > 20_000 { // its beginning and its end are kept
				p.lines = append(p.lines[:2000:2000], p.lines[12_000:]...)
			}
			close(p.news)
			p.news = make(chan struct{})
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// PID is the program's process number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the process at once (SIGKILL) and waits until it is gone.
func (p *Process) Kill() {
	select {
	case <-p.done:
		return
	default:
	}
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// Stop asks the process to end (SIGTERM), and after the time given ends it.
func (p *Process) Stop(within time.Duration) error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.Wait(within); err != nil {
		p.Kill()
		return err
	}
	return nil
}

// Signal sends the process a signal, SIGSTOP for instance.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Wait waits for the process to end by itself; its exit status is the error.
func (p *Process) Wait(within time.Duration) error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(within):
		return fmt.Errorf("%s on %s still runs after %v", p.Name, p.Host.Name, within)
	}
}

// Running tells whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// State says how the process is.
func (p *Process) State() string {
	if p.Running() {
		return "running"
	}
	return p.cmd.ProcessState.String()
}

// Output is all the process printed so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// Tail is the last n lines the process printed.
func (p *Process) Tail(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines[max(0, len(p.lines)-n):], "\n")
}

// Says waits until the process has printed a text and returns that line.
func (p *Process) Says(text string, within time.Duration) (string, error) {
	timeout := time.After(within)
	for {
		p.mu.Lock()
		news := p.news
		for _, l := range p.lines {
			if strings.Contains(l, text) {
				p.mu.Unlock()
				return l, nil
			}
		}
		p.mu.Unlock()
		select {
		case <-news:
		case <-p.done:
			if strings.Contains(p.Output(), text) {
				continue
			}
			return "", fmt.Errorf("%s ended (%s) before it said %q\n%s", p.Name, p.State(), text, p.Tail(20))
		case <-timeout:
			return "", fmt.Errorf("%s did not say %q within %v\n%s", p.Name, text, within, p.Tail(20))
		}
	}
}

// Within asks until the answer is yes. It is for what can only be asked, not
// awaited; what is the story's name for the thing that did not happen.
func (l *Lab) Within(d time.Duration, what string, yes func() bool) time.Duration {
	l.T.Helper()
	start := time.Now()
	for !yes() {
		if time.Since(start) > d {
			l.T.Fatalf("not within %v: %s", d, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(start)
}

// CPU is the processor time, user and system, that the process and the
// children it keeps in its group have used so far.
func (p *Process) CPU() time.Duration {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux of ours
	var ticks int64
	dirs, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, d := range dirs {
		b, err := os.ReadFile(d)
		if err != nil {
			continue // it has ended
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) < 13 || f[2] != strconv.Itoa(p.PID()) {
			continue
		}
		for _, s := range f[11:13] {
			n, _ := strconv.ParseInt(s, 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * tick
}

// RSS is the memory of the process that is in RAM, in octets, without its
// children's.
func (p *Process) RSS() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID()))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.ParseInt(f[1], 10, 64)
	return n * int64(os.Getpagesize())
}

// Listens tells whether somebody on the process's host has bound a port: udp
// or tcp, at this address.
func (p *Process) Listens(network, addr string, port int) bool {
	flag := map[string]string{"udp": "-u", "tcp": "-t"}[network]
	out, err := p.Host.Run(5*time.Second, "ss", "-Hln", flag, fmt.Sprintf("src %s:%d", addr, port))
	return err == nil && strings.TrimSpace(out) != ""
}

// Listening waits for Listens at the host's own address.
func (p *Process) Listening(network string, port int) error {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if p.Listens(network, p.Host.Addr.String(), port) {
			return nil
		}
		if !p.Running() {
			break
		}
	}
	return fmt.Errorf("%s does not listen on %s port %d: %s\n%s", p.Name, network, port, p.State(), p.Tail(20))
}
