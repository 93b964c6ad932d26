package lab

import (
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// A box at another site joins with a token, knows everybody within ten
// seconds, and its phones call the first site's. The token is worth nothing
// afterwards, nor is one whose time is over or that was revoked, and the new
// box says exactly why.
func TestJoinByToken(t *testing.T) {
	l := labkit.New(t, "a", "b")
	a1 := found(l, "a", "a1")
	short := a1.Invite("--expires", "1m")
	ana := registered(t, l.Host("a", "phones-a"), a1.Account(a1.User("201", "--name", "Ana"), 60), 440)
	invite := a1.Invite("--site", "0002", "--name", "Lyon")

	b1 := l.Host("b", "b1").Box()
	start := time.Now()
	b1.Start("--join", invite.Token)
	b1.Ready(10 * time.Second)
	l.Within(10*time.Second-time.Since(start), "b knows Ana", func() bool {
		var us []api.User
		return b1.Get("/users", &us) == nil && len(us) == 1 && us[0].Name == "Ana"
	})
	if st := b1.Status(); st.Node.SiteCode != "0002" || st.Node.SiteName != "Lyon" || st.Fleet.Domain != "shops.example" {
		t.Errorf("b says of itself %+v in %+v", st.Node, st.Fleet)
	}

	bea := registered(t, l.Host("b", "phones-b"), b1.Account(b1.User("201", "--name", "Bea"), 60), 1000)
	call(t, bea, ana, "80001201") // the inter-site digit, the store, the extension
	hangUp(t, ana, bea)

	refused := func(name, token string, why ...string) {
		t.Helper()
		box := l.Host("b", "x-"+name).Box()
		box.Start("--join", token)
		if err := box.Wait(15 * time.Second); err == nil {
			t.Errorf("%s: joined", name)
		}
		for _, w := range why {
			if !strings.Contains(strings.ToLower(box.Output()), w) {
				t.Errorf("%s: no word of %q in\n%s", name, w, box.Tail(10))
			}
		}
	}
	refused("used", invite.Token, "refused", "used")
	gone := a1.Invite()
	a1.Must("invite", "revoke", gone.ID.String())
	refused("gone", gone.Token, "revoked")
	refused("cut", invite.Token[:len(invite.Token)-7], "token")
	time.Sleep(time.Until(short.Expires) + time.Second) // a minute is the shortest life of a token
	refused("late", short.Token, "expired")

	if st := a1.Status(); st.Fleet.Nodes != 2 {
		t.Errorf("the fleet has %d nodes, want 2", st.Fleet.Nodes)
	}
}

// A box that says "join the LAN" gets nothing but six digits until a person
// approves it at the other box; then it is the other half of the pair.
func TestJoinByLANCode(t *testing.T) {
	l := labkit.New(t, "a")
	a1 := found(l, "a", "a1")
	const users = 300
	for i := range users {
		if err := a1.Ask("POST", "/users", api.NewUser{Number: ext(200 + i), Name: "Person with a rather long name " + ext(i), Password: "not a secret"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	a2 := l.Host("a", "a2").Box()
	a2.Start("--join", "lan")
	line, err := a2.Says("code ", 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	code := strings.Trim(strings.Fields(line[strings.Index(line, "code ")+5:])[0], ":,.")
	var pending []api.Pending
	l.Within(5*time.Second, "a1 sees the new box", func() bool { return a1.Get("/pending", &pending) == nil && len(pending) == 1 })
	if pending[0].Code != code {
		t.Errorf("the new box shows %s, the old one %s", code, pending[0].Code)
	}

	// Nothing was told: what came to the new box's port is far less than the
	// directory, and its folder holds no name.
	got := a2.Host.Received()
	time.Sleep(2 * time.Second) // nobody approves
	if more := a2.Host.Received(); more-got > 4000 || got > 60_000 {
		t.Errorf("the unapproved box received %d octets, then %d more", got, more-got)
	}
	if found := a2.Holds("rather long name"); found != "" {
		t.Errorf("the unapproved box holds users' names in %s", found)
	}

	wrong := "000000"
	if wrong == code {
		wrong = "111111"
	}
	if out, err := a1.CLI("pending", "approve", wrong); err == nil {
		t.Errorf("a wrong code was approved: %s", out)
	}
	a1.Must("pending", "approve", code)
	a2.Ready(15 * time.Second)
	l.Within(10*time.Second, "a2 has the directory", func() bool { return a2.Status().Users == users })
	l.AwaitSettled(15*time.Second, a1, a2)
	if st := a2.Status(); st.Pair == nil || st.Node.SiteCode != "0001" {
		t.Errorf("the approved box is no pair of a1: %+v", st.Node)
	}
}
