package voicemail

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/site"
)

// A PIN has four to twelve figures.
const (
	minPIN = 4
	maxPIN = 12
)

const (
	maxGreeting = time.Minute
	minGreeting = time.Second
)

// options is the menu behind 0.
func (b *box) options() error {
	for idle := 0; idle < 2; {
		key, err := b.ask(thinking, "options")
		if err != nil {
			return err
		}
		switch key {
		case '1':
			err = b.recordGreeting()
		case '2':
			err = b.change("greeting-removed", func(ctx context.Context) error {
				return b.cfg.Mailboxes.SetGreeting(ctx, b.id, "", site.BlobRef{})
			})
		case '3':
			err = b.changePIN()
		case '*':
			return nil
		default:
			idle++
			continue
		}
		if err != nil {
			return err
		}
		idle = 0
	}
	return nil
}

// recordGreeting records until the owner keeps one or gives up.
func (b *box) recordGreeting() error {
	for {
		again, err := b.tryGreeting()
		if err != nil || !again {
			return err
		}
	}
}

func (b *box) tryGreeting() (again bool, err error) {
	text, err := json.Marshal(note{Kind: "greeting"})
	if err != nil {
		return false, err
	}
	rec, err := b.cfg.Blobs.Create(b.life, text)
	if err != nil {
		b.log.Error("Cannot record a greeting", "mailbox", b.id, "err", err)
		_, err := b.say("not-possible")
		return false, err
	}
	kept := false
	defer func() {
		if !kept {
			b.abort(rec)
		}
	}()
	wav, err := media.NewWAVWriter(rec, media.MuLaw)
	if err == nil {
		if err := b.tell("record-greeting"); err != nil {
			return false, err
		}
		if err := b.beep(); err != nil {
			return false, err
		}
		if err := b.forget(); err != nil {
			return false, err
		}
		var length time.Duration
		if length, _, err = b.record(wav, maxGreeting, 0); err == nil && length < minGreeting {
			_, err := b.say("too-short")
			return false, err
		}
	}
	if b.over() {
		return false, context.Cause(b.life)
	}
	var ref site.BlobRef
	if err == nil {
		ref, _, err = rec.Commit(b.life)
	}
	if err != nil {
		b.log.Error("Greeting not recorded", "mailbox", b.id, "err", err)
		_, err := b.say("not-possible")
		return false, err
	}
	key, err := b.playBlob(ref)
	for idle := 0; err == nil && idle < 2; idle++ {
		if key == 0 {
			if key, err = b.ask(thinking, "greeting-keys"); err != nil {
				break
			}
		}
		switch key {
		case '1':
			return false, b.change("greeting-kept", func(ctx context.Context) error {
				if err := b.cfg.Mailboxes.SetGreeting(ctx, b.id, "", ref); err != nil {
					return err
				}
				kept = true
				return rec.Done()
			})
		case '2':
			return true, nil
		case '*':
			return false, nil
		}
		key = 0
	}
	return false, err
}

// changePIN asks twice for the new one.
func (b *box) changePIN() error {
	pin, err := b.number(maxPIN, "new-pin")
	if err != nil {
		return err
	}
	if weak(pin) {
		_, err := b.say("pin-weak")
		return err
	}
	again, err := b.number(maxPIN, "again-pin")
	if err != nil {
		return err
	}
	if again != pin {
		_, err := b.say("pin-differs")
		return err
	}
	return b.change("pin-changed", func(ctx context.Context) error { return b.cfg.Mailboxes.SetPIN(ctx, b.id, pin) })
}

// weak is true of PINs that are tried first: too short, one figure again and
// again, or figures in a row.
func weak(pin string) bool {
	if len(pin) < minPIN || strings.Count(pin, pin[:1]) == len(pin) {
		return true
	}
	up, down := true, true
	for i := 1; i < len(pin); i++ {
		up = up && pin[i] == pin[i-1]+1
		down = down && pin[i] == pin[i-1]-1
	}
	return up || down
}
