package node

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"carrierclass.net/ccnode/features/nightswitch"
	"carrierclass.net/ccnode/features/supplementary"
	"carrierclass.net/ccnode/features/voicemail"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/state"
	"carrierclass.net/ccnode/mesh"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/route"
)

// view is the state as routing wants it. Every answer is from memory.
type view struct{ n *Node }

// codes are the feature codes of every site.
var codes = func() []route.Code {
	out := []route.Code{{Digits: "*97", Feature: voicemail.Listen}, {Digits: nightCode, Feature: nightswitch.Name}}
	for _, c := range supplementary.Codes {
		out = append(out, route.Code{Digits: c.Digits, Feature: c.Name(), Rest: c.Number()})
	}
	return append(out, route.MidCall...)
}()

func (v view) Domain() string {
	_, d := v.n.state.Fleet()
	return d
}

func (v view) Own() route.Site { return v.site(v.n.state.Own()) }

func (v view) site(s state.Site) route.Site {
	out := route.Site{ID: s.ID, Code: s.Code, Name: s.Name, ExtLen: s.ExtLen, Access: s.Access, Outside: s.Outside,
		Country: s.Country, National: s.National, Abroad: s.Abroad, Emergency: s.Emergency, Codes: codes, Number: s.Number}
	var slow []site.NodeID
	for _, x := range v.n.state.Nodes(s.ID) {
		if v.n.reach.Suspect(x.ID) {
			slow = append(slow, x.ID)
			continue
		}
		out.Nodes = append(out.Nodes, x.ID)
		if rtt := v.n.mesh.Stats(mesh.PeerID(x.ID)).RoundTrip; rtt > out.RoundTrip {
			out.RoundTrip = rtt
		}
	}
	out.Nodes = append(out.Nodes, slow...)
	if out.RoundTrip > time.Second {
		out.RoundTrip = time.Second // it includes the other side's fsync and acknowledgement delay
	}
	return out
}

func (v view) SiteByCode(code string) (route.Site, bool) {
	s, ok := v.n.state.SiteByCode(code)
	if !ok {
		return route.Site{}, false
	}
	return v.site(s), true
}

func (v view) SiteByID(id site.ID) (route.Site, bool) {
	s, ok := v.n.state.Site(id)
	if !ok {
		return route.Site{}, false
	}
	return v.site(s), true
}

func (v view) CodeBegins(prefix string) bool { return v.n.state.CodeBegins(prefix) }

// Local says whether host names this node, its pair or its site.
func (v view) Local(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		for _, a := range v.n.cfg.Listen {
			if a == ip.Unmap() {
				return true
			}
		}
		if host == v.n.cfg.Advertise {
			return true
		}
		for _, x := range v.n.state.Nodes(v.n.member.Site) {
			for _, a := range x.SIP {
				if ap, err := netip.ParseAddrPort(a); err == nil && ap.Addr() == ip.Unmap() {
					return true
				}
			}
		}
		return false
	}
	d := v.n.member.Domain
	return host == d || host == "s"+v.n.member.Code+"."+d || host == v.n.member.Letter+".s"+v.n.member.Code+"."+d || host == "localhost"
}

func (v view) Lookup(number string) []route.Entry {
	es := v.n.state.Lookup(number)
	out := make([]route.Entry, len(es))
	for i, e := range es {
		out[i] = v.entry(e)
	}
	return out
}

func (v view) entry(e state.Entry) route.Entry {
	var serving []site.ID
	if at, ok := v.n.state.Roaming(e.User); ok && e.Kind == state.UserEntry {
		serving = []site.ID{at}
	}
	return route.Entry{User: e.User, Serving: serving, AOR: site.AOR{User: e.Number, Domain: v.Domain()}, Name: e.Name, Home: e.Home,
		E164: e.E164, Written: uint64(e.Written), Disabled: e.Disabled, NoVoicemail: e.NoVoicemail, Kind: entryKinds[e.Kind]}
}

var entryKinds = map[state.EntryKind]route.EntryKind{state.UserEntry: route.User, state.GroupEntry: route.Group, state.MenuEntry: route.Menu}

func (v view) Settings(user site.RecordID) (route.Settings, bool) {
	u, ok := v.n.state.Settings(user)
	if !ok {
		return v.service(user)
	}
	return route.Settings{Disabled: u.Disabled, DND: u.DND, All: u.ForwardAll, OnBusy: u.OnBusy, OnNoAnswer: u.OnNoAnswer,
		OnOffline: u.OnOffline, Ring: u.Ring, NoVoicemail: u.NoVoicemail}, true
}

// service is what a group's or a menu's record says.
func (v view) service(id site.RecordID) (route.Settings, bool) {
	if g, ok := state.Peek[site.Group](v.n.state, id); ok {
		out := route.Settings{OnNoAnswer: g.Overflow, Ring: time.Duration(g.Ring) * time.Second, InTurn: g.Strategy == "turn"}
		for _, m := range g.Members {
			if u, err := site.ParseRecordID(m); err == nil {
				if e, ok := v.n.state.Entry(u); ok {
					out.Members = append(out.Members, v.entry(e))
				}
			}
		}
		slices.SortFunc(out.Members, func(a, b route.Entry) int { return strings.Compare(a.AOR.User, b.AOR.User) })
		return out, true
	}
	_, ok := state.Peek[site.Menu](v.n.state, id)
	return route.Settings{}, ok
}

func (v view) Bindings(aor site.AOR) int { return len(v.n.pair.Bindings(aor)) }

// Suspect: none of the site's nodes was reached lately.
func (v view) Suspect(id site.ID) bool {
	nodes := v.n.state.Nodes(id)
	for _, x := range nodes {
		if !v.n.reach.Suspect(x.ID) {
			return false
		}
	}
	return len(nodes) > 0
}

// Class is the user's, if the record is here and has one, else the shop's.
func (v view) Class(user site.RecordID) route.Class {
	if u, ok := v.n.state.Settings(user); ok && u.Class != "" {
		return route.Class(u.Class)
	}
	return route.Class(v.n.shop().Class)
}

// Lines are the trunks, with what limits them now.
func (v view) Lines() []route.Line {
	all := v.n.trunkRecords()
	out := make([]route.Line, len(all))
	down := map[string]bool{}
	for _, s := range v.n.lines() {
		down[s.Name] = !s.Usable
	}
	for i, t := range all {
		out[i] = route.Line{Name: t.Name, Only: t.Only, Bar: t.Bar, Down: down[t.Name]}
		if t.Minutes > 0 && v.n.calls != nil {
			if used := v.n.calls.records.today(t.Name); used >= time.Duration(t.Minutes)*time.Minute {
				out[i].Over = "its minutes of today are used up, " + strconv.Itoa(t.Minutes)
			}
		}
	}
	return out
}

// Returns: the number is the site's, by a record, a user, a group or a trunk.
func (v view) Returns(number string) bool {
	return house{v.n}.Public(number) != "" || number == v.n.state.Own().Number || slices.Contains(v.n.mainNumbers(), number)
}

// credentials are the state's, in signalling's words.
type credentials struct{ s *state.State }

func (c credentials) Credentials(username, realm string) []sipcore.Credential {
	cs := c.s.Credentials(username, realm)
	out := make([]sipcore.Credential, len(cs))
	for i, x := range cs {
		out[i] = sipcore.Credential{Device: x.Device, HA1MD5: x.HA1MD5, HA1SHA256: x.HA1SHA256, SHA256: x.SHA256, Disabled: x.Disabled,
			Lines: []sipcore.Line{{AOR: x.AOR, User: x.User, Name: x.Name}}}
	}
	return out
}
