package node

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/sipcore/trunk"
)

// healthy is a shop where nothing is wrong.
func healthy() facts {
	now := time.Date(2026, 6, 1, 9, 0, 0, 0, time.UTC)
	return facts{now: now, floor: clockFloor, synced: true,
		listen: []netip.Addr{netip.MustParseAddr("10.1.0.2")},
		own:    []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("10.1.0.2/24")},
		before: []string{"10.1.0.2:5060"}, said: []string{"udp:10.1.0.2:5060", "tcp:10.1.0.2:5060"},
		trunks: []trunkFact{
			{State: trunk.State{Name: "prov", Kind: trunk.Register, Via: trunk.WAN, Server: "sip.prov.example", Phase: trunk.Registered, Until: now.Add(time.Minute),
				At: now, Status: 200, Reason: "OK", Public: netip.MustParseAddrPort("10.1.0.2:5060")}, transport: "udp"},
			{State: trunk.State{Name: "fxo", Kind: trunk.Peer, Via: trunk.LAN, Server: "10.1.0.9", Phase: trunk.Reachable, At: now, Status: 200}, transport: "udp"},
		},
		peers:  []peerFact{{name: "b", here: true, reach: true, heard: now, dialed: true}},
		phones: []phoneFact{{aor: "0001201", source: netip.MustParseAddrPort("10.1.0.50:5060")}},
	}
}

func TestNothingIsWrong(t *testing.T) {
	for _, f := range judge(healthy()) {
		if f.Level != api.LevelOK {
			t.Errorf("in a healthy shop: %+v", f)
		}
	}
}

// silent is a trunk on UDP that never got an answer.
func silent(p probe, why string) func(*facts) {
	return func(f *facts) {
		f.trunks = f.trunks[:1]
		f.trunks[0].State = trunk.State{Name: "prov", Via: trunk.WAN, Server: "sip.prov.example", Phase: trunk.NoAnswer, Since: f.now}
		f.trunks[0].probe, f.trunks[0].probeWhy = p, why
		f.waived = "Ana"
	}
}

// seenAt is behind a router, at that address.
func seenAt(a string) func(*facts) {
	return func(f *facts) { f.trunks[0].NAT, f.trunks[0].Public = true, netip.MustParseAddrPort(a) }
}

// TestJudge: each condition is named, and by its evidence; one change of a
// healthy shop each.
func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*facts)
		check string
		level string
		says  string // parts separated by |, of what, why and do
	}{
		{"alg", func(f *facts) {
			f.trunks[0].ALG, f.trunks[0].Contact, f.trunks[0].Listed = true, "sip:x@10.1.0.2", "sip:x@203.0.113.5"
		}, checkALG, api.LevelFault, "SIP ALG|prov|sip:x@10.1.0.2|sip:x@203.0.113.5|switch"},
		{"alg not looked at", func(f *facts) { f.trunks = nil; f.waived = "Ana" }, checkALG, api.LevelUnknown, "no trunk"},
		{"double nat private", seenAt("192.168.1.7:5060"), checkNAT, api.LevelWarning, "Double NAT|192.168.1.7:5060|bridge"},
		{"double nat carrier", seenAt("100.64.3.4:5060"), checkNAT, api.LevelWarning, "Double NAT|RFC 6598"},
		{"a private provider", func(f *facts) { seenAt("192.168.1.7:5060")(f); f.trunks[0].Server = "172.16.0.1:5070" }, checkNAT, api.LevelUnknown, "itself on a private network"},
		{"second nat not measurable", seenAt("203.0.113.5:40000"), checkNAT, api.LevelUnknown, "could not be measured|203.0.113.5"},
		{"no nat", func(*facts) {}, checkNAT, api.LevelOK, "No NAT"},
		{"nat not looked at", func(f *facts) { f.trunks[0].Public = netip.AddrPort{} }, checkNAT, api.LevelUnknown, "not looked at"},
		{"udp blocked, tcp open", silent(tcpOpen, "203.0.113.9:5060 took a TCP connection just now"), checkUDP, api.LevelFault, "UDP seems blocked|never got any answer|TCP connection|--transport tcp"},
		{"udp blocked, host there", silent(tcpRefused, "the host is there"), checkUDP, api.LevelFault, "UDP is blocked, or|the host is there"},
		{"udp blocked, others by tcp", func(f *facts) {
			silent(tcpSilent, "did not answer over TCP either")(f)
			f.peers = append(f.peers, peerFact{name: "a.s0002", reach: true, heard: f.now})
		}, checkUDP, api.LevelFault, "UDP seems blocked|a.s0002"},
		{"no answer at all", silent(tcpSilent, "did not answer over TCP either"), checkTrunk, api.LevelFault, "cannot be told|never got any answer|TCP"},
		{"udp passes elsewhere", func(f *facts) {
			f.trunks = append(f.trunks, trunkFact{State: trunk.State{Name: "two", Via: trunk.WAN, Server: "two.example", Phase: trunk.NoAnswer}, transport: "udp", probe: tcpOpen, probeWhy: "TCP opened"})
		}, checkUDP, api.LevelFault, "two: no answer over UDP|prov|not blocked in general"},
		{"udp not judged while trying", func(f *facts) { silent(notProbed, "")(f); f.trunks[0].Phase = trunk.Trying }, checkUDP, api.LevelUnknown, "so far"},
		{"password", func(f *facts) {
			f.trunks[0].Phase, f.trunks[0].Status, f.trunks[0].Reason = trunk.WrongPassword, 401, "Unauthorized"
		}, checkPassword, api.LevelFault, "prov: wrong password|401 Unauthorized|ccnode trunk set prov"},
		{"realm", func(f *facts) { f.trunks[0].Phase = trunk.WrongRealm }, checkPassword, api.LevelFault, "was not sent|--domain"},
		{"refused", func(f *facts) {
			f.trunks[0].Phase, f.trunks[0].Status, f.trunks[0].Reason = trunk.Refused, 403, "Forbidden"
		}, checkTrunk, api.LevelFault, "refused|403 Forbidden"},
		{"no address", func(f *facts) { f.trunks[0].Phase = trunk.NoAddress }, checkTrunk, api.LevelFault, "has no address|typing error"},
		{"stopped answering", func(f *facts) { f.trunks[0].Phase = trunk.NoAnswer }, checkTrunk, api.LevelFault, "no answer since"},
		{"clock of 1970", func(f *facts) { f.now = time.Unix(86400, 0).UTC(); f.synced = false }, checkClock, api.LevelFault, "no clock|1970-01-02|timedatectl|UDP 123"},
		{"clock alone", func(f *facts) { f.synced, f.peers = false, nil }, checkClock, api.LevelWarning, "could not be measured|adjtimex"},
		{"clock agrees", func(f *facts) { f.synced = false }, checkClock, api.LevelWarning, "agrees"},
		{"clock differs from a box", func(f *facts) { f.synced = false; f.peers[0].ahead = -time.Hour }, checkClock, api.LevelFault, "is wrong|1h0m0s"},
		{"clock differs from a provider", func(f *facts) { f.synced = false; f.trunks[0].ClockOff = 3 * time.Hour }, checkClock, api.LevelFault, "is wrong|prov|3h0m0s"},
		{"the other's clock", func(f *facts) { f.peers[0].ahead = time.Hour }, checkClock, api.LevelWarning, "the other one is wrong"},
		{"address gone", func(f *facts) { f.own[1] = netip.MustParsePrefix("10.1.0.77/24") }, checkAddress, api.LevelFault, "does not have any more|10.1.0.2|10.1.0.77"},
		{"address of the last run", func(f *facts) { f.before = []string{"10.1.0.9:5060"} }, checkAddress, api.LevelWarning, "since its last run|it was 10.1.0.9:5060|10.1.0.2:5060"},
		{"phones elsewhere", func(f *facts) {
			f.phones = append(f.phones, phoneFact{aor: "0001202", source: netip.MustParseAddrPort("10.20.0.5:5060")})
		}, checkVLAN, api.LevelWarning, "1 phones are on another network|0001202 at 10.20.0.5|10.1.0.0/24"},
		{"phones turned away", func(f *facts) { f.strangers = []netip.Addr{netip.MustParseAddr("10.30.0.5")} }, checkVLAN, api.LevelWarning, "turned away|10.30.0.5"},
		{"no phones", func(f *facts) { f.phones = nil }, checkVLAN, api.LevelUnknown, "cannot be told"},
		{"no way out", func(f *facts) { f.trunks = f.trunks[:1] }, checkWayOut, api.LevelWarning, "No way out when the Internet is cut|prov|--via lan|--waived"},
		{"no way out at all", func(f *facts) { f.trunks = nil }, checkWayOut, api.LevelWarning, "No way out when the Internet is cut|no trunk"},
		{"gateway dead", func(f *facts) { f.trunks[1].Phase = trunk.NoAnswer }, checkWayOut, api.LevelFault, "No way out when the Internet is cut|fxo"},
		{"waived", func(f *facts) { f.trunks, f.waived = f.trunks[:1], "Ana" }, checkWayOut, api.LevelOK, "accepted by Ana"},
		{"box away", func(f *facts) { f.peers[0].reach, f.peers[0].since, f.peers[0].why = false, f.now, "i/o timeout" }, checkPeers, api.LevelWarning, "not reached since|i/o timeout|mesh port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := healthy()
			c.spoil(&f)
			all := judge(f)
			for _, x := range all {
				if x.Check != c.check || x.Level != c.level {
					continue
				}
				text := x.What + "\n" + x.Why + "\n" + x.Do
				missing := false
				for _, part := range strings.Split(c.says, "|") {
					missing = missing || !strings.Contains(text, part)
				}
				if !missing {
					if x.Level == api.LevelFault && (x.Why == "" && x.Check != checkPassword && x.Check != checkTrunk || x.Do == "") {
						t.Errorf("without evidence or advice: %+v", x)
					}
					return
				}
			}
			t.Fatalf("no %s of %s that says %q in %+v", c.level, c.check, c.says, all)
		})
	}
}

// TestFirewall: the statement follows what is open.
func TestFirewall(t *testing.T) {
	line := func(ports []api.Port, way, protocol, port string) *api.Port {
		for _, p := range ports {
			if p.Way == way && p.Protocol == protocol && p.Port == port {
				return &p
			}
		}
		return nil
	}
	d := doors{sip: []string{"udp:10.1.0.2:5060", "tcp:10.1.0.2:5060"}, media: [2]int{30000, 30999}, mediaAt: []string{"10.1.0.2"},
		mesh: []netip.AddrPort{netip.MustParseAddrPort("10.1.0.2:5870")}, web: []string{"[::]:8443"}}
	ps := firewall(d)
	for _, want := range [][2]string{{"udp", "5060"}, {"tcp", "5060"}, {"udp", "30000-30999"}, {"tcp", "5870"}, {"tcp", "8443"}} {
		if p := line(ps, "in", want[0], want[1]); p == nil || strings.Contains(p.Router, "forward") {
			t.Errorf("alone: %v: %+v", want, p)
		}
	}
	for _, no := range [][2]string{{"udp", "123"}, {"udp", "5353"}, {"tcp", "8086"}} {
		if p := line(ps, "in", no[0], no[1]); p != nil {
			t.Errorf("said to listen, which it does not: %+v", p)
		}
	}
	if w := routerWords(ps); !strings.Contains(w, "nothing has to be opened") {
		t.Error(w)
	}

	d.trunks = []trunkFact{{State: trunk.State{Name: "prov", Kind: trunk.Register, Via: trunk.WAN, Server: "sip.prov.example:5080"}}}
	ps = firewall(d)
	if p := line(ps, "in", "udp", "5060"); p == nil || p.Router != nobody || !strings.Contains(p.Who, "prov") {
		t.Errorf("a trunk that registers: %+v", p)
	}
	if p := line(ps, "out", "udp", "5080"); p == nil {
		t.Errorf("it is not said that the provider is called: %+v", ps)
	}
	d.trunks[0].Kind = trunk.Peer
	if p := line(firewall(d), "in", "udp", "5060"); p == nil || !strings.Contains(p.Router, "forward") || !strings.Contains(p.Router, "prov") {
		t.Errorf("a provider that knows our address: %+v", p)
	}

	d.trunks, d.others = nil, true
	ps = firewall(d)
	if p := line(ps, "in", "tcp", "5870"); p == nil || !strings.Contains(p.Router, "forward") {
		t.Errorf("with other sites: %+v", p)
	}
	if w := routerWords(ps); !strings.Contains(w, "tcp 5870") || strings.Contains(w, "5060") {
		t.Error(w)
	}
	d.behindNAT = true
	if p := line(firewall(d), "in", "tcp", "5870"); p == nil || strings.Contains(p.Router, "forward") {
		t.Errorf("behind a router: %+v", p)
	}
}

// TestTurnedAwayIsRemembered: a phone of another network that asks at a
// provisioning port gets nothing, and the doctor hears of it.
func TestTurnedAwayIsRemembered(t *testing.T) {
	p := &phones{}
	noted := make(chan netip.Addr, 1)
	l, err := listenLAN(&phoneLAN{addr: netip.MustParseAddr("127.0.0.1"), net: netip.MustParsePrefix("192.0.2.0/24")}, 0, "", func(a netip.Addr) {
		p.turnedAway(a)
		noted <- a
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.Accept(); err == nil {
			c.Close()
			t.Error("it was let in")
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if a := <-noted; a != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("noted %v", a)
	}
	l.Close()
	<-done
	p.turnedAway(netip.MustParseAddr("198.51.100.7")) // the Internet is of no interest
	if got := p.strangersSeen(); len(got) != 1 || !got[0].IsLoopback() {
		t.Errorf("remembered: %v", got)
	}
}
