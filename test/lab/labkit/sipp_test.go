package labkit_test

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/test/bench"
	. "carrierclass.net/ccnode/test/lab/labkit"
)

func users(from, n int, domain string) (out []User) {
	for i := range n {
		out = append(out, User{Name: strconv.Itoa(from + i), Password: "secret", Domain: domain, Calls: strconv.Itoa(from + 1000 + i)})
	}
	return out
}

// The scenarios against a server nobody here wrote: what passes here fails
// elsewhere by the server's fault.
func TestScenariosAtKamailio(t *testing.T) {
	l := New(t, "a")
	Need(t, "kamailio", "sipp", "sipsak")
	server, phones := l.Host("a", "kamailio"), l.Host("a", "phones")
	conf := server.File("kamailio.cfg")
	if err := os.WriteFile(conf, []byte(bench.KamailioConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	at := server.Addr.String() + ":5060"
	server.Start("kamailio", "kamailio", "-DD", "-E", "-Y", l.Dir, "-x", "tlsf", "-X", "tlsf", "-f", conf, "-l", "udp:"+at)
	l.Within(10*time.Second, "kamailio answers OPTIONS", func() bool {
		_, err := phones.Sipsak("sip:" + at)
		return err == nil
	})
	must := func(d Load) Tally {
		t.Helper()
		d.Server = at
		y, err := phones.Sipp(d)
		if err != nil {
			t.Fatal(err)
		}
		return y
	}
	callers, called := users(10000, 20, "bench.example"), users(11000, 20, "bench.example")
	keys := map[string]string{"contact_port": "7000", "expires": "600"}
	y := must(Load{Scenario: "register", Users: called, Calls: 20, Rate: 50, Keys: keys})
	if y.Good != 20 || len(y.Took) != 20 || y.Percentile(95) > time.Second {
		t.Errorf("20 registrations counted as %d, %d times measured, p95 %v", y.Good, len(y.Took), y.Percentile(95))
	}
	y = must(Load{Scenario: "refresh", Users: called, Calls: 20, Rate: 50, Pause: 100 * time.Millisecond,
		Keys: map[string]string{"contact_port": "7000", "expires": "600", "times": "5"}})
	if y.Good != 20 || len(y.Took) != 100 {
		t.Errorf("20 users of 5 registrations: %d good, %d measured", y.Good, len(y.Took))
	}

	wrong := []User{{Name: "10000", Password: "guess", Domain: "bench.example"}}
	if y, err := phones.Sipp(Load{Scenario: "register", Server: at, Users: wrong, Calls: 1, Keys: keys}); err == nil || y.Bad != 1 {
		t.Errorf("a wrong password: %+v, %v", y, err)
	}

	for _, c := range []struct{ caller, called string }{{"call", "answer"}, {"cancel", "ring"}} {
		uas := phones.StartSipp(Load{Scenario: c.called, Port: 7000, Limit: 100})
		y := must(Load{Scenario: c.caller, Users: callers, Calls: 20, Rate: 20, Pause: 200 * time.Millisecond})
		if y.Good != 20 {
			t.Errorf("%s: %+v", c.caller, y)
		}
		l.Within(5*time.Second, c.called+" done", func() bool { return uas.Tally().Good == 20 })
		uas.Kill()
	}
	busy := phones.StartSipp(Load{Scenario: "busy", Port: 7000})
	_, err := phones.Sipp(Load{Scenario: "call", Server: at, Users: callers, Calls: 1})
	if err == nil || !strings.Contains(err.Error(), "486") {
		t.Errorf("calling a busy telephone: %v, want 486", err)
	}
	busy.Kill()

	must(Load{Scenario: "unregister", Users: called[:1], Calls: 1, Keys: keys})
	_, err = phones.Sipp(Load{Scenario: "call", Server: at, Users: callers, Calls: 1})
	if err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("calling a telephone that unregistered: %v, want 404", err)
	}
}
