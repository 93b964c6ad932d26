package b2bua

import (
	"context"
	"errors"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
)

// A Sound is what an end of a call hears while nobody talks to it.
type Sound uint8

const (
	// Music is for a caller who was put on hold or parked.
	Music Sound = iota
	// RingBack is for a caller who was answered before and is being connected.
	RingBack
)

func (s Sound) String() string { return [...]string{"music", "ring-back"}[s] }

// hear lets the other end of l hear s until it is bridged or hushed. What it
// hears already goes on.
func (l *Leg) hear(s Sound) {
	play := l.srv.cfg.Sound
	if play == nil {
		return
	}
	l.sound.Lock()
	defer l.sound.Unlock()
	if l.stopSound != nil {
		if l.hears == s {
			return
		}
		l.stopSound()
	}
	c := l.call()
	if err := l.srv.cfg.Anchor.Bridge(l.port, nil); err != nil {
		l.srv.log.Debug("Port not taken out of its bridge", "call", c.Chain(), "err", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	l.hears, l.stopSound = s, func() { cancel(); <-over }
	l.srv.spawn(func() {
		defer close(over)
		err := play(ctx, l.port, s)
		if errors.Is(err, site.NotAcceptable) && ctx.Err() == nil { // it agreed to what we cannot speak ourselves
			if err = l.reoffer(ctx, nil); err == nil {
				err = play(ctx, l.port, s)
			}
		}
		if err != nil && ctx.Err() == nil {
			l.srv.log.Info("Somebody hears nothing where there should be something", "call", c.Chain(), "leg", l.remote.User, "sound", s.String(), "err", err)
		}
	})
}

// hush ends what l hears, before it is bridged or closed.
func (l *Leg) hush() {
	l.sound.Lock()
	defer l.sound.Unlock()
	if l.stopSound != nil {
		l.stopSound()
		l.stopSound = nil
	}
}

// bridge lets a and b hear each other; while one of them holds the other, that
// one hears music (calls.md §4, swap source).
func (c *Call) bridge(a, b *Leg) error {
	aHolds, bHolds := a.isHolding(), b.isHolding()
	if c.srv.cfg.Sound != nil && aHolds != bHolds {
		held := b
		if bHolds {
			held = a
		}
		held.hear(Music)
		return nil
	}
	a.hush()
	b.hush()
	return c.srv.cfg.Anchor.Bridge(a.port, b.port)
}

// isHolding says whether the other end of l has put the call on hold.
func (l *Leg) isHolding() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holding
}

// fits is a port that knows whether it can pass speech to and from another one.
type fits interface {
	Fits(other sipcore.Port) bool
}

// fit makes two legs that were agreed apart speak the same: where no codec of
// one is one of the other, a is offered b's (calls.md §4: the kept leg is
// re-invited only then).
func (c *Call) fit(a, b *Leg) error {
	if p, ok := a.port.(fits); !ok || p.Fits(b.port) {
		return nil
	}
	err := c.refit(a, b)
	if err != nil {
		err = c.refit(b, a)
	}
	if err != nil {
		c.srv.log.Warn("Two ends of a call have no codec in common", "call", c.chain, "err", err)
		return site.NotAcceptable
	}
	return nil
}

// refit offers a what b speaks.
func (c *Call) refit(a, b *Leg) error {
	b.mu.Lock()
	speaks := b.said
	b.mu.Unlock()
	return a.reoffer(c.ctx, speaks)
}
