package provision

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGatewaySheets(t *testing.T) {
	one := Gateway{Trunk: "fxo", Boxes: []netip.AddrPort{netip.MustParseAddrPort("192.168.1.10:5060")}, Number: "33472001200", Port: 5060, Country: "+33", Emergency: "112, 15, 17, 18"}
	two := one
	two.Boxes = append(two.Boxes, netip.MustParseAddrPort("192.168.1.11:5060"))
	for _, model := range Gateways {
		for name, g := range map[string]Gateway{"single": one, "pair": two} {
			got, err := g.Sheet(model)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", model+"."+name+".txt")
			if os.Getenv("CCNODE_GOLDEN") != "" {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil || string(want) != got {
				t.Errorf("%s: %v; CCNODE_GOLDEN=1 writes it\n%s", file, err, got)
			}
			for _, part := range []string{"Last tried on firmware: untested", "192.168.1.10", "33472001200", "RFC2833", "112, 15"} {
				if !strings.Contains(got, part) {
					t.Errorf("%s lacks %q", file, part)
				}
			}
			if strings.Contains(got, "192.168.1.11") != g.Pair() {
				t.Errorf("%s: the second box", file)
			}
		}
	}
	for _, bad := range []Gateway{{}, {Number: "1"}} {
		if s, err := bad.Sheet("ht813"); err == nil {
			t.Errorf("%+v: %s", bad, s)
		}
	}
	if _, err := one.Sheet("../provision"); err == nil || !strings.Contains(err.Error(), "ht813") {
		t.Errorf("unknown model: %v", err)
	}
}
