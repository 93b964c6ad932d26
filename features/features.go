// Package features is what a call can meet besides a telephone: voicemail, a
// menu, a conference. A feature is a function that runs as long as the call.
// It sees no SIP header and no packet; the same seam is the one where an
// Asterisk or FreeSWITCH can be put in its place.
package features

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"carrierclass.net/ccnode/internal/site"
)

// Call is a whole call that this node owns, seen from the feature it reached
// (calls.md §4). Its methods may be called from one goroutine at a time,
// except Hangup.
type Call interface {
	From() site.Party
	To() site.Party           // whom the caller meant
	Diverted() string         // why the call came here: "", "no answer", "busy", "offline", "unreachable", "all"
	Chain() string            // chain id, in logs and records
	Context() context.Context // ends with the call; context.Cause says why

	Answer(ctx context.Context) (Media, error) // 200; anchored here
	Early(ctx context.Context) (Media, error)  // 183: can be heard before the final answer
	Reject(c site.Cause) error
	Hangup(ctx context.Context, c site.Cause) error
}

// A Target is where a feature sends a caller. One field is set, or Feature with
// one of the others.
type Target struct {
	// Extension is a user, group or feature by the number that people of
	// this site dial inside it. A caller may have typed it: it never is a
	// feature code nor a number outside, and a Connector refuses those with
	// site.Forbidden.
	Extension string

	Record  site.RecordID    // a user or group
	Feature site.FeatureName // a feature; with another field, of that user or group: "voicemail"
}

// An Outcome is what became of sending a caller on.
type Outcome struct {
	Answered bool       // somebody, or a feature, took the call, and that is over now
	Cause    site.Cause // of the end; not Answered: why nobody took it
}

// A Connector is a Call that can be sent on.
type Connector interface {
	Call

	// Connect routes the call on within the same chain, under the same rules
	// as every call, and returns when nobody took it, when the talk is over,
	// or when ctx ends, which gives up the attempt: the error is the cause of
	// ctx, or says what went wrong here. Until then the caller hears what a
	// caller hears, and the feature leaves its Media alone; afterwards, unless
	// Answered, it may use it again. What users have set for calls to them
	// (forward, voicemail on no answer) is part of the attempt.
	Connect(ctx context.Context, to Target) (Outcome, error)
}

// Media is the feature's end of an answered (or early) leg: 8 kHz, mono, 16-bit
// linear PCM in both directions.
type Media interface {
	// Play sends a source, paced in real time, and returns when it ended, when
	// ctx ended (its cause), or with ErrDigit as soon as a digit arrives and
	// barge is true; the digit stays to be read from Digit.
	Play(ctx context.Context, src Source, barge bool) error

	// Record copies what the other end says into w until ctx ends, max has
	// passed, a digit arrives (it stays to be read) or silence lasted for
	// quiet (0: never). Gaps in the stream are filled with silence.
	Record(ctx context.Context, w io.Writer, max, quiet time.Duration) (Recorded, error)

	// Digit waits for one key (RFC 4733): '0'–'9', '*', '#', 'A'–'D'.
	Digit(ctx context.Context) (rune, error)
}

// Recorded says what Record took and why it stopped.
type Recorded struct {
	Duration time.Duration
	Stopped  string // "hangup", "digit", "silence", "limit", "error"
}

// A Source yields frames of PCM, 160 samples (20 ms) at a time, until io.EOF.
type Source interface {
	ReadFrame(pcm []int16) (n int, err error)
}

// A Feature answers calls.
type Feature interface {
	Name() site.FeatureName

	// ServeCall runs for as long as the call; c.Context() ends when the caller
	// hangs up or the node stops. If ServeCall returns before the call was
	// answered, the caller gets the Cause in the error, else 480.
	ServeCall(ctx context.Context, c Call) error
}

// Forwarder hands a call to somebody else's PBX.
type Forwarder interface {
	Forward(ctx context.Context, c Call, uri string) error
}

var (
	ErrUnassigned = errors.New("nobody serves this feature")
	ErrDigit      = errors.New("a digit was pressed")
)

// Registry knows, for every feature, who serves it now.
type Registry struct {
	Placement func(site.FeatureName) site.Placement // from the replicated configuration
	Forward   Forwarder
	Local     []Feature
}

// ServeCall runs the feature wherever it is placed, until the call ends.
func (r *Registry) ServeCall(ctx context.Context, name site.FeatureName, c Call) error {
	switch p := r.Placement(name); p.Kind {
	case site.InProcess:
		for _, f := range r.Local {
			if f.Name() == name {
				return f.ServeCall(ctx, c)
			}
		}
	case site.SIP:
		if r.Forward != nil {
			return r.Forward.Forward(ctx, c, p.URI)
		}
	}
	return fmt.Errorf("%s: %w", name, ErrUnassigned)
}
