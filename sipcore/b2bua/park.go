package b2bua

import (
	"context"
	"errors"
	"strings"
	"time"

	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/sipcore"
	"carrierclass.net/ccnode/sipcore/route"
)

// Park (calls.md §4): a caller is transferred into an orbit, hears music, and
// whoever dials the orbit talks to him. After a while the one who parked him is
// rung; a parked caller is never dropped.

const (
	orbitCode  = "*7" // and a digit; 0 means any that is free
	orbits     = "123456789"
	maxRecalls = 3 // then it is a call like any other, with forwards and mailbox
)

// orbitOf is the orbit that the user part of an AOR names.
func orbitOf(user string) (string, bool) {
	d, ok := strings.CutPrefix(user, orbitCode)
	return d, ok && len(d) == 1 && strings.Contains(orbits, d)
}

func (s *Server) orbitAOR(orbit string) site.AOR {
	return site.AOR{User: orbitCode + orbit, Domain: s.cfg.View().Domain()}
}

// parkedAt says whether the call is parked in the orbit with that AOR's user.
func (c *Call) parkedAt(user string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.orbit != "" && orbitCode+c.orbit == user
}

func (c *Call) isParked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.orbit != ""
}

// reserve takes an orbit for c: the one named, or the first that is free at
// both nodes.
func (s *Server) reserve(c *Call, orbit string) (string, bool) {
	want := orbit
	if orbit == "0" {
		want = orbits
	}
	for _, o := range strings.Split(want, "") {
		if s.cfg.Lamps != nil && len(s.cfg.Lamps.Of(s.orbitAOR(o))) > 0 {
			continue
		}
		s.mu.Lock()
		free := s.parked[o] == nil
		if free {
			s.parked[o] = c
		}
		s.mu.Unlock()
		if free {
			return o, true
		}
	}
	return "", false
}

func (s *Server) vacate(c *Call, orbit string) {
	s.mu.Lock()
	if s.parked[orbit] == c {
		delete(s.parked, orbit)
	}
	s.mu.Unlock()
	c.mu.Lock()
	c.orbit = ""
	c.mu.Unlock()
	c.lamps()
}

// park fetches who is in the orbit, or leaves an answered caller there.
func (c *Call) park(ctx context.Context, orbit string) error {
	if _, ok := orbitOf(orbitCode + orbit); !ok && orbit != "0" {
		return site.NoSuchNumber
	}
	s := c.srv
	if !c.isAnswered() {
		s.mu.Lock()
		p := s.parked[orbit]
		s.mu.Unlock()
		if p != nil && p.offer(c) == nil {
			return nil
		}
		err := c.elsewhere(ctx, s.orbitAOR(orbit), orbitCode+orbit, func(d sipcore.DialogState) bool { return d.Parked })
		if errors.Is(err, errNotRinging) {
			return site.Offline
		}
		return err
	}
	orbit, ok := s.reserve(c, orbit)
	if !ok {
		return site.Busy
	}
	defer s.vacate(c, orbit)
	c.mu.Lock()
	parker := c.rights.AOR
	c.orbit, c.answer, c.to = orbit, "orbit "+orbitCode+orbit, site.Party{AOR: s.orbitAOR(orbit)}
	who := c.from
	c.mu.Unlock()
	c.settled()
	c.lamps()
	s.log.Info("Call is parked", "call", c.chain, "orbit", orbit, "by", parker.User)
	if parker.User != "" {
		s.spawn(func() { s.Tell(parker, orbitCode+orbit, "Parked on "+orbitCode+orbit+": "+name(who)) })
	}
	return c.wait(ctx, parker, who, orbit)
}

// wait lets a parked caller hear music until somebody takes him, recalling who
// parked him now and then.
func (c *Call) wait(ctx context.Context, parker site.AOR, who site.Party, orbit string) error {
	recall := time.NewTimer(c.srv.cfg.Recall)
	defer recall.Stop()
	for recalls := 0; ; {
		c.near().hear(Music)
		select {
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		case <-ctx.Done():
			return context.Cause(ctx)
		case f := <-c.moves:
			f()
		case p := <-c.picks:
			if e, ok := c.taken(p); ok {
				c.srv.vacate(c, orbit)
				c.join(e)
				return nil
			}
		case <-recall.C:
			if parker.User == "" {
				recall.Reset(c.srv.cfg.Recall)
				continue
			}
			recalls++
			c.srv.log.Info("Who parked a call is rung", "call", c.chain, "orbit", orbit, "line", parker.User)
			back := who
			back.Display = strings.TrimSpace(orbitCode + orbit + " " + name(who))
			c.as(back)
			err := c.routeAs(ctx, route.Call{From: back, To: route.ParseURI(parker.User), Applied: recalls < maxRecalls})
			if err == nil {
				return nil
			}
			c.as(who)
			recall.Reset(c.srv.cfg.Recall)
		}
	}
}

// as shows who calls.
func (c *Call) as(who site.Party) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.from = who
}

func name(p site.Party) string {
	switch {
	case p.Display != "":
		return p.Display
	case p.Number != "":
		return p.Number
	}
	return p.AOR.User
}
