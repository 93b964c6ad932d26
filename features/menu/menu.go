// Package menu answers calls and lets the caller choose by keys where to go: a
// simple automatic attendant. A menu is data, see Menu; opening hours choose
// its page.
//
// Its law: a caller is never left alone. Every greeting ends, every wait ends,
// every circle ends, and at each end there is somebody, a voicemail, or a
// goodbye; and what a caller types reaches extensions of this site only.
package menu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/internal/site"
)

// Name of the feature, as the dial plan knows it.
const Name site.FeatureName = "menu"

// voicemail is the feature that takes messages.
const voicemail site.FeatureName = "voicemail"

// Menus is all that this package knows about state. Its methods return at once.
type Menus interface {
	// For is the menu that a call to this party reaches.
	For(to site.Party) (Menu, bool)
	Menu(id site.RecordID) (Menu, bool)

	// Open says whether the place of a menu is open now, by its hours and
	// its night switch.
	Open(id site.RecordID) bool
}

// Blobs holds recorded greetings.
type Blobs interface {
	// Open returns an error matching fs.ErrNotExist if the audio has not
	// reached this node.
	Open(ctx context.Context, ref site.BlobRef) (io.ReadCloser, error)
}

// Config of the attendant. Menus and Logger are required.
type Config struct {
	Menus   Menus
	Blobs   Blobs        // nil: recorded greetings are replaced by standard ones
	Prompts *prompts.Set // default: prompts.English

	// Text speaks Spoken.Text; nil, or false: that part is left out.
	Text func(key string) (features.Source, bool)

	// Extensions says of figures a caller typed whether they are an
	// extension, and whether longer ones begin with them; then the caller
	// need not wait after the last figure. nil: nothing is known.
	Extensions func(figures string) (complete, longer bool)

	Logger *slog.Logger
}

// Attendant is the feature.
type Attendant struct{ cfg Config }

var _ features.Feature = (*Attendant)(nil)

// New checks the configuration.
func New(cfg Config) (*Attendant, error) {
	if cfg.Menus == nil || cfg.Logger == nil {
		return nil, errors.New("menu: Menus and Logger are required")
	}
	if cfg.Prompts == nil {
		set, err := prompts.English()
		if err != nil {
			return nil, fmt.Errorf("menu: %w", err)
		}
		cfg.Prompts = set
	}
	return &Attendant{cfg: cfg}, nil
}

// Name is "menu".
func (a *Attendant) Name() site.FeatureName { return Name }

// ServeCall answers and goes through menus until the caller was taken by
// somebody, hung up, or heard goodbye.
func (a *Attendant) ServeCall(ctx context.Context, c features.Call) error {
	conn, ok := c.(features.Connector)
	if !ok {
		return fmt.Errorf("menu: this call cannot be sent on: %w", site.Failure)
	}
	to := c.To()
	first, ok := a.cfg.Menus.For(to)
	if !ok {
		return fmt.Errorf("menu: no menu at %s: %w", to.Number, site.NoSuchNumber)
	}
	life, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(c.Context(), func() { cancel(context.Cause(c.Context())) })
	defer stop()

	v := &visit{Attendant: a, call: conn, life: life, log: a.cfg.Logger.With("chain", c.Chain()),
		stack: []site.RecordID{first.ID}, fell: make(map[site.RecordID]bool)}
	var err error
	if v.m, err = c.Answer(life); err != nil {
		if v.over() { // he hung up first
			return nil
		}
		return fmt.Errorf("menu %s: answer: %w", first.title(), err)
	}
	for done := false; !done && err == nil; {
		done, err = v.menu()
	}
	if err == nil || v.over() || errors.Is(err, net.ErrClosed) {
		return nil
	}
	_ = c.Hangup(context.WithoutCancel(life), site.Failure)
	return fmt.Errorf("menu %s: %w", first.title(), err)
}
