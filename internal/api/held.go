package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// HeldDetail is a change that this box has and that does not count here.
type HeldDetail struct {
	ID     string    `json:"id"`
	Why    string    `json:"why" enum:"person,author,time,quota,program,trust" doc:"What it waits for. person: it is of a salvaged disk. author: nobody here knows the box that wrote it. time: it comes from the future. quota: its author wrote too much. program: this program fails on it, another version may not. trust: a right or a rule is missing"`
	Reason string    `json:"reason" doc:"The same in words"`
	Do     string    `json:"do" doc:"What a person can do about it"`
	Scope  string    `json:"scope"`
	Node   string    `json:"node" doc:"The box that signed it: its name, or its id if nobody knows it"`
	By     string    `json:"by,omitempty" doc:"The person or token that asked for it, as the author says"`
	At     time.Time `json:"at" doc:"When it was written, as the author says"`
	From   string    `json:"from,omitempty" doc:"The box that brought it; absent: it was brought to this box by hand"`
	Since  time.Time `json:"since" doc:"When it came"`
	Alone  bool      `json:"alone" doc:"No other member is known to have it: it dies with this box"`
	Bytes  int       `json:"bytes"`
	Writes []string  `json:"writes" doc:"What it says, in words; secrets are never shown"`
}

// DroppedChange was held, and somebody decided that this box forgets it.
type DroppedChange struct {
	ID     string    `json:"id"`
	Node   string    `json:"node"`
	Scope  string    `json:"scope"`
	Reason string    `json:"reason" doc:"Why it was held"`
	By     string    `json:"by" doc:"Who dropped it"`
	At     time.Time `json:"at" doc:"When that was"`
	Writes []string  `json:"writes"`
}

// HeldVerdict is what became of a held change that was judged again.
type HeldVerdict struct {
	ID      string   `json:"id"`
	Outcome string   `json:"outcome" enum:"accepted,held,refused" doc:"refused: it is not what it claims to be, and was removed"`
	Reason  string   `json:"reason,omitempty"`
	Writes  []string `json:"writes"`
}

// HeldDrop asks to forget a held change.
type HeldDrop struct {
	Yes bool `json:"yes" doc:"It is not asked again. If no other box has it, it is gone for good"`
}

// HeldKeeper is a Backend that shows what waits.
type HeldKeeper interface {
	// HeldChanges lists them, oldest first.
	HeldChanges(ctx context.Context) ([]HeldDetail, error)
	// HeldChange finds one by the beginning of its id, at least 8 characters.
	HeldChange(ctx context.Context, id string) (HeldDetail, error)
	RetryHeld(ctx context.Context, by, id string) (HeldVerdict, error)
	DropHeld(ctx context.Context, by, id string, yes bool) (DroppedChange, error)
	// DroppedChanges lists what was dropped here, latest first.
	DroppedChanges(ctx context.Context) ([]DroppedChange, error)
}

// HeldInput names a held change in a path. It is exported because the generator reads embedded structs only then.
type HeldInput struct {
	ID string `path:"change" doc:"Its id, or the first 8 or more characters of it" minLength:"8" maxLength:"64"`
}

func registerHeld(h huma.API, b Backend) {
	k, ok := b.(HeldKeeper)
	if !ok {
		return
	}
	huma.Register(h, op("list-held", http.MethodGet, "/held", "List the changes that wait: why, from whom, and what to do", "held"),
		func(ctx context.Context, _ *struct{}) (*body[[]HeldDetail], error) {
			out, err := k.HeldChanges(ctx)
			return &body[[]HeldDetail]{out}, problem(err)
		})
	huma.Register(h, op("list-dropped", http.MethodGet, "/dropped", "List the changes that somebody dropped here", "held"),
		func(ctx context.Context, _ *struct{}) (*body[[]DroppedChange], error) {
			out, err := k.DroppedChanges(ctx)
			return &body[[]DroppedChange]{out}, problem(err)
		})
	huma.Register(h, op("get-held", http.MethodGet, "/held/{change}", "Show a change that waits", "held"),
		func(ctx context.Context, in *struct{ HeldInput }) (*body[HeldDetail], error) {
			out, err := k.HeldChange(ctx, in.ID)
			return &body[HeldDetail]{out}, problem(err)
		})
	huma.Register(h, op("retry-held", http.MethodPost, "/held/{change}/retry", "Judge a change that waits again, now", "held"),
		func(ctx context.Context, in *struct{ HeldInput }) (*body[HeldVerdict], error) {
			out, err := k.RetryHeld(ctx, by(ctx), in.ID)
			return &body[HeldVerdict]{out}, problem(err)
		})
	huma.Register(h, op("drop-held", http.MethodPost, "/held/{change}/drop", "Forget a change that waits; who did so is kept", "held"),
		func(ctx context.Context, in *struct {
			HeldInput
			Body HeldDrop
		}) (*body[DroppedChange], error) {
			out, err := k.DropHeld(ctx, by(ctx), in.ID, in.Body.Yes)
			return &body[DroppedChange]{out}, problem(err)
		})
}
