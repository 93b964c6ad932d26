package box

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/sipcore/phonetest"
)

// options asks a SIP server over UDP whether it is there (RFC 3261 §11).
func options(to netip.Addr, wait time.Duration) error {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 5060)))
	if err != nil {
		return err
	}
	defer c.Close()
	me := c.LocalAddr().String()
	fmt.Fprintf(c, "OPTIONS sip:%s SIP/2.0\r\nVia: SIP/2.0/UDP %s;rport;branch=z9hG4bK%d\r\nMax-Forwards: 70\r\nFrom: <sip:probe@%s>;tag=1\r\nTo: <sip:%s>\r\n"+
		"Call-ID: %d@%s\r\nCSeq: 1 OPTIONS\r\nContact: <sip:probe@%s>\r\nContent-Length: 0\r\n\r\n", to, me, time.Now().UnixNano(), me, to, time.Now().UnixNano(), me, me)
	_ = c.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(b[:n]), "SIP/2.0 200") {
		return fmt.Errorf("OPTIONS was answered %.40q", b[:n])
	}
	return nil
}

// phone makes a telephone for a user of the box.
func (b *box) phone(u api.User, password string) *phonetest.Phone {
	b.t.Helper()
	p, err := phonetest.New(phonetest.Config{User: u.Number, AuthUser: u.Devices[0].SIPUser, Password: password, Domain: b.status().Fleet.Domain,
		Servers: []netip.AddrPort{netip.AddrPortFrom(b.ip, 5060)}, Local: address(b.t), Tone: 440})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { p.Close() })
	return p
}

// user creates a user; the answer has the phone's password.
func (b *box) user(number string) api.User {
	b.t.Helper()
	u, err := ask[api.User](b, "POST", "/users", api.NewUser{Number: number, Name: "User " + number})
	if err != nil {
		b.t.Fatal(err)
	}
	return u
}

func TestAnEmptyMachineIsReadyForPhonesInTwoSeconds(t *testing.T) {
	b := newBox(t)
	begun := time.Now()
	b.start()
	for options(b.ip, 20*time.Millisecond) != nil {
		if time.Since(begun) > 10*time.Second {
			t.Fatalf("no OPTIONS is answered:\n%s", b.out.String())
		}
	}
	took := time.Since(begun)
	t.Logf("founded and answering OPTIONS after %d ms", took.Milliseconds())
	if took > 2*time.Second {
		t.Errorf("ready after %v, want 2 s", took)
	}
	b.ready(5 * time.Second)
	said := b.out.String()
	has(t, "the first start", said, "founded", b.ip.String()+" port 5060", "recovery show", "user create", "invite create", "status")
	if n := len(regexp.MustCompile(`(?m)^\d\. `).FindAllString(said, -1)); n != 5 {
		t.Errorf("%d lines of what to do next, want 5:\n%s", n, said)
	}
	// What the lines say can be done as they say it.
	for _, line := range regexp.MustCompile(`ccnode (--data \S+ .*)`).FindAllStringSubmatch(said, -1) {
		words := strings.Fields(regexp.MustCompile(`\s{2,}.*`).ReplaceAllString(line[1], ""))
		if a := run(t, words...); a.code != 0 {
			t.Errorf("the advice %q: exit %d: %s", strings.Join(words, " "), a.code, a.err)
		}
	}
	if us := as[[]api.User](b, "user", "list"); len(us) != 1 || us[0].Extension != "201" {
		t.Errorf("the advice made %+v", us)
	}
}

func TestARestartGoesOnAsItWas(t *testing.T) {
	b := newBox(t)
	b.up("--site", "0042", "--domain", "shops.example")
	u := b.user("201")
	p := b.phone(u, u.Devices[0].Password)
	if err := p.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := b.status()
	if code := b.term(); code != 0 {
		t.Errorf("SIGTERM: exit %d\n%s", code, b.out.String())
	}
	begun := time.Now()
	b.up("--site", "0099", "--domain", "other.example") // only the first start founds
	took := time.Since(begun)
	after := b.status()
	if after.Node.ID != before.Node.ID || after.Fleet.ID != before.Fleet.ID || after.Node.SiteCode != "0042" || after.Fleet.Domain != "shops.example" ||
		after.Node.Cert != before.Node.Cert || after.Users != 1 {
		t.Errorf("it came back as %+v %+v, was %+v %+v", after.Node, after.Fleet, before.Node, before.Fleet)
	}
	for i, s := range after.Scopes {
		if i >= len(before.Scopes) || s.Fingerprint != before.Scopes[i].Fingerprint {
			t.Errorf("scope %s: %v, was %v", s.Scope, s, before.Scopes)
		}
	}
	l := as[api.Location](b, "where", "201")
	if len(l.Contacts) != 1 || l.Contacts[0].Source != p.Addr().String() {
		t.Errorf("the binding was lost: %+v", l.Contacts)
	}
	has(t, "the second start", b.out.String(), "s0042.shops.example", "is up")
	t.Logf("restarted in %d ms", took.Milliseconds())
	// It rings without registering again.
	u2 := b.user("202")
	q := b.phone(u2, u2.Devices[0].Password)
	if err := q.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := q.DialStart(t.Context(), "201")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case in := <-p.Incoming():
		_ = in.Reject(486)
	case <-time.After(5 * time.Second):
		t.Error("the phone registered before the restart does not ring")
	}
	_ = c.Hangup(t.Context())
}

// A call in progress is ended properly, not left to be noticed.
func TestSIGTERMDrains(t *testing.T) {
	b := newBox(t)
	b.up()
	u1, u2 := b.user("201"), b.user("202")
	p1, p2 := b.phone(u1, u1.Devices[0].Password), b.phone(u2, u2.Devices[0].Password)
	for _, p := range []*phonetest.Phone{p1, p2} {
		if err := p.Register(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		if in := <-p2.Incoming(); in != nil {
			_ = in.Answer(t.Context())
		}
	}()
	c, err := p1.Dial(t.Context(), "202")
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if code := b.term(); code != 0 {
		t.Errorf("exit %d\n%s", code, b.out.String())
	}
	t.Logf("a call in progress held the stop up for %d ms", time.Since(begun).Milliseconds())
	select {
	case <-c.Done():
	case <-time.After(3 * time.Second):
		t.Error("the phone was not told that its call is over")
	}
	b.up()
	cs := as[[]api.Call](b, "calls", "--since", "1h")
	if len(cs) != 1 || cs[0].State != "ended" || cs[0].Answered == nil || cs[0].Ended == nil {
		t.Errorf("after the restart the record of the call is %+v", cs)
	}
}
