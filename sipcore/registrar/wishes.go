package registrar

import (
	"hash/maphash"
	"strconv"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/message"
)

// A wish is one Contact of a REGISTER.
type wish struct {
	b       site.Binding
	key     string
	expires time.Duration // granted; 0: remove
	done    bool
}

const maxContact = 512 // octets of a contact URI

// wishes reads what the request asks for. all means "*".
func (r *Registrar) wishes(req *sip.Request, f *edge.Flow) (out []wish, all bool, err error) {
	general := -1 // the Expires header, seconds; -1: none
	if v := message.Get(req, "Expires"); v != "" {
		general = seconds(v)
	}
	n := 0
	for _, h := range req.Headers() {
		c, ok := h.(*sip.ContactHeader)
		if !ok {
			continue
		}
		if n++; n > r.cfg.Contacts {
			return nil, false, refuse(403, "Too Many Contacts")
		}
		if c.Address.Wildcard {
			all = true
			continue
		}
		w, err := r.wish(c, general, f)
		if err != nil {
			return nil, false, err
		}
		w.b.UserAgent = strings.Clone(message.Get(req, "User-Agent"))
		if len(w.b.UserAgent) > 128 {
			w.b.UserAgent = w.b.UserAgent[:128]
		}
		out = append(out, w)
	}
	if all && (n != 1 || general != 0) { // RFC 3261 §10.3 step 6
		return nil, false, refuse(400, "Bad Wildcard Contact")
	}
	return out, all, nil
}

func (r *Registrar) wish(c *sip.ContactHeader, general int, f *edge.Flow) (wish, error) {
	uri := c.Address.String()
	if c.Address.Scheme != "sip" && c.Address.Scheme != "sips" {
		return wish{}, refuse(400, "Contact Is No SIP URI")
	}
	if len(uri) > maxContact {
		return wish{}, refuse(400, "Contact Too Long")
	}
	w := wish{b: site.Binding{Contact: strings.Clone(uri), Node: r.cfg.Node, Transport: f.Transport, Flow: f.Name, Source: f.Remote, Q: 1000}}
	if v, ok := c.Params.Get("q"); ok {
		w.b.Q = qvalue(v)
	}
	if v, ok := c.Params.Get("+sip.instance"); ok {
		v = strings.TrimSuffix(strings.TrimPrefix(message.Unquote(v), "<"), ">")
		if len(v) > maxContact || strings.ContainsAny(v, "<>\"\\\x00") {
			return wish{}, refuse(400, "Bad Instance")
		}
		w.b.Instance = strings.Clone(v)
		if v, ok := c.Params.Get("reg-id"); ok {
			if n, err := strconv.ParseUint(v, 10, 31); err == nil {
				w.b.RegID = int(n)
			}
		}
	}
	// Behind NAT the contact names an address that is not where it came from.
	addr, isAddr := message.Addr(c.Address.Host)
	w.b.NAT = !isAddr || addr != f.Remote.Addr()

	ask := general
	if v, ok := c.Params.Get("expires"); ok {
		ask = seconds(v)
	}
	most := r.cfg.LANExpires
	if w.b.NAT {
		most = r.cfg.NATExpires
	} else {
		// Spread, so that phones that came back together part again.
		h := maphash.String(r.seed, w.b.Contact)
		most -= time.Duration(h%uint64(max(1, most/4/time.Second))) * time.Second
	}
	switch {
	case ask == 0:
		return w, nil
	case ask < 0:
		w.expires = most
	case time.Duration(ask)*time.Second < min(r.cfg.MinExpires, most): // step 7
		return wish{}, &refusal{423, "", sip.NewHeader("Min-Expires", strconv.Itoa(int(min(r.cfg.MinExpires, most)/time.Second)))}
	default:
		w.expires = min(most, time.Duration(ask)*time.Second)
	}
	return w, nil
}

// seconds reads delta-seconds. Malformed values mean the default (RFC 3261
// §10.2.1.1, §20.19: taken for 3600), too large ones are cut.
func seconds(s string) int {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 31)
	if err != nil {
		return 3600
	}
	return int(n)
}

// qvalue reads 0 to 1 with up to three digits, in thousandths (RFC 3261 §20.10).
func qvalue(s string) int {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0 && f <= 1) {
		return 1000
	}
	return int(f*1000 + 0.5)
}
