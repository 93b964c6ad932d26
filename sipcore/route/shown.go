package route

import (
	"strings"

	"carrierclass.net/ccnode/internal/site"
)

// Shown is the number of p as somebody at this site can dial it back: the
// extension of one of ours, access digit, code and extension of another
// site's, the national form of an outside number. A name is shown as it is.
func Shown(v View, p site.Party) string {
	own := v.Own()
	user := p.AOR.User
	if strings.HasPrefix(user, "+") {
		if n, ok := strings.CutPrefix(user, "+"+own.Country); ok && own.Country != "" {
			return own.Outside + own.National + n
		}
		if own.Country != "" {
			return own.Outside + own.Abroad + user[1:]
		}
		return user
	}
	if s, ext, ok := splitCode(v, user); ok && len(ext) == s.extLen() {
		if s.ID == own.ID {
			return ext
		}
		return own.access() + user
	}
	if user == "" {
		return p.Number
	}
	return user
}

// AOR is the canonical address-of-record u names, for a REGISTER or as a
// caller's own line. Nobody need have it: what names nobody keeps its user
// part at the fleet's domain, or its own domain if that is not ours.
func AOR(v View, u URI) site.AOR {
	t := canonical(v, u)
	if t.aor.User != "" {
		return t.aor
	}
	user, _ := u.user()
	if t.is == foreign {
		return site.AOR{User: user, Domain: strings.ToLower(u.Host)}
	}
	return site.AOR{User: user, Domain: v.Domain()}
}

// Realm is the digest realm of aor: that of the site in its digits, else this
// site's (calls.md §1). It depends on no user's record, so that it tells
// nobody who exists.
func Realm(v View, aor site.AOR) string {
	code := v.Own().Code
	if s, ext, ok := splitCode(v, aor.User); ok && len(ext) == s.extLen() {
		code = s.Code
	}
	return SiteDomain(v, code)
}

// SiteDomain is the domain of the site with that code.
func SiteDomain(v View, code string) string { return "s" + code + "." + v.Domain() }

// Who is the party whose line aor is, as the directory knows it; an outsider
// if it knows nobody.
func Who(v View, aor site.AOR) site.Party {
	p := site.Party{AOR: aor}
	if found := v.Lookup(aor.User); len(found) > 0 {
		if t := person1(v, aor.User, found, aor); t.is == person {
			p = t.entry.Party()
		}
	}
	p.Number = Shown(v, p)
	return p
}

// Urgent says whether u is an emergency call when dialled here: it is taken
// from anybody, however full the node is (calls.md §3 step 0).
func Urgent(v View, u URI) bool { return canonical(v, u).is == urgent }
