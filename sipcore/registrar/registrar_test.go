package registrar

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/digest"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
)

// table is a location service in memory.
type table struct {
	now  func() time.Time
	mu   sync.Mutex
	all  map[string]site.Binding
	fail error
}

func (l *table) Bindings(aor site.AOR) (out []site.Binding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.all {
		if b.AOR == aor && b.Expires.After(l.now()) {
			out = append(out, b)
		}
	}
	return
}

func (l *table) Bind(_ context.Context, b site.Binding) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail == nil {
		l.all[b.Key()] = b
	}
	return l.fail
}

func (l *table) Unbind(_ context.Context, key string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, key)
	return l.fail
}

type people map[string]sipcore.Credential

func (p people) Credentials(user, realm string) []sipcore.Credential {
	if c, ok := p[user]; ok && realm == "s0017.shops.example" {
		return []sipcore.Credential{c}
	}
	return nil
}

func person(user, password string, lines ...string) sipcore.Credential {
	c := sipcore.Credential{Device: site.RecordID{user[0], user[1], user[2]}, HA1MD5: digest.HA1(digest.MD5, user, "s0017.shops.example", password)}
	for _, l := range lines {
		c.Lines = append(c.Lines, sipcore.Line{AOR: site.AOR{User: l, Domain: "shops.example"}, User: site.RecordID{1}})
	}
	return c
}

// answers keeps what the registrar says.
type answers struct{ last *sip.Response }

func (a *answers) Respond(req *sip.Request, _ *edge.Flow, status int, reason string, headers ...sip.Header) {
	a.last = message.NewResponse(req, status, reason, "t")
	for _, h := range headers {
		a.last.AppendHeader(h)
	}
}

// A shop is a registrar with its phones.
type shop struct {
	t    testing.TB
	r    *Registrar
	said *answers
	loc  *table
	now  time.Time
	flow *edge.Flow
	news []string

	quick func(rest func()) // takes what Quick returns
}

func open(t testing.TB, change ...func(*Config)) *shop {
	s := &shop{t: t, said: &answers{}, now: time.Date(2026, 5, 4, 9, 0, 0, 0, time.UTC)}
	s.loc = &table{now: func() time.Time { return s.now }, all: map[string]site.Binding{}}
	s.flow = &edge.Flow{Transport: site.UDP, Local: netip.MustParseAddrPort("192.168.1.2:5060"), Remote: netip.MustParseAddrPort("192.168.1.50:5060")}
	disabled := person("208", "p208", "0017208")
	disabled.Disabled = true
	d, err := digest.NewServer(digest.Config{Now: s.loc.now, Store: people{
		"201": person("201", "p201", "0017201", "0017290"), "202": person("202", "p202", "0017202", "0017290"), "208": disabled}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Edge: s.said, Location: s.loc, Digest: d, Now: s.loc.now, Jitter: func(int) int { return 3 },
		AOR:   func(u *sip.Uri) site.AOR { return site.AOR{User: u.User, Domain: "shops.example"} },
		Realm: func(a site.AOR) string { return "s0017.shops.example" },
		Bound: func(b site.Binding, fresh bool) {
			s.news = append(s.news, fmt.Sprintf("bound %s %v", b.Contact, fresh))
		},
		Gone: func(b site.Binding) { s.news = append(s.news, "gone "+b.Contact) },
	}
	for _, c := range change {
		c(&cfg)
	}
	s.r = New(cfg)
	return s
}

// register sends a REGISTER as a phone would, answering the challenge, and
// returns the last status. headers are "Name: value" lines.
func (s *shop) register(user, line string, cseq int, headers ...string) int {
	s.t.Helper()
	s.send(user, line, cseq, "", headers...)
	if s.said.last.StatusCode != 401 {
		return s.said.last.StatusCode
	}
	ch, err := digest.ParseChallenge(message.Get(s.said.last, "WWW-Authenticate"))
	if err != nil {
		s.t.Fatal(err)
	}
	auth, err := ch.Answer("REGISTER", "sip:shops.example", user, "p"+user, "c", 1)
	if err != nil {
		s.t.Fatal(err)
	}
	s.send(user, line, cseq, auth, headers...)
	if s.said.last == nil {
		return 0
	}
	return s.said.last.StatusCode
}

func (s *shop) send(user, line string, cseq int, auth string, headers ...string) {
	s.t.Helper()
	raw := fmt.Sprintf("REGISTER sip:shops.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.50;branch=z9hG4bK%d\r\nFrom: <sip:%s@shops.example>;tag=1\r\n"+
		"To: <sip:%s@shops.example>\r\nCall-ID: reg-%s\r\nCSeq: %d REGISTER\r\n", cseq, line, line, user, cseq)
	if auth != "" {
		raw += "Authorization: " + auth + "\r\n"
	}
	for _, h := range headers {
		raw += h + "\r\n"
	}
	m, fault := message.Parse([]byte(raw+"\r\n"), false)
	if fault != nil {
		s.t.Fatal(fault)
	}
	if s.quick != nil && auth != "" {
		s.said.last = nil
		s.quick(s.r.Quick(m.(*sip.Request), s.flow))
		return
	}
	s.r.ServeRegister(m.(*sip.Request), s.flow)
}

func (s *shop) contacts() (out []string) {
	for _, h := range s.said.last.GetHeaders("Contact") {
		out = append(out, h.Value())
	}
	return
}

const desk = "Contact: <sip:201@192.168.1.50:5060;line=1>"

func TestRegisterRefreshQueryRemove(t *testing.T) {
	s := open(t)
	if got := s.register("201", "0017201", 1, desk, "Expires: 3600"); got != 200 {
		t.Fatal(got, s.said.last)
	}
	b := s.loc.Bindings(site.AOR{User: "0017201", Domain: "shops.example"})
	if len(b) != 1 || b[0].Contact != "sip:201@192.168.1.50:5060;line=1" || b[0].NAT || b[0].Transport != site.UDP || b[0].User != (site.RecordID{1}) {
		t.Fatalf("%+v", b)
	}
	if left := b[0].Expires.Sub(s.now); left < 90*time.Second || left > 120*time.Second {
		t.Errorf("granted %s on the LAN, want 90 to 120 s", left)
	}
	if d := message.Get(s.said.last, "Date"); d != "Mon, 04 May 2026 09:00:00 GMT" {
		t.Errorf("Date %q", d)
	}
	s.now = s.now.Add(60 * time.Second)
	if got := s.register("201", "0017201", 2, desk, "Expires: 3600"); got != 200 || len(s.contacts()) != 1 {
		t.Fatal(got, s.contacts())
	}
	if got := s.register("201", "0017201", 3); got != 200 || len(s.contacts()) != 1 || !strings.Contains(s.contacts()[0], "line=1>;expires=") {
		t.Errorf("query: %d %v", got, s.contacts())
	}
	if got := s.register("201", "0017201", 4, desk+";expires=0"); got != 200 || len(s.contacts()) != 0 {
		t.Errorf("removal: %d %v", got, s.contacts())
	}
	want := "[bound sip:201@192.168.1.50:5060;line=1 true bound sip:201@192.168.1.50:5060;line=1 false gone sip:201@192.168.1.50:5060;line=1]"
	if got := fmt.Sprint(s.news); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestOrderOfUpdates(t *testing.T) {
	s := open(t)
	s.register("201", "0017201", 5, desk)
	before := s.loc.Bindings(site.AOR{User: "0017201", Domain: "shops.example"})[0]
	s.now = s.now.Add(20 * time.Second)
	if got := s.register("201", "0017201", 5, desk); got != 200 {
		t.Errorf("a retransmission: %d", got)
	}
	if b := s.loc.Bindings(before.AOR)[0]; b != before {
		t.Errorf("a retransmission changed the binding: %+v", b)
	}
	if got := s.register("201", "0017201", 4, desk+";expires=0"); got != 500 || len(s.loc.all) != 1 {
		t.Errorf("an overtaken removal: %d, %d bindings", got, len(s.loc.all))
	}
	if got := s.register("201", "0017201", 4, "Contact: *", "Expires: 0"); got != 500 || len(s.loc.all) != 1 {
		t.Errorf("an overtaken *: %d, %d bindings", got, len(s.loc.all))
	}
	// All contacts are checked before any is changed.
	if got := s.register("201", "0017201", 4, "Contact: <sip:new@192.168.1.50>", desk); got != 500 || len(s.loc.all) != 1 {
		t.Errorf("half an update: %d, %d bindings", got, len(s.loc.all))
	}
}

func TestWildcardRemovesOnlyWhatIsTheDevices(t *testing.T) {
	s := open(t)
	s.register("201", "0017290", 1, desk)
	s.register("201", "0017290", 2, "Contact: <sip:soft@192.168.1.50:5070>")
	s.register("202", "0017290", 1, "Contact: <sip:202@192.168.1.51>")
	for _, bad := range [][]string{{"Contact: *"}, {"Contact: *", "Expires: 60"}, {"Contact: *", desk, "Expires: 0"}, {"Contact: *", "Expires: x"}} {
		if got := s.register("201", "0017290", 3, bad...); got != 400 || len(s.loc.all) != 3 {
			t.Errorf("%v: %d, %d bindings", bad, got, len(s.loc.all))
		}
	}
	if got := s.register("201", "0017290", 4, "Contact: *", "Expires: 0"); got != 200 || len(s.contacts()) != 1 || !strings.Contains(s.contacts()[0], "sip:202@") {
		t.Errorf("%d %v", got, s.contacts())
	}
}

func TestInstanceReplacesWhateverItsCallIDAndContact(t *testing.T) {
	s := open(t)
	inst := `;+sip.instance="<urn:uuid:00000000-0000-1000-8000-000A95A0E128>"`
	s.register("201", "0017201", 9, desk+inst+";q=0.5")
	s.flow = &edge.Flow{Transport: site.TCP, Name: "f2", Remote: netip.MustParseAddrPort("192.168.1.50:41000")}
	if got := s.register("201", "0017201", 10, "Contact: <sip:201@192.168.1.77:41000;transport=tcp>"+inst); got != 200 || len(s.contacts()) != 1 {
		t.Fatalf("%d %v", got, s.contacts())
	}
	b := s.loc.Bindings(site.AOR{User: "0017201", Domain: "shops.example"})[0]
	if b.Instance != "urn:uuid:00000000-0000-1000-8000-000A95A0E128" || b.Flow != "f2" || b.Transport != site.TCP || !b.NAT {
		t.Errorf("%+v", b)
	}
	if left := b.Expires.Sub(s.now); left != 60*time.Second {
		t.Errorf("granted %s behind NAT, want 60 s", left)
	}
	if !strings.Contains(s.contacts()[0], inst) {
		t.Errorf("instance is not in the answer: %v", s.contacts())
	}
	s.register("201", "0017201", 11, desk+inst+";reg-id=1", "Contact: <sip:201@192.168.1.50:5061>"+inst+";reg-id=2;q=0.7")
	if len(s.loc.all) != 3 {
		t.Errorf("%d bindings, want three: no reg-id, 1 and 2", len(s.loc.all))
	}
}

func TestExpires(t *testing.T) {
	for _, c := range []struct {
		name           string
		headers        []string
		status         int
		atLeast, atMax int
	}{
		{"none asked", []string{desk}, 200, 90, 120},
		{"parameter before header", []string{desk + ";expires=70", "Expires: 3600"}, 200, 70, 70},
		{"too brief", []string{desk, "Expires: 59"}, 423, 0, 0},
		{"just long enough", []string{desk, "Expires: 60"}, 200, 60, 60},
		{"malformed", []string{desk, "Expires: soon"}, 200, 90, 120},
		{"over range", []string{desk + ";expires=280297596632815", "Expires: 100000000000000000000"}, 200, 90, 120},
		{"no SIP contact", []string{"Contact: <name:John_Smith>"}, 400, 0, 0},
		{"long contact", []string{"Contact: <sip:" + strings.Repeat("a", 600) + "@192.168.1.50>"}, 400, 0, 0},
		{"escaped Route kept as data", []string{"Contact: <sip:user@192.168.1.50?Route=%3Csip:sip.example.com%3E>"}, 200, 90, 120},
	} {
		s := open(t)
		if got := s.register("201", "0017201", 1, c.headers...); got != c.status {
			t.Errorf("%s: got %d, want %d", c.name, got, c.status)
			continue
		}
		if c.status == 423 && message.Get(s.said.last, "Min-Expires") != "60" {
			t.Errorf("%s: Min-Expires %q", c.name, message.Get(s.said.last, "Min-Expires"))
		}
		for _, b := range s.loc.all {
			if left := int(b.Expires.Sub(s.now) / time.Second); left < c.atLeast || left > c.atMax {
				t.Errorf("%s: granted %d s", c.name, left)
			}
		}
	}
}

func TestContactsAreCapped(t *testing.T) {
	s := open(t)
	var eleven []string
	for i := range 11 {
		eleven = append(eleven, fmt.Sprintf("Contact: <sip:201@192.168.1.50:%d>", 6000+i))
	}
	if got := s.register("201", "0017201", 1, eleven...); got != 403 || len(s.loc.all) != 0 {
		t.Errorf("%d, %d bindings", got, len(s.loc.all))
	}
	if got := s.register("201", "0017201", 2, eleven[:10]...); got != 200 || len(s.loc.all) != 10 {
		t.Errorf("%d, %d bindings", got, len(s.loc.all))
	}
	if got := s.register("201", "0017201", 3, eleven[10]); got != 403 {
		t.Errorf("the eleventh: %d", got)
	}
}

// TestNobodyLearnsWhoExists: without the password, known, unknown, disabled and
// foreign lines all look alike.
func TestNobodyLearnsWhoExists(t *testing.T) {
	s := open(t)
	said := map[string]bool{}
	for _, line := range []string{"0017201", "0017999", "0017208", "nobody", "0017202"} {
		s.send("x", line, 1, "", desk)
		r := s.said.last
		said[fmt.Sprint(r.StatusCode, len(r.Headers()), len(message.Get(r, "WWW-Authenticate")))] = true
	}
	if len(said) != 1 {
		t.Errorf("first answers differ: %v", said)
	}
	clear(said)
	for _, user := range []string{"201", "999", "208"} {
		ch, _ := digest.ParseChallenge(message.Get(s.said.last, "WWW-Authenticate"))
		auth, _ := ch.Answer("REGISTER", "sip:shops.example", user, "guess", "c", 1)
		s.send("x", "0017201", 2, auth, desk)
		said[fmt.Sprint(s.said.last.StatusCode, strings.Contains(s.said.last.String(), "stale"))] = true
	}
	if len(said) != 1 || !said["401 false"] {
		t.Errorf("answers to wrong passwords differ: %v", said)
	}
	if got := s.register("208", "0017208", 3, desk); got != 403 {
		t.Errorf("disabled, right password: %d", got)
	}
	if got := s.register("201", "0017202", 3, desk); got != 403 {
		t.Errorf("somebody else's line: %d", got)
	}
	if got := s.register("201", "0017999", 3, desk); got != 403 {
		t.Errorf("a line that does not exist: %d", got)
	}
	if len(s.loc.all) != 0 {
		t.Errorf("%d bindings", len(s.loc.all))
	}
}

func TestBusyNeverTurnsAwayWhoHasNoBinding(t *testing.T) {
	busy := false
	s := open(t, func(c *Config) { c.Busy = func() bool { return busy } })
	s.register("201", "0017201", 1, desk)
	busy = true
	if got := s.register("201", "0017201", 2, desk); got != 503 || message.Get(s.said.last, "Retry-After") != "5" {
		t.Errorf("a refresh: %d", got)
	}
	if got := s.register("202", "0017202", 1, "Contact: <sip:202@192.168.1.50>"); got != 200 {
		t.Errorf("a new phone: %d", got)
	}
	s.now = s.now.Add(115 * time.Second)
	if got := s.register("201", "0017201", 3, desk); got != 200 {
		t.Errorf("a binding about to end: %d", got)
	}
}

// TestQuickNeverWaits: what touches the disk, or waits for who does, is left
// for later, and then done.
func TestQuickNeverWaits(t *testing.T) {
	s := open(t)
	quick := func(cseq int, headers ...string) (waits bool, status int) {
		s.quick = func(rest func()) {
			if waits = rest != nil; waits && s.said.last != nil {
				t.Error("answered, and more to do")
			}
			if rest != nil {
				rest()
			}
		}
		status = s.register("201", "0017201", cseq, headers...)
		return
	}
	at := &s.r.locks[maphash.String(s.r.seed, "0017201")%uint64(len(s.r.locks))]
	for _, c := range []struct {
		name    string
		headers []string
		waits   bool
	}{
		{"new", []string{desk}, true}, {"refresh", []string{desk}, false}, {"question", nil, false},
		{"refresh and one new", []string{desk, "Contact: <sip:soft@192.168.1.50>"}, true},
		{"removal", []string{desk + ";expires=0"}, true}, {"all", []string{"Contact: *", "Expires: 0"}, true},
	} {
		s.now = s.now.Add(time.Second)
		if waits, status := quick(int(s.now.Unix()), c.headers...); waits != c.waits || status != 200 {
			t.Errorf("%s: waits %v, status %d", c.name, waits, status)
		}
	}
	quick(1<<30, desk)
	at.Lock()
	s.quick = func(rest func()) {
		if rest == nil {
			t.Error("a refresh behind a write did not wait")
		}
	}
	s.register("201", "0017201", 1<<30+1, desk)
	at.Unlock()
}

func TestStoreFailureIs500(t *testing.T) {
	s := open(t)
	s.loc.fail = errors.New("disk on fire")
	if got := s.register("201", "0017201", 1, desk); got != 500 {
		t.Errorf("got %d", got)
	}
}

func TestTortureRegisters(t *testing.T) {
	s := open(t)
	for name, want := range map[string]int{"regaut01": 401, "unksm2": 401, "cparam01": 401, "cparam02": 401, "regescrt": 401} {
		raw, err := os.ReadFile("../edge/testdata/rfc4475/" + name + ".dat")
		if err != nil {
			t.Fatal(err)
		}
		m, fault := message.Parse(raw, false)
		if fault != nil {
			t.Fatal(name, fault)
		}
		s.r.ServeRegister(m.(*sip.Request), s.flow)
		if got := s.said.last.StatusCode; got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
}

// TestPhonesThatCameTogetherPartAgain: granted times are spread.
func TestPhonesThatCameTogetherPartAgain(t *testing.T) {
	s := open(t)
	seen := map[time.Time]bool{}
	for i := range 200 {
		w, err := s.r.wish(&sip.ContactHeader{Address: sip.Uri{Scheme: "sip", User: fmt.Sprint(i), Host: "192.168.1.50"}}, -1, s.flow)
		if err != nil {
			t.Fatal(err)
		}
		seen[s.now.Add(w.expires)] = true
	}
	if len(seen) < 20 {
		t.Errorf("200 phones expire in only %d different seconds", len(seen))
	}
}

// BenchmarkRegister is one authenticated refresh from bytes to bytes, without
// the socket: parse, verify, bind, print.
func BenchmarkRegister(b *testing.B) {
	s := open(b)
	s.send("201", "0017201", 1, "", desk)
	ch, _ := digest.ParseChallenge(message.Get(s.said.last, "WWW-Authenticate"))
	const n = 2000
	raws := make([][]byte, n)
	for i := range raws {
		auth, _ := ch.Answer("REGISTER", "sip:shops.example", "201", "p201", "c0ffee", uint32(i+1))
		raws[i] = []byte(fmt.Sprintf("REGISTER sip:shops.example SIP/2.0\r\nVia: SIP/2.0/UDP 192.168.1.50:5060;branch=z9hG4bK%d;rport\r\nMax-Forwards: 70\r\n"+
			"From: \"Ana\" <sip:0017201@shops.example>;tag=1\r\nTo: <sip:0017201@shops.example>\r\nCall-ID: reg-201\r\nCSeq: %d REGISTER\r\n"+
			"User-Agent: desk phone 1.0\r\n%s\r\nExpires: 120\r\nAuthorization: %s\r\nContent-Length: 0\r\n\r\n", i, i+1, desk, auth))
	}
	s.news = nil
	s.r.cfg.Bound = func(site.Binding, bool) {}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		if i == n { // the window has seen them all: begin anew with a new nonce table
			b.StopTimer()
			d, _ := digest.NewServer(digest.Config{Now: s.loc.now, Store: people{"201": person("201", "p201", "0017201")}})
			s.r.cfg.Digest, i = d, 0
			s.loc.all = map[string]site.Binding{}
			s.send("201", "0017201", 1, "", desk)
			ch, _ = digest.ParseChallenge(message.Get(s.said.last, "WWW-Authenticate"))
			for k := range raws {
				auth, _ := ch.Answer("REGISTER", "sip:shops.example", "201", "p201", "c0ffee", uint32(k+1))
				at := strings.Index(string(raws[k]), "Authorization")
				raws[k] = []byte(string(raws[k][:at]) + "Authorization: " + auth + "\r\nContent-Length: 0\r\n\r\n")
			}
			b.StartTimer()
		}
		m, fault := message.Parse(raws[i], false)
		if fault != nil {
			b.Fatal(fault)
		}
		s.r.ServeRegister(m.(*sip.Request), s.flow)
		if s.said.last.StatusCode != 200 {
			b.Fatal(s.said.last)
		}
		edge.Marshal(s.said.last)
		i++
	}
}
