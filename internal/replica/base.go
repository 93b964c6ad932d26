package replica

import "carrierclass.net/ccnode/crdt"

// A Base is a state that many boxes of a simulation begin with and share: they
// all have one directory, and each costs what it comes to differ in. It is not
// safe for concurrent use, nor are the Steppers on it.
type Base struct{ of map[crdt.Scope]*scope }

// Freeze makes what the Stepper has a Base, writes what its disk still lacks of
// it, and ends the Stepper.
func (s *Stepper) Freeze() *Base {
	for s.readOnly == nil && !s.chores.empty() {
		s.flush()
	}
	s.Stop()
	return &Base{s.scopes}
}

// NewStepperOn is NewStepper on a disk that has what the base's disk has under c/
// and a/, and under f/ and s/clock, and nothing more of changes. Scan does not
// have to show what the base has until Reopen.
func NewStepperOn(cfg Config, base *Base) (*Stepper, error) {
	cfg.base = base
	return NewStepper(cfg)
}

func (b *Base) scopes() map[crdt.Scope]*scope {
	out := map[crdt.Scope]*scope{}
	if b == nil {
		return out
	}
	for name, sc := range b.of {
		out[name] = &scope{name: name, set: crdt.Over(sc.set), stored: sc.stored, arrivals: sc.arrivals.over()}
	}
	return out
}
