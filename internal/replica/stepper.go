package replica

import (
	"context"
	"errors"
	"time"

	"carrierclass.net/ccnode/mesh"
)

// A Stepper is an Engine without goroutines and timers: whoever owns it says
// what happens and when. A simulation runs many of them in one thread, each
// with the code that a box runs, and the same seed gives the same run. Its
// methods are called from one goroutine.
//
//	s, err := replica.NewStepper(cfg)   // cfg.Mesh only sends, dials and drops
//	s.Handle(ev)                        // the mesh reports something
//	s.Commit(m)                         // somebody writes
//	s.Step()                            // the time s.Next() has come
type Stepper struct {
	*Engine
	careAt time.Time // when the housekeeping is due, zero: not
}

// NewStepper reads the state from disk and makes the first plans.
func NewStepper(cfg Config) (*Stepper, error) {
	e, err := New(cfg)
	if err != nil {
		return nil, err
	}
	s := &Stepper{Engine: e}
	e.x.begin()
	s.careAt = e.cfg.Now().Add(choreDelay)
	s.work()
	return s, nil
}

// Handle takes one event of the mesh.
func (s *Stepper) Handle(ev mesh.Event) {
	s.x.handle(ev)
	s.x.drain()
	s.work()
}

// Commit is Engine.Commit, done at once.
func (s *Stepper) Commit(m Mutation) (Receipt, error) {
	l := &local{m: m, done: make(chan answer, 1)}
	if err := s.inbox.local(l); err != nil {
		return Receipt{}, err
	}
	s.work()
	select {
	case a := <-l.done:
		return a.receipt, a.err
	default:
		return Receipt{}, ErrStopped // the engine's turn always answers
	}
}

// Take is Engine.Submit, done at once.
func (s *Stepper) Take(raw []byte) (Verdict, error) {
	c, err := s.decode(raw)
	in := &incoming{c: c, done: make(chan judged, 1)}
	if p := (*errPoison)(nil); errors.As(err, &p) {
		in.poison = p.what
	} else if err != nil {
		return Verdict{Refuse, err.Error()}, nil
	}
	s.verifiers.verify(in)
	s.inbox.deliver(&delivery{changes: []*incoming{in}})
	s.work()
	select {
	case j := <-in.done:
		return j.verdict, j.err
	default:
		return Verdict{}, ErrStopped
	}
}

// Reconfigure asks the topology again, as TopologyChanged does.
func (s *Stepper) Reconfigure() error {
	done := s.enqueue(s.reconfigure)
	s.work()
	return (<-done).err
}

// Doubts says whether a neighbour is still to be asked what this disk lost.
func (s *Stepper) Doubts() bool { return s.x.doubt }

// Next is when Step has something to do; zero: only when something happens.
func (s *Stepper) Next() time.Time {
	if next := s.x.due; s.careAt.IsZero() || !next.IsZero() && next.Before(s.careAt) {
		return next
	}
	return s.careAt
}

// Step does what is due by now.
func (s *Stepper) Step() {
	now := s.cfg.Now()
	if due := s.x.due; !due.IsZero() && !now.Before(due) {
		s.x.due = time.Time{}
		s.x.tick()
	}
	if !s.careAt.IsZero() && !now.Before(s.careAt) {
		s.careAt = time.Time{}
		s.care()
	}
	s.work()
}

// work does all that waits, as Run and its goroutines would.
func (s *Stepper) work() {
	for {
		select {
		case d := <-s.x.submit:
			for _, in := range d.changes {
				s.verifiers.verify(in)
			}
			s.inbox.deliver(d)
			continue
		default:
		}
		if !s.turn() {
			break
		}
	}
	s.watchers.drain(context.Background())
	if s.careAt.IsZero() && s.needsCare() {
		s.careAt = s.cfg.Now().Add(choreDelay)
	}
}

// Stop ends it; its store can be closed then. What was not written is not.
func (s *Stepper) Stop() {
	close(s.stopped)
	s.inbox.close()
}
