package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// Tables of what an administrator keeps for the own site, and of what the
// fleet's directory says of groups and menus.
const (
	TableService = trust.FleetSites + 2 // record: trust.SiteRecord(home, group or menu)

	TableTrunk   = trust.SiteOwn + 8
	TableInbound = trust.SiteOwn + 9
	TableGroup   = trust.SiteOwn + 10
	TableMenu    = trust.SiteOwn + 11
	TableHours   = trust.SiteOwn + 12
	TablePhone   = trust.SiteOwn + 13
	TableShop    = trust.SiteOwn + 14
)

// Cells that are read without their record.
const (
	recordName    = "\x01"
	recordDeleted = "\x7e"
	serviceNumber = "\x02" // of groups and menus
	groupE164     = "\x06"
)

// classes of service; "" is that of the site.
var classes = []string{"", "internal", "national", "international"}

func checkTrunk(s *State, t site.Trunk, id site.RecordID) error {
	if err := oneOf("kind", t.Kind, "register", "peer"); err != nil {
		return err
	}
	if err := oneOf("via", t.Via, "wan", "lan"); err != nil {
		return err
	}
	if err := oneOf("transport", t.Transport, "", "udp", "tcp"); err != nil {
		return err
	}
	if host, _, ok := strings.Cut(t.Server, ":"); t.Server == "" || ok && host == "" || strings.ContainsAny(t.Server, " @<>;,\"") {
		return fmt.Errorf("server %q: %w: host or host:port", t.Server, ErrInvalid)
	}
	if t.Kind == "register" && t.User == "" {
		return fmt.Errorf("user: %w: a trunk that registers needs the account", ErrInvalid)
	}
	for _, a := range t.Accept {
		if _, err := netip.ParseAddr(a); err != nil {
			if _, err := netip.ParsePrefix(a); err != nil {
				return fmt.Errorf("accept %q: %w: an address or a prefix such as 192.0.2.0/24", a, ErrInvalid)
			}
		}
	}
	if err := checkTestNumber(s, t.TestNumber); err != nil {
		return err
	}
	p := t.Profile
	for _, x := range []struct {
		what, v string
		of      []string
	}{{"identity", p.Identity, []string{"", "from", "pai", "ppi", "rpid"}}, {"format", p.Format, []string{"", "+e164", "e164", "national"}},
		{"called", p.Called, []string{"", "uri", "to", "p-called"}}, {"contact", p.Contact, []string{"", "own", "public"}}, {"keep-alive", p.KeepAlive, []string{"", "none", "crlf", "options"}}} {
		if err := oneOf(x.what, x.v, x.of...); err != nil {
			return err
		}
	}
	if t.Channels < 0 || t.Channels > 1000 || t.Order < 0 || p.Every < 0 || p.Expires < 0 || p.Expires > 86400 {
		return fmt.Errorf("trunk: %w: a number is out of range", ErrInvalid)
	}
	if t.Minutes < 0 {
		return fmt.Errorf("minutes %d: %w: 0 is no limit", t.Minutes, ErrInvalid)
	}
	for _, n := range append(slices.Clone(t.Only), t.Bar...) {
		if !beginning(n) {
			return fmt.Errorf("%.20q: %w: the beginning of E.164 numbers, such as +33", n, ErrInvalid)
		}
	}
	return checkE164(t.Number)
}

// beginning says whether E.164 numbers can begin with n.
func beginning(n string) bool {
	return len(n) > 1 && len(n) <= 16 && n[0] == '+' && n[1] != '0' && strings.Trim(n[1:], "0123456789") == ""
}

func checkInbound(s *State, n site.Inbound, id site.RecordID) error {
	if err := checkE164(n.Name); err != nil {
		return err
	}
	for _, o := range List[site.Inbound](s) {
		if o.Name == n.Name && o.ID != id {
			return fmt.Errorf("number %s: %w: it goes to %s", n.Name, ErrTaken, o.To)
		}
	}
	return checkTo("to", n.To, true)
}

func checkGroup(s *State, g site.Group, id site.RecordID) error {
	if err := oneOf("strategy", g.Strategy, "", "all", "turn"); err != nil {
		return err
	}
	if g.Ring != 0 && (g.Ring < 5 || g.Ring > 120) {
		return fmt.Errorf("ring %d: %w: 5 to 120 seconds", g.Ring, ErrInvalid)
	}
	if len(g.Members) > 64 {
		return fmt.Errorf("members: %w: at most 64", ErrInvalid)
	}
	for _, m := range g.Members {
		u, err := site.ParseRecordID(m)
		if err != nil {
			return fmt.Errorf("member %.20q: %w: a user's id", m, ErrInvalid)
		}
		s.mu.RLock()
		known := s.ix.listing.users[u] != nil
		s.mu.RUnlock()
		if !known {
			return fmt.Errorf("member %s: %w", m, ErrNotFound)
		}
	}
	if err := checkTo("overflow", g.Overflow, false); err != nil {
		return err
	}
	if err := checkE164(g.E164); err != nil {
		return err
	}
	if g.E164 != "" {
		if err := s.free(g.E164, id); err != nil {
			return err
		}
	}
	return s.checkService(g.Number, id)
}

func checkMenu(s *State, m site.Menu, id site.RecordID) error {
	for _, p := range []site.MenuPart{m.Open, m.Closed} {
		for k, to := range p.Keys {
			if len(k) != 1 || !strings.Contains("0123456789*#", k) {
				return fmt.Errorf("key %q: %w: one of 0-9 * #", k, ErrInvalid)
			}
			if err := checkTo("key "+k, to, true); err != nil {
				return err
			}
		}
		if err := checkTo("forward", p.Forward, false); err != nil {
			return err
		}
	}
	if m.Hours != "" {
		h, err := site.ParseRecordID(m.Hours)
		if err == nil {
			_, err = Get[site.Hours](s, h)
		}
		if err != nil {
			return fmt.Errorf("hours %q: %w: the id of opening hours", m.Hours, ErrInvalid)
		}
	}
	if m.Tries < 0 || m.Tries > 9 || m.Wait < 0 || m.Wait > 60 {
		return fmt.Errorf("menu: %w: at most 9 tries of 60 seconds", ErrInvalid)
	}
	if err := checkTo("fallback", m.Default, false); err != nil {
		return err
	}
	return s.checkService(m.Number, id)
}

func checkHours(s *State, h site.Hours, id site.RecordID) error {
	if h.Zone != "" {
		if _, err := time.LoadLocation(h.Zone); err != nil || h.Zone == "Local" {
			return fmt.Errorf("zone %q: %w: a name such as Europe/Paris", h.Zone, ErrInvalid)
		}
	}
	return oneOf("override", h.Override, "", "auto", "open", "closed")
}

func checkPhone(s *State, p site.Phone, id site.RecordID) error {
	for _, o := range List[site.Phone](s) {
		if p.MAC != "" && strings.EqualFold(o.MAC, p.MAC) && o.ID != id {
			return fmt.Errorf("MAC %s: %w: by %s", p.MAC, ErrTaken, o.Name)
		}
	}
	for _, l := range p.Lines {
		d, err := site.ParseRecordID(l)
		s.mu.RLock()
		known := err == nil && s.ix.devices[d] != nil
		s.mu.RUnlock()
		if !known {
			return fmt.Errorf("line %.20q: %w: a device's id", l, ErrInvalid)
		}
	}
	return nil
}

func checkShop(s *State, x site.Shop, id site.RecordID) error {
	for _, o := range List[site.Shop](s) {
		if o.ID != id {
			return fmt.Errorf("shop: %w: there is one; change it", ErrTaken)
		}
	}
	if x.Zone != "" {
		if _, err := time.LoadLocation(x.Zone); err != nil || x.Zone == "Local" {
			return fmt.Errorf("zone %q: %w: a name such as Europe/Paris", x.Zone, ErrInvalid)
		}
	}
	if err := oneOf("class", x.Class, classes...); err != nil {
		return err
	}
	if err := checkTestNumber(s, x.TestNumber); err != nil {
		return err
	}
	return checkE164(x.CallBack)
}

// checkTestNumber: a test never disturbs an emergency centre.
func checkTestNumber(s *State, number string) error {
	if d := strings.TrimPrefix(number, "+"); number != "" && (d == "" || len(d) > 15 || strings.Trim(d, "0123456789") != "") {
		return fmt.Errorf("test number %.40q: %w: digits, or E.164", number, ErrInvalid)
	}
	if slices.Contains(s.Own().Emergency, number) || slices.Contains([]string{"112", "911", "999", "000", "110", "119"}, number) {
		return fmt.Errorf("test number %s: %w: it is an emergency number, and a test must not ring there; ask the provider for a number to test with", number, ErrInvalid)
	}
	return nil
}

func oneOf(what, v string, of ...string) error {
	if slices.Contains(of, v) {
		return nil
	}
	return fmt.Errorf("%s %.40q: %w: one of %s", what, v, ErrInvalid, strings.TrimPrefix(strings.Join(of, ", "), ", "))
}

func checkTo(what, v string, must bool) error {
	if v == "" && !must {
		return nil
	}
	if v == "" || len(v) > 64 || strings.ContainsAny(v, "<>\"\r\n") {
		return fmt.Errorf("%s %.40q: %w: what a phone would dial", what, v, ErrInvalid)
	}
	return nil
}

// checkService refuses a number that is not free.
func (s *State) checkService(number string, id site.RecordID) error {
	full, err := s.number(number)
	if err != nil {
		return err
	}
	return s.free(full, id)
}

// serviceOf is the directory's value for a group or a menu of ours, and the
// record it is from.
func (s *State) serviceOf(set *crdt.Set, id site.RecordID) (value []byte, from reader) {
	from = reader{set, TableGroup, string(id[:])}
	for _, t := range []struct {
		table uint16
		kind  EntryKind
	}{{TableGroup, GroupEntry}, {TableMenu, MenuEntry}} {
		r := reader{set, t.table, string(id[:])}
		v, ok := r.latest(serviceNumber)
		if !ok {
			continue
		}
		from = r
		number, err := s.number(string(v.Value))
		if r.final() || r.anyTrue(recordDeleted) || err != nil {
			continue
		}
		e164 := ""
		if t.kind == GroupEntry {
			e164 = r.text(groupE164)
		}
		return marshal(wireEntry{Number: number, Name: r.text(recordName), Home: s.cfg.Site[:], Written: uint64(v.Stamp), Kind: uint8(t.kind),
			E164: e164, NoVoicemail: t.kind == MenuEntry}), r
	}
	return nil, from
}
