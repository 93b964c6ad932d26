package route

import (
	"cmp"
	"slices"
	"strings"

	"carrierclass.net/ccnode/internal/site"
)

// What a number turned out to be.
type meaning uint8

const (
	unknown meaning = iota
	incomplete
	foreign // another domain's
	person
	code
	outside
	urgent
)

// A target is a number in canonical form.
type target struct {
	is      meaning
	aor     site.AOR // of a person, and of what looks like one and is unknown
	entry   Entry
	clash   int // further entries with the same number
	feature Code
	rest    string // digits after the feature code
	number  string // outside: E.164, or what was dialled
	why     string
}

// hostSite says whose names and extensions host means: a site domain or node
// name is that site's; F, our addresses and no host at all are this site's.
func hostSite(v View, host string) (Site, bool) {
	h := strings.ToLower(strings.Trim(strings.TrimSuffix(host, "."), "[]"))
	f := v.Domain()
	if h == "" || h == f || v.Local(h) {
		return v.Own(), true
	}
	label, ok := strings.CutSuffix(h, "."+f)
	if !ok {
		return Site{}, false
	}
	if _, rest, ok := strings.Cut(label, "."); ok { // a node of the site
		label = rest
	}
	if c, ok := strings.CutPrefix(label, "s"); ok {
		if s, ok := v.SiteByCode(c); ok {
			return s, true
		}
	}
	return Site{}, false
}

// canonical works out what u means when it is dialled at this site.
func canonical(v View, u URI) target {
	if u.Scheme == "urn" {
		if s := strings.ToLower(u.User); strings.HasPrefix(s, "service:sos") {
			return target{is: urgent, number: firstOr(v.Own().Emergency, "112"), why: s}
		}
		return target{is: unknown, why: "no such service"}
	}
	s := v.Own()
	if u.Scheme != "tel" {
		var ok bool
		if s, ok = hostSite(v, u.Host); !ok {
			user, isNumber := u.user()
			if u.Phone || isNumber && emergency(v.Own(), user) != "" {
				s = v.Own() // a number is a number, whoever's name is behind it
			} else {
				return target{is: foreign, why: u.Host + " is not a domain of ours"}
			}
		}
	}
	user, isNumber := u.user()
	if !isNumber {
		return named(v, user)
	}
	return dialled(v, s, user)
}

// emergency is the emergency number that d is at s, dialled with the digit for
// an outside line or without; "" if it is none.
func emergency(s Site, d string) string {
	for _, e := range s.Emergency {
		if d == e || s.Outside != "" && d == s.Outside+e {
			return e
		}
	}
	return ""
}

func named(v View, name string) target {
	if name == "" {
		return target{is: unknown, why: "nobody is named"}
	}
	return person1(v, name, v.Lookup(name), site.AOR{User: name, Domain: v.Domain()})
}

// dialled reads digits as they are dialled at s, longest match first.
func dialled(v View, s Site, d string) target {
	own := v.Own()
	if e := emergency(own, d); e != "" {
		// A phone of another site that is here has that site's name behind it.
		if s.ID == own.ID || len(v.Lookup(s.Code+d)) == 0 {
			return target{is: urgent, number: e, why: "emergency number"}
		}
	}
	if d[0] == '*' || d[0] == '#' {
		return featureCode(own, d)
	}
	if strings.ContainsAny(d, "*#") {
		return target{is: unknown, why: "no number has * or # inside"}
	}
	if d[0] == '+' {
		return outsideNumber(v, d)
	}
	whole := target{is: unknown, aor: site.AOR{User: d, Domain: v.Domain()}, why: "no such number"}
	if len(d) == s.extLen() {
		if whole = member(v, s, d, "extension "+d+" of site "+s.Code); whole.is == person {
			return whole
		}
	}
	if to, ext, ok := splitCode(v, d); ok && len(ext) == to.extLen() {
		return member(v, to, ext, "number of site "+to.Code)
	}
	if rest, ok := strings.CutPrefix(d, own.access()); ok {
		if to, ext, ok := splitCode(v, rest); ok {
			switch {
			case len(ext) == to.extLen():
				return member(v, to, ext, "extension "+ext+" of site "+to.Code+", dialled with "+own.access())
			case len(ext) < to.extLen():
				return target{is: incomplete, why: "extension of site " + to.Code + " expected"}
			}
		} else if v.CodeBegins(rest) {
			return target{is: incomplete, why: "site code expected after " + own.access()}
		}
	}
	if e164, ok := toE164(own, d); ok {
		return outsideNumber(v, e164)
	}
	if found := v.Lookup(d); len(found) > 0 {
		return person1(v, d, found, found[0].AOR)
	}
	if len(d) < s.extLen() {
		return target{is: incomplete, why: "extensions have " + itoa(s.extLen()) + " digits"}
	}
	if to, ext, ok := splitCode(v, d); ok && len(ext) < to.extLen() || !ok && v.CodeBegins(d) {
		return target{is: incomplete, why: "site code and extension expected"}
	}
	return whole
}

// splitCode cuts the site code off d. Codes are prefix-free: one fits at most.
func splitCode(v View, d string) (s Site, rest string, ok bool) {
	for n := 1; n < len(d) && n <= 12; n++ {
		if s, ok := v.SiteByCode(d[:n]); ok {
			return s, d[n:], true
		}
	}
	if s, ok := v.SiteByCode(d); ok {
		return s, "", true
	}
	return Site{}, "", false
}

// member is extension ext of s.
func member(v View, s Site, ext, why string) target {
	number := s.Code + ext
	t := person1(v, number, v.Lookup(number), site.AOR{User: number, Domain: v.Domain()})
	if t.is == person {
		t.why = why
	} else {
		t.why = why + ": nobody has it"
	}
	return t
}

// person1 chooses among the entries of one number: at the home site of one of
// them that one is meant, elsewhere the one whose number was written first
// (the clash rule of the state model).
func person1(v View, number string, found []Entry, aor site.AOR) target {
	if len(found) == 0 {
		return target{is: unknown, aor: aor, why: "nobody is called " + number}
	}
	own := v.Own().ID
	best := slices.MinFunc(found, func(a, b Entry) int {
		return cmp.Or(
			-cmp.Compare(b2i(a.Home == own), b2i(b.Home == own)),
			cmp.Compare(a.Written, b.Written),
			slices.Compare(a.User[:], b.User[:]))
	})
	return target{is: person, aor: best.AOR, entry: best, clash: len(found) - 1, why: number}
}

func featureCode(s Site, d string) target {
	best := Code{}
	longer := false
	for _, c := range s.Codes {
		switch {
		case d == c.Digits, c.Rest && strings.HasPrefix(d, c.Digits):
			if len(c.Digits) > len(best.Digits) {
				best = c
			}
		case strings.HasPrefix(c.Digits, d):
			longer = true
		}
	}
	switch {
	case best.Digits != "" && best.Rest && d == best.Digits:
		return target{is: incomplete, why: "digits expected after " + d}
	case best.Digits != "":
		return target{is: code, feature: best, rest: d[len(best.Digits):], why: "feature code " + best.Digits}
	case len(d) > 2 && d[len(d)-1] == '#': // ETSI ends every code so: *26#, #21#
		return featureCode(s, d[:len(d)-1])
	case longer:
		return target{is: incomplete, why: "a feature code begins with " + d}
	}
	return target{is: unknown, why: "no feature code " + d}
}

// outsideNumber is an E.164 number: of the fleet, or beyond it.
func outsideNumber(v View, e164 string) target {
	if found := v.Lookup(e164); len(found) > 0 {
		t := person1(v, e164, found, found[0].AOR)
		t.why = e164 + " is a number of the fleet"
		return t
	}
	if len(e164) < 4 {
		return target{is: incomplete, why: "telephone number expected"}
	}
	return target{is: outside, number: e164, why: "outside number " + e164}
}

// toE164 reads an outside number as it is dialled at s. A site without an
// outside digit, or without a country, knows only the international form.
func toE164(s Site, d string) (string, bool) {
	n, ok := strings.CutPrefix(d, s.Outside)
	if !ok || s.Country == "" {
		return "", false
	}
	if s.Abroad != "" {
		if rest, ok := strings.CutPrefix(n, s.Abroad); ok && len(rest) >= 6 {
			return "+" + rest, true
		}
	}
	if rest, ok := strings.CutPrefix(n, s.National); ok && len(rest) >= 6 {
		return "+" + s.Country + rest, true
	}
	return "", false
}

func firstOr(list []string, or string) string {
	if len(list) > 0 {
		return list[0]
	}
	return or
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func itoa(n int) string {
	if n < 10 && n >= 0 {
		return string(rune('0' + n))
	}
	return "several"
}
