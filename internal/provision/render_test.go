package provision

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

var update = flag.Bool("update", false, "write the golden files anew")

func mac(t testing.TB, s string) MAC {
	t.Helper()
	m, err := ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// sample is a phone of the given kind that uses everything.
func sample(t testing.TB, k Kind) *Phone {
	t.Helper()
	p := &Phone{
		MAC: mac(t, "00:15:65:aa:bb:cc"), Kind: k, Model: "sample",
		Servers:   []Server{{addr("192.168.1.11"), 5060}, {addr("192.168.1.12"), 5060}},
		Transport: UDP, Expiry: 100 * time.Second,
		Zone: "Europe/Berlin", SNTP: []netip.Addr{addr("192.168.1.11"), addr("192.168.1.12")}, Language: "de", Country: "DE",
		Voicemail: "*97", Pickup: "**", AdminPassword: `kQ7<&">'x9%$z`, DECTCode: "4711", DoorCalls: "600",
		Keys: []Key{
			{Type: KeyLine, Value: "1", Label: "Ana"},
			{Type: KeyBLF, Value: "202", Label: "Ben & Söhne <Lager>"},
			{Type: KeySpeed, Value: "+33472001201", Label: "Chef"},
			{Type: KeyPark, Value: "*71", Label: "Parken 1"},
			{Type: KeyNight, Value: "*80", Label: "Nacht"},
			{Type: KeySpeed, Value: "*97", Label: "Mailbox"},
		},
		Lines: []Line{
			{AOR: site.AOR{User: "0017201", Domain: "shops.example"}, User: "d-7k2m9q", Password: "s3cret<one>&\"", Display: `Ana "Kasse 1" O'Hara`, IPUI: "02a1b2c3d4"},
			{AOR: site.AOR{User: "0017202", Domain: "shops.example"}, User: "d-8l3n0r", Password: "s3cret-two-%s"},
		},
	}
	return p
}

const (
	plain  = "http://192.168.1.11:8080/p/"
	secret = "https://192.168.1.11:8443/d/abcdefghijklmnopqrstuvwxyz/"
)

func TestGoldenFiles(t *testing.T) {
	for _, k := range Kinds() {
		for _, variant := range []string{"first", "pair", "single"} {
			t.Run(string(k.Kind)+"/"+variant, func(t *testing.T) {
				p := sample(t, k.Kind)
				var f File
				var err error
				switch variant {
				case "first":
					f, err = RenderFirst(k.Kind, p.MAC, plain, "https://192.168.1.11:8443/o/0123456789abcdefghijklmnop/")
				case "single":
					p.Servers, p.SNTP, p.Transport, p.Zone, p.Keys = p.Servers[:1], p.SNTP[:1], TLS, "UTC", nil
					fallthrough
				default:
					f, err = Render(p, today, secret)
				}
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(string(f.Body), "Last tried on firmware: "+k.Tried) {
					t.Error("the file does not say the firmware it was last tried on")
				}
				golden := filepath.Join("testdata", string(k.Kind)+"."+variant+filepath.Ext(f.Name))
				if *update {
					if err := os.WriteFile(golden, f.Body, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if string(want) != string(f.Body) {
					t.Errorf("%s differs; look at it, then run with -update:\n%s", golden, f.Body)
				}
			})
		}
	}
}

// read returns what a rendered file says.
func read(t testing.TB, f File, k Kind) map[string]string {
	t.Helper()
	list, err := kinds[k].format.lint(string(f.Body))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, s := range list {
		m[s.key] = s.value
	}
	return m
}

// said is where each kind says the same things.
var said = map[Kind]struct{ number, user, password, display, first, second, sntp string }{
	Yealink: {"account.1.user_name", "account.1.auth_name", "account.1.password", "account.1.display_name", "account.1.sip_server.1.address", "account.1.sip_server.2.address", "local_time.ntp_server2"},
	Snom:    {"user_name.1", "user_pname.1", "user_pass.1", "user_realname.1", "user_host.1", "user_host.3", "ntp_server"},
	SnomM:   {"user_name.1", "user_pname.1", "user_pass.1", "user_realname.1", "user_host.1", "user_host.2", "ntp_server"},
	Gigaset: {"SipAccount.00001.UserName", "SipAccount.00001.AuthName", "SipAccount.00001.AuthPassword", "SipAccount.00001.DisplayName", "SipProvider.0.RegServerAddress", "SipProvider.0.FailoverServerAddress", "DmGlobal.0.NtpServer"},
	HT8:     {"P35", "P36", "P34", "P3", "P47", "P967", "P8333"},
	Akuvox:  {"Config.Account1.GENERAL.UserName", "Config.Account1.GENERAL.AuthName", "Config.Account1.GENERAL.Pwd", "Config.Account1.GENERAL.DisplayName", "Config.Account1.SIP.Server", "Config.Account1.SIP.Server2", "Config.Settings.SNTP.NTPServer2"},
}

func TestEveryTemplateSaysEverything(t *testing.T) {
	for _, k := range Kinds() {
		t.Run(string(k.Kind), func(t *testing.T) {
			p := sample(t, k.Kind)
			f, err := Render(p, today, secret)
			if err != nil {
				t.Fatal(err)
			}
			got, at := read(t, f, k.Kind), said[k.Kind]
			l := p.Lines[0]
			for key, want := range map[string]string{at.number: l.AOR.User, at.user: l.User, at.password: l.Password, at.display: l.Display} {
				if got[key] != want {
					t.Errorf("%s is %q, want %q", key, got[key], want)
				}
			}
			for key, want := range map[string]string{at.first: "192.168.1.11", at.second: "192.168.1.12", at.sntp: "192.168.1.1"} {
				if !strings.HasPrefix(got[key], want) {
					t.Errorf("%s is %q, want %q", key, got[key], want)
				}
			}
			if strings.Contains(string(f.Body), l.AOR.Domain) {
				t.Error("the file knows the domain, from which phones make a realm")
			}
		})
	}
}

// TestDeadNodeCostsSixSeconds works out from the rendered file, not from the
// table, how long each kind waits for a dead first node.
func TestDeadNodeCostsSixSeconds(t *testing.T) {
	for _, k := range Kinds() {
		f, err := Render(sample(t, k.Kind), today, secret)
		if err != nil {
			t.Fatal(err)
		}
		s := read(t, f, k.Kind)
		n := func(key string) float64 {
			v, err := strconv.ParseFloat(s[key], 64)
			if err != nil {
				t.Errorf("%s: %s: %v", k.Kind, key, err)
			}
			return v
		}
		var wait float64
		switch k.Kind {
		case Yealink: // T1 doubles with each retry (RFC 3261 timer A)
			wait = n("sip.timer_t1") * float64(int(2)<<int(n("account.1.sip_server.1.invite_retry_counts"))-1)
		case Snom: // timer B
			wait = 64 * n("sip_retry_t1") / 1000
		case SnomM:
			wait = n("network_failover_sip_timer_b")
		case HT8:
			wait = n("P2398") * n("P2399")
		}
		if got := time.Duration(wait * float64(time.Second)); got > 6*time.Second || got != k.DeadNode {
			t.Errorf("%s waits %v for a dead node; documented %v", k.Kind, got, k.DeadNode)
		}
	}
}

func TestBadValuesAreRefused(t *testing.T) {
	for name, break_ := range map[string]func(*Phone){
		"line feed in a name":   func(p *Phone) { p.Lines[0].Display = "Ana\naccount.1.password = x" },
		"return in a password":  func(p *Phone) { p.Lines[0].Password = "a\rb" },
		"NUL":                   func(p *Phone) { p.Lines[0].Display = "a\x00b" },
		"line separator":        func(p *Phone) { p.Lines[0].Display = "a\u2028b" },
		"right to left":         func(p *Phone) { p.Lines[0].Display = "a\u202eb" },
		"not UTF-8":             func(p *Phone) { p.Lines[0].Display = "a\xffb" },
		"a template":            func(p *Phone) { p.Lines[0].Display = "{{.AdminPassword}}" },
		"spaces around":         func(p *Phone) { p.Lines[0].Password = " x " },
		"too long":              func(p *Phone) { p.Lines[0].Display = strings.Repeat("x", 600) },
		"a URI for a number":    func(p *Phone) { p.Lines[0].AOR.User = "1@evil;x" },
		"a bar in a key":        func(p *Phone) { p.Keys[0].Value = "1|2" },
		"a colon in the admin":  func(p *Phone) { p.AdminUser = "a:b" },
		"no password":           func(p *Phone) { p.Lines[0].Password = "" },
		"no admin password":     func(p *Phone) { p.AdminPassword = "" },
		"no node":               func(p *Phone) { p.Servers = nil },
		"the same node twice":   func(p *Phone) { p.Servers[1] = p.Servers[0] },
		"a multicast node":      func(p *Phone) { p.Servers[0].Addr = addr("224.0.1.75") },
		"a zone in the address": func(p *Phone) { p.Servers[0].Addr = addr("fe80::1%eth0") },
		"an unknown kind":       func(p *Phone) { p.Kind = "cisco" },
		"an unknown zone":       func(p *Phone) { p.Zone = "Mars/Olympus" },
		"too many lines":        func(p *Phone) { p.Lines = make([]Line, 101) },
		"a short expiry":        func(p *Phone) { p.Expiry = time.Second },
		"a wrong IPUI":          func(p *Phone) { p.Lines[0].IPUI = "12" },
		"a line it has not":     func(p *Phone) { p.Keys[0].Line = 9 },
	} {
		for _, k := range Kinds() {
			p := sample(t, k.Kind)
			break_(p)
			if f, err := Render(p, today, secret); err == nil {
				t.Errorf("%s for %s: rendered\n%s", name, k.Kind, f.Body)
			} else if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s: the error tells a secret: %v", name, err)
			}
		}
	}
}

func TestLinterComplains(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		text string
	}{
		{Yealink, "a = {{.B}}\n"},
		{Yealink, "a = <no value>\n"},
		{Yealink, "a = %!s(int=3)\n"},
		{Yealink, "a = 1\na = 2\n"},
		{Yealink, "a b = 1\n"},
		{Yealink, "nothing\n"},
		{Yealink, "a = b\r\n"},
		{Yealink, "a = b\x00\n"},
		{Snom, "<a><b></a>"},
		{Snom, "<a/><b/>"},
		{Snom, ""},
		{Snom, "<a>&x;</a>"},
		{Snom, `<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>`},
		{Snom, "<a><b>1</b><b>2</b></a>"},
		{Snom, strings.Repeat("<a>", 20) + strings.Repeat("</a>", 20)},
	} {
		if err := Lint(c.kind, []byte(c.text)); err == nil {
			t.Errorf("no complaint about %q", c.text)
		}
	}
}

func FuzzRender(f *testing.F) {
	f.Add("Ana", "secret", "Label")
	f.Add("<&>\"'", "%EMPTY%", "a = b")
	f.Add("]]>", "&#10;", "\\n")
	f.Fuzz(func(t *testing.T, display, password, label string) {
		for _, k := range Kinds() {
			p := sample(t, k.Kind)
			p.Lines[0].Display, p.Lines[0].Password, p.Keys[0].Label = display, password, label
			file, err := Render(p, today, secret)
			if err != nil {
				continue
			}
			got, at := read(t, file, k.Kind), said[k.Kind]
			if got[at.password] != password || display != "" && got[at.display] != display {
				t.Fatalf("%s: %q became %q, %q became %q", k.Kind, password, got[at.password], display, got[at.display])
			}
		}
	})
}

func FuzzParseMAC(f *testing.F) {
	f.Add("00:15:65:aa:bb:cc")
	f.Add("001565AABBCC")
	f.Add("00-15-65-aa-bb-cc")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMAC(s)
		if err != nil {
			return
		}
		again, err := ParseMAC(m.String())
		if err != nil || again != m {
			t.Fatalf("%q reads as %v, and that as %v, %v", s, m, again, err)
		}
	})
}
