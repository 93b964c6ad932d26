package announce

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/internal/site"
)

// Reasons says why a call is about to be refused.
type Reasons struct {
	words *prompts.Set
	log   *slog.Logger
}

// NewReasons makes sure that there are words for every reason.
func NewReasons(log *slog.Logger) (*Reasons, error) {
	words, err := prompts.English()
	if err != nil {
		return nil, err
	}
	for c := site.Normal; c <= site.LineDown; c++ {
		for _, name := range prompts.Cause(c) {
			if _, ok := words.Clip(name); !ok {
				return nil, fmt.Errorf("announcement of %q: there is no prompt %q", c, name)
			}
		}
	}
	return &Reasons{words: words, log: log}, nil
}

// incompleteFor is how long the tone of an incomplete number sounds.
const incompleteFor = 3 * time.Second

// source is what is heard for a cause, nil if the status says it all. A busy
// line is not kept waiting: on 486 every phone makes the tone of its country
// itself.
func (r *Reasons) source(cause site.Cause) features.Source {
	if cause == site.Incomplete {
		return media.Congestion(incompleteFor)
	}
	words := prompts.Cause(cause)
	if words == nil {
		return nil
	}
	// Twice: the first word is lost where a phone's path opens late.
	return media.Sequence(media.Silence(200*time.Millisecond), r.words.Say(words...), media.Silence(700*time.Millisecond), r.words.Say(words...))
}

// Say tells the caller, and returns when that is said, when ctx or the call has
// ended, or at once where there is nothing to say or nobody to hear it.
func (r *Reasons) Say(ctx context.Context, cause site.Cause, c features.Call) {
	src := r.source(cause)
	if src == nil {
		return
	}
	m, err := c.Early(ctx)
	if err != nil {
		return
	}
	if err := m.Play(ctx, src, false); err != nil && ctx.Err() == nil {
		r.log.Warn("An announcement could not be made", "call", c.Chain(), "cause", cause.String(), "err", err)
	}
}
