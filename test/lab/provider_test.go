package lab

import (
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// A provider is SIPp behind a border: a registrar, callers and a far end.
type provider struct {
	t      *testing.T
	l      *labkit.Lab
	host   *labkit.Host
	border *labkit.Border
	port   int
}

const (
	providerHz = 700 // of whoever speaks there
	account    = "33472001200"
	secret     = "trunk-secret"
)

// newProvider starts one at a site, with a registrar that gives each
// registration this many seconds, and asks in this realm.
func newProvider(t *testing.T, l *labkit.Lab, site, realm, expires string) *provider {
	t.Helper()
	p := &provider{t: t, l: l, host: l.Host(site, "provider"), port: 5100}
	p.border = p.host.Border(5081, 5082)
	p.listening(p.host.StartSipp(labkit.Load{Scenario: "registrar", Port: 5081, Within: 10 * time.Minute, Patience: 5 * time.Minute,
		Keys: map[string]string{"realm": realm, "account": account, "secret": secret, "expires": expires}}), 5081)
	return p
}

func (p *provider) listening(s *labkit.Sipp, port int) {
	p.t.Helper()
	if err := s.Listening("udp", port); err != nil {
		p.t.Fatal(err)
	}
}

// trunk makes the shop's line to the provider by the command line.
func (p *provider) trunk(n *labkit.Node) {
	p.t.Helper()
	n.Must("trunk", "create", "prov", "--kind", "register", "--via", "wan", "--server", p.host.Addr.String(), "--domain", "prov.example",
		"--user", account, "--password", secret, "--number", "+"+account)
}

// usable waits until the node says that its line works, and returns how long
// that took.
func (p *provider) usable(n *labkit.Node, within time.Duration) time.Duration {
	p.t.Helper()
	return p.l.Within(within, "the trunk is registered", func() bool {
		for _, s := range n.Status().Trunks {
			if s.Name == "prov" {
				return s.Usable && strings.Contains(s.State, "registered")
			}
		}
		return false
	})
}

// calls makes somebody outside call the shop, and say something once answered.
// The pause is before he hangs up or gives up, if the scenario is of that kind.
func (p *provider) calls(scenario string, pause time.Duration, said ...labkit.Said) *labkit.Sipp {
	p.t.Helper()
	if len(said) == 0 {
		said = []labkit.Said{{Hz: providerHz, For: 40 * time.Second}}
	}
	p.port++
	return p.host.StartSipp(labkit.Load{Scenario: scenario, Server: p.host.Addr.String() + ":5060", Port: p.port, Calls: 1, Pause: pause, Patience: time.Minute,
		Users: []labkit.User{{Name: "+33140999999", Domain: "prov.example", Calls: account}},
		Files: map[string][]byte{"said.pcap": labkit.Say(said...)}})
}

// far makes a far end of the scenario take the next calls from the shop.
func (p *provider) far(scenario string, calls int, realm string) *labkit.Sipp {
	p.t.Helper()
	p.port++
	s := p.host.StartSipp(labkit.Load{Scenario: scenario, Port: p.port, Calls: calls, Within: 3 * time.Minute, Patience: time.Minute,
		Keys:  map[string]string{"realm": realm, "account": account, "secret": secret},
		Files: map[string][]byte{"said.pcap": labkit.Say(labkit.Said{Hz: providerHz, For: 40 * time.Second})}})
	p.listening(s, p.port)
	p.border.Called(p.port)
	return s
}

// talks lets the call with the provider go on until both sides have heard each
// other, and fails the test if that does not happen.
func (p *provider) talks(b *labkit.Baresip) {
	p.t.Helper()
	const enough = 1.5 // seconds
	p.l.Within(10*time.Second, b.Account.User+" and the outside hear each other", func() bool {
		return b.LastHeard().Heard(providerHz) >= enough && p.border.Heard().Heard(b.Hz) >= enough
	})
}

// good fails the test if the run of SIPp was not what its scenario wants.
func (p *provider) good(s *labkit.Sipp) {
	p.t.Helper()
	if _, err := s.Result(); err != nil {
		p.t.Error(err)
	}
}

// idle fails the test unless the node soon has no call, and returns the
// records of calls that began after a time.
func idle(t *testing.T, l *labkit.Lab, n *labkit.Node, since time.Time) (ended []api.Call) {
	t.Helper()
	l.Within(10*time.Second, "no call is left", func() bool { return n.Status().Calls == 0 })
	l.Within(5*time.Second, "no port for speech is open", func() bool { return speechPorts(n) == 0 })
	return records(t, n, since)
}

// speechPorts is how many UDP ports of the media range the node's host has
// open.
func speechPorts(n *labkit.Node) int {
	out, err := n.Host.Run(5*time.Second, "ss", "-Hlnu", "sport >= :30000 and sport <= :30999")
	if err != nil {
		return -1
	}
	return strings.Count(out, "\n")
}

// records are the calls that began after a time and have ended, oldest first.
func records(t *testing.T, n *labkit.Node, since time.Time) (ended []api.Call) {
	t.Helper()
	var all []api.Call
	if err := n.Get("/calls?since=10m", &all); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Ended != nil && !c.Since.Before(since) {
			ended = append(ended, c)
		}
	}
	return ended
}
