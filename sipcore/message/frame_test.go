package message

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzFramer: however a stream is cut, the same frames come out, and what is
// framed as a message has the length that Parse sees.
func FuzzFramer(f *testing.F) {
	f.Add(base+"\r\n\r\n"+base, uint16(7))
	f.Add("\r\n\r\n\r\n\r"+base, uint16(3))
	f.Add(strings.Replace(base, "Content-Length: 0\r\n\r\n", "l\t:\r\n 3\r\n\r\nabcINVITE", 1), uint16(1))
	f.Fuzz(func(t *testing.T, stream string, step uint16) {
		frames := func(step int) (out []string) {
			fr := Framer{Max: 2048}
			for at := 0; at < len(stream); at += step {
				fr.Write([]byte(stream[at:min(len(stream), at+step)]))
				for {
					x := fr.Next()
					switch {
					case x.Broken:
						return append(out, "broken")
					case x.Ping:
						out = append(out, "ping")
					case x.Raw != nil:
						out = append(out, string(x.Raw))
						if m, fault := Parse(x.Raw, true); fault == nil && !strings.HasSuffix(string(x.Raw), "\r\n\r\n"+string(m.Body())) {
							t.Fatalf("body %q of %q", m.Body(), x.Raw)
						}
					}
					if x.Raw == nil && !x.Ping {
						break
					}
				}
			}
			return out
		}
		whole := frames(len(stream) + 1)
		for _, s := range []int{1, int(step)%64 + 1} {
			if d := cmp.Diff(whole, frames(s)); d != "" {
				t.Fatalf("cut every %d: %s", s, d)
			}
		}
	})
}
