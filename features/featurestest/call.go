package featurestest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/site"
)

// A Call joins a Phone to a feature, with a real port of a media engine in
// between and no signalling: it is a features.Call.
type Call struct {
	Phone *Phone

	// Connects stands for the rest of the node in Connect; nil: no number
	// exists. Join makes it ring another phone. Set before use.
	Connects func(ctx context.Context, to features.Target) (features.Outcome, error)

	engine   *media.Engine
	local    netip.Addr
	from, to site.Party
	diverted string
	port     *media.Port
	ctx      context.Context
	cancel   context.CancelCauseFunc

	mu       sync.Mutex
	answered bool
	early    bool
	ended    *site.Cause // by the feature: rejected or hung up
	sent     []features.Target
}

var _ features.Connector = (*Call)(nil)

// NewCall opens a port for a call that the phone made. The end of ctx ends it.
func NewCall(ctx context.Context, e *media.Engine, phone *Phone, local netip.Addr, from, to site.Party, diverted string) (*Call, error) {
	port, err := e.NewPort(media.PortParams{Chain: "test-chain", Local: local})
	if err != nil {
		return nil, err
	}
	c := &Call{Phone: phone, engine: e, local: local, from: from, to: to, diverted: diverted, port: port}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	return c, nil
}

func (c *Call) From() site.Party         { return c.from }
func (c *Call) To() site.Party           { return c.to }
func (c *Call) Diverted() string         { return c.diverted }
func (c *Call) Chain() string            { return c.port.Chain() }
func (c *Call) Context() context.Context { return c.ctx }

// Port is the node's end of the leg.
func (c *Call) Port() *media.Port { return c.port }

func (c *Call) media() (features.Media, error) {
	if c.ctx.Err() != nil {
		return nil, context.Cause(c.ctx)
	}
	if !c.answered && !c.early {
		if err := c.port.SetRemote(c.Phone.Offer()); err != nil {
			return nil, err
		}
		answer, err := c.port.Local(nil)
		if err != nil {
			return nil, err
		}
		if err := c.Phone.Take(answer); err != nil {
			return nil, err
		}
	}
	return c.port.Session(), nil
}

// Answer takes the call.
func (c *Call) Answer(context.Context) (features.Media, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := c.media()
	c.answered = c.answered || err == nil
	return m, err
}

// Early lets the caller hear something before the answer.
func (c *Call) Early(context.Context) (features.Media, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := c.media()
	c.early = c.early || err == nil
	return m, err
}

// Reject ends a call that was not answered.
func (c *Call) Reject(cause site.Cause) error {
	c.mu.Lock()
	answered := c.answered
	c.mu.Unlock()
	if answered {
		return errors.New("reject: the call was answered")
	}
	return c.Hangup(context.Background(), cause)
}

// Hangup ends the call from the feature's side.
func (c *Call) Hangup(_ context.Context, cause site.Cause) error {
	c.mu.Lock()
	if c.ended == nil {
		c.ended = &cause
	}
	c.mu.Unlock()
	c.cancel(cause)
	return c.port.Close()
}

// Connect notes the target and does what Connects does. It ends no later than
// the call and ctx.
func (c *Call) Connect(ctx context.Context, to features.Target) (features.Outcome, error) {
	c.mu.Lock()
	c.sent = append(c.sent, to)
	c.mu.Unlock()
	for _, x := range []context.Context{ctx, c.ctx} {
		if x.Err() != nil {
			return features.Outcome{}, context.Cause(x)
		}
	}
	if c.Connects == nil {
		return features.Outcome{Cause: site.NoSuchNumber}, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.ctx, func() { cancel(context.Cause(c.ctx)) })
	defer func() { stop(); cancel(nil) }()
	return c.Connects(ctx, to)
}

// Sent lists where the feature sent the caller.
func (c *Call) Sent() []features.Target {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.sent)
}

// Join lets the caller talk with another phone through the node until over is
// closed, the other's hanging up, or ctx ends. It is for use in Connects.
func (c *Call) Join(ctx context.Context, with *Phone, over <-chan struct{}) (features.Outcome, error) {
	port, err := c.engine.NewPort(media.PortParams{Chain: c.Chain(), Local: c.local})
	if err != nil {
		return features.Outcome{Cause: site.NodeFull}, nil
	}
	defer port.Close()
	if err := port.SetRemote(with.Offer()); err != nil {
		return features.Outcome{}, err
	}
	answer, err := port.Local(nil)
	if err != nil {
		return features.Outcome{}, err
	}
	if err := with.Take(answer); err != nil {
		return features.Outcome{}, err
	}
	if err := c.engine.Bridge(c.port, port); err != nil {
		return features.Outcome{}, err
	}
	select {
	case <-over:
		return features.Outcome{Answered: true, Cause: site.Normal}, nil
	case <-ctx.Done():
		return features.Outcome{}, context.Cause(ctx)
	}
}

// End ends the call from outside: the caller hung up, or the node stops.
func (c *Call) End(cause site.Cause) {
	c.cancel(cause)
	_ = c.port.Close()
}

// Answered says whether the call was answered, and Ended the feature's cause.
func (c *Call) Answered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answered
}

// Ended is the cause with which the feature ended the call; false while it has not.
func (c *Call) Ended() (site.Cause, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		return 0, false
	}
	return *c.ended, true
}
