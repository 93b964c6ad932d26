package box

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

// TestDoctor: a fresh box says that there is no way out and what was not looked
// at; a trunk whose password is wrong is named, by what the provider answered,
// and the exit code is 1; with the right one it is 0 again.
func TestDoctor(t *testing.T) {
	provider := newBox(t)
	provider.up("--new-fleet", "provider", "--domain", "prov.example", "--site", "0100")
	account, err := ask[api.User](provider, "POST", "/users", api.NewUser{Number: "201", Name: "The shop", Password: "trunk secret"})
	if err != nil {
		t.Fatal(err)
	}
	shop := newBox(t)
	shop.up("--new-fleet", "shop", "--domain", "shop.example", "--site", "0001")

	a := shop.cli("doctor")
	if a.code != 0 {
		t.Errorf("a fresh box: exit %d: %s", a.code, a.err)
	}
	has(t, "doctor of a fresh box", a.out, "No way out when the Internet is cut", "ccnode trunk create", "SIP ALG was not looked at", "FIREWALL",
		"On the router towards the Internet nothing has to be opened inwards.")
	shop.sameDoors(as[api.Doctor](shop, "doctor"))

	shop.must("trunk", "create", "prov", "--kind", "register", "--via", "wan", "--server", provider.ip.String(), "--domain", "prov.example",
		"--user", account.Devices[0].SIPUser, "--password", "wrong", "--number", "+33472001200")
	eventually(t, 20*time.Second, func() error {
		a = shop.cli("doctor")
		if a.code != refused || !strings.Contains(a.out, "FAULT: Trunk prov: wrong password.") {
			return fmt.Errorf("exit %d: %s%s", a.code, a.out, a.err)
		}
		return nil
	})
	has(t, "doctor with a wrong password", a.out, "answered 401", "ccnode trunk set prov", "No way out when the Internet is cut", "every trunk needs the Internet: prov")
	has(t, "its last words", a.err, "1 fault found")
	if a := shop.cli("doctor", "-o", "json"); a.code != refused {
		t.Errorf("as JSON: exit %d", a.code)
	} else {
		var d api.Doctor
		decode(t, a.out, &d)
		if d.Faults() != 1 {
			t.Errorf("as JSON: %+v", d.Findings)
		}
		if !slices.ContainsFunc(d.Ports, func(p api.Port) bool {
			return p.Way == "out" && p.Protocol == "udp" && p.Port == "5060" && slices.Contains(p.Addrs, provider.ip.String())
		}) {
			t.Errorf("it is not said that the provider is called: %+v", d.Ports)
		}
	}

	shop.must("trunk", "set", "prov", "--password", "trunk secret")
	eventually(t, 20*time.Second, func() error {
		a = shop.cli("doctor")
		if a.code != 0 || !strings.Contains(a.out, "Trunks that answer, with the right password: prov.") {
			return fmt.Errorf("exit %d: %s%s", a.code, a.out, a.err)
		}
		return nil
	})
	has(t, "doctor with the right password", a.out, "UDP passes", "No SIP ALG", "No NAT towards trunk prov", "nothing to open")
}

// TestDoctorNamesSilence: a server that takes TCP and never answers UDP is what
// blocked UDP looks like from the shop.
func TestDoctorNamesSilence(t *testing.T) {
	t.Parallel() // it waits for the trunk to give up
	shop := newBox(t)
	shop.up()
	// Port 8443 of the shop itself takes TCP; nobody is there on UDP.
	shop.must("trunk", "create", "prov", "--kind", "register", "--via", "wan", "--server", shop.ip.String()+":8443", "--domain", "prov.example", "--user", "u", "--password", "p")
	var a answer
	eventually(t, 60*time.Second, func() error {
		a = shop.cli("doctor")
		if a.code != refused {
			return errors.New(a.out + a.err)
		}
		return nil
	})
	has(t, "doctor", a.out, "UDP seems blocked: trunk prov gets no answer.", "never got any answer", "took a TCP connection", "--transport tcp")
}

// TestDoctorSeesAnotherAddress: a box that was started with another address says so.
func TestDoctorSeesAnotherAddress(t *testing.T) {
	b := newBox(t)
	b.up()
	old := b.ip
	b.term()
	b.ip = address(t)
	b.up()
	a := b.cli("doctor")
	has(t, "doctor", a.out, "The address of this box changed since its last run: it was "+old.String()+":5060", b.ip.String())
}

// sameDoors compares the statement with the sockets the process has.
func (b *box) sameDoors(d api.Doctor) {
	b.t.Helper()
	said := map[string]bool{}
	for _, p := range d.Ports {
		if p.Way == "in" && !strings.Contains(p.Port, "-") {
			said[p.Protocol+" "+p.Port] = true
		}
	}
	open := b.sockets()
	for s := range open {
		if !said[s] {
			b.t.Errorf("the process listens on %s, the statement does not say so: %v", s, said)
		}
	}
	for s := range said {
		if !open[s] {
			b.t.Errorf("the statement says %s, on which the process does not listen: %v", s, open)
		}
	}
}

// sockets are the ports on which the process listens, by the kernel's tables.
func (b *box) sockets() map[string]bool {
	b.t.Helper()
	pid := strconv.Itoa(b.cmd.Process.Pid)
	mine := map[string]bool{}
	fds, err := os.ReadDir("/proc/" + pid + "/fd")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, fd := range fds {
		to, err := os.Readlink("/proc/" + pid + "/fd/" + fd.Name())
		if inode, ok := strings.CutPrefix(to, "socket:["); err == nil && ok {
			mine[strings.TrimSuffix(inode, "]")] = true
		}
	}
	out := map[string]bool{}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		f, err := os.Open("/proc/" + pid + "/net/" + table)
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6 here
		} else if err != nil {
			b.t.Fatal(err)
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			w := strings.Fields(lines.Text())
			if len(w) < 10 || !mine[w[9]] || strings.HasPrefix(table, "tcp") && w[3] != "0A" {
				continue
			}
			_, hex, _ := strings.Cut(w[1], ":")
			port, err := strconv.ParseUint(hex, 16, 16)
			if err != nil {
				b.t.Fatal(err)
			}
			out[table[:3]+" "+strconv.FormatUint(port, 10)] = true
		}
		f.Close()
	}
	if len(out) == 0 {
		b.t.Fatal("no sockets of the process were found")
	}
	return out
}
