package labkit

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// rules lays the WAN's table: for each direction between two sites a chain
// that counts what comes, by protocol, and then jumps to the chain that may
// swallow it.
func (l *Lab) rules() {
	l.T.Helper()
	var b strings.Builder
	b.WriteString("table ip lab {\n")
	l.directions(func(from, to string, i, j int) {
		for _, c := range []string{"tcp", "udp", "icmp", "other", "through"} {
			fmt.Fprintf(&b, "counter %s_%d_%d { packets 0 bytes 0 }\n", c, i, j)
		}
		fmt.Fprintf(&b, "chain fate_%d_%d { }\n", i, j)
		fmt.Fprintf(&b, "chain way_%d_%d {\n", i, j)
		fmt.Fprintf(&b, "meta l4proto tcp counter name tcp_%d_%d\n", i, j)
		fmt.Fprintf(&b, "meta l4proto udp counter name udp_%d_%d\n", i, j)
		fmt.Fprintf(&b, "meta l4proto icmp counter name icmp_%d_%d\n", i, j)
		fmt.Fprintf(&b, "meta l4proto != { tcp, udp, icmp } counter name other_%d_%d\n", i, j)
		fmt.Fprintf(&b, "jump fate_%d_%d\ncounter name through_%d_%d\n}\n", i, j, i, j)
	})
	b.WriteString("chain forward {\ntype filter hook forward priority 0; policy drop;\n")
	for i := range l.sites { // a kernel with br_netfilter shows us the LAN's own traffic too
		fmt.Fprintf(&b, "iifname lan%d oifname lan%d accept\n", i+1, i+1)
	}
	l.directions(func(from, to string, i, j int) {
		fmt.Fprintf(&b, "iifname lan%d oifname lan%d jump way_%d_%d\niifname lan%d oifname lan%d accept\n", i, j, i, j, i, j)
	})
	b.WriteString("}\n}\n")
	l.nft(b.String())
}

// Masquerade makes the router of a site what a shop has: all its machines show
// the router's address, and only answers come in (RFC 4787 calls the mapping
// endpoint-independent where ports are free, the filter address and
// port-dependent).
func (l *Lab) Masquerade(site string) {
	l.T.Helper()
	i := l.index(site) + 1
	l.nft(fmt.Sprintf(`table ip router%d {
chain out {
type nat hook postrouting priority srcnat
iifname lan%d oifname != lan%d masquerade
}
chain in {
type filter hook forward priority -1
iifname != lan%d oifname lan%d ct state new,invalid drop
}
}
`, i, i, i, i, i))
}

// Forgets makes a router that Masquerade made forget a connection over TCP on
// which nothing came for a while (whole seconds). If it takes up, it does what
// Linux does unless told otherwise: it takes up a connection that it forgot with
// the next packet from inside; else it swallows that packet.
func (l *Lab) Forgets(site string, after time.Duration, takesUp bool) {
	l.T.Helper()
	i := l.index(site) + 1
	loose := "0"
	if takesUp {
		loose = "1"
	}
	l.wan.Must("sysctl", "-qw", fmt.Sprintf("net.netfilter.nf_conntrack_tcp_timeout_established=%d", int(after.Seconds())), "net.netfilter.nf_conntrack_tcp_loose="+loose)
	l.nft(fmt.Sprintf("insert rule ip router%d in iifname lan%d oifname != lan%d ct state invalid drop\n", i, i, i))
}

func (l *Lab) directions(f func(from, to string, i, j int)) {
	for i, a := range l.sites {
		for j, b := range l.sites {
			if i != j {
				f(a, b, i+1, j+1)
			}
		}
	}
}

func (l *Lab) nft(script string) {
	l.T.Helper()
	c := exec.Command("nsenter", "--net=/run/netns/"+l.wan.NS, "--", "nft", "-f", "-")
	c.Stdin = strings.NewReader(script)
	if out, err := c.CombinedOutput(); err != nil {
		l.T.Fatalf("nft: %v\n%s\n%s", err, out, script)
	}
}

// fate sets what becomes of packets in some directions: a verdict in nft's
// language, or "" for none.
func (l *Lab) fate(verdict string, chosen func(from, to string) bool) {
	l.T.Helper()
	var b strings.Builder
	l.directions(func(from, to string, i, j int) {
		if !chosen(from, to) {
			return
		}
		fmt.Fprintf(&b, "flush chain ip lab fate_%d_%d\n", i, j)
		if verdict != "" {
			fmt.Fprintf(&b, "add rule ip lab fate_%d_%d %s\n", i, j, verdict)
		}
	})
	l.nft(b.String())
}

// Cut swallows, without a word, everything between the given sites and all
// others.
func (l *Lab) Cut(sites ...string) {
	l.T.Helper()
	in := l.set(sites)
	l.fate("drop", func(from, to string) bool { return in[from] != in[to] })
}

// CutWay swallows what one site sends to another, and only that.
func (l *Lab) CutWay(from, to string) {
	l.T.Helper()
	l.index(from)
	l.index(to)
	l.fate("drop", func(a, b string) bool { return a == from && b == to })
}

// Heal undoes Cut, CutWay and Lose.
func (l *Lab) Heal() {
	l.T.Helper()
	l.fate("", func(string, string) bool { return true })
}

// Lose swallows this share of all packets on the WAN, by chance.
func (l *Lab) Lose(percent int) {
	l.T.Helper()
	l.fate(fmt.Sprintf("numgen random mod 100 < %d drop", percent), func(string, string) bool { return true })
}

// Slow gives what comes from the WAN to a site a rate in kbit/s; 0 lifts it.
// Traffic within the site's LAN is not touched.
func (l *Lab) Slow(site string, kbit int) {
	l.T.Helper()
	br := bridge(l.index(site))
	if kbit == 0 {
		l.wan.Must("tc", "qdisc", "del", "dev", br, "root")
		return
	}
	l.wan.Must("tc", "qdisc", "replace", "dev", br, "root", "tbf", "rate", fmt.Sprintf("%dkbit", kbit), "burst", "3200", "latency", "400ms")
}

func (l *Lab) set(sites []string) map[string]bool {
	l.T.Helper()
	in := map[string]bool{}
	for _, s := range sites {
		l.index(s)
		in[s] = true
	}
	return in
}

// A Count is packets and octets, IP headers included.
type Count struct{ Packets, Bytes int64 }

func (c Count) plus(o Count) Count  { return Count{c.Packets + o.Packets, c.Bytes + o.Bytes} }
func (c Count) minus(o Count) Count { return Count{c.Packets - o.Packets, c.Bytes - o.Bytes} }

// A Traffic is what one direction of the WAN was given, cut or not, and what
// it let through.
type Traffic struct{ TCP, UDP, ICMP, Other, Through Count }

// All is everything that was given, of every protocol.
func (t Traffic) All() Count { return t.TCP.plus(t.UDP).plus(t.ICMP).plus(t.Other) }

func (t Traffic) plus(o Traffic) Traffic {
	return Traffic{t.TCP.plus(o.TCP), t.UDP.plus(o.UDP), t.ICMP.plus(o.ICMP), t.Other.plus(o.Other), t.Through.plus(o.Through)}
}

func (t Traffic) minus(o Traffic) Traffic {
	return Traffic{t.TCP.minus(o.TCP), t.UDP.minus(o.UDP), t.ICMP.minus(o.ICMP), t.Other.minus(o.Other), t.Through.minus(o.Through)}
}

// A Meter is a reading of the WAN's counters.
type Meter map[[2]string]Traffic

// Since is what passed between the older reading o and m.
func (m Meter) Since(o Meter) Meter {
	d := Meter{}
	for k, t := range m {
		d[k] = t.minus(o[k])
	}
	return d
}

// Sum adds all directions up.
func (m Meter) Sum() (sum Traffic) {
	for _, t := range m {
		sum = sum.plus(t)
	}
	return sum
}

// Wan reads the counters.
func (l *Lab) Wan() Meter {
	l.T.Helper()
	var list struct {
		Nftables []struct {
			Counter *struct {
				Name           string
				Packets, Bytes int64
			}
		}
	}
	if err := json.Unmarshal([]byte(l.wan.Must("nft", "-j", "list", "counters")), &list); err != nil {
		l.T.Fatalf("nft counters: %v", err)
	}
	by := map[string]Count{}
	for _, e := range list.Nftables {
		if e.Counter != nil {
			by[e.Counter.Name] = Count{e.Counter.Packets, e.Counter.Bytes}
		}
	}
	m := Meter{}
	l.directions(func(from, to string, i, j int) {
		get := func(proto string) Count { return by[fmt.Sprintf("%s_%d_%d", proto, i, j)] }
		m[[2]string{from, to}] = Traffic{get("tcp"), get("udp"), get("icmp"), get("other"), get("through")}
	})
	return m
}

// WatchWan writes the packets that cross the WAN to a file, for a failed
// test's reader; it returns the process and the file.
func (l *Lab) WatchWan(site string) (*Process, string) {
	l.T.Helper()
	file := l.wan.File("wan-" + site + ".pcap")
	p := l.wan.Start("tcpdump", "tcpdump", "-n", "-U", "-i", bridge(l.index(site)), "-w", file)
	return p, file
}
