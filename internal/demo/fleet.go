// Package demo runs the product's main story on one machine, as an ordinary
// user: three sites, four nodes, telephones, a wide area network that is cut
// and heals. Every node is a real ccnode process with a data folder and an
// address of its own; the telephones speak real SIP and RTP.
package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/config"
	"carrierclass.net/ccnode/internal/demo/wanrelay"
	"carrierclass.net/ccnode/mesh/mdns"
)

const (
	sipPort    = 5060
	meshPort   = 5870
	firstMedia = 31000
	lastMedia  = 31059
)

var thiefInside = netip.AddrFrom4([4]byte{127, 1, 9, 1})

// box is one ccnode process.
type box struct {
	name    string // "A-a"
	site    string // code
	data    string
	lan     bool // speaks multicast DNS, on loopback
	inside  netip.Addr
	outside netip.Addr
	client  *api.Client
	cmd     *exec.Cmd
	done    chan error
	mu      sync.Mutex
	out     bytes.Buffer
}

// Write collects what the process says.
func (b *box) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.out.Len() < 1<<20 {
		b.out.Write(p)
	}
	return len(p), nil
}

func (b *box) said() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.out.String()
}

func (b *box) server() netip.AddrPort { return netip.AddrPortFrom(b.inside, sipPort) }

// fleet is all of them, and the network between.
type fleet struct {
	program string
	dir     string
	wan     *wanrelay.Relay
	boxes   []*box
}

func newFleet(program, dir string) (*fleet, error) {
	f := &fleet{program: program, dir: dir}
	var nodes []wanrelay.Node
	for _, x := range []struct {
		name, site string
		s, n       byte
	}{{"A-a", "0001", 1, 1}, {"A-b", "0001", 1, 2}, {"B", "0002", 2, 1}, {"C", "0003", 3, 1}} {
		b := &box{name: x.name, site: x.site, data: filepath.Join(dir, x.name),
			inside: netip.AddrFrom4([4]byte{127, 1, x.s, x.n}), outside: netip.AddrFrom4([4]byte{127, 200, x.s, x.n})}
		b.lan = x.s == 1 && mdns.Available([]netip.Addr{b.inside})
		c, err := api.NewClient("unix:"+config.Socket(b.data), "", nil)
		if err != nil {
			return nil, err
		}
		b.client = c
		f.boxes = append(f.boxes, b)
		// Each box is a site of the relay's, so that a cut can go through the pair.
		nodes = append(nodes, wanrelay.Node{Site: x.name, Inside: b.inside, Outside: b.outside, TCP: []uint16{meshPort},
			UDP: wanrelay.PortRange{First: firstMedia, Last: lastMedia}})
	}
	// And one that is nobody: it will try a token that was used.
	nodes = append(nodes, wanrelay.Node{Site: "thief", Inside: thiefInside, Outside: netip.AddrFrom4([4]byte{127, 200, 9, 1}), TCP: []uint16{meshPort}})
	wan, err := wanrelay.New(wanrelay.Config{Nodes: nodes})
	if err != nil {
		return nil, fmt.Errorf("make the WAN: %w; is another demo running?", err)
	}
	f.wan = wan
	return f, nil
}

func (f *fleet) box(name string) *box {
	for _, b := range f.boxes {
		if b.name == name {
			return b
		}
	}
	panic("no box " + name)
}

// start runs a box and waits until it serves.
func (f *fleet) start(ctx context.Context, b *box, args ...string) error {
	if err := os.MkdirAll(b.data, 0o700); err != nil {
		return err
	}
	args = append([]string{"up", "--data", b.data, "--listen", b.inside.String(), "--api-listen", "off", "--advertise", b.outside.String(), "--advertise-only",
		"--media-ports", fmt.Sprintf("%d-%d", firstMedia, lastMedia), "--name", b.name}, args...)
	if !b.lan {
		args = append(args, "--no-mdns")
	}
	b.cmd = exec.Command(f.program, args...)
	b.cmd.Stdout, b.cmd.Stderr = b, b
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is ours to pass on
	b.done = make(chan error, 1)
	if err := b.cmd.Start(); err != nil {
		return fmt.Errorf("start box %s: %w", b.name, err)
	}
	go func() { b.done <- b.cmd.Wait() }() // ends with the process
	ready := time.NewTicker(50 * time.Millisecond)
	defer ready.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("box %s is not up in time: %w\n%s", b.name, context.Cause(ctx), b.said())
		case err := <-b.done:
			b.done <- err
			return fmt.Errorf("box %s ended: %w\n%s", b.name, err, b.said())
		case <-ready.C:
			if err := b.client.Do(ctx, "GET", "/status", nil, &api.Status{}, ""); err == nil {
				return nil
			}
		}
	}
}

// stop ends every box and the network.
func (f *fleet) stop() {
	for _, b := range f.boxes {
		if b.cmd != nil && b.cmd.Process != nil {
			_ = b.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	late := time.After(15 * time.Second)
	for _, b := range f.boxes {
		if b.cmd == nil || b.done == nil {
			continue
		}
		select {
		case <-b.done:
		case <-late:
			_ = b.cmd.Process.Kill()
			<-b.done
		}
	}
	if f.wan != nil {
		f.wan.Close()
	}
}

// get and send speak to a box's REST interface.
func get[T any](ctx context.Context, b *box, path string) (out T, err error) {
	err = b.client.Do(ctx, "GET", path, nil, &out, "")
	if err != nil {
		err = fmt.Errorf("box %s: %w", b.name, err)
	}
	return out, err
}

func send[T any](ctx context.Context, b *box, method, path string, in any) (out T, err error) {
	err = b.client.Do(ctx, method, path, in, &out, "")
	if err != nil {
		err = fmt.Errorf("box %s: %w", b.name, err)
	}
	return out, err
}

// until tries again every 100 ms until fn is content or ctx ends.
func until(ctx context.Context, fn func() error) error {
	for {
		err := fn()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// kept waits until every shop's state is at another one, and says where.
func (f *fleet) kept(ctx context.Context) (where string, err error) {
	err = until(ctx, func() error {
		var words []string
		for _, b := range f.boxes {
			st, err := get[api.Status](ctx, b, "/status")
			if err != nil {
				return err
			}
			if len(st.Keepers) != 1 || st.Keepers[0].State != "keeps" {
				return fmt.Errorf("the state of box %s is kept at %v", b.name, st.Keepers)
			}
			if w := st.Node.SiteCode + " at " + st.Keepers[0].Site; !slices.Contains(words, w) {
				words = append(words, w)
			}
		}
		where = strings.Join(words, ", ")
		return f.settled(ctx)
	})
	return where, err
}

// settled says what is still different or owed among the boxes.
func (f *fleet) settled(ctx context.Context) error {
	var all []api.Status
	for _, b := range f.boxes {
		st, err := get[api.Status](ctx, b, "/status")
		if err != nil {
			return err
		}
		if len(st.Held) > 0 {
			return fmt.Errorf("box %s holds %d changes: %s", b.name, len(st.Held), st.Held[0].Reason)
		}
		if st.Owed.Changes+st.Owed.Outbox+st.Owed.Blobs > 0 {
			return fmt.Errorf("box %s still owes %d changes, %d to other sites, and waits for %d recordings", b.name, st.Owed.Changes, st.Owed.Outbox, st.Owed.Blobs)
		}
		all = append(all, st)
	}
	prints := map[string]string{}
	for i, st := range all {
		for _, s := range st.Scopes {
			if first, ok := prints[s.Scope]; ok && first != s.Fingerprint {
				return fmt.Errorf("box %s has another %s", f.boxes[i].name, s.Scope)
			}
			prints[s.Scope] = s.Fingerprint
		}
	}
	return nil
}

// audio fetches a message as a WAV file.
func audio(ctx context.Context, b *box, user, id string) ([]byte, error) {
	r, err := b.client.Stream(ctx, "/users/"+user+"/messages/"+id+"/audio")
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// errAll joins what went wrong in several places at once.
func errAll(fns ...func() error) error {
	errs := make([]error, len(fns))
	var wg sync.WaitGroup
	for i, fn := range fns {
		wg.Go(func() { errs[i] = fn() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ")
}
