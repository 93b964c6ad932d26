package lab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/phonetest"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// A freshPhone is a Yealink as it comes out of its box: it has a MAC, a cable,
// and trusts nobody.
type freshPhone struct {
	t    *testing.T
	host *labkit.Host
	mac  string // plain
}

// ask sends a Yealink's SUBSCRIBE to everybody and returns the URL in the
// NOTIFY, which it acknowledges.
func (p *freshPhone) ask(within time.Duration) (url string, err error) {
	p.t.Helper()
	c, err := p.host.Listen(0)
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	me, id := c.LocalAddr().String(), fmt.Sprint(time.Now().UnixNano())
	m := "SUBSCRIBE sip:MAC%3A" + p.mac + "@224.0.1.75 SIP/2.0\r\nVia: SIP/2.0/UDP " + me + ";branch=z9hG4bK" + id + "\r\n" +
		"From: <sip:MAC%3A" + p.mac + "@224.0.1.75>;tag=1\r\nTo: <sip:MAC%3A" + p.mac + "@224.0.1.75>\r\nCall-ID: " + id + "@" + me + "\r\nCSeq: 1 SUBSCRIBE\r\n" +
		"Contact: <sip:MAC%3A" + p.mac + "@" + me + ">\r\nMax-Forwards: 70\r\nExpires: 0\r\n" +
		"Event: ua-profile;profile-type=\"device\";vendor=\"Yealink\";model=\"SIP-T46U\";version=\"108.86.0.20\"\r\n" +
		"Accept: application/url\r\nContent-Length: 0\r\n\r\n"
	if _, err := c.WriteToUDPAddrPort([]byte(m), netip.MustParseAddrPort("224.0.1.75:5060")); err != nil {
		p.t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(within))
	for {
		var b [2000]byte
		n, from, err := c.ReadFromUDPAddrPort(b[:])
		if err != nil {
			return "", err
		}
		head, body, _ := strings.Cut(string(b[:n]), "\r\n\r\n")
		if !strings.HasPrefix(head, "NOTIFY ") {
			if !strings.HasPrefix(head, "SIP/2.0 200 ") {
				p.t.Fatalf("SUBSCRIBE was answered\n%s", head)
			}
			continue
		}
		ok := "SIP/2.0 200 OK\r\n"
		for line := range strings.SplitSeq(head, "\r\n") {
			if name, _, _ := strings.Cut(line, ":"); strings.Contains(" Via From To Call-ID CSeq ", " "+name+" ") {
				ok += line + "\r\n"
			}
		}
		if _, err := c.WriteToUDPAddrPort([]byte(ok+"Content-Length: 0\r\n\r\n"), from); err != nil {
			p.t.Fatal(err)
		}
		return strings.TrimSpace(body), nil
	}
}

// fetch is a GET of a phone that trusts roots alone.
func (p *freshPhone) fetch(url string, roots *x509.CertPool) (int, string, error) {
	p.t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, addr string) (net.Conn, error) { return p.host.Dial(network, addr) }}
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		p.t.Fatalf("fetch %q: %v", url, err)
	}
	req.Header.Set("User-Agent", "Yealink SIP-T46U 108.86.0.20 "+p.mac)
	res, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

// must is fetch of what has to be there, as a Yealink's settings.
func (p *freshPhone) must(url string, roots *x509.CertPool) map[string]string {
	p.t.Helper()
	status, text, err := p.fetch(url, roots)
	if err != nil || status != http.StatusOK {
		p.t.Fatalf("fetch %s: %d, %v", url, status, err)
	}
	said := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, " = "); ok && !strings.HasPrefix(line, "#") {
			said[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	return said
}

// refused is a fetch that must get nothing.
func (p *freshPhone) refused(what, url string, roots *x509.CertPool) {
	p.t.Helper()
	if status, text, err := p.fetch(url, roots); err != nil || status != http.StatusNotFound {
		p.t.Errorf("%s: %d, %v, want 404\n%s", what, status, err, text)
	}
}

// telephone is what the settings make of the phone.
func (p *freshPhone) telephone(said map[string]string) *phonetest.Phone {
	p.t.Helper()
	cfg := phonetest.Config{User: said["account.1.user_name"], AuthUser: said["account.1.auth_name"], Password: said["account.1.password"],
		Name: said["account.1.display_name"], Local: p.host.Addr, Tone: 1000, Listen: on(p.host)}
	for _, i := range []string{"1", "2"} {
		at, err := netip.ParseAddrPort(said["account.1.sip_server."+i+".address"] + ":" + said["account.1.sip_server."+i+".port"])
		if err != nil {
			p.t.Fatalf("server %s: %v", i, err)
		}
		cfg.Servers = append(cfg.Servers, at)
	}
	seconds, err := strconv.Atoi(said["account.1.sip_server.1.expires"])
	if err != nil {
		p.t.Fatal(err)
	}
	cfg.Expires = time.Duration(seconds) * time.Second
	ph, err := phonetest.New(cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { ph.Close() })
	return ph
}

// on binds a telephone's sockets at a host.
func on(h *labkit.Host) func(netip.AddrPort) (edge.PacketConn, error) {
	return func(at netip.AddrPort) (c edge.PacketConn, err error) {
		err = h.Do(func() error {
			c, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
			return err
		})
		return c, err
	}
}

// clockOf asks a node the time as a phone does (RFC 4330 §5).
func clockOf(t *testing.T, h *labkit.Host, server string) (now time.Time, stratum byte) {
	t.Helper()
	c, err := h.Dial("udp", server+":123")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	ask := make([]byte, 48)
	ask[0] = 3<<3 | 3 // version 3, client
	copy(ask[40:], "original")
	if _, err := c.Write(ask); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil || n != 48 || b[0]&7 != 4 || string(b[24:32]) != "original" {
		t.Fatalf("time of %s: % x, %v", server, b[:n], err)
	}
	return time.Unix(int64(binary.BigEndian.Uint32(b[40:]))-2208988800, 0), b[1]
}

// A phone out of its box, beside a pair: it finds a node by itself, learns
// whom to trust, fetches its settings and rings.
func TestPhoneOutOfItsBox(t *testing.T) {
	l := labkit.New(t, "a")
	a1 := found(l, "a", "a1")
	a2 := join(l, "a", "a2", a1)
	u := a1.User("201", "--name", "Till 1")
	ua := a1.User("202")
	a1.Must("shop", "create", "the shop", "--zone", "Europe/Paris")
	l.AwaitSettled(15*time.Second, a1, a2)
	p := &freshPhone{t, l.Host("a", "till"), "001565aabbcc"}
	file := "http://" + a1.Host.Addr.String() + ":8086/p/" + p.mac + ".cfg"
	nobody := x509.NewCertPool()

	// Nobody knows it: it is seen, and gets nothing, by multicast or by address.
	if url, err := p.ask(500 * time.Millisecond); err == nil {
		t.Fatalf("a stranger was told %q", url)
	}
	p.refused("a stranger's first file", file, nobody)
	var seen []api.SeenPhone
	a1.JSON(&seen, "phone", "seen")
	if len(seen) != 1 || seen[0].Kind != "yealink" || seen[0].Model != "SIP-T46U" || seen[0].Phone != "" || seen[0].Addr != p.host.Addr.String() {
		t.Fatalf("seen %+v", seen)
	}

	// It is adopted: vendor and model are what it said. Still nothing, for
	// nobody opened the window.
	var rec site.Phone
	a1.JSON(&rec, "phone", "adopt", p.mac, "--lines", "201", "--name", "till 1")
	if rec.Vendor != "yealink" || rec.Model != "SIP-T46U" || rec.MAC != "00:15:65:aa:bb:cc" {
		t.Fatalf("adopted %+v", rec)
	}
	if url, err := p.ask(500 * time.Millisecond); err == nil {
		t.Fatalf("with the window closed it was told %q", url)
	}
	p.refused("its first file with the window closed", file, nobody)

	var w, w2 api.PhoneWindow
	a1.JSON(&w, "phone", "window", "open", "--for", "5m")
	l.Within(2*time.Second, "the window is open at the other box", func() bool {
		a2.JSON(&w2, "phone", "window", "show")
		return w2.Open
	})
	if !w.Open || w.CA == "" || w.CA != w2.CA {
		t.Errorf("windows %+v and %+v", w, w2)
	}

	begun := time.Now()
	url, err := p.ask(2 * time.Second)
	if err != nil {
		t.Fatalf("nobody told the phone: %v", err)
	}
	if other := strings.Replace(file, a1.Host.Addr.String(), a2.Host.Addr.String(), 1); url != file && url != other {
		t.Errorf("it was told %q, want %q or %q", url, file, other)
	}
	first := p.must(url, nobody)
	oneTime := first["static.auto_provision.server.url"]
	status, ca, err := p.fetch(first["static.trusted_certificates.url"], nobody)
	if err != nil || status != http.StatusOK || ca != w.CA {
		t.Fatalf("the CA: %d, %v\n%s", status, err, ca)
	}
	for k, v := range first {
		if strings.Contains(v, u.Devices[0].Password) {
			t.Errorf("%s holds the password, over plain HTTP", k)
		}
	}
	// A phone that trusts another CA hangs up, and the URL is not used up.
	var unknown x509.UnknownAuthorityError
	if _, _, err := p.fetch(oneTime, nobody); !errors.As(err, &unknown) {
		t.Fatalf("a phone that trusts nobody got %v", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca))
	said := p.must(oneTime, roots)
	ph := p.telephone(said)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := ph.Register(ctx); err != nil {
		t.Fatalf("REGISTER with what the file says: %v", err)
	}
	took := time.Since(begun)
	t.Logf("from SUBSCRIBE to registered: %v", took)
	if took > 5*time.Second {
		t.Errorf("from SUBSCRIBE to registered: %v, want 5 s", took)
	}
	if said["account.1.sip_server.1.address"] == said["account.1.sip_server.2.address"] || said["local_time.time_zone"] != "+1" || said["local_time.summer_time"] != "1" {
		t.Errorf("settings %v", said)
	}

	// It rings.
	ana := registered(t, l.Host("a", "desk"), a2.Account(ua, 120), 440)
	mark := ana.Mark()
	ana.Dial("201")
	select {
	case in := <-ph.Incoming():
		if err := in.Answer(ctx); err != nil {
			t.Fatal(err)
		}
		ana.Await(mark, "CALL_ESTABLISHED", 5*time.Second)
		if err := in.Hears(ctx, 440); err != nil {
			t.Error(err)
		}
		if err := in.Hangup(ctx); err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the phone does not ring")
	}

	// Both nodes tell it the time.
	for _, k := range []string{"local_time.ntp_server1", "local_time.ntp_server2"} {
		at, stratum := clockOf(t, p.host, said[k])
		if d := time.Since(at).Abs(); d > 2*time.Second || stratum < 3 || stratum > 11 {
			t.Errorf("%s is %v off, stratum %d", said[k], d, stratum)
		}
	}

	// The one-time URL is used up; the secret one is good at either node, with
	// the window closed, too.
	p.refused("the one-time URL again", oneTime, roots)
	a1.Must("phone", "window", "close")
	p.refused("its first file after the window", file, nobody)
	again := said["static.auto_provision.server.url"]
	if got := p.must(again, roots); got["account.1.password"] != u.Devices[0].Password {
		t.Error("the next boot brings another password")
	}
	for _, box := range []*labkit.Node{a1, a2} {
		p.must(strings.NewReplacer(a1.Host.Addr.String()+":", box.Host.Addr.String()+":", a2.Host.Addr.String()+":", box.Host.Addr.String()+":").Replace(again), roots)
	}
	p.refused("another phone's file by this one's secret", strings.Replace(again, p.mac, "001565aabbcd", 1), roots)

	gave := a1 // whichever box answered first
	if strings.Contains(oneTime, a2.Host.Addr.String()+":") {
		gave = a2
	}
	gave.JSON(&seen, "phone", "seen")
	if len(seen) != 1 || seen[0].Phone != "till 1" || seen[0].Fetched == nil {
		t.Errorf("seen %+v", seen)
	}
}
