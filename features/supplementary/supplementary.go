// Package supplementary sets what a person may wish for the calls to his
// telephone, by codes dialled on any of them: forward all, when busy, on no
// answer; do not disturb. The codes and the name are those of ETSI (EN 301
// 134, ETS 300 738): *21 and a number, #21 to end it.
//
// Its law: what was confirmed is on this node's disk; who dials changes nobody
// but himself.
package supplementary

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/internal/site"
)

// A Service is one wish.
type Service string

// The services.
const (
	ForwardAll      Service = "forward-all"
	ForwardBusy     Service = "forward-busy"
	ForwardNoAnswer Service = "forward-no-answer"
	DoNotDisturb    Service = "do-not-disturb"
)

// A Code is what people dial for a service.
type Code struct {
	Digits  string
	Service Service
	On      bool // with a number behind it, unless it is DoNotDisturb
}

// Codes are all there are.
var Codes = []Code{
	{"*21", ForwardAll, true}, {"#21", ForwardAll, false},
	{"*67", ForwardBusy, true}, {"#67", ForwardBusy, false},
	{"*61", ForwardNoAnswer, true}, {"#61", ForwardNoAnswer, false},
	{"*26", DoNotDisturb, true}, {"#26", DoNotDisturb, false},
}

// Name is the code's feature, as the dial plan knows it.
func (c Code) Name() site.FeatureName {
	if c.On {
		return site.FeatureName(c.Service)
	}
	return site.FeatureName(c.Service + "-off")
}

// Number says whether a number is dialled behind the code.
func (c Code) Number() bool { return c.On && c.Service != DoNotDisturb }

// Wishes is all that this package knows about state.
type Wishes interface {
	// Set returns when the wish is on this node's disk. number is as the
	// caller would dial it, "" to end a forward; on is of DoNotDisturb. An
	// error may hold the site.Cause of refusal.
	Set(ctx context.Context, by site.Party, s Service, number string, on bool) error
}

// Dialled is a call that says what was dialled behind the code.
type Dialled interface{ Arg() string }

// Config of the features. Wishes and Logger are required.
type Config struct {
	Wishes  Wishes
	Prompts *prompts.Set // default: prompts.English
	Logger  *slog.Logger
}

// feature is one code.
type feature struct {
	cfg  Config
	code Code
}

// New makes the features of all Codes.
func New(cfg Config) ([]features.Feature, error) {
	if cfg.Wishes == nil || cfg.Logger == nil {
		return nil, errors.New("supplementary services: Wishes and Logger are required")
	}
	if cfg.Prompts == nil {
		set, err := prompts.English()
		if err != nil {
			return nil, fmt.Errorf("supplementary services: %w", err)
		}
		cfg.Prompts = set
	}
	var out []features.Feature
	for _, c := range Codes {
		out = append(out, &feature{cfg, c})
	}
	return out, nil
}

func (f *feature) Name() site.FeatureName { return f.code.Name() }

// Number reads what is dialled behind a code: *21*201#, as ETSI writes it, or
// *21201.
func Number(dialled string) string {
	return strings.TrimSuffix(strings.TrimPrefix(dialled, "*"), "#")
}

// writing is how long the disk may take; a caller who hangs up does not stop it.
const writing = 10 * time.Second

// ServeCall sets the wish, says so, and hangs up. A caller who may not, or a
// number that leads nowhere, is refused before the answer.
func (f *feature) ServeCall(ctx context.Context, c features.Call) error {
	by, number := c.From(), ""
	if d, ok := c.(Dialled); ok && f.code.Number() {
		if number = Number(d.Arg()); number == "" {
			return fmt.Errorf("%s: no number: %w", f.Name(), site.Incomplete)
		}
	}
	onDisk, done := context.WithTimeout(context.WithoutCancel(ctx), writing)
	defer done()
	if err := f.cfg.Wishes.Set(onDisk, by, f.code.Service, number, f.code.On); err != nil {
		f.cfg.Logger.Info("A wish was refused", "chain", c.Chain(), "caller", by.AOR.User, "wish", string(f.Name()), "err", err)
		var cause site.Cause
		if !errors.As(err, &cause) {
			cause = site.Failure
		}
		return fmt.Errorf("%s: %w", f.Name(), cause)
	}
	f.cfg.Logger.Info("A wish was set", "chain", c.Chain(), "caller", by.AOR.User, "wish", string(f.Name()))
	m, err := c.Answer(ctx)
	if err != nil {
		return nil // hung up; it is set
	}
	words := []string{"saved"}
	for _, d := range number {
		if d >= '0' && d <= '9' {
			words = append(words, string(d))
		}
	}
	if err := m.Play(ctx, f.cfg.Prompts.Say(words...), false); err != nil && ctx.Err() == nil && c.Context().Err() == nil && !errors.Is(err, net.ErrClosed) {
		f.cfg.Logger.Warn("A wish could not be confirmed in words", "chain", c.Chain(), "err", err)
	}
	if ctx.Err() != nil || c.Context().Err() != nil {
		return nil
	}
	return c.Hangup(context.WithoutCancel(ctx), site.Normal)
}
