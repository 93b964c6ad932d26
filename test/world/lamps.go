package world

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"carrierclass.net/ccnode/sipcore/phonetest"
)

// A lamp is a key of a telephone that shows what somebody else's does.
type lamp struct {
	whom  string
	watch *phonetest.Watch
}

// watch, watch cat ben *71, makes keys on cat's telephone.
func (w *World) watch(args []string) ([]string, error) {
	if len(args) < 2 || w.phones[args[0]] == nil {
		return nil, fmt.Errorf("write it like: watch cat ben *71")
	}
	p := w.phones[args[0]]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, whom := range args[1:] {
		x, err := p.tel.Watch(ctx, w.number(p, whom))
		if err != nil {
			return nil, err
		}
		p.lamps = append(p.lamps, &lamp{whom, x})
	}
	return nil, nil
}

// lights, lights cat *71 in 1s, tells what the lamps show by then, all or some.
func (w *World) lights(args []string) (out []string, err error) {
	in, args := option(args, "in")
	if len(args) == 0 || w.phones[args[0]] == nil {
		return nil, fmt.Errorf("write it like: lights cat *71 in 1s")
	}
	p := w.phones[args[0]]
	if in != "" {
		d, err := time.ParseDuration(in)
		if err != nil {
			return nil, err
		}
		time.Sleep(d)
	}
	synctest.Wait()
	for _, l := range p.lamps {
		if len(args) > 1 && !slices.Contains(args[1:], l.whom) {
			continue
		}
		s, _ := l.watch.Shown()
		shows := map[string]string{"": "dark", "trying": "on, calls", "early": "blinks,", "confirmed": "on, with"}[s.State()]
		for _, c := range s.Calls {
			if c.State == s.State() {
				uri, _, _ := strings.Cut(strings.TrimPrefix(c.Remote, "sip:"), "@")
				shows += " " + c.Display + " " + uri
			}
		}
		out = append(out, fmt.Sprintf("%s: %s: %s", args[0], l.whom, shows))
	}
	return out, nil
}

// takes, takes cat ben, is pressing the key that blinks: the call is picked up.
func (w *World) takes(args []string) ([]string, error) {
	if err := need(args, 2, "takes cat ben"); err != nil {
		return nil, err
	}
	p := w.phones[args[0]]
	if p == nil {
		return nil, fmt.Errorf("%s has no telephone", args[0])
	}
	for _, l := range p.lamps {
		s, _ := l.watch.Shown()
		if l.whom != args[1] || s.State() == "" {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c, err := p.tel.DialReplacing(ctx, w.number(p, args[1]), s.Calls[0].Replaces())
		if err != nil {
			return []string{args[0] + ": " + err.Error()}, nil
		}
		p.call = c
		return []string{args[0] + ": answered"}, nil
	}
	return nil, fmt.Errorf("%s has no lamp of %s that shows a call", args[0], args[1])
}
