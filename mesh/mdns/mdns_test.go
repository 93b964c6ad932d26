package mdns

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/grandcat/zeroconf"
)

// lan is loopback: a test says nothing to other people's networks.
func lan(t *testing.T) []netip.Addr {
	t.Helper()
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	if !Available(addrs) {
		t.Fatal("loopback is down")
	}
	return addrs
}

func TestANeighbourIsHeard(t *testing.T) {
	addrs := lan(t)
	var a Announcer
	info := Info{Node: "abcdefghijklmnopqrstuvwxyz", Key: [32]byte{1, 2}, Fleet: "f1", Site: "0001", Name: "shop", Port: 5870, Addrs: addrs}
	if err := a.Update(info); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	heard := false
	if err := Browse(ctx, addrs, func(i Info) {
		if i.Node == info.Node && i.Key == info.Key && i.Site == "0001" && i.Port == 5870 {
			heard = true
			cancel()
		}
	}); err != nil {
		t.Fatal(err)
	}
	if !heard {
		t.Error("the neighbour was not heard")
	}
}

func TestNoLANIsAnErrorToTryAgain(t *testing.T) {
	var a Announcer
	if err := a.Update(Info{Node: "x", Port: 1, Addrs: []netip.Addr{netip.MustParseAddr("203.0.113.9")}}); err != ErrNoLAN {
		t.Errorf("got %v", err)
	}
}

func TestNonsenseIsNotANeighbour(t *testing.T) {
	for name, e := range map[string]*zeroconf.ServiceEntry{
		"nil":     nil,
		"no port": {Text: []string{"v=1", "n=x"}},
		"bad key": {Port: 1, Text: []string{"v=1", "n=x", "k=!!"}},
		"no addr": {Port: 1, Text: []string{"v=1", "n=x", "k=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}},
	} {
		if i, ok := parse(e); ok {
			t.Errorf("%s: taken for %+v", name, i)
		}
	}
}

// FuzzParse: whatever is announced on the LAN, it is a neighbour only with all
// that a neighbour has, and within the limits.
func FuzzParse(f *testing.F) {
	f.Add("v=1\x00n=x\x00k=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE\x00f=f1\x00s=0001\x00d=shop", 5870, []byte{10, 0, 0, 1})
	f.Add("v=1\x00=\x00n\x00k=!", -1, []byte{1})
	f.Fuzz(func(t *testing.T, text string, port int, ip []byte) {
		e := &zeroconf.ServiceEntry{Port: port, Text: strings.Split(text, "\x00")}
		for len(ip) > 4 {
			e.AddrIPv4 = append(e.AddrIPv4, net.IP(ip[:4]))
			ip = ip[4:]
		}
		e.AddrIPv6 = []net.IP{ip}
		i, ok := parse(e)
		if !ok {
			return
		}
		if i.Node == "" || i.Key == [32]byte{} || i.Port <= 0 || i.Port > 65535 || len(i.Addrs) == 0 || len(i.Addrs) > 8 || max(len(i.Node), len(i.Fleet), len(i.Site), len(i.Name)) > 120 {
			t.Fatalf("a neighbour: %+v", i)
		}
	})
}
