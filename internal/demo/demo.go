package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/features/media"
	"carrierclass.net/ccnode/internal/api"
	"carrierclass.net/ccnode/internal/site"
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

func (s *story) founding(ctx context.Context) error {
	s.say("Three shops: A with a pair of boxes, B and C with one each. The WAN between them is ours to cut.")
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	a := s.f.box("A-a")
	if err := s.f.start(ctx, a, "--new-fleet", "shops", "--domain", "shops.example", "--site", "0001", "--site-name", "Shop A"); err != nil {
		return err
	}
	s.say("A-a founded the fleet shops.example")
	for _, x := range []struct{ name, code, label string }{{"A-b", "", ""}, {"B", "0002", "Shop B"}, {"C", "0003", "Shop C"}} {
		inv, err := send[api.Invite](ctx, a, "POST", "/invites", api.NewInvite{Site: x.code, SiteName: x.label})
		if err != nil {
			return err
		}
		if err := s.f.start(ctx, s.f.box(x.name), "--join", inv.Token); err != nil {
			return err
		}
		if x.name == "B" {
			// The same token again, by a box that is not B.
			thief := &box{name: "thief", data: s.f.dir + "/thief", inside: thiefInside, outside: thiefInside}
			thief.client, _ = api.NewClient("unix:"+thief.data+"/api.sock", "", nil)
			err := s.f.start(ctx, thief, "--join", inv.Token)
			if err == nil {
				_ = thief.cmd.Process.Kill()
				s.show("an invite works once", errors.New("a second box joined with it"), "")
			} else if said := thief.said(); !strings.Contains(said, "was used already") {
				s.show("an invite works once", fmt.Errorf("the refusal does not say why: %s", tail(said, 2)), "")
			} else {
				s.show("an invite works once", nil, "the second box is told why")
			}
		}
		s.say("%s joined with a token", x.name)
	}
	err := until(ctx, func() error { return s.f.settled(ctx) })
	s.show("four boxes hold the same fleet", err, "")
	return err
}

// user creates a user and switches a telephone on for it.
func (s *story) user(ctx context.Context, at, who, number string, tone float64, register bool) error {
	b := s.f.box(at)
	u, err := send[api.User](ctx, b, "POST", "/users", api.NewUser{Number: number, Name: strings.ToUpper(who[:1]) + who[1:]})
	if err != nil {
		return err
	}
	s.users[who] = u
	if !register {
		return nil
	}
	return s.telephone(ctx, at, who, u.Devices[0].Password, tone)
}

func (s *story) telephone(ctx context.Context, at, who, password string, tone float64) error {
	u := s.users[who]
	servers := []netip.AddrPort{s.f.box(at).server()}
	if u.Site == "0001" { // both boxes of the pair; the one named first is preferred
		other := "A-b"
		if at == "A-b" {
			other = "A-a"
		}
		servers = append(servers, s.f.box(other).server())
	}
	ip := s.f.box(at).inside.As4()
	ip[3] = byte(100 + len(s.phones))
	p, err := phonetest.New(phonetest.Config{Name: u.Name, Servers: servers, Domain: "shops.example", User: u.Number, Password: password,
		Local: netip.AddrFrom4(ip), Transport: site.UDP, Tone: tone})
	if err != nil {
		return fmt.Errorf("telephone of %s: %w", who, err)
	}
	if old := s.phones[who]; old != nil {
		old.Close()
	}
	s.phones[who] = p
	if err := within(ctx, 8*time.Second, p.Register); err != nil {
		return fmt.Errorf("register %s: %w", who, err)
	}
	return nil
}

func (s *story) people(ctx context.Context) error {
	for _, x := range []struct {
		at, who, number string
		tone            float64
	}{{"A-a", "ana", "201", 440}, {"A-b", "ben", "202", 620}, {"B", "bob", "201", 1000}, {"B", "bea", "202", 820}, {"C", "chi", "201", 1400}} {
		if err := s.user(ctx, x.at, x.who, x.number, x.tone, true); err != nil {
			s.show("telephones register", err, "")
			return err
		}
	}
	s.show("telephones register", nil, "5 at three shops, each with a password made by its own box")
	lamp := within(ctx, 5*time.Second, func(ctx context.Context) error {
		if err := s.phones["bob"].SubscribeMWI(ctx); err != nil {
			return err
		}
		return s.phones["bob"].WaitLamp(ctx, 0)
	})
	s.show("the message lamp is dark", lamp, "")
	return until(ctx, func() error {
		for _, b := range s.f.boxes {
			us, err := get[[]api.User](ctx, b, "/users")
			if err != nil {
				return err
			}
			if len(us) != 5 {
				return fmt.Errorf("box %s knows %d users", b.name, len(us))
			}
		}
		return nil
	})
}

// talk makes a call, listens at both ends, and hangs up. It returns how long the
// set-up took.
func (s *story) talk(ctx context.Context, from, dialled, to string, callerTone, calledTone float64) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 12*time.Second)
	defer cancel()
	caller, called := s.phones[from], s.phones[to]
	begun := time.Now()
	c, err := caller.DialStart(ctx, dialled)
	if err != nil {
		return 0, err
	}
	defer func() {
		hctx, done := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer done()
		_ = c.Hangup(hctx)
	}()
	var in *phonetest.Call
	select {
	case in = <-called.Incoming():
	case <-c.Done():
		return 0, fmt.Errorf("%s called %s: ended with %d", from, dialled, c.Cause().Status)
	case <-ctx.Done():
		return 0, fmt.Errorf("%s called %s: it never rang", from, dialled)
	}
	if err := in.Ring(); err != nil {
		return 0, err
	}
	if err := c.WaitRinging(ctx); err != nil {
		return 0, fmt.Errorf("%s hears no ringing: %w", from, err)
	}
	setup := time.Since(begun)
	if err := in.Answer(ctx); err != nil {
		return 0, fmt.Errorf("%s answers: %w", to, err)
	}
	if err := c.WaitAnswered(ctx); err != nil {
		return 0, err
	}
	err = errAll(func() error { return c.Hears(ctx, calledTone) }, func() error { return in.Hears(ctx, callerTone) })
	if err != nil {
		return 0, fmt.Errorf("speech between %s and %s: %w", from, to, err)
	}
	if err := c.Hangup(ctx); err != nil {
		return 0, fmt.Errorf("hang up: %w", err)
	}
	select {
	case <-in.Done():
	case <-ctx.Done():
		return 0, fmt.Errorf("%s was not told that the call is over", to)
	}
	return setup, nil
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms to ringing", d.Milliseconds()) }

func (s *story) sunshine(ctx context.Context) error {
	s.say("Everything is well.")
	d, err := s.talk(ctx, "ana", "202", "ben", 440, 620)
	s.show("a call within a shop, heard both ways", err, "%s", ms(d))
	s.f.wan.Shape(256)
	d, err = s.talk(ctx, "ana", "80002201", "bob", 440, 1000)
	s.show("a call between shops at 256 kbit/s, heard both ways", err, "%s", ms(d))
	d, err = s.talk(ctx, "chi", "80001202", "ben", 1400, 620)
	s.show("a call to a phone of the pair's other box", err, "%s", ms(d))
	s.f.wan.Shape(64)
	return nil
}

func (s *story) silence(ctx context.Context) error {
	if err := until(ctx, func() error { return s.f.settled(ctx) }); err != nil {
		return err
	}
	select { // acknowledgements of the last call's end
	case <-time.After(1500 * time.Millisecond):
	case <-ctx.Done():
	}
	before := s.f.wan.Total()
	s.say("Nobody says anything for %v; phones refresh their registrations.", idleFor)
	for _, p := range s.phones {
		if err := within(ctx, 3*time.Second, p.Refresh); err != nil {
			s.show("silence", err, "")
			return nil
		}
	}
	select {
	case <-time.After(idleFor):
	case <-ctx.Done():
	}
	n := s.f.wan.Total().Minus(before)
	var err error
	if n.Bytes() != 0 {
		err = fmt.Errorf("%d bytes on the WAN", n.Bytes())
	}
	s.show("an idle mesh with refreshing phones is silent", err, "%d bytes in %v", n.Bytes(), idleFor)
	return nil
}

// cut is the heart: the WAN is cut, right through the pair of shop A; all go on;
// it heals, and nothing is lost.
func (s *story) cut(ctx context.Context) error {
	a, ab, b, c := s.f.box("A-a"), s.f.box("A-b"), s.f.box("B"), s.f.box("C")
	ben := s.users["ben"]
	dan, err := send[api.User](ctx, a, "POST", "/users", api.NewUser{Number: "203", Name: "Dan"})
	if err != nil {
		return err
	}
	if err := until(ctx, func() error { return s.f.settled(ctx) }); err != nil {
		return err
	}

	s.f.wan.Cut("A-b", "B")
	began := time.Now()
	s.say("THE WAN IS CUT: A-a and C on one side, A-b and B on the other.")
	d, err := s.talk(ctx, "bob", "202", "bea", 1000, 820)
	s.show("cut: a call within shop B", err, "%s", ms(d))
	d, err = s.talk(ctx, "bea", "80001202", "ben", 820, 620)
	s.show("cut: a call from B to A, on the same side", err, "%s", ms(d))

	// Administration on both sides.
	fwd := func(to string) api.UserPatch { return api.UserPatch{ForwardNoAnswer: &to} }
	_, err1 := send[api.User](ctx, a, "PATCH", "/users/"+ben.ID.String(), fwd("201"))
	_, err2 := send[api.User](ctx, ab, "PATCH", "/users/"+ben.ID.String(), fwd("voicemail"))
	s.show("cut: the same forward edited on both sides", errors.Join(err1, err2), "201 here, voicemail there")
	yes, no, name := true, false, "Daniel"
	_, err1 = send[api.User](ctx, a, "PATCH", "/users/"+dan.ID.String(), api.UserPatch{Disabled: &yes})
	_, err2 = send[api.User](ctx, ab, "PATCH", "/users/"+dan.ID.String(), api.UserPatch{Disabled: &no, Name: &name})
	s.show("cut: a user disabled here, renamed there", errors.Join(err1, err2), "")
	empty := ""
	bea, err := send[api.User](ctx, b, "PATCH", "/users/"+s.users["bea"].ID.String(), api.UserPatch{Password: &empty})
	if err == nil {
		err = s.telephone(ctx, "B", "bea", bea.Devices[0].Password, 820)
	}
	s.show("cut: a changed password, and the phone back with it", err, "")
	err = s.user(ctx, "C", "cy", "202", 520, true)
	if err == nil {
		_, err = s.talk(ctx, "chi", "202", "cy", 1400, 520)
	}
	s.show("cut: a new user at C, called at once", err, "")
	_, err1 = send[api.User](ctx, a, "POST", "/users", api.NewUser{Number: "0001250", Name: "Eve of A"})
	_, err2 = send[api.User](ctx, b, "POST", "/users", api.NewUser{Number: "0001250", Name: "Eve of B"})
	s.show("cut: the same number given out on both sides", errors.Join(err1, err2), "0001250")

	// A message for somebody on the other side.
	waited, err := s.leave(ctx, "chi", "80002201", 1400)
	s.show("cut: C calls Bob, who cannot be reached, and leaves a message", err, "taken after %.1f s", waited.Seconds())
	waited, err = s.again(ctx, "chi", "80002201")
	s.show("cut: again, now that B is suspect: voicemail sooner", err, "after %.1f s", waited.Seconds())
	select {
	case <-time.After(time.Until(began.Add(cutFor))):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.say("The cut lasted %.0f s.", time.Since(began).Seconds())

	s.f.wan.Heal()
	healed := time.Now()
	s.say("THE WAN HEALS.")
	hctx, cancel := context.WithTimeout(ctx, settleBy+20*time.Second)
	defer cancel()
	lamp := s.phones["bob"].WaitLamp(hctx, 1)
	lit := time.Since(healed)
	s.show("healed: Bob's lamp lights", lamp, "1 new, after %.1f s", lit.Seconds())
	err = until(hctx, func() error { return s.f.settled(hctx) })
	took := time.Since(healed)
	if err == nil && took > settleBy {
		err = fmt.Errorf("it took %v", took)
	}
	s.show("healed: all boxes equal, nothing held, nothing owed", err, "after %.1f s", took.Seconds())

	s.afterwards(ctx, c, b, dan)
	return nil
}

// again calls somebody whose site is suspect by now, and hangs up at the greeting.
func (s *story) again(ctx context.Context, from, dialled string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	begun := time.Now()
	c, err := s.phones[from].Dial(ctx, dialled)
	if err != nil {
		return 0, err
	}
	waited := time.Since(begun)
	if err := c.Hangup(ctx); err != nil {
		return waited, err
	}
	if waited > 1500*time.Millisecond {
		return waited, fmt.Errorf("it took %v, at most 1 s to the voicemail branch was promised", waited)
	}
	return waited, nil
}

// leave calls somebody who cannot be reached and says something after the tone.
func (s *story) leave(ctx context.Context, from, dialled string, tone float64) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	begun := time.Now()
	c, err := s.phones[from].Dial(ctx, dialled)
	if err != nil {
		return 0, err
	}
	waited := time.Since(begun)
	err = c.HearsSilence(ctx, 400*time.Millisecond) // greeting and tone are over
	if err == nil {
		select {
		case <-time.After(2500 * time.Millisecond): // the phone's tone is the message
		case <-ctx.Done():
		}
	}
	if e := c.Hangup(ctx); err == nil {
		err = e
	}
	if err == nil && waited > 4*time.Second {
		err = fmt.Errorf("voicemail answered after %v", waited)
	}
	return waited, err
}

func (s *story) afterwards(ctx context.Context, c, b *box, dan api.User) {
	bob := s.users["bob"]
	msgs, err := get[[]api.Message](ctx, b, "/users/"+bob.ID.String()+"/messages")
	if err == nil && len(msgs) != 1 {
		err = fmt.Errorf("%d messages, want 1", len(msgs))
	}
	var here, there []byte
	if err == nil {
		here, err = audio(ctx, b, bob.ID.String(), msgs[0].ID.String())
	}
	if err == nil {
		if hz := loudest(here); hz != 1400 {
			err = fmt.Errorf("the message sounds of %v Hz, Chi's phone of 1400", hz)
		}
	}
	s.show("healed: the message is at B, and it is Chi's voice", err, "%d bytes", len(here))
	if err == nil {
		there, err = audio(ctx, c, bob.ID.String(), msgs[0].ID.String())
		if err == nil && !slices.Equal(here, there) {
			err = errors.New("it differs")
		}
	}
	s.show("healed: the same message plays at any shop", err, "asked for at C")

	for _, x := range s.f.boxes[:2] {
		ms, err := get[[]api.Merge](ctx, x, "/merges")
		found := ""
		for _, m := range ms {
			var values []string
			for _, side := range m.Sides {
				values = append(values, side.Value)
			}
			if m.Kind == "edit" && slices.Contains(values, "201") && slices.Contains(values, "voicemail") {
				found = fmt.Sprintf("in force %q, kept %s", m.InForce, strings.Join(values, " and "))
			}
		}
		if err == nil && found == "" {
			err = fmt.Errorf("none of the %d merges shows both forwards", len(ms))
		}
		s.show("healed: both forwards are accounted for at "+x.name, err, "%s", found)
		u, err := get[api.User](ctx, x, "/users/"+dan.ID.String())
		if err == nil && !u.Disabled {
			err = errors.New("Dan is enabled")
		}
		s.show("healed: the disable won at "+x.name, err, "")
	}
	var clashes []string
	for _, x := range []*box{s.f.box("A-a"), b} {
		u, err := get[api.User](ctx, x, "/users/0001250")
		if err != nil || len(u.Clash) != 1 {
			clashes = append(clashes, fmt.Sprintf("%s: %v %v", x.name, u.Clash, err))
			continue
		}
		if (x == b) != (u.Site == "0002") {
			clashes = append(clashes, fmt.Sprintf("at %s rings the user of site %s", x.name, u.Site))
		}
	}
	var clashErr error
	if len(clashes) > 0 {
		clashErr = errors.New(strings.Join(clashes, "; "))
	}
	s.show("healed: both users of one number live, the local one is meant", clashErr, "")
	d, err := s.talk(ctx, "chi", "80002201", "bob", 1400, 1000)
	s.show("healed: C calls Bob again", err, "%s", ms(d))
}

// loudest is which of the demo's tones makes up most of a WAV file.
func loudest(wav []byte) float64 {
	clip, err := media.ParseClip(wav)
	if err != nil {
		return 0
	}
	pcm, err := media.ReadAll(clip.Source(), 10*time.Second)
	if err != nil || len(pcm) < 8000 {
		return 0
	}
	best, most := 0.0, 0.0
	for _, hz := range []float64{440, 520, 620, 820, 1000, 1400} {
		if g := media.Goertzel(pcm, hz); g > most {
			best, most = hz, g
		}
	}
	return best
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
