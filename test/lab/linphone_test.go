package lab

import (
	"testing"
	"time"

	"carrierclass.net/ccnode/test/lab/labkit"
)

// TestLinphone has linphone, the lab's second make of telephone, do what an
// office does with two lines: what one make forgives, the other may not.
func TestLinphone(t *testing.T) {
	labkit.Need(t, "linphone-daemon", "baresip")
	l := labkit.New(t, "a")
	phones := l.Host("a", "phones")
	box := found(l, "a", "a1")
	lin := phones.Linphone(box.Account(box.User("201", "--name", "Lin"), 60), 440)
	bob := registered(t, phones, box.Account(box.User("202", "--name", "Bob"), 60), 1000)
	cid := registered(t, phones, box.Account(box.User("203", "--name", "Cid"), 60), 700)
	l.Within(10*time.Second, "linphone is registered", func() bool { return box.Status().Phones == 3 })

	// dial has linphone call a telephone that answers, and returns the call.
	dial := func(t *testing.T, to *labkit.Baresip, number string) string {
		t.Helper()
		lm, tm := lin.Mark(), to.Mark()
		c := lin.Dial(number)
		to.Await(tm, "CALL_INCOMING", 5*time.Second)
		to.Accept()
		lin.Await(lm, c, "StreamsRunning", 5*time.Second)
		hears(t, l, "linphone", lin, to.Hz)
		hears(t, l, "the called", to, lin.Hz)
		return c
	}

	t.Run("hold and resume", func(t *testing.T) {
		start := time.Now()
		c := dial(t, bob, "202")
		lm := lin.Mark()
		lin.Hold(c)
		lin.Await(lm, c, "Paused", 5*time.Second)
		hearsMusic(t, "Bob", bob, lin.Hz)
		lm = lin.Mark()
		lin.Resume(c)
		lin.Await(lm, c, "StreamsRunning", 5*time.Second)
		hears(t, l, "Bob", bob, lin.Hz)
		hears(t, l, "linphone", lin, bob.Hz)
		bob.Hold()
		hearsMusic(t, "linphone", lin, bob.Hz)
		bob.Resume()
		hears(t, l, "linphone", lin, bob.Hz)
		hears(t, l, "Bob", bob, lin.Hz)
		bm := bob.Mark()
		lin.Hangup(c)
		bob.Await(bm, "CALL_CLOSED", 5*time.Second)
		ended(t, l, box, start, 1)
	})
	t.Run("blind transfer by the caller", func(t *testing.T) {
		start := time.Now()
		c := dial(t, bob, "202")
		lm, cm := lin.Mark(), cid.Mark()
		lin.Transfer(c, "203")
		cid.Await(cm, "CALL_INCOMING", 5*time.Second)
		cid.Accept()
		lin.Await(lm, c, "Released", 5*time.Second)
		hears(t, l, "Bob", bob, cid.Hz)
		hears(t, l, "Cid", cid, bob.Hz)
		hangUp(t, bob, cid)
		by(t, "0001201", ended(t, l, box, start, 1))
	})
	t.Run("blind transfer by the called", func(t *testing.T) {
		start := time.Now()
		lm, bm, cm := lin.Mark(), bob.Mark(), cid.Mark()
		bob.Dial("201")
		c := lin.Await(lm, "", "IncomingReceived", 5*time.Second).Call
		lin.Accept(c)
		bob.Await(bm, "CALL_ESTABLISHED", 5*time.Second)
		hears(t, l, "linphone", lin, bob.Hz)
		lin.Transfer(c, "203")
		cid.Await(cm, "CALL_INCOMING", 5*time.Second)
		cid.Accept()
		lin.Await(lm, c, "Released", 5*time.Second)
		hears(t, l, "Bob", bob, cid.Hz)
		hears(t, l, "Cid", cid, bob.Hz)
		hangUp(t, cid, bob)
		by(t, "0001201", ended(t, l, box, start, 1))
	})
	t.Run("blind transfer to nobody", func(t *testing.T) {
		start := time.Now()
		c := dial(t, bob, "202")
		lin.Transfer(c, "299")
		time.Sleep(time.Second) // the refusal comes within it; then both must talk as before
		hears(t, l, "Bob", bob, lin.Hz)
		hears(t, l, "linphone", lin, bob.Hz)
		lm := lin.Mark()
		bob.Hangup()
		lin.Await(lm, c, "Released", 5*time.Second)
		by(t, "", ended(t, l, box, start, 1))
	})
	// join has linphone hold Bob, ask Cid, and connect the two.
	join := func(t *testing.T, first string) {
		t.Helper()
		lm := lin.Mark()
		lin.Hold(first)
		lin.Await(lm, first, "Paused", 5*time.Second)
		second := dial(t, cid, "203")
		hearsMusic(t, "Bob", bob, lin.Hz)
		lm = lin.Mark()
		lin.Join(first, second)
		lin.Await(lm, first, "Released", 5*time.Second)
		lin.Await(lm, second, "Released", 5*time.Second)
		hears(t, l, "Bob", bob, cid.Hz)
		hears(t, l, "Cid", cid, bob.Hz)
		hangUp(t, bob, cid)
	}
	t.Run("attended transfer by the caller", func(t *testing.T) {
		start := time.Now()
		join(t, dial(t, bob, "202"))
		by(t, "0001201", ended(t, l, box, start, 2))
	})
	t.Run("attended transfer by the called", func(t *testing.T) {
		start := time.Now()
		lm, bm := lin.Mark(), bob.Mark()
		bob.Dial("201")
		c := lin.Await(lm, "", "IncomingReceived", 5*time.Second).Call
		lin.Accept(c)
		lin.Await(lm, c, "StreamsRunning", 5*time.Second)
		bob.Await(bm, "CALL_ESTABLISHED", 5*time.Second)
		join(t, c)
		by(t, "0001201", ended(t, l, box, start, 2))
	})
	t.Run("attended transfer while it rings", func(t *testing.T) {
		start := time.Now()
		first := dial(t, bob, "202")
		lm, cm := lin.Mark(), cid.Mark()
		lin.Hold(first)
		lin.Await(lm, first, "Paused", 5*time.Second)
		second := lin.Dial("203")
		cid.Await(cm, "CALL_INCOMING", 5*time.Second)
		lin.Await(lm, second, "OutgoingRinging", 5*time.Second)
		lin.Join(first, second)
		lin.Await(lm, first, "Released", 8*time.Second)
		lin.Await(lm, second, "Released", 8*time.Second)
		cid.Accept()
		hears(t, l, "Bob", bob, cid.Hz)
		hears(t, l, "Cid", cid, bob.Hz)
		hangUp(t, bob, cid)
		by(t, "0001201", ended(t, l, box, start, 2))
	})
}
