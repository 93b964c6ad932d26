package digest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
)

// TestVectors computes every row of testdata/vectors.md; row 5, the RFC's
// misprint, must come out different.
func TestVectors(t *testing.T) {
	b, err := os.ReadFile("testdata/vectors.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	var previous []string
	for _, line := range strings.Split(string(b), "\n") {
		cells := strings.Split(line, " | ")
		if len(cells) != 12 || !strings.HasPrefix(line, "| ") || strings.HasPrefix(cells[0], "| #") {
			continue
		}
		for i := range cells {
			cells[i] = strings.Trim(cells[i], "| ")
			if cells[i] == "as 4" {
				cells[i] = previous[i]
			}
		}
		previous = cells
		number, algorithm, user, realm, password := cells[0], cells[2], cells[3], cells[4], cells[5]
		if strings.HasPrefix(user, "J U+00E4") {
			user = "J\u00e4s\u00f8n Doe"
		}
		if strings.HasPrefix(algorithm, "SHA-512") {
			algorithm = SHA512256
		}
		got := string(response(nil, algorithm, HA1(algorithm, user, realm, password), cells[6], cells[7], cells[8], cells[9], cells[10], "auth"))
		if (got == cells[11]) == (number == "5") {
			t.Errorf("row %s: got %s, file says %s", number, got, cells[11])
		}
		rows++
	}
	if rows != 8 {
		t.Errorf("%d rows, want 8", rows)
	}
}

type store map[string][]sipcore.Credential

func (s store) Credentials(user, realm string) []sipcore.Credential {
	if realm != "s0017.F" {
		return nil
	}
	return s[user]
}

func device(user, password string, sha bool) sipcore.Credential {
	return sipcore.Credential{Device: site.RecordID{byte(len(password))}, SHA256: sha,
		HA1MD5: HA1(MD5, user, "s0017.F", password), HA1SHA256: HA1(SHA256, user, "s0017.F", password)}
}

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newServer(t testing.TB, c *clock, change ...func(*Config)) *Server {
	cfg := Config{Key: [32]byte{1}, Epoch: 3, Now: c.now, Rand: rand.NewChaCha8([32]byte{byte(c.t.UnixNano())}),
		Store: store{"201": {device("201", "secret", false)}, "202": {device("202", "one", false), device("202", "second", false)}, "203": {device("203", "sha", true)}}}
	for _, f := range change {
		f(&cfg)
	}
	s, err := NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func register(auth string) *sip.Request {
	req := sip.NewRequest(sip.REGISTER, sip.Uri{Scheme: "sip", Host: "shop.example"})
	if auth != "" {
		req.AppendHeader(sip.NewHeader("Authorization", auth))
	}
	return req
}

func (s *Server) try(auth string) Result {
	return s.Verify(register(auth), "Authorization", "s0017.F", "192.0.2.1", "201", 0)
}

func (s *Server) answer(t testing.TB, user, password string, nc uint32) string {
	t.Helper()
	c, err := ParseChallenge(s.Challenge("s0017.F", Result{}))
	if err != nil {
		t.Fatal(err)
	}
	a, err := c.Answer("REGISTER", "sip:shop.example", user, password, "c0", nc)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestVerdicts(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	s := newServer(t, c)
	swap := func(auth, old, new string) string {
		if !strings.Contains(auth, old) {
			t.Fatalf("no %s in %s", old, auth)
		}
		return strings.Replace(auth, old, new, 1)
	}
	right := func() string { return s.answer(t, "201", "secret", 1) }
	for name, x := range map[string]struct {
		auth string
		want Verdict
	}{
		"none":                {"", Missing},
		"other scheme":        {"NoOneKnowsThisScheme opaque-data=here", Missing},
		"basic":               {"Basic MjAxOnNlY3JldA==", Missing},
		"right":               {right(), OK},
		"wrong password":      {s.answer(t, "201", "Secret", 1), Wrong},
		"unknown user":        {s.answer(t, "999", "secret", 1), Wrong},
		"second of a clash":   {s.answer(t, "202", "second", 1), OK},
		"other realm":         {swap(right(), `realm="s0017.F"`, `realm="s0018.F"`), Missing},
		"nonce of nobody":     {swap(right(), `nonce="`, `nonce="A`), Wrong}, // the digest fits no more
		"auth-int":            {swap(right(), "qop=auth", "qop=auth-int"), Wrong},
		"md5-sess":            {swap(right(), "algorithm=MD5", "algorithm=MD5-sess"), Wrong},
		"upper-case hex":      {upper(right()), OK},
		"nc zero":             {s.answer(t, "201", "secret", 0), Stale},
		"unbalanced quotes":   {right() + `, opaque="x`, Missing},
		"two responses":       {right() + `, response="x"`, Missing},
		"response with a tab": {swap(right(), `response="`, `response="`+"\t"), Wrong},
		"empty":               {"Digest ", Missing},
	} {
		if got := s.try(x.auth); got.Verdict != x.want {
			t.Errorf("%s: got %s, want %s", name, got.Verdict, x.want)
		}
	}
	if got := s.try(s.answer(t, "202", "second", 1)).Credential.Device; got != (site.RecordID{6}) {
		t.Errorf("the password of the second device named device %v", got)
	}
}

func upper(auth string) string {
	i := strings.Index(auth, `response="`) + 10
	return auth[:i] + strings.ToUpper(auth[i:i+32]) + auth[i+32:]
}

func TestURIMustBeTheRequests(t *testing.T) {
	s := newServer(t, &clock{time.Unix(1e9, 0)})
	for uri, want := range map[string]Verdict{
		"sip:200@shop.example": OK, "sip:200@SHOP.example:5060;transport=udp": OK,
		"sip:200@192.168.1.2": OK, "sip:192.168.1.2:5060": OK, // SIPp
		"sip:0900123@shop.example": Wrong, "200": Wrong, "tel:200": Wrong,
	} {
		c, _ := ParseChallenge(s.Challenge("s0017.F", Result{}))
		a, _ := c.Answer("INVITE", uri, "201", "secret", "c0", 1)
		req := sip.NewRequest(sip.INVITE, sip.Uri{Scheme: "sip", User: "200", Host: "shop.example"})
		req.AppendHeader(sip.NewHeader("Proxy-Authorization", a))
		if got := s.Verify(req, "Proxy-Authorization", "s0017.F", "192.0.2.1", "", 0); got.Verdict != want {
			t.Errorf("%s: got %s, want %s", uri, got.Verdict, want)
		}
	}
}

func TestNothingIsAcceptedTwice(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	s := newServer(t, c)
	ch, _ := ParseChallenge(s.Challenge("s0017.F", Result{}))
	with := func(nc uint32) string {
		a, _ := ch.Answer("REGISTER", "sip:shop.example", "201", "secret", "c0", nc)
		return a
	}
	var got []string
	for _, nc := range []uint32{1, 1, 2, 5, 4, 4, 2, 3, 100, 36, 37, 37, 101} {
		got = append(got, fmt.Sprint(nc, s.try(with(nc)).Verdict))
	}
	want := "1ok 1stale 2ok 5ok 4ok 4stale 2stale 3ok 100ok 36stale 37ok 37stale 101ok"
	if g := strings.ReplaceAll(strings.Join(got, " "), " ok", "ok"); strings.ReplaceAll(g, " stale", "stale") != want {
		t.Errorf("got %v", got)
	}

	// A retransmission, byte for byte from the same place, is no replay for 32 s.
	again := register(s.answer(t, "201", "secret", 1))
	for i, want := range []Verdict{OK, OK, Stale} {
		if i == 2 {
			c.t = c.t.Add(33 * time.Second)
		}
		if got := s.Verify(again, "Authorization", "s0017.F", "192.0.2.1", "", 42); got.Verdict != want {
			t.Errorf("retransmission %d: got %s, want %s", i, got.Verdict, want)
		}
	}
	c.t = c.t.Add(-time.Second)
	if got := s.Verify(again, "Authorization", "s0017.F", "192.0.2.1", "", 43); got.Verdict != Stale {
		t.Errorf("the same digest in another message: %s", got.Verdict)
	}
}

func TestWithoutQopOncePerNonce(t *testing.T) {
	s := newServer(t, &clock{time.Unix(1e9, 0)})
	ch, _ := ParseChallenge(s.Challenge("s0017.F", Result{}))
	ch.QOPAuth = false
	a, _ := ch.Answer("REGISTER", "sip:shop.example", "201", "secret", "", 0)
	if strings.Contains(a, "qop") {
		t.Fatal(a)
	}
	if got := s.try(a).Verdict; got != OK {
		t.Errorf("first: %s", got)
	}
	if got := s.try(a).Verdict; got != Stale {
		t.Errorf("second: %s", got)
	}
	ch.QOPAuth = true
	a, _ = ch.Answer("REGISTER", "sip:shop.example", "201", "secret", "c", 7)
	if got := s.try(a).Verdict; got != Stale {
		t.Errorf("with qop after without: %s", got)
	}
}

func TestStaleAcrossTimeEpochRestartAndPair(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	a := newServer(t, c)
	for name, x := range map[string]struct {
		s     *Server
		after time.Duration
		want  Verdict
	}{
		"just in time":                   {a, 5 * time.Minute, OK},
		"too old":                        {a, 5*time.Minute + time.Second, Stale},
		"from the future":                {a, -3 * time.Second, Stale},
		"clock ten years on":             {a, 10 * 365 * 24 * time.Hour, Stale},
		"other epoch":                    {newServer(t, c, func(c *Config) { c.Epoch = 4; c.Shared = time.Minute }), 0, Stale},
		"other key":                      {newServer(t, c, func(c *Config) { c.Key[5] = 9; c.Shared = time.Minute }), 0, Stale},
		"the pair's other node":          {newServer(t, c, func(c *Config) { c.Rand = bytes.NewReader(make([]byte, 100)) }), 0, Stale},
		"the pair's other node, sharing": {newServer(t, c, func(c *Config) { c.Rand = bytes.NewReader(make([]byte, 100)); c.Shared = 10 * time.Second }), 0, OK},
		"shared too long ago": {newServer(t, c, func(c *Config) { c.Rand = bytes.NewReader(make([]byte, 100)); c.Shared = 10 * time.Second }),
			11 * time.Second, Stale},
	} {
		c.t = time.Unix(1e9, 0)
		auth := a.answer(t, "201", "secret", 1)
		wrong := a.answer(t, "201", "wrong", 1)
		c.t = c.t.Add(x.after)
		if got := x.s.try(auth).Verdict; got != x.want {
			t.Errorf("%s: got %s, want %s", name, got, x.want)
		}
		if got := x.s.try(wrong).Verdict; got != Wrong {
			t.Errorf("%s, wrong password: got %s: stale must not say that a guess is right or wrong", name, got)
		}
	}
}

func TestOneChallengeMD5UnlessTheDeviceSaysSHA256(t *testing.T) {
	s := newServer(t, &clock{time.Unix(1e9, 0)})
	first := func(hint string) string {
		return s.Challenge("s0017.F", s.Verify(register(""), "Authorization", "s0017.F", "192.0.2.1", hint, 0))
	}
	for hint, want := range map[string]string{"201": "algorithm=MD5,", "203": "algorithm=SHA-256,", "999": "algorithm=MD5,", "": "algorithm=MD5,"} {
		if got := first(hint); !strings.Contains(got, want) || strings.Count(got, "algorithm") != 1 || strings.Contains(got, "stale") {
			t.Errorf("%q: %s", hint, got)
		}
	}
	// Asked by MD5 because its name was not known yet: right, but once more.
	r := s.try(s.answer(t, "203", "sha", 1))
	c := s.Challenge("s0017.F", r)
	if r.Verdict != Stale || !strings.Contains(c, "algorithm=SHA-256") || !strings.Contains(c, "stale=true") {
		t.Errorf("%s: %s", r.Verdict, c)
	}
	ch, _ := ParseChallenge(c)
	a, _ := ch.Answer("REGISTER", "sip:shop.example", "203", "sha", "c", 1)
	if got := s.try(a).Verdict; got != OK {
		t.Errorf("by SHA-256: %s", got)
	}
}

// TestForgettingNeverLetsAReplayIn fills the table of uses far beyond its size.
func TestForgettingNeverLetsAReplayIn(t *testing.T) {
	var u uses
	u.init()
	now := time.Unix(1e9, 0)
	id := func(i int) (n nonceID) {
		s := uint32(1e9) + uint32(i/100)
		n[0], n[1], n[2], n[3] = byte(s>>24), byte(s>>16), byte(s>>8), byte(s)
		n[10], n[11], n[12] = byte(i), byte(i>>8), byte(i>>16)
		return
	}
	for i := range 3 * maxUses {
		if !u.take(id(i), 1, false, 0, now) {
			t.Fatalf("new nonce %d refused", i)
		}
	}
	if len(u.table) > maxUses || len(u.order) > maxUses {
		t.Errorf("%d entries kept, bound is %d", len(u.table), maxUses)
	}
	for i := range 3 * maxUses {
		if u.take(id(i), 1, false, 0, now) {
			t.Fatalf("nonce %d taken twice", i)
		}
	}
}

func TestGuessingIsSlowedButThePhoneIsNot(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	s := newServer(t, c)
	from := func(source, password string) Verdict {
		a := s.answer(t, "201", password, 1)
		return s.Verify(register(a), "Authorization", "s0017.F", source, "", 0).Verdict
	}
	if got := from("10.0.0.5", "secret"); got != OK {
		t.Fatal(got)
	}
	for i := range 10 {
		if got := from("203.0.113.9", fmt.Sprint("guess", i)); got != Wrong {
			t.Fatal(got)
		}
	}
	s.Guard.Allow("201", "203.0.113.9") // the one look in ten seconds
	if got := from("203.0.113.9", "secret"); got != Wrong {
		t.Errorf("the right password was looked at after ten wrong ones: %s", got)
	}
	c.t = c.t.Add(11 * time.Second)
	if got := from("203.0.113.9", "secret"); got != OK {
		t.Errorf("a person who corrects the password stays out: %s", got)
	}
	// A botnet: one guess from each of many addresses.
	for i := range 20000 {
		s.Guard.Failed("201", fmt.Sprint("198.51.", i/256, ".", i%256))
	}
	s.Guard.Allow("201", "198.18.0.1")
	if s.Guard.Allow("201", "198.18.0.2") {
		t.Error("a stranger is looked at in the middle of an attack")
	}
	for range 20 {
		if got := from("10.0.0.5", "secret"); got != OK {
			t.Fatalf("the shop's own phone is locked out: %s", got)
		}
	}
	if got := s.Verify(register(s.answer(t, "202", "one", 1)), "Authorization", "s0017.F", "198.18.0.3", "", 0).Verdict; got != OK {
		t.Errorf("another user pays for it: %s", got)
	}
}

// TestWorkIsTheSameForUnknownUsers compares medians of interleaved runs: the
// hash for a user who is not there costs as much as the real one.
func TestWorkIsTheSameForUnknownUsers(t *testing.T) {
	s := newServer(t, &clock{time.Unix(1e9, 0)})
	long := strings.Repeat("x", 8<<10) // makes the hash the main thing
	took := map[string][]time.Duration{}
	for range 400 {
		for _, user := range []string{"201", "991"} {
			ch, _ := ParseChallenge(s.Challenge("s0017.F", Result{}))
			auth, _ := ch.Answer("REGISTER", "sip:"+long, user, "x", "c", 1)
			req := register(auth)
			begin := time.Now()
			s.Verify(req, "Authorization", "s0017.F", "192.0.2.1", "", 0)
			took[user] = append(took[user], time.Since(begin))
		}
	}
	median := func(user string) time.Duration { slices.Sort(took[user]); return took[user][200] }
	if k, u := median("201"), median("991"); k > 2*u || u > 2*k {
		t.Errorf("%s for a known user, %s for an unknown one", k, u)
	}
}

func FuzzParseCredentials(f *testing.F) {
	f.Add(`Digest username="201", realm="x", nonce="n", uri="sip:a", response="r", qop=auth, nc=00000001, cnonce="c"`)
	f.Add(`Digest username="a\"b",realm="",nonce=,uri="`)
	f.Add("digest\t,,,username = x")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCredentials(s)
		if err == nil && (c.Username == "" || c.Response == "" || c.QOP != "" && len(c.NC) != 8) {
			t.Fatalf("%q: %+v", s, c)
		}
		if ch, err := ParseChallenge(s); err == nil && ch.Known() {
			a, err := ch.Answer("REGISTER", "sip:x", "user", "p", "c", 1)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := ParseCredentials(a); ch.Realm != "" && (err != nil || back.Nonce != ch.Nonce || back.Realm != ch.Realm) {
				t.Fatalf("%q answered by %q: %v", s, a, err)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	s := newServer(b, &clock{time.Unix(1e9, 0)})
	var reqs []*sip.Request
	for range 1000 {
		reqs = append(reqs, register(s.answer(b, "201", "secret", 1)))
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		s.Verify(reqs[i%1000], "Authorization", "s0017.F", "192.0.2.1", "", 7)
		i++
	}
}

// A clock that is set back locks nobody out, and lets no replay in.
func TestClockSetBack(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	s := newServer(t, c, func(cfg *Config) { cfg.Shared = time.Minute })
	early := s.answer(t, "201", "secret", 1)
	if got := s.try(early).Verdict; got != OK {
		t.Fatalf("before: %s", got)
	}
	for i := range maxUses + 10 {
		c.t = c.t.Add(time.Second)
		if got := s.try(s.answer(t, "201", "secret", 1)).Verdict; got != OK {
			t.Fatalf("use %d: %s", i, got)
		}
	}
	c.t = time.Unix(1_800_000_000, 0)
	if got := s.try(s.answer(t, "201", "secret", 1)).Verdict; got != OK {
		t.Errorf("after the clock was set back: %s", got)
	}
	if got := s.try(early).Verdict; got != Stale {
		t.Errorf("a replay: %s", got)
	}
}
