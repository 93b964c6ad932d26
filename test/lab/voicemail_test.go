package lab

import (
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/test/lab/labkit"
)

// leave makes a telephone leave a message of about the time given, past the
// greeting, and hang up. It returns how long the machine took to answer.
func leave(t *testing.T, from *labkit.Baresip, number string, speech time.Duration) time.Duration {
	t.Helper()
	mark, start := from.Mark(), time.Now()
	from.Dial(number)
	from.Await(mark, "CALL_ESTABLISHED", 10*time.Second)
	took := time.Since(start)
	time.Sleep(time.Second) // a person hears that it is a machine
	from.Press("1")
	time.Sleep(speech + time.Second) // the tone before which nothing is kept
	mark = from.Mark()
	from.Hangup()
	from.Await(mark, "CALL_CLOSED", 5*time.Second)
	return took
}

// Bob's telephone is off. Ana leaves him a message. His lamp is lit as soon as
// his telephone is on; he hears the message with his PIN, typed as telephone
// events (RFC 4733), and deletes it; the lamp goes out. A wrong PIN hears
// nothing.
func TestVoicemailPIN(t *testing.T) {
	l := labkit.New(t, "a")
	a1 := found(l, "a", "a1")
	phones := l.Host("a", "phones")
	ana := registered(t, phones, a1.Account(a1.User("201", "--name", "Ana"), 60), 440)
	bobs := a1.Account(a1.User("202", "--name", "Bob", "--pin", "4829"), 60)
	bobs.MWI = true

	leave(t, ana, "202", 4*time.Second)
	var msgs []api.Message
	l.Within(5*time.Second, "Bob has a message", func() bool {
		return a1.Get("/users/0001202/messages", &msgs) == nil && len(msgs) == 1
	})
	if m := msgs[0]; m.From != "201" || m.Seconds < 3 || m.Seconds > 8 || m.Heard || m.CutOff {
		t.Errorf("the message is %+v", m)
	}
	if f := a1.Holds("4829"); f != "" {
		t.Errorf("the PIN stands in the clear in %s", f)
	}

	lamp := phones.StartSipp(labkit.Load{Scenario: "subscribe", Server: bobs.Server, Users: []labkit.User{bobs.Load("")}, Calls: 1, Keys: map[string]string{"expires": "60"}})
	if _, err := lamp.Result(); err != nil {
		t.Error(err)
	} else if said := lamp.Said(); !strings.Contains(said, "lamp 0001202 Messages-Waiting: yes") {
		t.Errorf("a second telephone's lamp says %q", said)
	}

	bob := registered(t, phones, bobs, 1000)
	if _, ok := bob.AwaitParam(0, "Messages-Waiting: yes", 5*time.Second); !ok {
		t.Fatal("Bob's lamp is dark")
	}

	a1.Must("user", "set", "0001202", "--always-pin")
	open := func(pin string) (mark int) {
		t.Helper()
		mark = bob.Mark()
		bob.Dial("*97")
		bob.Await(mark, "CALL_ESTABLISHED", 5*time.Second)
		time.Sleep(500 * time.Millisecond)
		bob.Press(pin + "#")
		return mark
	}

	mark := open("1111")
	time.Sleep(6 * time.Second) // far longer than the prompts before a message
	if h := bob.LastHeard().Heard(ana.Hz); h > 0 {
		t.Errorf("a wrong PIN heard %.1f s of the message", h)
	}
	bob.Hangup()
	bob.Await(mark, "CALL_CLOSED", 5*time.Second)

	mark = open("4829")
	l.Within(25*time.Second, "Bob hears three seconds of Ana", func() bool { return bob.LastHeard().Heard(ana.Hz) >= 3 })
	dark := bob.Mark()
	bob.Press("3") // delete
	if _, ok := bob.AwaitParam(dark, "Messages-Waiting: no", 5*time.Second); !ok {
		t.Error("Bob's lamp still shines")
	}
	bob.Hangup()
	bob.Await(mark, "CALL_CLOSED", 5*time.Second)
	l.Within(5*time.Second, "the message is in the trash", func() bool {
		var msgs []api.Message
		return a1.Get("/users/0001202/messages", &msgs) == nil && (len(msgs) == 0 || msgs[0].Folder == "trash")
	})
}
