package provision

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A path is what a phone may ask for: /p/FILE over HTTP, /o/TOKEN/FILE and
// /d/SECRET/FILE over HTTPS. No other path means anything.
type path struct {
	area  byte // p, o or d
	token string
	file  string
}

// parsePath reads a request's path as it was sent. Anything that could mean
// two things, an escape or a dot segment, means nothing here.
func parsePath(raw string) (p path, ok bool) {
	if len(raw) > 128 || len(raw) < 4 || raw[0] != '/' || raw[2] != '/' {
		return path{}, false
	}
	p.area, p.file = raw[1], raw[3:]
	switch p.area {
	case 'p':
	case 'o', 'd':
		if p.token, p.file, ok = strings.Cut(p.file, "/"); !ok || len(p.token) != 32 || strings.Trim(p.token, "abcdefghijklmnopqrstuvwxyz234567") != "" {
			return path{}, false
		}
	default:
		return path{}, false
	}
	if strings.Trim(p.file, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") != "" || strings.Contains(p.file, "..") {
		return path{}, false
	}
	return p, p.file != ""
}

// fileMAC finds whose file a name is: twelve digits, with cfg before them or
// not, and an ending.
func fileMAC(name string) (MAC, bool) {
	stem, ending, ok := strings.Cut(strings.ToLower(name), ".")
	if !ok || ending != "cfg" && ending != "xml" {
		return MAC{}, false
	}
	stem = strings.TrimPrefix(stem, "cfg")
	if len(stem) != 12 {
		return MAC{}, false
	}
	m, err := ParseMAC(stem)
	return m, err == nil
}

var macInAgent = regexp.MustCompile(`(?i)\b[0-9a-f]{2}(?:(?:[:-][0-9a-f]{2}){5}|[0-9a-f]{10})\b`)

// agentMAC is the MAC that a phone names in its User-Agent, if it does.
func agentMAC(agent string) (MAC, bool) {
	if len(agent) > 256 {
		return MAC{}, false
	}
	m, err := ParseMAC(macInAgent.FindString(agent))
	return m, err == nil
}

// HTTP serves what may be said in the clear: whom to trust, and where the rest
// is, to adopted phones of the LAN while a window is open.
func (s *Service) HTTP() http.Handler { return s.gate(s.serveFirst, "p") }

// HTTPS serves the rest: once by one-time URL, again by secret URL.
func (s *Service) HTTPS() http.Handler { return s.gate(s.serveRest, "od") }

// NewServer is an http.Server for one of the handlers, with the limits that suit
// phones. config is nil for HTTP.
func NewServer(h http.Handler, config *tls.Config) *http.Server {
	if config != nil {
		config = config.Clone()
		config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	}
	only := new(http.Protocols)
	only.SetHTTP1(true) // no phone speaks more
	return &http.Server{
		Handler: h, TLSConfig: config, Protocols: only,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 15 * time.Second, IdleTimeout: 15 * time.Second,
		MaxHeaderBytes: 8 << 10,
	}
}

// A request is one that passed the gate.
type request struct {
	path
	from  netip.Addr
	lan   netip.Prefix
	agent string
}

// gate lets in what could be a phone of ours asking for a file.
func (s *Service) gate(serve func(context.Context, request) (File, int), areas string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		from, lan, status := s.admit(r.RemoteAddr)
		if status == 0 && r.Method != http.MethodGet {
			w.Header().Set("Allow", "GET")
			status = http.StatusMethodNotAllowed
		}
		if status != 0 {
			refuse(w, status)
			return
		}
		p, ok := parsePath(r.URL.EscapedPath())
		if !ok || !strings.ContainsRune(areas, rune(p.area)) {
			s.tally(func(c *Stats) { c.Refused++ })
			refuse(w, http.StatusNotFound)
			return
		}
		select {
		case s.inside <- struct{}{}:
		default:
			s.tally(func(c *Stats) { c.Limited++ })
			refuse(w, http.StatusServiceUnavailable)
			return
		}
		f, status := serve(r.Context(), request{p, from, lan, r.UserAgent()})
		<-s.inside // a slow reader holds no place
		if status != http.StatusOK {
			refuse(w, status)
			return
		}
		w.Header().Set("Content-Type", f.Type)
		w.Header().Set("Content-Length", strconv.Itoa(len(f.Body)))
		w.Write(f.Body) // a phone that went away asks again
	})
}

func refuse(w http.ResponseWriter, status int) {
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "60")
	}
	http.Error(w, http.StatusText(status), status)
}

func (s *Service) tally(f func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.stats)
}

// admit says where a request comes from, or with which status it is refused.
func (s *Service) admit(remote string) (netip.Addr, netip.Prefix, int) {
	ap, err := netip.ParseAddrPort(remote)
	from := ap.Addr().Unmap().WithZone("")
	var lan netip.Prefix
	ours := false
	if err == nil {
		lan, ours = s.cfg.LAN(from)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ours {
		s.stats.Foreign++
		return from, lan, http.StatusNotFound
	}
	if !s.web.allow(from, s.cfg.Now()) {
		s.stats.Limited++
		return from, lan, http.StatusTooManyRequests
	}
	return from, lan, 0
}

// phone finds the phone a file is asked for, and checks that it is its file.
func (s *Service) phone(ctx context.Context, r request) (*Phone, int) {
	m, ok := fileMAC(r.file)
	if said, says := agentMAC(r.agent); !ok || says && said != m {
		s.tally(func(c *Stats) { c.Refused++ })
		return nil, http.StatusNotFound
	}
	p, err := s.cfg.Phone(ctx, m)
	if err == nil && p == nil {
		err = ErrUnknown
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	vendor, model, _ := strings.Cut(r.agent, " ")
	model, _, _ = strings.Cut(model, " ")
	d := s.note(m, r.from, vendor, model, "")
	d.Adopted = err == nil
	switch {
	case errors.Is(err, ErrUnknown):
		s.stats.Unknown++
		return nil, http.StatusNotFound
	case err != nil:
		s.stats.Failed++
		s.cfg.Log.Error("Phone could not be read", "mac", m, "err", err)
		return nil, http.StatusServiceUnavailable
	case p.MAC != m || !strings.EqualFold(kinds[p.Kind].fileName(m), r.file):
		s.stats.Refused++
		return nil, http.StatusNotFound
	}
	return p, http.StatusOK
}

// fileName is "" for an unknown kind.
func (k kind) fileName(m MAC) string {
	if k.name == nil {
		return ""
	}
	return k.name(m)
}

// certificate serves the CA, which is no secret.
func (s *Service) certificate(name string) (File, bool) {
	switch name {
	case caPEM:
		return File{name, "application/x-pem-file", s.caPEM}, true
	case caDER:
		return File{name, "application/pkix-cert", s.caDER}, true
	}
	return File{}, false
}

func (s *Service) serveFirst(ctx context.Context, r request) (File, int) {
	s.mu.Lock()
	open := s.open()
	only := s.only
	if m, ok := fileMAC(r.file); ok && !open {
		s.note(m, r.from, "", "", "")
	}
	if !open {
		s.stats.Closed++
	}
	s.mu.Unlock()
	if !open {
		return File{}, http.StatusNotFound
	}
	if f, ok := s.certificate(r.file); ok {
		return f, http.StatusOK
	}
	p, status := s.phone(ctx, r)
	if status != http.StatusOK {
		return File{}, status
	}
	if !meant(only, p.MAC) {
		s.tally(func(c *Stats) { c.Closed++ })
		return File{}, http.StatusNotFound
	}
	url, err := s.issue(p.MAC, r.lan)
	var f File
	if err == nil {
		f, err = RenderFirst(p.Kind, p.MAC, "http://"+s.cfg.HTTP.String()+"/p/", url)
	}
	if err == nil {
		err = p.harmless(f)
	}
	if err != nil {
		s.cfg.Log.Error("First file could not be made", "mac", p.MAC, "err", err)
		s.tally(func(c *Stats) { c.Failed++ })
		return File{}, http.StatusServiceUnavailable
	}
	s.tally(func(c *Stats) { c.First++ })
	s.cfg.Log.Info("Phone was told whom to trust", "mac", p.MAC, "from", r.from)
	return f, http.StatusOK
}

func (s *Service) serveRest(ctx context.Context, r request) (File, int) {
	if f, ok := s.certificate(r.file); ok {
		return f, http.StatusOK
	}
	p, status := s.phone(ctx, r)
	if status != http.StatusOK {
		return File{}, status
	}
	if r.area == 'd' && !hmac.Equal([]byte(r.token), []byte(s.secret(p))) {
		s.tally(func(c *Stats) { c.Refused++ })
		return File{}, http.StatusNotFound
	}
	if s.cfg.Next != nil {
		return s.serveNext(p, r)
	}
	f, err := Render(p, s.cfg.Now(), s.Secret(p)) // first: a fault costs no ticket
	if err != nil {
		s.cfg.Log.Error("Settings could not be made", "mac", p.MAC, "err", err)
		s.tally(func(c *Stats) { c.Failed++ })
		return File{}, http.StatusServiceUnavailable
	}
	if r.area == 'o' && !s.redeem(r.token, p.MAC, r.from) {
		return File{}, http.StatusNotFound
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.area == 'o' {
		s.stats.Full++
	} else {
		s.stats.Again++
	}
	if d := s.seen[p.MAC]; d != nil {
		d.Fetched, d.has = s.cfg.Now(), sha256.Sum256(f.Body)
	}
	s.cfg.Log.Info("Phone fetched its settings", "mac", p.MAC, "from", r.from)
	return f, http.StatusOK
}

// serveNext gives a phone that came by a URL of before the settings of Next. It
// fetches Next's CA from here, whom it trusts. Whoever else knows that URL, as
// the thief of a box, comes from another address, and too late; who comes first
// is in the log.
func (s *Service) serveNext(p *Phone, r request) (File, int) {
	next := s.cfg.Next
	s.mu.Lock()
	was, came := s.moved[p.MAC]
	if r.area != 'd' || came && was != r.from {
		s.stats.Refused++
		s.mu.Unlock()
		if came {
			s.cfg.Log.Warn("Settings were asked for by an old URL from a second address", "mac", p.MAC, "from", r.from, "first", was)
		}
		return File{}, http.StatusNotFound
	}
	s.moved[p.MAC] = r.from
	s.mu.Unlock()
	now := s.cfg.Now()
	f, err := render(p, now, s.Secret(p), next.Secret(p))
	var later File
	if err == nil {
		later, err = Render(p, now, next.Secret(p)) // what it will be given there
	}
	if err != nil {
		s.cfg.Log.Error("Settings could not be made", "mac", p.MAC, "err", err)
		s.tally(func(c *Stats) { c.Failed++ })
		return File{}, http.StatusServiceUnavailable
	}
	s.tally(func(c *Stats) { c.Again++ })
	vendor, model, _ := strings.Cut(r.agent, " ")
	model, _, _ = strings.Cut(model, " ")
	next.mu.Lock()
	defer next.mu.Unlock()
	d := next.note(p.MAC, r.from, vendor, model, "")
	d.Adopted, d.Fetched, d.has = true, now, sha256.Sum256(later.Body)
	s.cfg.Log.Info("Phone was given its new secrets by its old URL", "mac", p.MAC, "from", r.from)
	return f, http.StatusOK
}

func meant(only []MAC, m MAC) bool {
	if len(only) == 0 {
		return true
	}
	for _, o := range only {
		if o == m {
			return true
		}
	}
	return false
}
