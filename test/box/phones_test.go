package box

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

// What another program has already is said, with what to do; calls do not
// depend on it.
func TestTakenPortsOfPhonesAreAWarning(t *testing.T) {
	b := newBox(t)
	web, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(b.ip, 8086)))
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	ntp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.ip, 123)))
	if err != nil {
		t.Skipf("UDP port 123 needs root: %v", err)
	}
	defer ntp.Close()
	b.up()
	said := strings.Join(b.status().Warnings, "\n")
	has(t, "status", said, "8086", "--provision-http-port", "UDP port 123 of "+b.ip.String(), "--ntp=false")
	if a := b.cli("phone", "window", "open"); a.code != 1 {
		t.Errorf("a window that is none: exit %d, %s", a.code, a.err)
	} else {
		has(t, "the refusal", a.err, "8086", "--provision-http-port")
	}
	u := b.user("201")
	if err := b.phone(u, u.Devices[0].Password).Register(t.Context()); err != nil {
		t.Errorf("calls are not served: %v", err)
	}
	b.term()

	// Elsewhere, and without the time, nothing is amiss.
	b.up("--provision-http-port", "8087", "--ntp=false")
	said = strings.Join(b.status().Warnings, "\n")
	if strings.Contains(said, "phones") || strings.Contains(said, "123") {
		t.Errorf("warnings: %s", said)
	}
	var w api.PhoneWindow
	decode(t, b.must("phone", "window", "open", "--for", "1m", "-o", "json"), &w)
	if want := "http://" + b.ip.String() + ":8087/p/"; len(w.URLs) != 1 || w.URLs[0] != want || !w.Open {
		t.Errorf("window %+v, want at %s", w, want)
	}
}

// Whoever holds connections open and says nothing keeps nobody else out, and
// himself not for long.
func TestSilentConnectionsDoNotKeepPhonesOut(t *testing.T) {
	b := newBox(t)
	b.up()
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for _, port := range []uint16{8086, 8446} {
		for range 150 {
			c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(b.ip, port)))
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, c)
		}
	}
	get := func(from netip.Addr) error {
		d := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		tr := &http.Transport{DisableKeepAlives: true, DialContext: d.DialContext}
		res, err := (&http.Client{Transport: tr, Timeout: time.Second}).Get("http://" + b.ip.String() + ":8086/p/001565aabbcc.cfg")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		if res.StatusCode != http.StatusNotFound {
			return fmt.Errorf("status %d", res.StatusCode)
		}
		return nil
	}
	if err := get(address(t)); err != nil {
		t.Errorf("another phone is kept out: %v", err)
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1}) // who holds them
	if get(loopback) == nil {
		t.Error("one address may hold as many connections as it likes")
	}
	begun := time.Now()
	eventually(t, 20*time.Second, func() error { return get(loopback) })
	t.Logf("the same address was answered after %v", time.Since(begun).Round(100*time.Millisecond))
	if seen := as[[]api.SeenPhone](b, "phone", "seen"); len(seen) != 1 || seen[0].Times != 2 {
		t.Errorf("seen %+v", seen)
	}
}

func TestWhatPeopleSayOfPhonesIsChecked(t *testing.T) {
	b := newBox(t)
	b.up()
	b.user("201")
	for _, c := range []struct {
		words string
		code  int
		says  string
	}{
		{"phone adopt 001565 --vendor yealink --lines 201", 1, "MAC"},
		{"phone adopt 001565aabbcc --vendor cisco --lines 201", 1, "yealink"},
		{"phone adopt 001565aabbcc --vendor yealink --lines 299", 1, "299"},
		{"phone adopt 001565aabbcc --lines 201", 2, "--vendor"},
		{"phone adopt 001565aabbcc --vendor yealink", 2, "--lines"},
		{"phone create x --mac 001565aabbcc --vendor yealink --lines 201 --keys [{\"type\":\"wrong\",\"value\":\"1\"}]", 1, "blf"},
		{"phone adopt 001565aabbcc --vendor yealink --lines 201", 0, ""},
		{"phone adopt 00-15-65-AA-BB-CC --vendor yealink --lines 201 --name again", 1, "phone 201"},
		{"phone window open --for 2h", 1, "1h"},
		{"phone window open 0015", 1, "MAC"},
		{"phone codes nobody", 3, "nobody"},
	} {
		a := b.cli(strings.Fields(c.words)...)
		if a.code != c.code || !strings.Contains(a.err, c.says) {
			t.Errorf("%s: exit %d, want %d: %s", c.words, a.code, c.code, a.err)
		}
	}
	// A door phone needs to know whom its button calls: said where it is seen.
	b.must("phone", "adopt", "0c1105000001", "--vendor", "akuvox", "--lines", "201", "--name", "door")
	b.must("phone", "window", "open")
	if res, err := http.Get("http://" + b.ip.String() + ":8086/p/0c1105000001.cfg"); err != nil {
		t.Error(err)
	} else {
		res.Body.Close()
	}
	if seen := as[[]api.SeenPhone](b, "phone", "seen"); len(seen) != 1 || !strings.Contains(seen[0].Trouble, "door button") {
		t.Errorf("seen %+v", seen)
	}
	b.must("phone", "set", "door", "--keys", `[{"type":"speed","value":"201"}]`)
	if seen := as[[]api.SeenPhone](b, "phone", "seen"); len(seen) != 1 || seen[0].Trouble != "" {
		t.Errorf("seen %+v", seen)
	}

	codes := as[api.PhoneCodes](b, "phone", "codes", "phone 201")
	if len(codes.AdminPassword) != 26 || codes != as[api.PhoneCodes](b, "phone", "codes", "phone 201") {
		t.Errorf("admin password %+v", codes)
	}
	b.term()
	b.up()
	if codes != as[api.PhoneCodes](b, "phone", "codes", "phone 201") {
		t.Error("a restart made another admin password")
	}
}
