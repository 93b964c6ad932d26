package bench

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"carrierclass.net/ccnode/test/lab/labkit"
)

// Figures of one round. The rates are those of docs/measured.md.
const (
	rounds       = 3
	registerRate = 2000
	callRate     = 400
	seconds      = 10
	hosts        = 20 // telephones' addresses, because a server may limit what it takes from one
)

// A peer is a server under measurement, alone on a host with its load.
type peer struct {
	name  string
	host  *labkit.Host
	proc  *labkit.Process
	at    string
	users []labkit.User // the first half calls the second
}

// A cost is what one operation took: microseconds of the server's processor
// time, and of the load's as a measure of the machine's mood.
type cost struct{ server, load float64 }

func kamailio(t *testing.T, l *labkit.Lab) *peer {
	t.Helper()
	labkit.Need(t, "kamailio", "sipp", "sipsak")
	p := &peer{name: "Kamailio 5.6.3", host: l.Host("a", "kamailio"), at: "127.0.0.1:5060"}
	conf := p.host.File("kamailio.cfg")
	if err := os.WriteFile(conf, []byte(KamailioConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	p.proc = p.host.Start("kamailio", "kamailio", "-DD", "-E", "-Y", l.Dir, "-m", "512", "-x", "tlsf", "-X", "tlsf", "-f", conf, "-l", "udp:"+p.at)
	l.Within(20*time.Second, "kamailio answers", func() bool {
		_, err := p.host.Sipsak("sip:" + p.at)
		return err == nil
	})
	for i := range 10000 {
		p.users = append(p.users, labkit.User{
			Name: strconv.Itoa(10000 + i), Password: "secret", Domain: "bench.example", Calls: strconv.Itoa(10000 + (i+5000)%10000), Addr: addr(i),
		})
	}
	return p
}

// addr is where the telephone of user i is.
func addr(i int) string { return fmt.Sprintf("127.0.0.%d", 11+i%hosts) }

// registers runs authenticated registrations: challenge and acceptance are
// one operation.
func (p *peer) registers(t *testing.T, n, rate int) cost {
	t.Helper()
	before := p.proc.CPU()
	s := p.host.StartSipp(labkit.Load{
		Scenario: "register", Server: p.at, From: "127.0.0.1", Transport: "ui", Users: p.users, Calls: n, Rate: rate, Limit: 4000,
		Keys: map[string]string{"contact_port": "7000", "expires": "3600"}, Within: 3 * time.Minute,
	})
	y, err := s.Result()
	if err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	if y.Good != n {
		t.Fatalf("%s: %d of %d registrations", p.name, y.Good, n)
	}
	return cost{micros(p.proc.CPU()-before, n), micros(s.UsedCPU(), n)}
}

// calls runs complete calls: challenge, ringing, answer, end.
func (p *peer) calls(t *testing.T, l *labkit.Lab, n, rate int) cost {
	t.Helper()
	for i := range hosts {
		answer := p.host.StartSipp(labkit.Load{Scenario: "answer", From: addr(i), Port: 7000, Limit: 100_000, Within: 4 * time.Minute})
		defer answer.Kill()
		l.Within(10*time.Second, "telephones listen", func() bool { return answer.Listens("udp", addr(i), 7000) })
	}
	before := p.proc.CPU()
	s := p.host.StartSipp(labkit.Load{
		Scenario: "call", Server: p.at, From: "127.0.0.1", Transport: "ui", Users: p.users[:len(p.users)/2], Calls: n, Rate: rate, Limit: 4000, Within: 3 * time.Minute,
	})
	y, err := s.Result()
	if y.Good < n*999/1000 {
		t.Fatalf("%s: %d of %d calls: %v", p.name, y.Good, n, err)
	}
	return cost{micros(p.proc.CPU()-before, n), micros(s.UsedCPU(), n)}
}

func micros(d time.Duration, n int) float64 { return float64(d.Microseconds()) / float64(n) }

// TestPeers prints, last, what this product costs beside Kamailio.
func TestPeers(t *testing.T) {
	if os.Getenv("CCNODE_LONG") == "" {
		t.Skip("a measurement, not a promise: make bench")
	}
	l := labkit.New(t, "a")
	peers := []*peer{kamailio(t, l)}
	if p := product(t, l); p != nil {
		peers = append(peers, p)
	}
	reg, call := map[*peer][]cost{}, map[*peer][]cost{}
	for _, p := range peers { // everybody is known and warm
		p.registers(t, len(p.users), 1000)
	}
	for range rounds {
		for _, p := range peers {
			reg[p] = append(reg[p], p.registers(t, registerRate*seconds, registerRate))
		}
		for _, p := range peers {
			call[p] = append(call[p], p.calls(t, l, callRate*seconds, callRate))
		}
	}
	fmt.Printf("%-16s %10s %10s %10s %10s %8s\n", "server", "µs/reg", "norm", "µs/call", "norm", "RSS MB")
	for _, p := range peers {
		r, c := median(reg[p]), median(call[p])
		fmt.Printf("%-16s %10.0f %10.2f %10.0f %10.2f %8.0f\n", p.name, r.server, r.server/r.load, c.server, c.server/c.load, float64(p.proc.RSS())/1e6)
	}
	for _, p := range peers[1:] {
		fmt.Printf("ratio %s / %s: register %.2f, call %.2f\n", p.name, peers[0].name,
			median(reg[p]).server/median(reg[peers[0]]).server, median(call[p]).server/median(call[peers[0]]).server)
	}
}

func median(c []cost) cost {
	of := func(f func(cost) float64) float64 {
		var v []float64
		for _, x := range c {
			v = append(v, f(x))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return cost{of(func(c cost) float64 { return c.server }), of(func(c cost) float64 { return c.load })}
}
