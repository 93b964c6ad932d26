package node

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/provision"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/sipcore/route"
)

// phone describes an adopted phone as its template wants it.
func (p *phones) phone(ctx context.Context, m provision.MAC, l *phoneLAN) (*provision.Phone, error) {
	s := p.n.state
	rec, ok := p.record(m)
	if !ok {
		return nil, fmt.Errorf("phone %s: %w", m, provision.ErrUnknown)
	}
	admin, err := p.adminPassword(ctx, rec.ID)
	if err != nil {
		return nil, err
	}
	own := s.Own()
	out := &provision.Phone{MAC: m, Kind: provision.Kind(rec.Vendor), Model: rec.Model, Epoch: epochOf(rec.ID),
		Transport: provision.UDP, Expiry: min(max(p.n.cfg.Expires, time.Minute), time.Hour),
		Zone: zoneOf(s), Language: rec.Language, Country: countries[own.Country],
		Voicemail: codes[0].Digits, Pickup: pickUpCode, AdminPassword: admin, DECTCode: p.dectCode(m)}
	_, domain := s.Fleet()
	for _, line := range rec.Lines {
		id, err := site.ParseRecordID(line)
		if err != nil {
			return nil, fmt.Errorf("phone %s: line %q: %w", rec.Name, line, err)
		}
		d, u, err := s.Device(id)
		if err != nil {
			return nil, fmt.Errorf("phone %s: line %s: %w", rec.Name, line, err)
		}
		password, err := s.Password(id)
		if err != nil {
			return nil, fmt.Errorf("phone %s: line %s: %w", rec.Name, u.Number, err)
		}
		out.Lines = append(out.Lines, provision.Line{AOR: site.AOR{User: u.Number, Domain: domain}, User: d.SIPUser, Password: password, Display: cmp.Or(u.Name, u.Extension, u.Number)})
	}
	for _, k := range rec.Keys {
		key := provision.Key{Type: provision.KeyType(k.Type), Value: k.Value, Label: k.Label}
		if i, err := strconv.Atoi(k.Value); err == nil && key.Type == provision.KeyLine {
			key.Line = i
		}
		if k.Type == string(provision.KeySpeed) && out.DoorCalls == "" {
			out.DoorCalls = k.Value // a door phone has one button
		}
		switch {
		case k.Type == keyVoicemail:
			key.Type, key.Value = provision.KeySpeed, codes[0].Digits
		case key.Type == provision.KeyNight && k.Value == "":
			key.Value = nightCode
		}
		if key.Type == provision.KeyPark && strings.Trim(k.Value, "0123456789") == "" {
			key.Value = parkCode + k.Value // people say the orbit alone
		}
		out.Keys = append(out.Keys, key)
	}
	nodes := p.nodes(l)
	prefer(nodes, rec)
	for _, x := range nodes {
		out.Servers = append(out.Servers, provision.Server{Addr: x.at.Addr(), Port: x.at.Port()})
		out.SNTP = append(out.SNTP, x.at.Addr())
	}
	return out, nil
}

// keyVoicemail is a key that dials one's mailbox, for phones whose message key is hidden.
const keyVoicemail = "voicemail"

// What phones dial before a watched number, and before an orbit.
var pickUpCode, parkCode = restCode(route.PickUp), restCode(route.Park)

// restCode is the code of a feature that takes digits after it.
func restCode(f site.FeatureName) string {
	for _, c := range codes {
		if c.Feature == f && c.Rest {
			return c.Digits
		}
	}
	return ""
}

// record finds the phone with a MAC.
func (p *phones) record(m provision.MAC) (site.Phone, bool) {
	for _, x := range state.List[site.Phone](p.n.state) {
		if y, err := provision.ParseMAC(x.MAC); err == nil && y == m {
			return x, true
		}
	}
	return site.Phone{}, false
}

// prefer puts the nodes in the order in which this phone tries them, so that
// about half of the phones begin with each (rendezvous hashing: Thaler and
// Ravishankar 1998).
func prefer(nodes []phoneNode, rec site.Phone) {
	by := rec.ID.String()
	if len(rec.Lines) > 0 {
		by = rec.Lines[0]
	}
	weight := func(x phoneNode) uint64 {
		h := sha256.Sum256([]byte(by + " " + x.id.String()))
		return binary.BigEndian.Uint64(h[:])
	}
	slices.SortFunc(nodes, func(a, b phoneNode) int { return cmp.Compare(weight(b), weight(a)) })
}

// epochOf makes the secret URL another one when a phone is deleted and adopted
// again.
func epochOf(id site.RecordID) uint32 {
	h := sha256.Sum256(id[:])
	return binary.BigEndian.Uint32(h[:])
}

// dectCode is the same at both nodes.
func (p *phones) dectCode(m provision.MAC) string {
	p.mu.Lock()
	k := p.key
	p.mu.Unlock()
	h := fromSiteKey(k, "ccnode DECT code 1 "+m.Plain())
	return fmt.Sprintf("%04d", binary.BigEndian.Uint64(h[:])%10_000)
}

const fieldAdmin = 8 // of site.Phone

var typed = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// adminPassword is of the phone's own page: made once, then kept in the
// phone's record.
func (p *phones) adminPassword(ctx context.Context, id site.RecordID) (string, error) {
	p.admin.Lock()
	defer p.admin.Unlock()
	s := p.n.state
	if pw, err := state.Reveal[site.Phone](s, id, fieldAdmin); err != nil || pw != "" {
		return pw, err
	}
	var b [16]byte // 26 characters
	if _, err := io.ReadFull(p.n.rand, b[:]); err != nil {
		return "", fmt.Errorf("make a phone's admin password: %w", err)
	}
	pw := typed.EncodeToString(b[:])
	_, err := state.Change(ctx, s, "system", id, "", func(v *site.Phone) error {
		v.Admin = pw
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("keep a phone's admin password: %w", err)
	}
	return pw, nil
}

// zoneOf is the time zone of the shop: what the administrator says, else that
// of this box.
func zoneOf(s *state.State) string {
	for _, x := range state.List[site.Shop](s) {
		if x.Zone != "" {
			return x.Zone
		}
	}
	return boxZone(os.Getenv("TZ"), "/etc/localtime", "/etc/timezone")
}

func boxZone(tz, link, file string) string {
	candidates := []string{strings.TrimPrefix(tz, ":")}
	if to, err := filepath.EvalSymlinks(link); err == nil {
		_, name, _ := strings.Cut(to, "/zoneinfo/")
		candidates = append(candidates, name)
	}
	if b, err := os.ReadFile(file); err == nil {
		candidates = append(candidates, strings.TrimSpace(string(b)))
	}
	for _, c := range candidates {
		if c == "" || c == "Local" {
			continue
		}
		if _, err := time.LoadLocation(c); err == nil {
			return c
		}
	}
	return "UTC"
}

// countries whose tones templates know, by what a site's country code says.
var countries = map[string]string{"49": "DE", "43": "AT", "41": "CH", "33": "FR", "34": "ES", "39": "IT", "31": "NL", "44": "GB", "1": "US", "32": "BE"}

// checkPhone refuses what no template could use, and writes the MAC as all do.
func checkPhone(p *site.Phone) error {
	if p.Deleted {
		return nil
	}
	m, err := provision.ParseMAC(p.MAC)
	if err != nil {
		return api.Invalid(err.Error(), "it is printed on the phone's back")
	}
	p.MAC = m.String()
	var known []string
	for _, k := range provision.Kinds() {
		known = append(known, string(k.Kind))
		if string(k.Kind) == p.Vendor && len(p.Lines) > k.Lines {
			return api.Invalid(fmt.Sprintf("%d lines: a %s has at most %d", len(p.Lines), k.Product, k.Lines), "leave some out")
		}
	}
	if !slices.Contains(known, p.Vendor) {
		return api.Invalid(fmt.Sprintf("vendor %q: there is no template for it", p.Vendor), "give one of "+strings.Join(known, ", "))
	}
	types := []provision.KeyType{provision.KeyLine, provision.KeyBLF, provision.KeySpeed, provision.KeyPark, provision.KeyNight}
	for i, k := range p.Keys {
		bare := k.Type == keyVoicemail || k.Type == string(provision.KeyNight) // we know what they dial
		if !bare && (!slices.Contains(types, provision.KeyType(k.Type)) || k.Value == "") {
			return api.Invalid(fmt.Sprintf("key %d: type %q, value %q", i+1, k.Type, k.Value), "give a type of line, blf, speed, park, and a value, or night or voicemail")
		}
	}
	return nil
}

// makers are beginnings of MAC addresses (IEEE MA-L) that tell the family.
var makers = map[string]provision.Kind{
	"001565": provision.Yealink, "805ec0": provision.Yealink, "805e0c": provision.Yealink, "249ad8": provision.Yealink,
	"000413": provision.Snom,
	"000b82": provision.HT8, "c074ad": provision.HT8,
	"7c2f80": provision.Gigaset, "589ec6": provision.Gigaset,
	"0c1105": provision.Akuvox,
}

// kindOf guesses the family of a device from what it says and its MAC; "" if
// that tells nothing.
func kindOf(d provision.Seen) provision.Kind {
	vendor, model := strings.ToLower(d.Vendor), strings.ToLower(d.Model)
	model = strings.TrimPrefix(model, "snom")
	kind := makers[d.MAC.Plain()[:6]]
	for _, x := range []struct {
		says string
		kind provision.Kind
	}{{"yealink", provision.Yealink}, {"snom", provision.Snom}, {"gigaset", provision.Gigaset}, {"grandstream", provision.HT8}, {"akuvox", provision.Akuvox}} {
		if strings.HasPrefix(vendor, x.says) {
			kind = x.kind
		}
	}
	switch {
	case kind == provision.Snom && strings.HasPrefix(model, "m"):
		return provision.SnomM
	case kind == provision.HT8 && model != "" && !strings.HasPrefix(model, "ht8"):
		return "" // another product of that maker
	}
	return kind
}

// firstURL is what to type into a phone that finds nobody by itself.
func firstURL(at netip.AddrPort) string { return "http://" + at.String() + "/p/" }
