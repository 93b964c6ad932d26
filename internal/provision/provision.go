// Package provision is what a phone asks for when it boots: it finds us by a
// multicast SUBSCRIBE, learns over plain HTTP whom to trust and where to go,
// and fetches everything else over HTTPS.
//
// Its law: outside a window that a person opened, nothing is handed out that
// was not handed out before; a secret never crosses the wire in the clear; a
// MAC address is a label and no password. What a vendor's file may say is
// checked before it leaves: no value ends the line, the element or the
// document it stands in.
//
// Each kind of phone is one template in templates/, with a golden file that
// says the firmware it was last tried on, or "untested". RFC 6080 §5.1 is
// where the multicast comes from; vendors use an older dialect of it.
package provision

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// A MAC names a phone. It is printed on its back and is no secret.
type MAC [6]byte

// ParseMAC reads twelve hexadecimal digits, in pairs apart with ':' or '-' or
// all together.
func ParseMAC(s string) (m MAC, err error) {
	plain := s
	if len(s) == 17 && (s[2] == ':' || s[2] == '-') {
		sep := s[2]
		var b strings.Builder
		for i := range len(s) {
			if i%3 == 2 {
				if s[i] != sep {
					return MAC{}, fmt.Errorf("%.20q is not a MAC address", s)
				}
				continue
			}
			b.WriteByte(s[i])
		}
		plain = b.String()
	}
	if len(plain) != 12 {
		return MAC{}, fmt.Errorf("%.20q is not a MAC address: want 12 hexadecimal digits", s)
	}
	for i := range 12 {
		d := strings.IndexByte("0123456789abcdef", plain[i]|0x20)
		if d < 0 || plain[i] < '0' {
			return MAC{}, fmt.Errorf("%.20q is not a MAC address: want 12 hexadecimal digits", s)
		}
		m[i/2] = m[i/2]<<4 | byte(d)
	}
	if m == (MAC{}) || m[0]&1 != 0 {
		return MAC{}, fmt.Errorf("%.20q is no phone's MAC address", s)
	}
	return m, nil
}

// Plain is the form in file names, 001565aabbcc; String is the usual one.
func (m MAC) Plain() string { return fmt.Sprintf("%x", m[:]) }
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }
func (m *MAC) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMAC(string(b))
	return err
}

// A Kind is a family of devices that read the same file.
type Kind string

const (
	Yealink Kind = "yealink" // T3x, T4x, T5x desk phones
	Snom    Kind = "snom"    // D7xx desk phones and their relatives
	SnomM   Kind = "snom-m"  // M300, M400, M700, M900 DECT bases
	Gigaset Kind = "gigaset" // N670, N870 DECT bases
	HT8     Kind = "ht8xx"   // Grandstream HT801, HT802, HT812 adapters
	Akuvox  Kind = "akuvox"  // E1x, R2x door phones
)

// A Transport carries SIP.
type Transport string

const (
	UDP Transport = "udp"
	TCP Transport = "tcp"
	TLS Transport = "tls"
)

// A Line is one registration of a phone. The host of the AOR is not written
// into files: at a phone, the address of the node it registers with stands in
// its place, and every address of ours means this fleet. Neither is a realm:
// it is ours to choose in each challenge.
type Line struct {
	AOR      site.AOR
	User     string // digest user name: the device id
	Password string
	Display  string
	IPUI     string // DECT: the handset, ten hexadecimal digits; "" for the next that asks
}

// A Server is where SIP is spoken: one node.
type Server struct {
	Addr netip.Addr
	Port uint16
}

// A KeyType is what a programmable key does.
type KeyType string

const (
	KeyLine  KeyType = "line"  // the lamp and button of line Value, "1" to "16"
	KeyBLF   KeyType = "blf"   // watch Value, call it, or pick up what rings there
	KeySpeed KeyType = "speed" // dial Value
	KeyPark  KeyType = "park"  // the orbit Value: park there, lamp, fetch
	KeyNight KeyType = "night" // the night switch Value: dial to toggle, lamp
)

// A Key is one programmable key, in the order of the phone's keys.
type Key struct {
	Type  KeyType
	Value string
	Label string
	Line  int // of the phone, from 1; 0 is 1
}

// A Phone says everything a device needs to know, in no vendor's words.
type Phone struct {
	MAC       MAC
	Kind      Kind
	Model     string
	Epoch     uint32 // counted up to void the secret URL it was given
	Lines     []Line
	Servers   []Server // this phone's nodes, the one to prefer first
	Transport Transport
	Expiry    time.Duration // asked for; 90 to 120 s on a LAN

	Zone     string       // IANA name, Europe/Berlin
	SNTP     []netip.Addr // nodes that tell the time, in order
	Language string       // de, en, fr, es, it, nl, pt, pl; others become en
	Country  string       // ISO 3166, for tones; "" for the vendor's default

	Keys          []Key
	Voicemail     string // dialled by the message key
	Pickup        string // feature code before a watched number; "" for none
	DialPlan      string // ATA only, the vendor's own notation; "" for any digits
	DoorCalls     string // door phone: what its button dials
	AdminUser     string // default admin
	AdminPassword string
	DECTCode      string // four digits that a handset types to join the base
}

// Limits of one description.
const (
	MaxLines = 100
	MaxKeys  = 200
)

// ErrUnknown is what a Config.Phone returns for a MAC nobody adopted.
var ErrUnknown = errors.New("no such phone")

// Validate says everything that is wrong with p, or nil. Kinds have room for
// different numbers of lines.
func (p *Phone) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	k, known := kinds[p.Kind]
	if !known {
		bad("kind %q: want one of %s", p.Kind, strings.Join(kindNames(), ", "))
	}
	if p.MAC == (MAC{}) {
		bad("no MAC address")
	}
	if len(p.Lines) == 0 || known && len(p.Lines) > k.lines {
		bad("%d lines: a %s has 1 to %d", len(p.Lines), p.Kind, k.lines)
	}
	for i, l := range p.Lines {
		if !dialable(l.AOR.User) || !dialable(l.User) || l.Password == "" {
			bad("line %d: number, user name and password are needed, the first two of digits, letters and *#+.-_", i+1)
		}
		if l.IPUI != "" && (len(l.IPUI) != 10 || strings.Trim(l.IPUI, "0123456789abcdefABCDEF") != "") {
			bad("line %d: IPUI %q: want 10 hexadecimal digits", i+1, l.IPUI)
		}
	}
	if len(p.Servers) < 1 || len(p.Servers) > 2 {
		bad("%d nodes: want one, or the two of a pair", len(p.Servers))
	}
	for _, s := range p.Servers {
		if !usable(s.Addr) || s.Port == 0 {
			bad("node %s port %d: no address a phone can call", s.Addr, s.Port)
		}
	}
	if len(p.Servers) == 2 && p.Servers[0].Addr == p.Servers[1].Addr {
		bad("both nodes at %s", p.Servers[0].Addr)
	}
	switch p.Transport {
	case UDP, TCP, TLS:
	default:
		bad("transport %q: want udp, tcp or tls", p.Transport)
	}
	if p.Expiry < time.Minute || p.Expiry > time.Hour {
		bad("expiry %v: want one minute to one hour", p.Expiry)
	}
	if len(p.SNTP) < 1 || len(p.SNTP) > 2 {
		bad("%d time servers: want one or two", len(p.SNTP))
	}
	for _, a := range p.SNTP {
		if !usable(a) {
			bad("time server %s: no address a phone can call", a)
		}
	}
	if len(p.Keys) > MaxKeys {
		bad("%d keys: want at most %d", len(p.Keys), MaxKeys)
	}
	for i, key := range p.Keys {
		switch key.Type {
		case KeyLine, KeyBLF, KeySpeed, KeyPark, KeyNight:
		default:
			bad("key %d: unknown type %q", i+1, key.Type)
		}
		if !dialable(key.Value) || key.Line < 0 || key.Line > len(p.Lines) {
			bad("key %d: nothing to dial, or the phone has no line %d", i+1, key.Line)
		}
	}
	for _, code := range []string{p.Voicemail, p.Pickup, p.DoorCalls} {
		if code != "" && !dialable(code) {
			bad("%.20q cannot be dialled", code)
		}
	}
	if p.AdminUser != "" && !dialable(p.AdminUser) {
		bad("admin user %.20q: want digits, letters and .-_", p.AdminUser)
	}
	if p.AdminPassword == "" {
		bad("no admin password: the vendor's would stay")
	}
	if p.Kind == Akuvox && p.DoorCalls == "" {
		bad("nothing for the door button to call")
	}
	if known && k.dect && (len(p.DECTCode) != 4 || strings.Trim(p.DECTCode, "0123456789") != "") {
		bad("DECT code: want four digits")
	}
	if len(errs) > 0 {
		return fmt.Errorf("phone %s: %w", p.MAC, errors.Join(errs...))
	}
	return nil
}

// dialable says whether s can stand in a URI and behind a vendor's separators.
func dialable(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789*#+.-_") == ""
}

func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a.Zone() == ""
}

// secrets are the values that must never cross the wire in the clear.
func (p *Phone) secrets() []string {
	out := []string{p.AdminPassword}
	if p.DECTCode != "" {
		out = append(out, p.DECTCode)
	}
	for _, l := range p.Lines {
		out = append(out, l.Password)
	}
	return out
}
