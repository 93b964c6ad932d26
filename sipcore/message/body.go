package message

import (
	"strings"

	"github.com/emiago/sipgo/sip"
)

// Acceptable says whether an element that understands bodies of the given
// types, and answers with the first of them, can serve req (RFC 3261 §8.2.3,
// §20.1): 0 if it can, 415 if not, 406 if the sender would not take the answer.
// The header goes into the refusal.
func Acceptable(req *sip.Request, types ...string) (status int, header sip.Header) {
	if len(req.Body()) > 0 {
		if enc := Get(req, "Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
			return 415, sip.NewHeader("Accept-Encoding", "identity")
		}
		if !oneOf(Get(req, "Content-Type"), types) && !optional(req) {
			return 415, sip.NewHeader("Accept", strings.Join(types, ", "))
		}
	}
	accept, there := Values(req, "Accept"), false
	for _, a := range accept {
		there = there || oneOf(a, types[:1]) || oneOf(a, []string{"*/*", majorOf(types[0]) + "/*"})
	}
	if len(accept) > 0 && !there {
		return 406, nil
	}
	return 0, nil
}

// optional: handling=optional in Content-Disposition (RFC 3261 §20.11).
func optional(req *sip.Request) bool {
	return strings.Contains(strings.ToLower(Get(req, "Content-Disposition")), "handling=optional")
}

func majorOf(t string) string { m, _, _ := strings.Cut(t, "/"); return m }

func oneOf(value string, types []string) bool {
	t, _, _ := strings.Cut(value, ";")
	t = strings.ReplaceAll(strings.ReplaceAll(t, " ", ""), "\t", "")
	for _, want := range types {
		if strings.EqualFold(t, want) {
			return true
		}
	}
	return false
}
