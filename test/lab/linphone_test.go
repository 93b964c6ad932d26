package lab

import (
	"testing"
	"time"

	"carrierclass.net/ccnode/test/lab/labkit"
)

// linphone (Debian's linphone-cli) is the lab's second make of telephone: what
// one make forgives, the other may not.

func TestLinphone(t *testing.T) {
	labkit.Need(t, "linphone-daemon", "baresip")
	l := labkit.New(t, "a")
	phones := l.Host("a", "phones")
	box := found(l, "a", "a1")
	lin := phones.Linphone(box.Account(box.User("201"), 60), 440)
	bob := registered(t, phones, box.Account(box.User("202"), 60), 1000)
	l.Within(10*time.Second, "linphone is registered", func() bool { return box.Status().Phones == 2 })
	mark := bob.Mark()
	lm := lin.Mark()
	c := lin.Dial("202")
	bob.Await(mark, "CALL_INCOMING", 5*time.Second)
	bob.Accept()
	lin.Await(lm, c, "StreamsRunning", 5*time.Second)
	time.Sleep(3 * time.Second)
	h := lin.LastHeard()
	t.Logf("lin heard %v of %v; bob %v", h.Heard(1000), h.Seconds(), bob.LastHeard().Heard(440))
	t.Fail()
}
