package node

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carrierclass.net/ccnode/internal/provision"
	"carrierclass.net/ccnode/internal/site"
)

func TestPhonesSpreadOverThePairAndStay(t *testing.T) {
	a, b := phoneNode{id: site.NodeID{1}}, phoneNode{id: site.NodeID{2}}
	first := 0
	const all = 1000
	for i := range all {
		rec := site.Phone{Lines: []string{site.RecordID{byte(i), byte(i >> 8)}.String()}}
		one, two := []phoneNode{a, b}, []phoneNode{b, a}
		prefer(one, rec)
		prefer(two, rec)
		if one[0] != two[0] {
			t.Fatal("the order depends on who is asked")
		}
		rec.ID = site.RecordID{9} // adopted again
		again := []phoneNode{b, a}
		if prefer(again, rec); again[0] != one[0] {
			t.Fatal("the order depends on the record")
		}
		if one[0] == a {
			first++
		}
	}
	if first < all*4/10 || first > all*6/10 {
		t.Errorf("%d of %d phones begin with the first node", first, all)
	}
}

func TestKindOfADevice(t *testing.T) {
	for _, c := range []struct {
		mac, vendor, model string
		want               provision.Kind
	}{
		{"001565000001", "", "", provision.Yealink},
		{"020000000001", "Yealink", "SIP-T46U", provision.Yealink},
		{"000413000001", "", "", provision.Snom},
		{"000413000001", "snom", "snomD785", provision.Snom},
		{"000413000001", "snom", "snomM700", provision.SnomM},
		{"000413000001", "OEM", "M300", provision.SnomM},
		{"000b82000001", "Grandstream", "HT802", provision.HT8},
		{"000b82000001", "Grandstream", "GXP2170", ""},
		{"7c2f80000001", "", "N670", provision.Gigaset},
		{"0c1105000001", "AKUVOX", "E12", provision.Akuvox},
		{"020000000001", "curl/7", "", ""},
	} {
		m, err := provision.ParseMAC(c.mac)
		if err != nil {
			t.Fatal(err)
		}
		if got := kindOf(provision.Seen{MAC: m, Vendor: c.vendor, Model: c.model}); got != c.want {
			t.Errorf("%s %q %q: %q, want %q", c.mac, c.vendor, c.model, got, c.want)
		}
	}
}

func TestZoneOfTheBox(t *testing.T) {
	dir := t.TempDir()
	zones := filepath.Join(dir, "zoneinfo", "Europe")
	if err := os.MkdirAll(zones, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) string {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := filepath.Join(dir, "localtime")
	if err := os.Symlink(write(filepath.Join(zones, "Madrid"), ""), link); err != nil {
		t.Fatal(err)
	}
	file := write(filepath.Join(dir, "timezone"), "Europe/Rome\n")
	none := filepath.Join(dir, "none")
	for _, c := range []struct{ tz, link, file, want string }{
		{"Europe/Paris", link, file, "Europe/Paris"},
		{":Europe/Paris", link, file, "Europe/Paris"},
		{"CET-1CEST", link, file, "Europe/Madrid"},
		{"", link, file, "Europe/Madrid"},
		{"", none, file, "Europe/Rome"},
		{"", file, none, "UTC"}, // no link into a folder of zones
		{"", none, none, "UTC"},
	} {
		if got := boxZone(c.tz, c.link, c.file); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestNetworkOfAnAddress(t *testing.T) {
	l, err := networkOf(netip.MustParseAddr("127.77.3.4"))
	if err != nil || l.addr.String() != "127.77.3.4" || l.net.String() != "127.0.0.0/8" || l.ifi.Name == "" {
		t.Errorf("%+v, %v", l, err)
	}
	for _, ip := range []string{"192.0.2.77", "0.0.0.0", "::"} {
		if l, err := networkOf(netip.MustParseAddr(ip)); err == nil {
			t.Errorf("%s is in %v", ip, l.net)
		}
	}
}

func TestDECTCodeAndSecretURL(t *testing.T) {
	p := &phones{key: [32]byte{1}}
	m, n := provision.MAC{0, 4, 19, 0, 0, 1}, provision.MAC{0, 4, 19, 0, 0, 2}
	if c := p.dectCode(m); len(c) != 4 || strings.Trim(c, "0123456789") != "" || c != p.dectCode(m) || c == p.dectCode(n) {
		t.Errorf("DECT codes %q, %q, %q", c, p.dectCode(m), p.dectCode(n))
	}
	if epochOf(site.RecordID{1}) == epochOf(site.RecordID{2}) {
		t.Error("a phone that is adopted again keeps its URL")
	}
}
