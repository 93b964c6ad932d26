package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/api"
)

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
		if b := s.f.box(x.name); b.lan {
			if err := s.neighbour(ctx, a, b); err != nil {
				return err
			}
			continue
		}
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

// neighbour lets a box join the one that it hears on the LAN.
func (s *story) neighbour(ctx context.Context, member, b *box) error {
	joined := make(chan error, 1)
	go func() { joined <- s.f.start(ctx, b, "--join", "lan") }()
	var p []api.Pending
	err := until(ctx, func() (err error) {
		p, err = get[[]api.Pending](ctx, member, "/pending")
		if err == nil && len(p) != 1 {
			err = fmt.Errorf("%d boxes want to join", len(p))
		}
		return err
	})
	if err == nil && !strings.Contains(b.said(), "code "+p[0].Code) {
		err = fmt.Errorf("the boxes do not show the same code: here %s, there %q", p[0].Code, tail(b.said(), 2))
	}
	if err == nil {
		_, err = send[api.NodeStatus](ctx, member, "POST", "/pending/approve", api.Approval{Code: p[0].Code})
	}
	if e := <-joined; err == nil || e != nil && ctx.Err() == nil {
		err = e
	}
	s.show("a neighbour on the LAN joins by a code that a person compares", err, "")
	if err == nil {
		s.say("%s found a neighbour on the LAN (multicast DNS); both showed %s, and a person approved", b.name, p[0].Code)
	}
	return err
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
	kept, err := s.f.kept(ctx)
	s.show("each shop's state is kept at one other shop", err, "%s", kept)
	// Acknowledgements of the last call's end, and keys for who keeps a state.
	before := s.f.wan.Total()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && ctx.Err() == nil; {
		select {
		case <-time.After(2500 * time.Millisecond):
		case <-ctx.Done():
		}
		now := s.f.wan.Total()
		if now.Minus(before).Bytes() == 0 {
			break
		}
		before = now
	}
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
