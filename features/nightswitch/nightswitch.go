// Package nightswitch opens and closes a shop by telephone: who dials the code
// changes what callers meet, day or night, and hears what holds now.
//
// Its law: every call changes the state people notice, and the opening hours
// take over again wherever they give the state that is wanted, so that nobody
// has to remember to switch back.
package nightswitch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/internal/site"
)

// Name of the feature, as the dial plan knows it.
const Name site.FeatureName = "nightswitch"

// Mode is the position of the switch, in the words of opening hours.
type Mode string

// The positions.
const (
	Auto   Mode = "auto" // as the hours say
	Open   Mode = "open"
	Closed Mode = "closed"
)

// State is what holds now.
type State struct {
	Open    bool // with the switch
	ByHours bool // what the opening hours alone say
}

// Switch is all that this package knows about state: the switch of the place a
// caller belongs to.
type Switch interface {
	// State returns false if the caller may not use the switch, or has none.
	State(by site.Party) (State, bool)

	// Set returns when the position is on this node's disk. The position
	// has no end.
	Set(ctx context.Context, by site.Party, m Mode) error
}

// Config of the feature. Switch and Logger are required.
type Config struct {
	Switch  Switch
	Prompts *prompts.Set // default: prompts.English
	Logger  *slog.Logger
}

// Feature is the switch as a feature.
type Feature struct{ cfg Config }

var _ features.Feature = (*Feature)(nil)

// New checks the configuration.
func New(cfg Config) (*Feature, error) {
	if cfg.Switch == nil || cfg.Logger == nil {
		return nil, errors.New("night switch: Switch and Logger are required")
	}
	if cfg.Prompts == nil {
		set, err := prompts.English()
		if err != nil {
			return nil, fmt.Errorf("night switch: %w", err)
		}
		cfg.Prompts = set
	}
	return &Feature{cfg: cfg}, nil
}

// Name is "nightswitch".
func (f *Feature) Name() site.FeatureName { return Name }

// Turn is the position that changes what holds: the hours where they agree.
func Turn(s State) Mode {
	switch {
	case s.ByHours != s.Open:
		return Auto
	case s.Open:
		return Closed
	}
	return Open
}

// writing is how long the disk may take; a caller who hangs up does not stop it.
const writing = 10 * time.Second

// ServeCall turns the switch, says so, and hangs up. A caller who may not is
// refused before the answer.
func (f *Feature) ServeCall(ctx context.Context, c features.Call) error {
	by := c.From()
	was, ok := f.cfg.Switch.State(by)
	if !ok {
		return fmt.Errorf("night switch: %s may not use it: %w", by.Number, site.Forbidden)
	}
	life, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(c.Context(), func() { cancel(context.Cause(c.Context())) })
	defer stop()
	over := func() bool { return life.Err() != nil || c.Context().Err() != nil }

	m, err := c.Answer(life)
	if err != nil {
		if over() {
			return nil // hung up before anything happened: nothing changes
		}
		return fmt.Errorf("night switch: answer: %w", err)
	}
	mode, words := Turn(was), "day-mode"
	if was.Open {
		words = "night-mode"
	}
	onDisk, done := context.WithTimeout(context.WithoutCancel(life), writing)
	defer done()
	if err := f.cfg.Switch.Set(onDisk, by, mode); err != nil {
		f.cfg.Logger.Warn("Night switch was not turned", "chain", c.Chain(), "caller", by.Number, "to", string(mode), "err", err)
		words = "not-possible"
		if errors.Is(err, site.Forbidden) {
			words = "not-permitted"
		}
	} else {
		f.cfg.Logger.Info("Night switch turned", "chain", c.Chain(), "caller", by.Number, "to", string(mode), "open", !was.Open)
	}
	if err := m.Play(life, f.cfg.Prompts.Say(words), false); err != nil && !over() && !errors.Is(err, net.ErrClosed) {
		f.cfg.Logger.Warn("Night switch could not say what it did", "chain", c.Chain(), "err", err)
	}
	if over() {
		return nil
	}
	return c.Hangup(context.WithoutCancel(life), site.Normal)
}
