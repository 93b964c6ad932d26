package provision

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/sipcore/message"

	"github.com/emiago/sipgo/sip"
)

// A device is a phone with nothing in it but its MAC.
type device struct {
	t   testing.TB
	mac MAC
	c   *net.UDPConn
}

func newDevice(t testing.TB, m MAC) *device {
	c := udp(t)
	t.Cleanup(func() { c.Close() })
	return &device{t, m, c}
}

// subscribe asks where the settings are, as a Snom does.
func (d *device) subscribe(group netip.AddrPort) (callID string) {
	d.t.Helper()
	at := d.c.LocalAddr().String()
	callID = "1930770594" + strconv.Itoa(int(time.Now().UnixNano()%1e9)) + "@127.0.0.1"
	m := "SUBSCRIBE sip:MAC%3a" + strings.ToUpper(d.mac.Plain()) + "@intern.snom.de SIP/2.0\r\n" +
		"Via: SIP/2.0/UDP " + at + ";rport\r\n" +
		"From: <sip:MAC%3a" + d.mac.Plain() + "@intern.snom.de>;tag=658512961\r\n" +
		"To: <sip:MAC%3a" + d.mac.Plain() + "@intern.snom.de>\r\n" +
		"Call-ID: " + callID + "\r\nCSeq: 1 SUBSCRIBE\r\n" +
		"Event: ua-profile;profile-type=\"device\";vendor=\"snom\";model=\"snomD785\";version=\"10.1.1\"\r\n" +
		"Expires: 0\r\nAccept: application/url\r\nContact: <sip:" + at + ">\r\nContent-Length: 0\r\n\r\n"
	if _, err := d.c.WriteToUDPAddrPort([]byte(m), group); err != nil {
		d.t.Fatal(err)
	}
	return callID
}

// told waits for 200 and NOTIFY, reads both strictly and returns the URL.
func (d *device) told(callID string, within time.Duration) (url string, err error) {
	d.t.Helper()
	d.c.SetReadDeadline(time.Now().Add(within))
	accepted := false
	for {
		var b [2000]byte
		n, from, err := d.c.ReadFromUDPAddrPort(b[:])
		if err != nil {
			return "", err
		}
		m, fault := message.Parse(append([]byte(nil), b[:n]...), false)
		if m == nil {
			// The phone's own Via has no branch, which the strict reader
			// wants; put one in to read the rest strictly.
			fixed := strings.Replace(string(b[:n]), "Via: SIP/2.0/UDP "+d.c.LocalAddr().String(), "Via: SIP/2.0/UDP "+d.c.LocalAddr().String()+";branch=z9hG4bKx", 1)
			if m, fault = message.Parse([]byte(fixed), false); m == nil {
				d.t.Fatalf("%v in\n%s", fault, b[:n])
			}
		}
		switch m := m.(type) {
		case *sip.Response:
			if m.StatusCode != 200 || message.Get(m, "Call-ID") != callID {
				d.t.Fatalf("answered %s", m.StartLine())
			}
			if !strings.Contains(message.Get(m, "Via"), "received=127.0.0.1") {
				d.t.Errorf("Via %q", message.Get(m, "Via"))
			}
			accepted = true
		case *sip.Request:
			if m.Method != sip.NOTIFY || message.Get(m, "Call-ID") != callID || message.Get(m, "Content-Type") != "application/url" ||
				!strings.HasPrefix(message.Get(m, "Event"), "ua-profile") || !strings.HasPrefix(message.Get(m, "Subscription-State"), "terminated") {
				d.t.Fatalf("notified\n%s", m)
			}
			url = string(m.Body())
			ok := message.NewResponse(m, 200, "", "")
			if _, err := d.c.WriteToUDPAddrPort([]byte(ok.String()), from); err != nil {
				return "", err
			}
		}
		if accepted && url != "" {
			return url, nil
		}
	}
}

// get fetches as a phone does that trusts roots and names itself.
func get(t testing.TB, url string, roots *x509.CertPool, agent string) (int, []byte, error) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", agent)
	res, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		return 0, nil, err
	}
	return res.StatusCode, body(t, res), nil
}

// first fetches the first file and what it points to.
func first(t testing.TB, k Kind, url string) (ca []byte, oneTime string) {
	t.Helper()
	status, text, err := get(t, url, x509.NewCertPool(), "Test/1")
	if err != nil || status != 200 {
		t.Fatalf("first file: %d, %v", status, err)
	}
	said := read(t, File{Body: text}, k)
	caURL := said["static.trusted_certificates.url"]
	oneTime = said["static.auto_provision.server.url"]
	if k == Snom {
		caURL, oneTime = said["certificate"], said["setting_server"]
	}
	if status, ca, err = get(t, caURL, x509.NewCertPool(), "Test/1"); err != nil || status != 200 {
		t.Fatalf("CA at %q: %d, %v", caURL, status, err)
	}
	return ca, oneTime
}

// pool is what a phone trusts that was given ca.
func pool(t testing.TB, k Kind, ca []byte) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	if k == Snom {
		c, err := x509.ParseCertificate(ca)
		if err != nil {
			t.Fatal(err)
		}
		p.AddCert(c)
	} else if !p.AppendCertsFromPEM(ca) {
		t.Fatal("no PEM certificate")
	}
	return p
}

func TestPhoneBoots(t *testing.T) {
	for _, k := range []Kind{Yealink, Snom} {
		t.Run(string(k), func(t *testing.T) {
			p := sample(t, k)
			r := newRig(t, p)
			if _, err := r.Open(15 * time.Minute); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			d := newDevice(t, p.MAC)
			url, err := d.told(d.subscribe(r.group), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			ca, oneTime := first(t, k, url)
			agent := "Yealink SIP-T46U 108.86.0.20 " + p.MAC.String()

			// Another CA than ours: the phone hangs up, and nothing is used up.
			other, _ := authority(t)
			strangers := x509.NewCertPool()
			strangers.AppendCertsFromPEM(other)
			var unknown x509.UnknownAuthorityError
			if _, _, err := get(t, oneTime, strangers, agent); !errors.As(err, &unknown) {
				t.Fatalf("a phone that trusts another CA got %v", err)
			}

			status, text, err := get(t, oneTime, pool(t, k, ca), agent)
			if err != nil || status != 200 {
				t.Fatalf("settings: %d, %v", status, err)
			}
			took := time.Since(began)
			if took > 5*time.Second {
				t.Errorf("boot took %v", took)
			}
			t.Logf("from SUBSCRIBE to settings: %v", took)
			settings := read(t, File{Body: text}, k)
			if got := settings[said[k].password]; got != p.Lines[0].Password {
				t.Errorf("password %q", got)
			}

			// The next boot, long after the window: the secret URL, and never
			// the one-time URL again.
			r.pass(48 * time.Hour)
			again := settings["static.auto_provision.server.url"] + settings["setting_server"]
			if status, _, err := get(t, again, pool(t, k, ca), agent); err != nil || status != 200 {
				t.Errorf("next boot: %d, %v", status, err)
			}
			if status, _, _ := get(t, oneTime, pool(t, k, ca), agent); status != 404 {
				t.Errorf("one-time URL two days later: %d", status)
			}
			st := r.Stats()
			if st.PnP != 1 || st.First != 1 || st.Full != 1 || st.Again != 1 {
				t.Errorf("counted %+v", st)
			}
			if seen := r.Seen(); len(seen) != 1 || !seen[0].Adopted || seen[0].Fetched.IsZero() {
				t.Errorf("seen %+v", seen)
			}
		})
	}
}

func TestNotifyIsRepeatedUntilAnswered(t *testing.T) {
	p := sample(t, Snom)
	r := newRig(t, p)
	r.Open(time.Minute)
	d := newDevice(t, p.MAC)
	id := d.subscribe(r.group)
	notifies := 0
	d.c.SetReadDeadline(time.Now().Add(5 * time.Second))
	for notifies < 2 {
		var b [2000]byte
		n, _, err := d.c.ReadFromUDPAddrPort(b[:])
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(string(b[:n]), "NOTIFY ") {
			notifies++
		}
	}
	if _, err := d.told(id, 50*time.Millisecond); err == nil {
		t.Error("200 sent twice without being asked twice")
	}
}

// decided waits until the node has made up its mind about one more question,
// and returns what it counted.
func decided(t *testing.T, r *rig, d *device) Stats {
	t.Helper()
	before := r.Stats()
	d.subscribe(r.group)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); runtime.Gosched() {
		if st := r.Stats(); st != before {
			return st
		}
	}
	t.Fatal("the question was not heard")
	return Stats{}
}

func TestStrangerIsSeenAndNotAnswered(t *testing.T) {
	r := newRig(t)
	m := mac(t, "001565000009")
	d := newDevice(t, m)
	r.Open(time.Minute)
	if st := decided(t, r, d); st != (Stats{Unknown: 1}) {
		t.Errorf("counted %+v", st)
	}
	seen := r.Seen()
	if len(seen) != 1 {
		t.Fatalf("seen %+v", seen)
	}
	if s := seen[0]; s.MAC != m || s.Adopted || s.Model != "snomD785" || s.Vendor != "snom" || s.Version != "10.1.1" || s.Addr != addr("127.0.0.1") {
		t.Errorf("seen %+v", s)
	}
}

func TestNoAnswerOutsideTheWindow(t *testing.T) {
	p, q := sample(t, Snom), sample(t, Snom)
	q.MAC = mac(t, "000413000001")
	r := newRig(t, p, q)
	d := newDevice(t, p.MAC)
	if st := decided(t, r, d); st != (Stats{Closed: 1}) {
		t.Errorf("never opened: counted %+v", st)
	}
	r.Open(time.Minute, q.MAC)
	if st := decided(t, r, d); st != (Stats{Closed: 2}) {
		t.Errorf("open for another: counted %+v", st)
	}
	r.Open(time.Minute)
	r.pass(time.Minute)
	if st := decided(t, r, d); st != (Stats{Closed: 3}) {
		t.Errorf("expired: counted %+v", st)
	}
	r.Open(time.Minute)
	if st := decided(t, r, d); st != (Stats{Closed: 3, PnP: 1}) {
		t.Errorf("open: counted %+v", st)
	}
}

func TestMulticastOnThisHost(t *testing.T) {
	ifs, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, ifi := range ifs {
		if ifi.Flags&net.FlagMulticast == 0 || ifi.Flags&net.FlagUp == 0 || ifi.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, _ := ifi.Addrs()
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok || n.IP.To4() == nil {
				continue
			}
			ip, _ := netip.AddrFromSlice(n.IP.To4())
			group, own, err := ListenPnP(&ifi, ip)
			if err != nil {
				t.Skipf("no multicast here: %v", err)
			}
			defer group.Close()
			defer own.Close()
			from, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(ip, 0).String())
			if err != nil {
				t.Fatal(err)
			}
			defer from.Close()
			if _, err := from.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(Group)); err != nil {
				t.Skipf("multicast cannot be sent here: %v", err)
			}
			group.(*net.UDPConn).SetReadDeadline(time.Now().Add(time.Second))
			var b [10]byte
			if n, _, err := group.ReadFromUDPAddrPort(b[:]); err != nil || string(b[:n]) != "hello" {
				t.Errorf("heard %q, %v", b[:n], err)
			}
			return
		}
	}
	t.Skip("no network with multicast on this host")
}

func TestSubscribeDialects(t *testing.T) {
	for name, c := range map[string]struct {
		m    string
		want string
	}{
		"Snom":          {"SUBSCRIBE sip:MAC%3a00135E874B48@intern.snom.de SIP/2.0\nVia: SIP/2.0/UDP 192.168.10.67:5060;rport\nFrom: <sip:MAC%3a00135E874B48@intern.snom.de>;tag=1\nTo: <sip:MAC%3a00135E874B48@intern.snom.de>\nCall-ID: a@b\nCSeq: 1 SUBSCRIBE\nEvent: ua-profile;profile-type=\"device\";vendor=\"OEM\";model=\"D785\";version=\"7.1.19\"\nContact: <sip:192.168.10.67:5060>\n\n", "00:13:5e:87:4b:48 D785 5060"},
		"base":          {"SUBSCRIBE sip:MAC%3a000413600000@224.0.1.75 SIP/2.0\nv: SIP/2.0/UDP 10.0.0.90;branch=z9hG4bKl1\nf: <sip:512@10.0.0.90>;tag=d\nt: <sip:MAC%3a000413600000@224.0.1.75>\ni: x@10.0.0.90\nCSeq: 20264 SUBSCRIBE\nm: <sip:512@10.0.0.90:5071>\no: ua-profile;model=\"snomM700\"\n\n", "00:04:13:60:00:00 snomM700 5071"},
		"equals":        {"SUBSCRIBE sip:224.0.1.75 SIP/2.0\nVia: SIP/2.0/UDP 192.168.1.45:5060;branch=z9hG4bK3\nFrom: <sip:MAC=00304fa99948@224.0.1.75>\nTo: <sip:MAC=00304fa99948@224.0.1.75>\nCall-ID: c\nCSeq: 1 SUBSCRIBE\nContact: <sip:192.168.1.45:5060>\nEvent:ua-profile;profile-type=\"device\";\n model=\"VIP\"\n\n", "00:30:4f:a9:99:48 VIP 5060"},
		"in agent":      {"SUBSCRIBE sip:224.0.1.75:5060 SIP/2.0\nVia: SIP/2.0/UDP 10.13.2.37:5060;rport;branch=z9hG4bK-3\nFrom: <sip:00000001@10.13.2.37:5060>;tag=8\nTo: <sip:224.0.1.75:5060>\nCall-ID: d\nCSeq: 1 SUBSCRIBE\nEvent: ua-profile;model=\"420HD\"\nUser-Agent: M700/03 (MAC=00908F123456; SER=0)\n\n", "00:90:8f:12:34:56 420HD 0"},
		"another event": {"SUBSCRIBE sip:MAC%3a00135E874B48@x SIP/2.0\nVia: SIP/2.0/UDP 1.2.3.4\nFrom: <sip:a@b>\nTo: <sip:a@b>\nCall-ID: a\nCSeq: 1 SUBSCRIBE\nEvent: dialog\n\n", "no"},
		"NOTIFY":        {"NOTIFY sip:MAC%3a00135E874B48@x SIP/2.0\nVia: SIP/2.0/UDP 1.2.3.4\nFrom: <sip:a@b>\nTo: <sip:a@b>\nCall-ID: a\nCSeq: 1 NOTIFY\nEvent: ua-profile\n\n", "no"},
		"TCP":           {"SUBSCRIBE sip:MAC%3a00135E874B48@x SIP/2.0\nVia: SIP/2.0/TCP 1.2.3.4\nFrom: <sip:a@b>\nTo: <sip:a@b>\nCall-ID: a\nCSeq: 1 SUBSCRIBE\nEvent: ua-profile\n\n", "no"},
		"two Via":       {"SUBSCRIBE sip:MAC%3a00135E874B48@x SIP/2.0\nVia: SIP/2.0/UDP 1.2.3.4\nVia: SIP/2.0/UDP 1.2.3.4\nFrom: <sip:a@b>\nTo: <sip:a@b>\nCall-ID: a\nCSeq: 1 SUBSCRIBE\nEvent: ua-profile\n\n", "no"},
		"no end":        {"SUBSCRIBE sip:MAC%3a00135E874B48@x SIP/2.0", "no"},
	} {
		s, err := parseSubscribe([]byte(strings.ReplaceAll(c.m, "\n", "\r\n")))
		got := "no"
		if err == nil && s.named {
			got = fmt.Sprint(s.mac, " ", s.model, " ", s.contact)
		}
		if got != c.want {
			t.Errorf("%s: %s (%v), want %s", name, got, err, c.want)
		}
	}
}

func FuzzSubscribe(f *testing.F) {
	f.Add([]byte("SUBSCRIBE sip:MAC%3a00135E874B48@x SIP/2.0\r\nVia: SIP/2.0/UDP 1.2.3.4;rport\r\nFrom: <sip:a@b>\r\nTo: <sip:a@b>\r\nCall-ID: a\r\nCSeq: 1 SUBSCRIBE\r\nEvent: ua-profile;model=x\r\nContact: <sip:1@1.2.3.4:70>\r\n\r\n"))
	f.Add([]byte("SIP/2.0 200 OK\r\nCall-ID: a\r\nCSeq: 1 NOTIFY\r\n\r\n"))
	src, own := netip.MustParseAddrPort("192.168.1.50:5062"), netip.MustParseAddrPort("192.168.1.11:40000")
	f.Fuzz(func(t *testing.T, b []byte) {
		acknowledged(b)
		s, err := parseSubscribe(b)
		if err != nil {
			return
		}
		n := s.answer(src, own, "tag", "branch", "http://192.168.1.11/p/x")
		if n.to.Addr() != src.Addr() || n.notifyTo.Addr() != src.Addr() || n.to.Port() == 0 || n.notifyTo.Port() == 0 {
			t.Fatalf("answer goes to %v and %v", n.to, n.notifyTo)
		}
		for _, m := range [][]byte{n.accept, n.notify} {
			if _, headers, err := splitMessage(m); err == nil && len(headers) > 12 {
				t.Fatalf("a value made headers of its own:\n%s", m)
			}
		}
	})
}
