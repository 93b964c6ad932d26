package provision

import "testing"

func TestChangedSettingsAreOwed(t *testing.T) {
	p := sample(t, HT8)
	d := newDesk(t, p)
	url := d.Secret(p) + "cfg" + p.MAC.Plain() + ".xml"
	d.ask(d.HTTPS(), d.Secret(p)+"cfg000b82000001.xml", phoneAddr, "")
	if status, _ := d.ask(d.HTTPS(), url, phoneAddr, ""); status != 200 {
		t.Fatalf("got %d", status)
	}
	for _, s := range d.Owed(t.Context()) {
		if s.Owed {
			t.Errorf("owed at once: %+v", s)
		}
	}
	p.Lines[0].Display = "Somebody else"
	found := false
	for _, s := range d.Owed(t.Context()) {
		found = found || s.Owed && s.MAC == p.MAC
		if s.Owed && s.MAC != p.MAC {
			t.Errorf("owed to %s, which has nothing", s.MAC)
		}
	}
	if !found {
		t.Error("a changed name is not owed")
	}
	if status, _ := d.ask(d.HTTPS(), url, phoneAddr, ""); status != 200 {
		t.Fatalf("got %d", status)
	}
	for _, s := range d.Owed(t.Context()) {
		if s.Owed {
			t.Errorf("still owed: %+v", s)
		}
	}
	for _, k := range Kinds() {
		if k.Sync == "" || k.Tried == "" {
			t.Errorf("%s: no event makes it fetch its settings, or nobody says what it was tried on", k.Kind)
		}
	}
}
