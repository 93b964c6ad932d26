package trunk

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/sipcore/message"
)

// found is what the contacts in a 200 to REGISTER say of ours.
type found struct {
	granted time.Duration
	listed  string // ours as it came back, "" if it is not there
	altered bool   // by something on the way
	others  int
}

// findOwn finds our contact among those in res. It is the one with our token,
// or our address, or else the address the provider sees us at, or the only one
// there is: some lists hold every telephone of the account, and the expiry of
// another would mislead.
func findOwn(res *sip.Response, own *sip.Uri, public netip.AddrPort, asked time.Duration) found {
	var mine *sip.ContactHeader
	best, n := 0, 0
	least := asked
	token, _ := own.UriParams.Get(tokenParam)
	for _, h := range res.Headers() {
		c, ok := h.(*sip.ContactHeader)
		if !ok || c.Address.Wildcard {
			continue
		}
		left := expiryOf(c, res, asked)
		if left <= 0 {
			continue
		}
		n++
		least = min(least, left)
		got, _ := c.Address.UriParams.Get(tokenParam)
		score := 0
		switch {
		case got == token && sameHost(&c.Address, own):
			score = 5
		case got == token:
			score = 4
		case got == "" && c.Address.User == own.User && sameHost(&c.Address, own):
			score = 3
		case got == "" && c.Address.User == own.User && public.IsValid() && hostOf(&c.Address) == public:
			score = 2
		case got == "":
			score = 1
		}
		if score > best {
			mine, best = c, score
		}
	}
	if best == 1 && n > 1 {
		mine = nil
	}
	f := found{granted: least, others: n}
	if mine == nil {
		if n == 0 { // some do not list contacts at all
			f.granted = expiryOf(nil, res, asked)
		}
		return f
	}
	f.others--
	f.granted, f.listed = expiryOf(mine, res, asked), mine.Address.String()
	f.altered = !sameHost(&mine.Address, own) && hostOf(&mine.Address) != public
	return f
}

func sameHost(a, b *sip.Uri) bool {
	return strings.EqualFold(a.Host, b.Host) && orElse(a.Port, 5060) == orElse(b.Port, 5060)
}

// expiryOf is how long a contact stays: its parameter, else the Expires
// header, else what was asked for (RFC 3261 §10.2.4).
func expiryOf(c *sip.ContactHeader, res *sip.Response, asked time.Duration) time.Duration {
	texts := []string{message.Get(res, "Expires")}
	if c != nil {
		if v, ok := c.Params.Get("expires"); ok {
			texts = []string{message.Unquote(v), texts[0]}
		}
	}
	for _, v := range texts {
		if n, err := strconv.ParseUint(strings.TrimSpace(v), 10, 32); err == nil {
			return time.Duration(n) * time.Second
		}
	}
	return asked
}
