package labkit

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"
)

// A Border is what a provider has towards its customers: one address to which
// they register from behind their routers, and at which their speech is taken
// from wherever it comes and sent back there (RFC 7362 latching). Behind it
// SIPp plays the provider: registrar, caller and called. It changes nothing but
// the place of the speech in a session description.
type Border struct {
	Host *Host
	conn *net.UDPConn

	mu                sync.Mutex // guards what follows
	registrar, called netip.AddrPort
	legs              map[string]*leg // by Call-ID
	bindings          []Binding       // the last registered is last
	latest            *leg            // the last that has speech
}

// A Binding is a registration that the provider accepted.
type Binding struct {
	From  netip.AddrPort // as the router shows it
	At    time.Time
	Until time.Time
}

type leg struct {
	inner, outer netip.AddrPort // signalling
	speech       *speech
}

// speech is one call's.
type speech struct {
	toShop, toSipp *net.UDPConn

	mu         sync.Mutex // guards what follows
	shop, sipp netip.AddrPort
	heard      Sound // from the shop
}

var (
	callID   = regexp.MustCompile(`(?im)^(?:Call-ID|i)[ \t]*:[ \t]*(\S+)`)
	cseqVerb = regexp.MustCompile(`(?im)^CSeq[ \t]*:[ \t]*\d+[ \t]+(\S+)`)
	expires  = regexp.MustCompile(`(?im)(?:^Expires[ \t]*:[ \t]*|;expires=)(\d+)`)
	length   = regexp.MustCompile(`(?im)^(Content-Length|l)[ \t]*:[ \t]*\d+`)
	audio    = regexp.MustCompile(`(?m)^m=audio (\d+)`)
	where    = regexp.MustCompile(`(?m)^c=IN IP4 (\S+)`)
)

// Border starts a provider's border at port 5060 of the host. SIPp on the same
// host takes registrations at one port and calls at another.
func (h *Host) Border(registrar, called int) *Border {
	t := h.lab.T
	t.Helper()
	conn, err := h.Listen(5060)
	if err != nil {
		t.Fatalf("border on %s: %v", h.Name, err)
	}
	b := &Border{Host: h, conn: conn, legs: map[string]*leg{}, registrar: h.at(registrar), called: h.at(called)}
	t.Cleanup(func() {
		conn.Close()
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, l := range b.legs {
			if l.speech != nil {
				l.speech.toShop.Close()
				l.speech.toSipp.Close()
			}
		}
	})
	go func() { // ends when conn is closed
		buf := make([]byte, 65536)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			b.pass(slices.Clone(buf[:n]), netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
		}
	}()
	return b
}

func (h *Host) at(port int) netip.AddrPort { return netip.AddrPortFrom(h.Addr, uint16(port)) }

// Called sends new calls from customers to another port of the host.
func (b *Border) Called(port int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.called = b.Host.at(port)
}

// Bindings are the registrations in force, the last made last.
func (b *Border) Bindings() []Binding {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.bindings = slices.DeleteFunc(b.bindings, func(x Binding) bool { return now.After(x.Until) })
	return slices.Clone(b.bindings)
}

func (b *Border) pass(m []byte, from netip.AddrPort) {
	if len(bytes.TrimSpace(m)) == 0 {
		return // keep-alive
	}
	id := callID.FindSubmatch(m)
	verb := cseqVerb.FindSubmatch(m)
	if id == nil || verb == nil {
		return
	}
	inner := from.Addr() == b.Host.Addr
	b.mu.Lock()
	l := b.legs[string(id[1])]
	if l == nil {
		l = b.open(string(verb[1]), from, inner)
		if l == nil {
			b.mu.Unlock()
			return
		}
		b.legs[string(id[1])] = l
	}
	if !inner {
		l.outer = from
	} else if string(verb[1]) == "REGISTER" && bytes.HasPrefix(m, []byte("SIP/2.0 200 ")) {
		seconds := 0
		if e := expires.FindSubmatch(m); e != nil {
			seconds, _ = strconv.Atoi(string(e[1]))
		}
		b.bindings = slices.DeleteFunc(b.bindings, func(x Binding) bool { return x.From == l.outer })
		b.bindings = append(b.bindings, Binding{l.outer, time.Now(), time.Now().Add(time.Duration(seconds) * time.Second)})
	}
	to := l.inner
	if inner {
		to = l.outer
	}
	b.mu.Unlock()
	b.conn.WriteToUDPAddrPort(b.rewrite(l, m, inner), to)
}

// open finds where a call that is not known yet goes.
func (b *Border) open(verb string, from netip.AddrPort, inner bool) *leg {
	switch {
	case inner && verb == "INVITE":
		now := time.Now()
		for _, x := range slices.Backward(b.bindings) {
			if now.Before(x.Until) {
				return &leg{inner: from, outer: x.From}
			}
		}
	case !inner && verb == "INVITE":
		return &leg{inner: b.called, outer: from}
	case !inner && verb == "REGISTER":
		return &leg{inner: b.registrar, outer: from}
	}
	return nil
}

// rewrite puts the border's own port into a session description.
func (b *Border) rewrite(l *leg, m []byte, inner bool) []byte {
	head, body, ok := bytes.Cut(m, []byte("\r\n\r\n"))
	port, host := audio.FindSubmatch(body), where.FindSubmatch(body)
	if !ok || port == nil || host == nil {
		return m
	}
	addr, err := netip.ParseAddr(string(host[1]))
	n, err2 := strconv.Atoi(string(port[1]))
	if err != nil || err2 != nil {
		return m
	}
	b.mu.Lock()
	s := l.speech
	if s == nil {
		if s, err = b.listen(); err != nil {
			b.mu.Unlock()
			return m
		}
		l.speech, b.latest = s, l
	}
	b.mu.Unlock()
	ours := s.toSipp
	if inner {
		ours = s.toShop
		s.mu.Lock()
		s.sipp = netip.AddrPortFrom(addr, uint16(n))
		s.mu.Unlock()
	}
	body = audio.ReplaceAll(body, fmt.Appendf(nil, "m=audio %d", ours.LocalAddr().(*net.UDPAddr).Port))
	body = where.ReplaceAll(body, []byte("c=IN IP4 "+b.Host.Addr.String()))
	head = length.ReplaceAll(head, fmt.Appendf(nil, "$1: %d", len(body)))
	return slices.Concat(head, []byte("\r\n\r\n"), body)
}

func (b *Border) listen() (*speech, error) {
	s := &speech{heard: Sound{Rate: 8000}}
	var err error
	if s.toShop, err = b.Host.Listen(0); err != nil {
		return nil, err
	}
	if s.toSipp, err = b.Host.Listen(0); err != nil {
		s.toShop.Close()
		return nil, err
	}
	go s.relay(s.toShop, func(p []byte, from netip.AddrPort) { // both end when their socket is closed
		s.mu.Lock()
		s.shop = from
		if len(p) > 12 && p[1]&0x7f == 0 { // G.711 mu-law, the only one SIPp offers
			for _, u := range p[12:] {
				s.heard.Samples = append(s.heard.Samples, ulaw(u))
			}
		}
		to := s.sipp
		s.mu.Unlock()
		if to.IsValid() {
			s.toSipp.WriteToUDPAddrPort(p, to)
		}
	})
	go s.relay(s.toSipp, func(p []byte, _ netip.AddrPort) {
		s.mu.Lock()
		to := s.shop
		s.mu.Unlock()
		if to.IsValid() {
			s.toShop.WriteToUDPAddrPort(p, to)
		}
	})
	return s, nil
}

func (s *speech) relay(c *net.UDPConn, f func([]byte, netip.AddrPort)) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		f(buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	}
}

// Heard is what the shop has said so far in the call that began last.
func (b *Border) Heard() (s Sound) {
	s.Rate = 8000
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.latest == nil {
		return s
	}
	sp := b.latest.speech
	sp.mu.Lock()
	defer sp.mu.Unlock()
	s.Samples = append(s.Samples, sp.heard.Samples...)
	return s
}
