package provision

import (
	"embed"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/template"
	"time"
)

//go:embed templates/*.tmpl
var files embed.FS

// A File is what a phone fetches.
type File struct {
	Name string // as the phone asks for it
	Type string // of its content
	Body []byte
}

// A kind is what a vendor's family needs to know. All are set at start.
type kind struct {
	product string
	tried   string // the firmware a file was last tried on
	format  format
	lines   int
	dect    bool
	folder  bool // the phone wants a folder's URL, not a file's
	der     bool // it reads certificates in DER, not PEM
	trusts  bool // the first file makes the phone trust our CA by itself
	name    func(MAC) string
	words   words
	sync    string // Event of the NOTIFY that makes it fetch its settings without a restart, if it can

	// deadNode is what a dead first node costs the first call by the vendor's
	// documents and our settings; 0: not documented.
	deadNode time.Duration
}

// words are a vendor's for what we call by one name.
type words struct {
	transport map[Transport]string
	srtp      [2]string // without and with TLS
	keys      map[KeyType]string
	languages map[string]string
	tones     map[string]string
}

func lower(suffix string) func(MAC) string {
	return func(m MAC) string { return m.Plain() + suffix }
}

var kinds = map[Kind]kind{
	Yealink: {
		product: "Yealink T3x, T4x, T5x", tried: "untested", sync: "check-sync;reboot=false", format: cfg, lines: 16, trusts: true,
		name: lower(".cfg"), deadNode: 3500 * time.Millisecond,
		words: words{
			transport: map[Transport]string{UDP: "0", TCP: "1", TLS: "2"}, srtp: [2]string{"0", "1"},
			keys:      map[KeyType]string{KeyLine: "15", KeyBLF: "16", KeySpeed: "13", KeyPark: "16", KeyNight: "16"},
			languages: map[string]string{"en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "nl": "Dutch", "pt": "Portuguese", "pl": "Polish"},
			tones:     map[string]string{"DE": "Germany", "AT": "Austria", "CH": "Switzerland", "FR": "France", "ES": "Spain", "IT": "Italy", "NL": "Netherlands", "GB": "Great Britain", "US": "United States", "BE": "Belgium"},
		},
	},
	Snom: {
		product: "Snom D7xx", tried: "untested", sync: "check-sync;reboot=false", format: xmlText, lines: 6, der: true, trusts: true,
		name: lower(".xml"), deadNode: 5760 * time.Millisecond,
		words: words{
			transport: map[Transport]string{UDP: "udp", TCP: "tcp", TLS: "tls"}, srtp: [2]string{"off", "on"},
			keys:      map[KeyType]string{KeyLine: "line", KeyBLF: "blf", KeySpeed: "speed", KeyPark: "orbit", KeyNight: "blf"},
			languages: map[string]string{"en": "English", "de": "Deutsch", "fr": "Français", "es": "Español", "it": "Italiano", "nl": "Nederlands", "pt": "Português", "pl": "Polski"},
			tones:     snomTones,
		},
	},
	SnomM: {
		product: "Snom M300, M400, M700, M900", tried: "untested", sync: "check-sync;reboot=false", format: xmlText, lines: 50, dect: true,
		name: lower(".xml"), deadNode: 4 * time.Second,
		words: words{
			transport: map[Transport]string{UDP: "udp", TCP: "tcp", TLS: "tls"}, srtp: [2]string{"disabled", "enabled"},
			languages: map[string]string{"en": "English", "de": "Deutsch", "fr": "Français", "es": "Español", "it": "Italiano", "nl": "Nederlands", "pt": "Português", "pl": "Polski"},
			tones:     snomTones,
		},
	},
	Gigaset: {
		product: "Gigaset N670, N870", tried: "untested", sync: "check-sync", format: xmlText, lines: 100, dect: true, folder: true,
		name:  lower(".xml"),
		words: words{transport: map[Transport]string{UDP: "1", TCP: "2", TLS: "3"}, srtp: [2]string{"0", "1"}},
	},
	HT8: {
		product: "Grandstream HT801, HT802, HT812", tried: "untested", sync: "check-sync", format: xmlText, lines: 2, folder: true,
		name: func(m MAC) string { return "cfg" + m.Plain() + ".xml" }, deadNode: 6 * time.Second,
		words: words{transport: map[Transport]string{UDP: "0", TCP: "1", TLS: "2"}, srtp: [2]string{"0", "2"}},
	},
	Akuvox: {
		product: "Akuvox E1x, R2x", tried: "untested", sync: "check-sync", format: cfg, lines: 2, folder: true,
		name:  lower(".cfg"),
		words: words{transport: map[Transport]string{UDP: "0", TCP: "1", TLS: "2"}},
	},
}

var snomTones = map[string]string{"DE": "GER", "AT": "AUT", "CH": "SWI", "FR": "FRA", "ES": "ESP", "IT": "ITA", "NL": "NLD", "GB": "GBR", "US": "USA", "BE": "BEL"}

// A KindInfo tells a person what to expect of a family.
type KindInfo struct {
	Kind    Kind
	Product string
	Tried   string // firmware the template was last tried on, or "untested"
	Lines   int    // at most
	DECT    bool   // lines belong to handsets

	// Trusts says that the first file alone makes it trust the fleet's CA.
	// Where it does not, a person loads the CA once on the device's own page.
	Trusts bool

	// DeadNode is what a dead first node costs the first call after its death,
	// by the vendor's documents; 0 where they do not say.
	DeadNode time.Duration

	// Sync is the Event of the NOTIFY that asks it to fetch its settings again.
	Sync string
}

// Kinds lists the families there are templates for, by name.
func Kinds() (out []KindInfo) {
	for name, k := range kinds {
		out = append(out, KindInfo{name, k.product, k.tried, k.lines, k.dect, k.trusts, k.deadNode, k.sync})
	}
	slices.SortFunc(out, func(a, b KindInfo) int { return strings.Compare(string(a.Kind), string(b.Kind)) })
	return out
}

func kindNames() (out []string) {
	for _, k := range Kinds() {
		out = append(out, string(k.Kind))
	}
	return out
}

var templates = template.Must(template.New("").Option("missingkey=error").ParseFS(files, "templates/*.tmpl"))

// firstView is all that may be said over plain HTTP.
type firstView struct{ Product, Tried, CAURL, URL, Bare string }

// RenderFirst makes the file that goes over plain HTTP: whom to trust, and
// where the rest is. caFolder and url are folders with their closing slash;
// the first holds the CA's certificate, the second the phone's own file.
func RenderFirst(k Kind, m MAC, caFolder, url string) (File, error) {
	info, ok := kinds[k]
	if !ok {
		return File{}, fmt.Errorf("first file for %s: no template for kind %q", m, k)
	}
	f, err := info.render(string(k)+".first", m, &firstView{
		Product: info.product, Tried: info.tried, CAURL: caFolder + info.ca(), URL: info.link(url, m), Bare: bare(url),
	})
	if err != nil {
		return File{}, fmt.Errorf("first file for %s: %w", m, err)
	}
	return f, nil
}

// Render makes the file that holds everything, secrets too: for HTTPS only.
// url is the secret folder where the phone looks again at each boot, and now
// is the year whose daylight saving it learns.
func Render(p *Phone, now time.Time, url string) (File, error) { return render(p, now, url, url) }

// render is Render with the CA's certificate in another folder: a phone fetches
// it while it trusts who serves that one.
func render(p *Phone, now time.Time, caFolder, url string) (File, error) {
	if err := p.Validate(); err != nil {
		return File{}, err
	}
	z, err := Rules(p.Zone, now)
	if err != nil {
		return File{}, fmt.Errorf("phone %s: %w", p.MAC, err)
	}
	k := kinds[p.Kind]
	v, err := k.view(p, z)
	if err != nil {
		return File{}, fmt.Errorf("phone %s: %w", p.MAC, err)
	}
	v.firstView = firstView{Product: k.product, Tried: k.tried, CAURL: caFolder + k.ca(), URL: k.link(url, p.MAC), Bare: bare(url)}
	f, err := k.render(string(p.Kind), p.MAC, v)
	if err != nil {
		return File{}, fmt.Errorf("phone %s: %w", p.MAC, err)
	}
	return f, nil
}

// ca is the name of the CA's certificate in the encoding the vendor reads.
func (k kind) ca() string {
	if k.der {
		return caDER
	}
	return caPEM
}

const (
	caPEM = "ca.pem"
	caDER = "ca.der"
)

// link is the URL in the form the vendor wants.
func (k kind) link(folder string, m MAC) string {
	if k.folder {
		return folder
	}
	return folder + k.name(m)
}

// bare is a folder's URL as Grandstream writes it: neither scheme nor slash.
func bare(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	return strings.TrimSuffix(rest, "/")
}

// render runs a template over v, every string of which it escapes first, and
// reads the result back as the phone would.
func (k kind) render(name string, m MAC, v any) (File, error) {
	if err := k.format.escape(v); err != nil {
		return File{}, err
	}
	var b strings.Builder
	if err := templates.ExecuteTemplate(&b, name+".tmpl", v); err != nil {
		return File{}, fmt.Errorf("render %s: %w", name, err)
	}
	if _, err := k.format.lint(b.String()); err != nil {
		return File{}, fmt.Errorf("rendered %s is not what it should be: %w", name, err)
	}
	return File{Name: k.name(m), Type: k.format.mime(), Body: []byte(b.String())}, nil
}

// view is what a template sees. Only strings are escaped: numbers cannot harm.
type view struct {
	firstView

	Lines         []lineView
	Nodes         []nodeView
	First, Second nodeView
	Pair          bool
	Transport     string
	SRTP          string
	Expiry        int
	ExpiryMinutes int
	Ports         []portView

	SNTP1, SNTP2          string
	ZoneName, City, POSIX string
	SnomZone              string
	Offset, Offset2       string
	OffsetSeconds         int
	Summer                bool
	SaveMinutes           int
	SaveSeconds           int
	Start, End            changeView

	Language, Tones          string
	Keys                     []keyView
	Voicemail, Pickup        string
	DialPlan, DoorCalls      string
	AdminUser, AdminPassword string
	DECTCode                 string
}

type lineView struct {
	N, Twin                               int
	N5                                    string
	Number, User, Password, Display, IPUI string
}

type nodeView struct {
	N, Port    int
	Addr, Host string
}

type keyView struct {
	N, Zero, Line            int
	Type, Code, Value, Label string
	Watched                  bool
}

type changeView struct {
	Month, Week, ISODay, SundayOne, Hour int
	Month2, Clock                        string
}

type portView struct {
	lineView
	n int
}

// ports are Grandstream's numbers for the same setting of each FXS port.
var ports = map[string][2]int{
	"active": {271, 401}, "server": {47, 747}, "failover": {967, 987}, "prefer": {4567, 4568},
	"number": {35, 735}, "user": {36, 736}, "password": {34, 734}, "name": {3, 703},
	"register": {31, 731}, "expiry": {32, 732}, "transport": {130, 830}, "retry": {138, 471},
	"options": {2397, 2497}, "interval": {2398, 2498}, "lost": {2399, 2499}, "mwi": {99, 709},
	"unregistered": {109, 813}, "srtp": {183, 443}, "local": {191, 751}, "plan": {4200, 4201},
}

// P is the number of a setting at this port.
func (v portView) P(setting string) (int, error) {
	n, ok := ports[setting]
	if !ok {
		return 0, fmt.Errorf("no P-value called %q", setting)
	}
	return n[v.n], nil
}

func node(n int, s Server) nodeView {
	return nodeView{N: n, Port: int(s.Port), Addr: s.Addr.String(), Host: host(s.Addr)}
}

func host(a netip.Addr) string {
	if a.Is6() && !a.Is4In6() {
		return "[" + a.String() + "]"
	}
	return a.Unmap().String()
}

func change(c Change) changeView {
	iso := int(c.Weekday)
	if iso == 0 {
		iso = 7
	}
	return changeView{
		Month: int(c.Month), Week: c.Week, ISODay: iso, SundayOne: int(c.Weekday) + 1, Hour: c.Second / 3600,
		Month2: fmt.Sprintf("%02d", c.Month), Clock: fmt.Sprintf("%02d:%02d:%02d", c.Second/3600, c.Second/60%60, c.Second%60),
	}
}

func (k kind) view(p *Phone, z Zone) (*view, error) {
	v := &view{
		Pair: len(p.Servers) == 2, First: node(1, p.Servers[0]),
		Transport: k.words.transport[p.Transport], SRTP: k.words.srtp[0],
		Expiry: int(p.Expiry / time.Second), ExpiryMinutes: int((p.Expiry + time.Minute - 1) / time.Minute),
		ZoneName: z.Name, City: strings.ReplaceAll(z.Name[strings.LastIndexByte(z.Name, '/')+1:], "_", " "),
		POSIX: z.POSIX(), Offset: east(z.Offset), Offset2: clock(z.Offset), OffsetSeconds: z.Offset,
		Summer: z.Save > 0, SaveMinutes: z.Save / 60, SaveSeconds: z.Save, Start: change(z.Start), End: change(z.End),
		SNTP1: p.SNTP[0].String(), SNTP2: p.SNTP[len(p.SNTP)-1].String(),
		Language: k.words.languages[p.Language], Tones: k.words.tones[p.Country],
		Voicemail: p.Voicemail, Pickup: p.Pickup, DialPlan: p.DialPlan, DoorCalls: p.DoorCalls,
		AdminUser: p.AdminUser, AdminPassword: p.AdminPassword, DECTCode: p.DECTCode,
	}
	if p.Transport == TLS {
		v.SRTP = k.words.srtp[1]
	}
	if v.Language == "" {
		v.Language = k.words.languages["en"]
	}
	if v.AdminUser == "" {
		v.AdminUser = "admin"
	}
	v.Nodes = []nodeView{v.First}
	if v.Pair {
		v.Second = node(2, p.Servers[1])
		v.Nodes = append(v.Nodes, v.Second)
	}
	if p.Kind == SnomM {
		var ok bool
		if v.SnomZone, ok = snomZones[z.Offset]; !ok {
			return nil, fmt.Errorf("time zone %s: a Snom base knows none of its offset", z.Name)
		}
	}
	for i, l := range p.Lines {
		lv := lineView{
			N: i + 1, Twin: len(p.Lines) + i + 1, N5: fmt.Sprintf("%05d", i+1),
			Number: l.AOR.User, User: l.User, Password: l.Password, Display: l.Display, IPUI: strings.ToUpper(l.IPUI),
		}
		if lv.Display == "" {
			lv.Display = l.AOR.User
		}
		v.Lines = append(v.Lines, lv)
		v.Ports = append(v.Ports, portView{lv, min(i, 1)})
	}
	for i, key := range p.Keys {
		v.Keys = append(v.Keys, keyView{
			N: i + 1, Zero: i, Line: max(key.Line, 1), Type: string(key.Type), Code: k.words.keys[key.Type],
			Value: key.Value, Label: key.Label, Watched: key.Type == KeyBLF,
		})
	}
	return v, nil
}

// clock prints an offset as +05:30.
func clock(offset int) string {
	sign := "+"
	if offset < 0 {
		sign, offset = "-", -offset
	}
	return sign + fmt.Sprintf("%02d:%02d", offset/3600, offset/60%60)
}

// snomZones are names a Snom base knows for each offset; daylight saving is
// said beside them, so one is as good as another.
var snomZones = map[int]string{
	-10 * 3600: "USA-10", -9 * 3600: "USA-9", -8 * 3600: "USA-8", -7 * 3600: "USA-7", -6 * 3600: "USA-6",
	-5 * 3600: "USA-5", -4 * 3600: "CAN-4", -7 * 1800: "CAN-3.5", 0: "GBR-0", 1 * 3600: "GER+1", 2 * 3600: "FIN+2",
}

// harmless says that no secret of p stands in a value of f, a file for plain
// HTTP.
func (p *Phone) harmless(f File) error {
	said, err := kinds[p.Kind].format.lint(string(f.Body))
	if err != nil {
		return err
	}
	for _, s := range said {
		for _, secret := range p.secrets() {
			if len(secret) >= 6 && strings.Contains(s.value, secret) {
				return fmt.Errorf("%s holds a secret, and the file goes over plain HTTP", s.key)
			}
		}
	}
	return nil
}
