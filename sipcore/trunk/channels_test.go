package trunk_test

import (
	"testing"

	"carrierclass.net/ccnode/sipcore/trunk"
)

func TestChannels(t *testing.T) {
	within(t, nil, func(w *world) {
		a := account()
		a.Channels = 3
		w.use(a)
		take := func(c trunk.Claim, drop string, ok bool) *trunk.Lease {
			t.Helper()
			l, gotDrop, gotOK := w.tr.Take("provider", c)
			if gotDrop != drop || gotOK != ok || (l != nil) != ok {
				t.Fatalf("%+v: drop %q, %v; want %q, %v", c, gotDrop, gotOK, drop, ok)
			}
			return l
		}
		one := take(trunk.Claim{Call: "1"}, "", true)
		one.Answered()
		take(trunk.Claim{Call: "2"}, "", true)
		three := take(trunk.Claim{Call: "3", Inbound: true}, "", true)
		three.Answered()
		take(trunk.Claim{Call: "4"}, "", false).Release()
		if s := w.state(); s.Used != 3 || s.Channels != 3 || s.Emergencies != 0 {
			t.Errorf("%+v", s)
		}
		sos := take(trunk.Claim{Call: "112", Emergency: true}, "2", true) // rings only
		two := w.state().Used
		three.Release()
		three.Release()
		if s := w.state(); s.Used != two-1 || s.Emergencies != 1 {
			t.Errorf("%+v", s)
		}
		take(trunk.Claim{Call: "5"}, "", false)
		in := take(trunk.Claim{Call: "6", Inbound: true}, "", true)
		in.Answered()
		take(trunk.Claim{Call: "113", Emergency: true}, "6", true) // the place of call 2 is taken
		sos.Release()

		a.Channels = 1 // calls keep their channels when the setup changes
		w.use(a)
		if s := w.state(); s.Used != 4 || s.Channels != 1 {
			t.Errorf("%+v", s)
		}
		if w.p.count() != 2 {
			t.Errorf("a new limit registered again: %v", w.p.registers())
		}
		if _, _, ok := w.tr.Take("nobody", trunk.Claim{Call: "7", Emergency: true}); ok {
			t.Error("a channel of no trunk")
		}
	})
	within(t, nil, func(w *world) { // an emergency call never drops another
		a := account()
		a.Channels = 1
		w.use(a)
		for _, call := range []string{"112a", "112b"} {
			if _, drop, ok := w.tr.Take("provider", trunk.Claim{Call: call, Emergency: true}); !ok || drop != "" {
				t.Errorf("%s: drop %q, %v", call, drop, ok)
			}
		}
	})
}
