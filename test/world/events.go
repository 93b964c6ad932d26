package world

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing/synctest"

	"carrierclass.net/ccnode/internal/api"
)

// A listener reads the events of a box as the interface gives them.
type listener struct {
	cancel context.CancelFunc
	done   chan struct{}
	last   uint64

	mu  sync.Mutex
	got []string
}

// follow A reads on; follow A on goes on where the last reader was.
func (w *World) follow(args []string) ([]string, error) {
	if len(args) == 0 || len(args) > 2 || len(args) == 2 && args[1] != "on" {
		return nil, errors.New("write it like: follow A on")
	}
	b, err := w.asked(args[0])
	if err != nil {
		return nil, err
	}
	after := uint64(0)
	if old := w.listeners[b.name]; old != nil {
		if after = old.last; len(args) < 2 {
			after = 0
		}
		old.cancel()
		<-old.done
	}
	f, err := b.api.Follow(context.Background(), after)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &listener{cancel: cancel, done: make(chan struct{}), last: after}
	if w.listeners == nil {
		w.listeners = map[string]*listener{}
	}
	w.listeners[b.name] = l
	go func() { // ends with cancel, or with the box
		defer close(l.done)
		defer f.Close()
		for {
			e, err := f.Next(ctx)
			if err != nil {
				return
			}
			l.mu.Lock()
			l.last = e.ID
			l.got = append(l.got, eventWords(e))
			l.mu.Unlock()
			if e.Kind == api.EventEnd {
				return
			}
		}
	}()
	synctest.Wait()
	return nil, nil
}

func eventWords(e api.Event) string {
	out := []string{e.Kind}
	switch {
	case e.Record != nil:
		out = append(out, e.Record.Record+":", strings.Join(e.Record.Fields, ", "))
	case e.Merge != nil:
		out = append(out, e.Merge.Record+",", e.Merge.Field, fmt.Sprintf("in force %q", e.Merge.InForce))
		if e.Merge.ClosedBy != nil {
			out = append(out, "by", e.Merge.ClosedBy.By)
		}
	case e.Call != nil:
		out = append(out, e.Call.From, "to", e.Call.To, e.Call.State, e.Call.Cause)
	case e.Why != "":
		out = append(out, e.Why)
	}
	if e.Merges != nil {
		out = append(out, fmt.Sprintf("(%d open)", *e.Merges))
	}
	return strings.TrimSpace(strings.Join(out, " "))
}

// deaf ends the reading; what was read stays.
func (w *World) deaf(args []string) ([]string, error) {
	if err := need(args, 1, "deaf A"); err != nil {
		return nil, err
	}
	for name, l := range w.listeners {
		if name == args[0] {
			l.cancel()
			<-l.done
			return nil, nil
		}
	}
	return nil, fmt.Errorf("nobody reads the events of %s", args[0])
}

func (w *World) readOut(args []string) (out []string, err error) {
	if err := need(args, 1, "heard A"); err != nil {
		return nil, err
	}
	l := w.listeners[args[0]]
	if l == nil {
		return nil, fmt.Errorf("nobody reads the events of %s", args[0])
	}
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.got {
		out = append(out, args[0]+": "+g)
	}
	l.got = nil
	if len(out) == 0 {
		out = []string{args[0] + ": nothing"}
	}
	return out, nil
}
