// Package announce says why a call cannot be made, before the caller is told so
// by a status: as early media (RFC 3261 §13.2.1), so that nothing is answered.
package announce

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/internal/site"
)

// Emergency is the feature that says that no emergency call is possible.
const Emergency site.FeatureName = "no-emergency"

// most is how long a caller is kept for an announcement.
const most = 10 * time.Second

// Announcement is one of them.
type Announcement struct {
	name   site.FeatureName
	prompt string
	cause  site.Cause // what the call ends with
	words  *prompts.Set
	log    *slog.Logger
}

// New makes the announcement that name stands for: a prompt, then a cause.
func New(name site.FeatureName, prompt string, cause site.Cause, log *slog.Logger) (*Announcement, error) {
	words, err := prompts.English()
	if err != nil {
		return nil, err
	}
	if _, ok := words.Clip(prompt); !ok {
		return nil, fmt.Errorf("announcement %s: there is no prompt %q", name, prompt)
	}
	return &Announcement{name: name, prompt: prompt, cause: cause, words: words, log: log}, nil
}

// Name is what calls are given to it by.
func (a *Announcement) Name() site.FeatureName { return a.name }

// ServeCall says the prompt twice and refuses the call. A caller who cannot be
// spoken to is refused at once.
func (a *Announcement) ServeCall(ctx context.Context, c features.Call) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	m, err := c.Early(ctx)
	if err != nil {
		return a.cause
	}
	if err := m.Play(ctx, a.words.Say(a.prompt, a.prompt), false); err != nil && ctx.Err() == nil {
		a.log.Warn("An announcement could not be made", "call", c.Chain(), "prompt", a.prompt, "err", err)
	}
	return fmt.Errorf("announced: %w", a.cause)
}
