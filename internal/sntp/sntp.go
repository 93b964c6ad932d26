// Package sntp tells the time to the telephones of a shop, also when nobody
// tells it to us: a phone without a clock shows nonsense, refuses every
// certificate and stamps every missed call with 1970.
//
// Its law: an answer is never longer than its question, is given only to the
// shop's own network, and never claims more than we know. It is a server only;
// who sets our own clock is the system's business.
//
// RFC 5905 §7.3, §9.2 (the server's part) and RFC 4330 §5, §6.
package sntp

import (
	"context"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Size is the length of an NTP header without extensions, and of every answer.
const Size = 48

// maxDispersion keeps an islanded clock below the second at which SNTP clients
// stop believing a server (RFC 4330 §5, sanity check 5).
const maxDispersion = 900 * time.Millisecond

// Status is what is known of the system clock.
type Status struct {
	Synchronised bool          // somebody disciplines it (adjtimex: not STA_UNSYNC)
	MaxError     time.Duration // the most it may be wrong by, if known
	Source       netip.Addr    // who disciplines it, if known
	Set          time.Time     // when it was last disciplined, if known
}

// Config is how a Server answers. LAN and Now must be set.
type Config struct {
	Now    func() time.Time      // the system clock
	Status func() Status         // nil: not synchronised
	LAN    func(netip.Addr) bool // whether an address belongs to the shop's own network

	// Floor is a time certainly past, such as the day of the build. A clock
	// below it was never set, and no answer is better than that one. Zero: none.
	Floor time.Time

	// Islanded is the stratum of a clock that nobody sets, 10 to 12; default
	// 10. The second node of a pair says 11, so that a client which compares
	// takes one of them and stays there.
	Islanded uint8

	PerSource int // answers to one address in Window; default 16
	Window    time.Duration
	Log       *slog.Logger
}

// Stats counts what a Server did.
type Stats struct {
	Answered uint64
	Foreign  uint64 // from outside the LAN
	Invalid  uint64 // too short, wrong version or not from a client
	Limited  uint64 // too many from one source, or from too many sources
	NoClock  uint64 // our own clock was never set
}

// A Server answers clients. It is safe for concurrent use.
type Server struct {
	cfg Config // set at New, then constant

	mu     sync.Mutex // guards what follows
	stats  Stats
	began  time.Time // of this window
	seen   map[netip.Addr]int
	others int // answers in this window to sources that found no room in seen
}

// maxSources bounds the table of sources; those beyond it share maxOthers
// answers a window.
const (
	maxSources = 4096
	maxOthers  = 256
)

// New makes a Server.
func New(cfg Config) (*Server, error) {
	if cfg.Now == nil || cfg.LAN == nil {
		return nil, errors.New("time server: a clock and a test for the LAN are needed")
	}
	if cfg.Status == nil {
		cfg.Status = func() Status { return Status{} }
	}
	if cfg.Islanded == 0 {
		cfg.Islanded = 10
	}
	if cfg.Islanded < 10 || cfg.Islanded > 12 {
		return nil, fmt.Errorf("time server: islanded stratum %d: take 10 to 12", cfg.Islanded)
	}
	if cfg.PerSource <= 0 {
		cfg.PerSource = 16
	}
	if cfg.Window <= 0 {
		cfg.Window = 16 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, seen: map[netip.Addr]int{}}, nil
}

// Stats returns the counters so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Answer writes into out what to send back for req, which came from src and
// was read at the time received. It is false when nothing is to be sent.
func (s *Server) Answer(out *[Size]byte, req []byte, src netip.AddrPort, received time.Time) bool {
	if !s.admit(req, src, received) {
		return false
	}
	st := s.cfg.Status()
	clear(out[:])
	version := req[0] >> 3 & 7
	out[0] = version<<3 | 4 // LI 0: no warning; mode 4: server
	out[2] = req[2]         // poll, as asked
	out[3] = 0xEC           // precision 2^-20 s, about a microsecond

	ref := st.Set
	dispersion := min(max(st.MaxError, 0), maxDispersion)
	if st.Synchronised {
		out[1] = 3
		copy(out[12:16], refID(st.Source))
	} else {
		out[1] = s.cfg.Islanded
		copy(out[12:16], "LOCL")
		dispersion = maxDispersion
	}
	if ref.IsZero() || ref.After(received) {
		ref = received.Truncate(64 * time.Second)
	}
	binary.BigEndian.PutUint32(out[8:], short(dispersion))
	binary.BigEndian.PutUint64(out[16:], stamp(ref))
	copy(out[24:32], req[40:48]) // origin: the client's transmit, whatever it means to him
	binary.BigEndian.PutUint64(out[32:], stamp(received))
	binary.BigEndian.PutUint64(out[40:], stamp(s.cfg.Now()))
	return true
}

// admit decides whether req deserves an answer, and counts.
func (s *Server) admit(req []byte, src netip.AddrPort, now time.Time) bool {
	a := src.Addr().Unmap().WithZone("")
	lan := a.IsValid() && !a.IsMulticast() && !a.IsUnspecified() && src.Port() != 0 && s.cfg.LAN(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !lan {
		s.stats.Foreign++
		return false
	}
	if len(req) < Size || req[0]&7 != 3 || req[0]>>3&7 < 1 || req[0]>>3&7 > 4 {
		s.stats.Invalid++
		return false
	}
	if now.Before(s.cfg.Floor) {
		s.stats.NoClock++
		return false
	}
	if d := now.Sub(s.began); d >= s.cfg.Window || d < 0 { // d < 0: the clock was set back
		s.began, s.others = now, 0
		clear(s.seen)
	}
	n, known := s.seen[a]
	switch {
	case known && n >= s.cfg.PerSource, !known && len(s.seen) >= maxSources && s.others >= maxOthers:
		s.stats.Limited++
		return false
	case !known && len(s.seen) >= maxSources:
		s.others++
	default:
		s.seen[a] = n + 1
	}
	s.stats.Answered++
	return true
}

// A Conn is a UDP socket bound to one of our addresses, so that an answer
// leaves from where it was asked. *net.UDPConn is one.
type Conn interface {
	ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
	Close() error
}

// Listen opens the socket for Serve; RFC 5905 gives port 123.
func Listen(at netip.AddrPort) (*net.UDPConn, error) {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, fmt.Errorf("listen for time requests on %s: %w", at, err)
	}
	return c, nil
}

// Serve answers what arrives on c until ctx ends, then closes c and returns
// nil. Any other end is an error of the socket.
func (s *Server) Serve(ctx context.Context, c Conn) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer func() {
		stop()
		c.Close()
	}()
	var in [512]byte
	var out [Size]byte
	for {
		n, src, err := c.ReadFromUDPAddrPort(in[:])
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("read time requests: %w", err)
		case err != nil: // a refusal of an earlier answer, or a passing want
			s.cfg.Log.Debug("Time request could not be read", "err", err)
			if wait(ctx, 10*time.Millisecond) {
				continue
			}
			return nil
		}
		if !s.Answer(&out, in[:n], src, s.cfg.Now()) {
			continue
		}
		if _, err := c.WriteToUDPAddrPort(out[:], src); err != nil {
			s.cfg.Log.Debug("Time could not be sent", "peer", src, "err", err)
		}
	}
}

// wait is false when ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// stamp is t as seconds and fraction since 1900, in its era (RFC 5905 §6):
// after February 2036 the seconds begin again at 0, which is how it is meant.
func stamp(t time.Time) uint64 {
	const from1900 = 2208988800
	return uint64(uint32(t.Unix()+from1900))<<32 | uint64(t.Nanosecond())<<32/1e9
}

// short is d in the 16.16 format of root delay and dispersion.
func short(d time.Duration) uint32 { return uint32(uint64(d) << 16 / 1e9) }

// refID names the source of a synchronised clock: its IPv4 address, or the
// start of the MD5 of its IPv6 address (RFC 5905 §7.3); 127.127.1.1 if unknown.
func refID(a netip.Addr) []byte {
	switch a = a.Unmap(); {
	case a.Is4():
		v := a.As4()
		return v[:]
	case a.Is6():
		v := a.As16()
		sum := md5.Sum(v[:])
		return sum[:4]
	}
	return []byte{127, 127, 1, 1}
}
