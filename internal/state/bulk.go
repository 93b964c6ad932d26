package state

import (
	"context"
	"fmt"
	"sync"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
)

// MaxBulk is how many users CreateMany takes at once: others write between two
// calls, and nobody waits long for one.
const MaxBulk = 500

// A Made is what became of one user that CreateMany was asked for.
type Made struct {
	User     User // the device's password is in it, if it was made now
	Existed  bool // it was there, with this name and public number; nothing was changed
	Err      error
	NotTried bool // Err is not about this row: it was not, or perhaps not, written
}

// CreateMany makes users of this site, several in one change and all with one
// wait for the disk. A row that cannot be is left out and says why; the others
// are made. What it says was made is on the disk, each user whole. Whoever does
// not get an answer asks again with the same rows: who is there, with the same
// number, name and public number, is left alone.
func (s *State) CreateMany(ctx context.Context, by string, specs []Spec) ([]Made, error) {
	if len(specs) > MaxBulk {
		return nil, fmt.Errorf("%w: %d users at once, at most %d", ErrInvalid, len(specs), MaxBulk)
	}
	out := make([]Made, len(specs))
	s.write.Lock()
	defer s.write.Unlock()
	there := s.numbered(specs)
	rows := map[string]int{} // numbers of this call → row
	rowOf := map[string]int{}
	ids := make([]site.RecordID, len(specs))
	var groups [][]crdt.Write
	for i := range specs {
		n := &specs[i]
		fail := func(err error) { out[i].Err = fmt.Errorf("create user %q: %w", n.Number, err) }
		if !n.Site.IsZero() && n.Site != s.cfg.Site {
			x, _ := s.Site(n.Site)
			fail(fmt.Errorf("%w: ask a node of site %s", ErrOtherSite, x.Code))
			continue
		}
		number, err := s.number(n.Number)
		if err != nil {
			fail(err)
			continue
		}
		if u := there[number]; u != nil && u.Name == n.Name && u.E164 == n.E164 {
			out[i].Existed, ids[i] = true, u.ID
			continue
		} else if u != nil {
			fail(fmt.Errorf("number %s: %w: by %s (%s) of this site", number, ErrTaken, u.Name, u.ID))
			continue
		}
		if j, taken := rows[number]; taken {
			fail(fmt.Errorf("number %s: %w: by %s, earlier in the same list", number, ErrTaken, specs[j].Name))
			continue
		}
		if j, taken := rows[n.E164]; taken && n.E164 != "" {
			fail(fmt.Errorf("number %s: %w: by %s, earlier in the same list", n.E164, ErrTaken, specs[j].Name))
			continue
		}
		id, some, err := s.newUser(n)
		if err != nil {
			fail(err)
			continue
		}
		if rows[number], ids[i] = i, id; n.E164 != "" {
			rows[n.E164] = i
		}
		rowOf[string(id[:])] = i
		groups = append(groups, some)
	}
	var ref crdt.Ref
	s.cfg.Engine.View(func(v View) {
		var person []crdt.Write
		if ref, person = s.person(v, by); len(groups) > 0 && len(person) > 0 {
			groups = append(groups, person)
		}
	})
	ms := packed(s.scope, ref, groups)
	var made []site.RecordID
	for k, err := range s.commitAll(ctx, ms) {
		for _, w := range ms[k].Writes {
			i, ok := rowOf[w.Record]
			switch {
			case !ok || w.Field != userNumber:
			case err != nil:
				out[i].Err, out[i].NotTried = fmt.Errorf("create user %q: %w", specs[i].Number, err), true
			default:
				made = append(made, ids[i])
			}
		}
	}
	s.follow(ctx, made...)
	for i := range out {
		if out[i].Err != nil {
			continue
		}
		u, err := s.User(ids[i])
		if err != nil {
			out[i].Err = err
			continue
		}
		if !out[i].Existed {
			for d := range u.Devices {
				u.Devices[d].Password = specs[i].Password
			}
		}
		out[i].User = u
	}
	return out, nil
}

// numbered finds the users of this site that have one of the numbers asked for:
// also those that the directory does not list yet.
func (s *State) numbered(specs []Spec) map[string]*User {
	out := map[string]*User{}
	for i := range specs {
		if number, err := s.number(specs[i].Number); err == nil {
			out[number] = nil
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, u := range s.ix.users {
		if old, asked := out[u.Number]; asked && !u.Deleted && (old == nil || u.ID.String() < old.ID.String()) {
			out[u.Number] = u
		}
	}
	return out
}

// packed puts groups of writes into as few changes as there must be; a group is
// never divided.
func packed(scope crdt.Scope, by crdt.Ref, groups [][]crdt.Write) (out []Mutation) {
	var open []crdt.Write
	used := 0
	for _, g := range groups {
		size := 0
		for _, w := range g {
			size += len(w.Value) + len(w.Record) + len(w.Field) + 60 // its context and the frame
		}
		if len(open) > 0 && (len(open)+len(g) > crdt.MaxWrites || used+size > crdt.MaxChange-400) {
			out = append(out, Mutation{Scope: scope, By: by, Writes: open})
			open, used = nil, 0
		}
		open, used = append(open, g...), used+size
	}
	if len(open) > 0 {
		out = append(out, Mutation{Scope: scope, By: by, Writes: open})
	}
	return out
}

// commitAll commits changes that do not depend on one another and returns the
// error of each. They wait together, so the disk is asked once for many.
func (s *State) commitAll(ctx context.Context, ms []Mutation) []error {
	const most = 64 // at a time: other writers come between
	out := make([]error, len(ms))
	gate := make(chan struct{}, most)
	var wg sync.WaitGroup
	for i := range ms {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			_, out[i] = s.commit(ctx, ms[i])
		})
	}
	wg.Wait()
	return out
}
