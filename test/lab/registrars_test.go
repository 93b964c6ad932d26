package lab

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/test/bench"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// shared makes the bench's registrar one that shares its contacts with another
// by dmq_usrloc, with that module's defaults.
func shared(conf, own, other string) string {
	conf = strings.Replace(conf, `loadmodule "auth.so"`, fmt.Sprintf(`loadmodule "auth.so"
loadmodule "dmq.so"
loadmodule "dmq_usrloc.so"
modparam("dmq", "server_address", "sip:%s:5060")
modparam("dmq", "notification_address", "sip:%s:5060")
modparam("dmq_usrloc", "enable", 1)
modparam("dmq_usrloc", "sync", 1)`, own, other), 1)
	return strings.Replace(conf, "request_route {", `request_route {
	if (is_method("KDMQ")) {
		dmq_handle_message();
		exit;
	}`, 1)
}

// foundAt: a registrar that knows the contact of a user does not answer 404
// to a message for it (it forwards it, and the telephone of SIPp is gone).
func foundAt(t *testing.T, from *labkit.Host, server, user string) bool {
	t.Helper()
	c, err := from.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	me := c.LocalAddr().String()
	to, err := net.ResolveUDPAddr("udp4", server)
	if err != nil {
		t.Fatal(err)
	}
	msg := fmt.Sprintf("MESSAGE sip:%s@bench.example SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK%d;rport\r\nMax-Forwards: 70\r\nFrom: <sip:x@bench.example>;tag=1\r\nTo: <sip:%s@bench.example>\r\nCall-ID: %d\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n",
		user, me, time.Now().UnixNano(), user, time.Now().UnixNano())
	if _, err := c.WriteToUDP([]byte(msg), to); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	c.SetReadDeadline(time.Now().Add(time.Second))
	n, _, err := c.ReadFromUDP(b)
	return err != nil || !strings.HasPrefix(string(b[:n]), "SIP/2.0 404")
}

// Two registrars that share their contacts, Kamailio's and ours, each across a
// WAN of their own, in one run: octets of IP while nothing happens, for a
// telephone that registers, and for one that registers again.
func TestPeerRegistrars(t *testing.T) {
	if os.Getenv("CCNODE_LONG") == "" {
		t.Skip("takes two minutes: set CCNODE_LONG=1")
	}
	labkit.Need(t, "kamailio", "sipp")
	const count = 100
	l := labkit.New(t, "a", "b", "c", "d")
	a1 := found(l, "a", "a1")
	a2 := join(l, "b", "a2", a1) // the other node of the site, behind a WAN here so that it is counted
	ours := load(t, a1, 300, count)
	l.AwaitSettled(30*time.Second, a1, a2)

	k1, k2 := l.Host("c", "k1"), l.Host("d", "k2")
	for _, x := range [][2]*labkit.Host{{k1, k2}, {k2, k1}} {
		conf := x[0].File("kamailio.cfg")
		if err := os.WriteFile(conf, []byte(shared(bench.KamailioConfig, x[0].Addr.String(), x[1].Addr.String())), 0o600); err != nil {
			t.Fatal(err)
		}
		p := x[0].Start("kamailio", "kamailio", "-DD", "-E", "-Y", l.Dir+"/"+x[0].Name, "-m", "128", "-x", "tlsf", "-X", "tlsf", "-f", conf, "-l", "udp:"+x[0].Addr.String()+":5060")
		l.Within(20*time.Second, "kamailio answers", func() bool {
			if !p.Running() {
				t.Fatalf("kamailio ended\n%s", p.Tail(40))
			}
			return !foundAt(t, x[0], x[0].Addr.String()+":5060", "10000")
		})
	}
	var theirs []labkit.User
	for i := range count {
		theirs = append(theirs, labkit.User{Name: ext(10000 + i), AuthUser: ext(10000 + i), Password: "secret", Domain: "bench.example"})
	}
	pa, pc := l.Host("a", "phones-a"), l.Host("c", "phones-c")
	time.Sleep(5 * time.Second) // they meet

	both := func(d labkit.Meter, one, other string) labkit.Count {
		x, y := d[[2]string{one, other}].All(), d[[2]string{other, one}].All()
		return labkit.Count{Packets: x.Packets + y.Packets, Bytes: x.Bytes + y.Bytes}
	}
	const window = time.Minute
	before := l.Wan()
	time.Sleep(window)
	d := l.Wan().Since(before)
	idleTheirs, idleOurs := both(d, "c", "d"), both(d, "a", "b")

	round := func(h *labkit.Host, server string, users []labkit.User, one, other string) labkit.Count {
		before := l.Wan()
		y, err := h.Sipp(labkit.Load{Scenario: "refresh", Server: server + ":5060", Users: users, Calls: count, Rate: 25, Pause: time.Second,
			Keys: map[string]string{"contact_port": "7000", "expires": "600", "times": "1"}, Port: 7000, Within: time.Minute})
		if err != nil || y.Good != count {
			t.Fatalf("%d of %d registered at %s: %v", y.Good, count, server, err)
		}
		time.Sleep(3 * time.Second)
		return both(l.Wan().Since(before), one, other)
	}
	first := [2]labkit.Count{round(pc, k1.Addr.String(), theirs, "c", "d"), round(pa, a1.Host.Addr.String(), ours, "a", "b")}
	if !foundAt(t, k2, k2.Addr.String()+":5060", "10042") {
		t.Error("the second Kamailio did not get the contacts: its figures prove nothing")
	}
	if st := a2.Status(); st.Phones != count {
		t.Errorf("the pair knows %d telephones, want %d", st.Phones, count)
	}
	again := [2]labkit.Count{round(pc, k1.Addr.String(), theirs, "c", "d"), round(pa, a1.Host.Addr.String(), ours, "a", "b")}

	row := func(what string, theirs, ours float64) {
		t.Logf("| %s | %.0f | %.0f | %.2f |", what, theirs, ours, ours/theirs)
	}
	t.Log("| octets of IP, both ways | Kamailio 5.6.3 dmq_usrloc | ccnode, pair | ratio |")
	row("idle, a minute", float64(idleTheirs.Bytes)/window.Minutes(), float64(idleOurs.Bytes)/window.Minutes())
	row("a registration", float64(first[0].Bytes)/count, float64(first[1].Bytes)/count)
	row("a second registration of the same telephone", float64(again[0].Bytes)/count, float64(again[1].Bytes)/count)
	if idleOurs.Packets != 0 {
		t.Errorf("idle, the pair says %+v", idleOurs)
	}
	if first[1].Bytes > first[0].Bytes {
		t.Errorf("a registration costs the pair %d octets, Kamailio %d", first[1].Bytes/count, first[0].Bytes/count)
	}
}
