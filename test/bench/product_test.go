package bench

import (
	"strconv"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

const productUsers = 10000 // as many as Kamailio's

// product is a node of a fleet of one, as anybody starts it, but for room for
// the calls of the measurement.
func product(t *testing.T, l *labkit.Lab) *peer {
	t.Helper()
	h := l.Host("a", "ccnode")
	box := h.Box("--max-calls", "4000", "--media-ports", "30000-59999", "--log", "warn")
	box.Up("--listen", "127.0.0.1", "--domain", "bench.example", "--site", "10", "--extension-digits", "5")
	p := &peer{name: "ccnode", host: h, proc: box.Process, at: "127.0.0.1:5060"}
	for i := range productUsers {
		number := strconv.Itoa(10000 + i)
		if err := box.Ask("POST", "/users", api.NewUser{Number: number, Password: "secret-of-the-bench"}, nil); err != nil {
			t.Fatal(err)
		}
		p.users = append(p.users, labkit.User{
			Name: "10" + number, Password: "secret-of-the-bench", Domain: "bench.example", Calls: "10" + strconv.Itoa(10000+(i+productUsers/2)%productUsers), Addr: addr(i),
		})
	}
	l.Within(20*time.Second, "ccnode answers OPTIONS", func() bool {
		_, err := h.Sipsak("sip:" + p.at)
		return err == nil
	})
	return p
}
