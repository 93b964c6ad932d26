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
)

// A Trunk is a line to the outside: an account at a provider, or a gateway.
type Trunk struct {
	Head
	Kind      string   `json:"kind" cell:"2" enum:"register,peer" doc:"register: we register there; peer: a gateway on the LAN or a provider that knows our address"`
	Via       string   `json:"via" cell:"3" enum:"wan,lan" doc:"What it needs: lan works when the Internet is cut"`
	Server    string   `json:"server" cell:"4" doc:"host or host:port"`
	Transport string   `json:"transport,omitempty" cell:"5" enum:"udp,tcp" doc:"Default udp"`
	Domain    string   `json:"domain,omitempty" cell:"6" doc:"Of the account; default the server"`
	User      string   `json:"user,omitempty" cell:"7" doc:"Account"`
	AuthUser  string   `json:"authUser,omitempty" cell:"8" doc:"If it differs from the account"`
	Password  string   `json:"password,omitempty" cell:"9,secret" doc:"Written, never read back"`
	Order     int      `json:"order,omitempty" cell:"10" doc:"The lowest is tried first"`
	Channels  int      `json:"channels,omitempty" cell:"11" doc:"Calls at once; 0: as many as there are"`
	Number    string   `json:"number,omitempty" cell:"12" doc:"Main number, E.164: shown for users without one of their own"`
	Disabled  bool     `json:"disabled,omitempty" cell:"13,true"`
	Profile   Profile  `json:"profile" cell:"14"`
	Accept    []string `json:"accept,omitempty" cell:"15" doc:"Further addresses or prefixes calls come from"`
}

// A Profile is how a provider wants to be spoken to.
type Profile struct {
	Identity  string `json:"identity,omitempty" enum:"from,pai,ppi,rpid" doc:"Where the caller's number goes; default from"`
	Format    string `json:"format,omitempty" enum:"+e164,e164,national" doc:"Of numbers; default +e164"`
	Called    string `json:"called,omitempty" enum:"uri,to,p-called" doc:"Where the number that was called is; default uri"`
	KeepAlive string `json:"keepAlive,omitempty" enum:"none,crlf,options" doc:"Towards the provider; default crlf where a router translates addresses"`
	Every     int    `json:"every,omitempty" doc:"Seconds between keep-alives; default 25"`
	Expires   int    `json:"expires,omitempty" doc:"Seconds a registration is asked for; default 120"`
	NoReturn  bool   `json:"noReturn,omitempty" doc:"It does not deliver calls to our own numbers"`
}

func (Trunk) kind() (uint16, string) { return TableTrunk, "trunk" }

func (t Trunk) check(*State, site.RecordID) error {
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
	p := t.Profile
	for _, x := range []struct {
		what, v string
		of      []string
	}{{"identity", p.Identity, []string{"", "from", "pai", "ppi", "rpid"}}, {"format", p.Format, []string{"", "+e164", "e164", "national"}},
		{"called", p.Called, []string{"", "uri", "to", "p-called"}}, {"keep-alive", p.KeepAlive, []string{"", "none", "crlf", "options"}}} {
		if err := oneOf(x.what, x.v, x.of...); err != nil {
			return err
		}
	}
	if t.Channels < 0 || t.Channels > 1000 || t.Order < 0 || p.Every < 0 || p.Expires < 0 || p.Expires > 86400 {
		return fmt.Errorf("trunk: %w: a number is out of range", ErrInvalid)
	}
	return checkE164(t.Number)
}

// An Inbound says where calls to one of the site's public numbers go.
type Inbound struct {
	Head        // Name is the number, E.164
	To   string `json:"to" cell:"2" doc:"What a phone of the site would dial"`
}

func (Inbound) kind() (uint16, string) { return TableInbound, "inbound number" }

func (n Inbound) check(s *State, id site.RecordID) error {
	if err := checkE164(n.Name); err != nil {
		return err
	}
	for _, o := range List[Inbound](s) {
		if o.Name == n.Name && o.ID != id {
			return fmt.Errorf("number %s: %w: it goes to %s", n.Name, ErrTaken, o.To)
		}
	}
	return checkTo("to", n.To, true)
}

// A Group is a number that rings several users.
type Group struct {
	Head
	Number    string   `json:"number" cell:"2" doc:"Extension"`
	Strategy  string   `json:"strategy,omitempty" cell:"3" enum:"all,turn" doc:"all ring together (default), or in turn"`
	Ring      int      `json:"ring,omitempty" cell:"4" doc:"Seconds, of all or of each in turn; default 20"`
	Overflow  string   `json:"overflow,omitempty" cell:"5" doc:"Where a call goes that nobody took: a number, or voicemail (the group's own box); default voicemail"`
	Members   []string `json:"members" cell:"32,set" doc:"Users' ids"`
	Mailboxes []string `json:"mailboxes,omitempty" cell:"33,set" doc:"Users whose lamp shows the group's box"`
}

func (Group) kind() (uint16, string) { return TableGroup, "group" }

func (g Group) check(s *State, id site.RecordID) error {
	if err := oneOf("strategy", g.Strategy, "", "all", "turn"); err != nil {
		return err
	}
	if g.Ring != 0 && (g.Ring < 5 || g.Ring > 120) {
		return fmt.Errorf("ring %d: %w: 5 to 120 seconds", g.Ring, ErrInvalid)
	}
	if len(g.Members) > 64 {
		return fmt.Errorf("members: %w: at most 64", ErrInvalid)
	}
	for _, m := range append(slices.Clone(g.Members), g.Mailboxes...) {
		u, err := site.ParseRecordID(m)
		if err != nil {
			return fmt.Errorf("member %.20q: %w: a user's id", m, ErrInvalid)
		}
		s.mu.RLock()
		known := s.ix.byUser[u] != nil
		s.mu.RUnlock()
		if !known {
			return fmt.Errorf("member %s: %w", m, ErrNotFound)
		}
	}
	if err := checkTo("overflow", g.Overflow, false); err != nil {
		return err
	}
	return s.checkService(g.Number, id)
}

// A Menu answers calls and lets the caller choose.
type Menu struct {
	Head
	Number  string   `json:"number" cell:"2" doc:"Extension"`
	Hours   string   `json:"hours,omitempty" cell:"3" doc:"Id of opening hours; without, always open"`
	Open    MenuPart `json:"open" cell:"4"`
	Closed  MenuPart `json:"closed" cell:"5" doc:"Outside opening hours; empty: the same"`
	Dial    bool     `json:"dial,omitempty" cell:"6" doc:"The caller may dial an extension"`
	Tries   int      `json:"tries,omitempty" cell:"7" doc:"Then the fallback; default 3"`
	Wait    int      `json:"wait,omitempty" cell:"8" doc:"Seconds for a key; default 5"`
	Default string   `json:"fallback,omitempty" cell:"9" doc:"Where a caller goes who chose nothing; default: hung up"`
}

// A MenuPart is what a menu says and offers at a time of day.
type MenuPart struct {
	Prompt  string            `json:"prompt,omitempty" doc:"Name of a built-in prompt"`
	Audio   string            `json:"audio,omitempty" doc:"Hash of a recording"`
	Keys    map[string]string `json:"keys,omitempty" doc:"0-9, * or #: what a phone of the site would dial, voicemail EXT, or repeat"`
	Forward string            `json:"forward,omitempty" doc:"No choice: the call goes there at once, after the prompt"`
}

func (Menu) kind() (uint16, string) { return TableMenu, "menu" }

func (m Menu) check(s *State, id site.RecordID) error {
	for _, p := range []MenuPart{m.Open, m.Closed} {
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
			_, err = Get[Hours](s, h)
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

// Hours are when a shop is open, and the switch that overrides them.
type Hours struct {
	Head
	Zone     string `json:"zone,omitempty" cell:"2" doc:"Time zone, such as Europe/Paris; default the shop's"`
	Text     string `json:"text" cell:"3" doc:"Such as: Mo-Fr 09:00-12:30,13:30-19:00; Sa 10:00-18:00; 12-25 closed"`
	Override string `json:"override,omitempty" cell:"4" enum:"auto,open,closed" doc:"The night switch; default auto"`
	Until    int64  `json:"until,omitempty" cell:"5" doc:"End of the override, Unix seconds; 0: until it is switched back"`
}

func (Hours) kind() (uint16, string) { return TableHours, "opening hours" }

func (h Hours) check(*State, site.RecordID) error {
	if h.Zone != "" {
		if _, err := time.LoadLocation(h.Zone); err != nil || h.Zone == "Local" {
			return fmt.Errorf("zone %q: %w: a name such as Europe/Paris", h.Zone, ErrInvalid)
		}
	}
	return oneOf("override", h.Override, "", "auto", "open", "closed")
}

// A Phone is a device that fetches its settings from us.
type Phone struct {
	Head              // Name is what people call it: "till 1"
	MAC      string   `json:"mac" cell:"2"`
	Vendor   string   `json:"vendor" cell:"3" doc:"yealink, snom, snom-m, gigaset, ht8xx, akuvox"`
	Model    string   `json:"model,omitempty" cell:"4"`
	Lines    []string `json:"lines" cell:"5" doc:"Devices' ids, in order"`
	Keys     []Key    `json:"keys,omitempty" cell:"6"`
	Language string   `json:"language,omitempty" cell:"7"`
	Admin    string   `json:"admin,omitempty" cell:"8,secret" doc:"Password of the phone's own page"`
	Place    string   `json:"place,omitempty" cell:"9" doc:"Where it stands, for emergency calls"`
	Token    string   `json:"-" cell:"10,secret"`
}

// A Key is a programmable key.
type Key struct {
	Type  string `json:"type" doc:"line, blf, speed, park, night"`
	Value string `json:"value,omitempty"`
	Label string `json:"label,omitempty"`
}

func (Phone) kind() (uint16, string) { return TablePhone, "phone" }

func (p Phone) check(s *State, id site.RecordID) error {
	for _, o := range List[Phone](s) {
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

// A Shop is what holds for the whole site; there is one.
type Shop struct {
	Head              // Name is the site's
	Zone     string   `json:"zone,omitempty" cell:"2" doc:"Time zone, such as Europe/Paris"`
	Address  string   `json:"address,omitempty" cell:"3" doc:"For emergency calls"`
	CallBack string   `json:"callBack,omitempty" cell:"4" doc:"Number shown in emergency calls of phones without one, E.164"`
	Desk     string   `json:"desk,omitempty" cell:"5" doc:"Extension that is told of emergency calls"`
	Music    string   `json:"music,omitempty" cell:"6" doc:"Hash of a recording; default built in"`
	Orbits   []string `json:"orbits,omitempty" cell:"7" doc:"Extensions calls are parked at; default 3"`
	Waived   string   `json:"waived,omitempty" cell:"8" doc:"Who accepted that no emergency call is possible when the Internet is cut"`
	Recall   int      `json:"recall,omitempty" cell:"9" doc:"Seconds after which a parked call rings its parker; default 60"`
}

func (Shop) kind() (uint16, string) { return TableShop, "shop" }

func (x Shop) check(s *State, id site.RecordID) error {
	for _, o := range List[Shop](s) {
		if o.ID != id {
			return fmt.Errorf("shop: %w: there is one; change it", ErrTaken)
		}
	}
	if x.Zone != "" {
		if _, err := time.LoadLocation(x.Zone); err != nil || x.Zone == "Local" {
			return fmt.Errorf("zone %q: %w: a name such as Europe/Paris", x.Zone, ErrInvalid)
		}
	}
	for _, o := range x.Orbits {
		if !digits(o) {
			return fmt.Errorf("orbit %q: %w: digits", o, ErrInvalid)
		}
	}
	if x.Recall != 0 && (x.Recall < 10 || x.Recall > 3600) {
		return fmt.Errorf("recall %d: %w: 10 to 3600 seconds", x.Recall, ErrInvalid)
	}
	return checkE164(x.CallBack)
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
		return marshal(wireEntry{Number: number, Name: r.text(recordName), Home: s.cfg.Site[:], Written: uint64(v.Stamp), Kind: uint8(t.kind),
			NoVoicemail: t.kind == MenuEntry}), r
	}
	return nil, from
}
