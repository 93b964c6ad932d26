package config

import (
	"strings"
	"testing"
)

func TestDefaultsAreAWorkingNode(t *testing.T) {
	c := Config{Data: t.TempDir()}
	if err := c.Defaults(); err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestValidateNamesEveryComplaint(t *testing.T) {
	c := Config{Data: t.TempDir(), SiteCode: "x", Domain: "no spaces", SIPPort: 70000, APIListen: "nonsense", Advertise: "shop", RecordingsKbit: -1}
	if err := c.Defaults(); err != nil {
		t.Fatal(err)
	}
	err := c.Validate()
	for _, want := range []string{"site code", "domain", "SIP port 70000", "API address", "advertised", "recordings-rate"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a complaint about %s", err, want)
		}
	}
}

func TestParsePorts(t *testing.T) {
	if p, err := ParsePorts("30000-30999"); err != nil || p != [2]int{30000, 30999} {
		t.Errorf("got %v, %v", p, err)
	}
	for _, bad := range []string{"", "1", "5-4", "a-b", "1-"} {
		if _, err := ParsePorts(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
