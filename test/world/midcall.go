package world

import (
	"context"
	"fmt"
	"strings"
	"time"

	"carrierclass.net/ccnode/sipcore/phonetest"
)

// current is the call a person is in, made or answered; the newest if several.
func (p *phone) current() *phonetest.Call {
	if p.call != nil {
		select {
		case <-p.call.Done():
		default:
			return p.call
		}
	}
	return p.answered()
}

func (w *World) inCall(who string) (*phone, *phonetest.Call, error) {
	p := w.phones[who]
	if p == nil {
		return nil, nil, fmt.Errorf("%s has no telephone", who)
	}
	c := p.current()
	if c == nil {
		return nil, nil, fmt.Errorf("%s is in no call", who)
	}
	return p, c, nil
}

// transfer, transfer ben to cat, is the transfer key; with "after asking" the
// transferrer has talked to cat first, with "while it rings" not quite. It tells
// what the telephone was told.
func (w *World) transfer(args []string) ([]string, error) {
	if len(args) < 3 || args[1] != "to" {
		return nil, fmt.Errorf("write it like: transfer ben to cat [after asking | while it rings]")
	}
	p, c, err := w.inCall(args[0])
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	number, status := w.number(p, args[2]), 0
	switch strings.Join(args[3:], " ") {
	case "":
		status, err = c.Refer(ctx, number)
	case "after asking", "while it rings":
		if err := c.Hold(ctx); err != nil {
			return nil, err
		}
		other, derr := p.tel.DialStart(ctx, number)
		if derr == nil && args[3] == "after" {
			derr = other.WaitAnswered(ctx)
		} else if derr == nil {
			derr = other.WaitRinging(ctx)
		}
		if derr != nil {
			return nil, derr
		}
		status, err = c.ReferReplaces(ctx, other)
	default:
		return nil, fmt.Errorf("a transfer is made %q?", strings.Join(args[3:], " "))
	}
	if err != nil {
		return nil, err
	}
	if status == 200 {
		c.Hangup(ctx) // as telephones do; it may be over already
	}
	p.call = nil
	return []string{fmt.Sprintf("%s: told %d", args[0], status)}, nil
}

// holdKey is hold ben, and resume ben.
func (w *World) holdKey(args []string) ([]string, error) {
	return nil, w.change(args, (*phonetest.Call).Hold)
}
func (w *World) resume(args []string) ([]string, error) {
	return nil, w.change(args, (*phonetest.Call).Resume)
}

func (w *World) change(args []string, f func(*phonetest.Call, context.Context) error) error {
	if err := need(args, 1, "hold ben"); err != nil {
		return err
	}
	_, c, err := w.inCall(args[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return f(c, ctx)
}

// dials, dials cat *71, dials without telling more than who answered.
func (w *World) dials(args []string) ([]string, error) {
	if err := need(args, 2, "dials cat *71"); err != nil {
		return nil, err
	}
	p := w.phones[args[0]]
	if p == nil {
		return nil, fmt.Errorf("%s has no telephone", args[0])
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := p.tel.DialStart(ctx, strings.ReplaceAll(args[1], "%23", "#")) // which begins a remark in a story
	if err != nil {
		return nil, err
	}
	if err := c.WaitAnswered(ctx); err != nil {
		return []string{fmt.Sprintf("%s: %d", args[0], c.Cause().Status)}, nil
	}
	p.call = c
	return []string{args[0] + ": answered"}, nil
}

// starts, starts ana ben, dials and does not wait for an answer.
func (w *World) starts(args []string) ([]string, error) {
	if err := need(args, 2, "starts ana ben"); err != nil {
		return nil, err
	}
	p := w.phones[args[0]]
	if p == nil {
		return nil, fmt.Errorf("%s has no telephone", args[0])
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := p.tel.DialStart(ctx, w.number(p, args[1]))
	if err != nil {
		return nil, err
	}
	p.call = c
	return nil, c.WaitRinging(ctx)
}

// ears, ears ana cat, tells what those people hear now.
func (w *World) ears(args []string) (out []string, err error) {
	for _, who := range args {
		p, c, err := w.inCall(who)
		if err != nil {
			return out, err
		}
		p.met = p.answered()
		out = append(out, who+": hears "+w.hears(c.Listen(6*time.Second)))
	}
	return out, nil
}

func (w *World) hears(s phonetest.Sound) string {
	for name, p := range w.phones {
		if s.Tone > p.tone-6 && s.Tone < p.tone+6 {
			return name
		}
	}
	switch {
	case s.Tone > 419 && s.Tone < 431:
		return "ringing"
	case s.Level > 300:
		return "music"
	}
	return "nothing"
}
