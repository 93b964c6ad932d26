package node

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/pair"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/sipcore/b2bua"
	"carrierclass.net/ccnode/sipcore/edge"
	"carrierclass.net/ccnode/sipcore/stack"
	"carrierclass.net/ccnode/sipcore/trunk"
)

// resolver finds the addresses of providers; in a world of tests there are only
// addresses.
func (n *Node) resolver() edge.Resolver {
	if n.opt.World != nil {
		return nil
	}
	return edge.HostResolver{}
}

// house knows what concerns the site's lines to the outside.
type house struct{ n *Node }

var _ stack.House = house{}

// Public is where a call to a public number goes: as its record says, else to
// the user of the site who has it.
func (h house) Public(number string) string {
	for _, x := range state.List[site.Inbound](h.n.state) {
		if x.Name == number {
			return x.To
		}
	}
	if e, ok := h.n.state.Pick(number); ok && e.Home == h.n.member.Site {
		return e.Number
	}
	return ""
}

// Rescued is the telephone that made an emergency call which showed the number.
func (h house) Rescued(number string) string { return h.n.pairLines.Rescued(number) }

// shop is the record of the whole site; empty before somebody makes it.
func (n *Node) shop() site.Shop {
	if all := state.List[site.Shop](n.state); len(all) > 0 {
		return all[0]
	}
	return site.Shop{}
}

// zone is the time of the shop.
func (n *Node) zone() *time.Location {
	if zone, err := time.LoadLocation(zoneOf(n.state)); err == nil {
		return zone
	}
	return time.UTC
}

// CallBack is the caller's own public number, else the shop's.
func (h house) CallBack(from site.Party) string {
	if e, ok := h.n.state.Entry(from.User); ok && e.E164 != "" {
		return e.E164
	}
	return h.n.shop().CallBack
}

// rescueFor is how long a call to the number an emergency call showed rings the
// telephone it came from (calls.md §3 step 0).
const rescueFor = time.Hour

// Urgent is called as an emergency call begins and ends: it is in the log and on
// the front desk's telephones at once, and a call back finds the caller.
func (h house) Urgent(e b2bua.Emergency) {
	n := h.n
	if e.Test {
		h.tested(e)
		return
	}
	log := n.log.With("call", e.Chain, "from", e.From.AOR.User, "name", e.From.Display, "number", e.Number, "trunk", e.Trunk)
	now := n.now()
	shop := n.shop()
	if zone, err := time.LoadLocation(shop.Zone); err == nil {
		now = now.In(zone)
	}
	text := fmt.Sprintf("EMERGENCY CALL to %s by %s (%s), %s", e.Number, e.From.Display, e.From.Number, now.Format("15:04:05"))
	if e.Over {
		log.Warn("Emergency call over", "cause", e.Cause.String())
		text = fmt.Sprintf("Emergency call to %s by %s (%s) is over", e.Number, e.From.Display, e.From.Number)
		if e.Trunk == "" {
			text = fmt.Sprintf("EMERGENCY CALL to %s by %s (%s) FOUND NO LINE: call by other means", e.Number, e.From.Display, e.From.Number)
		}
	} else {
		log.Warn("EMERGENCY CALL")
	}
	abroad := e.Peer && e.From.Site != n.member.Site
	switch {
	case abroad:
		text += "; at another shop, over the lines of this one"
		if e.Place != "" {
			text += ": " + e.Place
		}
	case shop.Address != "":
		text += "; " + shop.Address
	}
	numbers := append(n.mainNumbers(), e.CallBack)
	if abroad { // only what the emergency centre saw: the rest is for this shop
		numbers = numbers[:0]
		for _, t := range n.trunkRecords() {
			if t.Name == e.Trunk {
				numbers = append(numbers, t.Number)
			}
		}
	}
	var back []pair.Rescue
	for _, number := range numbers {
		back = append(back, pair.Rescue{Number: number, Line: e.From.AOR.User, At: now, Until: now.Add(rescueFor)})
	}
	n.pairLines.Rescue(back...)
	n.linesMu.Lock()
	n.lastEmergency = &api.Emergency{At: now, Number: e.Number, From: e.From.Number, Name: e.From.Display, Trunk: e.Trunk, Over: e.Over}
	n.linesMu.Unlock()
	if e.Peer && !abroad {
		return // our other box has told the desk
	}
	n.tellDesk(shop, "Emergency", text)
}

// tellDesk shows a text on the front desk's telephones.
func (n *Node) tellDesk(shop site.Shop, from, text string) {
	if shop.Desk == "" {
		return
	}
	if d, ok := n.state.Pick(n.state.Own().Code + shop.Desk); ok {
		if n.calls.sip.Tell(view{n}.entry(d).AOR, from, text) == 0 {
			n.log.Warn("The front desk has no telephone that can be told", "desk", shop.Desk)
		}
	}
}

// Settle asks the pair's other node about a call from outside. Two calls back
// to who made an emergency call are never taken for one.
func (h house) Settle(ctx context.Context, a b2bua.Arrival) (release func(), mine bool) {
	x := pair.Arrival{Exact: a.CallID + "\x00" + a.FromTag + "\x00" + strconv.FormatUint(uint64(a.CSeq), 10)}
	if a.Caller != "" && a.Called != "" && h.n.pairLines.Rescued(a.Called) == "" {
		x.Alike = a.Trunk + "\x00" + a.Caller + "\x00" + a.Called
	}
	return h.n.pairLines.Settle(ctx, x)
}

// mainNumbers are those the trunks show of themselves.
func (n *Node) mainNumbers() (out []string) {
	for _, t := range n.trunkRecords() {
		out = append(out, t.Number)
	}
	return out
}

// lines tells how the ways out are.
func (n *Node) lines() []api.TrunkState {
	out := []api.TrunkState{}
	if n.calls == nil || n.calls.sip == nil || n.calls.sip.Trunks() == nil {
		return out
	}
	now := n.now()
	for _, s := range n.calls.sip.Trunks().States() {
		out = append(out, api.TrunkState{Name: s.Name, Via: string(s.Via), Usable: s.Usable(now), State: s.String(), Calls: s.Used})
	}
	return out
}

// lineWarnings say what is wrong with the ways out.
func (n *Node) lineWarnings() (out []string) {
	all := n.trunkRecords()
	if len(all) == 0 {
		return nil
	}
	if shop := n.shop(); shop.Waived == "" && !slices.ContainsFunc(all, func(t site.Trunk) bool { return t.Via == "lan" }) {
		out = append(out, "no emergency calls when the Internet is cut: no line is on the LAN; add a gateway (ccnode trunk create NAME --kind peer --via lan --server ADDRESS), or accept it by name (ccnode shop set SHOP --waived NAME)")
	}
	for _, l := range n.lines() {
		if !l.Usable {
			out = append(out, "trunk "+l.Name+": "+l.State)
		}
	}
	return out
}

// Site is how phones dial here.
func (b *backend) Site(context.Context) (api.SiteSettings, error) {
	x := b.n.state.Own()
	also := []string{}
	for _, id := range x.AlsoAt {
		other, _ := b.n.state.Site(id)
		also = append(also, cmp.Or(other.Code, id.String()))
	}
	return api.SiteSettings{Code: x.Code, AlsoAt: also, VisitorsFor: x.VisitorsFor.String(), Name: x.Name, ExtensionDigits: x.ExtLen, Access: x.Access, Outside: x.Outside, Country: x.Country,
		National: x.National, Abroad: x.Abroad, Number: x.Number, Emergency: x.Emergency, ThinLine: x.Thin}, nil
}

func (b *backend) PatchSite(ctx context.Context, by string, p api.SitePatch) (api.SiteSettings, error) {
	x := b.n.state.Own()
	for _, t := range []struct {
		to   *string
		from *string
	}{{&x.Name, p.Name}, {&x.Access, p.Access}, {&x.Outside, p.Outside}, {&x.Country, p.Country}, {&x.National, p.National}, {&x.Abroad, p.Abroad}, {&x.Number, p.Number}} {
		if t.from != nil {
			*t.to = *t.from
		}
	}
	if p.Emergency != nil {
		for _, n := range *p.Emergency {
			if n == "" || len(n) > 10 || strings.Trim(n, "0123456789") != "" {
				return api.SiteSettings{}, api.Invalid(fmt.Sprintf("emergency number %.20q is not one", n), "digits only, such as 112")
			}
		}
		x.Emergency = *p.Emergency
	}
	if p.ThinLine != nil {
		x.Thin = *p.ThinLine
	}
	if p.VisitorsFor != nil {
		d, err := time.ParseDuration(*p.VisitorsFor)
		if err != nil || d <= 0 {
			return api.SiteSettings{}, api.Invalid(fmt.Sprintf("duration %q cannot be read", *p.VisitorsFor), "write it like 12h")
		}
		x.VisitorsFor = d
	}
	if p.AlsoAt != nil {
		x.AlsoAt = nil
		for _, code := range *p.AlsoAt {
			i := slices.IndexFunc(b.n.state.Sites(), func(o state.Site) bool { return o.Code == code })
			switch {
			case i < 0:
				return api.SiteSettings{}, api.Invalid(fmt.Sprintf("no site %.20q", code), "give the code of another site of the fleet")
			case code == x.Code:
				return api.SiteSettings{}, api.Invalid("a site keeps its own state anyway", "give the codes of other sites")
			}
			if id := b.n.state.Sites()[i].ID; !slices.Contains(x.AlsoAt, id) {
				x.AlsoAt = append(x.AlsoAt, id)
			}
		}
	}
	if _, err := b.n.state.PutSite(ctx, by, x); err != nil {
		return api.SiteSettings{}, refuse(err)
	}
	b.n.linesChanged()
	b.n.stirExchange()
	return b.Site(ctx)
}

// trunkNames are the site's lines to the outside, in order of preference.
func (n *Node) trunkNames() []string {
	all := n.trunkRecords()
	out := make([]string, len(all))
	for i, t := range all {
		out[i] = t.Name
	}
	return out
}

func (n *Node) trunkRecords() []site.Trunk {
	all := slices.DeleteFunc(state.List[site.Trunk](n.state), func(t site.Trunk) bool { return t.Disabled })
	slices.SortStableFunc(all, func(a, b site.Trunk) int { return cmp.Compare(a.Order, b.Order) })
	return all
}

// followLines keeps the lines as the records say, until stop is closed. Changes
// that come together are one.
func (n *Node) followLines(t *trunk.Trunks, stop <-chan struct{}) {
	for {
		n.setTrunks(t)
		select {
		case <-n.linesStir:
		case <-stop:
			return
		}
		pause := time.NewTimer(100 * time.Millisecond)
		select {
		case <-pause.C:
		case <-stop:
			pause.Stop()
			return
		}
	}
}

// linesChanged says that a record was changed that may concern the lines.
func (n *Node) linesChanged() {
	select {
	case n.linesStir <- struct{}{}:
	default:
	}
}

func (n *Node) setTrunks(t *trunk.Trunks) {
	var numbers []string
	for _, x := range state.List[site.Inbound](n.state) {
		numbers = append(numbers, x.Name)
	}
	for _, e := range n.state.Directory() {
		if e.Home == n.member.Site && e.E164 != "" {
			numbers = append(numbers, e.E164)
		}
	}
	slices.Sort(numbers)
	var all []trunk.Trunk
	for _, r := range n.trunkRecords() {
		secret, err := state.Reveal[site.Trunk](n.state, r.ID, trunkPassword)
		if err != nil {
			n.log.Error("A trunk's password cannot be read here", "trunk", r.Name, "err", err)
		}
		all = append(all, trunkOf(r, secret, numbers))
	}
	own := n.state.Own()
	t.SetPlan(trunk.Plan{Country: own.Country, Trunk: own.National, Abroad: own.Abroad})
	if err := t.Set(all); err != nil {
		n.log.Error("The trunks stay as they were", "err", err)
	}
}

// trunkPassword is the number of that field.
const trunkPassword = 9

func trunkOf(r site.Trunk, secret string, numbers []string) trunk.Trunk {
	p := r.Profile
	host, port := hostAndPort(r.Server)
	t := trunk.Trunk{Name: r.Name, Kind: trunk.Kind(r.Kind), Via: trunk.Way(r.Via), Server: host, Port: port, Transport: site.Transport(cmp.Or(r.Transport, "udp")),
		Domain: r.Domain, User: r.User, AuthUser: r.AuthUser, Password: trunk.Secret(secret), Number: r.Number, Numbers: slices.Clone(numbers),
		Every: time.Duration(p.Every) * time.Second, Expires: time.Duration(p.Expires) * time.Second, Channels: r.Channels,
		PublicContact: p.Contact == "public", Dial: formats[p.Format], Incoming: formats[p.Format], Called: places[p.Called],
		Identity: trunk.Identity{PAI: p.Identity == "pai", PPI: p.Identity == "ppi", RPID: p.Identity == "rpid", Account: p.Identity != "" && p.Identity != "from",
			Format: formats[p.Format], Name: true}}
	if p.Realm != "" {
		t.Realms = []string{p.Realm}
	}
	if r.Number != "" {
		t.Numbers = append(t.Numbers, r.Number)
	}
	switch p.KeepAlive {
	case "crlf":
		t.Alive = trunk.CRLF
	case "options":
		t.Alive = trunk.Options
	case "":
		if r.Kind == "register" && r.Via == "wan" {
			t.Alive = trunk.CRLF
		}
	}
	for _, a := range r.Accept {
		if pre, err := netip.ParsePrefix(a); err == nil {
			t.Allowed = append(t.Allowed, pre)
		} else if ip, err := netip.ParseAddr(a); err == nil {
			t.Allowed = append(t.Allowed, netip.PrefixFrom(ip, ip.BitLen()))
		}
	}
	return t
}

var (
	formats = map[string]trunk.Format{"": trunk.Plus, "+e164": trunk.Plus, "e164": trunk.Bare, "national": trunk.National}
	places  = map[string]trunk.Where{"": trunk.Anywhere, "uri": trunk.InRequestURI, "to": trunk.InTo, "p-called": trunk.InCalledParty}
)

// hostAndPort cuts the port off, if there is one.
func hostAndPort(s string) (host string, port int) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().String(), int(ap.Port())
	}
	host, digits, ok := strings.Cut(s, ":")
	if !ok || strings.Contains(digits, ":") { // a bare IPv6 address
		return s, 0
	}
	for _, c := range digits {
		if c < '0' || c > '9' || port > 65535 {
			return s, 0
		}
		port = port*10 + int(c-'0')
	}
	return host, port
}
