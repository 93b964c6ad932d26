// Package mdns lets boxes on one LAN hear of each other (RFC 6762, RFC 6763).
// Hearing grants nothing: what arrives is unauthenticated, and only says where
// it might be worth knocking.
//
// It works round what grandcat/zeroconf v1.0.0 does not do: the host is named
// after the node, because identical images share a host name; addresses are
// given, because the library would not notice when they change (Update); a LAN
// that is not there yet at boot is an error to be tried again at the next change
// of the network; and whoever browses stops when it has found somebody.
package mdns

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/grandcat/zeroconf"
)

const (
	service = "_ccnode._tcp"
	domain  = "local."
)

// ErrNoLAN means that no interface can do multicast at the moment.
var ErrNoLAN = errors.New("no network interface for multicast DNS")

// Info is what a node says of itself. Nothing in it is secret, and nothing a
// reader may rely on.
type Info struct {
	Node  string   // the node's id
	Key   [32]byte // its Ed25519 key
	Fleet string   // short id of its fleet
	Site  string   // code of its site
	Name  string
	Port  int // of the mesh
	Addrs []netip.Addr
}

// Announcer says that a node is here: twice after a change, and when asked.
type Announcer struct {
	mu     sync.Mutex
	server *zeroconf.Server
}

// Update announces info in place of what was announced before. Call it again
// when the network changed.
func (a *Announcer) Update(info Info) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.server != nil {
		a.server.Shutdown()
		a.server = nil
	}
	ifs := interfaces(info.Addrs)
	if len(ifs) == 0 {
		return ErrNoLAN
	}
	ips := make([]string, 0, len(info.Addrs))
	for _, ip := range info.Addrs {
		ips = append(ips, ip.String())
	}
	text := []string{"v=1", "n=" + info.Node, "k=" + base64.RawURLEncoding.EncodeToString(info.Key[:]),
		"f=" + info.Fleet, "s=" + info.Site, "d=" + clip(info.Name, 40)}
	s, err := zeroconf.RegisterProxy(info.Node, service, domain, info.Port, info.Node, ips, text, ifs)
	if err != nil {
		return fmt.Errorf("announce this node on the LAN: %w", err)
	}
	a.server = s
	return nil
}

// Close says goodbye.
func (a *Announcer) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.server != nil {
		a.server.Shutdown()
		a.server = nil
	}
}

func clip(s string, n int) string { return s[:min(len(s), n)] }

// interfaces that can do multicast and have one of the addresses. Loopback can,
// though it does not say so: boxes of one machine hear each other.
func interfaces(addrs []netip.Addr) (out []net.Interface) {
	all, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range all {
		loopback := i.Flags&net.FlagLoopback != 0
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagMulticast == 0 && !loopback {
			continue
		}
		has, _ := i.Addrs()
		for _, h := range has {
			n, ok := h.(*net.IPNet)
			if !ok {
				continue
			}
			ip, _ := netip.AddrFromSlice(n.IP)
			if slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a == ip.Unmap() || loopback && a.IsLoopback() && a.Is4() }) {
				out = append(out, i)
				break
			}
		}
	}
	return out
}

// Available says whether this box has a LAN on which any of addrs can be announced.
func Available(addrs []netip.Addr) bool { return len(interfaces(addrs)) > 0 }

// Browse asks who is there until ctx ends and calls found for each answer, more
// than once for the same node if it answers more than once. The library asks
// again with growing pauses while nobody answers, so end ctx when found.
func Browse(ctx context.Context, addrs []netip.Addr, found func(Info)) error {
	ifs := interfaces(addrs)
	if len(ifs) == 0 {
		return ErrNoLAN
	}
	r, err := zeroconf.NewResolver(zeroconf.SelectIfaces(ifs))
	if err != nil {
		return fmt.Errorf("look for neighbours: %w", err)
	}
	entries := make(chan *zeroconf.ServiceEntry, 16)
	if err := r.Browse(ctx, service, domain, entries); err != nil {
		return fmt.Errorf("look for neighbours: %w", err)
	}
	for {
		select {
		case e, ok := <-entries:
			if !ok {
				<-ctx.Done()
				return nil
			}
			if info, ok := parse(e); ok {
				found(info)
			}
		case <-ctx.Done():
			// The library would hang on an entry nobody takes; it closes the
			// channel when it has noticed the end.
			go func() { // ends with that, or soon after
				late := time.After(5 * time.Second)
				for {
					select {
					case _, ok := <-entries:
						if !ok {
							return
						}
					case <-late:
						return
					}
				}
			}()
			return nil
		}
	}
}

// parse reads an answer; anything odd in it makes it none.
func parse(e *zeroconf.ServiceEntry) (Info, bool) {
	if e == nil || e.Port <= 0 || e.Port > 65535 {
		return Info{}, false
	}
	info := Info{Port: e.Port}
	version := ""
	for _, t := range e.Text {
		k, v, _ := strings.Cut(t, "=")
		if len(v) > 120 {
			return Info{}, false
		}
		switch k {
		case "v":
			version = v
		case "n":
			info.Node = v
		case "k":
			b, err := base64.RawURLEncoding.DecodeString(v)
			if err != nil || len(b) != len(info.Key) {
				return Info{}, false
			}
			copy(info.Key[:], b)
		case "f":
			info.Fleet = v
		case "s":
			info.Site = v
		case "d":
			info.Name = v
		}
	}
	for _, ips := range [][]net.IP{e.AddrIPv4, e.AddrIPv6} {
		for _, ip := range ips {
			if a, ok := netip.AddrFromSlice(ip); ok && len(info.Addrs) < 8 {
				info.Addrs = append(info.Addrs, a.Unmap())
			}
		}
	}
	return info, version == "1" && info.Node != "" && info.Key != [32]byte{} && len(info.Addrs) > 0
}
