// Package config is what one box is told by the person who sets it up: where it
// keeps its data, which addresses it serves, which fleet it founds or joins.
// Everything else lives in the replicated state. The zero Config plus Defaults
// is a working node.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Config is local to the box. Fields that only matter at founding or joining
// are ignored afterwards.
type Config struct {
	// where
	Data string // folder that holds everything; made if missing

	// who, at founding
	Fleet    string // fleet's name; default "ccnode"
	Domain   string // SIP domain of the fleet; default <key8>.ccnode.internal
	SiteCode string // store number, default "0001"
	SiteName string // default "Site <code>"
	ExtLen   int    // digits of an extension of the first site, 2 to 6, default 3
	Join     string // "" found or start, "lan" ask the neighbours, else a token
	Name     string // name shown to neighbours; default the host's

	// addresses
	Listen        []netip.Addr  // what phones and nodes reach us at; default the LAN addresses
	SIPPort       int           // UDP and TCP, default 5060
	MeshPort      int           // TCP, default 5870
	MediaPorts    [2]int        // UDP range, first and last, default 30000-30999
	APIListen     string        // host:port of HTTPS, default :8443; "off" for none
	Advertise     string        // address other sites reach this box at, if it differs (port forwarding)
	AdvertiseOnly bool          // the pair's other node, too, reaches this box only there
	BehindNAT     bool          // nobody outside can dial this box: it keeps a connection to a relay
	KeepFirst     time.Duration // behind NAT: the first pause between two keep-alives that is tried, default 2 min
	NoMulticast   bool          // no mDNS
	PhoneHTTP     int           // TCP port where phones begin to fetch their settings, default 8086
	PhoneHTTPS    int           // TCP port where they fetch the rest, default 8446; the next one, too, once secrets were rotated
	NoNTP         bool          // do not tell phones the time

	// limits
	MaxCalls     int           // default 200
	Expires      time.Duration // granted to phones at most, default 120 s
	ReserveBytes int64         // kept free on disk, default 256 MiB

	// RecordingsKbit is how fast recordings are sent to a box of another site at
	// most, in kbit/s; 0: as fast as the line carries beside what is urgent.
	RecordingsKbit int
}

// MinKeep and MaxKeep bound the pause between two keep-alives of a box behind
// NAT. RFC 5382 REQ-5 promises 2 h 4 min; some routers keep less than a minute.
const (
	MinKeep = 5 * time.Second
	MaxKeep = 2 * time.Hour
)

// MinExpires is the shortest registration that can be granted at most.
const MinExpires = 30 * time.Second

// Defaults fills every field that was left empty.
func (c *Config) Defaults() error {
	if c.Data == "" {
		d, err := DefaultData()
		if err != nil {
			return err
		}
		c.Data = d
	}
	abs, err := filepath.Abs(c.Data)
	if err != nil {
		return fmt.Errorf("data folder %s: %w", c.Data, err)
	}
	c.Data = abs
	def := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	defInt := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.Fleet, "ccnode")
	def(&c.SiteCode, "0001")
	def(&c.SiteName, "Site "+c.SiteCode)
	if c.Name == "" {
		c.Name, _ = os.Hostname()
	}
	def(&c.APIListen, ":8443")
	defInt(&c.ExtLen, 3)
	defInt(&c.SIPPort, 5060)
	defInt(&c.MeshPort, 5870)
	defInt(&c.PhoneHTTP, 8086)
	defInt(&c.PhoneHTTPS, 8446)
	defInt(&c.MaxCalls, 200)
	if c.MediaPorts == [2]int{} {
		c.MediaPorts = [2]int{30000, 30999}
	}
	if c.KeepFirst == 0 {
		c.KeepFirst = 2 * time.Minute
	}
	if c.Expires == 0 {
		c.Expires = 120 * time.Second
	}
	if c.ReserveBytes == 0 {
		c.ReserveBytes = 256 << 20
	}
	if len(c.Listen) == 0 {
		c.Listen = LANAddresses()
	}
	return nil
}

var (
	codeForm   = regexp.MustCompile(`^[0-9]{2,8}$`)
	domainForm = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// Validate gathers every complaint, each with what to do.
func (c *Config) Validate() error {
	var bad []error
	no := func(format string, a ...any) { bad = append(bad, fmt.Errorf(format, a...)) }
	if !codeForm.MatchString(c.SiteCode) {
		no("site code %q: use 2 to 8 digits, such as the store number 0017", c.SiteCode)
	}
	if c.ExtLen < 2 || c.ExtLen > 6 {
		no("extension-digits %d: use 2 to 6", c.ExtLen)
	}
	if c.Domain != "" && !domainForm.MatchString(c.Domain) {
		no("domain %q: use a DNS name such as shops.example", c.Domain)
	}
	for name, p := range map[string]int{"SIP": c.SIPPort, "mesh": c.MeshPort, "first media": c.MediaPorts[0], "last media": c.MediaPorts[1],
		"provisioning HTTP": c.PhoneHTTP, "provisioning HTTPS": c.PhoneHTTPS, "second provisioning HTTPS (one more)": c.PhoneHTTPS + 1} {
		if p < 1 || p > 65535 {
			no("%s port %d: use 1 to 65535", name, p)
		}
	}
	if c.MediaPorts[1]-c.MediaPorts[0] < 3 {
		no("media ports %d-%d: leave room for at least 4, two for each side of a call", c.MediaPorts[0], c.MediaPorts[1])
	}
	if c.MaxCalls < 1 || c.MaxCalls > 10_000 {
		no("max-calls %d: use 1 to 10000", c.MaxCalls)
	}
	if c.RecordingsKbit < 0 || c.RecordingsKbit > 1_000_000 {
		no("recordings-rate %d: use 1 to 1000000 kbit/s, or 0 for no limit", c.RecordingsKbit)
	}
	if c.Expires < MinExpires || c.Expires > time.Hour {
		no("expires %v: use %v to 1h; phones on TCP are away that long when a box dies", c.Expires, MinExpires)
	}
	if c.KeepFirst < MinKeep || c.KeepFirst > MaxKeep {
		no("keep-alive %v: use %v to %v", c.KeepFirst, MinKeep, MaxKeep)
	}
	if len(c.Listen) == 0 {
		no("this box has no network address; plug it in, or name one with --listen")
	}
	if c.APIListen != "off" {
		if _, port, err := net.SplitHostPort(c.APIListen); err != nil {
			no("API address %q: write host:port, :port, or off", c.APIListen)
		} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			no("API port %q: use 1 to 65535", port)
		}
	}
	if c.Advertise != "" {
		if _, err := netip.ParseAddr(c.Advertise); err != nil {
			no("advertised address %q: use an IP address other sites can reach", c.Advertise)
		}
		if c.BehindNAT {
			no("an advertised address and behind-nat exclude each other: either a router forwards to this box, or it does not")
		}
	} else if c.AdvertiseOnly {
		no("advertise-only: say where with --advertise")
	}
	return errors.Join(bad...)
}

// DefaultData is /var/lib/ccnode for root, else the user's data folder.
func DefaultData() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/ccnode", nil
	}
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		return filepath.Join(d, "ccnode"), nil
	}
	h, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home folder: %w; say where to keep data with --data", err)
	}
	return filepath.Join(h, ".local", "share", "ccnode"), nil
}

// Socket is the path of the API's unix socket in a data folder.
func Socket(data string) string { return filepath.Join(data, "api.sock") }

// LANAddresses lists the addresses of this box that phones could use: of
// interfaces that are up, IPv4 first, no loopback unless there is nothing else.
func LANAddresses() (out []netip.Addr) {
	var v6, loop []netip.Addr
	ifs, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range ifs {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			ip, ok := netip.AddrFromSlice(n.IP)
			ip = ip.Unmap()
			switch {
			case !ok, ip.IsLinkLocalUnicast():
			case ip.IsLoopback():
				if ip.Is4() {
					loop = append(loop, ip)
				}
			case ip.Is4():
				out = append(out, ip)
			default:
				v6 = append(v6, ip)
			}
		}
	}
	out = append(out, v6...)
	if len(out) == 0 {
		out = loop
	}
	return out
}

// ParsePorts reads "30000-30999".
func ParsePorts(s string) ([2]int, error) {
	a, b, ok := strings.Cut(s, "-")
	lo, err1 := strconv.Atoi(a)
	hi, err2 := strconv.Atoi(b)
	if !ok || err1 != nil || err2 != nil || lo > hi {
		return [2]int{}, fmt.Errorf("port range %q: write it like 30000-30999", s)
	}
	return [2]int{lo, hi}, nil
}
