package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/sipcore/phonetest"
)

// Options of a run.
type Options struct {
	Program string    // the ccnode binary
	Dir     string    // data folders go here; removed afterwards unless Keep
	Out     io.Writer // the story
	Hold    bool      // keep the fleet up at the end until ctx ends
	Keep    bool
}

// ErrFailed means that something that should have been shown was not.
var ErrFailed = errors.New("the demo failed")

// cutFor is how long the WAN stays cut; settleBy is the promise for afterwards.
const (
	cutFor   = 15 * time.Second
	settleBy = 20 * time.Second
	idleFor  = 10 * time.Second
)

type check struct {
	what, detail string
	err          error
}

type story struct {
	o      Options
	f      *fleet
	phones map[string]*phonetest.Phone
	users  map[string]api.User
	checks []check
	start  time.Time
}

// Run tells the story. Its error is ErrFailed when a check failed.
func Run(ctx context.Context, o Options) error {
	s := &story{o: o, phones: map[string]*phonetest.Phone{}, users: map[string]api.User{}, start: time.Now()}
	f, err := newFleet(o.Program, o.Dir)
	if err != nil {
		return err
	}
	s.f = f
	defer func() {
		for _, p := range s.phones {
			p.Close()
		}
		f.stop()
	}()
	err = s.tell(ctx)
	failed := s.table()
	if err != nil {
		for _, b := range f.boxes {
			fmt.Fprintf(o.Out, "\nlast words of %s:\n%s\n", b.name, indent(tail(b.said(), 15)))
		}
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%w: %d of %d checks", ErrFailed, failed, len(s.checks))
	}
	if o.Hold {
		s.hold(ctx)
	}
	return nil
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (s *story) say(format string, a ...any) {
	fmt.Fprintf(s.o.Out, "%5.1fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, a...))
}

// show records whether something was shown.
func (s *story) show(what string, err error, format string, a ...any) {
	c := check{what, fmt.Sprintf(format, a...), err}
	s.checks = append(s.checks, c)
	if err != nil {
		s.say("  FAIL %s: %v", what, err)
	} else if c.detail != "" {
		s.say("  ok   %s: %s", what, c.detail)
	} else {
		s.say("  ok   %s", what)
	}
}

func (s *story) table() (failed int) {
	fmt.Fprintln(s.o.Out, "\nWhat was shown:")
	for _, c := range s.checks {
		mark := "pass"
		if c.err != nil {
			mark = "FAIL"
			failed++
		}
		fmt.Fprintf(s.o.Out, "  %s  %-58s %s\n", mark, c.what, c.detail)
	}
	fmt.Fprintf(s.o.Out, "%d passed, %d failed, %.0f s\n", len(s.checks)-failed, failed, time.Since(s.start).Seconds())
	return failed
}

func within(ctx context.Context, d time.Duration, fn func(context.Context) error) error {
	c, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return fn(c)
}

func (s *story) tell(ctx context.Context) error {
	for _, part := range []func(context.Context) error{s.founding, s.people, s.sunshine, s.silence, s.cut} {
		if err := part(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// hold says how to use the fleet by hand and waits.
func (s *story) hold(ctx context.Context) {
	fmt.Fprintln(s.o.Out, "\nThe fleet stays up until you press Ctrl-C. Register your own phones on this machine, domain shops.example:")
	for _, who := range []string{"ana", "ben", "bob", "bea", "chi"} {
		u := s.users[who]
		b := map[string]string{"0001": "A-a", "0002": "B", "0003": "C"}[u.Site]
		fmt.Fprintf(s.o.Out, "  %-4s server %s  user %s  password %s\n", u.Name, s.f.box(b).server(), u.Number, u.Devices[0].Password)
	}
	for _, b := range s.f.boxes {
		fmt.Fprintf(s.o.Out, "  %s --data %s status\n", os.Args[0], b.data)
	}
	<-ctx.Done()
}
