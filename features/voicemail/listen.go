package voicemail

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"carrierclass.net/ccnode/features"
	"carrierclass.net/ccnode/features/prompts"
	"carrierclass.net/ccnode/internal/site"
)

// listen is the feature in which an owner hears his messages.
type listen struct{ v *Voicemail }

func (l listen) Name() site.FeatureName { return Listen }

// How long we wait for a key.
const (
	thinking = 6 * time.Second
	between  = 4 * time.Second // two keys of one number
)

// box is one visit to a mailbox.
type box struct {
	*talk
	id   site.RecordID
	zone *time.Location
}

// errLeave ends a visit at the owner's wish.
var errLeave = errors.New("the owner leaves")

// ServeCall asks for the PIN, says what is there, and plays it.
func (l listen) ServeCall(ctx context.Context, c features.Call) error {
	t, end := l.v.begin(ctx, c)
	defer end()
	var err error
	if t.m, err = c.Answer(t.life); err != nil {
		return err
	}
	id, ok, err := t.enter()
	if err != nil {
		return t.quit(err)
	}
	if !ok {
		return t.hangUp("too-many-tries", "goodbye")
	}
	b := &box{talk: t, id: id, zone: t.cfg.Zone(id)}
	if err := b.visit(); err != nil && !errors.Is(err, errLeave) {
		return t.quit(err)
	}
	return t.hangUp("goodbye")
}

// enter finds out whose mailbox is meant and whether the caller may open it.
func (t *talk) enter() (id site.RecordID, ok bool, err error) {
	from, to := t.call.From(), t.call.To()
	id = from.User
	if !to.User.IsZero() {
		id = to.User
	}
	asked := ""
	if id.IsZero() {
		if asked, err = t.number(15, "enter-mailbox"); err != nil {
			return id, false, err
		}
		// An unknown number is asked for a PIN like any other.
		id, _ = t.cfg.Mailboxes.Find(asked)
	}
	key := "from elsewhere " + id.String()
	switch {
	case id.IsZero():
		key = "unknown number"
	case id == from.User && !from.Device.IsZero():
		if !t.cfg.Mailboxes.NeedsPIN(id, from.Device) {
			return id, true, nil
		}
		// Guesses from elsewhere do not lock the owner out at his own phone.
		key = "own phone " + id.String()
	}
	for range maxTries {
		if t.throttle.blocked(key, t.cfg.Now()) {
			t.log.Warn("Mailbox is closed after wrong PINs", "mailbox", id)
			return id, false, nil
		}
		pin, err := t.number(maxPIN, "enter-pin")
		if err != nil {
			return id, false, err
		}
		reason := "no such mailbox"
		if !id.IsZero() {
			ok, reason = t.cfg.Mailboxes.CheckPIN(t.life, id, pin)
		}
		if ok {
			t.throttle.succeed(key)
			return id, true, nil
		}
		t.throttle.fail(key, t.cfg.Now())
		t.log.Info("Wrong PIN", "mailbox", id, "caller", from.Number, "reason", reason)
		if _, err := t.say("wrong-pin"); err != nil {
			return id, false, err
		}
		if err := t.forget(); err != nil {
			return id, false, err
		}
	}
	return id, false, nil
}

// number reads figures until '#' or a pause; more than max of them are not
// kept. '*' begins again.
func (t *talk) number(max int, ask ...string) (string, error) {
	var out []byte
	key, err := t.ask(thinking, ask...)
	for ; err == nil && key != 0 && key != '#'; key, err = t.wait(between) {
		switch {
		case key == '*':
			out = out[:0]
		case key >= '0' && key <= '9' && len(out) < max:
			out = append(out, byte(key)) // #nosec G115: a figure
		}
	}
	return string(out), err
}

// list is the order of playing: what is new, oldest first, then the rest.
func (b *box) list() []site.Message {
	all := slices.DeleteFunc(slices.Clone(b.cfg.Mailboxes.Messages(b.id)), func(m site.Message) bool { return m.Folder == site.Trash })
	slices.SortStableFunc(all, func(x, y site.Message) int {
		if x.Heard != y.Heard {
			if y.Heard {
				return -1
			}
			return 1
		}
		if c := x.At.Compare(y.At); c != 0 {
			return c
		}
		return slices.Compare(x.ID[:], y.ID[:])
	})
	return all
}

// counts says how many messages there are.
func counts(list []site.Message) []string {
	fresh := 0
	for _, m := range list {
		if !m.Heard {
			fresh++
		}
	}
	old := len(list) - fresh
	plural := func(n int, one, many string) []string {
		if n == 0 {
			return []string{"no", many}
		}
		if n == 1 {
			return append(prompts.Number(n), one)
		}
		return append(prompts.Number(n), many)
	}
	out := append([]string{"you-have"}, plural(fresh, "new-message", "new-messages")...)
	if old > 0 {
		out = append(append(out, "and"), plural(old, "old-message", "old-messages")...)
	}
	return out
}

// visit goes through the messages until the owner leaves or says nothing any more.
func (b *box) visit() error {
	list := b.list()
	key, err := b.say(counts(list)...)
	if err != nil {
		return err
	}
	if key == '0' {
		if err := b.options(); err != nil {
			return err
		}
	} else if key == '*' {
		return errLeave
	}
	for i, idle := 0, 0; idle < 2; {
		if i < len(list) {
			idle = 0
			if i, err = b.message(list, i); err != nil {
				return err
			}
			continue
		}
		// What arrived meanwhile comes behind what we have.
		if more := b.unseen(list); len(more) > 0 {
			list = append(list, more...)
			continue
		}
		key, err := b.ask(thinking, "no-more", "end-keys")
		if err != nil {
			return err
		}
		switch key {
		case '1':
			list, i, idle = b.list(), 0, 0
		case '7':
			i, idle = max(len(list)-1, 0), 0
		case '0':
			idle = 0
			if err := b.options(); err != nil {
				return err
			}
		case '*':
			return errLeave
		default:
			idle++
		}
	}
	return nil
}

func (b *box) unseen(list []site.Message) []site.Message {
	return slices.DeleteFunc(b.list(), func(m site.Message) bool {
		return slices.ContainsFunc(list, func(x site.Message) bool { return x.ID == m.ID })
	})
}

// gone says whether a message was deleted since it was listed, here or elsewhere.
func (b *box) gone(id site.RecordID) bool {
	return !slices.ContainsFunc(b.list(), func(m site.Message) bool { return m.ID == id })
}

// message plays message i of the list and does what the owner wants of it; it
// returns which one is next.
func (b *box) message(list []site.Message, i int) (int, error) {
	m := list[i]
	if b.gone(m.ID) {
		return i + 1, nil
	}
	intro := append([]string{"message"}, prompts.Number(i+1)...)
	intro = append(append(intro, "from"), prompts.Digits(m.From)...)
	intro = append(append(intro, "received"), prompts.Time(m.At.In(b.zone), b.cfg.Now().In(b.zone))...)
	if m.CutOff {
		intro = append(intro, "cut-off")
	}
	key, err := b.say(intro...)
	for again := 0; err == nil; {
		if key == 0 {
			if key, err = b.audio(m); err != nil {
				return i, err
			}
		}
		if key == 0 {
			if key, err = b.ask(thinking, "message-keys"); err != nil {
				return i, err
			}
		}
		switch key {
		case '1':
			key = 0
			continue
		case '2':
			return i + 1, b.change("saved", func(ctx context.Context) error {
				return errors.Join(b.cfg.Mailboxes.MarkHeard(ctx, m.ID), b.cfg.Mailboxes.Move(ctx, m.ID, site.Saved))
			})
		case '3':
			return i + 1, b.change("deleted", func(ctx context.Context) error { return b.cfg.Mailboxes.Delete(ctx, m.ID) })
		case '7':
			for j := i - 1; j >= 0; j-- {
				if !b.gone(list[j].ID) {
					return j, nil
				}
			}
			_, err := b.say("first-message")
			return i, err
		case '9', '#':
			return i + 1, nil
		case '0':
			return i, b.options()
		case '*':
			return i, errLeave
		case 0: // nothing pressed: on to the next
			return i + 1, nil
		}
		if again++; again == 3 {
			return i + 1, nil
		}
		key, err = b.ask(thinking, "message-keys")
		if err == nil && key == 0 {
			return i + 1, nil
		}
	}
	return i, err
}

// change does a write and says what was done, or that it was not.
func (b *box) change(done string, do func(context.Context) error) error {
	ctx, cancel := b.settled()
	defer cancel()
	if err := do(ctx); err != nil {
		b.log.Error("Mailbox not changed", "mailbox", b.id, "err", err)
		done = "not-possible"
	}
	_, err := b.say(done)
	return err
}

// audio plays a message. One that was heard to its end is no longer new.
func (b *box) audio(m site.Message) (rune, error) {
	key, err := b.playBlob(m.Audio)
	if errors.Is(err, fs.ErrNotExist) {
		if key, err = b.arriving(m); key != 0 || err != nil {
			return key, err
		}
		key, err = b.playBlob(m.Audio)
	}
	switch {
	case err == nil && key == 0:
		ctx, cancel := b.settled()
		defer cancel()
		if err := b.cfg.Mailboxes.MarkHeard(ctx, m.ID); err != nil {
			b.log.Error("Message not marked as heard", "message", m.ID, "err", err)
		}
		return 0, nil
	case err == nil || b.over():
		return key, err
	}
	b.log.Error("Message not played", "message", m.ID, "err", err)
	return b.say("not-possible")
}

var errArrived = errors.New("the audio arrived")

// patience is how long somebody waits for audio with a telephone in his hand.
const patience = 90 * time.Second

// arriving says that the audio is on its way and waits for it, or for a key.
func (b *box) arriving(m site.Message) (rune, error) {
	ctx, cancel := context.WithCancelCause(b.life)
	ctx, late := context.WithTimeoutCause(ctx, patience, errLate)
	defer late()
	done := make(chan struct{})
	go func() { // ends with ctx
		defer close(done)
		if err := b.cfg.Blobs.Await(ctx, m.Audio); err != nil {
			cancel(err)
		} else {
			cancel(errArrived)
		}
	}()
	defer func() { cancel(nil); <-done }()
	key, err := b.say("arriving")
	if key != 0 || err != nil {
		return key, err
	}
	key, err = b.m.Digit(ctx)
	switch {
	case err == nil:
		return key, nil
	case b.over():
		return 0, err
	}
	if !errors.Is(err, errArrived) {
		b.log.Info("Audio did not arrive in time", "message", m.ID, "err", err)
	}
	return 0, nil // the caller of this tries once more, and says so if it fails
}
