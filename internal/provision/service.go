package provision

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config is what a Service stands on. All but Log must be set.
type Config struct {
	Now  func() time.Time
	Rand io.Reader

	// HTTP and HTTPS are where phones reach this node's two handlers; the
	// certificate of the second must name its address.
	HTTP, HTTPS netip.AddrPort

	// CA is the certificate that phones are to trust, in PEM: one, and no key.
	CA []byte

	// Key makes the secret URLs where phones look again at each boot, at least
	// 32 octets. The nodes of a pair share it, so that either serves them.
	Key []byte

	// LAN returns the network of ours an address is in, and false for any
	// other address.
	LAN func(netip.Addr) (netip.Prefix, bool)

	// Phone returns an adopted phone, or an error that wraps ErrUnknown. It is
	// called for each request that could be answered, and may not block for
	// long.
	Phone func(context.Context, MAC) (*Phone, error)

	// Next is set in a Service of secret URLs that phones are to leave: it gives
	// each adopted phone that comes by its URL of before the settings of Next,
	// at one address only, and does nothing else. CA is Next's then, and Key
	// that of before.
	Next *Service

	Log *slog.Logger
}

// Bounds of a Service.
const (
	MaxWindow  = time.Hour
	maxTickets = 1024
	maxSeen    = 256
	maxSources = 1024
	perSource  = 120  // requests a minute
	perMinute  = 1200 // from all sources
)

// Stats counts what a Service did.
type Stats struct {
	First, Full, Again uint64 // files: over HTTP, by one-time URL, by secret URL
	PnP                uint64 // phones told where to go
	Closed             uint64 // asked outside a window
	Foreign            uint64 // from outside the LAN
	Unknown            uint64 // MACs nobody adopted
	Refused            uint64 // wrong URL, file name or MAC
	Twice              uint64 // a one-time URL used again
	Limited            uint64 // too many requests
	Failed             uint64 // a file that could not be made
}

// A Seen is a device that asked. Whoever wants it to be a phone of theirs
// adopts it.
type Seen struct {
	MAC                    MAC
	Vendor, Model, Version string // as it says, "" if it does not
	Addr                   netip.Addr
	First, Last            time.Time
	Times                  int
	Adopted                bool      // known when it last asked
	Fetched                time.Time // when it was last given all its settings
	Owed                   bool      // those it has now are others

	has [32]byte // digest of what it was given
}

// A Service hands files to phones. It is safe for concurrent use.
type Service struct {
	// set at New, then constant
	cfg    Config
	caPEM  []byte
	caDER  []byte
	inside chan struct{} // one place for each request being served

	mu      sync.Mutex // guards what follows
	until   time.Time  // end of the window
	only    []MAC      // who may use it; nil: all
	tickets map[[32]byte]*ticket
	current map[MAC][32]byte // the last ticket of each phone
	seen    map[MAC]*Seen
	moved   map[MAC]netip.Addr // where phones came from by a URL of before
	stats   Stats
	web     limiter // what comes over TCP
	air     limiter // what comes over UDP, where anybody can be anybody
}

// A limiter counts requests within a minute.
type limiter struct {
	minute  time.Time
	count   int
	sources map[netip.Addr]int
}

// A ticket is one one-time URL. Used ones stay until the window ends, so that
// a second use is noticed.
type ticket struct {
	mac  MAC
	lan  netip.Prefix
	used bool
}

// New makes a Service with no window open.
func New(cfg Config) (*Service, error) {
	if cfg.Now == nil || cfg.Rand == nil || cfg.LAN == nil || cfg.Phone == nil {
		return nil, errors.New("provisioning: clock, randomness, LAN and phones are needed")
	}
	if len(cfg.Key) < 32 {
		return nil, fmt.Errorf("provisioning: key of %d octets: at least 32", len(cfg.Key))
	}
	for _, a := range []netip.AddrPort{cfg.HTTP, cfg.HTTPS} {
		if !usable(a.Addr()) || a.Port() == 0 {
			return nil, fmt.Errorf("provisioning: phones cannot reach %s", a)
		}
	}
	block, rest := pem.Decode(cfg.CA)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("provisioning: the CA must be one PEM certificate and nothing else")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("provisioning: read the CA: %w", err)
	}
	if !ca.IsCA {
		return nil, fmt.Errorf("provisioning: %s is no CA", ca.Subject)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{
		cfg: cfg, caPEM: pem.EncodeToMemory(block), caDER: block.Bytes,
		inside:  make(chan struct{}, 32),
		tickets: map[[32]byte]*ticket{}, current: map[MAC][32]byte{},
		seen: map[MAC]*Seen{}, moved: map[MAC]netip.Addr{},
	}, nil
}

// Open opens the window for d, for the given phones or for all if there are
// none. An open window is replaced; its one-time URLs are void.
func (s *Service) Open(d time.Duration, only ...MAC) (until time.Time, err error) {
	if d <= 0 || d > MaxWindow {
		return time.Time{}, fmt.Errorf("open the provisioning window for %v: want at most %v", d, MaxWindow)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut()
	s.until, s.only = s.cfg.Now().Add(d), slices.Clone(only)
	s.cfg.Log.Info("Provisioning window opened", "for", d, "phones", len(only))
	return s.until, nil
}

// Close closes the window at once.
func (s *Service) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shut()
}

// Window returns when the open window ends and for whom it is; a zero time
// when none is open.
func (s *Service) Window() (until time.Time, only []MAC) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open() {
		return time.Time{}, nil
	}
	return s.until, slices.Clone(s.only)
}

func (s *Service) shut() {
	s.until, s.only = time.Time{}, nil
	clear(s.tickets)
	clear(s.current)
}

// open says whether the window is open, and clears up behind one that ended.
func (s *Service) open() bool {
	if s.until.IsZero() {
		return false
	}
	if !s.cfg.Now().Before(s.until) {
		s.shut()
		return false
	}
	return true
}

// Stats returns the counters so far.
func (s *Service) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Seen lists who asked, the latest first. Of very many only the latest are
// remembered.
func (s *Service) Seen() []Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Seen, 0, len(s.seen))
	for _, d := range s.seen {
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b Seen) int {
		if c := b.Last.Compare(a.Last); c != 0 {
			return c
		}
		return strings.Compare(a.MAC.String(), b.MAC.String())
	})
	return out
}

// note remembers a device that asked. The caller holds mu.
func (s *Service) note(m MAC, from netip.Addr, vendor, model, version string) *Seen {
	now := s.cfg.Now()
	d := s.seen[m]
	if d == nil {
		if len(s.seen) >= maxSeen {
			var oldest *Seen
			for _, o := range s.seen {
				if oldest == nil || o.Last.Before(oldest.Last) {
					oldest = o
				}
			}
			delete(s.seen, oldest.MAC)
		}
		d = &Seen{MAC: m, First: now}
		s.seen[m] = d
	}
	d.Addr, d.Last = from, now
	d.Times++
	for _, f := range []struct {
		to  *string
		say string
	}{{&d.Vendor, vendor}, {&d.Model, model}, {&d.Version, version}} {
		if f.say != "" && len(f.say) <= 64 && value(f.say) == nil {
			*f.to = f.say
		}
	}
	return d
}

// allow counts a request from a, and says whether it is one too many.
func (l *limiter) allow(a netip.Addr, now time.Time) bool {
	if d := now.Sub(l.minute); d >= time.Minute || d < 0 || l.sources == nil {
		l.minute, l.count, l.sources = now, 0, map[netip.Addr]int{}
	}
	n, known := l.sources[a]
	if l.count >= perMinute || n >= perSource || !known && len(l.sources) >= maxSources {
		return false
	}
	l.count++
	l.sources[a] = n + 1
	return true
}

var text32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// issue makes a one-time URL's folder for a phone of a network. The one before
// it is void: a phone that starts again starts afresh.
func (s *Service) issue(m MAC, lan netip.Prefix) (string, error) {
	var b [20]byte // 160 bits
	if _, err := io.ReadFull(s.cfg.Rand, b[:]); err != nil {
		return "", fmt.Errorf("make a one-time URL: %w", err)
	}
	token := text32.EncodeToString(b[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open() {
		return "", errors.New("make a one-time URL: the window has closed")
	}
	if old, ok := s.current[m]; ok {
		delete(s.tickets, old)
	}
	if len(s.tickets) >= maxTickets {
		return "", errors.New("make a one-time URL: too many are out")
	}
	key := sha256.Sum256([]byte(token))
	s.tickets[key], s.current[m] = &ticket{mac: m, lan: lan}, key
	return "https://" + s.cfg.HTTPS.String() + "/o/" + token + "/", nil
}

// redeem uses a token up for the phone m at from. It is false, and counted,
// when that is not to be.
func (s *Service) redeem(token string, m MAC, from netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open() {
		s.stats.Closed++
		return false
	}
	t := s.tickets[sha256.Sum256([]byte(token))]
	switch {
	case t == nil || t.mac != m || !t.lan.Contains(from):
		s.stats.Refused++
		return false
	case t.used:
		s.stats.Twice++
		s.cfg.Log.Warn("One-time provisioning URL used twice: somebody may be listening on the LAN", "mac", m, "from", from)
		return false
	}
	t.used = true
	return true
}

// Secret is the folder where an adopted phone looks again at each boot. It
// changes with the phone's Epoch.
func (s *Service) Secret(p *Phone) string {
	return "https://" + s.cfg.HTTPS.String() + "/d/" + s.secret(p) + "/"
}

func (s *Service) secret(p *Phone) string {
	h := hmac.New(sha256.New, s.cfg.Key)
	h.Write([]byte("ccnode provisioning 1"))
	h.Write(p.MAC[:])
	h.Write(binary.BigEndian.AppendUint32(nil, p.Epoch))
	return text32.EncodeToString(h.Sum(nil)[:20]) // 160 bits
}
