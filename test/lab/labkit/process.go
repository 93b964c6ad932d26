package labkit

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
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
			if len(p.lines) > 20_000 {
				p.lines = p.lines[10_000:]
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
func (l *Lab) Within(d time.Duration, what string, yes func() bool) {
	l.T.Helper()
	start := time.Now()
	for !yes() {
		if time.Since(start) > d {
			l.T.Fatalf("not within %v: %s", d, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
