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

// clocksDiffer is how far two clocks may be apart before one is called wrong.
const clocksDiffer = time.Minute

// judgeClock: ours is judged by the kernel, by the day this program was made
// for, by providers' Date and by neighbours.
func judgeClock(f facts) (out []api.Finding) {
	set := "set it (timedatectl set-ntp true), and let the router pass UDP 123 to the Internet"
	var differ, agree []string
	for _, t := range f.trunks {
		if t.ClockOff != 0 {
			differ = append(differ, fmt.Sprintf("the server of trunk %s says another time (%s)", t.Name, t.ClockOff.Round(time.Second)))
		}
		if t.Phase == trunk.WrongClock {
			differ = append(differ, "the server of trunk "+t.Name+" calls every answer stale")
		}
	}
	for _, p := range f.peers {
		switch {
		case p.heard.IsZero():
		case p.ahead.Abs() > clocksDiffer:
			differ = append(differ, fmt.Sprintf("the clock of %s differs by %s", p.name, p.ahead.Round(time.Second)))
		default:
			agree = append(agree, p.name)
		}
	}
	switch {
	case f.now.Before(f.floor):
		return append(out, finding(api.LevelFault, checkClock, "This box has no clock.", "it says "+clockTime(f.now)+", which is before this program was made", set+"; a box without a battery for its clock loses the time with the current"))
	case !f.synced && len(differ) > 0:
		return append(out, finding(api.LevelFault, checkClock, "The clock of this box is wrong.", "NTP does not set it (adjtimex), and "+strings.Join(differ, "; "), set))
	case len(differ) > 0:
		return append(out, finding(api.LevelWarning, checkClock, "Clocks differ, though ours is set by NTP: the other one is wrong.", strings.Join(differ, "; "), "set the clock of the other end by NTP"))
	case !f.synced && len(agree) > 0:
		return append(out, finding(api.LevelWarning, checkClock, "Nobody sets the clock of this box, but it agrees with other boxes.", "adjtimex says unsynchronised; "+strings.Join(agree, ", ")+" within a minute", set))
	case !f.synced:
		return append(out, finding(api.LevelWarning, checkClock, "Nobody sets the clock of this box; whether it is right could not be measured.", "adjtimex says unsynchronised, and there is no other box and no provider's time to compare with", set))
	}
	return append(out, finding(api.LevelOK, checkClock, "The clock is set by NTP.", "", ""))
}

// judgeAddress: what we serve against what the interfaces have, and what we said
// at the last start.
func judgeAddress(f facts) (out []api.Finding) {
	reserve := "give the box a fixed address, or reserve one in the router"
	if len(f.own) > 0 {
		for _, a := range f.listen {
			a = a.Unmap().WithZone("")
			has := func(p netip.Prefix) bool {
				return p.Addr() == a || a.IsLoopback() && p.Addr().IsLoopback() && p.Masked().Contains(a)
			}
			if !a.IsUnspecified() && !slices.ContainsFunc(f.own, has) {
				out = append(out, finding(api.LevelFault, checkAddress, "The address of this box changed: it serves phones at "+a.String()+", which it does not have any more.",
					"its interfaces have "+prefixes(f.own), reserve+"; then start ccnode again"))
			}
		}
	}
	if gone := missing(f.before, f.said); len(gone) > 0 {
		out = append(out, finding(api.LevelWarning, checkAddress, "The address of this box changed since its last run: it was "+strings.Join(gone, ", ")+".",
			"it is now "+strings.Join(hosts(f.said), ", "), reserve+"; phones with settings from this box find it again when they fetch them; those set by hand, providers and gateways that know the old address must be told"))
	}
	switch {
	case len(out) > 0:
	case len(f.own) == 0:
		out = append(out, finding(api.LevelUnknown, checkAddress, "Whether the address changed was not looked at: the interfaces could not be listed.", "", ""))
	default:
		out = append(out, finding(api.LevelOK, checkAddress, "The address is what it was: "+strings.Join(hosts(f.said), ", ")+".", "", ""))
	}
	return out
}

func prefixes(ps []netip.Prefix) string {
	var out []string
	for _, p := range ps {
		out = append(out, p.Addr().String())
	}
	return strings.Join(out, ", ")
}

// hosts strips "udp:" and the like, and names each place once.
func hosts(all []string) (out []string) {
	for _, s := range all {
		_, rest, ok := strings.Cut(s, ":")
		if _, err := netip.ParseAddrPort(s); err != nil && ok {
			s = rest
		}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// missing are those of before that are not in now.
func missing(before, now []string) (out []string) {
	there := hosts(now)
	if len(there) == 0 {
		return nil
	}
	for _, s := range hosts(before) {
		if !slices.Contains(there, s) {
			out = append(out, s)
		}
	}
	return out
}

// judgeNetworks: phones whose registrations or questions come from a network
// that none of our interfaces is in.
func judgeNetworks(f facts) (out []api.Finding) {
	if len(f.own) == 0 {
		return []api.Finding{finding(api.LevelUnknown, checkVLAN, "Phones on another network were not looked for: the interfaces could not be listed.", "", "")}
	}
	ours := func(a netip.Addr) bool {
		a = a.Unmap().WithZone("")
		return a.IsLinkLocalUnicast() || slices.ContainsFunc(f.own, func(p netip.Prefix) bool { return p.Masked().Contains(a) })
	}
	var away []string
	for _, p := range f.phones {
		if p.source.IsValid() && !ours(p.source.Addr()) {
			away = append(away, fmt.Sprintf("%s at %s", p.aor, p.source.Addr().Unmap()))
		}
	}
	do := "give this box an address in their network too (a VLAN interface, then --listen), or let the router between pass SIP and the media ports both ways"
	if len(away) > 0 {
		out = append(out, finding(api.LevelWarning, checkVLAN, fmt.Sprintf("%d phones are on another network (VLAN) than this box.", len(away)),
			few(away)+" registered from there; this box is in "+networks(f.own), do+"; from there they get neither settings nor the time from this box"))
	}
	var asked []string
	for _, a := range f.strangers {
		if !ours(a) {
			asked = append(asked, a.String())
		}
	}
	if len(asked) > 0 {
		out = append(out, finding(api.LevelWarning, checkVLAN, "Phones on another network (VLAN) asked for their settings and were turned away.", few(asked)+" asked at the provisioning ports; this box is in "+networks(f.own), do))
	}
	switch {
	case len(out) > 0:
	case len(f.phones) == 0:
		out = append(out, finding(api.LevelUnknown, checkVLAN, "Whether phones are on another network cannot be told: none is registered at this box, and none was turned away.", "", "if phones do not find this box at all, compare their network with "+networks(f.own)))
	default:
		out = append(out, finding(api.LevelOK, checkVLAN, fmt.Sprintf("All %d phones are in networks of this box.", len(f.phones)), "", ""))
	}
	return out
}

func networks(ps []netip.Prefix) string {
	var out []string
	for _, p := range ps {
		if s := p.Masked().String(); !p.Addr().IsLinkLocalUnicast() && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return strings.Join(out, ", ")
}

func few(all []string) string {
	if len(all) > 5 {
		return strings.Join(all[:5], ", ") + fmt.Sprintf(" and %d more", len(all)-5)
	}
	return strings.Join(all, ", ")
}

// judgeWayOut: what is left when the Internet is cut.
func judgeWayOut(f facts) (out []api.Finding) {
	var lan, usable []trunkFact
	for _, t := range f.trunks {
		if t.Via == trunk.LAN {
			lan = append(lan, t)
			if t.Usable(f.now) {
				usable = append(usable, t)
			}
		}
	}
	add := "add a gateway on the LAN: ccnode trunk create NAME --kind peer --via lan --server ADDRESS; or accept it by name: ccnode shop set SHOP --waived NAME"
	what := "No way out when the Internet is cut: emergency calls will not leave this shop then."
	switch {
	case len(usable) > 0:
		return append(out, finding(api.LevelOK, checkWayOut, "There is a way out when the Internet is cut: "+names(usable)+".", "", ""))
	case len(lan) > 0:
		return append(out, finding(api.LevelFault, checkWayOut, what, "of the lines on the LAN none is usable: "+names(lan), "see to the gateway: current, cable, address"))
	case f.waived != "":
		return append(out, finding(api.LevelOK, checkWayOut, "No way out when the Internet is cut, which was accepted by "+f.waived+".", "", ""))
	case len(f.trunks) == 0:
		return append(out, finding(api.LevelWarning, checkWayOut, "No way out when the Internet is cut, nor otherwise: there is no line to the outside, and emergency calls leave only over other shops.", "no trunk is set up", add))
	}
	return append(out, finding(api.LevelWarning, checkWayOut, what, "every trunk needs the Internet: "+names(f.trunks), add))
}

// judgePeers: boxes of the fleet that could not be reached.
func judgePeers(f facts) (out []api.Finding) {
	if len(f.peers) == 0 {
		return append(out, finding(api.LevelUnknown, checkPeers, "The way to other boxes was not looked at: there is none.", "", ""))
	}
	for _, p := range f.peers {
		switch {
		case p.reach || p.since.IsZero():
		case !p.dialed:
			out = append(out, finding(api.LevelWarning, checkPeers, "Box "+p.name+" is not reached, and no address of it is known.", p.why, "it must come to us, or a relay carry for both: look at it there"))
		default:
			out = append(out, finding(api.LevelWarning, checkPeers, "Box "+p.name+" of site "+p.site+" is not reached since "+clockTime(p.since)+".", p.why, "see whether it runs, and whether its mesh port (see its own \"ccnode doctor\") is open to this box"))
		}
	}
	if len(out) == 0 {
		out = append(out, finding(api.LevelOK, checkPeers, fmt.Sprintf("No trouble is known with %d other boxes.", len(f.peers)), "", ""))
	}
	return out
}
