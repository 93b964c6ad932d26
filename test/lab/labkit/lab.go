// Package labkit builds small networks of real machines' likeness on one box:
// a network namespace per host, a LAN per site, and a WAN in the middle that
// can be cut, thinned, slowed and counted. Real processes run on the hosts:
// the product, and telephones and load generators that nobody here wrote.
//
// Its law: nothing of a lab leaves its namespaces, and nothing of it outlives
// the test, not even one that was killed: the next lab sweeps first.
//
// It needs root, iproute2 and nftables. Each site is 10.77.<site>.0/24, its
// LAN a bridge with multicast; the WAN host holds all bridges and routes
// between them, address .254 at each. Traffic within a LAN never meets the
// WAN's rules.
package labkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const prefix = "ccl-" // of every namespace: ccl-<pid>-<start of pid>-<lab>-<host>

// A Lab is one network. Its methods end the test when the machine refuses.
type Lab struct {
	// set at New, then constant
	T     testing.TB
	Dir   string // for the files of the lab's processes
	name  string
	wan   *Host
	sites []string

	mu    sync.Mutex // guards what follows
	hosts []*Host
	procs []*Process
	last  map[string]byte // last address given at a site
	line  *line           // between the sites; nil: as fast as the machine
}

var labs int // number of labs this process has built; tests of a lab are not parallel

// New builds a WAN with a LAN for each named site and takes it down when the
// test ends. Without root or a tool it skips the test, and in CI fails it.
func New(t testing.TB, sites ...string) *Lab {
	t.Helper()
	Need(t, "ip", "nft", "nsenter", "tc")
	sweep(t)
	labs++
	dir, err := os.MkdirTemp("", "ccl") // short: sockets live below, and their paths may have 107 octets
	if err != nil {
		t.Fatal(err)
	}
	l := &Lab{
		T: t, Dir: dir, sites: sites, last: map[string]byte{},
		name: fmt.Sprintf("%s%d-%s-%d", prefix, os.Getpid(), startOf(os.Getpid()), labs),
	}
	t.Cleanup(l.close)
	l.wan = l.namespace("wan", "", netip.Addr{})
	l.wan.Must("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.all.rp_filter=0")
	for i, s := range sites {
		br := bridge(i)
		// With an address of its own: a bridge that has none takes the lowest of
		// its ports', and a machine added later would move the router away from
		// under everybody's ARP table.
		l.wan.Must("ip", "link", "add", br, "address", fmt.Sprintf("02:77:00:00:00:%02x", i+1), "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
		l.wan.Must("ip", "addr", "add", fmt.Sprintf("10.77.%d.254/24", i+1), "dev", br)
		l.wan.Must("ip", "link", "set", br, "up")
		l.last[s] = 0
	}
	l.rules()
	return l
}

func bridge(i int) string { return fmt.Sprintf("lan%d", i+1) }

func (l *Lab) index(site string) int {
	for i, s := range l.sites {
		if s == site {
			return i
		}
	}
	l.T.Helper()
	l.T.Fatalf("no site %q in this lab", site)
	return 0
}

// Host adds a machine to the LAN of a site, with the next address there.
func (l *Lab) Host(site, name string) *Host {
	l.T.Helper()
	i := l.index(site)
	l.mu.Lock()
	l.last[site]++
	addr := netip.AddrFrom4([4]byte{10, 77, byte(i + 1), l.last[site]})
	l.mu.Unlock()
	h := l.namespace(name, site, addr)
	port := fmt.Sprintf("p%d", l.last[site])
	h.port, h.bridge = port, bridge(i)
	l.wan.Must("ip", "link", "add", port+"-"+h.bridge, "type", "veth", "peer", "name", "eth0", "netns", h.NS)
	h.port = port + "-" + h.bridge
	l.wan.Must("ip", "link", "set", h.port, "master", h.bridge, "up")
	h.Must("ip", "addr", "add", addr.String()+"/24", "brd", "+", "dev", "eth0")
	h.Must("ip", "link", "set", "eth0", "up")
	h.Must("ip", "route", "add", "default", "via", fmt.Sprintf("10.77.%d.254", i+1))
	// The cable is in when the router refuses us: ARP and the switch work.
	l.Within(5*time.Second, name+" reaches its router", func() bool {
		_, err := h.Dial("tcp", fmt.Sprintf("10.77.%d.254:9", i+1))
		return errors.Is(err, unix.ECONNREFUSED)
	})
	return h
}

func (l *Lab) namespace(name, site string, addr netip.Addr) *Host {
	l.T.Helper()
	h := &Host{lab: l, Name: name, Site: site, Addr: addr, NS: l.name + "-" + name}
	l.command("ip", "netns", "add", h.NS)
	l.mu.Lock()
	l.hosts = append(l.hosts, h)
	l.mu.Unlock()
	h.Must("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	h.Must("ip", "link", "set", "lo", "up")
	return h
}

func (l *Lab) command(name string, args ...string) string {
	l.T.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		l.T.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// close ends the processes, says what they said if the test failed, and
// removes the namespaces, with which everything in them goes.
func (l *Lab) close() {
	l.mu.Lock()
	procs, hosts := l.procs, l.hosts
	l.mu.Unlock()
	for _, p := range procs {
		state := p.State()
		p.Kill()
		if l.T.Failed() {
			l.T.Logf("---- %s on %s (%s)\n%s", p.Name, p.Host.Name, state, p.Tail(60))
		}
	}
	for _, h := range hosts {
		if out, err := exec.Command("ip", "netns", "del", h.NS).CombinedOutput(); err != nil {
			l.T.Errorf("remove %s: %v %s", h.NS, err, out)
		}
	}
	if l.T.Failed() && os.Getenv("CCNODE_KEEP") != "" {
		for i, p := range procs {
			os.WriteFile(filepath.Join(l.Dir, fmt.Sprintf("%02d %s on %s.log", i, p.Name, p.Host.Name)), []byte(p.Output()), 0o600)
		}
		l.T.Logf("files are kept in %s", l.Dir)
		return
	}
	os.RemoveAll(l.Dir)
}

// sweep removes the labs of processes that are no more, with what still runs
// in them.
func sweep(t testing.TB) {
	t.Helper()
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		t.Fatalf("list namespaces: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		parts := strings.Split(name, "-")
		if !strings.HasPrefix(name, prefix) || len(parts) < 4 {
			continue
		}
		if pid, err := strconv.Atoi(parts[1]); err != nil || startOf(pid) == parts[2] {
			continue // not ours, or its test is running
		}
		pids, _ := exec.Command("ip", "netns", "pids", name).Output()
		for _, f := range bytes.Fields(pids) {
			if pid, err := strconv.Atoi(string(f)); err == nil {
				unix.Kill(pid, unix.SIGKILL)
			}
		}
		exec.Command("ip", "netns", "del", name).Run()
		t.Logf("swept %s, left by a test that was killed", name)
	}
}

// startOf is when a process began, in ticks since boot: with its number it
// names the process for as long as the machine is up. Empty: no such process.
func startOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 {
		return ""
	}
	return string(f[19])
}

// A Host is a machine of the lab: a network namespace.
type Host struct {
	lab          *Lab
	Name, Site   string
	Addr         netip.Addr
	NS           string
	port, bridge string // at the LAN's side
}

// Must runs a command on the host and ends the test if it fails.
func (h *Host) Must(name string, args ...string) string {
	h.lab.T.Helper()
	return h.lab.command("nsenter", append([]string{"--net=/run/netns/" + h.NS, "--", name}, args...)...)
}

// Run runs a command on the host to its end and returns what it printed.
func (h *Host) Run(timeout time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/" + h.NS, "--", name}, args...)...)
	out, err := c.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("%s did not end within %v", name, timeout)
	}
	return string(out), err
}

// Do calls f on a thread that is on the host. Sockets that f makes stay there.
func (h *Host) Do(f func() error) error {
	done := make(chan error, 1)
	go func() { // ends with f; its thread, which cannot go back, ends with it
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+h.NS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- fmt.Errorf("enter %s: %w", h.NS, err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter %s: %w", h.NS, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Dial connects from the host to a numeric address.
func (h *Host) Dial(network, addr string) (c net.Conn, err error) {
	err = h.Do(func() error {
		c, err = (&net.Dialer{Timeout: 5 * time.Second}).Dial(network, addr)
		return err
	})
	return c, err
}

// Listen hears UDP on the host; port 0 takes any.
func (h *Host) Listen(port int) (c *net.UDPConn, err error) {
	err = h.Do(func() error {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: h.Addr.AsSlice(), Port: port})
		return err
	})
	return c, err
}

// Unplug pulls the host's cable at the switch: the host keeps its address and
// its own end, and nobody is told (no ICMP).
func (h *Host) Unplug() {
	h.lab.T.Helper()
	h.lab.wan.Must("ip", "link", "set", h.port, "nomaster")
}

// Plug puts the cable back.
func (h *Host) Plug() {
	h.lab.T.Helper()
	h.lab.wan.Must("ip", "link", "set", h.port, "master", h.bridge)
}

// LinkDown takes the host's link down: the host itself sees it.
func (h *Host) LinkDown() { h.lab.T.Helper(); h.lab.wan.Must("ip", "link", "set", h.port, "down") }

// LinkUp takes it up again.
func (h *Host) LinkUp() { h.lab.T.Helper(); h.lab.wan.Must("ip", "link", "set", h.port, "up") }

// File gives a path for a file of the host's.
func (h *Host) File(name string) string {
	dir := filepath.Join(h.lab.Dir, h.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		h.lab.T.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// Need skips the test when it does not run as root or a tool is missing; in
// CI that is a failure, because there a skipped proof is no proof.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	var lacks []string
	if os.Geteuid() != 0 {
		lacks = append(lacks, "root")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			lacks = append(lacks, tool)
		}
	}
	if len(lacks) == 0 {
		return
	}
	msg := "needs " + strings.Join(lacks, ", ") + ": run test/deps.sh as root"
	if os.Getenv("CI") == "true" {
		t.Fatal(msg)
	}
	t.Skip(msg)
}
