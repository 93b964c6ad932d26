package state

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"carrierclass.net/ccnode/crdt"
	"carrierclass.net/ccnode/internal/site"
	"carrierclass.net/ccnode/internal/trust"
)

// Keep is how long deleted users and messages can be restored.
const Keep = 30 * 24 * time.Hour

// Run looks after what the state derives or owes itself: directory entries,
// wraps for newcomers, purges of what was deleted long ago. It says nothing
// when nothing is to be done, and it ends with ctx. Both nodes of a pair run
// it; the second waits, so that usually only the first writes: but a user that
// was disabled or deleted is closed in the directory at once, by either.
func (s *State) Run(ctx context.Context) error {
	s.care(ctx, true)
	wait := time.NewTimer(6 * time.Hour)
	defer wait.Stop()
	for {
		all := false
		select {
		case <-ctx.Done():
			return nil
		case <-s.stir:
			if !s.first() {
				if _, err := s.syncDirectory(ctx, s.closed()...); err != nil && ctx.Err() == nil {
					s.cfg.Log.Warn("The directory still shows users that were disabled; it is tried again", "err", err)
				}
				pause := time.NewTimer(10 * time.Second)
				select {
				case <-ctx.Done():
					pause.Stop()
					return nil
				case <-pause.C:
				}
			}
		case <-wait.C:
			wait.Reset(6 * time.Hour)
			all = true
		}
		s.care(ctx, all)
	}
}

// closed are the users that merges touched and that nobody may call or log in
// as any more.
func (s *State) closed() (out []site.RecordID) {
	s.dmu.Lock()
	dirty := slices.Collect(maps.Keys(s.dirty))
	s.dmu.Unlock()
	s.cfg.Engine.View(func(v View) {
		set := v.Set(s.scope)
		for _, u := range dirty {
			if r := (reader{set, TableUser, string(u[:])}); r.anyTrue(userDisabled) || r.anyTrue(userDeleted) {
				out = append(out, u)
			}
		}
	})
	return out
}

// care puts in order what merges touched, or everything.
func (s *State) care(ctx context.Context, all bool) {
	s.dmu.Lock()
	dirty := slices.Collect(maps.Keys(s.dirty))
	clear(s.dirty)
	s.dmu.Unlock()
	repair := func() (int, error) {
		n, err := s.syncDirectory(ctx, dirty...)
		wrapped, werr := s.careKeys(ctx)
		return n + wrapped, errors.Join(err, werr)
	}
	if all {
		repair = func() (int, error) { return s.Repair(ctx) }
	}
	if n, err := repair(); err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn("The state could not be put in order; it is tried again", "err", err)
		s.dmu.Lock()
		for _, u := range dirty {
			s.dirty[u] = true // with the next merge, or in six hours
		}
		s.dmu.Unlock()
	} else if n > 0 {
		s.cfg.Log.Debug("The state was put in order", "writes", n)
	}
	if !all || !s.first() || s.cfg.Synced != nil && !s.cfg.Synced() {
		return // a clock that jumped a month ahead would empty the trash for good
	}
	if n, err := s.PurgeOld(ctx); err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn("Old deletions could not be purged", "err", err)
	} else if n > 0 {
		s.cfg.Log.Info("Old deletions were purged", "records", n)
	}
}

// first says whether this node is the first by id of those members of its site
// that can open the site's secrets: a newcomer waits for their care itself.
func (s *State) first() bool {
	for _, g := range s.cfg.Book.Members(s.cfg.Site) {
		switch id := g.Node(); {
		case id == s.node:
			return true
		case len(s.HeldBy(id)) > 0:
			return false
		}
	}
	return true
}

// Repair writes what others derive from our records and is not right: after a
// power cut between two scopes' changes, after a merge, after a box joined. It
// returns the number of writes; a second call at once returns 0.
func (s *State) Repair(ctx context.Context) (n int, err error) {
	s.mu.RLock()
	users := make([]site.RecordID, 0, len(s.ix.users))
	for id := range s.ix.users {
		users = append(users, id)
	}
	for _, t := range []uint16{TableGroup, TableMenu} {
		users = slices.AppendSeq(users, maps.Keys(s.ix.records[t]))
	}
	s.ix.each(func(e *Entry) { // entries of users that were purged, or lost with their last box
		if e.Home == s.cfg.Site && s.ix.users[e.User] == nil {
			users = append(users, e.User)
		}
	})
	s.mu.RUnlock()
	n, err = s.syncDirectory(ctx, users...)
	wrapped, werr := s.careKeys(ctx)
	return n + wrapped, errors.Join(err, werr)
}

// careKeys gives a new key where the one in use was stolen, and every key to
// who is to have it.
func (s *State) careKeys(ctx context.Context) (n int, err error) {
	drawn, err := s.replaceKey(ctx)
	if drawn {
		n++
	}
	wrapped, werr := s.WrapKeys(ctx)
	return n + wrapped, errors.Join(err, werr)
}

// PurgeOld removes for good what was deleted longer ago than Keep.
func (s *State) PurgeOld(ctx context.Context) (n int, err error) {
	limit := s.cfg.Now().Add(-Keep)
	var users, messages []site.RecordID
	s.mu.RLock()
	for id, u := range s.ix.users {
		if u.Deleted && u.DeletedAt.Before(limit) {
			users = append(users, id)
		}
	}
	for id, m := range s.ix.messages {
		if m.Folder == site.Trash {
			messages = append(messages, id)
		}
	}
	s.mu.RUnlock()
	for _, id := range users {
		if err := s.Purge(ctx, "system", id); err != nil {
			return n, err
		}
		n++
	}
	for _, id := range messages {
		var since time.Time
		s.cfg.Engine.View(func(v View) {
			f, _ := crdt.Kept(reader{v.Set(s.scope), TableMessage, string(id[:])}.versions(msgFolder), []byte(site.Trash))
			since = time.UnixMilli(f.Stamp.Millis())
		})
		if since.Before(limit) {
			if err := s.purge(ctx, "system", s.scope, TableMessage, string(id[:])); err != nil {
				return n, err
			}
			n++
		}
	}
	return n, nil
}

// purge writes a record's final, unless it has one.
func (s *State) purge(ctx context.Context, by string, scope crdt.Scope, table uint16, rec string) error {
	ref, _ := byRef(by)
	done := errors.New("purged before")
	_, err := s.commit(ctx, Mutation{Scope: scope, By: ref, Writes: []crdt.Write{{Table: table, Record: rec, Value: []byte{}, Flags: crdt.Final}},
		Precondition: func(v View) error {
			if _, ok := v.Set(scope).Final(table, rec); ok {
				return done
			}
			return nil
		}})
	if errors.Is(err, done) {
		return nil
	}
	return err
}

// Purge removes a deleted user of this site for good: its record, devices,
// messages and directory entry. It is never undone.
func (s *State) Purge(ctx context.Context, by string, id site.RecordID) error {
	s.mu.RLock()
	u := s.ix.users[id]
	devices := slices.Clone(s.ix.phones[id])
	var messages []site.RecordID
	for m := range s.ix.boxes[id] {
		messages = append(messages, m)
	}
	s.mu.RUnlock()
	switch {
	case u == nil:
		return fmt.Errorf("purge user %s: %w at this site", id, ErrNotFound)
	case !u.Deleted:
		return fmt.Errorf("purge user %s: %w: delete it first", id, ErrState)
	}
	// The user's own final comes last: until then a crash leaves a deleted user
	// whose purge is simply tried again.
	err := s.purge(ctx, by, crdt.Fleet, TableDirectory, trust.SiteRecord(s.cfg.Site, id))
	if _, roams := s.Roaming(id); err == nil && roams {
		err = s.purge(ctx, by, crdt.Fleet, TableRoam, trust.SiteRecord(s.cfg.Site, id))
	}
	for _, d := range devices {
		if err == nil {
			err = s.purge(ctx, by, s.scope, TableDevice, string(d[:]))
		}
	}
	for _, m := range messages {
		if err == nil {
			err = s.purge(ctx, by, s.scope, TableMessage, string(m[:]))
		}
	}
	if err == nil {
		err = s.purge(ctx, by, s.scope, TableUser, string(id[:]))
	}
	if err != nil {
		return fmt.Errorf("purge user %s: %w", id, err)
	}
	return nil
}
