// Package voicemail takes messages and plays them: two features, "voicemail"
// for the caller whom nobody answered and "mailbox" for the owner.
//
// Its law: what was said is on this node's disk as it is said, a message is
// delivered once and waits for no other node, and nothing here touches a lamp:
// the lamp is derived from the mailbox (RFC 3842).
package voicemail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/internal/site"
)

// Names of the two features, as the dial plan knows them.
const (
	Leave  site.FeatureName = "voicemail"
	Listen site.FeatureName = "mailbox"
)

// Mailboxes is all that voicemail knows about state. Writes return when they
// are on this node's disk.
type Mailboxes interface {
	// Messages lists what lies in a mailbox, trash left out, in any order.
	Messages(mailbox site.RecordID) []site.Message

	// Deliver adds a message. The same ID twice is one message.
	Deliver(ctx context.Context, m site.Message) error
	MarkHeard(ctx context.Context, message site.RecordID) error
	Move(ctx context.Context, message site.RecordID, to site.Folder) error
	Delete(ctx context.Context, message site.RecordID) error // into the trash

	// Greeting is the owner's own greeting for a reason (features.Call's
	// Diverted); reason "" is the one for all others.
	Greeting(mailbox site.RecordID, reason string) (site.BlobRef, bool)
	// SetGreeting with a zero ref removes it.
	SetGreeting(ctx context.Context, mailbox site.RecordID, reason string, ref site.BlobRef) error

	// Find is the mailbox of a number as people dial it here.
	Find(number string) (site.RecordID, bool)

	// NeedsPIN says whether the owner must give his PIN when he calls from
	// that device of his own.
	NeedsPIN(mailbox, device site.RecordID) bool
	// CheckPIN compares a PIN; a mailbox without one has none that is right.
	// reason is for the log.
	CheckPIN(ctx context.Context, mailbox site.RecordID, pin string) (ok bool, reason string)
	SetPIN(ctx context.Context, mailbox site.RecordID, pin string) error
}

// Blobs holds audio.
type Blobs interface {
	// Create begins a recording. note is on disk beside it from here until
	// Done or Abort, so that after a power cut the recording can be told from
	// others: see Unfinished. An error says that there is no room.
	Create(ctx context.Context, note []byte) (Recording, error)

	// Open returns an error matching fs.ErrNotExist if the audio has not
	// reached this node; asking for it moves it to the front of the queue.
	Open(ctx context.Context, ref site.BlobRef) (io.ReadCloser, error)

	// Await returns nil once Open will find ref, or the cause of ctx.
	Await(ctx context.Context, ref site.BlobRef) error

	// Unfinished lists recordings of earlier runs that were neither Done nor
	// aborted. What it returns is the caller's to end.
	Unfinished(ctx context.Context) ([]Unfinished, error)
}

// A Recording becomes a blob at Commit. Written chunks reach the disk as they
// come.
type Recording interface {
	io.Writer

	// Commit makes the blob and its size in bytes as they were written; the
	// note stays until Done. After an error it may be tried again.
	Commit(ctx context.Context) (ref site.BlobRef, size int64, err error)

	// Done forgets the note: somebody now refers to the blob.
	Done() error

	// Abort forgets everything. After Done it does nothing.
	Abort() error
}

// Unfinished is what a node that died left of a recording.
type Unfinished struct {
	Note []byte
	Size int64 // bytes that are readable
	Recording
}

// Config of voicemail. Mailboxes, Blobs, Now, Rand and Logger are required.
type Config struct {
	Mailboxes Mailboxes
	Blobs     Blobs
	Prompts   *prompts.Set // default: prompts.English
	Site      func() site.ID
	Zone      func(mailbox site.RecordID) *time.Location // of spoken times; default UTC

	MaxMessage time.Duration // default 3 min
	MinMessage time.Duration // shorter ones are not delivered; default 1.5 s
	Quiet      time.Duration // silence that ends a message; default 8 s

	Now    func() time.Time
	Rand   io.Reader
	Logger *slog.Logger
}

// Voicemail is both features on the same boxes.
type Voicemail struct {
	cfg      Config
	randMu   sync.Mutex // guards cfg.Rand
	throttle throttle
}

// New checks the configuration.
func New(cfg Config) (*Voicemail, error) {
	if cfg.Mailboxes == nil || cfg.Blobs == nil || cfg.Now == nil || cfg.Rand == nil || cfg.Logger == nil {
		return nil, errors.New("voicemail: Mailboxes, Blobs, Now, Rand and Logger are required")
	}
	if cfg.MaxMessage < 0 || cfg.MinMessage < 0 || cfg.Quiet < 0 {
		return nil, errors.New("voicemail: durations may not be negative")
	}
	if cfg.Prompts == nil {
		set, err := prompts.English()
		if err != nil {
			return nil, fmt.Errorf("voicemail: %w", err)
		}
		cfg.Prompts = set
	}
	if cfg.Site == nil {
		cfg.Site = func() site.ID { return site.ID{} }
	}
	if cfg.Zone == nil {
		cfg.Zone = func(site.RecordID) *time.Location { return time.UTC }
	}
	for _, d := range []struct {
		v *time.Duration
		x time.Duration
	}{{&cfg.MaxMessage, 3 * time.Minute}, {&cfg.MinMessage, 1500 * time.Millisecond}, {&cfg.Quiet, 8 * time.Second}} {
		if *d.v == 0 {
			*d.v = d.x
		}
	}
	return &Voicemail{cfg: cfg, throttle: throttle{tries: make(map[string]*tries)}}, nil
}

// Features are what the registry is to know.
func (v *Voicemail) Features() []features.Feature { return []features.Feature{leave{v}, listen{v}} }

func (v *Voicemail) newID() (id site.RecordID, err error) {
	v.randMu.Lock()
	defer v.randMu.Unlock()
	if _, err := io.ReadFull(v.cfg.Rand, id[:]); err != nil {
		return id, fmt.Errorf("make a message id: %w", err)
	}
	return id, nil
}

// talk is one call of either feature.
type talk struct {
	*Voicemail
	call features.Call
	m    features.Media
	life context.Context // ends with the call
	log  *slog.Logger
}

// begin ties the call's life to ctx; end must be called.
func (v *Voicemail) begin(ctx context.Context, c features.Call) (t *talk, end func()) {
	life, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(c.Context(), func() { cancel(context.Cause(c.Context())) })
	t = &talk{Voicemail: v, call: c, life: life, log: v.cfg.Logger.With("chain", c.Chain())}
	return t, func() { stop(); cancel(nil) }
}

// over is true once the caller hung up or the node stops.
func (t *talk) over() bool { return t.life.Err() != nil }

// say speaks prompts until a key is pressed, and returns the key; 0 if none was.
func (t *talk) say(names ...string) (rune, error) { return t.play(t.cfg.Prompts.Say(names...)) }

func (t *talk) play(src features.Source) (rune, error) {
	err := t.m.Play(t.life, src, true)
	if errors.Is(err, features.ErrDigit) {
		return t.m.Digit(t.life)
	}
	return 0, err
}

// tell speaks prompts to their end, whatever is pressed, and then forgets what
// was pressed.
func (t *talk) tell(names ...string) error {
	if err := t.m.Play(t.life, t.cfg.Prompts.Say(names...), false); err != nil {
		return err
	}
	return t.forget()
}

// forget drops the keys that wait to be read.
func (t *talk) forget() error {
	for {
		key, err := t.wait(time.Millisecond)
		if key == 0 {
			return err
		}
	}
}

var errLate = errors.New("no key was pressed in time")

// wait waits so long for a key; 0 if none came.
func (t *talk) wait(d time.Duration) (rune, error) {
	ctx, cancel := context.WithTimeoutCause(t.life, d, errLate)
	defer cancel()
	key, err := t.m.Digit(ctx)
	if errors.Is(err, errLate) {
		return 0, nil
	}
	return key, err
}

// ask speaks and then waits so long for a key; 0 if none came.
func (t *talk) ask(d time.Duration, names ...string) (rune, error) {
	key, err := t.say(names...)
	if key != 0 || err != nil {
		return key, err
	}
	return t.wait(d)
}

// beep says that we are listening.
func (t *talk) beep() error {
	return t.m.Play(t.life, media.Sequence(media.Silence(100*time.Millisecond), media.Tone(1000, 0.25, 300*time.Millisecond)), false)
}

// hangUp says goodbye and ends the call.
func (t *talk) hangUp(names ...string) error {
	if !t.over() {
		if err := t.tell(names...); err != nil && !t.over() {
			t.log.Debug("Last words not spoken", "err", err)
		}
	}
	return t.call.Hangup(context.WithoutCancel(t.life), site.Normal)
}

// settled gives what must be finished although the caller is gone some time.
func (t *talk) settled() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.life), 15*time.Second)
}
