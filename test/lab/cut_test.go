package lab

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// pace is how fast a site serves its own phones.
type pace struct{ register, setup time.Duration } // p95

// measure takes the best of three: the machine has two cores and other things
// to do.
func measure(t *testing.T, h *labkit.Host, at *labkit.Node, users []labkit.User) (best pace) {
	t.Helper()
	for i := range 3 {
		p := measureOnce(t, h, at, users)
		if i == 0 || p.register < best.register {
			best.register = p.register
		}
		if i == 0 || p.setup < best.setup {
			best.setup = p.setup
		}
	}
	return best
}

func measureOnce(t *testing.T, h *labkit.Host, at *labkit.Node, users []labkit.User) (p pace) {
	t.Helper()
	server := at.Host.Addr.String() + ":5060"
	y, err := h.Sipp(labkit.Load{
		Scenario: "refresh", Server: server, Users: users, Calls: len(users), Rate: 40, Pause: 50 * time.Millisecond,
		Keys: map[string]string{"contact_port": "7000", "expires": "60", "times": "6"},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.register = y.Percentile(95)
	answer := h.StartSipp(labkit.Load{Scenario: "answer", Port: 7000, Limit: 1000})
	defer answer.Kill()
	if err := answer.Listening("udp", 7000); err != nil {
		t.Fatal(err)
	}
	y, err = h.Sipp(labkit.Load{Scenario: "call", Server: server, Users: users[:len(users)/2], Calls: 40, Rate: 20, Pause: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	p.setup = y.Percentile(95)
	return p
}

// The WAN is cut for a while. Both sides go on with everything; afterwards
// everything that was done is everywhere, and what was done twice is shown.
func TestCut(t *testing.T) {
	l := labkit.New(t, "a", "b")
	a1 := found(l, "a", "a1")
	a2 := join(l, "a", "a2", a1)
	b1 := join(l, "b", "b1", a1, "--site", "0002")
	pa, pb := l.Host("a", "phones-a"), l.Host("b", "phones-b")
	anas := a1.Account(a1.User("201", "--name", "Ana"), 60)
	anas.MWI = true
	ana := registered(t, pa, anas, 440)
	abe := registered(t, pa, a1.Account(a1.User("202", "--name", "Abe"), 60), 600)
	bea := registered(t, pb, b1.Account(b1.User("201", "--name", "Bea"), 60), 1000)
	ben := registered(t, pb, b1.Account(b1.User("202", "--name", "Ben"), 60), 800)
	a1.User("203", "--name", "Leaver", "--pin", "4829")
	users := load(t, b1, 300, 20)
	l.AwaitSettled(30*time.Second, a1, a2, b1)
	call(t, bea, ana, "80001201")
	hangUp(t, ana, bea)
	before := measure(t, pb, b1, users)

	l.Cut("b")
	cut := time.Now()
	during := measure(t, pb, b1, users)
	within := func(what string, before, during time.Duration) {
		t.Helper()
		if during > before*12/10+5*time.Millisecond { // SIPp counts whole milliseconds on a busy machine
			t.Errorf("%s took %v (p95) with the WAN cut, %v before", what, during, before)
		}
		t.Logf("%s p95: %v before, %v with the WAN cut", what, before, during)
	}
	within("REGISTER", before.register, during.register)
	within("local call set-up", before.setup, during.setup)
	call(t, bea, ben, "202")
	hangUp(t, ben, bea)
	call(t, ana, abe, "202")
	hangUp(t, abe, ana)

	// Bea calls Ana, whose site is away: within three seconds a machine takes
	// her message.
	if took := leave(t, bea, "80001201", 4*time.Second); took > 3500*time.Millisecond {
		t.Errorf("voicemail answered after %v, want 3 s", took)
	} else {
		t.Logf("voicemail answered after %v", took)
	}
	if took := leave(t, bea, "80001202", 4*time.Second); took > 1500*time.Millisecond {
		t.Errorf("voicemail of a site known to be away answered after %v, want 1 s", took)
	}
	if st := b1.Status(); st.Owed.Outbox+st.Owed.Changes == 0 {
		t.Errorf("b owes nothing although it holds messages for a: %+v", st.Owed)
	}

	// Every side administers what is its own. The pair of a is split as well,
	// so that two nodes of one site change the same things.
	a2.Host.Unplug()
	a1.Must("user", "set", "201", "--forward-busy", "202")
	a2.Must("user", "set", "201", "--forward-busy", "203")
	a1.Must("user", "set", "202", "--name", "Abel")
	a2.Must("user", "set", "202", "--ring", "33")
	a1.Must("user", "disable", "203")
	a2.Must("user", "set", "203", "--pin", "7351")
	a1.User("0001250", "--name", "New at a")
	b1.User("0001250", "--name", "New at b")
	a2.User("260", "--name", "Only a2 knows")
	b1.User("260", "--name", "Only b knows")
	b1.Must("user", "set", "302", "--password", "Changed-while-cut-9")
	changed := users[2:3]
	register := func(password string) error {
		changed[0].Password = password
		_, err := pb.Sipp(labkit.Load{Scenario: "register", Server: b1.Host.Addr.String() + ":5060", Users: changed, Calls: 1,
			Keys: map[string]string{"contact_port": "7000", "expires": "60"}})
		return err
	}
	if err := register("Changed-while-cut-9"); err != nil {
		t.Errorf("with the new password: %v", err)
	}
	if err := register("Lab-Password-17"); err == nil {
		t.Error("the old password is still good")
	}

	if rest := 15*time.Second - time.Since(cut); rest > 0 {
		time.Sleep(rest)
	}
	away := time.Since(cut)
	mark := ana.Mark()
	l.Heal()
	a2.Host.Plug()
	// The current redial pause is at most as long as the cut was.
	took := l.AwaitSettled(away+5*time.Second, a1, a2, b1)
	t.Logf("cut for %v, settled %v after the heal", away.Round(time.Second), took.Round(100*time.Millisecond))
	if e, ok := ana.AwaitParam(mark, "Messages-Waiting: yes", 5*time.Second); !ok {
		t.Error("Ana's lamp is dark")
	} else if !strings.Contains(e.Param, "1/0") {
		t.Errorf("Ana's lamp says %q", e.Param)
	}

	nodes := []*labkit.Node{a1, a2, b1}
	var audio []byte
	for _, n := range nodes {
		name := n.Host.Name
		user := func(number string) (u api.User) {
			t.Helper()
			if err := n.Get("/users/"+number, &u); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return u
		}
		if u := user("0001202"); u.Name != "Abel" || n != b1 && u.RingSeconds != 33 {
			t.Errorf("%s: of two edits of different fields %q and %d s are left", name, u.Name, u.RingSeconds)
		}
		if u := user("0001203"); n != b1 && !u.Disabled {
			t.Errorf("%s: who was disabled is not", name)
		}
		for _, number := range []string{"0001260", "0002260"} {
			user(number)
		}
		var all []api.User
		if err := n.Get("/users", &all); err != nil {
			t.Fatal(err)
		}
		twins := 0
		for _, u := range all {
			if u.Number == "0001250" && len(u.Clash) > 0 {
				twins++
			}
		}
		if twins != 2 {
			t.Errorf("%s: %d users are flagged with the number made twice, want 2", name, twins)
		}
		if n != b1 { // who holds the settings of a's users shows both edits
			merges := n.Must("merges")
			for _, value := range []string{"202", "203"} {
				if !strings.Contains(merges, value) {
					t.Errorf("%s: no word of %s in\n%s", name, value, merges)
				}
			}
		}
		var msgs []api.Message
		if err := n.Get("/users/0001201/messages", &msgs); err != nil || len(msgs) != 1 {
			t.Errorf("%s: Ana has %d messages, %v", name, len(msgs), err)
			continue
		}
		file := n.Host.File("message.wav")
		n.Must("voicemail", "play", "0001201", msgs[0].ID.String(), "--out", file)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if audio == nil {
			audio = b
		} else if !bytes.Equal(audio, b) {
			t.Errorf("%s plays %d octets of the message, the first node %d", name, len(b), len(audio))
		}
	}
	if s, err := labkit.ReadULaw(audio); err != nil || s.Heard(bea.Hz) < 2 {
		t.Errorf("the message holds %.1f s of Bea in %.1f s, %v", s.Heard(bea.Hz), s.Seconds(), err)
	}
	call(t, bea, ana, "80001201")
	hangUp(t, ana, bea)
}
