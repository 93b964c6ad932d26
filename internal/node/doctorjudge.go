package node

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/sipcore/trunk"
)

// Checks of the doctor, each a question.
const (
	checkALG      = "sip-alg"
	checkNAT      = "double-nat"
	checkUDP      = "udp"
	checkPassword = "trunk-password"
	checkTrunk    = "trunk"
	checkClock    = "clock"
	checkAddress  = "address"
	checkVLAN     = "other-network"
	checkWayOut   = "way-out"
	checkPeers    = "other-boxes"
)

// judge names what is wrong, by the facts alone. Every check answers with at
// least one finding; what nobody could measure is said to be so.
func judge(f facts) (out []api.Finding) {
	for _, check := range []func(facts) []api.Finding{judgeTrunks, judgeUDP, judgeALG, judgeNAT, judgeClock, judgeAddress, judgeNetworks, judgeWayOut, judgePeers} {
		out = append(out, check(f)...)
	}
	return out
}

func finding(level, check, what, why, do string) api.Finding {
	return api.Finding{Level: level, Check: check, What: what, Why: why, Do: do}
}

// answered are the trunks that the other end ever answered.
func (f facts) answered() (out []trunkFact) {
	for _, t := range f.trunks {
		if !t.At.IsZero() {
			out = append(out, t)
		}
	}
	return out
}

func names(ts []trunkFact) string {
	var out []string
	for _, t := range ts {
		out = append(out, t.Name)
	}
	return strings.Join(out, ", ")
}

func clockTime(t time.Time) string { return t.Format("2006-01-02 15:04:05") }

// lastWords is the newest answer of a trunk's other end.
func lastWords(t trunkFact) string {
	if t.At.IsZero() {
		return "nothing ever came back from " + t.Server
	}
	return strings.TrimSpace(fmt.Sprintf("%s answered %d %s at %s", t.Server, t.Status, t.Reason, clockTime(t.At)))
}

// judgeTrunks: passwords, and whatever else a trunk says of itself.
func judgeTrunks(f facts) (out []api.Finding) {
	if len(f.trunks) == 0 {
		return []api.Finding{finding(api.LevelUnknown, checkPassword, "Trunk passwords were not looked at: there is no trunk.", "", "")}
	}
	var fine []trunkFact
	for _, t := range f.trunks {
		name := "Trunk " + t.Name
		switch t.Phase {
		case trunk.WrongPassword:
			out = append(out, finding(api.LevelFault, checkPassword, name+": wrong password.", lastWords(t)+" to a request that carried the password",
				fmt.Sprintf("ask the provider for user and password, then: ccnode trunk set %s --user USER --password -", t.Name)))
		case trunk.WrongRealm:
			out = append(out, finding(api.LevelFault, checkPassword, name+": somebody else than the provider asks for the password; it was not sent.", t.Err,
				fmt.Sprintf("if the provider's domain is another one: ccnode trunk set %s --domain DOMAIN", t.Name)))
		case trunk.Refused:
			out = append(out, finding(api.LevelFault, checkTrunk, name+": refused by the other end.", lastWords(t), "compare user, domain and server with the provider's letter, and ask it whether the account is open"))
		case trunk.NoAddress:
			out = append(out, finding(api.LevelFault, checkTrunk, name+": its server "+t.Server+" has no address.", t.Err, "look for a typing error in --server; if other names are not found either, the Internet or the DNS server of this box is away"))
		case trunk.NoAnswer:
			if t.silentUDP() {
				continue // judgeUDP
			}
			out = append(out, finding(api.LevelFault, checkTrunk, name+": no answer since "+clockTime(t.Since)+".", lastWords(t), "see whether the Internet is there, and ask the provider"))
		case trunk.Registered, trunk.Reachable:
			fine = append(fine, t)
		case trunk.Ready:
			out = append(out, finding(api.LevelUnknown, checkTrunk, name+" was not asked: it is known by its address only.", "its record asks for no keep-alive", fmt.Sprintf("to see whether it lives: ccnode trunk set %s --profile-keep-alive options", t.Name)))
		case trunk.Held:
			out = append(out, finding(api.LevelOK, checkTrunk, name+" is held by the other box of this site.", "", ""))
		case trunk.Starting, trunk.Trying:
			if !t.silentUDP() || t.Phase == trunk.Starting {
				out = append(out, finding(api.LevelUnknown, checkTrunk, name+": no verdict yet.", t.String(), "ask again in half a minute"))
			}
		}
	}
	if len(fine) > 0 {
		out = append(out, finding(api.LevelOK, checkPassword, "Trunks that answer, with the right password: "+names(fine)+".", "", ""))
	}
	return out
}

// judgeUDP: a trunk on UDP that never got any answer, by what TCP to the same
// host and other ways out show.
func judgeUDP(f facts) (out []api.Finding) {
	var works, silent []trunkFact
	for _, t := range f.trunks {
		switch {
		case t.silentUDP():
			silent = append(silent, t)
		case t.transport == "udp" && !t.At.IsZero():
			works = append(works, t)
		}
	}
	var tcp string // something outside that answers over TCP
	for _, t := range f.trunks {
		if t.transport == "tcp" && t.Via == trunk.WAN && !t.At.IsZero() {
			tcp = "trunk " + t.Name + " was answered over TCP"
		}
	}
	for _, p := range f.peers {
		if p.reach && !p.here {
			tcp = "box " + p.name + " of another site is linked over TCP"
		}
	}
	for _, t := range silent {
		why := "its requests over UDP never got any answer"
		set := fmt.Sprintf("let the router pass UDP from this box to %s; or go by TCP if the provider offers it: ccnode trunk set %s --transport tcp", t.Server, t.Name)
		sure := len(works) == 0
		switch {
		case t.Phase == trunk.Trying:
			out = append(out, finding(api.LevelUnknown, checkUDP, "Trunk "+t.Name+": no answer over UDP so far.", "asked since "+clockTime(t.Since), "ask again in half a minute"))
		case t.probe == tcpOpen && sure:
			out = append(out, finding(api.LevelFault, checkUDP, "UDP seems blocked: trunk "+t.Name+" gets no answer.", why+", but "+t.probeWhy, set))
		case t.probe == tcpOpen, t.probe == tcpRefused && !sure:
			out = append(out, finding(api.LevelFault, checkUDP, "Trunk "+t.Name+": no answer over UDP.", fmt.Sprintf("%s; %s; UDP works towards %s, so it is not blocked in general", why, t.probeWhy, names(works)), "look at the port in --server; "+set))
		case t.probe == tcpRefused:
			out = append(out, finding(api.LevelFault, checkUDP, "UDP is blocked, or "+t.Server+" is no SIP server: trunk "+t.Name+" gets no answer.", why+"; "+t.probeWhy, "compare --server with the provider's letter; "+set))
		case sure && tcp != "" && t.Via == trunk.WAN:
			out = append(out, finding(api.LevelFault, checkUDP, "UDP seems blocked: trunk "+t.Name+" gets no answer.", joinWhy(why+", but "+tcp, t.probeWhy), set))
		default:
			out = append(out, finding(api.LevelFault, checkTrunk, "Trunk "+t.Name+": no answer at all; whether UDP is blocked cannot be told.", joinWhy(why, t.probeWhy), "see whether the Internet is there (for a gateway: its cable and address), and compare --server with the provider's letter"))
		}
	}
	switch {
	case len(works) > 0:
		out = append(out, finding(api.LevelOK, checkUDP, "UDP passes: answers came over it by "+names(works)+".", "", ""))
	case len(silent) == 0:
		out = append(out, finding(api.LevelUnknown, checkUDP, "Whether UDP is blocked was not looked at: no trunk uses it.", "", ""))
	}
	return out
}

func joinWhy(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}

// judgeALG: our Via or Contact as they came back.
func judgeALG(f facts) (out []api.Finding) {
	seen := f.answered()
	for _, t := range seen {
		if t.ALG {
			why := "our Via or Contact came back altered"
			if t.Listed != "" && t.Contact != "" {
				why = fmt.Sprintf("the Contact we sent was %s, the provider lists %s, or our Via came back altered", t.Contact, t.Listed)
			}
			out = append(out, finding(api.LevelFault, checkALG, "A router on the way to trunk "+t.Name+" rewrites SIP (SIP ALG).", why, "switch \"SIP ALG\" (also \"SIP helper\", \"SIP passthrough\") off in the router; or use TCP: ccnode trunk set "+t.Name+" --transport tcp"))
		}
	}
	switch {
	case len(out) > 0:
	case len(seen) == 0:
		out = append(out, finding(api.LevelUnknown, checkALG, "SIP ALG was not looked at: no trunk has been answered.", "", ""))
	default:
		out = append(out, finding(api.LevelOK, checkALG, "No SIP ALG: our Via and Contact came back as sent by "+names(seen)+".", "", ""))
	}
	return out
}

// sharedSpace is of carriers that translate themselves (RFC 6598).
var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

func inner(a netip.Addr) bool { return a.IsPrivate() || sharedSpace.Contains(a) }

// innerServer: a provider inside a private network (a VPN of the carrier's) sees
// a private address of ours without any fault.
func innerServer(server string) bool {
	if ap, err := netip.ParseAddrPort(server); err == nil {
		return inner(ap.Addr())
	}
	a, err := netip.ParseAddr(server)
	return err == nil && inner(a)
}

// judgeNAT: a provider on the Internet that sees us at an address which is not
// of the Internet sees us before the last translation; two of them then.
func judgeNAT(f facts) (out []api.Finding) {
	looked := false
	for _, t := range f.trunks {
		if t.Via != trunk.WAN || !t.Public.IsValid() {
			continue
		}
		looked = true
		seen := t.Public.Addr().Unmap()
		switch {
		case t.NAT && innerServer(t.Server):
			out = append(out, finding(api.LevelUnknown, checkNAT, "Double NAT towards trunk "+t.Name+" cannot be told: its server "+t.Server+" is itself on a private network.", "it sees us at "+t.Public.String(), ""))
		case t.NAT && inner(seen):
			by := "a private one (RFC 1918)"
			if sharedSpace.Contains(seen) {
				by = "one that carriers use inside (100.64.0.0/10, RFC 6598)"
			}
			out = append(out, finding(api.LevelWarning, checkNAT, "Double NAT towards trunk "+t.Name+".", fmt.Sprintf("the other end sees us at %s, which is not our own address and is %s: more than one router translates", t.Public, by),
				"switch one of the two routers to bridge mode, or ask the Internet provider for an address of one's own; ports cannot be forwarded through both otherwise"))
		case t.NAT:
			out = append(out, finding(api.LevelUnknown, checkNAT, "One router or more translates towards trunk "+t.Name+", which sees us at "+t.Public.String()+".", "whether there is a second one could not be measured: the router's own outer address is not known here", fmt.Sprintf("compare %s with the outer address on the router's status page; if they differ, there are two", seen)))
		default:
			out = append(out, finding(api.LevelOK, checkNAT, "No NAT towards trunk "+t.Name+".", "it sees us at our own address "+t.Public.String(), ""))
		}
	}
	if !looked {
		out = append(out, finding(api.LevelUnknown, checkNAT, "Double NAT was not looked at: no trunk to the Internet has said where it sees us.", "", ""))
	}
	return out
}
