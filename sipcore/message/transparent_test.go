package message

import (
	"strings"
	"testing"

	"github.com/emiago/sipgo/sip"
	"pgregory.net/rapid"
)

// TestUnknownHeadersAndMethodsPassUnchanged: names, values, their order and
// the case of the method are byte-equal after reading and printing.
func TestUnknownHeadersAndMethodsPassUnchanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		method := rapid.StringMatching("[A-Za-z0-9!%*_+`'~.-]{1,20}").Draw(t, "method")
		names := rapid.SliceOfN(rapid.StringMatching("X[A-Za-z0-9!%*_+`'~.-]{1,30}"), 0, 20).Draw(t, "names")
		var lines []string
		for _, n := range names {
			v := strings.Trim(rapid.StringMatching(`([!-~]|[!-~ \t]|[\x{80}-\x{2fff}]){0,80}`).Draw(t, "value"), " \t")
			lines = append(lines, n+": "+v)
		}
		raw := strings.Replace(base, "OPTIONS", method, 2)
		if len(lines) > 0 {
			raw = strings.Replace(raw, "Max-Forwards", strings.Join(lines, "\r\n")+"\r\nMax-Forwards", 1)
		}
		m, fault := Parse([]byte(raw), true)
		if fault != nil {
			t.Fatalf("%v: %q", fault, raw)
		}
		if got := string(m.(*sip.Request).Method); got != method {
			t.Fatalf("method %q became %q", method, got)
		}
		if got := m.String(); got != raw {
			t.Fatalf("got  %q\nwant %q", got, raw)
		}
	})
}
