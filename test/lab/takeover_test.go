package lab

import (
	"testing"
	"time"

	"carrierclass.net/ccnode/test/lab/labkit"
)

// TestOneRegistration is a provider that calls only who registered last, both
// boxes being behind one address: the one that has the calls loses its power,
// and calls come to the other as soon as it has registered again.
func TestOneRegistration(t *testing.T) {
	if long(true, false) {
		t.Skip("waits for registrations to expire: CCNODE_LONG=1")
	}
	s := openShop(t, "120")
	p := s.prov
	boxes := []*labkit.Node{s.node, join(s.Lab, "shop", "box2", s.node)}
	s.AwaitSettled(20*time.Second, boxes...)
	p.usable(boxes[1], 20*time.Second)
	boxes[0].Must("number", "set", "+"+account, "--to", "202")
	s.AwaitSettled(20*time.Second, boxes...)

	mark := s.bob.Mark()
	in := p.calls("provider-call", 0, labkit.Said{Hz: providerHz, For: 60 * time.Second})
	s.bob.Await(mark, "CALL_INCOMING", 10*time.Second)
	s.bob.Accept()
	p.talks(s.bob)
	at := 0
	if boxes[1].Status().Calls > 0 {
		at = 1
	}
	mark = s.bob.Mark()
	s.bob.Hangup()
	s.bob.Await(mark, "CALL_CLOSED", 5*time.Second)
	p.good(in)
	boxes[at].Kill()
	begun := time.Now()
	t.Logf("box %d had the call and is killed; the provider has %d registrations", at+1, len(p.border.Bindings()))
	for {
		mark := s.bob.Mark()
		p.calls("provider-call", 0, labkit.Said{Hz: providerHz, For: 60 * time.Second})
		if _, ok := s.bob.Await2(mark, "CALL_INCOMING", 5*time.Second); ok {
			break
		}
		if time.Since(begun) > 120*time.Second {
			t.Fatal("two minutes after the box is gone no call from outside rings")
		}
	}
	took := time.Since(begun)
	s.bob.Accept()
	p.talks(s.bob)
	s.bob.Hangup()
	t.Logf("a call from outside rings %v after the box is gone", took.Round(time.Second))
}
