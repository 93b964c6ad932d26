package voicemail

import (
	"errors"
	"strings"
	"testing"
	"time"

	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/site"
)

// three leaves bob three messages of 500, 600 and 700 Hz.
func (h *house) three() {
	h.Helper()
	for _, hz := range []float64{500, 600, 700} {
		h.leaveOne(hz, 3*time.Second)
		time.Sleep(time.Minute)
	}
}

// enter goes in from bob's own phone, without a PIN.
func (h *house) enter() *visit {
	h.Helper()
	h.boxes.trusted = true
	return h.dial(Listen, bob, site.Party{}, "")
}

func TestKeysOfTheMailbox(t *testing.T) {
	in(t, func(h *house) {
		h.three()
		v := h.enter()
		v.hear("you-have", "3", "new-messages")
		v.tone(500)
		v.press("9")
		v.tone(600) // not heard to its end: it stays new
		v.press("7")
		v.hear("message", "1")
		v.tone(500)
		v.press("7")
		v.hear("first-message")
		v.tone(500)
		v.press("2")
		v.hear("saved", "message", "2")
		v.tone(600)
		v.press("#")
		v.hear("message", "3")
		v.press("3") // before it is played
		v.hear("deleted", "no-more", "end-keys")
		v.press("1")
		v.hear("message", "1")
		v.tone(600) // what is new comes first
		v.hear("message-keys", "message", "2")
		v.tone(500)
		v.press("*")
		v.hear("goodbye")
		h.must(v.ended())

		list := (&box{talk: &talk{Voicemail: h.v}, id: bob.User}).list()
		if len(list) != 2 || !list[0].Heard || list[0].Folder != site.Saved || !list[1].Heard || list[1].Folder != site.Inbox {
			h.Errorf("left: %+v", list)
		}
		v = h.enter()
		v.hear("you-have", "no", "new-messages", "and", "2", "old-messages")
		h.must(v.hangUp(site.Normal))
	})
}

func TestAMessageThatComesMeanwhileIsPlayed(t *testing.T) {
	in(t, func(h *house) {
		h.leaveOne(500, 3*time.Second)
		v := h.enter()
		v.hear("1", "new-message")
		v.tone(500)
		h.leaveOne(600, 3*time.Second)
		v.press("9")
		v.hear("message", "2")
		v.tone(600)
		h.must(v.hangUp(site.Normal))
	})
}

func TestAudioThatIsStillOnItsWay(t *testing.T) {
	in(t, func(h *house) {
		h.leaveOne(500, 3*time.Second)
		ref := h.boxes.only(h.T).Audio
		h.blobs.send(ref)
		v := h.enter()
		v.hear("message", "1", "arriving")
		time.Sleep(10 * time.Second)
		h.blobs.arrive(ref)
		began := time.Now()
		v.tone(500)
		if d := time.Since(began); d > time.Second {
			h.Errorf("played %v after it came", d)
		}
		h.must(v.hangUp(site.Normal))
	})
	in(t, func(h *house) { // go on without it
		h.three()
		ref := h.boxes.Messages(bob.User)[0].Audio
		for _, m := range h.boxes.messages {
			if m.Duration > 0 && media.Hears(h.audio(m)[4000:16000], 500) {
				ref = m.Audio
			}
		}
		h.blobs.send(ref)
		v := h.enter()
		v.hear("arriving")
		v.press("9")
		v.hear("message", "2")
		v.tone(600)
		h.must(v.hangUp(site.Normal))
	})
	in(t, func(h *house) { // it never comes
		h.leaveOne(500, 3*time.Second)
		h.blobs.send(h.boxes.only(h.T).Audio)
		v := h.enter()
		v.hear("arriving", "not-possible", "message-keys", "no-more", "goodbye")
		h.must(v.ended())
		if h.boxes.only(h.T).Heard {
			h.Error("a message nobody heard is no longer new")
		}
	})
}

func TestWrongPINs(t *testing.T) {
	in(t, func(h *house) {
		v := h.dial(Listen, bob, site.Party{}, "")
		v.hear("enter-pin")
		v.press("1111#")
		v.hear("wrong-pin", "enter-pin")
		v.press("4*4711#") // star begins again
		v.hear("you-have")
		h.must(v.hangUp(site.Normal))

		guess := func(from, to site.Party) *visit {
			v := h.dial(Listen, from, to, "")
			for range 3 {
				v.hear("enter-pin")
				v.press("0000#")
				v.hear("wrong-pin")
			}
			v.hear("too-many-tries", "goodbye")
			h.must(v.ended())
			return v
		}
		guess(alice, bob)
		v = h.dial(Listen, alice, bob, "") // even with the right one, for a minute
		v.hear("too-many-tries")
		h.must(v.ended())
		v = h.dial(Listen, bob, site.Party{}, "") // the owner's own phone is not locked by that
		v.hear("enter-pin")
		v.press("4711#")
		v.hear("you-have")
		h.must(v.hangUp(site.Normal))
		time.Sleep(time.Minute)
		guess(alice, bob)
		time.Sleep(61 * time.Second)
		v = h.dial(Listen, alice, bob, "") // twice as long the second time
		v.hear("too-many-tries")
		h.must(v.ended())
		time.Sleep(2 * time.Minute)
		v = h.dial(Listen, alice, bob, "")
		v.hear("enter-pin")
		v.press("4711#")
		v.hear("you-have")
		h.must(v.hangUp(site.Normal))
		for _, secret := range []string{"4711", "0000", "1111"} {
			if strings.Contains(h.log.String(), secret) {
				h.Errorf("%s is in the log", secret)
			}
		}
	})
}

func TestFromAPhoneThatIsNobodys(t *testing.T) {
	in(t, func(h *house) {
		h.leaveOne(500, 3*time.Second)
		v := h.dial(Listen, site.Party{Number: "+331"}, site.Party{}, "")
		v.hear("enter-mailbox")
		v.press("202#")
		v.hear("enter-pin")
		v.press("4711#")
		v.hear("you-have", "1", "new-message")
		h.must(v.hangUp(site.Normal))
		v = h.dial(Listen, site.Party{Number: "+331"}, site.Party{}, "")
		v.hear("enter-mailbox")
		v.press("999#")
		for range 3 { // no word that there is no such mailbox
			v.hear("enter-pin")
			v.press("4711#")
			v.hear("wrong-pin")
		}
		v.hear("too-many-tries", "goodbye")
		h.must(v.ended())
	})
}

func TestGreetingByTelephone(t *testing.T) {
	in(t, func(h *house) {
		v := h.enter()
		v.press("0")
		v.hear("options")
		v.press("1")
		v.hear("record-greeting")
		v.tone(1000)
		v.speak(800, 2*time.Second)
		v.press("#")
		v.tone(800)
		v.hear("greeting-keys")
		v.press("2") // again
		v.hear("record-greeting")
		v.tone(1000)
		v.speak(900, 2*time.Second)
		v.press("#")
		v.tone(900)
		v.hear("greeting-keys")
		v.press("1")
		v.hear("greeting-kept", "options")
		h.must(v.hangUp(site.Normal))
		if h.blobs.unfinished() != 0 {
			h.Error("a recording is left over")
		}
		v = h.dial(Leave, alice, bob, "busy")
		v.tone(900)
		v.tone(1000)
		h.must(v.hangUp(site.Normal))

		// Not at this node yet: the standard one.
		ref, _ := h.boxes.Greeting(bob.User, "")
		h.blobs.send(ref)
		v = h.dial(Leave, alice, bob, "busy")
		v.hear("greeting-busy")
		h.must(v.hangUp(site.Normal))

		v = h.enter()
		v.press("0")
		v.hear("options")
		v.press("2")
		v.hear("greeting-removed")
		h.must(v.hangUp(site.Normal))
		if _, ok := h.boxes.Greeting(bob.User, ""); ok {
			h.Error("the greeting is still there")
		}
	})
}

func TestPINByTelephone(t *testing.T) {
	in(t, func(h *house) {
		v := h.enter()
		v.press("0")
		for _, pin := range []string{"12", "7777", "123456", "9876"} {
			v.hear("options")
			v.press("3")
			v.hear("new-pin")
			v.press(pin + "#")
			v.hear("pin-weak")
		}
		v.hear("options")
		v.press("3")
		v.hear("new-pin")
		v.press("8080#")
		v.hear("again-pin")
		v.press("8081#")
		v.hear("pin-differs", "options")
		if h.boxes.pins[bob.User] != "4711" {
			h.Fatal("the PIN changed too early")
		}
		v.press("3")
		v.hear("new-pin")
		v.press("8080#")
		v.hear("again-pin")
		v.press("8080#")
		v.hear("pin-changed", "options")
		if h.boxes.pins[bob.User] != "8080" {
			h.Error("the PIN did not change")
		}
		h.boxes.fail = errors.New("read only")
		v.press("3")
		v.hear("new-pin")
		v.press("8181#")
		v.hear("again-pin")
		v.press("8181#")
		v.hear("not-possible")
		h.must(v.hangUp(site.Normal))
	})
}

func TestSomebodyWhoSaysNothingIsLetGo(t *testing.T) {
	in(t, func(h *house) {
		h.leaveOne(500, 3*time.Second)
		v := h.enter()
		v.hear("you-have", "message-keys", "no-more", "end-keys", "no-more", "goodbye")
		h.must(v.ended())
	})
	in(t, func(h *house) {
		v := h.dial(Listen, bob, site.Party{}, "")
		v.hear("too-many-tries", "goodbye")
		h.must(v.ended())
	})
}

func TestHangUpAnywhereInTheMailbox(t *testing.T) {
	for at := 100 * time.Millisecond; at < 40*time.Second; at += 1300 * time.Millisecond {
		in(t, func(h *house) {
			h.leaveOne(500, 3*time.Second)
			v := h.enter()
			gone := make(chan struct{})
			go func() {
				for _, keys := range []string{"0", "1", "#", "*", "3", "8080#", "8080#", "*", "2", "*"} {
					select {
					case <-time.After(3500 * time.Millisecond):
					case <-gone:
						return
					}
					if v.phone.Press(v.ctx, keys) != nil {
						return
					}
				}
			}()
			time.Sleep(at)
			close(gone)
			v.call.End(site.Normal)
			v.phone.Close()
			h.must(v.ended())
			if h.blobs.unfinished() != 0 {
				h.Errorf("hung up after %v: a recording is left over", at)
			}
		})
	}
}
