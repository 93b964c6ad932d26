package lab

import (
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/test/lab/labkit"
)

// From an empty disk to speech: one command starts the box, two make the
// users, two telephones register and talk, and no file was edited.
func TestFirstCall(t *testing.T) {
	l := labkit.New(t, "a")
	phones := l.Host("a", "phones")
	start := time.Now()
	box := l.Host("a", "a1").Box()
	box.Start() // an empty machine, no words but where it listens
	if took := box.Ready(5 * time.Second); took > 2*time.Second {
		t.Errorf("ready for phones after %v, want 2 s", took)
	}
	ana := registered(t, phones, box.Account(box.User("201", "--name", "Ana"), 60), 440)
	bob := registered(t, phones, box.Account(box.User("202", "--name", "Bob"), 60), 1000)
	call(t, ana, bob, "202")
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("from an empty disk to speech took %v, want 30 s", took)
	}
	hangUp(t, ana, bob)

	t.Run("the other way, hung up by the called", func(t *testing.T) {
		call(t, bob, ana, "201")
		hangUp(t, ana, bob)
	})
	t.Run("refused", func(t *testing.T) {
		mark, rings := ana.Mark(), bob.Mark()
		ana.Dial("202")
		bob.Await(rings, "CALL_INCOMING", 5*time.Second)
		ana.Hangup()
		ana.Await(mark, "CALL_CLOSED", 5*time.Second)
		bob.Await(rings, "CALL_CLOSED", 5*time.Second)
	})
	t.Run("options", func(t *testing.T) {
		out, err := phones.Sipsak("sip:" + box.Host.Addr.String() + ":5060")
		if err != nil || !strings.Contains(out, "200") {
			t.Errorf("sipsak: %v\n%s", err, out)
		}
	})
	t.Run("over TCP", func(t *testing.T) {
		a := box.Account(box.User("203", "--name", "Cem"), 60)
		a.Transport = "tcp"
		cem := registered(t, phones, a, 600)
		call(t, ana, cem, "203")
		hangUp(t, cem, ana)
	})
}

// A wrong password and an unknown number are refused alike, and the telephone
// of nobody is not called.
func TestStrangersAreRefused(t *testing.T) {
	l := labkit.New(t, "a")
	phones := l.Host("a", "phones")
	box := found(l, "a", "a1")
	good := box.Account(box.User("201"), 60)
	keys := map[string]string{"contact_port": "7000", "expires": "60"}
	for name, change := range map[string]func(*labkit.Account){
		"wrong password": func(a *labkit.Account) { a.Password = "guess" },
		"unknown number": func(a *labkit.Account) { a.User, a.AuthUser = "0001999", "0001999" },
	} {
		a := good
		change(&a)
		y, err := phones.Sipp(labkit.Load{Scenario: "register", Server: a.Server, Users: []labkit.User{a.Load("")}, Calls: 1, Keys: keys})
		if err == nil || y.Bad != 1 || !strings.Contains(err.Error(), "SIP/2.0 401") {
			t.Errorf("%s: %+v, %v; want a new challenge", name, y, err)
		}
	}
	if _, err := phones.Sipp(labkit.Load{Scenario: "register", Server: good.Server, Users: []labkit.User{good.Load("")}, Calls: 1, Keys: keys}); err != nil {
		t.Error(err)
	}
	if st := box.Status(); st.Phones != 1 {
		t.Errorf("%d phones are registered, want 1", st.Phones)
	}
}
