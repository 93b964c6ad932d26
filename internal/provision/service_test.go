package provision

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	neturl "net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// desk is a Service asked directly, from any address.
type desk struct {
	*Service
	t   testing.TB
	now time.Time
	log bytes.Buffer
}

func newDesk(t testing.TB, phones ...*Phone) *desk {
	t.Helper()
	ca, _ := authority(t)
	d := &desk{t: t, now: today}
	var err error
	d.Service, err = New(Config{
		Now: func() time.Time { return d.now }, Rand: rand.Reader, CA: ca, Key: bytes.Repeat([]byte("k"), 32), LAN: lan,
		HTTP: netip.MustParseAddrPort("192.168.1.11:8080"), HTTPS: netip.MustParseAddrPort("192.168.1.11:8443"),
		Log: slog.New(slog.NewTextHandler(&d.log, nil)),
		Phone: func(_ context.Context, m MAC) (*Phone, error) {
			for _, p := range phones {
				if p.MAC == m {
					return p, nil
				}
			}
			return nil, fmt.Errorf("phone %s: %w", m, ErrUnknown)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

const phoneAddr = "192.168.1.50"

// ask fetches a path or URL from a source over HTTP or HTTPS.
func (d *desk) ask(h http.Handler, url, from, agent string) (int, string) {
	d.t.Helper()
	if i := strings.Index(url, "://"); i >= 0 {
		url = url[i+3:]
		url = url[strings.IndexByte(url, '/'):]
	}
	r := httptest.NewRequest(http.MethodGet, "http://node/", nil)
	u, err := neturl.ParseRequestURI(url) // as net/http does
	if err != nil {
		return 400, "" // net/http would have refused it as well
	}
	r.URL, r.RemoteAddr = u, from+":40000"
	r.Header.Set("User-Agent", agent)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// ticket goes through the first step and returns the one-time URL.
func (d *desk) ticket(p *Phone) string {
	d.t.Helper()
	status, text := d.ask(d.HTTP(), "/p/"+kinds[p.Kind].name(p.MAC), phoneAddr, "")
	if status != 200 {
		d.t.Fatalf("first file: %d", status)
	}
	said := read(d.t, File{Body: []byte(text)}, p.Kind)
	return said["static.auto_provision.server.url"]
}

func TestOneTimeURLWorksOnce(t *testing.T) {
	p := sample(t, Yealink)
	d := newDesk(t, p)
	d.Open(time.Minute)
	url := d.ticket(p)
	if status, _ := d.ask(d.HTTPS(), url, phoneAddr, ""); status != 200 {
		t.Fatalf("first use: %d", status)
	}
	if status, text := d.ask(d.HTTPS(), url, phoneAddr, ""); status != 404 || strings.Contains(text, "s3cret") {
		t.Errorf("second use: %d", status)
	}
	if st := d.Stats(); st.Twice != 1 || st.Full != 1 {
		t.Errorf("counted %+v", st)
	}
	if !strings.Contains(d.log.String(), "used twice") {
		t.Error("nobody is warned")
	}
	for _, s := range p.secrets() {
		if strings.Contains(d.log.String(), s) {
			t.Errorf("log tells a secret:\n%s", d.log.String())
		}
	}
	if strings.Contains(d.log.String(), "/o/") {
		t.Errorf("log tells a one-time URL:\n%s", d.log.String())
	}
}

func TestOneTimeURLRacedWorksOnce(t *testing.T) {
	p := sample(t, Yealink)
	d := newDesk(t, p)
	d.Open(time.Minute)
	url := d.ticket(p)
	var wg sync.WaitGroup
	var mu sync.Mutex
	got := map[int]int{}
	for range 20 {
		wg.Go(func() {
			status, _ := d.ask(d.HTTPS(), url, phoneAddr, "")
			mu.Lock()
			got[status]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if got[200] != 1 || got[404] != 19 {
		t.Errorf("statuses %v", got)
	}
}

func TestOneTimeURLIsBound(t *testing.T) {
	p, q := sample(t, Yealink), sample(t, Yealink)
	q.MAC = mac(t, "001565000002")
	d := newDesk(t, p, q)
	d.Open(time.Minute)
	url := d.ticket(p)
	folder := url[:strings.LastIndexByte(url, '/')+1]
	for name, c := range map[string]struct{ url, from, agent string }{
		"another phone's file":      {folder + q.MAC.Plain() + ".cfg", phoneAddr, ""},
		"another network":           {url, "192.168.2.50", ""},
		"the world":                 {url, "203.0.113.9", ""},
		"an agent of another MAC":   {url, phoneAddr, "Yealink SIP-T46U 108 " + q.MAC.String()},
		"a common file":             {folder + "y000000000108.cfg", phoneAddr, ""},
		"another ending":            {folder + p.MAC.Plain() + ".xml", phoneAddr, ""},
		"no file":                   {folder, phoneAddr, ""},
		"another token":             {strings.Replace(url, "/o/", "/o/a", 1), phoneAddr, ""},
		"the token as a secret":     {strings.Replace(url, "/o/", "/d/", 1), phoneAddr, ""},
		"a guessed token":           {"/o/" + strings.Repeat("a", 32) + "/" + p.MAC.Plain() + ".cfg", phoneAddr, ""},
		"a folder between":          {folder + "x/" + p.MAC.Plain() + ".cfg", phoneAddr, ""},
		"out of the folder":         {folder + "../" + p.MAC.Plain() + ".cfg", phoneAddr, ""},
		"out of the folder, hidden": {folder + "%2e%2e%2f" + p.MAC.Plain() + ".cfg", phoneAddr, ""},
	} {
		if status, text := d.ask(d.HTTPS(), c.url, c.from, c.agent); status == 200 || strings.Contains(text, "s3cret") {
			t.Errorf("%s: %d", name, status)
		}
	}
	if status, _ := d.ask(d.HTTP(), url, phoneAddr, ""); status != 404 {
		t.Errorf("over HTTP: %d", status)
	}
	if status, _ := d.ask(d.HTTPS(), url, phoneAddr, "Yealink SIP-T46U 108 "+p.MAC.String()); status != 200 {
		t.Errorf("the phone itself, after all of them: %d", status)
	}
}

func TestOneTimeURLExpires(t *testing.T) {
	p := sample(t, Yealink)
	for name, end := range map[string]func(*desk){
		"window over":     func(d *desk) { d.now = d.now.Add(time.Minute) },
		"window closed":   func(d *desk) { d.Close() },
		"window reopened": func(d *desk) { d.Open(time.Minute) },
		"phone asked anew": func(d *desk) {
			d.ticket(p)
		},
	} {
		d := newDesk(t, p)
		d.Open(time.Minute)
		url := d.ticket(p)
		end(d)
		if status, _ := d.ask(d.HTTPS(), url, phoneAddr, ""); status != 404 {
			t.Errorf("%s: %d", name, status)
		}
	}
}

func TestFirstFile(t *testing.T) {
	p, q := sample(t, Yealink), sample(t, Snom)
	q.MAC = mac(t, "000413000001")
	d := newDesk(t, p, q)
	file := "/p/" + p.MAC.Plain() + ".cfg"
	if status, _ := d.ask(d.HTTP(), file, phoneAddr, ""); status != 404 || d.Stats().Closed != 1 {
		t.Errorf("no window: %d, %+v", status, d.Stats())
	}
	if status, _ := d.ask(d.HTTP(), "/p/ca.pem", phoneAddr, ""); status != 404 {
		t.Errorf("CA without window: %d", status)
	}
	d.Open(time.Minute, p.MAC)
	if status, _ := d.ask(d.HTTP(), "/p/"+q.MAC.Plain()+".xml", phoneAddr, ""); status != 404 {
		t.Errorf("a phone that the window is not for: %d", status)
	}
	status, text := d.ask(d.HTTP(), file, phoneAddr, "")
	if status != 200 {
		t.Fatalf("first file: %d", status)
	}
	for _, s := range append(p.secrets(), d.secret(p), p.Lines[0].AOR.User, p.Lines[0].Display) {
		if strings.Contains(text, s) {
			t.Errorf("plain HTTP tells %q", s)
		}
	}
	for _, c := range []string{"/p/" + strings.ToUpper(p.MAC.Plain()) + ".cfg", "/p/ca.pem", "/p/ca.der"} {
		if status, _ := d.ask(d.HTTP(), c, phoneAddr, ""); status != 200 {
			t.Errorf("%s: %d", c, status)
		}
	}
	for _, c := range []string{
		"/", "/p/", "/p", "/p/../ca.pem", "/p/./" + p.MAC.Plain() + ".cfg", "/p//" + p.MAC.Plain() + ".cfg", "/p/%2e%2e/ca.pem",
		"/p/..%2fca.pem", "/p/a%00.cfg", "/p/templates/yealink.tmpl", "/p/" + p.MAC.Plain() + ".cfg/", "/p/" + p.MAC.Plain(),
		"/p/" + p.MAC.Plain() + ".boot", "/p/etc/passwd", "/p/" + strings.Repeat("a", 200), "/d/" + d.secret(p) + "/" + p.MAC.Plain() + ".cfg",
		"/p/ca.key", `/p/..\ca.pem`,
	} {
		if status, _ := d.ask(d.HTTP(), c, phoneAddr, ""); status != 404 && status != 400 {
			t.Errorf("%s: %d", c, status)
		}
	}
	if status, _ := d.ask(d.HTTP(), file, "203.0.113.9", ""); status != 404 || d.Stats().Foreign != 1 {
		t.Errorf("the world: %d, %+v", status, d.Stats())
	}
}

func TestSecretURL(t *testing.T) {
	p := sample(t, HT8)
	d := newDesk(t, p)
	url := d.Secret(p) + "cfg" + p.MAC.Plain() + ".xml"
	if status, text := d.ask(d.HTTPS(), url, phoneAddr, ""); status != 200 || !strings.Contains(text, "s3cret-two") {
		t.Errorf("no window is needed: %d", status)
	}
	if status, _ := d.ask(d.HTTP(), url, phoneAddr, ""); status != 404 {
		t.Errorf("over plain HTTP: %d", status)
	}
	other := newDesk(t, p)
	if other.Secret(p) != d.Secret(p) {
		t.Error("the pair's other node, with the same key, makes another URL")
	}
	p.Epoch++
	if status, _ := d.ask(d.HTTPS(), url, phoneAddr, ""); status != 404 {
		t.Errorf("after a rotation: %d", status)
	}
	if status, _ := d.ask(d.HTTPS(), d.Secret(p)+"ca.der", phoneAddr, ""); status != 200 {
		t.Errorf("CA: %d", status)
	}
}

func TestStrangersAreListedAndBounded(t *testing.T) {
	d := newDesk(t)
	d.Open(time.Hour)
	for i := range 2000 {
		d.now = d.now.Add(time.Second)
		d.ask(d.HTTP(), fmt.Sprintf("/p/0015650%05x.cfg", i), phoneAddr, "Yealink SIP-T46U 108.86.0.20")
	}
	seen := d.Seen()
	if len(seen) != maxSeen || seen[0].MAC.Plain() != fmt.Sprintf("0015650%05x", 1999) || seen[0].Model != "SIP-T46U" || seen[0].Adopted {
		t.Errorf("%d seen, the latest %+v", len(seen), seen[0])
	}
}

func TestTooManyRequests(t *testing.T) {
	p := sample(t, Yealink)
	d := newDesk(t, p)
	d.Open(time.Hour)
	got := map[int]int{}
	for range 300 {
		status, _ := d.ask(d.HTTP(), "/p/"+p.MAC.Plain()+".cfg", phoneAddr, "")
		got[status]++
	}
	if got[200] != perSource || got[429] != 300-perSource {
		t.Errorf("one source: %v", got)
	}
	if len(d.tickets) != 1 {
		t.Errorf("%d one-time URLs for one phone", len(d.tickets))
	}
	for i := range 3000 {
		d.ask(d.HTTP(), "/p/x.cfg", fmt.Sprintf("127.0.%d.%d", i/250, i%250+1), "")
	}
	if len(d.web.sources) > maxSources {
		t.Errorf("%d sources remembered", len(d.web.sources))
	}
	d.now = d.now.Add(time.Minute)
	if status, _ := d.ask(d.HTTP(), "/p/"+p.MAC.Plain()+".cfg", phoneAddr, ""); status != 200 {
		t.Errorf("a minute later: %d", status)
	}
}

func TestOtherMethods(t *testing.T) {
	d := newDesk(t, sample(t, Yealink))
	d.Open(time.Minute)
	for _, m := range []string{"POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT"} {
		r := httptest.NewRequest(m, "http://node/p/ca.pem", strings.NewReader("x"))
		r.RemoteAddr = phoneAddr + ":1"
		w := httptest.NewRecorder()
		d.HTTP().ServeHTTP(w, r)
		if w.Code != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", m, w.Code)
		}
	}
}

func TestFaultOfOursCostsNoTicket(t *testing.T) {
	p := sample(t, Yealink)
	d := newDesk(t, p)
	d.Open(time.Minute)
	url := d.ticket(p)
	p.Zone = "Mars/Olympus"
	if status, _ := d.ask(d.HTTPS(), url, phoneAddr, ""); status != 503 {
		t.Errorf("with a broken phone: %d", status)
	}
	p.Zone = "Europe/Paris"
	if status, _ := d.ask(d.HTTPS(), url, phoneAddr, ""); status != 200 {
		t.Errorf("with a mended one: %d", status)
	}
}

func TestSecretsStayOutOfPlainHTTP(t *testing.T) {
	p := sample(t, Yealink)
	f, err := RenderFirst(p.Kind, p.MAC, plain, "https://node/o/x/")
	if err != nil || p.harmless(f) != nil {
		t.Fatal(err, p.harmless(f))
	}
	f.Body = append(f.Body, "account.1.password = x"+p.Lines[0].Password+"x\n"...)
	if p.harmless(f) == nil {
		t.Error("a password in the first file was not noticed")
	}
}

func TestWindowIsBounded(t *testing.T) {
	d := newDesk(t)
	for _, w := range []time.Duration{0, -time.Second, MaxWindow + 1} {
		if _, err := d.Open(w); err == nil {
			t.Errorf("opened for %v", w)
		}
	}
	if until, _ := d.Window(); !until.IsZero() {
		t.Error("open")
	}
}

func TestNewRefuses(t *testing.T) {
	ca, _ := authority(t)
	good := Config{Now: time.Now, Rand: rand.Reader, CA: ca, Key: make([]byte, 32), LAN: lan,
		HTTP: netip.MustParseAddrPort("192.168.1.11:80"), HTTPS: netip.MustParseAddrPort("192.168.1.11:443"),
		Phone: func(context.Context, MAC) (*Phone, error) { return nil, ErrUnknown }}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, break_ := range map[string]func(*Config){
		"no clock":    func(c *Config) { c.Now = nil },
		"a short key": func(c *Config) { c.Key = c.Key[:16] },
		"no CA":       func(c *Config) { c.CA = nil },
		"a key in the CA": func(c *Config) {
			c.CA = append(append([]byte{}, ca...), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"...)
		},
		"an address of nobody": func(c *Config) { c.HTTP = netip.MustParseAddrPort("0.0.0.0:80") },
	} {
		c := good
		break_(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s taken", name)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add("/p/001565aabbcc.cfg", "Yealink 00:15:65:aa:bb:cc")
	f.Add("/o/abcdefghijklmnopqrstuvwxyz234567/cfg001565aabbcc.xml", "")
	f.Add("/p/../x", "MAC=001565aabbcc;")
	f.Fuzz(func(t *testing.T, raw, agent string) {
		agentMAC(agent)
		p, ok := parsePath(raw)
		if !ok {
			return
		}
		again := "/" + string(p.area) + "/" + p.file
		if p.area != 'p' {
			again = "/" + string(p.area) + "/" + p.token + "/" + p.file
		}
		if again != raw || strings.ContainsAny(p.file, `/\%`) || strings.Contains(p.file, "..") {
			t.Fatalf("%q reads as %+v", raw, p)
		}
		if m, ok := fileMAC(p.file); ok && !strings.Contains(strings.ToLower(p.file), m.Plain()) {
			t.Fatalf("%q is the file of %v", p.file, m)
		}
	})
}
