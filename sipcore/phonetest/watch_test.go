package phonetest

import "testing"

func FuzzDialogInfo(f *testing.F) {
	f.Add([]byte(`<?xml version="1.0"?><dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info" version="3" state="full" entity="sip:a@b"><dialog id="x" call-id="c" local-tag="l" remote-tag="r" direction="recipient"><state>early</state><remote><identity display="Ana">sip:201@b</identity></remote></dialog></dialog-info>`))
	f.Add([]byte(`<dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info" version="-1"><dialog/><dialog/></dialog-info>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseDialogInfo(b)
		if err != nil {
			return
		}
		for i, c := range s.Calls {
			if c.ID == "" || i > 0 && c.ID == s.Calls[0].ID {
				t.Fatalf("ids of %+v", s.Calls)
			}
		}
	})
}

func TestOneDocumentOfALamp(t *testing.T) {
	s, err := parseDialogInfo([]byte("<?xml version=\"1.0\"?>\r\n<d:dialog-info xmlns:d=\"urn:ietf:params:xml:ns:dialog-info\" version=\"7\" state=\"full\" entity=\"sip:a@b\">" +
		"<d:dialog id=\"x\"><d:state event=\"cancelled\">terminated</d:state></d:dialog><d:dialog id=\"y\" call-id=\"c\" local-tag=\"l\" remote-tag=\"r\"><d:state> early </d:state></d:dialog></d:dialog-info>"))
	if err != nil || s.Version != 7 || !s.Full || s.State() != "early" || s.Calls[1].Replaces().String() != "c;to-tag=l;from-tag=r" {
		t.Errorf("%+v, %v", s, err)
	}
	for _, bad := range []string{"", "<dialog-info/>", `<dialog-info xmlns="urn:ietf:params:xml:ns:dialog-info" version="x"/>`} {
		if s, err := parseDialogInfo([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, s)
		}
	}
}
