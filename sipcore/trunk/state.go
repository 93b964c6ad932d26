package trunk

import (
	"fmt"
	"net/netip"
	"time"
)

// Phase is how a trunk is, by the newest evidence.
type Phase uint8

const (
	Starting      Phase = iota // nothing known yet
	Ready                      // a peer that is not asked: known by its address
	Registered                 // until State.Until
	Reachable                  // a peer that answers our OPTIONS
	Trying                     // asked, no verdict yet
	NoAnswer                   // nothing came back
	NoAddress                  // its name could not be resolved
	WrongPassword              // twice refused; asked again seldom, or after a change
	WrongRealm                 // somebody else asked for the password
	WrongClock                 // a fresh answer is called stale, again and again
	Refused                    // by a status: State.Status
	Held                       // the pair's other node has it
	Closed
)

func (p Phase) String() string {
	return [...]string{"starting", "ready", "registered", "reachable", "trying", "no answer", "no address",
		"wrong password", "wrong realm", "clock", "refused", "held", "closed"}[p]
}

// A State is a trunk as people are told about it.
type State struct {
	Name   string
	Kind   Kind
	Via    Way
	Server string
	Phase  Phase
	Since  time.Time // of Phase
	Until  time.Time // our registration lasts at the provider; zero: there is none
	Again  time.Time // next attempt
	Status int       // of the last SIP answer; 0: none yet
	Reason string    // its phrase
	At     time.Time // when it came
	Err    string    // what went wrong last, in words; "" after success

	Contact  string         // as we said it
	Public   netip.AddrPort // where the provider sees us (RFC 3581); zero: it did not say
	NAT      bool           // Public is not our own address
	Listed   string         // our Contact as it came back, if it did
	ALG      bool           // something on the way rewrote our Via or Contact
	Others   int            // further contacts of this account: the pair's other node, or a stranger
	ClockOff time.Duration  // provider's Date less our clock, when over a minute (RFC 3261 §20.17)

	Used, Emergencies, Channels int // calls open, of which emergency, and the limit (0: none)
}

// Usable says whether calls may be expected to pass. Those in the other phases
// are tried too, when there is nothing better: evidence is old as soon as it
// is there.
func (s State) Usable(now time.Time) bool {
	return s.Phase == Ready || s.Phase == Reachable || s.Phase == Held || s.Until.After(now)
}

// String says it in words, as on page and in status.
func (s State) String() string {
	clock := func(t time.Time) string { return t.Format("15:04:05") }
	var w string
	switch s.Phase {
	case Registered:
		w = "registered until " + clock(s.Until)
	case Trying:
		w = "trying since " + clock(s.Since)
	case NoAnswer:
		w = "no answer since " + clock(s.Since)
	case Refused:
		w = fmt.Sprintf("refused: %d %s", s.Status, s.Reason)
	case WrongClock:
		w = "the provider calls every answer stale: its clock or ours is wrong"
	case Ready:
		w = "ready, not registered"
	default:
		w = s.Phase.String()
	}
	if s.Phase != Registered && !s.Until.IsZero() {
		w += ", still registered until " + clock(s.Until)
	}
	if s.ALG {
		w += "; a router on the way rewrites SIP (ALG): switch that off"
	}
	if s.ClockOff != 0 {
		w += fmt.Sprintf("; clocks differ by %s", s.ClockOff.Round(time.Second))
	}
	return w
}
