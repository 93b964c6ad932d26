package voicemail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/site"
)

// note is what lies beside a recording while it is made.
type note struct {
	Kind    string       `json:"kind"` // "message" or "greeting"
	Message site.Message `json:"message,omitzero"`
}

// leave is the feature that takes a message.
type leave struct{ v *Voicemail }

func (l leave) Name() site.FeatureName { return Leave }

// ServeCall greets, records and delivers.
func (l leave) ServeCall(ctx context.Context, c features.Call) error {
	t, end := l.v.begin(ctx, c)
	defer end()
	to, from := c.To(), c.From()
	if to.User.IsZero() {
		return fmt.Errorf("leave a message for %s, who has no mailbox: %w", to.AOR, site.NoSuchNumber)
	}
	id, err := t.newID()
	if err != nil {
		return t.cannot(err)
	}
	m := site.Message{ID: id, Mailbox: to.User, Site: to.Site, From: from.Number, FromName: from.Display,
		At: t.cfg.Now(), Folder: site.Inbox, LeftAt: t.cfg.Site()}
	b, err := json.Marshal(note{Kind: "message", Message: m})
	if err != nil {
		return t.cannot(err)
	}
	rec, err := t.cfg.Blobs.Create(t.life, b)
	if err != nil {
		return t.cannot(err)
	}
	kept := false
	defer func() {
		if !kept {
			t.abort(rec)
		}
	}()
	wav, err := media.NewWAVWriter(rec, media.MuLaw)
	if err != nil {
		return t.cannot(err)
	}
	if t.m, err = c.Answer(t.life); err != nil {
		return fmt.Errorf("leave a message: %w", err)
	}
	if err := t.greet(to.User, c.Diverted()); err != nil {
		return t.quit(err)
	}
	m.At = t.cfg.Now()
	length, stopped, err := t.record(wav, t.cfg.MaxMessage, t.cfg.Quiet)
	if err != nil {
		t.log.Error("Recording a message failed", "err", err)
	}
	said := length
	if stopped == "silence" {
		said -= t.cfg.Quiet
	}
	if said < t.cfg.MinMessage {
		if stopped == "error" {
			return t.hangUp("cannot-take", "goodbye")
		}
		return t.hangUp("too-short", "goodbye")
	}
	m.Duration = length
	m.CutOff = stopped == "error" || stopped == "hangup" && cut(context.Cause(t.life))
	kept = true // from here on, an error leaves the recording to Recover
	if err := t.deliver(rec, m); err != nil {
		t.log.Error("Message not delivered, it will be tried again at the next start", "message", m.ID, "err", err)
		return t.hangUp("cannot-take", "goodbye")
	}
	t.log.Info("Message left", "message", m.ID, "mailbox", m.Mailbox, "length", m.Duration, "cutoff", m.CutOff)
	switch stopped {
	case "hangup":
		return nil
	case "limit":
		return t.hangUp("message-limit", "message-saved", "goodbye")
	}
	return t.hangUp("message-saved", "goodbye")
}

// cut says whether an end of the call was the line's or the node's doing.
func cut(cause error) bool {
	for _, c := range []site.Cause{site.Draining, site.MediaLost, site.NodeLost, site.Failure} {
		if errors.Is(cause, c) {
			return true
		}
	}
	return false
}

// cannot tells the caller before the answer that no message can be taken. It
// costs him nothing, and the cause makes a status that every phone shows.
func (t *talk) cannot(why error) error {
	if t.over() {
		return context.Cause(t.life)
	}
	t.log.Error("Cannot take a message", "mailbox", t.call.To().User, "err", why)
	if m, err := t.call.Early(t.life); err == nil {
		t.m = m
		if err := t.tell("cannot-take", "goodbye"); err != nil {
			t.log.Debug("Announcement not spoken", "err", err)
		}
	}
	return fmt.Errorf("take a message: %w: %w", why, site.NodeFull)
}

// quit is the way out when something failed in the middle: nothing to report
// if the caller is gone.
func (t *talk) quit(err error) error {
	if t.over() || errors.Is(err, net.ErrClosed) {
		return nil
	}
	_ = t.call.Hangup(context.WithoutCancel(t.life), site.Failure)
	return err
}

func (t *talk) abort(rec Recording) {
	if err := rec.Abort(); err != nil {
		t.log.Warn("Recording not thrown away", "err", err)
	}
}

// greet plays the greeting for why the call came here, and the tone. Any key
// goes straight to the tone.
func (t *talk) greet(mailbox site.RecordID, reason string) error {
	key, err := t.greeting(mailbox, reason)
	if err != nil {
		return err
	}
	if key != 0 {
		if err := t.forget(); err != nil {
			return err
		}
	}
	if err := t.beep(); err != nil {
		return err
	}
	return t.forget()
}

func (t *talk) greeting(mailbox site.RecordID, reason string) (rune, error) {
	for _, r := range []string{reason, ""} {
		ref, ok := t.cfg.Mailboxes.Greeting(mailbox, r)
		if !ok {
			continue
		}
		key, err := t.playBlob(ref)
		if err == nil || t.over() {
			return key, err
		}
		// Not here yet, or damaged: the standard one is better than none.
		t.log.Warn("Greeting not played", "mailbox", mailbox, "err", err)
		break
	}
	return t.say(standard(reason), "leave-message")
}

func standard(reason string) string {
	switch reason {
	case "busy":
		return "greeting-busy"
	case "offline":
		return "greeting-offline"
	case "unreachable":
		return "greeting-unreachable"
	}
	return "greeting"
}

// playBlob plays stored audio until a key is pressed.
func (t *talk) playBlob(ref site.BlobRef) (rune, error) {
	r, err := t.cfg.Blobs.Open(t.life, ref)
	if err != nil {
		return 0, fmt.Errorf("open audio %s: %w", ref, err)
	}
	defer func() { _ = r.Close() }()
	src, err := media.NewWAVReader(r)
	if err != nil {
		return 0, fmt.Errorf("audio %s: %w", ref, err)
	}
	key, err := t.play(src)
	if err != nil {
		return 0, fmt.Errorf("audio %s: %w", ref, err)
	}
	return key, nil
}

// record takes what is said until '#', silence, the limit or the end of the
// call. Other keys do not end it.
func (t *talk) record(w io.Writer, limit, quiet time.Duration) (length time.Duration, stopped string, err error) {
	for {
		r, err := t.m.Record(t.life, w, limit-length, quiet)
		length += r.Duration
		if r.Stopped != "digit" {
			return length, r.Stopped, err
		}
		key, err := t.m.Digit(t.life)
		if err != nil {
			return length, "hangup", nil // it ended between the two
		}
		if key == '#' {
			return length, "digit", nil
		}
	}
}

// deliver makes the recording a blob, the blob a message, and only then
// forgets that it was unfinished.
func (t *talk) deliver(rec Recording, m site.Message) error {
	ctx, cancel := t.settled()
	defer cancel()
	return t.Voicemail.deliver(ctx, rec, m)
}

func (v *Voicemail) deliver(ctx context.Context, rec Recording, m site.Message) (err error) {
	if m.Audio, m.Size, err = rec.Commit(ctx); err != nil {
		return fmt.Errorf("keep the recording: %w", err)
	}
	if err := v.cfg.Mailboxes.Deliver(ctx, m); err != nil {
		return fmt.Errorf("deliver message %s: %w", m.ID, err)
	}
	if err := rec.Done(); err != nil {
		// It will be delivered again at the next start, as the same message.
		v.cfg.Logger.Warn("Note of a delivered message stays", "message", m.ID, "err", err)
	}
	return nil
}

// A message that was cut off is worth hearing from this length on.
const minRecovered = 2 * time.Second

// Recover delivers what the node was recording when it died, marked as cut
// off, and throws the rest away. To be called once at start, before calls.
func (v *Voicemail) Recover(ctx context.Context) (delivered int, err error) {
	list, err := v.cfg.Blobs.Unfinished(ctx)
	if err != nil {
		return 0, fmt.Errorf("look for unfinished recordings: %w", err)
	}
	var errs []error
	for _, u := range list {
		var n note
		length := media.MuLaw.Length(u.Size)
		if err := json.Unmarshal(u.Note, &n); err != nil || n.Kind != "message" || n.Message.Mailbox.IsZero() || length < minRecovered {
			if err := u.Abort(); err != nil {
				errs = append(errs, fmt.Errorf("throw away an unfinished recording: %w", err))
			}
			continue
		}
		n.Message.Duration, n.Message.CutOff = length, true
		if err := v.deliver(ctx, u.Recording, n.Message); err != nil {
			errs = append(errs, err)
			continue
		}
		delivered++
		v.cfg.Logger.Info("Message recovered", "message", n.Message.ID, "mailbox", n.Message.Mailbox, "length", length)
	}
	return delivered, errors.Join(errs...)
}
