package labkit

import (
	"testing"
	"time"
)

// Two telephones, no server: what each says the other hears, across the WAN,
// and a cut takes the sound away without a word.
func TestTelephonesHearEachOther(t *testing.T) {
	l := New(t, "a", "b")
	ana := l.Host("a", "ana").Telephone(Account{User: "ana", Domain: "10.77.1.1"}, 440)
	bob := l.Host("b", "bob").Telephone(Account{User: "bob", Domain: "10.77.2.1"}, 1000)

	before := l.Wan()
	mark := bob.Mark()
	ana.Dial("sip:bob@10.77.2.1:6000")
	bob.Await(mark, "CALL_INCOMING", 5*time.Second)
	bob.Accept()
	ana.Await(0, "CALL_ESTABLISHED", 5*time.Second)
	time.Sleep(2 * time.Second) // of speech

	l.Cut("b")
	cut := l.Wan()
	time.Sleep(time.Second)
	during := l.Wan().Since(cut).Sum()
	l.Heal()
	if during.UDP.Packets < 60 || during.Through.Packets > 2 {
		t.Errorf("in a second's cut of a call: %+v", during)
	}
	mark = ana.Mark()
	bob.Hangup()
	ana.Await(mark, "CALL_CLOSED", 5*time.Second)

	if h, o := ana.LastHeard().Heard(1000), ana.LastHeard().Heard(440); h < 1.5 || o > 0 {
		t.Errorf("ana heard %v s of bob and %v s of herself", h, o)
	}
	if h, o := bob.LastHeard().Heard(440), bob.LastHeard().Heard(1000); h < 1.5 || o > 0 {
		t.Errorf("bob heard %v s of ana and %v s of himself", h, o)
	}
	if w := l.Wan().Since(before); w[[2]string{"a", "b"}].UDP.Packets < 100 || w[[2]string{"b", "a"}].UDP.Packets < 100 {
		t.Errorf("speech counted on the WAN: %+v", w)
	}
}
